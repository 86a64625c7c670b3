//! Code that is kept on disk, with the executor around it: what a restart needs of the artifact, and of the folder.

#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarm::artifacts::{ArtifactError, ArtifactStore, CodeCache};
use forewarm::config::Execute;
use forewarm::execute::{Call, Cancelled, Executor, Logs, Outcomes, Parts, Runtime};
use forewarm::telemetry::Metrics;
use forewarm::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, Invocation, InvocationResult, Payload, Sha256, StartKind,
    Status, Timestamp,
};

/// The program whose `compile-worker` compiles; this one has no such command.
const COMPILER: &str = env!("CARGO_BIN_EXE_forewarm");
const ECHO: &[u8] = include_bytes!("../guests/rust-echo/rust-echo.wasm");
const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
const CACHE_BYTES_MAX: u64 = 1 << 30;

/// Longer than anything here takes, so that only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Collect(Sender<InvocationResult>);

impl Outcomes for Collect {
    type Ticket = ();

    fn completed(&self, _: Call<()>, result: InvocationResult) {
        self.0.send(result).expect("the test outlives the executor");
    }

    fn given_back(&self, call: Call<Self::Ticket>) {
        panic!("a call of {} was given back", call.invocation.function);
    }
}

/// Has one artifact at most, and counts how often it was asked.
#[derive(Default)]
struct Shop {
    wasm: Mutex<Option<Vec<u8>>>,
    asked: AtomicU32,
}

impl ArtifactStore for Shop {
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let wasm = self.wasm.lock().unwrap().clone();
        let source = io::ErrorKind::NotFound.into();
        wasm.ok_or_else(|| ArtifactError::Read { uri: artifact.uri.clone(), path: "nowhere".into(), source })
    }
}

/// A node that keeps its code in a folder.
struct Node {
    executor: Executor<Collect>,
    _runtime: Runtime,
    outcomes: Receiver<InvocationResult>,
    shop: Arc<Shop>,
}

impl Node {
    fn start(cache: &Path, wasm: Option<&[u8]>) -> Self {
        let (sender, outcomes) = channel();
        let shop = Arc::new(Shop { wasm: Mutex::new(wasm.map(<[u8]>::to_vec)), asked: AtomicU32::new(0) });
        let parts = Parts {
            announce: Arc::new(|_| {}),
            logs: Logs::default(),
            node: "test".to_owned(),
            config: Execute { instances_max: 8, compile_program: COMPILER.into(), ..Execute::default() },
            outcomes: Collect(sender),
            artifacts: Arc::clone(&shop) as Arc<dyn ArtifactStore>,
            cache: CodeCache::open(cache, CACHE_BYTES_MAX),
            metrics: Arc::new(Metrics::default()),
        };
        let (executor, runtime) = Executor::start(parts).unwrap();
        Self { executor, _runtime: runtime, outcomes, shop }
    }

    fn define(&self, name: &str, kind: FunctionKind, wasm: &[u8]) {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256::of(wasm) };
        let definition = FunctionDefinition::new(FunctionName::new(name).unwrap(), "1", artifact, kind);
        self.executor.define(Arc::new(definition));
    }

    fn call(&self, name: &str) -> InvocationResult {
        let invocation = Invocation {
            id: "call".to_owned(),
            function: FunctionName::new(name).unwrap(),
            tenant: None,
            payload: Payload(b"x".to_vec()),
            content_type: None,
            deadline: None,
            invoked_at: Timestamp::ZERO,
            attributes: Default::default(),
        };
        let (received_at, cancelled) = (Instant::now(), Cancelled::default());
        let call = Call { invocation, headers: Vec::new(), ticket: (), received_at, attempt: 1, cancelled };
        assert!(self.executor.submit(call).is_ok(), "function {name} is known");
        self.outcomes.recv_timeout(PATIENCE).expect("an outcome")
    }

    /// Calls right after the definition: how it began, and how often the artifact was asked for.
    fn first_call(&self, kind: FunctionKind, wasm: &[u8]) -> (Status, Option<StartKind>, u32) {
        self.define("f", kind, wasm);
        let result = self.call("f");
        // Kept code may be there before the call is: nobody waited for it then.
        let start = result.start_kind.map(|kind| if kind == StartKind::Linked { StartKind::Loaded } else { kind });
        (result.status, start, self.shop.asked.load(Ordering::SeqCst))
    }
}

