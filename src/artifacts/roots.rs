//! Opens a file below a folder, and never anything else: not out of the folder by `..` or a link, no pipe, no device.
//!
//! Opening never waits: not for the other end of a pipe, and no terminal becomes this process's own. Must not: read.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Why a file is not open.
#[derive(Debug)]
pub(super) enum Unopened {
    /// Its path leads out of the folder.
    Outside,
    /// It is no regular file.
    NoFile,
    /// The system's own words.
    Io(io::Error),
}

impl From<Errno> for Unopened {
    fn from(fault: Errno) -> Self {
        match fault {
            // Out by "..", by a link to elsewhere, or by one of /proc.
            Errno::XDEV | Errno::LOOP => Self::Outside,
            // A socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => Self::NoFile,
            other => Self::Io(other.into()),
        }
    }
}

/// Opens the regular file `path` below `root`. Links are followed within the root where the kernel sees to it (Linux 5.6 and
/// newer), and not at all elsewhere; `root` itself may be reached by links.
pub(super) fn open_below(root: &Path, path: &Path) -> Result<File, Unopened> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        // An older kernel, or one that a container's filter makes seem older.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, path, flags)?,
        opened => opened?,
    };
    let file = File::from(opened);
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(Unopened::NoFile),
        Err(fault) => Err(Unopened::Io(fault)),
    }
}

/// The same for kernels without `openat2`: each folder is opened from the one before, and no link is followed.
fn step_by_step(root: OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Unopened> {
    let mut at = root;
    let mut steps = path.components().peekable();
    while let Some(step) = steps.next() {
        let Component::Normal(name) = step else { return Err(Unopened::Outside) };
        let is_last = steps.peek().is_none();
        let flags = if is_last { flags } else { OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC };
        // A link where a folder is asked for is "no folder", and one where a file is asked for is a loop.
        at = match rustix::fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOTDIR) if !is_last => return Err(Unopened::Outside),
            opened => opened?,
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn without_openat2_the_same_files_are_opened_but_for_links() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("in")).unwrap();
        fs::write(directory.path().join("in/file"), b"1").unwrap();
        std::os::unix::fs::symlink("in", directory.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("in/file", directory.path().join("link")).unwrap();
        let open = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
            step_by_step(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)
        };
        assert!(open("in/file").is_ok());
        for outside in ["in/../in/file", "../x", "/etc/hostname", "link", "folder/file"] {
            assert!(matches!(open(outside), Err(Unopened::Outside)), "{outside}");
        }
        assert!(matches!(open("in/none"), Err(Unopened::Io(fault)) if fault.kind() == io::ErrorKind::NotFound));
        // Within the root, the kernel's own way follows them.
        assert!(open_below(directory.path(), Path::new("folder/file")).is_ok());
    }
}
