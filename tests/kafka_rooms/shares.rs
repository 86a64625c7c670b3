//! What one function may hold of what is in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use forewarm::codec::{Codec, NoSchemaRegistry, WireFormat};
use forewarm::ingest::{Claim, Invocations, Received, Settings, Share, ShareBounds, Sink};
use forewarm::types::{Invocation, Overflow};
use rdkafka::producer::{BaseRecord, Producer as _};

use crate::brokers::{Brokers, LONG, eventually, settings, unique};

/// What each of two functions may hold.
const SHARE: usize = 10;

/// Sends everything on; every function has a share.
struct Shared(Sender<Received>, Overflow);

impl Sink for Shared {
    fn received(&mut self, received: Received) {
        let _ = self.0.send(received);
    }

    fn claim(&self, invocation: &Invocation) -> Option<Claim> {
        Some(Claim {
            function: invocation.function.clone(),
            tenant: None,
            overflow: self.1,
            several_functions: true,
            several_tenants: false,
        })
    }
}

fn consume(brokers: &Brokers, group: &str, topic: &str, overflow: Overflow) -> (Invocations, Receiver<Received>) {
    let (sender, receiver) = channel();
    let function = Share { calls: SHARE, bytes: usize::MAX };
    let shares = ShareBounds { function, tenant: Share::WHOLE, aside_max: 4_000 };
    let settings = Settings { shares, in_flight_max: 1_000, ..settings(topic) };
    let (connection, sink) = (brokers.connection(group), Shared(sender, overflow));
    let codec = Arc::new(Codec::new());
    let started = Invocations::start(&connection, settings, codec, Arc::new(NoSchemaRegistry), sink).unwrap();
    (started, receiver)
}

/// `count` calls of a function to a topic with one partition, their ids counting up.
fn call(brokers: &Brokers, topic: &str, function: &str, count: usize) {
    let (codec, producer) = (Codec::new(), brokers.producer());
    for id in 0..count {
        let call = serde_json::json!({ "id": id.to_string(), "function": function, "invoked_at": 1 });
        let call: Invocation = serde_json::from_value(call).unwrap();
        let payload = codec.encode(&call, WireFormat::SingleObject).unwrap();
        let record = BaseRecord::<str, [u8]>::to(topic).partition(0).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(LONG).unwrap();
}

fn of(received: &Received) -> (String, usize) {
    let call = received.content.as_ref().unwrap();
    (call.function.to_string(), call.id.parse().unwrap())
}

/// Takes this many, by function, in the order in which they come.
fn take(received: &Receiver<Received>, count: usize) -> (BTreeMap<String, Vec<usize>>, Vec<Received>) {
    let (mut ids, mut all) = (BTreeMap::<String, Vec<usize>>::new(), Vec::new());
    for _ in 0..count {
        let received = received.recv_timeout(LONG).unwrap();
        let (function, id) = of(&received);
        ids.entry(function).or_default().push(id);
        all.push(received);
    }
    (ids, all)
}

#[test]
fn behind_a_function_that_holds_its_share_others_go_on_and_its_calls_come_once_and_in_order() {
    for brokers in Brokers::both() {
        let (topic, group) = (brokers.topic("calls", 1), unique("group"));
        call(&brokers, &topic, "slow", 2_000);
        call(&brokers, &topic, "quick", SHARE - 1);
        call(&brokers, &topic, "slow", 1);
        let (invocations, received) = consume(&brokers, &group, &topic, Overflow::Pause);
        let (acknowledger, counters) = (invocations.acknowledger(), invocations.counters());
        // Nothing of the slow one ends.
        let (ids, first) = take(&received, 2 * SHARE - 1);
        assert_eq!(ids["slow"], (0..SHARE).collect::<Vec<_>>());
        assert_eq!(ids["quick"], (0..SHARE - 1).collect::<Vec<_>>());
        eventually("the rest is put aside", || counters.aside.load(Ordering::Relaxed) == 2_001 - SHARE);
        assert_eq!(invocations.in_flight(), 2 * SHARE - 1);
        eventually("it is said", || invocations.readiness().conditions().len() == 1);
        assert_eq!(invocations.readiness().conditions()[0].subject, "slow");
        // Then all of it ends at once, as soon as it comes.
        first.iter().for_each(|received| acknowledger.acknowledge(received.position, received.bytes));
        let mut slow = Vec::new();
        for _ in 0..2_001 - SHARE {
            let received = received.recv_timeout(LONG).unwrap();
            acknowledger.acknowledge(received.position, received.bytes);
            slow.push(of(&received).1);
        }
        assert_eq!(slow, (SHARE..2_000).chain([0]).collect::<Vec<_>>());
        eventually("nobody holds its share", || invocations.readiness().conditions().is_empty());
        assert_eq!(invocations.shutdown(LONG), 0);
        assert!(received.recv_timeout(Duration::ZERO).is_err());
        let known =
            [&counters.already_done, &counters.unknown, &counters.fenced].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(known, [0; 3]);
        assert_eq!(brokers.committed(&group, &topic, 1)[&0].0, 2_010);
    }
}

#[test]
fn calls_that_were_put_aside_are_read_by_whoever_comes_next() {
    for brokers in Brokers::both() {
        let (topic, group) = (brokers.topic("calls", 1), unique("group"));
        call(&brokers, &topic, "slow", 100);
        call(&brokers, &topic, "quick", 5);
        let (invocations, received) = consume(&brokers, &group, &topic, Overflow::Pause);
        let acknowledger = invocations.acknowledger();
        let (_, first) = take(&received, SHARE + 5);
        let (slow, quick): (Vec<_>, Vec<_>) = first.iter().partition(|received| of(received).0 == "slow");
        quick.iter().for_each(|received| acknowledger.acknowledge(received.position, received.bytes));
        eventually("they are done", || invocations.in_flight() == slow.len());
        // Only what runs is waited for.
        assert_eq!(invocations.shutdown(Duration::from_millis(100)), SHARE);
        let (again, received) = consume(&brokers, &group, &topic, Overflow::Pause);
        let acknowledger = again.acknowledger();
        for expected in 0..100 {
            let received = received.recv_timeout(LONG).unwrap();
            acknowledger.acknowledge(received.position, received.bytes);
            assert_eq!(of(&received), ("slow".to_owned(), expected));
        }
        assert_eq!(again.shutdown(LONG), 0);
        assert!(received.recv_timeout(Duration::ZERO).is_err());
        assert_eq!(brokers.committed(&group, &topic, 1)[&0], (105, String::new()));
    }
}

#[test]
fn calls_that_overflow_are_handed_on_to_be_refused() {
    let brokers = Brokers::mock();
    let topic = brokers.topic("calls", 1);
    call(&brokers, &topic, "slow", SHARE + 3);
    let (invocations, received) = consume(&brokers, &unique("group"), &topic, Overflow::Reject);
    let acknowledger = invocations.acknowledger();
    let (_, all) = take(&received, SHARE + 3);
    assert!(all.iter().enumerate().all(|(at, received)| received.is_refused == (at >= SHARE)));
    assert_eq!(invocations.counters().overflowed.load(Ordering::Relaxed), 3);
    all.iter().for_each(|received| acknowledger.acknowledge(received.position, received.bytes));
    assert_eq!(invocations.shutdown(LONG), 0);
}
