//! An artifact in pieces: how a chunk is keyed, and how chunks become an artifact again.
//!
//! A record's key is `DIGEST/UPLOAD/NUMBER`: the artifact's digest, a name that no other upload has, and the chunk's place from 0 on. So
//! no key is written twice, and compaction takes nothing but what a tombstone names. Pure. Must not: read a topic, or check the digest.

use uuid::Uuid;

use crate::types::{Chunks, Sha256};

/// Bytes of a chunk (inclusive): with its key and headers below the brokers' and librdkafka's usual 1 MB for a message.
pub(super) const CHUNK_BYTES: usize = 768 << 10;

/// One upload of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Upload {
    pub(super) sha256: Sha256,
    pub(super) id: Uuid,
}

impl Upload {
    /// A new one.
    pub(super) fn of(sha256: Sha256) -> Self {
        Self { sha256, id: Uuid::now_v7() }
    }

    /// The key of its chunk `number`.
    pub(super) fn key(&self, number: u32) -> String {
        format!("{}/{}/{number}", self.sha256, self.id)
    }

    /// The upload and the number that a key names; None where it is no key of a chunk.
    pub(super) fn of_key(key: &[u8]) -> Option<(Self, u32)> {
        let text = std::str::from_utf8(key).ok()?;
        let (sha256, rest) = text.split_once('/')?;
        let (id, number) = rest.split_once('/')?;
        let (upload, number) = (Self { sha256: sha256.parse().ok()?, id: id.parse().ok()? }, number.parse().ok()?);
        // One chunk, one key: other spellings are strangers.
        (upload.key(number) == text).then_some((upload, number))
    }
}

/// Why records do not come to an artifact. None of them passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A chunk is not where it should be: it was removed, or its record is another one.
    #[error("chunk {0} of the artifact is not there: it was removed, or its address is wrong")]
    Missing(u32),
    /// The record at the first, or the last, offset is no chunk of the artifact.
    #[error("the record at offset {0} is no chunk of the artifact")]
    Stranger(i64),
    /// There are more bytes than an artifact may have.
    #[error("the chunks have more bytes than an artifact may have")]
    TooLarge,
}

/// Chunks as they come, in the order of their offsets.
#[derive(Debug)]
pub(super) struct Assembly {
    sha256: Sha256,
    first: i64,
    last: i64,
    bytes_max: u64,
    upload: Option<Upload>,
    next: u32,
    bytes: Vec<u8>,
}

impl Assembly {
    pub(super) fn new(chunks: &Chunks, sha256: Sha256, bytes_max: u64) -> Self {
        let Chunks { first, last, .. } = *chunks;
        Self { sha256, first, last, bytes_max, upload: None, next: 0, bytes: Vec::new() }
    }

