//! Takes artifacts out of the directory store that no definition names: when somebody asks for it, and never by itself.
//!
//! The directory is where an artifact was put for good: nothing else that is known here has its bytes. So there is no bound at
//! which some would have to go. Must not: judge which artifacts are needed; the caller has read every definition.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::DirectoryStore;
use super::leftovers::is_older;
use crate::types::Sha256;

/// The least age at which an artifact may be taken out (inclusive): one that was just put in has no definition yet.
pub const PRUNE_AFTER_MIN: Duration = Duration::from_hours(1);

/// An artifact that no definition names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Its digest.
    pub sha256: Sha256,
    /// Its length.
    pub bytes: u64,
}

impl DirectoryStore {
    /// The artifacts in the directory that are not among `named` and were last put in `age` ago or longer (at least
    /// [`PRUNE_AFTER_MIN`]); in their digests' order. With `remove` they are taken out. Files that are no artifacts stay.
    ///
    /// # Errors
    /// Where the directory cannot be read, or one of them cannot be removed; others may have been by then.
    pub fn prune(&self, named: &BTreeSet<Sha256>, age: Duration, remove: bool) -> io::Result<Vec<Pruned>> {
        let (now, age) = (SystemTime::now(), age.max(PRUNE_AFTER_MIN));
        let mut pruned = Vec::new();
        let entries = match fs::read_dir(self.directory()) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(pruned),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(sha256) = entry.file_name().to_str().and_then(Self::digest_of) else { continue };
            // Looked at just before it goes: one that was put in again meanwhile is young.
            let found = entry.metadata()?;
            if found.is_file() && !named.contains(&sha256) && is_older(found.modified()?, now, age) {
                if remove {
                    fs::remove_file(entry.path())?;
                }
                pruned.push(Pruned { sha256, bytes: found.len() });
            }
        }
        pruned.sort_unstable_by_key(|pruned| pruned.sha256);
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::path::Path;

    use super::*;
    use crate::artifacts::ArtifactStore;
    use crate::config;

    fn set_age(path: &Path, age: Duration) {
        let time = SystemTime::now() - age;
        fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_is_old_and_named_by_nobody_goes_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let config = config::Artifacts {
            store: config::Store::Directory,
            directory: directory.path().join("artifacts"),
            bytes_max: NonZeroU64::new(100).unwrap(),
            file_roots: Vec::new(),
            read_timeout: Duration::from_secs(30),
        };
        let store = DirectoryStore::open(&config);
        let day = Duration::from_hours(24);
        assert_eq!(store.prune(&BTreeSet::new(), day, true).unwrap(), [], "there is no directory yet");
        let [named, old, again, young] =
            [b"named", b"older", b"again", b"young"].map(|bytes| store.put(bytes).unwrap());
        let path = |sha256: Sha256| config.directory.join(format!("{sha256}.wasm"));
        for artifact in [&named, &old, &again] {
            set_age(&path(artifact.sha256), 2 * day);
        }
        let other = config.directory.join("notes.wasm");
        fs::write(&other, b"").unwrap();
        set_age(&other, 2 * day);
        // Deployed a second time: from then on it is young.
        store.put(b"again").unwrap();
        let wanted = BTreeSet::from([named.sha256]);
        let goes = [Pruned { sha256: old.sha256, bytes: 5 }];
        assert_eq!(store.prune(&wanted, day, false).unwrap(), goes);
        assert!(path(old.sha256).exists(), "it was only asked for");
        assert_eq!(store.prune(&wanted, day, true).unwrap(), goes);
        assert!(!path(old.sha256).exists() && other.exists());
        assert!([&named, &again, &young].map(|artifact| store.fetch(artifact).is_ok()) == [true; 3]);
        // However short the age that is asked for.
        set_age(&path(young.sha256), PRUNE_AFTER_MIN - Duration::from_secs(60));
        assert_eq!(store.prune(&BTreeSet::new(), Duration::ZERO, false).unwrap().len(), 1, "the named one alone");
    }
}
