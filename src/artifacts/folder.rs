//! A folder of machine code, held by its descriptor.
//!
//! Owner and mode are looked at once, on the descriptor, and every file is reached through it: whoever may move or replace
//! the folder's path can take the cache away, and can never put code in. A folder that others may write to (the root of a
//! volume with Kubernetes' `fsGroup`, `/tmp`) is not used itself; a folder of this user's own inside it is. Must not: change
//! the rights of a folder that it did not make.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::leftovers::PREFIX;
use super::trust::{Distrust, Rights, distrust};

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// It cannot be made, or opened.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// Others may put code in.
    #[error(
        "{path} is not used, because {why}{own}: machine code is believed only where nobody but this user and root may write; \
         give execute.cache-directory a folder of user {user}, or of root, that is not writable for group or others"
    )]
    Distrusted {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: Distrust,
        /// Why no folder of this user's own inside it is used instead, behind a comma; empty for that folder itself.
        own: String,
        /// The user of this process.
        user: u32,
    },
}

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// Its length.
    pub(super) bytes: u64,
    /// When it was last written, or marked as used.
    pub(super) modified: SystemTime,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
    user: u32,
}

impl Folder {
    /// Opens the folder at `path`, or this user's own inside it; makes what is missing, for this user alone.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let user = rustix::process::geteuid().as_raw();
        let found = Self::at(path, user)?;
        let Some(why) = found.distrust()? else { return Ok(found) };
        let own = path.join(format!("forewarm-{user}"));
        match Self::at(&own, user) {
            Ok(folder) => match folder.distrust()? {
                None => {
                    tracing::info!(directory = %own.display(), %why, "the cache is in a folder of its own");
                    Ok(folder)
                }
                Some(why) => Err(FolderError::Distrusted { path: own, why, own: String::new(), user }),
            },
            Err(fault) => {
                let own = format!(", and a folder of its own cannot be made in it ({fault})");
                Err(FolderError::Distrusted { path: path.to_owned(), why, own, user })
            }
        }
    }

    /// The folder at `path`, whoever it belongs to; it is made where it is missing.
    fn at(path: &Path, user: u32) -> Result<Self, FolderError> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)
        };
        let made = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            match DirBuilder::new().mode(0o700).create(path) {
                // Another process was quicker.
                Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        };
        let opened = match open() {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => made().and_then(|()| open()),
            other => other,
        };
        match opened {
            Ok(descriptor) => Ok(Self { descriptor, path: path.to_owned(), user }),
            Err(source) => Err(FolderError::Io { path: path.to_owned(), source }),
        }
    }

    fn distrust(&self) -> Result<Option<Distrust>, FolderError> {
        let found = rustix::fs::fstat(&self.descriptor)
            .map_err(|fault| FolderError::Io { path: self.path.clone(), source: fault.into() })?;
        Ok(distrust(Rights { owner: found.st_uid, mode: found.st_mode }, self.user))
    }

    /// Where it was when it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of what is in it, in no order.
    pub(super) fn names(&self) -> Vec<String> {
        let Ok(entries) = Dir::read_from(&self.descriptor) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned())).collect()
    }

    /// Its files whose names `wanted` takes, in no order.
    pub(super) fn entries(&self, wanted: impl Fn(&str) -> bool) -> Vec<Entry> {
        let mut names = self.names();
        names.retain(|name| wanted(name));
        let entry = |name: String| {
            let found = rustix::fs::statat(&self.descriptor, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode).is_file();
            let seconds = u64::try_from(found.st_mtime).unwrap_or(0);
            let since = Duration::new(seconds, u32::try_from(found.st_mtime_nsec).unwrap_or(0));
            let modified = SystemTime::UNIX_EPOCH + since;
            is_file.then(|| Entry { name, bytes: u64::try_from(found.st_size).unwrap_or(0), modified })
        };
        names.into_iter().filter_map(entry).collect()
    }

    /// Opens a file, and says why it is not believed where it is not.
    ///
    /// # Errors
    /// Where it cannot be opened, or is a symbolic link.
    pub(super) fn read(&self, name: &str) -> io::Result<(File, Option<Distrust>)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&self.descriptor, name, flags, Mode::empty())?);
        let found = file.metadata()?;
        Ok((file, distrust(Rights { owner: found.uid(), mode: found.mode() }, self.user)))
    }

    /// Writes a file that is either there whole or not there at all; answers it, open for reading and writing.
    ///
    /// # Errors
    /// Where it cannot be written. Nothing is left of it then.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        self.write_by(bytes, |partial| rustix::fs::renameat(&self.descriptor, partial, &self.descriptor, name))
    }

    /// The same for a file that must not be there yet.
    ///
    /// # Errors
    /// Where it is there, or cannot be written.
    pub(super) fn write_new(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        self.write_by(bytes, |partial| {
            rustix::fs::linkat(&self.descriptor, partial, &self.descriptor, name, AtFlags::empty())?;
            rustix::fs::unlinkat(&self.descriptor, partial, AtFlags::empty())
        })
    }

    fn write_by(&self, bytes: &[u8], name: impl FnOnce(&str) -> rustix::io::Result<()>) -> io::Result<File> {
        let partial = format!("{PREFIX}-{}", uuid::Uuid::now_v7());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.descriptor, &partial, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(made);
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| Ok(name(&partial)?));
        match written {
            Ok(()) => Ok(file),
            Err(fault) => {
                // Where even that fails, it is left over, and goes at a later start.
                let _ = self.remove(&partial);
                Err(fault)
            }
        }
    }

    /// Removes a file. One that is not there is removed already.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_that_is_made_is_for_this_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        assert_eq!((folder.path(), mode(&path)), (path.as_path(), 0o700));
    }

    #[test]
    fn a_folder_that_was_there_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        let folder = Folder::open(directory.path()).unwrap();
        assert_eq!((folder.path(), mode(directory.path())), (directory.path(), 0o755));
        // As root this shows nothing of the rights, but nothing is written either.
        set_mode(directory.path(), 0o555);
        assert_eq!(Folder::open(directory.path()).unwrap().path(), directory.path());
        set_mode(directory.path(), 0o700);
    }

    #[test]
    fn where_others_may_write_a_folder_of_our_own_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let own = directory.path().join(format!("forewarm-{user}"));
        for shared in [0o2775, 0o777, 0o1777] {
            set_mode(directory.path(), shared);
            let folder = Folder::open(directory.path()).unwrap();
            // A group that is handed down may be, too, and has no rights.
            let rights = (mode(&own) & 0o777, mode(directory.path()));
            assert_eq!((folder.path(), rights), (own.as_path(), (0o700, shared)));
        }
        // Somebody opened it for others.
        set_mode(&own, 0o770);
        let fault = Folder::open(directory.path()).unwrap_err().to_string();
        assert!(
            fault.contains("forewarm-") && fault.contains("mode 0770") && fault.contains("give execute"),
            "{fault}"
        );
        fs::remove_dir(&own).unwrap();
        fs::write(&own, b"").unwrap();
        let fault = Folder::open(directory.path()).unwrap_err().to_string();
        assert!(fault.contains("a folder of its own cannot be made in it"), "{fault}");
    }

    #[test]
    fn what_is_put_in_the_folders_place_is_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("code");
        let folder = Folder::open(&path).unwrap();
        folder.write("a", b"ours").unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a"), b"theirs").unwrap();
        let (file, distrust) = folder.read("a").unwrap();
        assert_eq!((io::read_to_string(file).unwrap().as_str(), distrust), ("ours", None));
    }

    #[test]
    fn a_file_is_believed_by_its_own_owner_and_mode_and_a_link_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        folder.write("a", b"1").unwrap();
        set_mode(&directory.path().join("a"), 0o664);
        assert_eq!(folder.read("a").unwrap().1, Some(Distrust::Writable { mode: 0o664 }));
        std::os::unix::fs::symlink("a", directory.path().join("link")).unwrap();
        assert!(folder.read("link").is_err());
        assert_eq!(
            folder.entries(|_| true).iter().map(|entry| (&*entry.name, entry.bytes)).collect::<Vec<_>>(),
            [("a", 1)]
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        fs::create_dir_all(directory.path().join("name/in-its-way")).unwrap();
        assert!(folder.write("name", b"1").is_err());
        assert_eq!(folder.names().iter().filter(|name| name.starts_with(PREFIX)).count(), 0);
    }
}
