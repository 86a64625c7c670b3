//! The rooms that talk to Kafka, against brokers: librdkafka's mock cluster in this process, and where `FOREWARM_TEST_KAFKA`
//! names one (`host:port`), a real broker. What only a real broker does is left out without it, with a line that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarm::codec::{Codec, Event, NoSchemaRegistry, SchemaLookup, WireFormat, WriterSchemas};
use forewarm::ingest::pre_triggers::{PreTriggerEvent, PreTriggers};
use forewarm::ingest::{Acknowledger, Invocations, Received, Settings, Sink};
use forewarm::kafka::tail::{Fenced, Follower, Message, Start, Step, Tail};
use forewarm::kafka::{Connection, TopicFinding, TopicSpec, ensure_topics};
use forewarm::publish::{
    DeadLetter, Deliveries, Destination, HEADER_OMITTED, HEADER_REASON, PublishError, Publisher, Record, Refusal,
    Refused, Topics,
};
use forewarm::registry::{Registry, RegistryEvent};
use forewarm::types::{FunctionName, Invocation, NextOffset, Offset, Position, PreTrigger, Timestamp};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

/// As long as anything here may take; a test that works never waits for it.
const LONG: Duration = Duration::from_secs(60);

struct Brokers {
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
    bootstrap: String,
}

impl Brokers {
    fn mock() -> Self {
        let mock = MockCluster::new(1).unwrap();
        let bootstrap = mock.bootstrap_servers();
        Self { mock: Some(mock), bootstrap }
    }

    /// None where no real broker is named.
    fn real() -> Option<Self> {
        match std::env::var("FOREWARM_TEST_KAFKA") {
            Ok(bootstrap) if !bootstrap.is_empty() => Some(Self { mock: None, bootstrap }),
            _ => {
                println!("left out: FOREWARM_TEST_KAFKA names no broker");
                None
            }
        }
    }

    fn both() -> Vec<Self> {
        [Some(Self::mock()), Self::real()].into_iter().flatten().collect()
    }

    fn connection(&self, group: &str) -> Connection {
        let properties =
            [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500"), ("fetch.wait.max.ms", "50")];
        Connection {
            bootstrap_servers: self.bootstrap.clone(),
            client_id: "test".to_owned(),
            group_id: group.to_owned(),
            properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    /// A topic of a name that nobody else has.
    fn topic(&self, of: &str, partitions: i32) -> String {
        self.topic_with(of, partitions, &[])
    }

    fn topic_with(&self, of: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let name = unique(of);
        match &self.mock {
            Some(mock) => mock.create_topic(&name, partitions, 1).unwrap(),
            None => self.create(&name, partitions, settings),
        }
        name
    }

    fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
        let admin: AdminClient<_> = self.config().create().unwrap();
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        assert!(made[0].is_ok(), "{made:?}");
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn producer(&self) -> ThreadedProducer<DefaultProducerContext> {
        self.config().set("linger.ms", "1").set("queue.buffering.max.messages", "1000000").create().unwrap()
    }

    /// Publishes calls `range`, the number being the id, spread over the partitions in turn.
    fn call(&self, topic: &str, partitions: i32, range: std::ops::Range<u32>) {
        let (codec, producer) = (Codec::new(), self.producer());
        for number in range {
            let payload = codec.encode(&invocation(number), WireFormat::SingleObject).unwrap();
            let key = number.to_string();
            let record = BaseRecord::to(topic).payload(&payload).key(&key).partition(number as i32 % partitions);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(LONG).unwrap();
    }

    /// Publishes bytes as they are.
    fn send(&self, topic: &str, key: Option<&str>, payload: Option<&[u8]>, headers: &[(&str, &str)]) {
        let producer = self.producer();
        let mut record = BaseRecord::<str, [u8]>::to(topic).partition(0);
        record.key = key;
        record.payload = payload;
        if !headers.is_empty() {
            let owned = headers.iter().fold(OwnedHeaders::new(), |owned, (key, value)| {
                owned.insert(Header { key, value: Some(value.as_bytes()) })
            });
            record = record.headers(owned);
        }
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(LONG).unwrap();
    }

    /// Reads `count` messages of partition 0 from the beginning.
    fn read(&self, topic: &str, count: usize) -> Vec<Read> {
        let consumer: BaseConsumer = self.config().set("group.id", "reads").create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let deadline = Instant::now() + LONG;
        let mut read = Vec::new();
        while read.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} messages", read.len());
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let headers = message.headers().map(|headers| {
                    let pairs = headers.iter().map(|header| {
                        (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
                    });
                    pairs.collect()
                });
                read.push(Read {
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers: headers.unwrap_or_default(),
                });
            }
        }
        read
    }

    /// What the group has committed, by partition: the offset and the metadata.
    fn committed(&self, group: &str, topic: &str, partitions: i32) -> BTreeMap<i32, (i64, String)> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let list = consumer.committed_offsets(list, LONG).unwrap();
        let elements = list.elements();
        let committed = elements.iter().filter_map(|element| match element.offset() {
            rdkafka::Offset::Offset(next) => Some((element.partition(), (next, element.metadata().to_owned()))),
            _ => None,
        });
        committed.collect()
    }
}

#[derive(Debug)]
struct Read {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, String)>,
}

