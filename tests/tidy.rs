//! The tree keeps its own rules: who may import whom (the table in ARCHITECTURE.md), what the pure rooms must not touch, a
//! head on every file, files that can be read in one go, and nothing printed but by the commands.
//!
//! Needs no feature and builds nothing of the library. Must not: hold a copy of the table; what ARCHITECTURE.md says is the
//! rule.

mod tidy {
    pub mod source;
}

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path as FilePath;

use tidy::source::{self, Path, Token};

/// Lines of one file, tests included; this many are still allowed.
const LINES_MAX: usize = 500;
/// Rooms that speak to a person at a terminal.
const PRINTING_ROOMS: [&str; 3] = ["cli", "main", "demo"];
const PRINTING_MACROS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];
/// What would make ring 1 impure: clock, files, network, threads, process, logs, runtimes and clients.
const IMPURE: [&str; 15] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
    "tracing",
    "tracing_subscriber",
    "rdkafka",
    "wasmtime",
    "wasmtime_wasi",
];

/// What ARCHITECTURE.md says.
#[derive(Debug, PartialEq)]
struct Rules {
    /// Room → rooms it may import; `*` is every room.
    imports: BTreeMap<String, BTreeSet<String>>,
    /// The rooms of ring 1.
    pure: BTreeSet<String>,
}

/// One file; its path is relative to the package, with `/`.
struct File {
    path: String,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// The names in backquotes in one cell.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of the table rows under a heading, without the table's head.
fn rows<'a>(architecture: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = architecture.lines().skip_while(|line| line.trim_end() != heading).skip(1);
    let body = section.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with('|'));
    body.skip(2).map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Reads both tables; an empty or misspelt one is an error, or the rules would hold of nothing.
fn rules(architecture: &str) -> Result<Rules, String> {
    let mut imports = BTreeMap::new();
    for row in rows(architecture, "## Who may import whom") {
        let [module, may_import, ..] = row[..] else { return Err(format!("row of one cell: {row:?}")) };
        for room in names(module) {
            if imports.insert(room.clone(), names(may_import)).is_some() {
                return Err(format!("`{room}` has two rows under \"Who may import whom\""));
            }
        }
    }
    let mut pure = BTreeSet::new();
    for row in rows(architecture, "## Rooms") {
        if let [ring, room, ..] = row[..]
            && ring.starts_with("1 ")
        {
            pure.extend(names(room));
        }
    }
    if imports.is_empty() || pure.is_empty() {
        return Err("no rows under \"## Who may import whom\", or none of ring 1 under \"## Rooms\"".to_owned());
    }
    for name in imports.values().flatten().chain(&pure) {
        if name != "*" && !imports.contains_key(name) {
            return Err(format!("`{name}` is named but has no row of its own under \"Who may import whom\""));
        }
    }
    Ok(Rules { imports, pure })
}

/// The module a file under `src/` is, from the root of the crate: `src/pool/plan.rs` → pool, plan.
fn module_of(path: &str) -> Option<Vec<String>> {
    let mut module: Vec<String> =
        path.strip_prefix("src/")?.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if module.len() > 1 {
        module.pop_if(|last| last == "mod");
    }
    Some(module)
}

/// The room a path reaches into, `*` when it takes the whole crate. `None`: the path leaves this crate or stays below the root.
fn room_reached(path: &Path) -> Option<&str> {
    let (first, rest) = path.segments.split_first()?;
    let mut below: &[String] = match first.as_str() {
        "crate" | "forewarm" => &[],
        "self" => &path.module,
        "super" => path.module.split_last()?.1,
        _ => return None,
    };
    for segment in rest {
        match segment.as_str() {
            "self" => {}
            "super" => below = below.split_last()?.1,
            name => return below.is_empty().then_some(name),
        }
    }
    (below.is_empty() && path.imported).then_some("*")
}

