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
    /// `file:///absolute/path`, or `store:` for the artifact directory, where the file is named by its digest, or
    /// `store:TENANT` for that tenant's folder in it.
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

    /// Whether a tenant's folder can have that name: 1 to 64 of a-z A-Z 0-9 . _ -, starting with a letter or digit.
    pub fn is_folder(tenant: &str) -> bool {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        tenant.len() <= 64 && tenant.starts_with(|c: char| c.is_ascii_alphanumeric()) && tenant.chars().all(legal)
    }

    /// What its machine code is kept under. The same bytes in another tenant's folder are another artifact: who knows a digest
    /// alone has not got what it stands for.
    pub fn code_key(&self) -> Sha256 {
        match self.folder() {
            None => self.sha256,
            Some(folder) => Sha256::of(format!("{folder} {}", self.sha256).as_bytes()),
        }
    }
}
