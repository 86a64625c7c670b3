//! The wire formats, told apart by their first bytes.
//!
//! Must not: look into the datum.

use super::EventKind;
use super::error::{DecodeError, cut};

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFormat {
    /// Avro single-object encoding: `c3 01`, the schema's CRC-64-AVRO in 8 bytes little-endian, the datum.
    SingleObject,
    /// Confluent framing: `00`, the schema's id in 4 bytes big-endian, the datum.
    Confluent {
        /// The id under which the registry has the current schema of the event's kind.
        schema_id: u32,
    },
    /// JSON of the same shape; the message needs the header `content-type: application/json`.
    Json,
}

/// The marker of single-object encoding, version 1.
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
/// The "magic byte" of Confluent framing.
pub(super) const CONFLUENT: u8 = 0;

/// Bytes of a single-object header.
pub(super) const SINGLE_OBJECT_LEN: usize = 10;
/// Bytes of a Confluent header.
pub(super) const CONFLUENT_LEN: usize = 5;

/// A message's value, taken out of its framing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'b> {
    SingleObject { fingerprint: u64, datum: &'b [u8] },
    Confluent { schema_id: u32, datum: &'b [u8] },
    Json(&'b [u8]),
}

impl<'b> Frame<'b> {
    /// Avro's markers come first: no JSON text begins with either, so a wrong content-type does no harm to them.
    pub(super) fn of(kind: EventKind, bytes: &'b [u8], content_type: Option<&str>) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty { kind });
        }
        if bytes.starts_with(&SINGLE_OBJECT) {
            let Some((header, datum)) = bytes[2..].split_first_chunk::<8>() else {
                let format = "Avro single-object encoding";
                return Err(DecodeError::Truncated { kind, format, needed: SINGLE_OBJECT_LEN, found: bytes.len() });
            };
            return Ok(Self::SingleObject { fingerprint: u64::from_le_bytes(*header), datum });
        }
        if bytes[0] == CONFLUENT {
            let Some((header, datum)) = bytes[1..].split_first_chunk::<4>() else {
                let format = "Confluent framing";
                return Err(DecodeError::Truncated { kind, format, needed: CONFLUENT_LEN, found: bytes.len() });
            };
            return Ok(Self::Confluent { schema_id: u32::from_be_bytes(*header), datum });
        }
        if content_type.is_some_and(is_json) {
            return Ok(Self::Json(bytes));
        }
        Err(DecodeError::UnknownFormat {
            kind,
            begins: bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
            content_type: content_type.map_or_else(|| "absent".to_owned(), |header| cut(format!("{header:?}"))),
        })
    }
}

/// Whether a content-type header says `application/json`, in any case and with any parameters.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: EventKind = EventKind::Invocation;

    #[test]
    fn formats_are_told_apart_by_their_first_bytes() {
        let single = [0xc3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let expected = Frame::SingleObject { fingerprint: 0x0807_0605_0403_0201, datum: &[9] };
        assert_eq!(Frame::of(KIND, &single, None), Ok(expected));
        let confluent = [0, 0, 0, 1, 2, 9];
        assert_eq!(Frame::of(KIND, &confluent, None), Ok(Frame::Confluent { schema_id: 258, datum: &[9] }));
        for json in ["application/json", "Application/JSON; charset=utf-8", " application/json ;x"] {
            assert_eq!(Frame::of(KIND, b"{}", Some(json)), Ok(Frame::Json(b"{}")), "{json}");
            assert_eq!(Frame::of(KIND, &confluent, Some(json)).unwrap(), Frame::of(KIND, &confluent, None).unwrap());
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_was_seen() {
        assert_eq!(Frame::of(KIND, &[], None), Err(DecodeError::Empty { kind: KIND }));
        for json in [None, Some("application/jsonp"), Some("text/plain")] {
            assert_eq!(Frame::of(KIND, b"{}", json).unwrap_err().reason(), "unknown_format");
        }
        assert_eq!(Frame::of(KIND, &[0xc3, 1, 0, 0, 0, 0, 0, 0, 0], None).unwrap_err().reason(), "truncated");
        assert_eq!(Frame::of(KIND, &[0, 0, 0, 1], None).unwrap_err().reason(), "truncated");
        let text = Frame::of(KIND, b"{\"id\": 1, \"x\": 2}", None).unwrap_err().to_string();
        assert!(text.contains("7b 22 69 64 22 3a 20 31 and its content-type is absent"), "{text}");
        let long = "x".repeat(10_000);
        assert!(Frame::of(KIND, b"{}", Some(&long)).unwrap_err().to_string().len() < 1_000);
    }
}
