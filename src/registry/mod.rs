//! Which functions there are: the compacted `functions` topic, followed by every node, and the schemas of other writers.
//!
//! Duty: read the topic from its beginning, check each definition, and say what changed, in order. Must not: fetch or judge
//! an artifact (`artifacts` does), or write to the topic.
//!
//! A function that is not known here need not be unknown: its definition may be on its way. [`Registry::fences`] answers
//! once everything that was in the topic at that moment has been said.

mod fences;
mod judge;
mod read;
mod register;
mod schemas;
mod table;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use fences::Fences;
pub use judge::Judge;
pub use read::{Definitions, read_all};
pub use register::register;
pub use schemas::{PATIENCE, SchemaRegistry, SchemaRegistrySettings};
pub use table::{FUNCTIONS_MAX, RegistryEvent};

use crate::codec::{Codec, ValueHeaders, WriterSchemas};
use crate::kafka::headers::Bounds;
use crate::kafka::tail::{Follower, Message, Passed, Start, Step, Tail};
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
    #[error(
        "topic {topic} was not read to its end: nothing of it was read for {waited:?} (registry.catch-up-timeout){reason}"
    )]
    NotRead {
        /// The topic.
        topic: String,
        /// How long it was waited for anything more.
        waited: Duration,
        /// Where the reader stands, and what the brokers, or the schema registry, said last.
        reason: String,
    },
    /// The schema registry did not take a schema of ours.
    #[error(
        "schema for subject {subject} not registered: {cause}; {advice}, and at the registry's compatibility mode where it refuses \
         the schema (publish.format = \"confluent\")"
    )]
    NotRegistered {
        /// The subject.
        subject: String,
        /// The registry's own words.
        cause: String,
        /// What somebody can do.
        advice: &'static str,
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
    /// Whether a record waits for the schema registry now.
    pub waits_for_schema: AtomicBool,
}

/// The registry that runs. Dropping it stops its threads.
pub struct Registry {
    /// One a topic; the first is the one that all share.
    tails: Vec<Tail>,
    fences: Fences,
    counters: Arc<Counters>,
}

impl Registry {
    /// Begins to read `topic`, and beside it the topics of those tenants that have their own, as `judge` knows them. `say` is
    /// called in order, on the registry's threads; it should not block for long, as fences wait for it.
    ///
    /// # Errors
    /// Where the client's settings are refused, or a thread cannot be started.
    pub fn start(
        connection: &Connection,
        topic: &str,
        judge: Judge,
        codec: Arc<Codec>,
        writers: Arc<dyn WriterSchemas>,
        say: impl FnMut(RegistryEvent) + Send + 'static,
    ) -> Result<Self, RegistryError> {
        let counters = Arc::new(Counters::default());
        let topics: Vec<String> = [topic.to_owned()].into_iter().chain(judge.topics()).collect();
        let table = Table::new(judge.functions_tenant_max());
        let told = Arc::new(Mutex::new(Told { table, behind: topics.len(), say }));
        let judge = Arc::new(judge);
        let mut tails = Vec::with_capacity(topics.len());
        for topic in topics {
            let reader = Reader {
                topic: topic.as_str().into(),
                codec: Arc::clone(&codec),
                writers: Arc::clone(&writers),
                judge: Arc::clone(&judge),
                told: Arc::clone(&told),
                counters: Arc::clone(&counters),
            };
            tails.push(Tail::start(connection, &topic, THREAD, Start::Beginning, reader)?);
        }
        let fences = Fences::new(&judge, tails.iter().map(Tail::fences).collect());
        Ok(Self { tails, fences, counters })
    }

    /// Asks "has everything been said that is in the topic now?"
    pub fn fences(&self) -> Fences {
        self.fences.clone()
    }

    /// Waits until everything has been said that is in the topics now. `patience` is how long nothing may be read; while
    /// records are read it goes on, and says every ten seconds where it is.
    ///
    /// # Errors
    /// Where nothing is read for so long.
    pub fn catch_up(&self, patience: Duration) -> Result<(), RegistryError> {
        let read = || self.counters.read.load(Ordering::Relaxed) + self.counters.refused.load(Ordering::Relaxed);
        for tail in &self.tails {
            let fences = tail.fences();
            let mut said = std::time::Instant::now();
            let progress = || {
                if said.elapsed() >= SAY_EVERY {
                    said = std::time::Instant::now();
                    let place = place(&fences.places());
                    tracing::info!(topic = fences.topic(), read = read(), place, "definitions are being read");
                }
                read()
            };
            if !fences.wait_while_moving(patience, progress) {
                let reason = self.stands(tail);
                return Err(RegistryError::NotRead { topic: fences.topic().to_owned(), waited: patience, reason });
            }
        }
        Ok(())
    }

    /// Why a reader does not go on, as far as that is known.
    fn stands(&self, tail: &Tail) -> String {
        let place = place(&tail.fences().places());
        let said = tail.health().reason();
        if !said.is_empty() {
            return format!("{place}: {said}");
        }
        if self.counters.waits_for_schema.load(Ordering::Relaxed) {
            return format!("{place}: the schema registry does not give the schema of that record");
        }
        format!("{place}; the brokers have given no error")
    }

    /// What was passed over, because it cannot be read; a topic each.
    pub fn passed(&self) -> Vec<Passed> {
        self.tails.iter().map(Tail::passed).collect()
    }

