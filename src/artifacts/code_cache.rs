//! Machine code on disk, by the artifact's digest and the engine that made it.
//!
//! Loading machine code is trusting it. So each file's name carries the code of its content by the node's own key (`key`), only
//! files that nobody but this user and root may write are read (`trust` has the rule), and what was checked is handed out open,
//! never by its path. Beside code there are refusals: short words on why an artifact cannot be compiled, by the same key.
//! A cache that is filled and read-only serves as it is. One that cannot be written (full, read-only, not believed) is no
//! fault: everything works without it; that is said once, and so is its end.
//!
//! Bounds: at most `bytes_max` bytes, files that are not whole yet among them. What has to go for that, or because the disk is
//! full, goes in this order: what a killed process left half written, code of other engines, the least recently used.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::folder::{Entry, Folder, FolderError};
use super::key::Key;
use super::leftovers::{self, LEFT_OVER_AFTER};
use crate::types::Sha256;

const EXTENSION: &str = ".cwasm";
/// The extension of refusals; at most so many are kept, of at most so many bytes each.
const REFUSED: &str = ".refused";
const REFUSALS_MAX: usize = 1_000;
const REFUSAL_BYTES_MAX: u64 = 4 << 10;
/// A file takes whole blocks of this many bytes, as a rule, and its name some more.
const BLOCK: u64 = 4_096;

/// See the head of this file.
#[derive(Debug)]
pub struct CodeCache {
    directory: PathBuf,
    bytes_max: u64,
    /// `None` where it could not be opened.
    open: Mutex<Option<Arc<Open>>>,
    /// It was said that code is not kept, and not yet that it is again.
    complained: AtomicBool,
}

/// The folder, with its key.
#[derive(Debug)]
struct Open {
    folder: Folder,
    key: Key,
}

/// A file of machine code that was checked.
#[derive(Debug)]
pub struct CodeFile {
    file: File,
    name: String,
}

impl CodeFile {
    /// Where this very file can be opened, for as long as this value lives, whatever stands under its name meanwhile.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// The file itself.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Its name in the cache.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl CodeCache {
    /// A cache in `directory` of at most `bytes_max` bytes. The directory is made where it is missing, and again where it is
    /// removed later; a filled one is only read. Files that a killed process left half written are removed.
    pub fn open(directory: &Path, bytes_max: u64) -> Self {
        let cache = Self {
            directory: directory.to_owned(),
            bytes_max,
            open: Mutex::default(),
            complained: AtomicBool::new(false),
        };
        if bytes_max > 0 {
            match cache.open_folder() {
                Ok(open) => sweep(&open.folder, SystemTime::now()),
                Err(fault) => cache.complain(&fault),
            }
        }
        cache
    }

    /// The checked code of `artifact` for the engine with this hash: its file and its bytes.
    pub fn find(&self, artifact: Sha256, engine_hash: u64) -> Option<(CodeFile, Vec<u8>)> {
        let open = self.opened()?;
        let prefix = prefix(artifact, engine_hash);
        let code = |name: &str| name.strip_prefix(&prefix)?.strip_suffix(EXTENSION)?.parse::<Sha256>().ok();
        let found = open.folder.names().into_iter().filter_map(|name| Some((code(&name)?, name)));
        found.filter_map(|(code, name)| check(&open, name, &prefix, code)).next()
    }

    /// What [`keep_refusal`](Self::keep_refusal) kept of `artifact` for the engine with this hash.
    pub fn refusal(&self, artifact: Sha256, engine_hash: u64) -> Option<String> {
        let (open, prefix) = (self.opened()?, prefix(artifact, engine_hash));
        let (file, distrust) = open.folder.read(&format!("{prefix}{REFUSED}")).ok()?;
        let mut kept = String::new();
        file.take(REFUSAL_BYTES_MAX).read_to_string(&mut kept).ok()?;
        let (code, words) = kept.split_once('\n')?;
        let is_ours = open.key.verifies(&[REFUSED.as_bytes(), prefix.as_bytes(), words.as_bytes()], code.parse().ok()?);
        (distrust.is_none() && is_ours).then(|| words.to_owned())
    }

