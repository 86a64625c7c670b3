//! Artifacts in a topic: put there in chunks, and read by exactly the offsets that a definition names.
//!
//! Each upload goes to one partition, a chunk after the other is acknowledged, so its offsets are in order. What is read is bounded by
//! the address (a span of records), by the bytes of an artifact, and by time, and counts only where the digest is the registered one.
//! Must not: read any topic but those that the configuration names, or trust a record.

mod chunks;
mod prune;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

pub use self::chunks::ChunkError;
use self::chunks::{Assembly, CHUNK_BYTES, Upload};
use super::{ArtifactError, ArtifactStore};
use crate::config::Config;
use crate::kafka::{Connection, Quiet, partition_ids};
use crate::types::{Artifact, Chunks, Sha256};

/// The largest artifact that is put in a topic, in bytes (inclusive).
pub const TOPIC_BYTES_MAX: u64 = 64 << 20;

const ROLE: &str = "artifacts";
/// How long one look for records waits.
const POLL: Duration = Duration::from_millis(100);
/// How long a chunk may take to be acknowledged.
const STORED: Duration = Duration::from_secs(60);
/// More than a chunk's key, headers and frame have, in bytes.
const KEY_BYTES: usize = 1_024;
/// The bound of librdkafka's fetching ahead of one artifact, in KiB.
const AHEAD_KIB: &str = "4096";

/// See the head of this file.
#[derive(Clone)]
pub struct TopicStore {
    connection: Connection,
    /// The topics that may be read.
    topics: Vec<String>,
    bytes_max: u64,
    read_timeout: Duration,
}

impl TopicStore {
    /// The topics that the configuration names.
    pub fn new(config: &Config, connection: Connection) -> Self {
        let own = config.tenants.artifact_topics().map(str::to_owned);
        Self {
            connection,
            topics: std::iter::once(config.topics.artifacts.clone()).chain(own).collect(),
            bytes_max: config.artifacts.bytes_max.get(),
            read_timeout: config.artifacts.read_timeout,
        }
    }

    /// Puts bytes in a topic and answers their address, when the brokers have acknowledged all of them. The same bytes a second time are
    /// another upload.
    ///
    /// # Errors
    /// Where they are too many, or the topic does not take them.
    pub fn put(&self, topic: &str, bytes: &[u8]) -> Result<Artifact, ArtifactError> {
        let sha256 = Sha256::of(bytes);
        if bytes.len() as u64 > TOPIC_BYTES_MAX.min(self.bytes_max) {
            return Err(ArtifactError::TooLargeForTopic { bytes: bytes.len() as u64, bytes_max: TOPIC_BYTES_MAX });
        }
        let upload = Upload::of(sha256);
        let writer = Writer::open(&self.connection, topic)?;
        let (mut first, mut last) = (None, 0);
        for (number, chunk) in (0_u32..).zip(bytes.chunks(CHUNK_BYTES)) {
            last = writer.store(upload.key(number).as_bytes(), Some(chunk))?;
            first = first.or(Some(last));
        }
        let chunks =
            Chunks { topic: topic.to_owned(), partition: writer.partition, first: first.unwrap_or(last), last };
        let uri = chunks.to_string();
        // Others may have put in a great deal meanwhile.
        uri.parse::<Chunks>()
            .map_err(|_| writer.fault("too many others put artifacts in at the same time; try again"))?;
        Ok(Artifact { uri, sha256 })
    }

    fn read(&self, artifact: &Artifact, chunks: &Chunks) -> Result<Vec<u8>, ArtifactError> {
        let began = Instant::now();
        let late = || ArtifactError::Late { patience: self.read_timeout };
        let fault =
            |reason: String, may_pass: bool| ArtifactError::Topic { uri: artifact.uri.clone(), reason, may_pass };
        let away = |source: KafkaError| fault(source.to_string(), true);
        let consumer = self.reader()?;
        let left = || self.read_timeout.checked_sub(began.elapsed()).ok_or_else(late);
        let (oldest, end) = consumer.fetch_watermarks(&chunks.topic, chunks.partition, left()?).map_err(away)?;
        if chunks.last >= end {
            let reason = format!("offset {} is not there yet: the partition ends at {end}", chunks.last);
            return Err(fault(reason, true));
        }
        if chunks.first < oldest {
            let reason = format!("offset {} is gone: the partition begins at {oldest}; deploy it anew", chunks.first);
            return Err(fault(reason, false));
        }
        let mut assignment = TopicPartitionList::new();
        let assigned = assignment
            .add_partition_offset(&chunks.topic, chunks.partition, Offset::Offset(chunks.first))
            .and_then(|()| consumer.assign(&assignment));
        assigned.map_err(away)?;
        let mut assembly = Assembly::new(chunks, artifact.sha256, self.bytes_max);
        loop {
            match consumer.poll(POLL.min(left()?)) {
                None => {}
                // The end is behind the last offset, and so nothing more of it is there.
                Some(Err(KafkaError::PartitionEOF(_))) => return Err(fault(assembly.missing().to_string(), true)),
                Some(Ok(message)) => {
                    let taken = assembly.take(message.offset(), message.key(), message.payload());
                    if taken.map_err(|reason| fault(format!("{reason}; deploy it anew"), false))? {
                        return Ok(assembly.into_bytes());
                    }
                }
                Some(Err(source)) if may_be_left(&source) => {}
                Some(Err(source)) => return Err(away(source)),
            }
        }
    }