/// The impure thing a path names or brings in reach. `use std::time` counts; `std::time::Duration` does not.
fn impurity(path: &Path) -> Option<&'static str> {
    let open = matches!(path.segments.last().map(String::as_str), Some("*" | "self"));
    let plain = &path.segments[..path.segments.len() - usize::from(open)];
    IMPURE.into_iter().find(|impure| {
        let impure: Vec<&str> = impure.split("::").collect();
        let shared = plain.iter().zip(&impure).take_while(|(a, b)| a == b).count();
        shared == impure.len() || (path.imported || open) && shared > 0 && shared == plain.len()
    })
}

/// Findings about the imports of one file of a room, its own room allowed.
fn imports(file: &File, room: &str, module: &[String], tokens: &[Token], rules: &Rules) -> Vec<Finding> {
    let finding = |line, what| Finding { path: file.path.clone(), line, what };
    let Some(allowed) = rules.imports.get(room) else {
        return vec![finding(1, format!("room `{room}` has no row under \"Who may import whom\" in ARCHITECTURE.md"))];
    };
    let mut found = Vec::new();
    for path in source::paths(tokens, module) {
        if let Some(other) = room_reached(&path)
            && other != room
            && !allowed.contains(other)
            && !allowed.contains("*")
        {
            found.push(finding(path.line, format!("`{room}` may not import `{other}`")));
        }
        if rules.pure.contains(room)
            && let Some(impure) = impurity(&path)
        {
            found.push(finding(path.line, format!("`{room}` is pure and may not use `{impure}`")));
        }
    }
    found
}

/// Everything wrong with these files, sorted, each once.
fn findings(files: &[File], rules: &Rules) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut rooms_seen = BTreeSet::new();
    for file in files {
        let finding = |line, what| Finding { path: file.path.clone(), line, what };
        if !file.text.starts_with("//!") {
            found.push(finding(1, "opens without a `//!` head".to_owned()));
        }
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            found.push(finding(LINES_MAX + 1, format!("has {lines} lines, {LINES_MAX} are allowed")));
        }
        let Some(module) = module_of(&file.path) else { continue };
        let room = module[0].clone();
        let tokens = source::tokens(&file.text);
        if !PRINTING_ROOMS.contains(&room.as_str()) {
            for [name, bang, next] in tokens.array_windows() {
                if PRINTING_MACROS.contains(&name.text.as_str()) && bang.text == "!" && next.text != "=" {
                    found.push(finding(name.line, format!("`{room}` may not print: `{}!`", name.text)));
                }
            }
        }
        // The library's root only declares the rooms.
        if room != "lib" {
            found.extend(imports(file, &room, &module, &tokens, rules));
            rooms_seen.insert(room);
        }
    }
    for room in rules.imports.keys().filter(|room| !rooms_seen.contains(*room)) {
        let what = format!("`{room}` has a row under \"Who may import whom\" but no source");
        found.push(Finding { path: "ARCHITECTURE.md".to_owned(), line: 1, what });
    }
    found.sort();
    found.dedup();
    found
}

/// All `.rs` files below a folder of the package. The guests are packages of their own; their build output stays out.
fn read_tree(folder: &str, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(FilePath::new(env!("CARGO_MANIFEST_DIR")).join(folder))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            if !(path.starts_with("guests/") && path.ends_with("/target")) {
                read_tree(&path, files)?;
            }
        } else if path.ends_with(".rs") {
            files.push(File { text: fs::read_to_string(entry.path())?, path });
        }
    }
    Ok(())
}