    /// Keeps why `artifact` cannot be compiled, for later starts; where it cannot be kept, each of them finds out again. The
    /// oldest goes for a new one.
    pub fn keep_refusal(&self, artifact: Sha256, engine_hash: u64, words: &str) {
        let Some(open) = self.opened() else { return };
        let prefix = prefix(artifact, engine_hash);
        let code = open.key.code_of(&[REFUSED.as_bytes(), prefix.as_bytes(), words.as_bytes()]);
        let mut held = open.folder.entries(|name| name.ends_with(REFUSED));
        held.sort_unstable_by_key(|entry| entry.modified);
        let over = (held.len() + 1).saturating_sub(REFUSALS_MAX);
        let written = remove(&open.folder, &held[..over])
            .and_then(|()| open.folder.write(&format!("{prefix}{REFUSED}"), format!("{code}\n{words}").as_bytes()));
        if let Err(fault) = written {
            tracing::info!(%artifact, %fault, "that it cannot be compiled is not kept: the next start finds out again");
        }
    }

    /// Keeps code; answers its file, or `None` where it cannot be kept.
    pub fn store(&self, artifact: Sha256, engine_hash: u64, code: &[u8]) -> Option<CodeFile> {
        self.store_by(&Folder::write, artifact, engine_hash, code)
    }

    /// [`store`](Self::store) with the writing given from outside, so that a full disk can be played.
    fn store_by(&self, write: &Write, artifact: Sha256, engine_hash: u64, code: &[u8]) -> Option<CodeFile> {
        let bytes = code.len() as u64;
        if bytes > self.bytes_max {
            if self.bytes_max > 0 {
                tracing::info!(%artifact, bytes, "its machine code is not kept: execute.cache-bytes-max is less than it takes");
            }
            return None;
        }
        match self.keep(write, artifact, engine_hash, code) {
            Ok(kept) => {
                self.relent();
                Some(kept)
            }
            Err(fault) => {
                self.complain(&fault);
                None
            }
        }
    }

    fn keep(&self, write: &Write, artifact: Sha256, engine: u64, code: &[u8]) -> Result<CodeFile, FolderError> {
        let prefix = prefix(artifact, engine);
        let name_by = |key: &Key| format!("{prefix}{}{EXTENSION}", key.code_of(&[prefix.as_bytes(), code]));
        let write = |open: &Open| -> io::Result<CodeFile> {
            let name = name_by(&open.key);
            Ok(CodeFile { file: self.write(write, &open.folder, engine, &name, code)?, name })
        };
        let open = match self.opened() {
            Some(open) => open,
            None => self.open_folder()?,
        };
        match write(&open) {
            // The folder was removed: it is made again.
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                let open = self.open_folder()?;
                write(&open).map_err(|fault| at(&open.folder, fault))
            }
            other => other.map_err(|fault| at(&open.folder, fault)),
        }
    }

    /// Makes room within the bound and writes; on a full disk makes room there too, and tries once more.
    fn write(&self, write: &Write, folder: &Folder, engine: u64, name: &str, code: &[u8]) -> io::Result<File> {
        let (bytes, now) = (code.len() as u64, SystemTime::now());
        let kept = || folder.entries(|name| name.ends_with(EXTENSION) || leftovers::is_partial(name));
        let held = kept();
        let sum: u64 = held.iter().map(|entry| entry.bytes).sum();
        let over = (sum + bytes).saturating_sub(self.bytes_max);
        let go = victims(held, engine, now, over);
        if go.iter().map(|entry| entry.bytes).sum::<u64>() < over {
            return Err(io::Error::other("files that are being written take up execute.cache-bytes-max"));
        }
        remove(folder, &go)?;
        match write(folder, name, code) {
            Err(fault) if is_full(&fault) => {
                let victims = victims(kept(), engine, now, bytes.next_multiple_of(BLOCK) + BLOCK);
                if victims.is_empty() {
                    return Err(fault);
                }
                tracing::info!(directory = %folder.path().display(), files = victims.len(), "the disk is full: kept code makes room for new");
                remove(folder, &victims)?;
                write(folder, name, code)
            }
            other => other,
        }
    }

    fn opened(&self) -> Option<Arc<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open_folder(&self) -> Result<Arc<Open>, FolderError> {
        let opened = Folder::open(&self.directory).and_then(|folder| {
            let key = Key::of(&folder)?;
            Ok(Arc::new(Open { folder, key }))
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = opened.as_ref().ok().cloned();
        opened
    }

    fn complain(&self, fault: &FolderError) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                directory = %self.directory.display(), %fault,
                "machine code is not kept: every start compiles anew; check execute.cache-directory"
            );
        }
    }

    fn relent(&self) {
        if self.complained.swap(false, Ordering::Relaxed) {
            tracing::info!(directory = %self.directory.display(), "machine code is kept again");
        }
    }
}

