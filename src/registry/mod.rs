//! Which functions there are: the compacted `functions` topic, followed by every node, and the schemas of other writers.
//!
//! Duty: read the topic from its beginning, check each definition, and say what changed, in order. Must not: fetch or judge
//! an artifact (`artifacts` does), or write to the topic.
//!
//! A function that is not known here need not be unknown: its definition may be on its way. [`Registry::fences`] answers
//! once everything that was in the topic at that moment has been said.

mod read;
mod register;
mod schemas;
mod table;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use read::{Definitions, read_all};
pub use register::register;
pub use schemas::{PATIENCE, SchemaRegistry, SchemaRegistrySettings};
pub use table::{FUNCTIONS_MAX, RegistryEvent};

use crate::codec::{Codec, WriterSchemas};
use crate::kafka::headers::Bounds;
use crate::kafka::tail::{Fences, Follower, Message, Passed, Start, Step, Tail};
use crate::kafka::{ClientError, Connection, Health, headers};
use crate::types::{FunctionDefinition, FunctionName};
use table::{Place, Table};

const THREAD: &str = "registry";
/// What a record may be (both inclusive). Beyond, nothing of it is copied.
const RECORD_BYTES_MAX: usize = 4 << 20;
const HEADERS: Bounds = Bounds { count_max: 64, bytes_max: 64 << 10 };

/// Why the registry, or its client for schemas, could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No reader of the topic.
    #[error("functions topic not followed: {0}")]
    Client(#[from] ClientError),
    /// No schema registry is configured.
    #[error("no url of a schema registry is set; without one, messages that name a schema id are refused")]
    NoSchemaRegistryUrl,
    /// The topic could not be read to its end in time.
    #[error("topic {topic} not read to its end within {waited:?}; check that the brokers answer")]
    NotRead {
        /// The topic.
        topic: String,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// The schema registry did not take a schema of ours.
    #[error(
        "schema for subject {subject} not registered: {cause}; check kafka.schema-registry-url and its compatibility mode"
    )]
    NotRegistered {
        /// The subject.
        subject: String,
        /// The registry's own words.
        cause: String,
    },
    /// No thread for the schema registry.
    #[error("thread {name} not started: {source}")]
    Thread {
        /// The thread's name.
        name: &'static str,
        /// The system's own words.
        source: io::Error,
    },
}

/// Totals since the start, in records of the topic.
#[derive(Debug, Default)]
pub struct Counters {
    /// Read, tombstones included.
    pub read: AtomicU64,
    /// Refused: no definition, or a definition with faults.
    pub refused: AtomicU64,
    /// Left aside because another partition held a later record of the same name.
    pub overtaken: AtomicU64,
    /// Attempts to decode that have to be made again, because the schema registry did not answer.
    pub retried: AtomicU64,
}

/// The registry that runs. Dropping it stops its thread.
pub struct Registry {
    tail: Tail,
    counters: Arc<Counters>,
}

impl Registry {
    /// Begins to read `topic`. `say` is called on the registry's thread, in order; it should not block for long, as fences
    /// wait for it.
    ///
    /// # Errors
    /// Where the client's settings are refused, or the thread cannot be started.
    pub fn start(
        connection: &Connection,
        topic: &str,
        codec: Arc<Codec>,
        writers: Arc<dyn WriterSchemas>,
        say: impl FnMut(RegistryEvent) + Send + 'static,
    ) -> Result<Self, RegistryError> {
        let counters = Arc::new(Counters::default());
        let reader = Reader { codec, writers, table: Table::default(), counters: Arc::clone(&counters), say };
        let tail = Tail::start(connection, topic, THREAD, Start::Beginning, reader)?;
        Ok(Self { tail, counters })
    }

    /// Asks "has everything been said that is in the topic now?"
    pub fn fences(&self) -> Fences {
        self.tail.fences()
    }

    /// What was passed over, because it cannot be read.
    pub fn passed(&self) -> Passed {
        self.tail.passed()
    }

    /// Whether [`RegistryEvent::CaughtUp`] was said.
    pub fn is_caught_up(&self) -> bool {
        self.tail.is_caught_up()
    }

    /// How the brokers do, as the reader sees it.
    pub fn health(&self) -> &Health {
        self.tail.health()
    }

    /// Whether the thread has ended, which it does by itself only where `say` panicked.
    pub fn is_finished(&self) -> bool {
        self.tail.is_finished()
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Stops, and waits for the thread.
    pub fn stop(self) {
        self.tail.stop();
    }
}

struct Reader<S> {
    codec: Arc<Codec>,
    writers: Arc<dyn WriterSchemas>,
    table: Table,
    counters: Arc<Counters>,
    say: S,
}

impl<S: FnMut(RegistryEvent) + Send + 'static> Follower for Reader<S> {
    fn message(&mut self, message: &Message<'_>) -> Step {
        let place = Place { partition: message.partition, offset: message.offset, timestamp: message.timestamp };
        let read = match self.read(message) {
            Ok(read) => read,
            Err(NotYet) => {
                self.counters.retried.fetch_add(1, Ordering::Relaxed);
                return Step::Again;
            }
        };
        self.counters.read.fetch_add(1, Ordering::Relaxed);
        match read {
            Ok((name, definition)) => {
                self.table.record(name, definition, place, &mut self.say);
                self.counters.overtaken.store(self.table.overtaken, Ordering::Relaxed);
            }
            Err((function, reason)) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    function,
                    partition = message.partition,
                    offset = message.offset.0,
                    reason,
                    "function definition refused"
                );
                self.table.refuse(function, reason, &mut self.say);
            }
        }
        Step::Done
    }

    fn caught_up(&mut self) {
        self.table.caught_up(&mut self.say);
    }
}

/// The schema of a record cannot be had now.
struct NotYet;

/// A name and its definition or removal; or the key as text and what is wrong.
type Judged = Result<(FunctionName, Option<FunctionDefinition>), (String, String)>;

impl<S> Reader<S> {
    fn read(&self, message: &Message<'_>) -> Result<Judged, NotYet> {
        let key = String::from_utf8_lossy(message.key.unwrap_or_default());
        let shown = || key.chars().take(FunctionName::LEN_MAX).collect::<String>();
        let name = match FunctionName::new(&key) {
            Ok(name) => name,
            Err(fault) => return Ok(Err((shown(), format!("the record's key is no function name: {fault}")))),
        };
        let Some(payload) = message.payload else { return Ok(Ok((name, None))) };
        if payload.len() > RECORD_BYTES_MAX {
            let fault = format!("it has {} bytes, and a definition has at most {RECORD_BYTES_MAX}", payload.len());
            return Ok(Err((shown(), fault)));
        }
        let Ok((headers, _)) = message.headers(HEADERS) else {
            let Bounds { count_max, bytes_max } = HEADERS;
            let fault = format!("it has more than {count_max} headers, or more than {bytes_max} bytes of them");
            return Ok(Err((shown(), fault)));
        };
        let content_type = headers::text(&headers, "content-type");
        let definition: FunctionDefinition = match self.codec.decode(payload, content_type, &*self.writers) {
            Ok(definition) => definition,
            Err(error) if error.retryable() => return Err(NotYet),
            Err(error) => return Ok(Err((shown(), error.to_string()))),
        };
        if definition.name != name {
            let fault = format!("the record's key is {name} and the definition's name is {}", definition.name);
            return Ok(Err((shown(), fault)));
        }
        let faults = definition.faults();
        if !faults.is_empty() {
            return Ok(Err((shown(), faults.join("; "))));
        }
        Ok(Ok((name, Some(definition))))
    }
}