impl Read {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn unique(of: &str) -> String {
    format!("{of}-{}", uuid::Uuid::now_v7())
}

fn invocation(number: u32) -> Invocation {
    serde_json::from_value(serde_json::json!({ "id": number.to_string(), "function": "f", "invoked_at": 1 })).unwrap()
}

fn number(received: &Received) -> u32 {
    received.content.as_ref().unwrap().id.parse().unwrap()
}

fn settings(topic: &str) -> Settings {
    Settings {
        topic: topic.to_owned(),
        in_flight_max: 10_000,
        in_flight_bytes_max: 64 << 20,
        commit_interval: Duration::from_millis(50),
        commit_completions: 1_000,
        drain_timeout: Duration::from_secs(5),
    }
}

/// Waits for a state that another thread brings about.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Sends everything on.
struct Forward(Sender<Received>);

impl Sink for Forward {
    fn received(&mut self, received: Received) {
        let _ = self.0.send(received);
    }
}

fn consume(brokers: &Brokers, group: &str, settings: Settings) -> (Invocations, Receiver<Received>) {
    consume_with(brokers, group, settings, Arc::new(NoSchemaRegistry))
}

fn consume_with(
    brokers: &Brokers,
    group: &str,
    settings: Settings,
    writers: Arc<dyn WriterSchemas>,
) -> (Invocations, Receiver<Received>) {
    let (sender, receiver) = channel();
    let connection = brokers.connection(group);
    let started = Invocations::start(&connection, settings, Arc::new(Codec::new()), writers, Forward(sender)).unwrap();
    (started, receiver)
}

/// A sink that acknowledges at once, on the poll thread, and remembers what it saw.
#[derive(Default)]
struct Seen {
    acknowledger: Mutex<Option<Acknowledger>>,
    numbers: Mutex<Vec<u32>>,
    assigned: Mutex<BTreeSet<i32>>,
    failed: AtomicBool,
}

struct AtOnce(Arc<Seen>);

impl Sink for AtOnce {
    fn received(&mut self, received: Received) {
        self.0.numbers.lock().unwrap().push(number(&received));
        // The acknowledger is there before the topic has its first message.
        let acknowledger = self.0.acknowledger.lock().unwrap();
        acknowledger.as_ref().unwrap().acknowledge(received.position, received.bytes);
    }

    fn assigned(&mut self, partitions: &[i32]) {
        self.0.assigned.lock().unwrap().extend(partitions);
    }

    fn revoked(&mut self, partitions: &[i32]) {
        self.0.assigned.lock().unwrap().retain(|partition| !partitions.contains(partition));
    }

    fn failed_for_good(&mut self, _: &str) {
        self.0.failed.store(true, Ordering::SeqCst);
    }
}

fn consume_at_once(brokers: &Brokers, group: &str, settings: Settings) -> (Invocations, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let (connection, sink) = (brokers.connection(group), AtOnce(Arc::clone(&seen)));
    let codec = Arc::new(Codec::new());
    // The sink must not be called before it has its acknowledger.
    let mut slot = seen.acknowledger.lock().unwrap();
    let started = Invocations::start(&connection, settings, codec, Arc::new(NoSchemaRegistry), sink).unwrap();
    *slot = Some(started.acknowledger());
    drop(slot);
    (started, seen)
}

// --- invocations ----------------------------------------------------------------------------------------------------

#[test]
fn calls_come_once_with_what_they_carry_and_their_offsets_are_committed() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("calls", 3);
        let group = unique("group");
        brokers.call(&topic, 3, 0..300);
        brokers.send(&topic, Some("k"), Some(b"no event"), &[("a", "1"), ("traceparent", "x")]);
        brokers.send(&topic, None, None, &[]);
        let (invocations, received) = consume(&brokers, &group, settings(&topic));
        let acknowledger = invocations.acknowledger();
        let mut numbers = BTreeSet::new();
        let mut poison = Vec::new();
        for _ in 0..302 {
            let received = received.recv_timeout(LONG).unwrap();
            acknowledger.acknowledge(received.position, received.bytes);
            match &received.content {
                Ok(invocation) => {
                    assert_eq!(received.key.as_deref(), Some(invocation.id.as_bytes()));
                    assert!(numbers.insert(number(&received)));
                }
                Err(_) => poison.push(received),
            }
        }
        assert_eq!(numbers.len(), 300);
        assert_eq!(poison.len(), 2);
        let first = poison.remove(0);
        let content = first.content.unwrap_err();
        assert_eq!((first.position.partition, first.position.offset), (0, Offset(100)));
        assert_eq!((content.payload.as_deref(), content.error.reason()), (Some(&b"no event"[..]), "unknown_format"));
        assert_eq!((content.topic.as_ref(), first.key.as_deref()), (topic.as_str(), Some(&b"k"[..])));
        assert_eq!(first.headers, [("a".to_owned(), b"1".to_vec()), ("traceparent".to_owned(), b"x".to_vec())]);
        assert_eq!(first.bytes, 1 + 8 + 2 + 12);
        let second = poison.remove(0).content.unwrap_err();
        assert_eq!((second.payload, second.error.reason()), (None, "empty"));
        assert!(invocations.is_ready());
        let counters = invocations.counters();
        assert_eq!(invocations.shutdown(LONG), 0);
        assert_eq!(counters.completed.load(Ordering::Relaxed), 302);
        assert_eq!(counters.poison.load(Ordering::Relaxed), 2);
        let committed = brokers.committed(&group, &topic, 3);
        assert_eq!(committed[&0], (102, String::new()));
        assert_eq!(committed[&1], (100, String::new()));
        assert_eq!(committed[&2], (100, String::new()));
    }
}

