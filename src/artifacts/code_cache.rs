//! Machine code on disk, by the artifact's digest and the engine that made it.
//!
//! Loading machine code is trusting it, so each file's name carries the digest of its own content, and a file is handed out
//! only after that was checked. The directory is for this user alone. A cache that cannot be used (missing, read-only, full)
//! is no fault: everything works without it, and that is said once.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::store::write_whole;
use crate::types::Sha256;

const EXTENSION: &str = "cwasm";

/// See the head of this file.
#[derive(Debug)]
pub struct CodeCache {
    directory: Option<PathBuf>,
    bytes_max: u64,
    complained: AtomicBool,
}

impl CodeCache {
    /// A cache in `directory` of at most `bytes_max` bytes; the directory is made where it is missing.
    pub fn open(directory: &Path, bytes_max: u64) -> Self {
        let made = fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)));
        let cache = Self { directory: Some(directory.to_owned()), bytes_max, complained: AtomicBool::new(false) };
        match made {
            Ok(()) => cache,
            Err(fault) => {
                cache.complain(directory, &fault);
                Self { directory: None, ..cache }
            }
        }
    }

    /// The checked file with the code of `artifact` for the engine with this hash.
    pub fn path(&self, artifact: Sha256, engine_hash: u64) -> Option<PathBuf> {
        let directory = self.directory.as_deref()?;
        let prefix = prefix(artifact, engine_hash);
        let (path, digest) = entries(directory).into_iter().find_map(|path| {
            let digest = path.file_stem()?.to_str()?.strip_prefix(&prefix)?.parse::<Sha256>().ok()?;
            Some((path, digest))
        })?;
        let intact = fs::read(&path).is_ok_and(|bytes| Sha256::of(&bytes) == digest);
        if !intact {
            tracing::warn!(path = %path.display(), "cached code is damaged; it is made anew");
            // Where it cannot be removed, it is found damaged again.
            let _ = fs::remove_file(&path);
            return None;
        }
        // Its time says when it was last used; where that cannot be set it goes a little earlier.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(path)
    }

    /// Keeps code; answers the file, or `None` where it cannot be kept.
    pub fn store(&self, artifact: Sha256, engine_hash: u64, code: &[u8]) -> Option<PathBuf> {
        let directory = self.directory.as_deref()?;
        if code.len() as u64 > self.bytes_max {
            return None;
        }
        let name = format!("{}{}.{EXTENSION}", prefix(artifact, engine_hash), Sha256::of(code));
        let path = directory.join(name);
        let kept =
            make_room(directory, self.bytes_max - code.len() as u64).and_then(|()| write_whole(directory, &path, code));
        match kept {
            Ok(()) => Some(path),
            Err(fault) => {
                self.complain(directory, &fault);
                None
            }
        }
    }

    fn complain(&self, directory: &Path, fault: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                directory = %directory.display(), %fault,
                "machine code is not kept: every start compiles anew; check execute.cache-directory"
            );
        }
    }
}

fn prefix(artifact: Sha256, engine_hash: u64) -> String {
    format!("{artifact}-{engine_hash:016x}-")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)).collect()
}

/// Removes the least recently used files until the rest takes at most `bytes`.
fn make_room(directory: &Path, bytes: u64) -> io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries(directory)
        .into_iter()
        .filter_map(|path| {
            let found = path.metadata().ok()?;
            Some((found.modified().ok()?, found.len(), path))
        })
        .collect();
    files.sort_unstable();
    let mut sum: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if sum <= bytes {
            break;
        }
        fs::remove_file(&path)?;
        sum -= len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 3] = [1, 2, 3];

    #[test]
    fn code_is_found_for_its_engine_only() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(directory.path(), 100);
        let artifact = Sha256::of(b"wasm");
        assert_eq!(cache.path(artifact, 1), None);
        let path = cache.store(artifact, 1, &A).unwrap();
        assert_eq!(cache.path(artifact, 1), Some(path));
        assert_eq!(cache.path(artifact, 2), None);
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn damaged_code_is_never_handed_out() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(directory.path(), 100);
        let artifact = Sha256::of(b"wasm");
        let path = cache.store(artifact, 1, &A).unwrap();
        fs::write(&path, [1, 2, 4]).unwrap();
        assert_eq!(cache.path(artifact, 1), None);
        assert!(!path.exists());
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(directory.path(), 8);
        let [old, used, new] = [b"a", b"b", b"c"].map(|bytes| Sha256::of(bytes));
        for (seconds, artifact) in [(1, old), (2, used)] {
            let path = cache.store(artifact, 1, &A).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
        }
        assert!(cache.store(new, 1, &A).is_some());
        assert!(cache.path(old, 1).is_none());
        assert!(cache.path(used, 1).is_some() && cache.path(new, 1).is_some());
        assert!(cache.store(old, 1, &[0; 9]).is_none(), "larger than the whole cache");
    }

    #[test]
    fn a_cache_that_cannot_be_is_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let cache = CodeCache::open(&file, 100);
        assert_eq!(cache.store(Sha256::of(b"wasm"), 1, &A), None);
        assert_eq!(cache.path(Sha256::of(b"wasm"), 1), None);
    }
}
