//! The node's key, by which it knows machine code that it kept itself.
//!
//! The digest of a file says that it is whole; the code by this key (HMAC with SHA-256, RFC 2104) says that a node with this
//! folder made it. The key lies in the folder, for this user alone. Must not: leave the folder, or be logged.

use std::io::{self, Read};

use hmac::{Hmac, Mac};

use super::folder::{Folder, FolderError};
use crate::types::Sha256;

/// The key's file.
const NAME: &str = "node.key";
const KEY_BYTES: usize = 32;

/// See the head of this file.
pub(super) struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of a folder; it is made where there is none.
    ///
    /// # Errors
    /// Where it is not believed, or can be neither read nor made.
    pub(super) fn of(folder: &Folder) -> Result<Self, FolderError> {
        let at = |source| FolderError::Io { path: folder.path().join(NAME), source };
        match Self::read(folder) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                Self::make(folder).map_err(at)?;
                // Another process may have been quicker: then it is that one's.
                Self::read(folder).map_err(at)
            }
            read => read.map_err(at),
        }
    }

    fn read(folder: &Folder) -> io::Result<Self> {
        let (file, distrust) = folder.read(NAME)?;
        if let Some(distrust) = distrust {
            return Err(io::Error::other(format!("the node's key is not believed: {distrust}")));
        }
        let mut key = Vec::new();
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key)?;
        let key = <[u8; KEY_BYTES]>::try_from(key);
        key.map(Self).map_err(|_| io::Error::other(format!("the node's key is not {KEY_BYTES} bytes long; remove it")))
    }

    fn make(folder: &Folder) -> io::Result<()> {
        let mut key = [0; KEY_BYTES];
        // So few bytes come whole, once the kernel has any.
        let got = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
        if got < KEY_BYTES {
            return Err(io::Error::other("the kernel gives no random bytes"));
        }
        match folder.write_new(NAME, &key) {
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }

    /// The code of some parts, in their order, each with its length.
    pub(super) fn code_of(&self, parts: &[&[u8]]) -> Sha256 {
        Sha256::from_bytes(self.mac(parts).finalize().into_bytes().into())
    }

    /// Whether `code` is that of these parts; takes as long where it is not.
    pub(super) fn verifies(&self, parts: &[&[u8]], code: Sha256) -> bool {
        self.mac(parts).verify_slice(code.as_bytes()).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<sha2::Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::new_from_slice(&self.0).expect("a key of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_this_user_alone_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        let code = Key::of(&folder).unwrap().code_of(&[b"a", b"b"]);
        assert_eq!(fs::metadata(directory.path().join(NAME)).unwrap().permissions().mode() & 0o7777, 0o600);
        let again = Key::of(&folder).unwrap();
        assert!(again.verifies(&[b"a", b"b"], code));
        assert!(!again.verifies(&[b"ab", b""], code), "parts are told apart");
        fs::remove_file(directory.path().join(NAME)).unwrap();
        assert!(!Key::of(&folder).unwrap().verifies(&[b"a", b"b"], code), "another key");
    }

    #[test]
    fn a_key_that_others_may_write_or_that_is_cut_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        Key::of(&folder).unwrap();
        let path = directory.path().join(NAME);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(Key::of(&folder).unwrap_err().to_string().contains("not believed"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(Key::of(&folder).unwrap_err().to_string().contains("32 bytes"));
    }
}