#[test]
fn what_was_done_out_of_order_is_not_run_again_after_a_restart() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("calls", 1);
        let group = unique("group");
        brokers.call(&topic, 1, 0..100);
        let (invocations, received) = consume(&brokers, &group, settings(&topic));
        let acknowledger = invocations.acknowledger();
        for _ in 0..100 {
            let received = received.recv_timeout(LONG).unwrap();
            let number = number(&received);
            // 0 to 9 are done, 10 is not, 11 to 49 are, and of the rest every other one.
            if number != 10 && (number < 50 || number.is_multiple_of(2)) {
                acknowledger.acknowledge(received.position, received.bytes);
            }
        }
        // As in a crash, nothing more comes; but what was acknowledged has been committed by then.
        assert_eq!(invocations.shutdown(Duration::from_millis(200)), 26);
        let (next, metadata) = brokers.committed(&group, &topic, 1)[&0].clone();
        assert_eq!(next, 10);
        assert!(metadata.starts_with("forewarm1:"), "{metadata}");

        let (invocations, received) = consume(&brokers, &group, settings(&topic));
        let acknowledger = invocations.acknowledger();
        let again: Vec<u32> = (0..26)
            .map(|_| {
                let received = received.recv_timeout(LONG).unwrap();
                acknowledger.acknowledge(received.position, received.bytes);
                number(&received)
            })
            .collect();
        let expected: Vec<u32> = std::iter::once(10).chain((50..100).filter(|number| number % 2 == 1)).collect();
        assert_eq!(again, expected);
        let counters = invocations.counters();
        eventually("everything is passed over or done", || counters.already_done.load(Ordering::Relaxed) == 74);
        assert_eq!(invocations.shutdown(LONG), 0);
        assert!(received.try_recv().is_err());
        assert_eq!(brokers.committed(&group, &topic, 1)[&0], (100, String::new()));
    }
}

#[test]
fn at_a_bound_intake_pauses_and_goes_on_when_there_is_room() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("calls", 2);
        brokers.call(&topic, 2, 0..200);
        let bounded = Settings { in_flight_max: 10, ..settings(&topic) };
        let (invocations, received) = consume(&brokers, &unique("group"), bounded);
        let acknowledger = invocations.acknowledger();
        let counters = invocations.counters();
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(received.recv_timeout(LONG).unwrap());
        }
        // Longer than it takes until partitions are paused: nothing comes.
        assert!(received.recv_timeout(Duration::from_millis(400)).is_err());
        assert_eq!(counters.pauses.load(Ordering::Relaxed), 1);
        assert_eq!(invocations.in_flight(), 10);
        // Two are not enough: below 80 % means fewer than 8.
        for received in waiting.drain(..2) {
            acknowledger.acknowledge(received.position, received.bytes);
        }
        assert!(received.recv_timeout(Duration::from_millis(200)).is_err());
        let mut numbers: BTreeSet<u32> = BTreeSet::new();
        for received in waiting {
            acknowledger.acknowledge(received.position, received.bytes);
        }
        for _ in 0..190 {
            let received = received.recv_timeout(LONG).unwrap();
            acknowledger.acknowledge(received.position, received.bytes);
            assert!(numbers.insert(number(&received)), "{numbers:?}");
        }
        assert_eq!(invocations.shutdown(LONG), 0);
    }
}

#[test]
fn bytes_are_bounded_like_messages() {
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 1);
    for _ in 0..4 {
        brokers.send(&topic, None, Some(&[0xff; 1_000]), &[]);
    }
    let bounded = Settings { in_flight_bytes_max: 1_500, ..settings(&topic) };
    let (invocations, received) = consume(&brokers, &unique("group"), bounded);
    let acknowledger = invocations.acknowledger();
    let first = received.recv_timeout(LONG).unwrap();
    let second = received.recv_timeout(LONG).unwrap();
    assert!(received.recv_timeout(Duration::from_millis(300)).is_err());
    for waiting in [first, second] {
        acknowledger.acknowledge(waiting.position, waiting.bytes);
    }
    assert!(received.recv_timeout(LONG).is_ok());
    assert_eq!(invocations.shutdown(Duration::from_millis(100)), 2);
}

#[test]
fn acknowledgements_that_do_not_count_are_counted() {
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 1);
    brokers.call(&topic, 1, 0..1);
    let (invocations, received) = consume(&brokers, &unique("group"), settings(&topic));
    let acknowledger = invocations.acknowledger();
    let counters = invocations.counters();
    let Received { position, bytes, .. } = received.recv_timeout(LONG).unwrap();
    acknowledger.acknowledge(position, bytes);
    acknowledger.acknowledge(position, bytes);
    acknowledger.acknowledge(Position { partition: 77, ..position }, bytes);
    eventually("all three are judged", || {
        [&counters.completed, &counters.unknown, &counters.fenced]
            .iter()
            .all(|counter| counter.load(Ordering::Relaxed) == 1)
    });
    assert_eq!(invocations.in_flight(), 0);
}

#[test]
fn a_second_node_takes_its_share_without_loss_and_gives_it_back() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("calls", 4);
        let group = unique("group");
        let (first, first_saw) = consume_at_once(&brokers, &group, settings(&topic));
        eventually("the first node has every partition", || first_saw.assigned.lock().unwrap().len() == 4);
        brokers.call(&topic, 4, 0..1_000);
        eventually("the first node reads", || first_saw.numbers.lock().unwrap().len() == 1_000);
        let (second, second_saw) = consume_at_once(&brokers, &group, settings(&topic));
        let share = |seen: &Seen| seen.assigned.lock().unwrap().len();
        eventually("both have a share", || share(&first_saw) == 2 && share(&second_saw) == 2);
        brokers.call(&topic, 4, 1_000..2_000);
        let both = || first_saw.numbers.lock().unwrap().len() + second_saw.numbers.lock().unwrap().len();
        eventually("both read", || both() == 2_000);
        assert_eq!(second_saw.numbers.lock().unwrap().len(), 500);
        assert_eq!(second.shutdown(LONG), 0);
        eventually("the first node has them all again", || share(&first_saw) == 4);
        brokers.call(&topic, 4, 2_000..3_000);
        eventually("the first node reads all", || both() == 3_000);
        let counters = first.counters();
        assert_eq!(first.shutdown(LONG), 0);
        let mut all = first_saw.numbers.lock().unwrap().clone();
        all.extend(second_saw.numbers.lock().unwrap().iter());
        all.sort_unstable();
        // Orderly moves: nothing is lost and nothing is repeated.
        assert_eq!(all, (0..3_000).collect::<Vec<_>>());
        assert_eq!(counters.abandoned.load(Ordering::Relaxed), 0);
        assert!(counters.revoked.load(Ordering::Relaxed) >= 2);
        assert!(!first_saw.failed.load(Ordering::SeqCst));
        let committed = brokers.committed(&group, &topic, 4);
        assert!(committed.values().all(|(next, _)| *next == 750), "{committed:?}");
    }
}

