//! Sends lines of functions' logs: what may be lost.
//!
//! A bounded queue, a thread and a producer of their own, so that neither a flood of lines nor their troubles are those of results.
//! What does not fit, and what the brokers do not take in time, is dropped, counted, and told in the node's log. Must not: have anybody
//! wait, or bound what one function writes; `execute` does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::ending::{end_within, join_within};
use crate::codec::{CONTENT_TYPE_AVRO, CONTENT_TYPE_JSON, Codec, WireFormat};
use crate::kafka::{ClientError, Connection, headers, partition_ids};
use crate::telemetry::Metrics;
use crate::types::{FunctionLog, LogBatch};

const ROLE: &str = "function-logs";
/// What a line takes up in the queue beside its text.
const LINE_OVERHEAD: usize = 96;
/// How long the thread waits for lines, or for room, before it looks after the producer.
const TURN: Duration = Duration::from_millis(100);
/// From one line of the node's log about lines that were dropped to the next.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// How long the brokers may take to say whether the topic is there.
const LOOK: Duration = Duration::from_secs(2);
/// A producer whose lines all failed for so long is made anew: librdkafka may not find its way back.
const DEAF: Duration = Duration::from_secs(90);
/// How long the thread may take to end beyond what it was given.
const THREAD_ENDS: Duration = Duration::from_secs(1);

/// What is sent, and as what.
pub struct LogSettings {
    /// The topic.
    pub topic: String,
    /// The node's name.
    pub node: String,
    /// The form of the lines.
    pub format: WireFormat,
    /// Encodes them.
    pub codec: Arc<Codec>,
    /// Bytes of lines that may wait here (inclusive).
    pub bytes_max: usize,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

/// The running sender. Dropping it leaves what waits.
pub struct FunctionLogs {
    queue: Arc<LogQueue>,
    thread: Option<JoinHandle<()>>,
}

/// Takes lines from any thread.
pub struct LogQueue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    bytes_max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<LogBatch>,
    bytes: usize,
    /// Until when what waits may still be sent, once nothing more comes.
    ends: Option<Instant>,
}

impl LogQueue {
    fn new(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { waiting: Mutex::default(), came: Condvar::new(), bytes_max, metrics }
    }

    /// Takes lines, where there is room for them; else they are counted.
    pub fn push(&self, batch: LogBatch) {
        let bytes = size(&batch);
        let mut waiting = self.waiting();
        if waiting.bytes + bytes > self.bytes_max || waiting.ends.is_some() {
            drop(waiting);
            return self.metrics.function_logs_dropped.add(batch.lines.len() as u64);
        }
        waiting.bytes += bytes;
        waiting.batches.push_back(batch);
        drop(waiting);
        self.came.notify_one();
    }

