//! The handle of the invocations consumer: starting it, acknowledging, stopping it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::consumers::Consumers;
use super::context::ROLE;
use super::doubt::Doubts;
use super::ends::Passed;
use super::intake::Intake;
use super::offsets::{Answer, Offsets};
use super::passing::BatchEnd;
use super::transactions::Preparation;
use super::{Counters, IngestError, Settings, Sink};
use crate::codec::{Codec, WriterSchemas};
use crate::kafka::queue::Queue;
use crate::kafka::{ClientError, Connection, Consumed, Health, PanicGuard, Prepared, Settled, Unprepared};
use crate::types::{Condition, Position};

/// What the poll thread is told by others.
pub(super) enum Note {
    /// An outcome is stored.
    Stored(Position, usize),
    /// A call went back without having begun.
    GivenBack(Position),
    /// The coordinator answered the consumer of this epoch.
    Answer(u64, Answer),
    /// Which partitions have nothing behind where they stand, and up to where.
    Ends(Vec<Passed>),
    /// Somebody has looked where a batch ends that cannot be read.
    BatchEnd(BatchEnd),
    /// A transaction is about to be made.
    Prepare(Preparation),
    /// The transaction that was prepared has ended.
    Settled(Settled),
}

/// Tells ingest that the outcome of a message is stored. Cheap to clone, usable from any thread, never waits.
#[derive(Clone)]
pub struct Acknowledger(Sender<Note>);

impl Acknowledger {
    /// The outcome of the message at `position` is stored, so its offset may move. `bytes` as in
    /// [`Received::bytes`](super::Received::bytes). Once a message; after a shutdown it has no effect.
    pub fn acknowledge(&self, position: Position, bytes: usize) {
        // The poll thread is gone where this fails, and with it everything that the note would change.
        let _ = self.0.send(Note::Stored(position, bytes));
    }
}

impl Acknowledger {
    /// The message at `position` goes back to the group without having begun. It stays uncommitted, and is read by whoever
    /// comes next.
    pub fn give_back(&self, position: Position) {
        // As in `acknowledge`.
        let _ = self.0.send(Note::GivenBack(position));
    }
}

impl Consumed for Acknowledger {
    fn prepare(&self, outcomes: Vec<(Position, usize)>) -> Result<Prepared, Unprepared> {
        let (reply, answer) = sync_channel(1);
        let asked = self.0.send(Note::Prepare(Preparation { outcomes, reply }));
        // The poll thread answers, or ends and drops what it was asked.
        asked.ok().and_then(|()| answer.recv().ok()).unwrap_or(Err(Unprepared::Ended))
    }

    fn settled(&self, settled: Settled) {
        // As in `acknowledge`: without the poll thread there is nothing to change.
        let _ = self.0.send(Note::Settled(settled));
    }
}

/// What the handle and the poll thread share.
pub(super) struct Control {
    /// No more messages should be taken.
    pub(super) stop_intake: AtomicBool,
    /// No more messages are taken: the poll thread has seen it.
    pub(super) intake_stopped: AtomicBool,
    /// This node should be out of its group.
    pub(super) hand_back: AtomicBool,
    /// It is on its way out, or out: the poll thread has told the group.
    pub(super) is_out: AtomicBool,
    /// The partitions that are read now, in order. Changed with them alone.
    pub(super) owned: Mutex<Vec<i32>>,
    /// When the poll thread ends at the latest; None while it is to go on.
    pub(super) end_by: Mutex<Option<Instant>>,
    /// Whether the group has answered at least once.
    pub(super) joined: AtomicBool,
    /// The poll thread, once it runs.
    pub(super) poller: OnceLock<Thread>,
    pub(super) doubts: Doubts,
    /// The partitions that stand, as they are to be shown.
    pub(super) conditions: Mutex<Vec<Condition>>,
    pub(super) counters: Arc<Counters>,
    pub(super) health: Arc<Health>,
}