#[test]
fn partitions_that_go_wait_for_their_calls_and_those_that_take_too_long_run_again() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("calls", 2);
        let group = unique("group");
        brokers.call(&topic, 2, 0..2);
        let patient = Settings { drain_timeout: Duration::from_secs(3), ..settings(&topic) };
        let (first, received) = consume(&brokers, &group, patient.clone());
        let waiting: Vec<Received> = (0..2).map(|_| received.recv_timeout(LONG).unwrap()).collect();
        let began = Instant::now();
        let (second, second_received) = consume(&brokers, &group, patient);
        // Neither call ends; the partition that goes is given up when its time is over, and its call comes to the other node.
        let again = second_received.recv_timeout(LONG).unwrap();
        assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
        let late = waiting.iter().find(|waiting| waiting.position.partition == again.position.partition).unwrap();
        assert_eq!(late.position.offset, again.position.offset);
        let counters = first.counters();
        assert_eq!(counters.abandoned.load(Ordering::Relaxed), 1);
        for waiting in &waiting {
            first.acknowledger().acknowledge(waiting.position, waiting.bytes);
        }
        eventually("one counts and one is late", || {
            counters.completed.load(Ordering::Relaxed) == 1 && counters.fenced.load(Ordering::Relaxed) == 1
        });
        second.acknowledger().acknowledge(again.position, again.bytes);
        assert_eq!(second.shutdown(LONG), 0);
        assert_eq!(first.shutdown(LONG), 0);
        let committed = brokers.committed(&group, &topic, 2);
        assert!(committed.values().all(|(next, _)| *next == 1), "{committed:?}");
        assert!(received.try_recv().is_err() && second_received.try_recv().is_err());
    }
}

/// Schemas that come after a while.
struct Late(AtomicBool);

impl WriterSchemas for Late {
    fn by_id(&self, id: u32) -> Result<Arc<apache_avro::Schema>, SchemaLookup> {
        assert_eq!(id, 7);
        if self.0.load(Ordering::SeqCst) {
            Ok(Arc::new(Codec::new().schema(Invocation::KIND).clone()))
        } else {
            Err(SchemaLookup::Unavailable("not yet".to_owned()))
        }
    }
}

#[test]
fn a_message_whose_schema_cannot_be_had_waits_with_those_behind_it_and_others_do_not() {
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 2);
    let confluent = Codec::new().encode(&invocation(1_000), WireFormat::Confluent { schema_id: 7 }).unwrap();
    brokers.send(&topic, None, Some(&confluent), &[]);
    brokers.call(&topic, 2, 0..10);
    let late = Arc::new(Late(AtomicBool::new(false)));
    let (invocations, received) = consume_with(&brokers, &unique("group"), settings(&topic), late.clone());
    let acknowledger = invocations.acknowledger();
    let take = |count: usize| -> Vec<u32> {
        let take = (0..count).map(|_| {
            let received = received.recv_timeout(LONG).unwrap();
            acknowledger.acknowledge(received.position, received.bytes);
            number(&received)
        });
        take.collect()
    };
    assert_eq!(take(5), [1, 3, 5, 7, 9]);
    assert!(received.recv_timeout(Duration::from_millis(100)).is_err());
    late.0.store(true, Ordering::SeqCst);
    assert_eq!(take(6), [1_000, 0, 2, 4, 6, 8]);
    let counters = invocations.counters();
    assert_eq!(invocations.shutdown(LONG), 0);
    assert_eq!(counters.completed.load(Ordering::Relaxed), 11);
    assert_eq!(counters.poison.load(Ordering::Relaxed), 0);
}

#[test]
fn a_panic_in_the_sink_is_a_consumer_that_failed_for_good() {
    struct Panics;
    impl Sink for Panics {
        fn received(&mut self, _: Received) {
            panic!("as the test wants it");
        }
    }
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 1);
    brokers.call(&topic, 1, 0..1);
    let connection = brokers.connection(&unique("group"));
    let codec = Arc::new(Codec::new());
    let invocations =
        Invocations::start(&connection, settings(&topic), codec, Arc::new(NoSchemaRegistry), Panics).unwrap();
    eventually("the panic is known", || invocations.health().fatal().is_some());
    assert!(!invocations.is_ready());
}

#[test]
fn brokers_that_go_and_come_back_change_readiness_and_lose_nothing() {
    let brokers = Brokers::mock();
    let mock = brokers.mock.as_ref().unwrap();
    let topic = brokers.topic("calls", 1);
    let (invocations, seen) = consume_at_once(&brokers, &unique("group"), settings(&topic));
    brokers.call(&topic, 1, 0..100);
    eventually("all are read", || seen.numbers.lock().unwrap().len() == 100);
    assert!(invocations.is_ready());
    mock.broker_down(1).unwrap();
    eventually("it is noticed", || !invocations.is_ready());
    mock.broker_up(1).unwrap();
    eventually("it is noticed without traffic", || invocations.is_ready());
    brokers.call(&topic, 1, 100..200);
    eventually("the rest is read", || seen.numbers.lock().unwrap().iter().collect::<BTreeSet<_>>().len() == 200);
    assert_eq!(invocations.shutdown(LONG), 0);
}

