//! `function deploy` and `remove` as a user runs them, against an embedded broker without a node: what no node can run is refused
//! before anything is published, and what a redeploy keeps and changes is said.

#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::process::Command;

use forewarm::config::{self, Config};
use forewarm::demo::EmbeddedBroker;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_forewarm");
const ECHO: &[u8] = include_bytes!("../guests/rust-echo/rust-echo.wasm");
const WORDCOUNT: &[u8] = include_bytes!("../guests/c-wordcount/c-wordcount.wasm");
const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

struct Desk {
    broker: EmbeddedBroker,
    directory: tempfile::TempDir,
}

/// What a command answered.
struct Answer {
    ok: bool,
    out: String,
    said: String,
}

impl Desk {
    fn open() -> Self {
        let config: Config = config::load(None, std::iter::empty()).unwrap();
        Self { broker: EmbeddedBroker::start(&config.topics).unwrap(), directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        self.file(name, &wat::parse_str(text).unwrap())
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let output = Command::new(PROGRAM)
            .arg("function")
            .args(arguments)
            .current_dir(self.directory.path())
            .env("FOREWARM__KAFKA__BOOTSTRAP_SERVERS", self.broker.bootstrap_servers())
            .env("FOREWARM__KAFKA__PROPERTIES__FETCH_WAIT_MAX_MS", "10")
            // What brokers do with artifacts is tested with real ones, and in tests/artifacts_topic.rs.
            .env("FOREWARM__ARTIFACTS__STORE", "directory")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Answer { ok: output.status.success(), out: text(output.stdout), said: text(output.stderr) }
    }

    fn deploy(&self, name: &str, artifact: &Path, more: &[&str]) -> Answer {
        self.run(&[&["deploy", name, artifact.to_str().unwrap()], more].concat())
    }

    /// The definition that was published.
    fn deployed(&self, name: &str, artifact: &Path, more: &[&str]) -> (Value, String) {
        let Answer { ok, out, said } = self.deploy(name, artifact, more);
        assert!(ok, "{said}");
        (serde_json::from_str(&out).unwrap(), said)
    }
}

#[test]
fn what_no_node_can_run_is_refused_with_its_reason_and_nothing_is_published() {
    let desk = Desk::open();
    let import = r#"(module (import "env" "abort" (func)) (func (export "_start")))"#;
    let http = r#"(component (import "wasi:http/types@0.2.0" (instance (export "f" (func)))))"#;
    let run = r#"(component (instance $i) (export "wasi:cli/run@0.2.3" (instance $i)))"#;
    let wrong_type = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64)))
        (memory (export "memory") 1) (func (export "_start")))"#;
    let exceptions = r#"(module (tag $t) (memory (export "memory") 1) (func (export "_start") (throw $t)))"#;
    let text = |name: &str, wat: &str| desk.text(name, wat);
    let cases: [(PathBuf, &[&str], &str); 13] = [
        (desk.file("cut.wasm", &WORDCOUNT[..WORDCOUNT.len() / 2]), &[], "cut off"),
        (desk.file("text.wat", b"(module)"), &[], "wat2wasm"),
        (text("library.wasm", r#"(module (func (export "add")))"#), &[], "no export `_start`"),
        (text("env.wasm", import), &[], "imports env::abort"),
        (text("type.wasm", wrong_type), &[], "wants an import that is not given here"),
        (text("http.wasm", http), &[], "wasi:http is not served"),
        (text("run.wasm", run), &[], "a WASI 0.2 command"),
        (text("exceptions.wasm", exceptions), &[], "build without exceptions"),
        (text("slot.wasm", r#"(module (memory 4800) (func (export "_start")))"#), &[], "instance-memory-bytes-max"),
        (text("limit.wasm", r#"(module (memory 2400) (func (export "_start")))"#), &[], "limits.memory_bytes is"),
        (text("table.wasm", r#"(module (table 200000 funcref) (func (export "_start")))"#), &[], "200000 elements"),
        (desk.file("echo.wasm", ECHO), &["--kind", "command"], "it is a component"),
        (text("ok.wasm", NOTHING), &["--kind", "component"], "it is a module"),
    ];
    for (file, more, words) in &cases {
        let Answer { ok, said, out } = desk.deploy("f", file, more);
        assert!(!ok && said.contains(words) && out.is_empty(), "{}: {said}", file.display());
    }
    // What only nodes can judge.
    let definition = desk.file("definition.toml", b"[warm]\nflor = 2\n[limit]\ntimeout_ms = 1\n");
    let said = desk.deploy("f", &desk.text("ok.wasm", NOTHING), &["--definition", definition.to_str().unwrap()]).said;
    assert!(said.contains("did you mean warm.floor?") && said.contains("did you mean limits?"), "{said}");
    let said = desk.deploy("f", &desk.text("ok.wasm", NOTHING), &["--floor", "1000", "--definition", "none"]).said;
    assert!(said.contains("definition none"), "{said}");
    let said = desk.deploy("f", &desk.text("ok.wasm", NOTHING), &["--floor", "101"]).said;
    assert!(said.contains("warm.floor is 101, above the operator's limits.floor-max of 100"), "{said}");
    assert_eq!(desk.run(&["list"]).out, "", "nothing was published");
    // The nodes can be asked all the same.
    assert!(desk.deploy("f", &desk.text("library.wasm", "(module)"), &["--unchecked"]).ok);
}

#[test]
fn a_redeploy_keeps_what_is_not_said_again_and_each_change_is_a_version() {
    let desk = Desk::open();
    let file = desk.text("a.wasm", NOTHING);
    let (first, said) = desk.deployed("f", &file, &["--floor", "2", "--env", "TOKEN=secret"]);
    assert!(said.contains("no node is there") && said.contains("forewarm function status f"), "{said}");
    let other = desk.text("b.wasm", r#"(module (memory (export "memory") 2) (func (export "_start")))"#);
    let (second, said) = desk.deployed("f", &other, &[]);
    assert_eq!((&second["warm"]["floor"], &second["environment"]["TOKEN"]), (&2.into(), &"secret".into()));
    assert!(
        said.contains("kept, from version") && said.contains("warm.floor = 2") && !said.contains("secret"),
        "{said}"
    );
    let (third, _) = desk.deployed("f", &other, &["--env", "TOKEN=other"]);
    let versions = [&first, &second, &third].map(|definition| definition["version"].as_str().unwrap().to_owned());
    assert!(versions[0] != versions[1] && versions[1] != versions[2], "{versions:?}");
    let (replaced, said) = desk.deployed("f", &other, &["--replace"]);
    assert_eq!((&replaced["warm"]["floor"], &replaced["environment"]), (&0.into(), &serde_json::json!({})));
    assert!(said.contains("dropped, from version") && said.contains("environment.TOKEN"), "{said}");
    let (named, _) = desk.deployed("f", &other, &["--version", "7"]);
    assert_eq!(named["version"], "7");
    let said = desk.deployed("f", &file, &["--version", "7"]).1;
    assert!(said.contains("version 7 already stands for other code"), "{said}");
}

#[test]
fn a_removal_says_whether_there_was_anything() {
    let desk = Desk::open();
    desk.deployed("f", &desk.text("a.wasm", NOTHING), &["--version", "7"]);
    let Answer { ok, said, .. } = desk.run(&["remove", "f"]);
    assert!(ok && said.contains("version 7 of function f was removed") && said.contains("no node is there"), "{said}");
    for name in ["f", "never-there"] {
        let Answer { ok, said, .. } = desk.run(&["remove", name]);
        assert!(!ok && said.contains("is not registered: nothing was removed"), "{said}");
    }
}
