//! Loading and compiling, with the executor around it: what one artifact takes harms no other.

#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarm::artifacts::{ArtifactError, ArtifactStore, CodeCache, DirectoryStore};
use forewarm::config::{Artifacts, Execute};
use forewarm::execute::{Call, Cancelled, Executor, Logs, Outcomes, Parts, Runtime};
use forewarm::telemetry::Metrics;
use forewarm::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, Invocation, InvocationResult, Payload, Sha256, StartKind,
    Status, Timestamp,
};

/// The program whose `compile-worker` compiles; this one has no such command.
const COMPILER: &str = env!("CARGO_BIN_EXE_forewarm");
const ECHO: &[u8] = include_bytes!("../guests/rust-echo/rust-echo.wasm");
/// Longer than anything here takes, so that only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(120);

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

#[derive(Default)]
struct InMemory(Mutex<HashMap<Sha256, Vec<u8>>>);

impl ArtifactStore for InMemory {
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError> {
        Ok(self.0.lock().unwrap()[&artifact.sha256].clone())
    }
}

struct Node {
    executor: Executor<Collect>,
    _runtime: Runtime,
    outcomes: Receiver<InvocationResult>,
    artifacts: Arc<InMemory>,
    metrics: Arc<Metrics>,
}

impl Node {
    fn start(cache: &Path, adjust: impl FnOnce(&mut Execute)) -> Self {
        let artifacts = Arc::new(InMemory::default());
        Self::with(cache, Arc::clone(&artifacts), artifacts, adjust)
    }

    fn with(
        cache: &Path,
        memory: Arc<InMemory>,
        artifacts: Arc<dyn ArtifactStore>,
        adjust: impl FnOnce(&mut Execute),
    ) -> Self {
        let (sender, outcomes) = channel();
        let mut config = Execute { instances_max: 8, compile_program: COMPILER.into(), ..Execute::default() };
        adjust(&mut config);
        let metrics = Arc::new(Metrics::default());
        let parts = Parts {
            announce: Arc::new(|_| {}),
            logs: Logs::default(),
            node: "test".to_owned(),
            config,
            outcomes: Collect(sender),
            artifacts,
            cache: CodeCache::open(cache, 1 << 30),
            metrics: Arc::clone(&metrics),
        };
        let (executor, runtime) = Executor::start(parts).unwrap();
        Self { executor, _runtime: runtime, outcomes, artifacts: memory, metrics }
    }

    fn define(&self, name: &str, kind: FunctionKind, wasm: &[u8]) {
        let sha256 = Sha256::of(wasm);
        self.artifacts.0.lock().unwrap().insert(sha256, wasm.to_vec());
        self.define_at(name, kind, Artifact { uri: "store:".to_owned(), sha256 });
    }

    fn define_at(&self, name: &str, kind: FunctionKind, artifact: Artifact) {
        let definition = FunctionDefinition::new(FunctionName::new(name).unwrap(), "1", artifact, kind);
        self.executor.define(Arc::new(definition));
    }