// --- tail, registry, pre-triggers -----------------------------------------------------------------------------------

struct Keys {
    seen: Arc<Mutex<Vec<String>>>,
    again: u32,
}

impl Follower for Keys {
    fn message(&mut self, message: &Message<'_>) -> Step {
        if self.again > 0 {
            self.again -= 1;
            return Step::Again;
        }
        let key = String::from_utf8(message.key.unwrap_or_default().to_vec()).unwrap();
        self.seen.lock().unwrap().push(key);
        Step::Done
    }

    fn caught_up(&mut self) {
        self.seen.lock().unwrap().push("end".to_owned());
    }
}

#[test]
fn a_tail_reads_from_where_it_is_told_and_a_fence_comes_after_what_was_there() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("followed", 2);
        for key in ["a", "b", "c"] {
            brokers.send(&topic, Some(key), Some(b"x"), &[]);
        }
        let connection = brokers.connection(&unique("group"));
        let (seen, from_end) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
        let follower = Keys { seen: Arc::clone(&seen), again: 3 };
        let tail = Tail::start(&connection, &topic, "tail", Start::Beginning, follower).unwrap();
        let late = Keys { seen: Arc::clone(&from_end), again: 0 };
        let late = Tail::start(&connection, &topic, "late", Start::End, late).unwrap();
        eventually("both have caught up", || tail.is_caught_up() && late.is_caught_up());
        assert_eq!(*seen.lock().unwrap(), ["a", "b", "c", "end"]);
        for round in 0..20 {
            let key = round.to_string();
            brokers.send(&topic, Some(&key), Some(b"x"), &[]);
            assert!(tail.fences().wait(LONG));
            assert_eq!(seen.lock().unwrap().last(), Some(&key));
        }
        assert!(late.fences().wait(LONG));
        assert_eq!(from_end.lock().unwrap().len(), 21);
        assert_eq!(from_end.lock().unwrap()[..2], ["end", "0"]);
        assert!(tail.health().is_up());
        let fences = tail.fences();
        tail.stop();
        assert!(!fences.wait(LONG));
    }
}

#[test]
fn a_fence_waits_while_the_brokers_are_away_and_is_told_of_a_stop() {
    let brokers = Brokers::mock();
    let mock = brokers.mock.as_ref().unwrap();
    let topic = brokers.topic("followed", 1);
    let follower = Keys { seen: Arc::default(), again: 0 };
    let connection = brokers.connection(&unique("group"));
    let tail = Tail::start(&connection, &topic, "tail", Start::Beginning, follower).unwrap();
    eventually("it has caught up", || tail.is_caught_up());
    mock.broker_down(1).unwrap();
    assert!(!tail.fences().wait(Duration::from_secs(1)));
    mock.broker_up(1).unwrap();
    assert!(tail.fences().wait(LONG));
    mock.broker_down(1).unwrap();
    let (sender, fenced) = channel();
    assert!(tail.fences().fence(move |how| sender.send(how).unwrap()));
    tail.stop();
    assert_eq!(fenced.recv_timeout(LONG), Ok(Fenced::Stopped));
}

#[test]
fn a_topic_that_is_not_there_yet_is_waited_for() {
    let Some(brokers) = Brokers::real() else { return };
    let topic = unique("later");
    let seen = Arc::new(Mutex::default());
    let follower = Keys { seen: Arc::clone(&seen), again: 0 };
    let connection = brokers.connection(&unique("group"));
    let tail = Tail::start(&connection, &topic, "tail", Start::Beginning, follower).unwrap();
    eventually("it says so", || tail.health().is_down());
    brokers.create(&topic, 1, &[]);
    brokers.send(&topic, Some("a"), Some(b"x"), &[]);
    eventually("it reads", || seen.lock().unwrap().contains(&"a".to_owned()));
    assert!(tail.fences().wait(LONG));
}

