//! A fresh client that looks whether the brokers answer, while another client of this process says that they do not.
//!
//! librdkafka's clients can stay down for good where the metadata named no broker for a moment (librdkafka issue 5301), and say
//! no more of it than of brokers that are away. What tells the two apart is a client that was made a moment ago. The rooms ask
//! for a look while they are in trouble; nothing is asked of the brokers otherwise. Must not: decide what follows.
//!
//! Bounds: one look at a time, one a second, each client dropped after its look.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::{ClientError, Connection, Quiet};

const ROLE: &str = "witness";
/// From one look to the next, at least.
const EVERY: Duration = Duration::from_secs(1);
/// How long a look may wait for one answer.
const REQUEST: Duration = Duration::from_secs(3);
/// How long a client of its own may take to be dropped, or to answer in spite of its limit, before the watch says so.
const OVERDUE: Duration = Duration::from_secs(45);

/// Where one partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSeen {
    /// Its number.
    pub partition: i32,
    /// The broker that leads it; None where there is none.
    pub leader: Option<i32>,
    /// How many replicas it has, and how many of them are in sync.
    pub replicas: usize,
    /// See [`replicas`](Self::replicas).
    pub in_sync: usize,
}

/// What a fresh client saw.
#[derive(Clone, Debug)]
pub struct Look {
    /// When the look began.
    pub at: Instant,
    /// Since when every look has seen brokers and leaders; None where this one did not.
    pub leaders_since: Option<Instant>,
    /// The same for the coordinator of the group, which has to have answered as well.
    pub coordinator_since: Option<Instant>,
    /// By topic; empty where no broker answered.
    pub topics: BTreeMap<String, Vec<PartitionSeen>>,
    /// What went wrong; empty where nothing did.
    pub fault: String,
}

impl Look {
    /// How long fresh clients have to have found brokers before that tells something about an older one.
    const PROVEN: Duration = Duration::from_secs(4);
    /// A look that is older says nothing of now.
    const AGE_MAX: Duration = Duration::from_secs(10);

    fn is_proven(&self, found_since: Option<Instant>, now: Instant, since: Instant) -> bool {
        let is_young = now.duration_since(self.at) < Self::AGE_MAX && self.at >= since;
        is_young && found_since.is_some_and(|found| now.duration_since(found.max(since)) >= Self::PROVEN)
    }

    /// Whether, at `now`, the group's coordinator has answered fresh clients for four seconds, all of them after `since`.
    pub fn coordinator_answers(&self, now: Instant, since: Instant) -> bool {
        self.is_proven(self.coordinator_since, now, since)
    }

    /// The same for a leader of every partition.
    pub fn leaders_answer(&self, now: Instant, since: Instant) -> bool {
        self.is_proven(self.leaders_since, now, since)
    }
}

/// Asks for looks. Cheap to clone. [`Default`] never has one, for commands and tests.
#[derive(Clone, Default)]
pub struct Witness(Option<Arc<Shared>>);

impl PartialEq for Witness {
    /// Whether both are the same witness.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }
}

impl Eq for Witness {}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    ended: bool,
    last: Option<Arc<Look>>,
}

/// Ends the witness's thread when it is dropped; it does not wait for a look that is under way.
pub struct WitnessThread(Arc<Shared>);

impl Drop for WitnessThread {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    /// Starts the thread `witness`. It looks at these topics, the first of which is the one that the group reads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(connection: &Connection, topics: Vec<String>) -> Result<(Self, WitnessThread), ClientError> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let looker = Looker { connection: connection.clone(), topics, shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name(ROLE.to_owned())
            .spawn(move || looker.run())
            .map_err(|source| ClientError::Thread { name: ROLE.to_owned(), source })?;
        Ok((Self(Some(Arc::clone(&shared))), WitnessThread(shared)))
    }

    /// Asks for a look, without waiting, and answers the last one; None before the first. Looks end where nobody asks.
    pub fn look(&self) -> Option<Arc<Look>> {
        let shared = self.0.as_ref()?;
        let mut state = shared.state();
        state.wanted = true;
        let last = state.last.clone();
        drop(state);
        shared.changed.notify_one();
        last
    }
}