/// The consumer that runs. Dropping it ends it as soon as possible, with a last commit of what is done by then.
pub struct Invocations {
    control: Arc<Control>,
    notes: Sender<Note>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Whether a consumer is ready. Cheap to clone.
#[derive(Clone)]
pub struct Readiness(Arc<Control>);

impl Readiness {
    /// Whether the brokers answer and the group has let this node in.
    pub fn is_ready(&self) -> bool {
        let is_up = self.0.joined.load(Ordering::Acquire) && self.0.health.is_up();
        is_up && self.0.doubts.reason().is_none() && !self.is_out() && !self.all_stand()
    }

    /// Whether this node is out of its group, or on its way out, because it was told to be.
    pub fn is_out(&self) -> bool {
        self.0.hand_back.load(Ordering::Acquire) || self.0.is_out.load(Ordering::Acquire)
    }

    /// Why not, as far as was said; empty where nothing was.
    pub fn reason(&self) -> String {
        let reason = self.0.health.reason();
        if !reason.is_empty() {
            return reason;
        }
        let stands = || self.conditions().into_iter().next().filter(|_| self.all_stand());
        let stands = || stands().map(|first| format!("no partition can be read; {} {}", first.subject, first.detail));
        self.0.doubts.reason().or_else(stands).unwrap_or_default()
    }

    /// The partitions that stand, while others are read.
    pub fn conditions(&self) -> Vec<Condition> {
        self.0.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every partition of this node stands, so that it answers no call at all.
    fn all_stand(&self) -> bool {
        let Counters { partitions, standing, .. } = &*self.0.counters;
        let standing = standing.load(Ordering::Acquire);
        standing > 0 && standing >= partitions.load(Ordering::Acquire)
    }
}

impl Invocations {
    /// Joins the group and begins to read. The sink is called on the thread `invocations`.
    ///
    /// # Errors
    /// Where a bound is 0, the client's settings are refused, or a thread cannot be started.
    pub fn start(
        connection: &Connection,
        settings: Settings,
        codec: Arc<Codec>,
        writers: Arc<dyn WriterSchemas>,
        sink: impl Sink,
    ) -> Result<Self, IngestError> {
        let bounds = [
            ("in-flight-max", settings.in_flight_max),
            ("in-flight-bytes-max", settings.in_flight_bytes_max),
            ("commit-completions", usize::try_from(settings.commit_completions).unwrap_or(usize::MAX)),
        ];
        if let Some((setting, _)) = bounds.into_iter().find(|(_, bound)| *bound == 0) {
            return Err(IngestError::ZeroBound { setting });
        }
        let health = Arc::new(Health::new(ROLE));
        // Not a bounded channel: a note is the end of a message in flight, of which there is a bound, or one of a few answers. A
        // sender that had to wait would be the publisher's thread.
        let (notes, inbox) = mpsc::channel();
        let control = Arc::new(Control {
            stop_intake: AtomicBool::new(false),
            intake_stopped: AtomicBool::new(false),
            hand_back: AtomicBool::new(false),
            is_out: AtomicBool::new(false),
            owned: Mutex::default(),
            end_by: Mutex::new(None),
            joined: AtomicBool::new(false),
            poller: OnceLock::new(),
            doubts: Doubts::default(),
            conditions: Mutex::default(),
            counters: Arc::default(),
            health,
        });
        let consumers = Consumers::new(connection, &settings.topic, Arc::clone(&control));
        let consumer = consumers.make()?;
        let (health, watch) = (Arc::clone(&control.health), connection.watch.clone());
        let queue = Queue::of(&consumer).map_err(|error| ClientError::create(ROLE, &error))?;
        let offsets = Offsets::start(&consumer, &settings.topic, notes.clone(), health, watch)?;
        let (end, ended) = sync_channel(1);
        let health = Arc::clone(&control.health);
        // Such as one in the sink.
        let guard = PanicGuard(move || health.failed_for_good("the thread that reads invocations panicked"));
        let intake = Intake::new(
            consumers,
            consumer,
            queue,
            settings,
            codec,
            writers,
            sink,
            Arc::clone(&control),
            offsets,
            inbox,
        );
        let thread = std::thread::Builder::new()
            .name(ROLE.to_owned())
            .spawn(move || {
                let guard = guard;
                intake.run();
                drop(guard);
                // Nobody waits where the handle is gone.
                let _ = end.send(());
            })
            .map_err(|source| ClientError::Thread { name: ROLE.to_owned(), source })?;
        Ok(Self { control, notes, ended, thread: Some(thread) })
    }