#[test]
fn records_that_are_never_delivered_hold_no_fence_up() {
    let Some(brokers) = Brokers::real() else { return };
    let topic = brokers.topic("followed", 1);
    let producer: ThreadedProducer<DefaultProducerContext> =
        brokers.config().set("transactional.id", unique("transaction")).create().unwrap();
    producer.init_transactions(LONG).unwrap();
    let write = |keys: &[&str], commit: bool| {
        producer.begin_transaction().unwrap();
        for key in keys {
            producer.send(BaseRecord::to(&topic).key(*key).payload("x")).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(LONG).unwrap();
        if commit { producer.commit_transaction(LONG).unwrap() } else { producer.abort_transaction(LONG).unwrap() }
    };
    write(&["a"], true);
    write(&["given up"], false);
    let seen = Arc::new(Mutex::default());
    let follower = Keys { seen: Arc::clone(&seen), again: 0 };
    let connection = brokers.connection(&unique("group"));
    let tail = Tail::start(&connection, &topic, "tail", Start::Beginning, follower).unwrap();
    eventually("it has caught up behind a marker", || tail.is_caught_up());
    assert!(tail.fences().wait(LONG));
    write(&["b"], true);
    assert!(tail.fences().wait(LONG));
    assert_eq!(*seen.lock().unwrap(), ["a", "end", "b"]);
    write(&["given up too"], false);
    assert!(tail.fences().wait(LONG));
    assert!(tail.fences().wait(LONG));
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[test]
fn the_registry_says_the_last_of_each_name_and_then_what_changes() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("functions", 1);
        let (codec, json) = (Arc::new(Codec::new()), [("content-type", "application/json")]);
        let define = |key: &str, name: &str, version: &str, floor: u32| {
            let definition = serde_json::json!({
                "name": name, "version": version, "kind": "command", "warm": { "floor": floor },
                "artifact": { "uri": "store:", "sha256": "0".repeat(64) },
            });
            brokers.send(&topic, Some(key), Some(definition.to_string().as_bytes()), &json);
        };
        define("a", "a", "1", 0);
        define("a", "a", "2", 0);
        define("gone", "gone", "1", 0);
        brokers.send(&topic, Some("gone"), None, &[]);
        define("b", "other", "1", 0);
        let (sender, events) = channel();
        let say = move |event| sender.send(event).unwrap();
        let connection = brokers.connection(&unique("group"));
        let registry = Registry::start(&connection, &topic, codec, Arc::new(NoSchemaRegistry), say).unwrap();
        let next = || match events.recv_timeout(LONG).unwrap() {
            RegistryEvent::Defined(definition) => format!("+{} {}", definition.name, definition.version),
            RegistryEvent::Removed(name) => format!("-{name}"),
            RegistryEvent::Refused { function, reason } => format!("!{function}: {reason}"),
            RegistryEvent::CaughtUp => "end".to_owned(),
        };
        assert_eq!(next(), "+a 2");
        assert_eq!(next(), "!b: the record's key is b and the definition's name is other");
        assert_eq!(next(), "end");
        define("a", "a", "3", 1_000);
        assert_eq!(next(), "!a: warm.floor must not be above warm.ceiling");
        define("a", "a", "4", 1);
        assert!(registry.fences().wait(LONG));
        assert_eq!(events.try_recv().map(|event| matches!(event, RegistryEvent::Defined(_))), Ok(true));
        brokers.send(&topic, Some("a"), None, &[]);
        brokers.send(&topic, Some("no name!"), Some(b"x"), &[]);
        assert_eq!(next(), "-a");
        assert!(next().starts_with("!no name!: the record's key is no function name"));
        assert_eq!(registry.counters().read.load(Ordering::Relaxed), 9);
        assert_eq!(registry.counters().refused.load(Ordering::Relaxed), 3);
        registry.stop();
    }
}

#[test]
fn pre_triggers_come_from_the_window_on_and_only_new_malformed_ones_are_handed_on() {
    for brokers in Brokers::both() {
        let topic = brokers.topic("pre-triggers", 1);
        let codec = Arc::new(Codec::new());
        let pre_trigger = |id: &str| -> Vec<u8> {
            let event: PreTrigger = serde_json::from_value(serde_json::json!({
                "id": id, "source": "s", "function": "f", "emitted_at": 1,
            }))
            .unwrap();
            Codec::new().encode(&event, WireFormat::SingleObject).unwrap()
        };
        brokers.send(&topic, None, Some(&pre_trigger("1")), &[]);
        brokers.send(&topic, None, Some(b"old and malformed"), &[]);
        let (sender, events) = channel();
        let sink = move |event: PreTriggerEvent| {
            let room = !matches!(&event, PreTriggerEvent::Received(event) if event.id == "no room");
            sender.send(event).unwrap();
            room
        };
        let connection = brokers.connection(&unique("group"));
        let reader =
            PreTriggers::start(&connection, &topic, Start::Beginning, codec, Arc::new(NoSchemaRegistry), sink).unwrap();
        eventually("it has caught up", || reader.is_caught_up());
        brokers.send(&topic, Some("k"), Some(b"new and malformed"), &[("a", "1")]);
        brokers.send(&topic, None, Some(&pre_trigger("no room")), &[]);
        let next = || events.recv_timeout(LONG).unwrap();
        assert!(matches!(next(), PreTriggerEvent::Received(event) if event.id == "1"));
        match next() {
            PreTriggerEvent::Malformed { poison, partition, offset, key, headers } => {
                assert_eq!(poison.payload.as_deref(), Some(&b"new and malformed"[..]));
                assert_eq!((partition, offset, key.as_deref()), (0, Offset(2), Some(&b"k"[..])));
                assert_eq!(headers, [("a".to_owned(), b"1".to_vec())]);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(next(), PreTriggerEvent::Received(event) if event.id == "no room"));
        let counters = reader.counters();
        reader.stop();
        let counted = [&counters.received, &counters.dropped, &counters.malformed];
        assert_eq!(counted.map(|counter| counter.load(Ordering::Relaxed)), [1, 1, 2]);
    }
}

#[test]
fn pre_triggers_from_before_the_window_are_not_read() {
    let Some(brokers) = Brokers::real() else { return };
    let topic = brokers.topic("pre-triggers", 1);
    let producer = brokers.producer();
    for (key, millis) in [("old", 1_000_000), ("young", 2_000_000)] {
        let record = BaseRecord::to(&topic).key(key).payload("x").timestamp(millis);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(LONG).unwrap();
    }
    let seen = Arc::new(Mutex::default());
    let follower = Keys { seen: Arc::clone(&seen), again: 0 };
    let connection = brokers.connection(&unique("group"));
    let since = Start::Since(Timestamp::from_millis(1_500_000));
    let tail = Tail::start(&connection, &topic, "tail", since, follower).unwrap();
    eventually("it has caught up", || tail.is_caught_up());
    assert_eq!(*seen.lock().unwrap(), ["young", "end"]);
    let nothing_since = Start::Since(Timestamp::from_millis(3_000_000));
    let follower = Keys { seen: Arc::default(), again: 0 };
    let empty = Tail::start(&connection, &topic, "empty", nothing_since, follower).unwrap();
    eventually("it has nothing to catch up on", || empty.is_caught_up());
}

#[test]
fn topics_are_made_where_they_are_missing_and_a_functions_topic_must_be_compacted() {
    let Some(brokers) = Brokers::real() else { return };
    let connection = brokers.connection("");
    let plain = brokers.topic("plain", 1);
    let missing = unique("missing");
    let spec = |name: &str, compacted| TopicSpec { name: name.to_owned(), partitions: 3, replication: 1, compacted };
    let specs = [spec(&plain, true), spec(&missing, true)];
    let refused = ensure_topics(&connection, &specs, false, LONG).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("topic {missing} does not exist; create it with 3 or more partitions, or let this service create it")
    );
    let findings = ensure_topics(&connection, &specs, true, LONG).unwrap();
    let expected = [
        TopicFinding::Created { topic: missing.clone() },
        TopicFinding::NotCompacted { topic: plain, policy: "delete".to_owned() },
    ];
    assert_eq!(findings, expected);
    eventually("the new topic is known", || ensure_topics(&connection, &specs[1..], false, LONG).is_ok());
}