#[test]
fn a_function_whose_code_is_kept_needs_no_artifact() {
    let wasm = wat::parse_str(NOTHING).unwrap();
    for (kind, wasm) in [(FunctionKind::Component, ECHO), (FunctionKind::Command, &wasm)] {
        let cache = tempfile::tempdir().unwrap();
        let compiled = Node::start(cache.path(), Some(wasm)).first_call(kind, wasm);
        assert_eq!(compiled, (Status::Ok, Some(StartKind::Cold), 1));
        let loaded = Node::start(cache.path(), None).first_call(kind, wasm);
        assert_eq!(loaded, (Status::Ok, Some(StartKind::Loaded), 0));
    }
}

#[test]
fn code_of_a_component_is_no_commands() {
    let cache = tempfile::tempdir().unwrap();
    Node::start(cache.path(), Some(ECHO)).first_call(FunctionKind::Component, ECHO);
    let node = Node::start(cache.path(), Some(ECHO));
    node.define("f", FunctionKind::Command, ECHO);
    let refused = node.call("f");
    let message = refused.error.unwrap().message;
    assert_eq!(refused.status, Status::Rejected);
    assert!(message.contains("it is a component, and the definition's kind is command"), "{message}");
    // The component's code is still good.
    let loaded = Node::start(cache.path(), None).first_call(FunctionKind::Component, ECHO);
    assert_eq!(loaded, (Status::Ok, Some(StartKind::Loaded), 0));
}

#[test]
fn a_filled_folder_serves_where_nothing_may_be_changed() {
    let cache = tempfile::tempdir().unwrap();
    Node::start(cache.path(), Some(ECHO)).first_call(FunctionKind::Component, ECHO);
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for entry in fs::read_dir(cache.path()).unwrap() {
        set_mode(&entry.unwrap().path(), 0o444);
    }
    set_mode(cache.path(), 0o555);
    let loaded = Node::start(cache.path(), None).first_call(FunctionKind::Component, ECHO);
    assert_eq!(loaded, (Status::Ok, Some(StartKind::Loaded), 0));
    assert_eq!(fs::metadata(cache.path()).unwrap().permissions().mode() & 0o777, 0o555);
    set_mode(cache.path(), 0o700);
}

#[test]
fn a_folder_that_was_removed_is_filled_again_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("code");
    let node = Node::start(&cache, Some(ECHO));
    node.first_call(FunctionKind::Component, ECHO);
    fs::remove_dir_all(&cache).unwrap();
    // Another artifact: the code of the first one is shared, and not kept a second time.
    let other = wat::parse_str(NOTHING).unwrap();
    *node.shop.wasm.lock().unwrap() = Some(other.clone());
    node.define("other", FunctionKind::Command, &other);
    assert_eq!(node.call("other").status, Status::Ok);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 2, "the code, and the key");
    // What is loaded runs on from the file that was removed.
    assert_eq!(node.call("f").status, Status::Ok);
}

#[test]
fn code_in_a_folder_that_others_may_write_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("code");
    Node::start(&cache, Some(ECHO)).first_call(FunctionKind::Component, ECHO);
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let node = Node::start(&cache, Some(ECHO));
    assert_eq!(node.first_call(FunctionKind::Component, ECHO), (Status::Ok, Some(StartKind::Cold), 1));
    // It was kept in a folder of its own, which is believed.
    let loaded = Node::start(&cache, None).first_call(FunctionKind::Component, ECHO);
    assert_eq!(loaded, (Status::Ok, Some(StartKind::Loaded), 0));
}
