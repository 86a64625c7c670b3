//! The publisher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forewarm::publish::{
    DeadLetter, Deliveries, Destination, HEADER_OMITTED, HEADER_REASON, Outcome, Publisher, Record, Refusal, Topics,
};
use forewarm::types::{Generation, Offset, Position, Timestamp};

use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use crate::brokers::{Brokers, LONG, eventually, unique};

#[derive(Default)]
struct Ends {
    acknowledged: Mutex<BTreeMap<i64, usize>>,
    refused: Mutex<Vec<(Record, Refusal)>>,
}

impl Deliveries for Ends {
    fn acknowledged(&self, position: Position, bytes: usize) {
        assert_eq!(self.acknowledged.lock().unwrap().insert(position.offset.0, bytes), None);
    }

    fn instead_of(&self, record: &Record, refusal: &Refusal) -> Option<Record> {
        self.refused.lock().unwrap().push((record.clone(), refusal.clone()));
        Some(result("instead", b"less".to_vec()))
    }

    fn failed_for_good(&self, reason: &str) {
        panic!("{reason}");
    }
}

fn position(offset: i64) -> Position {
    Position { partition: 0, offset: Offset(offset), generation: Generation(1) }
}

fn result(key: &str, payload: Vec<u8>) -> Record {
    Record {
        destination: Destination::Results,
        key: Some(key.as_bytes().to_vec()),
        headers: vec![("h".to_owned(), Some(b"v".to_vec()))],
        payload: Some(payload),
    }
}

fn outcome(record: Record, offset: i64, bytes: usize) -> Outcome {
    Outcome { position: position(offset), bytes, record, dead_letter: None }
}

