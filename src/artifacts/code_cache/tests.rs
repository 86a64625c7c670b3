//! The cache's rules, each with folders of its own. A full disk is played: a writer that has no room for more than so many
//! bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

const A: [u8; 3] = [1, 2, 3];
/// An engine, and the one before the upgrade.
const ENGINE: u64 = 1;
const OLD: u64 = 0xffff_ffff_ffff_fffe;

fn artifact(name: &str) -> Sha256 {
    Sha256::of(name.as_bytes())
}

fn bytes(found: Option<(CodeFile, Vec<u8>)>) -> Option<Vec<u8>> {
    found.map(|(_, bytes)| bytes)
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes of all but the node's key.
fn total(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "node.key");
    entries.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn code_is_found_for_its_engine_only_and_what_is_handed_out_is_that_file() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(&directory.path().join("code"), 100);
    let wasm = artifact("wasm");
    assert!(cache.find(wasm, ENGINE).is_none());
    let stored = cache.store(wasm, ENGINE, &A).unwrap();
    assert_eq!(fs::read(stored.path()).unwrap(), A);
    let (found, read) = cache.find(wasm, ENGINE).unwrap();
    assert_eq!((found.name(), &read[..]), (stored.name(), &A[..]));
    // Whatever is put in its place meanwhile.
    let path = directory.path().join("code").join(found.name());
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"other").unwrap();
    assert_eq!(fs::read(found.path()).unwrap(), A);
    assert!(cache.find(wasm, OLD).is_none());
}

#[test]
fn code_that_is_damaged_or_that_others_may_write_is_never_handed_out() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 100);
    let spoil: [fn(&Path); 2] = [
        |path| fs::write(path, [1, 2, 4]).unwrap(),
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o622)).unwrap(),
    ];
    for spoil in spoil {
        let stored = cache.store(artifact("wasm"), ENGINE, &A).unwrap();
        let path = directory.path().join(stored.name());
        spoil(&path);
        assert!(cache.find(artifact("wasm"), ENGINE).is_none());
        assert!(!path.exists());
    }
    // Two files for one artifact: the sound one is found.
    let sound = cache.store(artifact("wasm"), ENGINE, &A).unwrap();
    let damaged = format!("{}{}{EXTENSION}", prefix(artifact("wasm"), ENGINE), Sha256::of(b"x"));
    fs::write(directory.path().join(damaged), b"y").unwrap();
    assert_eq!(cache.find(artifact("wasm"), ENGINE).unwrap().0.name(), sound.name());
}

#[test]
fn the_least_recently_used_goes_first() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 8);
    for (seconds, name) in [(1, "used"), (2, "old")] {
        let stored = cache.store(artifact(name), ENGINE, &A).unwrap();
        set_time(&directory.path().join(stored.name()), seconds);
    }
    assert!(cache.find(artifact("used"), ENGINE).is_some(), "which is a use");
    assert!(cache.store(artifact("new"), ENGINE, &A).is_some());
    assert!(cache.find(artifact("old"), ENGINE).is_none());
    assert!(cache.find(artifact("used"), ENGINE).is_some() && cache.find(artifact("new"), ENGINE).is_some());
    assert!(cache.store(artifact("old"), ENGINE, &[0; 9]).is_none(), "larger than the whole cache");
    assert_eq!(total(directory.path()), 6);
}

#[test]
fn who_goes_is_decided_by_worth_then_age_and_only_as_many_as_need_be() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let entry = |name: &str, bytes, seconds| Entry { name: name.to_owned(), bytes, modified: at(seconds) };
    let code = |name: &str, engine, seconds| entry(&format!("{name}-{engine:016x}-d.cwasm"), 10, seconds);
    let now = at(10_000);
    let held = vec![
        code("a", ENGINE, 1),
        code("b", ENGINE, 2),
        code("c", OLD, 5),
        code("d", OLD, 4),
        entry(".tmp-left-over", 10, 6_400),
        entry(".tmp-being-written", 10, 6_401),
    ];
    // Of code, what stands for its artifact is enough.
    let short = |name: &str| name.strip_suffix("-d.cwasm").map_or(name, |code| &code[..1]).to_owned();
    let go = |bytes| -> Vec<String> {
        victims(held.clone(), ENGINE, now, bytes).iter().map(|entry| short(&entry.name)).collect()
    };
    assert_eq!(go(0), [""; 0]);
    assert_eq!(go(1), [".tmp-left-over"]);
    assert_eq!(go(11), [".tmp-left-over", "d"]);
    assert_eq!(go(40), [".tmp-left-over", "d", "c", "a"]);
    assert_eq!(go(50), [".tmp-left-over", "d", "c", "a", "b"]);
    assert_eq!(go(51), [".tmp-left-over", "d", "c"], "this engine's code would be given up in vain");
}

