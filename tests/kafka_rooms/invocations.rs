//! The consumer of invocations.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarm::codec::{
    Codec, Event, NoSchemaRegistry, SchemaKey, SchemaLookup, WireFormat, WriterSchema, WriterSchemas,
};
use forewarm::ingest::{Acknowledger, Invocations, Received, Settings, Sink};
use forewarm::types::{Invocation, Offset, Position};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::Producer as _;

use crate::brokers::{Brokers, LONG, eventually, invocation, number, settings, unique};

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
pub struct Seen {
    acknowledger: Mutex<Option<Acknowledger>>,
    pub numbers: Mutex<Vec<u32>>,
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

pub fn consume_at_once(brokers: &Brokers, group: &str, settings: Settings) -> (Invocations, Arc<Seen>) {
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
        assert_eq!(
            first.headers,
            [("a".to_owned(), Some(b"1".to_vec())), ("traceparent".to_owned(), Some(b"x".to_vec()))]
        );
        // Its place in every table, key, value, two headers, and the least that an allocator gives each of their four texts.
        assert_eq!(first.bytes, 512 + 1 + 8 + 2 * 48 + 4 * 32);
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
        eventually("everything is passed over or done", || counters.already_done.load(Ordering::Relaxed) == 64);
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
    let bounded = Settings { in_flight_bytes_max: 2_500, ..settings(&topic) };
    let (invocations, received) = consume(&brokers, &unique("group"), bounded);
    let acknowledger = invocations.acknowledger();
    let first = received.recv_timeout(LONG).unwrap();
    let second = received.recv_timeout(LONG).unwrap();
    assert!(received.recv_timeout(Duration::from_millis(300)).is_err());
    for waiting in [first, second] {
        acknowledger.acknowledge(waiting.position, waiting.bytes);
    }
    assert!(received.recv_timeout(LONG).is_ok() && received.recv_timeout(LONG).is_ok());
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
        two_nodes_share(&brokers);
    }
}

#[test]
fn nodes_share_by_the_group_protocol_of_kafka_4_too() {
    if let Some(mut brokers) = Brokers::real() {
        brokers.properties = vec![("group.protocol", "consumer"), ("fetch.wait.max.ms", "50")];
        two_nodes_share(&brokers);
    }
}

fn two_nodes_share(brokers: &Brokers) {
    let topic = brokers.topic("calls", 4);
    let group = unique("group");
    let (first, first_saw) = consume_at_once(brokers, &group, settings(&topic));
    eventually("the first node has every partition", || first_saw.assigned.lock().unwrap().len() == 4);
    brokers.call(&topic, 4, 0..1_000);
    eventually("the first node reads", || first_saw.numbers.lock().unwrap().len() == 1_000);
    let (second, second_saw) = consume_at_once(brokers, &group, settings(&topic));
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
    fn find(&self, key: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        assert_eq!(key, SchemaKey::Id(7));
        if self.0.load(Ordering::SeqCst) {
            Ok(WriterSchema::Avro(Arc::new(Codec::new().schema(Invocation::KIND).clone())))
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
fn a_shutdown_ends_in_time_though_the_brokers_are_away() {
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 1);
    brokers.call(&topic, 1, 0..10);
    let (invocations, received) = consume(&brokers, &unique("group"), settings(&topic));
    let first = received.recv_timeout(LONG).unwrap();
    brokers.mock.as_ref().unwrap().broker_down(1).unwrap();
    eventually("it is noticed", || !invocations.is_ready());
    invocations.acknowledger().acknowledge(first.position, first.bytes);
    let began = Instant::now();
    assert_eq!(invocations.shutdown(Duration::from_millis(500)), 9);
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

/// librdkafka takes any bytes as a header's name; its Rust face takes only text, so this goes around that.
#[expect(unsafe_code, reason = "there is no safe way to send such a message")]
fn send_header_named(brokers: &Brokers, topic: &str, name: &[u8]) {
    use rdkafka::bindings;
    let producer = brokers.producer();
    let topic = std::ffi::CString::new(topic).unwrap();
    // SAFETY: the arguments are those that the tags announce, every pointer outlives the call, and the payload is copied.
    let error = unsafe {
        bindings::rd_kafka_producev(
            producer.client().native_ptr(),
            bindings::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            bindings::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
            bindings::RD_KAFKA_MSG_F_COPY,
            bindings::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
            b"no event".as_ptr(),
            8_usize,
            bindings::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADER,
            name.as_ptr(),
            b"value".as_ptr(),
            5_isize,
            bindings::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
            std::ptr::null::<std::ffi::c_void>(),
            bindings::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
        )
    };
    assert_eq!(error, bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    producer.flush(LONG).unwrap();
}

#[test]
fn a_header_whose_name_is_no_text_does_no_harm() {
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 1);
    send_header_named(&brokers, &topic, b"\xff\0");
    brokers.send(&topic, None, Some(b"no event"), &[("good", "1")]);
    let (invocations, received) = consume(&brokers, &unique("group"), settings(&topic));
    assert!(received.recv_timeout(LONG).unwrap().headers.is_empty());
    assert_eq!(received.recv_timeout(LONG).unwrap().headers, [("good".to_owned(), Some(b"1".to_vec()))]);
    assert_eq!(invocations.counters().headers_left_out.load(Ordering::Relaxed), 1);
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
}