    /// Takes the next record of the partition, from the first offset on; answers whether it was the last one that is needed.
    pub(super) fn take(&mut self, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, ChunkError> {
        if offset > self.last || (self.upload.is_none() && offset > self.first) {
            return Err(ChunkError::Missing(self.next));
        }
        let named = key.and_then(Upload::of_key);
        let upload = match self.upload {
            Some(upload) => upload,
            None => match named {
                Some((upload, 0)) if upload.sha256 == self.sha256 => *self.upload.insert(upload),
                _ => return Err(ChunkError::Stranger(offset)),
            },
        };
        match (named, value) {
            (Some((named, number)), Some(value)) if named == upload && number == self.next => {
                if (self.bytes.len() + value.len()) as u64 > self.bytes_max {
                    return Err(ChunkError::TooLarge);
                }
                self.bytes.extend_from_slice(value);
                self.next += 1;
            }
            // Chunks come in order: one of them is skipped, or was removed.
            (Some((named, number)), _) if named == upload && number >= self.next => {
                return Err(ChunkError::Missing(self.next));
            }
            // One that came a second time.
            (Some((named, _)), _) if named == upload => {}
            _ if offset == self.last => return Err(ChunkError::Stranger(offset)),
            // Somebody else's upload at the same time.
            _ => {}
        }
        Ok(offset == self.last)
    }

    /// What is to be said where no more records come.
    pub(super) fn missing(&self) -> ChunkError {
        ChunkError::Missing(self.next)
    }

    /// The artifact, as far as it was read.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: u64 = 10;

    fn sha256(byte: u8) -> Sha256 {
        Sha256([byte; 32])
    }

    fn upload(byte: u8) -> Upload {
        Upload { sha256: sha256(byte), id: Uuid::from_u128(byte.into()) }
    }

    /// Records by offset, as (offset, upload, number, value), from 5 to 9 or as far as they are needed.
    fn assembled(records: &[(i64, Upload, u32, Option<&str>)]) -> Result<Option<String>, ChunkError> {
        let chunks = Chunks { topic: "a".to_owned(), partition: 0, first: 5, last: 9 };
        let mut assembly = Assembly::new(&chunks, sha256(1), BYTES_MAX);
        for (offset, upload, number, value) in records {
            if assembly.take(*offset, Some(upload.key(*number).as_bytes()), value.map(str::as_bytes))? {
                return Ok(Some(String::from_utf8(assembly.into_bytes()).unwrap()));
            }
        }
        Ok(None)
    }

    #[test]
    fn chunks_come_to_an_artifact_with_others_between_them() {
        let (ours, other) = (upload(1), Upload { id: Uuid::from_u128(9), ..upload(1) });
        let whole = assembled(&[(5, ours, 0, Some("ab")), (6, ours, 1, Some("cd")), (9, ours, 2, Some("e"))]);
        assert_eq!(whole, Ok(Some("abcde".to_owned())), "offsets 7 and 8 may be markers");
        let between = [
            (5, ours, 0, Some("ab")),
            (6, upload(2), 1, Some("xx")),
            (7, other, 1, Some("yy")),
            (8, ours, 0, Some("ab")),
            (9, ours, 1, Some("c")),
        ];
        assert_eq!(assembled(&between), Ok(Some("abc".to_owned())));
        assert_eq!(assembled(&between[..3]), Ok(None), "not all of it was read");
    }

    #[test]
    fn what_is_missing_or_strange_is_named() {
        let ours = upload(1);
        let first = (5, ours, 0, Some("a"));
        let missing = |number| Err(ChunkError::Missing(number));
        assert_eq!(assembled(&[(6, ours, 0, Some("a"))]), missing(0), "the first was removed");
        assert_eq!(assembled(&[first, (9, ours, 2, Some("c"))]), missing(1), "one between");
        assert_eq!(assembled(&[first, (10, ours, 1, Some("b"))]), missing(1), "the last was removed");
        assert_eq!(assembled(&[first, (7, ours, 1, None), (9, ours, 2, Some("c"))]), missing(1), "a tombstone");
        let stranger = |offset| Err(ChunkError::Stranger(offset));
        assert_eq!(assembled(&[(5, upload(2), 0, Some("a"))]), stranger(5), "of another artifact");
        assert_eq!(assembled(&[(5, ours, 1, Some("a"))]), stranger(5), "not its first");
        assert_eq!(assembled(&[first, (9, upload(2), 1, Some("b"))]), stranger(9));
        let large = "x".repeat(6);
        assert_eq!(
            assembled(&[(5, ours, 0, Some(large.as_str())), (6, ours, 1, Some(large.as_str()))]),
            Err(ChunkError::TooLarge),
            "the bound holds for all chunks together"
        );
        assert_eq!(assembled(&[(5, ours, 0, Some(large.as_str())), (6, upload(2), 1, Some(large.as_str()))]), Ok(None));
    }

    #[test]
    fn a_key_is_one_text() {
        let ours = upload(1);
        assert_eq!(Upload::of_key(ours.key(7).as_bytes()), Some((ours, 7)));
        let (digest, id) = (ours.sha256.to_string(), ours.id.to_string());
        for stranger in [
            format!("{}/{id}/7", digest.to_uppercase()),
            format!("{digest}/{}/7", id.replace('-', "")),
            format!("{digest}/{id}/07"),
            format!("{digest}/{id}/-1"),
            format!("{digest}/{id}"),
            "echo".to_owned(),
        ] {
            let is_stranger = Upload::of_key(stranger.as_bytes()).is_none();
            assert!(is_stranger || stranger == ours.key(7), "{stranger}");
        }
        assert!(Upload::of_key(b"\xff").is_none());
    }
}