#[test]
fn code_of_another_engine_makes_room_before_code_that_was_used_long_ago() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 8);
    let mine = cache.store(artifact("mine"), ENGINE, &A).unwrap();
    set_time(&directory.path().join(mine.name()), 1);
    cache.store(artifact("theirs"), OLD, &A).unwrap();
    cache.store(artifact("new"), ENGINE, &A).unwrap();
    assert!(cache.find(artifact("theirs"), OLD).is_none());
    assert!(cache.find(artifact("mine"), ENGINE).is_some() && cache.find(artifact("new"), ENGINE).is_some());
}

/// Writes only while all that is in the folder fits into `bytes`.
fn disk_of(bytes: u64) -> impl Fn(&Folder, &str, &[u8]) -> io::Result<File> {
    move |folder, name, code| {
        let used: u64 = folder.entries(|name| name != "node.key").iter().map(|entry| entry.bytes).sum();
        if used + code.len() as u64 > bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        folder.write(name, code)
    }
}

#[test]
fn a_full_disk_costs_the_code_of_other_engines_first_and_then_the_oldest() {
    const K: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 1 << 30);
    let disk = disk_of(4 * K as u64);
    let keep = |name: &str, engine, seconds| {
        let stored = cache.store_by(&disk, artifact(name), engine, &[0; K]).unwrap();
        set_time(&directory.path().join(stored.name()), seconds);
    };
    for (name, engine, seconds) in [("a", ENGINE, 1), ("b", ENGINE, 2), ("c", OLD, 3), ("d", OLD, 4)] {
        keep(name, engine, seconds);
    }
    let there = |name: &str, engine| {
        fs::read_dir(directory.path())
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_str().unwrap().starts_with(&prefix(artifact(name), engine)))
    };
    // One file frees less than is asked for, which is a block more than is needed: two go.
    keep("e", ENGINE, 5);
    assert!(!there("c", OLD) && !there("d", OLD));
    assert!(there("a", ENGINE) && there("b", ENGINE) && there("e", ENGINE));
    keep("f", ENGINE, 6);
    keep("g", ENGINE, 7);
    assert!(!there("a", ENGINE) && !there("b", ENGINE));
    assert!(there("e", ENGINE) && there("f", ENGINE) && there("g", ENGINE));
    // Nothing is given up for what would not fit in any case.
    assert!(cache.store_by(&disk, artifact("huge"), ENGINE, &[0; 5 * K]).is_none());
    assert!(there("e", ENGINE) && there("f", ENGINE) && there("g", ENGINE));
}

#[test]
fn each_spell_without_room_is_said_once_and_so_is_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 1 << 30);
    let is_in_a_spell = || cache.complained.load(Ordering::Relaxed);
    for _ in 0..2 {
        assert!(!is_in_a_spell());
        assert!(cache.store_by(&disk_of(0), artifact("a"), ENGINE, &A).is_none());
        assert!(is_in_a_spell());
        assert!(cache.store(artifact("a"), ENGINE, &A).is_some());
    }
    assert!(!is_in_a_spell());
}

#[test]
fn what_a_killed_process_left_goes_at_the_start_and_what_is_being_written_counts() {
    let directory = tempfile::tempdir().unwrap();
    for (name, is_old) in [(".tmpold", true), (".tmp-new", false)] {
        let path = directory.path().join(name);
        fs::write(&path, [0; 5]).unwrap();
        if is_old {
            set_time(&path, 1);
        }
    }
    let cache = CodeCache::open(directory.path(), 12);
    assert!(!directory.path().join(".tmpold").exists() && directory.path().join(".tmp-new").exists());
    cache.store(artifact("a"), ENGINE, &A).unwrap();
    cache.store(artifact("b"), ENGINE, &A).unwrap();
    cache.store(artifact("c"), ENGINE, &A).unwrap();
    assert_eq!(total(directory.path()), 11, "two of three fit beside it");
    fs::write(directory.path().join(".tmp-new"), [0; 10]).unwrap();
    assert!(cache.store(artifact("d"), ENGINE, &A).is_none(), "the bound holds");
    assert_eq!(total(directory.path()), 16, "and nothing goes in vain");
}

