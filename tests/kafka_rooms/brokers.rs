//! The brokers that the tests run against, and what the tests send and read there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forewarm::codec::{Codec, WireFormat};
use forewarm::ingest::{MessageBounds, Received, Settings};
use forewarm::kafka::Connection;
use forewarm::kafka::headers::Bounds;
use forewarm::types::Invocation;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

/// As long as anything here may take; a test that works never waits for it.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Brokers {
    pub mock: Option<MockCluster<'static, DefaultProducerContext>>,
    pub bootstrap: String,
    /// Settings of the clients under test.
    pub properties: Vec<(&'static str, &'static str)>,
}

/// So that a test need not wait long for the group or for a message.
const IMPATIENT: [(&str, &str); 3] =
    [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500"), ("fetch.wait.max.ms", "50")];

impl Brokers {
    pub fn mock() -> Self {
        let mock = MockCluster::new(1).unwrap();
        let bootstrap = mock.bootstrap_servers();
        Self { mock: Some(mock), ..Self::at(bootstrap) }
    }

    /// Those at an address.
    pub fn at(bootstrap: String) -> Self {
        Self { mock: None, bootstrap, properties: IMPATIENT.to_vec() }
    }

    /// None where no real broker is named.
    pub fn real() -> Option<Self> {
        match std::env::var("FOREWARM_TEST_KAFKA") {
            Ok(bootstrap) if !bootstrap.is_empty() => Some(Self::at(bootstrap)),
            _ => {
                println!("left out: FOREWARM_TEST_KAFKA names no broker");
                None
            }
        }
    }

    pub fn both() -> Vec<Self> {
        [Some(Self::mock()), Self::real()].into_iter().flatten().collect()
    }

    pub fn connection(&self, group: &str) -> Connection {
        Connection {
            bootstrap_servers: self.bootstrap.clone(),
            client_id: "test".to_owned(),
            group_id: group.to_owned(),
            properties: self.properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Connection::default()
        }
    }

    /// A topic of a name that nobody else has.
    pub fn topic(&self, of: &str, partitions: i32) -> String {
        self.topic_with(of, partitions, &[])
    }

    pub fn topic_with(&self, of: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let name = unique(of);
        match &self.mock {
            Some(mock) => mock.create_topic(&name, partitions, 1).unwrap(),
            None => self.create(&name, partitions, settings),
        }
        name
    }

    pub fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
        let admin: AdminClient<_> = self.config().create().unwrap();
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        assert!(made[0].is_ok(), "{made:?}");
    }

    pub fn config(&self) -> ClientConfig {
        config(&self.bootstrap)
    }

    pub fn producer(&self) -> ThreadedProducer<DefaultProducerContext> {
        producer(&self.bootstrap)
    }

    /// [`feed`]s these brokers.
    pub fn call(&self, topic: &str, partitions: i32, range: std::ops::Range<u32>) {
        feed(&self.bootstrap, topic, partitions, range);
    }

    /// Publishes bytes as they are.
    pub fn send(&self, topic: &str, key: Option<&str>, payload: Option<&[u8]>, headers: &[(&str, &str)]) {
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
    pub fn read(&self, topic: &str, count: usize) -> Vec<Read> {
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

    /// In which partition each key lies; of records without a key, each payload.
    pub fn places(&self, topic: &str, partitions: i32, count: usize) -> BTreeMap<Vec<u8>, i32> {
        let consumer: BaseConsumer = self.config().set("group.id", "places").create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        list.set_all_offsets(rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let deadline = Instant::now() + LONG;
        let mut places = BTreeMap::new();
        while places.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} messages", places.len());
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let name = message.key().or(message.payload()).unwrap_or_default();
                places.insert(name.to_vec(), message.partition());
            }
        }
        places
    }

    /// What the group has committed, by partition: the offset and the metadata.
    pub fn committed(&self, group: &str, topic: &str, partitions: i32) -> BTreeMap<i32, (i64, String)> {
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

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

fn producer(bootstrap: &str) -> ThreadedProducer<DefaultProducerContext> {
    config(bootstrap).set("linger.ms", "1").set("queue.buffering.max.messages", "1000000").create().unwrap()
}

/// Publishes the calls `range`, the number being the id, spread over the partitions in turn.
pub fn feed(bootstrap: &str, topic: &str, partitions: i32, range: std::ops::Range<u32>) {
    let (codec, producer) = (Codec::new(), producer(bootstrap));
    for number in range {
        let payload = codec.encode(&invocation(number), WireFormat::SingleObject).unwrap();
        let key = number.to_string();
        let record = BaseRecord::to(topic).payload(&payload).key(&key).partition(number as i32 % partitions);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(LONG).unwrap();
}

#[derive(Debug)]
pub struct Read {
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl Read {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

pub fn unique(of: &str) -> String {
    format!("{of}-{}", uuid::Uuid::now_v7())
}

pub fn invocation(number: u32) -> Invocation {
    serde_json::from_value(serde_json::json!({ "id": number.to_string(), "function": "f", "invoked_at": 1 })).unwrap()
}

pub fn number(received: &Received) -> u32 {
    received.content.as_ref().unwrap().id.parse().unwrap()
}

/// What a message may be.
pub fn bounds() -> MessageBounds {
    MessageBounds { bytes_max: 16 << 20, headers: Bounds { count_max: 64, bytes_max: 64 << 10 } }
}

pub fn settings(topic: &str) -> Settings {
    Settings {
        topic: topic.to_owned(),
        in_flight_max: 10_000,
        in_flight_bytes_max: 64 << 20,
        message: bounds(),
        pass_unreadable_after: Duration::ZERO,
        commit_interval: Duration::from_millis(50),
        commit_completions: 1_000,
        drain_timeout: Duration::from_secs(5),
        doubt_after: Duration::from_secs(3),
        doubt_for: Duration::from_secs(1),
    }
}

/// Waits for a state that another thread brings about.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
