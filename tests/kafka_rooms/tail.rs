//! Readers of whole topics: the tail, the registry, the pre-triggers; and making topics.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forewarm::codec::{Codec, NoSchemaRegistry, WireFormat};
use forewarm::ingest::pre_triggers::{PreTriggerEvent, PreTriggers};
use forewarm::kafka::tail::{Fenced, Follower, Message, Start, Step, Tail};
use forewarm::kafka::{TopicFinding, TopicSpec, ensure_topics};
use forewarm::registry::{Judge, Registry, RegistryEvent};
use forewarm::types::{Offset, PreTrigger, Timestamp};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::brokers::{Brokers, LONG, bounds, eventually, unique};

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
        eventually("it is up", || tail.health().is_up());
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
        let judge = Judge::default();
        let registry = Registry::start(&connection, &topic, judge, codec, Arc::new(NoSchemaRegistry), say).unwrap();
        let next = || match events.recv_timeout(LONG).unwrap() {
            RegistryEvent::Defined(definition, _) => format!("+{} {}", definition.name, definition.version),
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
        assert!(registry.fences().of(&"a".parse().unwrap()).wait(LONG));
        assert_eq!(events.try_recv().map(|event| matches!(event, RegistryEvent::Defined(..))), Ok(true));
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
        let reader = PreTriggers::start(
            &connection,
            &topic,
            (Timestamp::ZERO, None),
            codec,
            Arc::new(NoSchemaRegistry),
            bounds(),
            sink,
        )
        .unwrap();
        eventually("it has caught up", || reader.is_caught_up());
        brokers.send(&topic, Some("k"), Some(b"new and malformed"), &[("a", "1")]);
        brokers.send(&topic, None, Some(&pre_trigger("no room")), &[]);
        let next = || events.recv_timeout(LONG).unwrap();
        assert!(matches!(next(), PreTriggerEvent::Received(event) if event.id == "1"));
        match next() {
            PreTriggerEvent::Malformed { poison, partition, offset, key, headers } => {
                assert_eq!(poison.payload.as_deref(), Some(&b"new and malformed"[..]));
                assert_eq!((partition, offset, key.as_deref()), (0, Offset(2), Some(&b"k"[..])));
                assert_eq!(headers, [("a".to_owned(), Some(b"1".to_vec()))]);
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
    let since = |millis, records| Start::Since { time: Timestamp::from_millis(millis), records };
    let tail = Tail::start(&connection, &topic, "tail", since(1_500_000, 0), follower).unwrap();
    eventually("it has caught up", || tail.is_caught_up());
    assert_eq!(*seen.lock().unwrap(), ["young", "end"]);
    let follower = Keys { seen: Arc::default(), again: 0 };
    let empty = Tail::start(&connection, &topic, "empty", since(3_000_000, 0), follower).unwrap();
    eventually("it has nothing to catch up on", || empty.is_caught_up());
    // However old they say they are.
    for (records, expected) in
        [(1, vec!["young", "end"]), (2, vec!["old", "young", "end"]), (9, vec!["old", "young", "end"])]
    {
        let seen = Arc::new(Mutex::default());
        let follower = Keys { seen: Arc::clone(&seen), again: 0 };
        let tail = Tail::start(&connection, &topic, "last", since(3_000_000, records), follower).unwrap();
        eventually("it has caught up", || tail.is_caught_up());
        assert_eq!(*seen.lock().unwrap(), expected, "the last {records}");
    }
}

#[test]
fn topics_are_made_where_they_are_missing_and_a_functions_topic_must_be_compacted() {
    let Some(brokers) = Brokers::real() else { return };
    let connection = brokers.connection("");
    let plain = brokers.topic("plain", 1);
    let missing = unique("missing");
    // Replicas as the brokers like.
    let spec = |name: &str, compacted| TopicSpec {
        name: name.to_owned(),
        partitions: 3,
        replication: -1,
        compacted,
        retention: None,
    };
    let specs = [spec(&plain, true), spec(&missing, true)];
    let refused = ensure_topics(&connection, &specs, false, LONG).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("topic {missing} does not exist; create it with 3 or more partitions, or let this service create it")
    );
    let findings = ensure_topics(&connection, &specs, true, LONG).unwrap();
    let expected = [
        TopicFinding::NotCompacted { topic: plain, policy: "delete".to_owned() },
        TopicFinding::Created { topic: missing.clone(), partitions: 3, replicas: 1 },
    ];
    assert_eq!(findings, expected);
    eventually("the new topic is known", || ensure_topics(&connection, &specs[1..], false, LONG).is_ok());
}