#[test]
fn the_tree_keeps_its_rules() {
    let architecture = fs::read_to_string(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let rules = rules(&architecture).unwrap();
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "guests", "fuzz/src", "fuzz/fuzz_targets"] {
        read_tree(folder, &mut files).unwrap();
    }
    let found: Vec<String> = findings(&files, &rules).iter().map(Finding::to_string).collect();
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

/// A small ARCHITECTURE.md for the tests of the rules themselves.
const FIXTURE: &str = "\
## Rooms

| ring | room | duty |
|---|---|---|
| 0 words | `types` | |
| 1 pure | `pool` | |
| 2 shell | `ingest` | |

## Who may import whom

| module | may import |
|---|---|
| `types` | |
| `pool` | `types` |
| `ingest` | `types`, `pool` |
| `main` | `*` |

## After

| `nobody` | `types` |
";

/// Findings as `path:line: what` for a tree of the given files and clean ones for the rooms that are not given.
#[expect(clippy::unwrap_used, reason = "another test shows that the fixture is read")]
fn found_in(given: &[(&str, &str)]) -> Vec<String> {
    let clean = ["src/types/mod.rs", "src/pool/mod.rs", "src/ingest/mod.rs", "src/main.rs"];
    let clean =
        clean.iter().filter(|path| !given.iter().any(|(other, _)| other == *path)).map(|path| (*path, "//! Clean."));
    let files: Vec<File> = clean
        .chain(given.iter().copied())
        .map(|(path, text)| File { path: path.to_owned(), text: text.to_owned() })
        .collect();
    findings(&files, &rules(FIXTURE).unwrap()).iter().map(Finding::to_string).collect()
}

#[test]
fn the_table_is_read_and_a_broken_one_is_refused() {
    let read = rules(FIXTURE).unwrap();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(read.pure, set(&["pool"]));
    assert_eq!(read.imports.len(), 4);
    assert_eq!(read.imports["types"], set(&[]));
    assert_eq!(read.imports["ingest"], set(&["types", "pool"]));
    assert_eq!(read.imports["main"], set(&["*"]));

    for (from, to, says) in [
        ("## Who may import whom", "## Imports", "no rows"),
        ("| 1 pure |", "| 2 pure |", "no rows"),
        ("`types`, `pool`", "`types`, `pol`", "`pol` is named but has no row"),
        ("| `main` |", "| `pool` |", "`pool` has two rows"),
    ] {
        let fault = rules(&FIXTURE.replace(from, to)).unwrap_err();
        assert!(fault.contains(says), "{from} → {to}: {fault}");
    }
}

#[test]
fn imports_beyond_the_table_are_found_however_they_are_written() {
    let text = "//! Head.
use crate::types::Offset;
use crate::{types::{Offset, Time}, ingest::{A as B}};
use super::ingest::C;
fn f() -> crate::ingest::D<crate::ingest::E> { super::super::fine() }
mod tests {
    mod deeper { use super::super::super::ingest::F; }
    use super::super::super::beyond;
    macro_rules! m { () => { $crate::ingest::G } }
}
use super::super::ingest::H;
use crate as all;
use crate::*;
pub(crate) use self::own;
";
    let says = |line: usize| format!("src/pool/mod.rs:{line}: `pool` may not import `ingest`");
    let whole = |line: usize| format!("src/pool/mod.rs:{line}: `pool` may not import `*`");
    assert_eq!(
        found_in(&[("src/pool/mod.rs", text)]),
        [says(3), says(4), says(5), says(7), says(9), whole(12), whole(13)]
    );
    // One level further down the same words mean other rooms.
    assert_eq!(
        found_in(&[("src/pool/plan.rs", "//! Head.\nuse super::ingest::C;\nuse super::super::ingest::H;")]),
        ["src/pool/plan.rs:3: `pool` may not import `ingest`"]
    );
    assert_eq!(
        found_in(&[("src/ingest/mod.rs", text), ("src/main.rs", "//! Head.\nuse forewarm::pool;")]),
        ["src/ingest/mod.rs:12: `ingest` may not import `*`", "src/ingest/mod.rs:13: `ingest` may not import `*`",]
    );
}

#[test]
fn words_in_comments_and_literals_are_no_imports() {
    let text = r####"//! See [`crate::ingest`].
/* crate::ingest /* nested */ println!() */
/// [`crate::ingest::A`]
const A: &str = "crate::ingest \" println!()"; // crate::ingest
const B: &str = r#"one quote " crate::ingest::A"#;
const C: (char, char, u8, &[u8]) = ('"', '\"', b'\'', b"std::fs::read");
fn f<'a>(r#type: &'a str) -> &'a str { if print != 1 { r#type } }
"####;
    assert_eq!(found_in(&[("src/pool/mod.rs", text)]), [""; 0]);
    // The literals above end where they end: what follows them is seen.
    assert_eq!(
        found_in(&[("src/pool/mod.rs", &format!("{text}use crate::ingest::A;"))]),
        ["src/pool/mod.rs:8: `pool` may not import `ingest`"]
    );
}

