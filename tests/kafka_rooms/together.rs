//! The service's two ends without a middle, and how fast the first of them is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use forewarm::codec::{Codec, NoSchemaRegistry};
use forewarm::ingest::{Acknowledger, Invocations, Received, Settings, Sink};
use forewarm::kafka::tail::{Follower, Message, Start, Step, Tail};
use forewarm::publish::{Deliveries, Destination, Outcome, Publisher, Record, Refusal, Topics};
use forewarm::types::Position;

use crate::brokers::{Brokers, LONG, eventually, feed, settings, unique};
use crate::invocations::consume_at_once;

/// Publishes a result for each call and acknowledges it when it is stored: the service's two ends without a middle.
struct Echo {
    publisher: Arc<Publisher>,
    count: Arc<AtomicU64>,
}

impl Sink for Echo {
    fn received(&mut self, received: Received) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let payload = Some(received.content.as_ref().unwrap().id.clone().into_bytes());
        let record = Record { destination: Destination::Results, key: None, headers: Vec::new(), payload };
        let Received { position, bytes, .. } = received;
        self.publisher.publish(Outcome { position, bytes, record, dead_letter: None }).unwrap();
    }
}

struct Back(OnceLock<Acknowledger>);

impl Deliveries for Back {
    fn acknowledged(&self, position: Position, bytes: usize) {
        self.0.wait().acknowledge(position, bytes);
    }

    fn instead_of(&self, record: &Record, refusal: &Refusal) -> Option<Record> {
        panic!("{record:?}: {refusal}");
    }

    fn failed_for_good(&self, reason: &str) {
        panic!("{reason}");
    }
}

struct Node {
    invocations: Invocations,
    publisher: Arc<Publisher>,
    count: Arc<AtomicU64>,
}

impl Node {
    fn start(brokers: &Brokers, group: &str, calls: &str, results: &str) -> Self {
        let back = Arc::new(Back(OnceLock::new()));
        let topics = Topics { results: results.to_owned(), dead_letters: results.to_owned(), ..Topics::default() };
        let deliveries = Arc::clone(&back) as Arc<dyn Deliveries>;
        let connection = brokers.connection(group);
        let publisher = Arc::new(Publisher::start(&connection, topics, deliveries).unwrap());
        let count = Arc::new(AtomicU64::new(0));
        let sink = Echo { publisher: Arc::clone(&publisher), count: Arc::clone(&count) };
        let (codec, writers) = (Arc::new(Codec::new()), Arc::new(NoSchemaRegistry));
        // Long enough that something is done and not committed whenever the node is stopped.
        let seldom = Duration::from_millis(300);
        let settings = Settings { commit_interval: seldom, commit_completions: u64::MAX, ..settings(calls) };
        let invocations = Invocations::start(&connection, settings, codec, writers, sink).unwrap();
        assert!(back.0.set(invocations.acknowledger()).is_ok());
        Self { invocations, publisher, count }
    }
}

#[test]
fn nodes_that_come_and_go_answer_every_call_at_least_once() {
    for brokers in Brokers::both() {
        let (calls, results) = (brokers.topic("calls", 6), brokers.topic("results", 1));
        let group = unique("group");
        let node = || Node::start(&brokers, &group, &calls, &results);
        let stop = AtomicBool::new(false);
        let mut published = 0_u32;
        std::thread::scope(|scope| {
            let (bootstrap, calls, stop) = (&brokers.bootstrap, &calls, &stop);
            let feeder = scope.spawn(move || {
                let mut next = 0;
                while !stop.load(Ordering::SeqCst) {
                    feed(bootstrap, calls, 6, next..next + 500);
                    next += 500;
                }
                next
            });
            let first = node();
            eventually("the first works", || first.count.load(Ordering::Relaxed) > 500);
            let second = node();
            eventually("the second works", || second.count.load(Ordering::Relaxed) > 500);
            let third = node();
            eventually("the third works", || third.count.load(Ordering::Relaxed) > 500);
            assert_eq!(first.invocations.shutdown(LONG), 0);
            // Dropped in the midst of its work: what is in flight is read again by another node.
            drop(second.invocations);
            stop.store(true, Ordering::SeqCst);
            published = feeder.join().unwrap();
            let committed = || -> i64 { brokers.committed(&group, calls, 6).values().map(|(next, _)| next).sum() };
            eventually("the last one answers the rest", || committed() == i64::from(published));
            assert_eq!(third.invocations.shutdown(LONG), 0);
        });
        let answers = answers(&brokers, &results);
        assert_eq!(answers.len(), published as usize, "every call has a result");
        let repeated = answers.values().filter(|count| **count > 1).count();
        println!("{published} calls, {repeated} of them answered more than once");
    }
}