    fn reader(&self) -> Result<BaseConsumer<Quiet>, ArtifactError> {
        let mut settings = self.connection.reader();
        settings.set("queued.max.messages.kbytes", AHEAD_KIB);
        settings.create_with_context(Quiet { role: ROLE }).map_err(|source| ArtifactError::Topic {
            uri: String::new(),
            reason: source.to_string(),
            may_pass: true,
        })
    }
}

/// Errors that the reader goes on after: brokers that are away come back by themselves, and as it is no member of the group whose name it
/// has, it does not matter whether it might be one.
fn may_be_left(fault: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let passing = [
        Code::GroupAuthorizationFailed,
        Code::BrokerTransportFailure,
        Code::AllBrokersDown,
        Code::OperationTimedOut,
        Code::Resolve,
    ];
    fault.rdkafka_error_code().is_some_and(|code| passing.contains(&code))
}

impl ArtifactStore for TopicStore {
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError> {
        let uri = || artifact.uri.clone();
        let chunks: Chunks = artifact.uri.parse().map_err(|_| ArtifactError::Address { uri: uri() })?;
        // Whose topic it is was judged with the definition; no other than these is read in any case.
        if !self.topics.contains(&chunks.topic) {
            return Err(ArtifactError::Address { uri: uri() });
        }
        let bytes = self.read(artifact, &chunks)?;
        match Sha256::of(&bytes) {
            found if found != artifact.sha256 => {
                Err(ArtifactError::Digest { uri: uri(), expected: artifact.sha256, found })
            }
            _ => Ok(bytes),
        }
    }

    fn patience(&self) -> Duration {
        self.read_timeout
    }
}

/// Passes on where a record was stored, or why it was not.
struct Reports(Mutex<Sender<Result<i64, String>>>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(ROLE, level, facility, message);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((fault, _)) if fault.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                let bytes = CHUNK_BYTES + KEY_BYTES;
                Err(format!("{fault}; let the topic's max.message.bytes be above {bytes}"))
            }
            Err((fault, _)) => Err(fault.to_string()),
        };
        // Where nobody waits any more, it was too late.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(report);
    }
}

/// Writes records to one partition, one after the other.
struct Writer {
    producer: ThreadedProducer<Reports>,
    reports: Receiver<Result<i64, String>>,
    topic: String,
    partition: i32,
}

impl Writer {
    /// A writer to the topic's first partition.
    fn open(connection: &Connection, topic: &str) -> Result<Self, ArtifactError> {
        let (sender, reports) = channel();
        let mut settings = connection.producer();
        settings.set("linger.ms", "0");
        let fault = |reason: String| ArtifactError::NotPut { topic: topic.to_owned(), reason };
        let producer: ThreadedProducer<Reports> =
            settings.create_with_context(Reports(Mutex::new(sender))).map_err(|source| fault(source.to_string()))?;
        let ids = partition_ids(producer.client(), topic, STORED).map_err(|source| fault(source.to_string()))?;
        let partition =
            ids.and_then(|ids| ids.first().copied()).ok_or_else(|| fault("it does not exist".to_owned()))?;
        Ok(Self { producer, reports, topic: topic.to_owned(), partition })
    }

    /// The same, to another partition.
    fn to(self, partition: i32) -> Self {
        Self { partition, ..self }
    }

    fn fault(&self, reason: &str) -> ArtifactError {
        ArtifactError::NotPut { topic: self.topic.clone(), reason: reason.to_owned() }
    }

    /// Stores a record, or a tombstone, and answers its offset.
    fn store(&self, key: &[u8], value: Option<&[u8]>) -> Result<i64, ArtifactError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(self.partition).key(key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record).map_err(|(fault, _)| self.fault(&fault.to_string()))?;
        match self.reports.recv_timeout(STORED) {
            Ok(Ok(offset)) => Ok(offset),
            Ok(Err(reason)) => Err(self.fault(&reason)),
            Err(_) => Err(self.fault(&format!("a chunk was not acknowledged within {} s", STORED.as_secs()))),
        }
    }
}