struct Looker {
    connection: Connection,
    topics: Vec<String>,
    shared: Arc<Shared>,
}

impl Looker {
    fn run(self) {
        let mut last: Option<Arc<Look>> = None;
        while self.wait_until_wanted() {
            let look = Arc::new(self.look(last.as_deref()));
            tracing::debug!(?look, "a fresh client looked at the brokers");
            self.shared.state().last = Some(Arc::clone(&look));
            last = Some(look);
            self.pause();
        }
    }

    /// False at the end.
    fn wait_until_wanted(&self) -> bool {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_while(state, |state| !state.wanted && !state.ended);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.wanted = false;
        !state.ended
    }

    fn pause(&self) {
        let state = self.shared.state();
        drop(self.shared.changed.wait_timeout_while(state, EVERY, |state| !state.ended));
    }

    fn look(&self, last: Option<&Look>) -> Look {
        let at = Instant::now();
        let mut look =
            Look { at, leaders_since: None, coordinator_since: None, topics: BTreeMap::new(), fault: String::new() };
        let watch = &self.connection.watch;
        let made = self.connection.reader().create_with_context::<_, BaseConsumer<Quiet>>(Quiet { role: ROLE });
        let consumer = match made {
            Ok(consumer) => consumer,
            Err(error) => {
                look.fault = error.to_string();
                return look;
            }
        };
        // An older look says nothing of the time in between, where nobody asked.
        let before = last.filter(|last| at.duration_since(last.at) < EVERY * 8);
        match watch.call("witness: metadata", OVERDUE, || self.leaders(&consumer, &mut look)) {
            Ok(()) => {
                look.leaders_since = before.and_then(|last| last.leaders_since).or(Some(at));
                match watch.call("witness: committed offsets", OVERDUE, || self.coordinator(&consumer)) {
                    Ok(()) => look.coordinator_since = before.and_then(|last| last.coordinator_since).or(Some(at)),
                    Err(fault) => look.fault = fault,
                }
            }
            Err(fault) => look.fault = fault,
        }
        watch.call("witness: end of a client", OVERDUE, || drop(consumer));
        look
    }

    /// Whether every partition has a leader.
    fn leaders(&self, consumer: &BaseConsumer<Quiet>, look: &mut Look) -> Result<(), String> {
        let mut fault = Ok(());
        for topic in &self.topics {
            let metadata =
                consumer.fetch_metadata(Some(topic), REQUEST).map_err(|error| format!("{topic}: {error}"))?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { continue };
            if let Some(error) = found.error().map(RDKafkaErrorCode::from) {
                fault = Err(format!("topic {topic}: {error}"));
            }
            let seen: Vec<PartitionSeen> = found
                .partitions()
                .iter()
                .map(|found| PartitionSeen {
                    partition: found.id(),
                    leader: Some(found.leader()).filter(|leader| *leader >= 0),
                    replicas: found.replicas().len(),
                    in_sync: found.isr().len(),
                })
                .collect();
            if let Some(none) = seen.iter().find(|seen| seen.leader.is_none()) {
                fault = Err(format!("topic {topic}, partition {}: no broker leads it", none.partition));
            }
            look.topics.insert(topic.clone(), seen);
        }
        fault
    }

    /// Whether the group's coordinator answers.
    fn coordinator(&self, consumer: &BaseConsumer<Quiet>) -> Result<(), String> {
        let Some(topic) = self.topics.first() else { return Ok(()) };
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, 0);
        let answered = consumer.committed_offsets(asked, REQUEST);
        let answered = answered.and_then(|list| list.elements().iter().try_for_each(|element| element.error()));
        answered.map_err(|error| format!("coordinator of group {}: {error}", self.connection.group_id))
    }
}