    /// Whether [`RegistryEvent::CaughtUp`] was said.
    pub fn is_caught_up(&self) -> bool {
        self.tails.iter().all(Tail::is_caught_up)
    }

    /// How the brokers do, as the reader of the shared topic sees it.
    pub fn health(&self) -> &Health {
        self.tails[0].health()
    }

    /// Whether a thread has ended, which it does by itself only where `say` panicked.
    pub fn is_finished(&self) -> bool {
        self.tails.iter().any(Tail::is_finished)
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Stops, and waits for the threads.
    pub fn stop(self) {
        self.tails.into_iter().for_each(Tail::stop);
    }
}

/// How often a long start says where it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Where a reader stands, in words.
fn place(places: &[(i32, i64, i64)]) -> String {
    let one = |(partition, next, end): &(i32, i64, i64)| format!("partition {partition} at offset {next} of {end}");
    match places {
        [] => String::new(),
        [first] => format!("; {}", one(first)),
        [first, rest @ ..] => format!("; {}, and {} more partitions", one(first), rest.len()),
    }
}

/// What all readers tell together.
struct Told<S> {
    table: Table,
    /// Topics whose end was not reached yet.
    behind: usize,
    say: S,
}

struct Reader<S> {
    topic: Arc<str>,
    codec: Arc<Codec>,
    writers: Arc<dyn WriterSchemas>,
    judge: Arc<Judge>,
    told: Arc<Mutex<Told<S>>>,
    counters: Arc<Counters>,
}

impl<S: FnMut(RegistryEvent) + Send + 'static> Follower for Reader<S> {
    fn message(&mut self, message: &Message<'_>) -> Step {
        let place = Place { partition: message.partition, offset: message.offset, timestamp: message.timestamp };
        let read = self.read(message);
        self.counters.waits_for_schema.store(read.is_err(), Ordering::Relaxed);
        let Ok(read) = read else {
            self.counters.retried.fetch_add(1, Ordering::Relaxed);
            return Step::Again;
        };
        self.counters.read.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Told { table, say, .. } = &mut *told;
        match read {
            Judged::Stands(name, definition) => {
                table.record(name, definition.map(|definition| *definition), place, say);
                self.counters.overtaken.store(table.overtaken, Ordering::Relaxed);
            }
            Judged::Refused { function, reason, is_misplaced } => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                let (topic, partition, offset) = (&*self.topic, message.partition, message.offset.0);
                if is_misplaced {
                    // Whatever stands under that name is none of this topic's business.
                    tracing::warn!(function, topic, partition, offset, reason, "a record is passed over");
                } else {
                    // Said once, where it is known that no later record is better.
                    tracing::debug!(function, topic, partition, offset, reason, "function definition refused");
                    table.refuse(function, reason, say);
                }
            }
        }
        Step::Done
    }

    fn caught_up(&mut self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Told { table, behind, say } = &mut *told;
        *behind -= 1;
        if *behind == 0 {
            table.caught_up(say);
        }
    }
}

/// The schema of a record cannot be had now.
struct NotYet;

/// What a record comes to.
enum Judged {
    /// A function's definition, or its removal.
    Stands(FunctionName, Option<Box<FunctionDefinition>>),
    Refused {
        /// The key as far as it is text, cut at 128 characters.
        function: String,
        reason: String,
        /// Whether this topic may say nothing of that name.
        is_misplaced: bool,
    },
}

impl<S> Reader<S> {
    fn read(&self, message: &Message<'_>) -> Result<Judged, NotYet> {
        let key = String::from_utf8_lossy(message.key.unwrap_or_default());
        let refused = |reason: String, is_misplaced: bool| {
            let function = key.chars().take(FunctionName::LEN_MAX).collect();
            Ok(Judged::Refused { function, reason, is_misplaced })
        };
        let name = match FunctionName::new(&key) {
            Ok(name) => name,
            Err(fault) => return refused(format!("the record's key is no function name: {fault}"), false),
        };
        let owner = match self.judge.owner(&self.topic, &name) {
            Ok(owner) => owner,
            Err(fault) => return refused(fault, true),
        };
        let Some(payload) = message.payload else { return Ok(Judged::Stands(name, None)) };
        if payload.len() > RECORD_BYTES_MAX {
            let fault = format!("it has {} bytes, and a definition has at most {RECORD_BYTES_MAX}", payload.len());
            return refused(fault, false);
        }
        let Ok((headers, _)) = message.headers(HEADERS) else {
            let Bounds { count_max, bytes_max } = HEADERS;
            let fault = format!("it has more than {count_max} headers, or more than {bytes_max} bytes of them");
            return refused(fault, false);
        };
        let of_value = ValueHeaders::of(|name| headers::value(&headers, name));
        let mut definition: Box<FunctionDefinition> = match self.codec.decode(payload, of_value, &*self.writers) {
            Ok(definition) => Box::new(definition),
            Err(error) if error.retryable() => return Err(NotYet),
            Err(error) => return refused(error.to_string(), false),
        };
        if definition.name != name {
            let fault = format!("the record's key is {name} and the definition's name is {}", definition.name);
            return refused(fault, false);
        }
        if let Some(owner) = owner {
            definition.tenant.get_or_insert_with(|| owner.tenant.clone());
        }
        let faults = self.judge.faults(&definition);
        if !faults.is_empty() {
            return refused(faults.join("; "), false);
        }
        Ok(Judged::Stands(name, Some(definition)))
    }
}