type Write = dyn Fn(&Folder, &str, &[u8]) -> io::Result<File>;

fn prefix(artifact: Sha256, engine_hash: u64) -> String {
    format!("{artifact}-{engine_hash:016x}-")
}

/// Whether a file of that name is code of the engine with this hash.
fn is_of_engine(name: &str, engine_hash: u64) -> bool {
    name.split('-').nth(1) == Some(&format!("{engine_hash:016x}"))
}

fn at(folder: &Folder, source: io::Error) -> FolderError {
    FolderError::Io { path: folder.path().to_owned(), source }
}

fn is_full(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The file and its bytes, where their code is what the name says; removed where it is not.
fn check(open: &Open, name: String, prefix: &str, code: Sha256) -> Option<(CodeFile, Vec<u8>)> {
    let (mut file, distrust) = open.folder.read(&name).ok()?;
    let mut bytes = Vec::new();
    let fault = match distrust {
        Some(distrust) => distrust.to_string(),
        None => match file.read_to_end(&mut bytes) {
            // The machine may have no room for it now: that says nothing of the file.
            Err(_) => return None,
            Ok(_) if !open.key.verifies(&[prefix.as_bytes(), &bytes], code) => {
                "its content is not what this node's key and its name say".to_owned()
            }
            Ok(_) => {
                // Its time says when it was last used; where that cannot be set it goes a little earlier.
                let _ = file.set_modified(SystemTime::now());
                return Some((CodeFile { file, name }, bytes));
            }
        },
    };
    let path = open.folder.path().join(&name);
    tracing::warn!(path = %path.display(), fault, "cached code is not believed; it is made anew");
    // Where it cannot be removed, it is found not to be believed again.
    let _ = open.folder.remove(&name);
    None
}

/// Removes what a killed process left half written.
fn sweep(folder: &Folder, now: SystemTime) {
    let entries = folder.entries(leftovers::is_partial).into_iter();
    let left_over = entries.filter(|entry| leftovers::is_older(entry.modified, now, LEFT_OVER_AFTER));
    // Where one cannot be removed, it counts in the bound, and goes first.
    let removed = left_over.filter(|entry| folder.remove(&entry.name).is_ok());
    let (files, bytes) = removed.fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.bytes));
    leftovers::say_removed(folder.path(), files, bytes);
}

fn remove(folder: &Folder, victims: &[Entry]) -> io::Result<()> {
    victims.iter().try_for_each(|entry| folder.remove(&entry.name))
}

/// Which of `held` go to free at least `bytes` bytes, in their order (see the head of this file). Files that somebody may still
/// be writing never do. Where all that may go is less than that, code of this engine stays: its loss would be in vain.
fn victims(held: Vec<Entry>, engine_hash: u64, now: SystemTime, bytes: u64) -> Vec<Entry> {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum Worth {
        LeftOver,
        OfAnotherEngine,
        OfThisEngine,
    }
    let worth = |entry: &Entry| {
        if leftovers::is_partial(&entry.name) {
            leftovers::is_older(entry.modified, now, LEFT_OVER_AFTER).then_some(Worth::LeftOver)
        } else if is_of_engine(&entry.name, engine_hash) {
            Some(Worth::OfThisEngine)
        } else {
            Some(Worth::OfAnotherEngine)
        }
    };
    let mut held: Vec<_> = held
        .into_iter()
        .filter_map(|entry| Some((worth(&entry)?, entry.modified, entry.name.clone(), entry)))
        .collect();
    held.sort_unstable_by(|(worth, modified, name, _), other| {
        (worth, modified, name).cmp(&(&other.0, &other.1, &other.2))
    });
    if held.iter().map(|(.., entry)| entry.bytes).sum::<u64>() < bytes {
        held.retain(|(worth, ..)| *worth != Worth::OfThisEngine);
    }
    let mut freed = 0;
    let go = held.into_iter().take_while(|(.., entry)| {
        let goes = freed < bytes;
        freed += entry.bytes;
        goes
    });
    go.map(|(.., entry)| entry).collect()
}

#[cfg(test)]
mod tests;