/// A node in a process of its own, for [`a_node_that_is_killed_loses_nothing`]: it runs until it is killed.
#[test]
#[ignore = "the other half of a test"]
fn node_to_be_killed() {
    let Ok(bootstrap) = std::env::var("FOREWARM_TEST_NODE_BOOTSTRAP") else { return };
    let named = |name: &str| std::env::var(name).unwrap();
    let (group, calls) = (named("FOREWARM_TEST_NODE_GROUP"), named("FOREWARM_TEST_NODE_CALLS"));
    let brokers = Brokers::at(bootstrap);
    let _node = Node::start(&brokers, &group, &calls, &named("FOREWARM_TEST_NODE_RESULTS"));
    loop {
        std::thread::park();
    }
}

struct Process(std::process::Child);

impl Process {
    fn start(brokers: &Brokers, group: &str, calls: &str, results: &str) -> Self {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "together::node_to_be_killed", "--ignored"])
            .env("FOREWARM_TEST_NODE_BOOTSTRAP", &brokers.bootstrap)
            .env("FOREWARM_TEST_NODE_GROUP", group)
            .env("FOREWARM_TEST_NODE_CALLS", calls)
            .env("FOREWARM_TEST_NODE_RESULTS", results)
            .stdout(std::process::Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_node_that_is_killed_loses_nothing() {
    let Some(brokers) = Brokers::real() else { return };
    let (calls, results) = (brokers.topic("calls", 4), brokers.topic("results", 1));
    let group = unique("group");
    let committed = || -> i64 { brokers.committed(&group, &calls, 4).values().map(|(next, _)| next).sum() };
    let stop = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let (bootstrap, topic, stop) = (&brokers.bootstrap, &calls, &stop);
        let feeder = scope.spawn(move || {
            let mut next = 0;
            while !stop.load(Ordering::SeqCst) {
                feed(bootstrap, topic, 4, next..next + 1_000);
                next += 1_000;
            }
            next
        });
        for _ in 0..4 {
            let (node, before) = (Process::start(&brokers, &group, &calls, &results), committed());
            eventually("it has committed some", || committed() > before + 5_000);
            // Calls come all the time, so some are in flight and some are done and not committed.
            drop(node);
        }
        stop.store(true, Ordering::SeqCst);
        feeder.join().unwrap()
    });
    let last = Process::start(&brokers, &group, &calls, &results);
    eventually("the last one answers the rest", || committed() == i64::from(published));
    drop(last);
    let answers = answers(&brokers, &results);
    assert_eq!(answers.len(), published as usize, "every call has a result");
    let repeated = answers.values().filter(|count| **count > 1).count();
    println!("{published} calls, {repeated} of them answered more than once");
}

/// A broker of its own, so that it can be restarted.
struct OwnBroker {
    directory: tempfile::TempDir,
    bootstrap: String,
}

impl OwnBroker {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::script("start", directory.path());
        let bootstrap = std::fs::read_to_string(directory.path().join("bootstrap")).unwrap().trim().to_owned();
        Self { directory, bootstrap }
    }

    fn script(command: &str, directory: &std::path::Path) {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
        let done = std::process::Command::new(script).arg(command).arg("--dir").arg(directory).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        Self::script("stop", self.directory.path());
    }
}