// --- publish --------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Ends {
    acknowledged: Mutex<BTreeMap<i64, usize>>,
    refused: Mutex<Vec<Refused>>,
}

impl Deliveries for Ends {
    fn acknowledged(&self, position: Position, bytes: usize) {
        assert_eq!(self.acknowledged.lock().unwrap().insert(position.offset.0, bytes), None);
    }

    fn refused(&self, refused: Refused) {
        self.refused.lock().unwrap().push(refused);
    }

    fn failed_for_good(&self, reason: &str) {
        panic!("{reason}");
    }
}

fn position(offset: i64) -> Position {
    Position { partition: 0, offset: Offset(offset), generation: forewarm::types::Generation(1) }
}

fn result(key: &str, payload: Vec<u8>) -> Record {
    Record {
        destination: Destination::Results,
        key: Some(key.as_bytes().to_vec()),
        headers: vec![("h".to_owned(), b"v".to_vec())],
        payload: Some(payload),
    }
}

fn publisher(brokers: &Brokers, results: &str, dead_letters: &str) -> (Publisher, Arc<Ends>) {
    let ends = Arc::new(Ends::default());
    let topics = Topics { results: results.to_owned(), dead_letters: dead_letters.to_owned() };
    let deliveries = Arc::clone(&ends) as Arc<dyn Deliveries>;
    (Publisher::start(&brokers.connection(""), topics, deliveries).unwrap(), ends)
}

fn letter(payload: Vec<u8>) -> Record {
    let letter = DeadLetter {
        topic: "calls",
        partition: 0,
        offset: Offset(5),
        timestamp: None,
        key: None,
        headers: vec![("a".to_owned(), b"1".to_vec())],
        payload: Some(payload),
        reason: "malformed",
        detail: "why",
        node: "n",
        at: Timestamp::from_millis(1),
    };
    letter.into_record()
}

#[test]
fn every_record_is_acknowledged_once_when_it_is_stored() {
    for brokers in Brokers::both() {
        let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
        let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
        for offset in 0..1_000 {
            publisher.publish(result("k", b"answer".to_vec()), Some(position(offset)), offset as usize).unwrap();
        }
        publisher.publish(letter(b"bad".to_vec()), None, 0).unwrap();
        assert_eq!(publisher.flush(LONG), 0);
        let acknowledged = ends.acknowledged.lock().unwrap();
        assert_eq!(*acknowledged, (0..1_000).map(|offset| (offset, offset as usize)).collect());
        assert_eq!(publisher.counters().acknowledged.load(Ordering::Relaxed), 1_001);
        assert!(publisher.health().is_up());
        let read = brokers.read(&results, 1_000);
        assert!(read.iter().all(|read| read.key.as_deref() == Some(b"k") && read.header("h") == Some("v")));
        let dead = brokers.read(&dead_letters, 1);
        assert_eq!((dead[0].header(HEADER_REASON), dead[0].header("a")), (Some("malformed"), Some("1")));
        assert_eq!(dead[0].payload.as_deref(), Some(&b"bad"[..]));
    }
}

#[test]
fn a_topic_that_comes_late_gets_everything() {
    let Some(brokers) = Brokers::real() else { return };
    let (results, dead_letters) = (unique("results"), brokers.topic("dead", 1));
    let ends = Arc::new(Ends::default());
    let topics = Topics { results: results.clone(), dead_letters };
    let mut connection = brokers.connection("");
    // How long librdkafka itself looks for a topic before it gives a record back.
    connection.properties.insert("topic.metadata.propagation.max.ms".to_owned(), "200".to_owned());
    connection.properties.insert("message.timeout.ms".to_owned(), "1000".to_owned());
    let publisher = Publisher::start(&connection, topics, Arc::clone(&ends) as Arc<dyn Deliveries>).unwrap();
    for offset in 0..50 {
        publisher.publish(result("k", b"x".to_vec()), Some(position(offset)), 1).unwrap();
    }
    let counters = publisher.counters();
    eventually("it is tried again", || counters.resent.load(Ordering::Relaxed) >= 50);
    assert!(ends.acknowledged.lock().unwrap().is_empty());
    assert!(publisher.health().is_down());
    brokers.create(&results, 1, &[]);
    assert_eq!(publisher.flush(LONG), 0);
    assert_eq!(ends.acknowledged.lock().unwrap().len(), 50);
    eventually("it works again", || publisher.health().is_up());
}

#[test]
fn brokers_that_are_away_for_a_while_cost_nothing() {
    let brokers = Brokers::mock();
    let mock = brokers.mock.as_ref().unwrap();
    let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
    let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
    publisher.publish(result("k", b"x".to_vec()), Some(position(0)), 1).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    mock.broker_down(1).unwrap();
    eventually("it is noticed", || publisher.health().is_down());
    for offset in 1..100 {
        publisher.publish(result("k", b"x".to_vec()), Some(position(offset)), 1).unwrap();
    }
    assert_eq!(publisher.flush(Duration::from_millis(300)), 99);
    mock.broker_up(1).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    assert_eq!(ends.acknowledged.lock().unwrap().len(), 100);
}