#[test]
fn a_pure_room_has_no_clock_no_files_no_threads_and_no_clients() {
    let text = "//! Head.
use std::time::Duration;
use std::{fs, time::{Duration, Instant}};
fn f() { std::thread::yield_now(); ::std::net::lookup(); std::time::Duration::ZERO }
#[tokio::test]
fn g() { tracing::info!(\"x\"); return ::wasmtime::f() }
use std::time;
use std::time::*;
use std::time::{self as t};
use rdkafka;
use wasmtime_wasi::X;
use std::collections::{self, BTreeMap};
use std::sync::*;
use ::std::process;
use {std::time as t, ::std::env as e};
extern crate tracing_subscriber;
fn h() { own::std::fs(); A::<B>::std::fs() }
";
    let says = |line: usize, what: &str| format!("src/pool/mod.rs:{line}: `pool` is pure and may not use `{what}`");
    let mut expected = vec![
        says(3, "std::fs"),
        says(3, "std::time::Instant"),
        says(4, "std::thread"),
        says(4, "std::net"),
        says(5, "tokio"),
        says(6, "tracing"),
        says(6, "wasmtime"),
        says(7, "std::time::Instant"),
        says(8, "std::time::Instant"),
        says(9, "std::time::Instant"),
        says(10, "rdkafka"),
        says(11, "wasmtime_wasi"),
        says(14, "std::process"),
        says(15, "std::env"),
        says(15, "std::time::Instant"),
        says(16, "tracing_subscriber"),
    ];
    let mut found = found_in(&[("src/pool/mod.rs", text)]);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(found_in(&[("src/ingest/mod.rs", text)]), [""; 0]);
}

#[test]
fn heads_lengths_prints_and_rooms_without_a_row_are_found() {
    let lines = |n: usize| format!("//! Head.\n{}", "\n".repeat(n - 1));
    assert_eq!(
        found_in(&[("tests/a.rs", &lines(500)), ("benches/b.rs", &lines(501)), ("tests/c.rs", "// Head.")]),
        ["benches/b.rs:501: has 501 lines, 500 are allowed", "tests/c.rs:1: opens without a `//!` head",]
    );
    let prints = "//! Head.\nfn f() {\n    println!();\n    dbg!(1);\n}";
    assert_eq!(
        found_in(&[("src/ingest/mod.rs", prints), ("src/main.rs", prints), ("tests/a.rs", prints)]),
        [
            "src/ingest/mod.rs:3: `ingest` may not print: `println!`",
            "src/ingest/mod.rs:4: `ingest` may not print: `dbg!`",
        ]
    );
    assert_eq!(
        found_in(&[("src/extra.rs", "//! Head.")]),
        ["src/extra.rs:1: room `extra` has no row under \"Who may import whom\" in ARCHITECTURE.md"]
    );
    let only_main = [File { path: "src/main.rs".to_owned(), text: "//! Head.".to_owned() }];
    assert_eq!(
        findings(&only_main, &rules(FIXTURE).unwrap()).len(),
        3,
        "types, pool and ingest have rows but no source"
    );
}