    fn next(&self, wait: Duration) -> Option<LogBatch> {
        let mut waiting = self.waiting();
        if waiting.batches.is_empty() && waiting.ends.is_none() {
            waiting = self.came.wait_timeout(waiting, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let batch = waiting.batches.pop_front()?;
        waiting.bytes -= size(&batch);
        Some(batch)
    }

    fn end(&self, until: Instant) {
        self.waiting().ends = Some(until);
        self.came.notify_one();
    }

    /// Until when it may go on, where it is to end.
    fn ends(&self) -> Option<Instant> {
        self.waiting().ends
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(batch: &LogBatch) -> usize {
    batch.bytes() + batch.lines.len() * LINE_OVERHEAD
}

/// What the producer says of its records.
#[derive(Default)]
struct Heard {
    stored: AtomicU64,
    failed: AtomicU64,
    last_error: Mutex<String>,
}

impl Heard {
    fn failed(&self, lines: u64, error: &KafkaError) {
        self.failed.fetch_add(lines, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
    }
}

struct Reports(Arc<Heard>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(ROLE, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = ROLE, %error, reason, "kafka client reports");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => _ = self.0.stored.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => self.0.failed(1, error),
        }
    }
}

impl FunctionLogs {
    /// Makes the producer and starts its thread.
    ///
    /// # Errors
    /// Where librdkafka refuses the settings, or the system gives no thread.
    pub fn start(connection: &Connection, settings: LogSettings) -> Result<Self, ClientError> {
        let mut config = connection.producer();
        let usual = [
            ("linger.ms", "50"),
            ("queue.buffering.max.messages", "10000"),
            ("queue.buffering.max.kbytes", "16384"),
            // What is older is no news; and no line may wait for brokers for ever.
            ("message.timeout.ms", "30000"),
        ];
        for (key, value) in usual {
            config.set(key, value);
        }
        let heard = Arc::<Heard>::default();
        let producer = client(&config, &heard).map_err(|error| ClientError::create(ROLE, &error))?;
        let queue = Arc::new(LogQueue::new(settings.bytes_max, Arc::clone(&settings.metrics)));
        let connection = connection.clone();
        let sender = Sender { settings, config, connection, queue: Arc::clone(&queue), heard, producer };
        let thread = std::thread::Builder::new()
            .name(ROLE.to_owned())
            .spawn(move || sender.run())
            .map_err(|source| ClientError::Thread { name: ROLE.to_owned(), source })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Where lines are handed over.
    pub fn queue(&self) -> Arc<LogQueue> {
        Arc::clone(&self.queue)
    }

    /// Sends what waits, for at most `limit`; what is left then is counted as dropped.
    pub fn finish(mut self, limit: Duration) {
        self.queue.end(Instant::now() + limit);
        if let Some(thread) = self.thread.take() {
            join_within(thread, limit + THREAD_ENDS);
        }
    }
}

impl Drop for FunctionLogs {
    fn drop(&mut self) {
        self.queue.end(Instant::now());
    }
}

fn client(config: &ClientConfig, heard: &Arc<Heard>) -> Result<BaseProducer<Reports>, KafkaError> {
    config.create_with_context(Reports(Arc::clone(heard)))
}

/// The thread's own.
struct Sender {
    settings: LogSettings,
    config: ClientConfig,
    connection: Connection,
    queue: Arc<LogQueue>,
    heard: Arc<Heard>,
    producer: BaseProducer<Reports>,
}

impl Sender {
    fn run(mut self) {
        let mut turns = Turns { told_at: None, told: 0, stored: 0, stored_at: Instant::now() };
        loop {
            match self.queue.next(TURN) {
                Some(batch) => self.send_batch(&batch),
                None if self.queue.ends().is_some() => break,
                None => {}
            }
            self.producer.poll(Duration::ZERO);
            self.care(&mut turns);
        }
        let left = self.queue.ends().map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        // The error is that it took too long: the number that is left says so.
        let _ = self.producer.flush(left);
        let unsent = u64::try_from(self.producer.in_flight_count()).unwrap_or(0);
        self.dropped(unsent);
        self.dropped(self.heard.failed.swap(0, Ordering::Relaxed));
        if unsent > 0 {
            let topic = &self.settings.topic;
            tracing::warn!(topic, lines = unsent, "ended with lines of functions that the brokers did not store");
        }
        let watch = self.connection.watch.clone();
        end_within(&watch, Duration::ZERO, move || drop(self.producer));
    }

    fn send_batch(&self, batch: &LogBatch) {
        for event in batch.events(&self.settings.node) {
            match self.settings.codec.encode(&event, self.settings.format) {
                Ok(payload) => self.send(&event, &payload),
                Err(fault) => {
                    tracing::error!(function = %event.function, %fault, "a line of a function has no form on the wire");
                    self.dropped(1);
                }
            }
        }
    }

    /// Hands a line to librdkafka; where that has no room, waits for some. Lines that come meanwhile wait in the queue.
    fn send(&self, event: &FunctionLog, payload: &[u8]) {
        let is_json = self.settings.format == WireFormat::Json;
        let content_type = if is_json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO };
        let headers = [("content-type".to_owned(), Some(content_type.as_bytes().to_vec()))];
        let mut record = BaseRecord::to(&self.settings.topic).key(event.function.as_str()).payload(payload);
        record.headers = headers::write(&headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(Code::QueueFull), returned)) => {
                    if self.queue.ends().is_some_and(|until| Instant::now() >= until) {
                        return self.dropped(1);
                    }
                    record = returned;
                    self.producer.poll(TURN);
                }
                Err((error, _)) => return self.heard.failed(1, &error),
            }
        }
    }

