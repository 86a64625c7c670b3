//! The publisher as others see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::ending::join_within;
use super::producers::{self, Producers};
use super::record::{Deliveries, Outcome, Record, Topics};
use super::resend::{Backoff, Envelope, Waits};
use super::shared::{ROLE, STALLED, Shared};
use super::stall::Stall;
use super::transactions::{TransactionSettings, Transactions};
use crate::kafka::{ClientError, Connection, Consumed, Health, PanicGuard, Witness};

/// How long the thread may take to end: a turn of it, on a busy machine.
const THREAD_ENDS: Duration = Duration::from_secs(3);
/// How long the clients may take to end: half a second to give back what they have, on a busy machine.
const CLIENTS_END: Duration = Duration::from_secs(5);

/// The producer is of no more use; the process should end, and calls without an outcome are read again.
#[derive(Debug, thiserror::Error)]
#[error("nothing is sent any more: the producer failed for good: {reason}")]
pub struct PublishError {
    /// Why.
    pub reason: String,
}

/// Sends records. Cheap to share behind an `Arc`; usable from any thread.
pub struct Publisher {
    shared: Arc<Shared>,
    /// None at the end.
    producers: Option<Arc<Producers>>,
    witness: Witness,
    thread: Option<JoinHandle<()>>,
    transactions: Option<Transactions>,
}

impl Publisher {
    /// [`start_with`](Self::start_with) the waits of [`Backoff::default`], without transactions.
    ///
    /// # Errors
    /// As there.
    pub fn start(
        connection: &Connection,
        topics: Topics,
        deliveries: Arc<dyn Deliveries>,
    ) -> Result<Self, ClientError> {
        Self::start_with(connection, topics, Backoff::default(), None, deliveries)
    }

    /// Makes the producer and starts its thread. With `transactions`, outcomes wait for
    /// [`commit_along_with`](Self::commit_along_with), and what else is published does not take part.
    ///
    /// # Errors
    /// Where the client's settings are refused, the thread cannot be started, or the brokers do not let this node make
    /// transactions.
    pub fn start_with(
        connection: &Connection,
        topics: Topics,
        backoff: Backoff,
        transactions: Option<TransactionSettings>,
        deliveries: Arc<dyn Deliveries>,
    ) -> Result<Self, ClientError> {
        let mut config = connection.producer();
        // Another partitioner of the free properties keeps its word; its records share one lane a topic.
        let chooses = config.get("partitioner") == Some("murmur2_random");
        if chooses {
            // Records without a key are kept together by their lanes (see `lanes`).
            config.set("sticky.partitioning.linger.ms", "0");
        }
        let shared = Arc::new(Shared::new(topics, chooses, producers::limits(&config), backoff, deliveries));
        let transactions = match transactions {
            None => None,
            Some(settings) => Some(Transactions::new(connection, settings, backoff, Arc::clone(&shared))?),
        };
        let producers = Producers::new(config, connection.clone(), Arc::clone(&shared))
            .map_err(|error| ClientError::create(ROLE, &error))?;
        let thread = std::thread::Builder::new()
            .name(ROLE.to_owned())
            .spawn({
                let (producers, shared) = (Arc::clone(&producers), Arc::clone(&shared));
                move || {
                    let _guard = PanicGuard(|| shared.failed_for_good("the thread that publishes panicked"));
                    producers.run();
                }
            })
            .map_err(|source| ClientError::Thread { name: ROLE.to_owned(), source })?;
        let witness = connection.witness.clone();
        Ok(Self { shared, producers: Some(producers), witness, thread: Some(thread), transactions })
    }

    /// Begins to make transactions of outcomes and of what `consumed` says of their offsets. Without transactions, nothing.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn commit_along_with(&self, consumed: Arc<dyn Consumed>) -> Result<(), ClientError> {
        self.transactions.as_ref().map_or(Ok(()), |transactions| transactions.begin(consumed))
    }

    /// Hands an outcome over without waiting. Its position is acknowledged through [`Deliveries`] once all of it is stored.
    ///
    /// Failures that may pass (queue full, brokers away, topic not there yet) are not errors: it is sent again until it is
    /// stored. A dead letter that is too large loses its value, then its sender's headers; any other record is replaced by
    /// what [`Deliveries::instead_of`] says.
    ///
    /// # Errors
    /// Where the producer has failed for good.
    pub fn publish(&self, outcome: Outcome) -> Result<(), PublishError> {
        if let Some(transactions) = &self.transactions {
            self.shared.begin(true);
            if outcome.dead_letter.is_some() {
                self.shared.begin(true);
            }
            transactions.push(outcome);
            return self.working();
        }
        let Outcome { position, bytes, record, dead_letter } = outcome;
        let half_stored = dead_letter.is_some().then(Arc::default);
        let waits = Waits { position, bytes, half_stored };
        for record in dead_letter.into_iter().chain([record]) {
            self.send(record, Some(waits.clone()));
        }
        self.working()
    }

    /// Hands over a record that no call waits for. Where it is too large for any topic, or too many of its kind wait to be
    /// sent again, it is dropped and counted.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_loose(&self, record: Record) -> Result<(), PublishError> {
        self.send(record, None);
        self.working()
    }

    fn send(&self, record: Record, waits: Option<Waits>) {
        self.shared.begin(waits.is_some());
        let envelope = Envelope::new(record.destination, waits);
        if let Some(producers) = &self.producers {
            producers.send(record, envelope);
        }
    }

    #[cfg(test)]
    pub(super) fn producers(&self) -> Option<&Producers> {
        self.producers.as_deref()
    }

    fn working(&self) -> Result<(), PublishError> {
        match self.shared.health.fatal() {
            None => Ok(()),
            Some(reason) => Err(PublishError { reason: reason.to_owned() }),
        }
    }

    /// Waits until every record is stored or given back, up to `timeout`. Returns how many are not.
    pub fn flush(&self, timeout: Duration) -> u64 {
        self.shared.flush(timeout)
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// How the brokers do, as the producer sees it.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Whether an outcome that is handed in now can be stored soon, as far as is known: the brokers answer, and of those that
    /// wait to be stored one was within the last second.
    pub fn can_store(&self) -> bool {
        !self.shared.health.is_down() && self.shared.stalled_for() < STALLED
    }

    /// Since when nothing is stored that calls wait for, where, and why, as far as is known; None where something was within the
    /// last second, or nothing waits. For readiness; the log has it where it lasts three seconds.
    pub fn stall(&self) -> Option<Stall> {
        self.shared.stall(&self.witness)
    }

    /// Records that wait here: for those before them in their partition, or to be sent again.
    pub fn waiting(&self) -> usize {
        let queues = self.shared.queues();
        queues.lanes.waiting() + queues.resend.len()
    }
}

impl Drop for Publisher {
    /// Gives up on what is not stored (see [`flush`](Self::flush)) and waits for threads and clients to end, for some seconds at
    /// most: what does not end by then is left to itself.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(transactions) = &self.transactions {
            transactions.end(self.shared.offsets_hang(Instant::now()));
        }
        if let Some(thread) = self.thread.take() {
            join_within(thread, THREAD_ENDS);
        }
        if let Some(producers) = self.producers.take() {
            producers.end(CLIENTS_END);
        }
        let waiting = self.waiting() as u64;
        self.shared.counters.abandoned.fetch_add(waiting, Ordering::Relaxed);
        let left = self.shared.counters.unacknowledged.load(Ordering::Acquire);
        if left > 0 {
            tracing::warn!(records = left, "closed with records that are not stored; their calls are read again");
        }
    }
}