#[test]
fn a_record_that_is_too_large_comes_back_and_a_dead_letter_shrinks() {
    for brokers in Brokers::both() {
        let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
        let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
        let large = result("k", vec![7; 2_000_000]);
        let error = publisher.publish(large.clone(), Some(position(1)), 9).unwrap_err();
        let PublishError::TooLarge { topic, bytes, record } = error else { panic!("{error}") };
        assert_eq!((topic.as_str(), bytes, *record), (results.as_str(), 2_000_001, large));
        publisher.publish(letter(vec![7; 2_000_000]), Some(position(2)), 9).unwrap();
        assert_eq!(publisher.flush(LONG), 0);
        assert_eq!(ends.acknowledged.lock().unwrap().keys().copied().collect::<Vec<_>>(), [2]);
        let dead = brokers.read(&dead_letters, 1);
        assert_eq!((dead[0].payload.as_deref(), dead[0].header(HEADER_OMITTED)), (None, Some("2000000")));
        assert_eq!(dead[0].header("a"), Some("1"));
    }
}

#[test]
fn a_topic_with_a_lower_limit_refuses_what_is_too_large_for_it_and_nothing_beside_it() {
    let Some(brokers) = Brokers::real() else { return };
    let lower = [("max.message.bytes", "20000")];
    let (results, dead_letters) = (brokers.topic_with("results", 1, &lower), brokers.topic_with("dead", 1, &lower));
    let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
    // Together they make batches that are larger than the topic takes; alone only one of them is.
    for offset in 0..20 {
        let payload = vec![7; if offset == 13 { 30_000 } else { 5_000 }];
        publisher.publish(result("k", payload), Some(position(offset)), 9).unwrap();
    }
    publisher.publish(letter(vec![7; 30_000]), Some(position(100)), 9).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    let expected: Vec<i64> = (0..20).filter(|offset| *offset != 13).chain([100]).collect();
    assert_eq!(ends.acknowledged.lock().unwrap().keys().copied().collect::<Vec<_>>(), expected);
    let refused = ends.refused.lock().unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].position, &refused[0].refusal), (Some(position(13)), &Refusal::TooLarge));
    assert_eq!(refused[0].record, result("k", vec![7; 30_000]));
}

#[test]
fn a_record_that_the_broker_finds_invalid_comes_back() {
    let Some(brokers) = Brokers::real() else { return };
    let (results, dead_letters) =
        (brokers.topic_with("results", 1, &[("cleanup.policy", "compact")]), brokers.topic("dead", 1));
    let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
    let keyless = Record { key: None, ..result("", b"x".to_vec()) };
    publisher.publish(keyless.clone(), Some(position(1)), 9).unwrap();
    publisher.publish(result("k", b"x".to_vec()), Some(position(2)), 9).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    assert_eq!(ends.acknowledged.lock().unwrap().keys().copied().collect::<Vec<_>>(), [2]);
    let refused = ends.refused.lock().unwrap();
    assert_eq!((refused.len(), &refused[0].record), (1, &keyless));
    assert!(matches!(refused[0].refusal, Refusal::Invalid(_)));
}

// --- all together ---------------------------------------------------------------------------------------------------

/// Publishes a result for each call and acknowledges it when it is stored: the service's two ends without a middle.
struct Echo {
    publisher: Arc<Publisher>,
    count: Arc<std::sync::atomic::AtomicU64>,
}

impl Sink for Echo {
    fn received(&mut self, received: Received) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let record = result("k", received.content.unwrap().id.into_bytes());
        self.publisher.publish(record, Some(received.position), received.bytes).unwrap();
    }
}

struct Back(std::sync::OnceLock<Acknowledger>);

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
            let back = Arc::new(Back(std::sync::OnceLock::new()));
            let topics = Topics { results: results.clone(), dead_letters: results.clone() };
            let deliveries = Arc::clone(&back) as Arc<dyn Deliveries>;
            let publisher = Arc::new(Publisher::start(&brokers.connection(&group), topics, deliveries).unwrap());
            let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let sink = Echo { publisher: Arc::clone(&publisher), count: Arc::clone(&count) };
            let connection = brokers.connection(&group);
            let codec = Arc::new(Codec::new());
            let writers = Arc::new(NoSchemaRegistry);
            let invocations = Invocations::start(&connection, settings(&calls), codec, writers, sink).unwrap();
            assert!(back.0.set(invocations.acknowledger()).is_ok());
            (invocations, publisher, count)
        };
        let stop = AtomicBool::new(false);
        let mut published = 0_u32;
        std::thread::scope(|scope| {
            let feeder = scope.spawn(|| {
                let mut next = 0;
                while !stop.load(Ordering::SeqCst) {
                    brokers.call(&calls, 6, next..next + 500);
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
            let committed = || -> i64 { brokers.committed(&group, &calls, 6).values().map(|(next, _)| next).sum() };
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

#[test]
fn metadata_of_another_program_costs_nothing_but_itself() {
    let Some(brokers) = Brokers::real() else { return };
    let topic = brokers.topic("calls", 1);
    let group = unique("group");
    brokers.call(&topic, 1, 0..10);
    let other: BaseConsumer = brokers.config().set("group.id", &group).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    let mut element = list.add_partition(&topic, 0);
    element.set_offset(rdkafka::Offset::Offset(4)).unwrap();
    element.set_metadata("somebody else");
    other.commit(&list, CommitMode::Sync).unwrap();
    drop(other);
    let (invocations, received) = consume(&brokers, &group, settings(&topic));
    assert_eq!(number(&received.recv_timeout(LONG).unwrap()), 4);
    assert_eq!(invocations.counters().metadata_faults.load(Ordering::Relaxed), 1);
    let _ = NextOffset(4);
    let _ = FunctionName::new("f");
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