fn publisher(brokers: &Brokers, results: &str, dead_letters: &str) -> (Publisher, Arc<Ends>) {
    let ends = Arc::new(Ends::default());
    let topics = Topics { results: results.to_owned(), dead_letters: dead_letters.to_owned(), ..Topics::default() };
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
        headers: vec![("a".to_owned(), Some(b"1".to_vec())), ("null".to_owned(), None)],
        payload: Some(payload),
        omitted: None,
        reason: "malformed",
        detail: "why",
        call: None,
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
            publisher.publish(outcome(result("k", b"answer".to_vec()), offset, offset as usize)).unwrap();
        }
        publisher.publish_loose(letter(b"bad".to_vec())).unwrap();
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
    let topics = Topics { results: results.clone(), dead_letters, ..Topics::default() };
    let mut connection = brokers.connection("");
    // How long librdkafka itself looks for a topic before it gives a record back.
    connection.properties.insert("topic.metadata.propagation.max.ms".to_owned(), "200".to_owned());
    connection.properties.insert("message.timeout.ms".to_owned(), "1000".to_owned());
    let publisher = Publisher::start(&connection, topics, Arc::clone(&ends) as Arc<dyn Deliveries>).unwrap();
    for offset in 0..50 {
        publisher.publish(outcome(result("k", b"x".to_vec()), offset, 1)).unwrap();
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
fn what_no_call_waits_for_keeps_no_call_waiting() {
    let Some(brokers) = Brokers::real() else { return };
    let results = brokers.topic("results", 1);
    let topics = Topics { results, pre_trigger_outcomes: unique("missing"), ..Topics::default() };
    for gives_up in [false, true] {
        let ends = Arc::new(Ends::default());
        let mut connection = brokers.connection("");
        if gives_up {
            // librdkafka gives the record back soon; else it keeps it for longer than this test lasts.
            connection.properties.insert("topic.metadata.propagation.max.ms".to_owned(), "200".to_owned());
            connection.properties.insert("message.timeout.ms".to_owned(), "500".to_owned());
        }
        let deliveries = Arc::clone(&ends) as Arc<dyn Deliveries>;
        let publisher = Publisher::start(&connection, topics.clone(), deliveries).unwrap();
        let loose = Record { destination: Destination::PreTriggerOutcomes, ..result("k", b"x".to_vec()) };
        publisher.publish_loose(loose).unwrap();
        let counters = publisher.counters();
        if gives_up {
            eventually("it is tried again", || counters.resent.load(Ordering::Relaxed) > 0);
        } else {
            assert_eq!(publisher.flush(Duration::from_millis(1_500)), 1);
        }
        assert!(publisher.can_store());
        publisher.publish(outcome(result("k", b"x".to_vec()), 1, 9)).unwrap();
        eventually("the outcome is stored", || !ends.acknowledged.lock().unwrap().is_empty());
        assert!(publisher.can_store() && publisher.health().is_up());
        assert_eq!(counters.unacknowledged.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn brokers_that_are_away_for_a_while_cost_nothing() {
    let brokers = Brokers::mock();
    let mock = brokers.mock.as_ref().unwrap();
    let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
    let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
    publisher.publish(outcome(result("k", b"x".to_vec()), 0, 1)).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    mock.broker_down(1).unwrap();
    eventually("it is noticed", || publisher.health().is_down());
    for offset in 1..100 {
        publisher.publish(outcome(result("k", b"x".to_vec()), offset, 1)).unwrap();
    }
    assert_eq!(publisher.flush(Duration::from_millis(300)), 99);
    mock.broker_up(1).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    assert_eq!(ends.acknowledged.lock().unwrap().len(), 100);
}

#[test]
fn a_record_that_is_too_large_is_replaced_and_a_dead_letter_shrinks() {
    for brokers in Brokers::both() {
        let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
        let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
        let large = result("k", vec![7; 2_000_000]);
        publisher.publish(outcome(large.clone(), 1, 9)).unwrap();
        publisher.publish(outcome(letter(vec![7; 2_000_000]), 2, 9)).unwrap();
        // One that nobody waits for is left out.
        publisher.publish_loose(large.clone()).unwrap();
        assert_eq!(publisher.flush(LONG), 0);
        assert_eq!(ends.acknowledged.lock().unwrap().keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(*ends.refused.lock().unwrap(), [(large, Refusal::TooLarge)]);
        assert_eq!(brokers.read(&results, 1)[0].key.as_deref(), Some(&b"instead"[..]));
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
        publisher.publish(outcome(result("k", payload), offset, 9)).unwrap();
    }
    publisher.publish(outcome(letter(vec![7; 30_000]), 100, 9)).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    let expected: Vec<i64> = (0..20).chain([100]).collect();
    assert_eq!(ends.acknowledged.lock().unwrap().keys().copied().collect::<Vec<_>>(), expected);
    assert_eq!(*ends.refused.lock().unwrap(), [(result("k", vec![7; 30_000]), Refusal::TooLarge)]);
    let read = brokers.read(&results, 20);
    assert_eq!(read.iter().filter(|read| read.key.as_deref() == Some(b"instead")).count(), 1);
}

#[test]
fn a_record_that_the_broker_finds_invalid_comes_back() {
    let Some(brokers) = Brokers::real() else { return };
    let (results, dead_letters) =
        (brokers.topic_with("results", 1, &[("cleanup.policy", "compact")]), brokers.topic("dead", 1));
    let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
    let keyless = Record { key: None, ..result("", b"x".to_vec()) };
    publisher.publish(outcome(keyless.clone(), 1, 9)).unwrap();
    publisher.publish(outcome(result("k", b"x".to_vec()), 2, 9)).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    assert_eq!(ends.acknowledged.lock().unwrap().keys().copied().collect::<Vec<_>>(), [1, 2]);
    let refused = ends.refused.lock().unwrap();
    assert_eq!((refused.len(), &refused[0].0), (1, &keyless));
    assert!(matches!(refused[0].1, Refusal::Invalid(_)));
}

#[test]
fn an_outcome_of_two_records_is_acknowledged_once_when_both_are_stored() {
    for brokers in Brokers::both() {
        let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
        let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
        for offset in 0..100 {
            let dead_letter = Some(letter(b"call".to_vec()));
            let outcome = Outcome { dead_letter, ..outcome(result("k", b"x".to_vec()), offset, 7) };
            publisher.publish(outcome).unwrap();
        }
        assert_eq!(publisher.flush(LONG), 0);
        assert_eq!(*ends.acknowledged.lock().unwrap(), (0..100).map(|offset| (offset, 7)).collect());
        assert_eq!((brokers.read(&results, 100).len(), brokers.read(&dead_letters, 100).len()), (100, 100));
    }
}

#[test]
fn records_lie_where_the_producers_of_others_put_their_keys() {
    for brokers in Brokers::both() {
        let (results, dead_letters, theirs) =
            (brokers.topic("results", 7), brokers.topic("dead", 1), brokers.topic("theirs", 7));
        let (publisher, _) = publisher(&brokers, &results, &dead_letters);
        let keys: Vec<String> = (0..300).map(|number| format!("{number}-{}", "x".repeat(number % 9))).collect();
        for (offset, key) in (0..).zip(&keys) {
            publisher.publish(outcome(result(key, b"x".to_vec()), offset, 1)).unwrap();
        }
        assert_eq!(publisher.flush(LONG), 0);
        // librdkafka's own murmur2, which is that of Java's producers.
        let mut config = brokers.config();
        config.set("partitioner", "murmur2_random");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
        for key in &keys {
            producer.send(BaseRecord::to(&theirs).key(key).payload("x")).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(LONG).unwrap();
        let ours = brokers.places(&results, 7, keys.len());
        assert_eq!(ours, brokers.places(&theirs, 7, keys.len()));
        assert!(ours.values().collect::<BTreeSet<_>>().len() > 4, "{ours:?}");
    }
}

#[test]
fn records_without_a_key_go_to_every_partition() {
    for brokers in Brokers::both() {
        let (results, dead_letters) = (brokers.topic("results", 4), brokers.topic("dead", 1));
        let (publisher, ends) = publisher(&brokers, &results, &dead_letters);
        let keyless = |offset: i64| {
            let record = Record { key: None, ..result("", offset.to_string().into_bytes()) };
            outcome(record, offset, 1)
        };
        // The first says how many partitions there are.
        publisher.publish(keyless(0)).unwrap();
        assert_eq!(publisher.flush(LONG), 0);
        for offset in 1..2_000 {
            publisher.publish(keyless(offset)).unwrap();
        }
        assert_eq!(publisher.flush(LONG), 0);
        assert_eq!(ends.acknowledged.lock().unwrap().len(), 2_000);
        let places = brokers.places(&results, 4, 2_000);
        assert_eq!(places.values().collect::<BTreeSet<_>>().len(), 4);
    }
}

#[test]
fn another_partitioner_of_the_free_properties_keeps_its_word() {
    let brokers = Brokers::mock();
    let (results, dead_letters) = (brokers.topic("results", 4), brokers.topic("dead", 1));
    let ends = Arc::new(Ends::default());
    let topics = Topics { results: results.clone(), dead_letters, ..Topics::default() };
    let mut connection = brokers.connection("");
    connection.properties.insert("partitioner".to_owned(), "consistent".to_owned());
    let publisher = Publisher::start(&connection, topics, Arc::clone(&ends) as Arc<dyn Deliveries>).unwrap();
    for offset in 0..500 {
        publisher.publish(outcome(result(&offset.to_string(), b"x".to_vec()), offset, 1)).unwrap();
    }
    assert_eq!(publisher.flush(LONG), 0);
    for (key, partition) in brokers.places(&results, 4, 500) {
        assert_eq!(partition, i32::try_from(crc32(&key) % 4).unwrap());
    }
}

/// CRC-32 of IEEE 802.3, by which librdkafka's `consistent` chooses.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn a_stall_has_words() {
    let brokers = Brokers::mock();
    let mock = brokers.mock.as_ref().unwrap();
    let (results, dead_letters) = (brokers.topic("results", 1), brokers.topic("dead", 1));
    let (publisher, _) = publisher(&brokers, &results, &dead_letters);
    publisher.publish(outcome(result("k", b"x".to_vec()), 0, 1)).unwrap();
    assert_eq!(publisher.flush(LONG), 0);
    assert_eq!(publisher.stall(), None);
    mock.broker_round_trip_time(1, LONG).unwrap();
    for offset in 1..9 {
        publisher.publish(outcome(result("k", b"x".to_vec()), offset, 1)).unwrap();
    }
    eventually("it is noticed", || publisher.stall().is_some());
    let stall = publisher.stall().unwrap();
    let place = stall.place.clone().unwrap();
    assert_eq!((stall.waiting, place.topic, place.partition), (8, results, Some(0)));
    assert!(stall.to_string().contains("8 wait"), "{stall}");
    mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
}
