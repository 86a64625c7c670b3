//! An artifact: where the WebAssembly bytes are, and what they must be.
//!
//! Must not: fetch, compile or judge one; `artifacts` and `execute` do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The SHA-256 of an artifact. As text: 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// A digest, or a code of that length, by its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is not a SHA-256: give 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(fault());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| fault())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| fault())?;
        }
        Ok(Self(digest))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the WebAssembly bytes are, and what they must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `kafka:TOPIC/PARTITION/FIRST-LAST` for the records of a topic that hold it (see [`Chunks`]); `file:///absolute/path`; `store:`
    /// for the artifact directory, where the file is named by its digest, or `store:TENANT` for that tenant's folder in it.
    pub uri: String,
    /// The digest that the bytes must have.
    pub sha256: Sha256,
}

impl Artifact {
    /// The scheme of the artifact directory.
    pub const STORE: &str = "store:";

    /// The tenant whose folder it is in; None where it is in no tenant's.
    pub fn folder(&self) -> Option<&str> {
        self.uri.strip_prefix(Self::STORE).filter(|folder| !folder.is_empty())
    }

    /// The topic that it is in; None where it is in none. Whether the rest of the address can be used is not asked.
    pub fn topic(&self) -> Option<&str> {
        self.uri.strip_prefix(Chunks::SCHEME).map(|rest| rest.split_once('/').map_or(rest, |(topic, _)| topic))
    }

    /// Whether a tenant's folder can have that name: 1 to 64 of a-z A-Z 0-9 . _ -, starting with a letter or digit.
    pub fn is_folder(tenant: &str) -> bool {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        tenant.len() <= 64 && tenant.starts_with(|c: char| c.is_ascii_alphanumeric()) && tenant.chars().all(legal)
    }

    /// What its machine code is kept under. The same bytes in another tenant's folder, or in another topic, are another artifact: who
    /// knows a digest alone has not got what it stands for.
    pub fn code_key(&self) -> Sha256 {
        match (self.folder(), self.topic()) {
            (None, None) => self.sha256,
            (Some(folder), _) => Sha256::of(format!("{folder} {}", self.sha256).as_bytes()),
            // No folder has a colon in its name.
            (None, Some(topic)) => Sha256::of(format!("{}{topic} {}", Chunks::SCHEME, self.sha256).as_bytes()),
        }
    }
}

/// The records of one partition among which the chunks of an artifact are: those from `first` to `last`, both inclusive and both its
/// own. Records of others may lie between them. As text: `kafka:TOPIC/PARTITION/FIRST-LAST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the first chunk.
    pub first: i64,
    /// The offset of the last chunk.
    pub last: i64,
}

impl Chunks {
    /// What such an address begins with.
    pub const SCHEME: &str = "kafka:";
    /// Most records from the first to the last (inclusive).
    pub const SPAN_MAX: i64 = 4_096;
}

impl fmt::Display for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, first, last } = self;
        write!(f, "{}{topic}/{partition}/{first}-{last}", Self::SCHEME)
    }
}

impl FromStr for Chunks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (topic, rest) = text.strip_prefix(Self::SCHEME)?.split_once('/')?;
            let (partition, rest) = rest.split_once('/')?;
            let (first, last) = rest.split_once('-')?;
            let chunks = Self {
                topic: topic.to_owned(),
                partition: partition.parse().ok()?,
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            };
            // One address, one text: "+1" and "01" are numbers too.
            let in_order = chunks.partition >= 0 && chunks.first >= 0 && chunks.last >= chunks.first;
            (in_order && !topic.is_empty() && chunks.to_string() == text).then_some(chunks)
        };
        let chunks = parse().ok_or_else(|| format!("{text:?} is no kafka:TOPIC/PARTITION/FIRST-LAST"))?;
        if chunks.last - chunks.first >= Self::SPAN_MAX {
            return Err(format!("{text:?} spans more than {} records", Self::SPAN_MAX));
        }
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_topic_has_one_text_and_a_bounded_span() {
        let chunks: Chunks = "kafka:artifacts/0/5-9".parse().unwrap();
        assert_eq!(chunks, Chunks { topic: "artifacts".to_owned(), partition: 0, first: 5, last: 9 });
        assert_eq!(chunks.to_string(), "kafka:artifacts/0/5-9");
        let last = Chunks::SPAN_MAX - 1;
        assert!(format!("kafka:a/0/0-{last}").parse::<Chunks>().is_ok());
        for bad in [
            format!("kafka:a/0/0-{}", last + 1),
            format!("kafka:a/0/0-{}", i64::MAX),
            "kafka:a/0/9-5".to_owned(),
            "kafka:a/0/-5-5".to_owned(),
            "kafka:a/-1/5-5".to_owned(),
            "kafka:a/0/05-5".to_owned(),
            "kafka:a/0/+5-5".to_owned(),
            "kafka:/0/5-5".to_owned(),
            "kafka:a/0/5".to_owned(),
            "kafka:a".to_owned(),
            "store:".to_owned(),
        ] {
            assert!(bad.parse::<Chunks>().is_err(), "{bad}");
        }
    }

    #[test]
    fn code_is_kept_by_where_the_artifact_is() {
        let key = |uri: &str| Artifact { uri: uri.to_owned(), sha256: Sha256([7; 32]) }.code_key();
        assert_eq!(key("store:"), Sha256([7; 32]));
        assert_eq!(key("kafka:a/0/1-2"), key("kafka:a/0/5-6"));
        let keys = ["store:", "store:a", "kafka:a/0/1-2", "kafka:b/0/1-2"].map(key);
        assert_eq!(std::collections::BTreeSet::from(keys).len(), 4);
    }
}
