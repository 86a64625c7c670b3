//! The service's two ends without a middle, and how fast the first of them is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use forewarm::codec::{Codec, NoSchemaRegistry};
use forewarm::ingest::{self, Acknowledger, Received, Settings, Sink};
use forewarm::kafka::tail::{Follower, Message, Start, Step, Tail};
use forewarm::publish::{Deliveries, Destination, Publisher, Record, Refused, Topics};
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
        let payload = Some(received.content.unwrap().id.into_bytes());
        let record = Record { destination: Destination::Results, key: None, headers: Vec::new(), payload };
        self.publisher.publish(record, Some(received.position), received.bytes).unwrap();
    }
}

struct Back(OnceLock<Acknowledger>);

impl Deliveries for Back {
    fn acknowledged(&self, position: Position, bytes: usize) {
        self.0.wait().acknowledge(position, bytes);
    }

    fn refused(&self, refused: Refused) {
        panic!("{refused:?}");
    }

    fn failed_for_good(&self, reason: &str) {
        panic!("{reason}");
    }
}

#[test]
fn nodes_that_come_and_go_answer_every_call_at_least_once() {
    for brokers in Brokers::both() {
        let (calls, results) = (brokers.topic("calls", 6), brokers.topic("results", 1));
        let group = unique("group");
        let node = || {
            let back = Arc::new(Back(OnceLock::new()));
            let topics = Topics { results: results.clone(), dead_letters: results.clone() };
            let deliveries = Arc::clone(&back) as Arc<dyn Deliveries>;
            let publisher = Arc::new(Publisher::start(&brokers.connection(&group), topics, deliveries).unwrap());
            let count = Arc::new(AtomicU64::new(0));
            let sink = Echo { publisher: Arc::clone(&publisher), count: Arc::clone(&count) };
            let connection = brokers.connection(&group);
            let codec = Arc::new(Codec::new());
            let writers = Arc::new(NoSchemaRegistry);
            let invocations = ingest::start(&connection, settings(&calls), codec, writers, sink).unwrap();
            assert!(back.0.set(invocations.acknowledger()).is_ok());
            (invocations, publisher, count)
        };
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
            eventually("the first works", || first.2.load(Ordering::Relaxed) > 500);
            let second = node();
            eventually("the second works", || second.2.load(Ordering::Relaxed) > 500);
            let third = node();
            eventually("the third works", || third.2.load(Ordering::Relaxed) > 500);
            assert_eq!(first.0.shutdown(LONG), 0);
            // Dropped in the midst of its work: what is in flight is read again by another node.
            drop(second.0);
            stop.store(true, Ordering::SeqCst);
            published = feeder.join().unwrap();
            let committed = || -> i64 { brokers.committed(&group, calls, 6).values().map(|(next, _)| next).sum() };
            eventually("the last one answers the rest", || committed() == i64::from(published));
            assert_eq!(third.0.shutdown(LONG), 0);
        });
        let follower = Answers::default();
        let answers = Arc::clone(&follower.0);
        let connection = brokers.connection(&unique("group"));
        let tail = Tail::start(&connection, &results, "answers", Start::Beginning, follower).unwrap();
        eventually("all results are read", || tail.is_caught_up());
        let answers = answers.lock().unwrap();
        assert_eq!(answers.len(), published as usize, "every call has a result");
        let repeated = answers.values().filter(|count| **count > 1).count();
        println!("{published} calls, {repeated} of them answered more than once");
    }
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
    eventually("all are read", || seen.numbers.lock().unwrap().len() == count as usize);
    let took = began.elapsed();
    let rate = (count as usize - before) as f64 / took.as_secs_f64();
    let counters = invocations.counters();
    println!("{rate:.0} messages a second ({count} in {took:?}, {} pauses)", counters.pauses.load(Ordering::Relaxed));
    assert_eq!(invocations.shutdown(LONG), 0);
}
