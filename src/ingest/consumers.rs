//! Making the consumer of invocations, and making it anew where it is dead and does not say so.
//!
//! Must not: keep offsets, or wait for a consumer that ends: a thread of its own does, under the watch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::Sink;
use super::agreement::Agreement;
use super::commits::Commits;
use super::context::{Context, InvocationConsumer, ROLE};
use super::counters::{add, count};
use super::intake::Intake;
use super::invocations::Control;
use crate::kafka::queue::Queue;
use crate::kafka::{ClientError, Connection, Membership, Pulse, Renew, Renewal, retire};

/// How long the poll thread may stand still before the process ends. It runs short calls itself, none longer than an epoch.
const THREAD_OVERDUE: Duration = Duration::from_secs(60);
/// A consumer that lost its partitions, and is not let into its group again for so long, may be dead; a group that waits for
/// others may take as long, and a new consumer does it no harm.
const OUTSIDE: Duration = Duration::from_secs(3);
/// A commit that was not answered for so long makes a consumer dead whose coordinator answers others.
const COMMIT_DEAD: Duration = Duration::from_secs(5);

/// Makes consumers of one group and topic.
pub(super) struct Consumers {
    connection: Connection,
    topic: String,
    control: Arc<Control>,
    is_newer: bool,
}

impl Consumers {
    pub(super) fn new(connection: &Connection, topic: &str, control: Arc<Control>) -> Self {
        let is_newer = is_newer(connection);
        Self { connection: connection.clone(), topic: topic.to_owned(), control, is_newer }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// A consumer that has subscribed to the topic.
    pub(super) fn make(&self) -> Result<Arc<InvocationConsumer>, ClientError> {
        let context = Context::new(Arc::clone(&self.control.health));
        let made = self.connection.group_member().create_with_context(context);
        let mut consumer: InvocationConsumer = made.map_err(|error| ClientError::create(ROLE, &error))?;
        let control = Arc::clone(&self.control);
        consumer.set_nonempty_callback(move || {
            if let Some(poller) = control.poller.get() {
                poller.unpark();
            }
        });
        consumer
            .subscribe(&[&self.topic])
            .map_err(|source| ClientError::Subscribe { topic: self.topic.clone(), source })?;
        Ok(Arc::new(consumer))
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.connection.watch.thread(ROLE, THREAD_OVERDUE)
    }

    pub(super) fn renewal(&self) -> Renewal {
        Renewal::new(&self.connection.watch)
    }

    /// Whether the brokers assign the partitions, as in the group protocol of Kafka 4.
    pub(super) fn is_newer_protocol(&self) -> bool {
        self.is_newer
    }

    /// Whether the group knows this member by a name that outlives the process.
    pub(super) fn has_a_name_of_its_own(&self) -> bool {
        self.connection.group_member().get("group.instance.id").is_some()
    }

    /// Whether the brokers' refusal is due to a group protocol that nobody asked for, and that they do not know. The next
    /// consumer has the classic one then.
    pub(super) fn falls_back(&mut self, code: Code) -> bool {
        let is_unknown = matches!(code, Code::UnsupportedFeature | Code::UnsupportedVersion);
        if !is_unknown || self.connection.membership != Membership::Newer {
            return false;
        }
        tracing::info!(
            group = self.connection.group_id,
            "the brokers do not know group.protocol=consumer; going on with the classic group protocol"
        );
        self.connection.membership = Membership::AsGiven;
        self.is_newer = is_newer(&self.connection);
        true
    }
}

fn is_newer(connection: &Connection) -> bool {
    connection.group_member().get("group.protocol") == Some("consumer")
}

impl<S: Sink> Intake<S> {
    /// Makes the consumer anew where it stays down while its coordinator answers others, where the clock was set back, or where
    /// the brokers do not know its protocol.
    pub(super) fn renew_where_dead(&mut self, now: Instant) {
        let health = &self.control.health;
        let watch = &self.consumers.connection.watch;
        // A transaction is stored by another client, whose own matter it is.
        let is_plain = !self.transactions.is_under_way();
        let is_deaf = health.is_down() || (is_plain && self.commits.unanswered(now) >= COMMIT_DEAD);
        let is_outside = self.leaving.is_outside(now, self.control.joined.load(Ordering::Acquire), OUTSIDE);
        let is_down = is_deaf || is_outside;
        let witness = &self.consumers.connection.witness;
        let found_since = is_down.then(|| witness.look()).flatten().and_then(|look| look.coordinator_since);
        let why = match self.renewal.look(now, is_down, found_since, watch.set_back()) {
            Renew::No if !self.leaving.renew_now => return,
            // The group may have its reasons.
            Renew::InVain if !is_deaf => {
                self.renewal = self.consumers.renewal();
                return;
            }
            Renew::InVain => {
                let reason = health.reason();
                health
                    .failed_for_good(&format!("new consumers do not work either, while the brokers answer: {reason}"));
                return;
            }
            Renew::No | Renew::Now if is_outside => "the group does not let it in".to_owned(),
            Renew::No | Renew::Now => health.reason(),
        };
        match self.consumers.make() {
            Ok(consumer) => self.replace(consumer, &why, now),
            Err(error) => health.failed(&error),
        }
    }

    fn replace(&mut self, consumer: Arc<InvocationConsumer>, why: &str, now: Instant) {
        let queue = match Queue::of(&consumer) {
            Ok(queue) => Arc::new(queue),
            Err(error) => return self.control.health.failed(&error),
        };
        let offsets = match self.offsets.start_again(&consumer) {
            Ok(offsets) => offsets,
            Err(error) => return self.control.health.failed(&error),
        };
        self.leaving.renew_now = false;
        self.agreement = Agreement::new();
        count(&self.control.counters.consumers_renewed);
        let ids = self.partitions.ids();
        tracing::warn!(partitions = ?ids, reason = why, "the consumer of invocations is made anew; calls in flight may run again");
        self.give_up(&ids);
        self.under_way = None;
        self.transactions.read_anew.clear();
        if !self.transactions.is_under_way() {
            self.commits = Commits { with_metadata: self.commits.with_metadata, ..Commits::new(now) };
        }
        self.control.joined.store(false, Ordering::Release);
        // The new one has subscribed: where this node stands aside, it leaves again.
        self.control.is_out.store(false, std::sync::atomic::Ordering::Release);
        self.show_owned();
        std::mem::replace(&mut self.offsets, offsets).replaced();
        // Before its consumer, which ends elsewhere.
        drop(std::mem::replace(&mut self.queue, queue));
        let old = std::mem::replace(&mut self.consumer, consumer);
        old.context().close();
        retire(old, &self.consumers.connection.watch);
    }

    /// Partitions are not this node's any more, as far as it knows: what is in flight of them counts for nothing here.
    pub(super) fn give_up(&mut self, ids: &[i32]) {
        self.sink.gave_up(ids);
        for &id in ids {
            self.held.forget(id);
            self.standing.forget(id);
            let abandoned = self.partitions.forget(id);
            add(&self.control.counters.abandoned, abandoned.messages);
        }
    }
}
