//! Files that were being written when their process was killed: their names, and when they may go.
//!
//! Must not: name a file that somebody may still be writing.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How the name of a file begins that is not whole yet.
pub(super) const PREFIX: &str = ".tmp";
/// A file that is not whole and was last written this long ago or longer is left over. Writing one takes seconds.
pub(super) const LEFT_OVER_AFTER: Duration = Duration::from_hours(1);

/// Whether a file of that name is one that is not whole.
pub(super) fn is_partial(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether what was last written at `modified` is at least `age` old. What seems to be written later than now is not.
pub(super) fn is_older(modified: SystemTime, now: SystemTime, age: Duration) -> bool {
    now.duration_since(modified).is_ok_and(|since| since >= age)
}

/// Removes what is left over in a folder, and says so. A folder that is not there has nothing.
pub(super) fn remove(directory: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let (mut files, mut bytes) = (0_u64, 0);
    for entry in entries.filter_map(Result::ok) {
        let Ok(found) = entry.metadata() else { continue };
        let is_left_over = entry.file_name().to_str().is_some_and(is_partial)
            && found.is_file()
            && found.modified().is_ok_and(|modified| is_older(modified, now, LEFT_OVER_AFTER));
        if !is_left_over {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => (files, bytes) = (files + 1, bytes + found.len()),
            // It takes room and harms nothing; the next start tries again.
            Err(fault) => tracing::warn!(path = %entry.path().display(), %fault, "a file that was left over stays"),
        }
    }
    say_removed(directory, files, bytes);
}

/// One line, where something was removed.
pub(super) fn say_removed(directory: &Path, files: u64, bytes: u64) {
    if files > 0 {
        tracing::info!(directory = %directory.display(), files, bytes, "files that a killed process left half written are removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_files_that_are_not_whole_go() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".tmpabc", "whole.wasm", ".tmp-x"] {
            fs::write(directory.path().join(name), b"12345").unwrap();
        }
        fs::create_dir(directory.path().join(".tmp-folder")).unwrap();
        let names = || {
            let entries = fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        let now = SystemTime::now();
        remove(directory.path(), now);
        assert_eq!(names(), [".tmp-folder", ".tmp-x", ".tmpabc", "whole.wasm"], "somebody may still be writing them");
        // One of them was written again since.
        let later = now + 2 * LEFT_OVER_AFTER;
        fs::File::options().append(true).open(directory.path().join(".tmp-x")).unwrap().set_modified(later).unwrap();
        remove(directory.path(), later);
        assert_eq!(names(), [".tmp-folder", ".tmp-x", "whole.wasm"]);
        remove(&directory.path().join("nowhere"), later);
    }

    #[test]
    fn age_is_inclusive_and_the_future_is_young() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let age = Duration::from_secs(10);
        assert!(is_older(at(90), at(100), age));
        assert!(!is_older(at(91), at(100), age) && !is_older(at(200), at(100), age));
    }
}