#[test]
fn a_broker_that_is_restarted_loses_nothing_and_readiness_follows_it() {
    if Brokers::real().is_none() {
        return;
    }
    let own = OwnBroker::start();
    let brokers = Brokers::at(own.bootstrap.clone());
    let (calls, results) = (brokers.topic("calls", 4), brokers.topic("results", 1));
    let group = unique("group");
    let node = Node::start(&brokers, &group, &calls, &results);
    brokers.call(&calls, 4, 0..10_000);
    eventually("it works", || node.count.load(Ordering::Relaxed) >= 5_000);
    OwnBroker::script("stop", own.directory.path());
    eventually("it is noticed", || !node.invocations.is_ready());
    OwnBroker::script("start", own.directory.path());
    eventually("it is noticed", || node.invocations.is_ready());
    brokers.call(&calls, 4, 10_000..20_000);
    let committed = || -> i64 { brokers.committed(&group, &calls, 4).values().map(|(next, _)| next).sum() };
    eventually("everything is answered", || committed() == 20_000);
    eventually("the publisher is ready", || node.publisher.health().is_up());
    assert_eq!(node.invocations.shutdown(LONG), 0);
    let answers = answers(&brokers, &results);
    assert_eq!(answers.len(), 20_000, "every call has a result");
    let repeated = answers.values().filter(|count| **count > 1).count();
    println!("{repeated} answered more than once");
}

fn answers(brokers: &Brokers, results: &str) -> BTreeMap<String, u32> {
    let follower = Answers::default();
    let answers = Arc::clone(&follower.0);
    let connection = brokers.connection(&unique("group"));
    let tail = Tail::start(&connection, results, "answers", Start::Beginning, follower).unwrap();
    eventually("all results are read", || tail.is_caught_up());
    std::mem::take(&mut answers.lock().unwrap())
}

#[derive(Default)]
struct Answers(Arc<Mutex<BTreeMap<String, u32>>>);

impl Follower for Answers {
    fn message(&mut self, message: &Message<'_>) -> Step {
        let id = String::from_utf8(message.payload.unwrap().to_vec()).unwrap();
        *self.0.lock().unwrap().entry(id).or_default() += 1;
        Step::Done
    }
}

/// Not a test of right or wrong: how many messages a second the poll thread takes with a sink that does nothing but
/// acknowledge. Run it with `--ignored --nocapture` in a release build, with a real broker.
#[test]
#[ignore = "a measurement"]
fn how_fast_the_poll_thread_is() {
    let brokers = Brokers::real().unwrap_or_else(Brokers::mock);
    let count: u32 = if brokers.mock.is_some() { 60_000 } else { 1_000_000 };
    let topic = brokers.topic("calls", 4);
    for start in (0..count).step_by(100_000) {
        brokers.call(&topic, 4, start..(start + 100_000).min(count));
    }
    let group = unique("group");
    let fast = Settings { in_flight_max: 50_000, commit_interval: Duration::from_millis(250), ..settings(&topic) };
    let (invocations, seen) = consume_at_once(&brokers, &group, fast);
    eventually("it begins", || !seen.numbers.lock().unwrap().is_empty());
    let (began, before) = (Instant::now(), seen.numbers.lock().unwrap().len());
    let cpu_before = cpu_seconds("invocations");
    eventually("all are read", || seen.numbers.lock().unwrap().len() == count as usize);
    let took = began.elapsed();
    let rate = (count as usize - before) as f64 / took.as_secs_f64();
    let cpu = (cpu_seconds("invocations") - cpu_before) / (count as usize - before) as f64;
    let pauses = invocations.counters().pauses.load(Ordering::Relaxed);
    println!(
        "{rate:.0} messages a second ({count} in {took:?}, {pauses} pauses), {:.0} ns of the thread each",
        cpu * 1e9
    );
    assert_eq!(invocations.shutdown(LONG), 0);
}

/// Processor time of the thread of this name, where the system says; else 0. Its unit is a hundredth of a second.
fn cpu_seconds(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_name = tasks.filter_map(|task| {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        (read("comm")?.trim() == name).then(|| read("stat"))?
    });
    let ticks = of_name.map(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    });
    ticks.sum::<f64>() / 100.0
}