    fn submit(&self, name: &str) {
        let invocation = Invocation {
            id: name.to_owned(),
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
    }

    fn outcome(&self) -> InvocationResult {
        self.outcomes.recv_timeout(PATIENCE).expect("an outcome")
    }

    fn call(&self, name: &str) -> InvocationResult {
        self.submit(name);
        self.outcome()
    }

    fn compilations(&self) -> u64 {
        self.metrics.compilations.get()
    }

    /// Has the code of a command kept.
    fn prepare(&self, wasm: &[u8]) {
        self.define("prepare", FunctionKind::Command, wasm);
        assert_eq!(self.call("prepare").status, Status::Ok);
    }

    fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.executor.is_settled() {
            assert!(Instant::now() < deadline, "some function is neither loaded nor refused");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Loops within loops, each of which changes a variable of its own: what a compiler keeps of it grows with their product,
/// and stays just below what is refused at once.
fn bomb() -> Vec<u8> {
    let count = 990;
    let begin: String =
        (0..count).map(|nth| format!("(loop (local.set {nth} (i32.add (local.get {nth}) (i32.const 1))) ")).collect();
    let end: String = (0..count).map(|nth| format!("(br_if 0 (local.get {nth})))")).collect();
    let locals = "i32 ".repeat(count);
    wat::parse_str(format!(
        r#"(module (memory (export "memory") 1) (func (export "_start") (local {locals}) {begin} {end}))"#
    ))
    .unwrap()
}

/// A command that does nothing, and is another artifact for each number.
fn numbered(nth: usize) -> Vec<u8> {
    let text =
        format!(r#"(module (memory (export "memory") 1) (data (i32.const 0) "{nth}") (func (export "_start")))"#);
    wat::parse_str(text).unwrap()
}

fn message(result: &InvocationResult) -> &str {
    result.error.as_ref().map_or("", |error| &error.message)
}

/// The most memory that this process has held so far, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_bomb_is_refused_and_remembered_and_harms_no_bystander() {
    let cache = tempfile::tempdir().unwrap();
    let adjust = |config: &mut Execute| config.compile_memory_bytes_max = 192 << 20;
    let node = Node::start(cache.path(), adjust);
    // Warm up, so that what is measured below is the compiling.
    node.define("first", FunctionKind::Component, ECHO);
    assert_eq!(node.call("first").status, Status::Ok);
    let before = peak_bytes();
    let bomb = bomb();
    node.define("bomb", FunctionKind::Command, &bomb);
    node.submit("bomb");
    node.define("bystander", FunctionKind::Command, &numbered(0));
    node.submit("bystander");
    let mut ended = [node.outcome(), node.outcome()];
    ended.sort_by(|a, b| a.invocation_id.cmp(&b.invocation_id));
    let [refused, bystander] = ended;
    assert_eq!((bystander.status, refused.status), (Status::Ok, Status::Rejected));
    assert!(message(&refused).contains("compiling took more than 192 MiB of memory"), "{}", message(&refused));
    let grown = peak_bytes() - before;
    assert!(grown < 128 << 20, "the service's own memory grew by {grown} bytes");
    // Under another name it is not compiled again, and after a restart neither.
    let compilations = node.compilations();
    node.define("again", FunctionKind::Command, &bomb);
    assert_eq!(message(&node.call("again")).replace("again", "bomb"), message(&refused));
    assert_eq!(node.compilations(), compilations);
    drop(node);
    let node = Node::start(cache.path(), adjust);
    node.define("bomb", FunctionKind::Command, &bomb);
    assert_eq!(message(&node.call("bomb")), message(&refused));
    assert_eq!(node.compilations(), 0);
    // With another limit it is tried again: the refusal was that limit's.
    drop(node);
    let node = Node::start(cache.path(), |config| config.compile_memory_bytes_max = 200 << 20);
    node.define("bomb", FunctionKind::Command, &bomb);
    assert!(message(&node.call("bomb")).contains("200 MiB"));
}

#[test]
fn a_compilation_that_takes_too_long_is_ended_by_its_cpu_time_and_by_the_clock() {
    let cache = tempfile::tempdir().unwrap();
    let node = Node::start(cache.path(), |config| config.compile_cpu_time_max = Duration::from_secs(1));
    node.define("bomb", FunctionKind::Command, &bomb());
    let refused = node.call("bomb");
    assert!(message(&refused).contains("more than 1 s of CPU time"), "{}", message(&refused));
    // A program that never ends, and takes no CPU time.
    let program = cache.path().join("compiler");
    fs::write(&program, "#!/bin/sh\nexec sleep 30\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let node = Node::start(&cache.path().join("code"), |config| {
        config.compile_program = program.clone();
        config.compile_timeout = Duration::from_secs(1);
    });
    node.define("slow", FunctionKind::Command, &numbered(0));
    let refused = node.call("slow");
    assert!(message(&refused).contains("not done within 1 s"), "{}", message(&refused));
}

#[test]
fn code_on_disk_loads_while_every_turn_of_the_compiler_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("code");
    Node::start(&cache, |_| {}).prepare(&numbered(1));
    // From here on the compiler never comes to an end.
    let program = directory.path().join("compiler");
    fs::write(&program, "#!/bin/sh\nexec sleep 30\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let node = Node::start(&cache, |config| config.compile_program = program);
    let turns = 2 * std::thread::available_parallelism().unwrap().get() + 2;
    for nth in 0..turns {
        node.define(&format!("compiles-{nth}"), FunctionKind::Command, &numbered(100 + nth));
    }
    let deadline = Instant::now() + PATIENCE;
    while node.compilations() == 0 {
        assert!(Instant::now() < deadline, "nothing is compiled");
        std::thread::yield_now();
    }
    node.define("kept", FunctionKind::Command, &numbered(1));
    let result = node.call("kept");
    // Kept code may be there before the call is: nobody waited for it then.
    let start = result.start_kind.unwrap();
    assert!(result.status == Status::Ok && matches!(start, StartKind::Loaded | StartKind::Linked), "{start:?}");
    // Nobody wants the others any more: their compilers are ended, so that nothing of this test is left.
    for nth in 0..turns {
        node.executor.remove(&FunctionName::new(&format!("compiles-{nth}")).unwrap());
    }
}

/// A program in `directory` that does `first` and then compiles.
fn compiler_after(directory: &Path, first: &str) -> PathBuf {
    let program = directory.join("compiler");
    fs::write(&program, format!("#!/bin/sh\n{first}\nexec {COMPILER} \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    program
}

#[test]
fn the_compiler_gets_no_environment_of_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let program = compiler_after(directory.path(), &format!("/usr/bin/env >{}", seen.display()));
    let node = Node::start(&directory.path().join("code"), |config| config.compile_program = program);
    node.prepare(&numbered(1));
    let environment = fs::read_to_string(seen).unwrap();
    // The shell adds some of its own.
    let names: Vec<_> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    let known = ["RAYON_NUM_THREADS", "MALLOC_ARENA_MAX", "PWD", "OLDPWD", "SHLVL", "_"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
}

#[test]
fn the_compiler_closes_what_it_was_left_open_before_it_compiles() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = make_fifo(directory.path());
    let program = compiler_after(directory.path(), &format!("exec 9>{}", fifo.display()));
    let node = Node::start(&directory.path().join("code"), |config| config.compile_program = program);
    node.define("bomb", FunctionKind::Command, &bomb());
    // The end of the pipe is read when nobody can write any more; by then the compiler has only begun.
    assert_eq!(fs::read(fifo).unwrap(), b"");
    assert!(!node.executor.is_settled());
    node.executor.remove(&FunctionName::new("bomb").unwrap());
}

fn make_fifo(directory: &Path) -> PathBuf {
    let fifo = directory.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fifo
}

#[test]
fn a_definition_of_a_pipe_is_refused_and_others_load() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = make_fifo(directory.path());
    let store = DirectoryStore::open(&Artifacts {
        store: forewarm::config::Store::Directory,
        directory: directory.path().join("artifacts"),
        bytes_max: NonZeroU64::new(1 << 20).unwrap(),
        file_roots: vec![directory.path().to_owned()],
        read_timeout: Duration::from_secs(30),
    });
    let last = store.put(&numbered(1)).unwrap();
    let node = Node::with(&directory.path().join("code"), Arc::default(), Arc::new(store), |_| {});
    let at = |path: &Path| Artifact { uri: format!("file://{}", path.display()), sha256: Sha256::of(b"") };
    for nth in 0..20 {
        node.define_at(&format!("fifo-{nth}"), FunctionKind::Command, at(&fifo));
    }
    node.define_at("stdin", FunctionKind::Command, at(Path::new("/dev/stdin")));
    node.define_at("last", FunctionKind::Command, last);
    assert_eq!(node.call("last").status, Status::Ok);
    let refused = node.call("fifo-0");
    assert!(message(&refused).contains("no regular file"), "{}", message(&refused));
    let refused = node.call("stdin");
    assert!(message(&refused).contains("artifacts.file-roots"), "{}", message(&refused));
}

#[test]
fn code_that_was_kept_for_another_artifact_does_not_run_under_its_name() {
    let directory = tempfile::tempdir().unwrap();
    Node::start(directory.path(), |_| {}).prepare(&numbered(1));
    let file = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let kept = file.into_iter().find(|path| path.extension().is_some_and(|found| found == "cwasm")).unwrap();
    let name = kept.file_name().unwrap().to_str().unwrap();
    let planted = name.replace(&Sha256::of(&numbered(1)).to_string(), &Sha256::of(&numbered(2)).to_string());
    fs::copy(&kept, directory.path().join(planted)).unwrap();
    let node = Node::start(directory.path(), |_| {});
    node.define("f", FunctionKind::Command, &numbered(2));
    assert_eq!(node.call("f").start_kind, Some(StartKind::Cold));
}

/// Loads `functions` functions of `artifacts` artifacts; answers descriptors and bytes that are held more by it.
fn load_many(artifacts: usize, functions: usize) -> (usize, u64, Node, tempfile::TempDir) {
    let cache = tempfile::tempdir().unwrap();
    let node = Node::start(cache.path(), |_| {});
    node.prepare(&numbered(0));
    let (before, bytes_before) = (descriptors(), peak_bytes());
    for nth in 0..functions {
        node.define(&format!("f-{nth}"), FunctionKind::Command, &numbered(1 + nth % artifacts));
    }
    node.settle();
    assert_eq!(node.executor.running(), functions + 1);
    (descriptors().saturating_sub(before), peak_bytes() - bytes_before, node, cache)
}

#[test]
fn functions_with_the_same_artifact_share_its_code_and_its_descriptor() {
    let (_, _, node, _cache) = load_many(10, 200);
    assert_eq!(node.compilations(), 11);
    assert_eq!(node.call("f-150").status, Status::Ok);
}

/// A measurement: takes minutes, and is exact only where nothing else runs in this process.
#[test]
#[ignore = "a measurement of minutes"]
fn ten_thousand_functions_of_two_thousand_artifacts_hold_few_descriptors() {
    let begun = Instant::now();
    let (descriptors, bytes, node, _cache) = load_many(2_000, 10_000);
    println!("{descriptors} descriptors, {bytes} bytes, {:?}", begun.elapsed());
    assert!(descriptors < 500, "{descriptors}");
    assert_eq!(node.call("f-9999").status, Status::Ok);
}