    /// Who tells it that outcomes are stored.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger(self.notes.clone())
    }

    /// Takes no more messages. What is in flight may end and is committed; the membership stays.
    pub fn stop_intake(&self) {
        self.control.stop_intake.store(true, Ordering::Release);
    }

    /// Leaves the group, as in any other move of partitions: calls in flight may end, up to the drain timeout, and what has not
    /// begun runs elsewhere. Everything else goes on.
    pub fn hand_back(&self) {
        self.control.hand_back.store(true, Ordering::Release);
    }

    /// Joins the group again.
    pub fn take_again(&self) {
        self.control.hand_back.store(false, Ordering::Release);
    }

    /// Whether every partition was handed back, and nothing of them is in flight.
    pub fn is_handed_back(&self) -> bool {
        let Control { hand_back, is_out, counters, .. } = &*self.control;
        hand_back.load(Ordering::Acquire)
            && is_out.load(Ordering::Acquire)
            && counters.partitions.load(Ordering::Acquire) == 0
    }

    /// Messages in flight.
    pub fn in_flight(&self) -> usize {
        self.control.counters.in_flight.load(Ordering::Acquire)
    }

    /// The partitions that this node reads now, in order.
    pub fn partitions(&self) -> Vec<i32> {
        self.control.owned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether intake has stopped and nothing is in flight. Stays true from then on.
    pub fn is_drained(&self) -> bool {
        self.control.intake_stopped.load(Ordering::Acquire) && self.in_flight() == 0
    }

    /// Whether the brokers answer and the group has let this node in.
    pub fn is_ready(&self) -> bool {
        self.readiness().is_ready()
    }

    /// Who can be asked that from elsewhere.
    pub fn readiness(&self) -> Readiness {
        Readiness(Arc::clone(&self.control))
    }

    /// How the brokers do, as the consumer sees it; also why it failed for good, where it did.
    pub fn health(&self) -> &Health {
        &self.control.health
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.control.counters)
    }

    /// Stops intake, waits up to `timeout` for what is in flight, commits, leaves the group, and ends the thread. The commit
    /// and leaving may add 5 s where the brokers do not answer. Messages that have not begun go back to the group at once.
    /// Returns how many had begun and not ended; they are read again.
    pub fn shutdown(mut self, timeout: Duration) -> usize {
        self.end(timeout);
        self.control.counters.unfinished.load(Ordering::Acquire)
    }

    fn end(&mut self, timeout: Duration) {
        let Some(thread) = self.thread.take() else { return };
        self.stop_intake();
        *self.control.end_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + timeout);
        // Leaving the group is the last thing and has no time limit of its own.
        match self.ended.recv_timeout(timeout + LEAVE) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::warn!("the brokers did not answer in time; left without a word to the group");
            }
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                if thread.join().is_err() {
                    tracing::error!("the thread that read invocations had panicked");
                }
            }
        }
    }
}

/// How long the last commit and leaving the group may take, on top of what a shutdown was given.
const LEAVE: Duration = Duration::from_secs(5);

impl Drop for Invocations {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_a_transaction_while_the_poll_thread_ends_or_after_is_told_that_it_ended() {
        let (notes, inbox) = mpsc::channel();
        let acknowledger = Acknowledger(notes);
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| acknowledger.prepare(Vec::new()).err());
            let note = inbox.recv().expect("it is asked");
            assert!(matches!(note, Note::Prepare(_)));
            drop((note, inbox));
            assert_eq!(asks.join().expect("no panic"), Some(Unprepared::Ended));
        });
        assert_eq!(acknowledger.prepare(Vec::new()).err(), Some(Unprepared::Ended));
    }
}