#[test]
fn a_folder_that_was_removed_is_made_again_at_the_next_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in/code");
    let cache = CodeCache::open(&path, 100);
    cache.store(artifact("a"), ENGINE, &A).unwrap();
    fs::remove_dir_all(directory.path().join("in")).unwrap();
    assert!(cache.find(artifact("a"), ENGINE).is_none());
    let stored = cache.store(artifact("b"), ENGINE, &A).unwrap();
    assert!(path.join(stored.name()).exists());
    assert_eq!(bytes(cache.find(artifact("b"), ENGINE)), Some(A.to_vec()));
    assert!(!cache.complained.load(Ordering::Relaxed));
}

#[test]
fn a_cache_that_cannot_be_is_no_fault_and_one_that_can_be_later_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let cache = CodeCache::open(&file, 100);
    assert!(cache.store(artifact("wasm"), ENGINE, &A).is_none());
    assert!(cache.find(artifact("wasm"), ENGINE).is_none());
    fs::remove_file(&file).unwrap();
    assert!(cache.store(artifact("wasm"), ENGINE, &A).is_some());
    let none = CodeCache::open(&directory.path().join("none"), 0);
    assert!(none.store(artifact("wasm"), ENGINE, &A).is_none());
    assert!(!directory.path().join("none").exists(), "a cache of 0 bytes is none");
}

#[test]
fn a_filled_cache_is_read_where_nothing_may_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let name = CodeCache::open(directory.path(), 100).store(artifact("wasm"), ENGINE, &A).unwrap().name().to_owned();
    let path = directory.path().join(name);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let cache = CodeCache::open(directory.path(), 100);
    assert_eq!(bytes(cache.find(artifact("wasm"), ENGINE)), Some(A.to_vec()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(directory.path()), mode(&path)), (0o555, 0o444), "a start changes no rights");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn code_that_was_planted_is_not_handed_out_whatever_its_name_says() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 100);
    let ours = cache.store(artifact("wasm"), ENGINE, &A).unwrap();
    // The digest of its content, another key's code, and ours of the same bytes for another artifact and engine.
    let other = tempfile::tempdir().unwrap();
    let others = CodeCache::open(other.path(), 100).store(artifact("planted"), ENGINE, &A).unwrap();
    let code_of = |file: &CodeFile| file.name().rsplit('-').next().unwrap().strip_suffix(EXTENSION).unwrap().to_owned();
    for code in [Sha256::of(&A).to_string(), code_of(&others), code_of(&ours)] {
        let name = format!("{}{code}{EXTENSION}", prefix(artifact("planted"), ENGINE));
        fs::write(directory.path().join(&name), A).unwrap();
        assert!(cache.find(artifact("planted"), ENGINE).is_none(), "{name}");
        assert!(!directory.path().join(name).exists());
    }
    assert!(cache.find(artifact("wasm"), ENGINE).is_some());
}

#[test]
fn a_refusal_is_found_again_by_its_artifact_and_engine_and_not_where_it_was_planted() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 100);
    cache.keep_refusal(artifact("bomb"), ENGINE, "too much");
    let again = CodeCache::open(directory.path(), 100);
    assert_eq!(again.refusal(artifact("bomb"), ENGINE).as_deref(), Some("too much"));
    assert_eq!((again.refusal(artifact("bomb"), OLD), again.refusal(artifact("other"), ENGINE)), (None, None));
    let of = |name| directory.path().join(format!("{}{REFUSED}", prefix(artifact(name), ENGINE)));
    fs::copy(of("bomb"), of("other")).unwrap();
    assert_eq!(again.refusal(artifact("other"), ENGINE), None);
}

#[test]
fn no_more_refusals_are_kept_than_there_may_be() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(directory.path(), 100);
    for nth in 0..REFUSALS_MAX {
        fs::write(directory.path().join(format!("{nth}{REFUSED}")), b"").unwrap();
    }
    set_time(&directory.path().join(format!("7{REFUSED}")), 1);
    cache.keep_refusal(artifact("bomb"), ENGINE, "too much");
    assert!(!directory.path().join(format!("7{REFUSED}")).exists());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), REFUSALS_MAX + 1, "with the key");
}