    fn dropped(&self, lines: u64) {
        self.settings.metrics.function_logs_dropped.add(lines);
    }

    /// Counts and tells what was dropped, and makes a producer anew of which nothing comes any more.
    fn care(&mut self, turns: &mut Turns) {
        let now = Instant::now();
        let failed = self.heard.failed.swap(0, Ordering::Relaxed);
        self.dropped(failed);
        let stored = self.heard.stored.load(Ordering::Relaxed);
        if stored != turns.stored || (failed == 0 && self.producer.in_flight_count() == 0) {
            (turns.stored, turns.stored_at) = (stored, now);
        }
        let dropped = self.settings.metrics.function_logs_dropped.get();
        if dropped > turns.told && turns.told_at.is_none_or(|told_at| now - told_at >= TELL_EVERY) {
            let (topic, lines) = (&self.settings.topic, dropped - turns.told);
            let last_error = self.heard.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // librdkafka says of a topic that is not there that its records took too long.
            let is_missing = matches!(partition_ids(self.producer.client(), topic, LOOK), Ok(None));
            let (what, hint) = if is_missing {
                ("the topic is not there", "make the topic, or have a node make it (topics.create)")
            } else {
                ("the brokers do not take them, or not as fast as they come", last_error.as_str())
            };
            tracing::warn!(topic, lines, hint, "lines of functions were dropped: {what}");
            (turns.told, turns.told_at) = (dropped, Some(now));
        }
        if now - turns.stored_at >= DEAF {
            turns.stored_at = now;
            self.renew();
        }
    }

    fn renew(&mut self) {
        let made = match client(&self.config, &self.heard) {
            Ok(made) => made,
            Err(error) => return tracing::warn!(%error, "no new producer for lines of functions"),
        };
        tracing::info!("nothing of lines of functions is stored any more: their producer is made anew");
        let old = std::mem::replace(&mut self.producer, made);
        self.dropped(u64::try_from(old.in_flight_count()).unwrap_or(0));
        end_within(&self.connection.watch, Duration::ZERO, move || drop(old));
    }
}

/// What the thread remembers from turn to turn.
struct Turns {
    told_at: Option<Instant>,
    /// Lines that were dropped and told.
    told: u64,
    stored: u64,
    /// When something was stored last, or nothing was there to be.
    stored_at: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionDefinition, FunctionKind, LeftOut, LogLine, LogStream, Sha256, Timestamp};

    fn batch(text: &str) -> LogBatch {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let definition = FunctionDefinition::new("f".parse().unwrap(), "1", artifact, FunctionKind::Command);
        let (written_at, left_out) = (Timestamp::ZERO, LeftOut::default());
        let line = LogLine { stream: LogStream::Stderr, written_at, text: text.to_owned(), left_out };
        LogBatch { definition: Arc::new(definition), invocation_id: None, attempt: 0, lines: vec![line.clone(), line] }
    }

    #[test]
    fn the_queue_is_bounded_and_counts_what_it_does_not_take() {
        let metrics = Arc::new(Metrics::default());
        let one = size(&batch("0123456789"));
        assert_eq!(one, 2 * (10 + LINE_OVERHEAD));
        let queue = LogQueue::new(2 * one, Arc::clone(&metrics));
        for _ in 0..5 {
            queue.push(batch("0123456789"));
        }
        assert_eq!(metrics.function_logs_dropped.get(), 6);
        assert!(queue.next(Duration::ZERO).is_some());
        queue.push(batch("0123456789"));
        assert_eq!(metrics.function_logs_dropped.get(), 6, "there is room again");
        queue.end(Instant::now());
        queue.push(batch("x"));
        assert_eq!(metrics.function_logs_dropped.get(), 8, "nothing comes in at the end");
        assert!(queue.next(Duration::ZERO).is_some() && queue.next(Duration::ZERO).is_some());
        assert!(queue.next(Duration::from_hours(1)).is_none(), "nobody waits at the end");
    }
}
