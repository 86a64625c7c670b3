//! What librdkafka calls back into: rebalances are noted for the poll thread, errors change the health.
//!
//! Must not: wait for anything. The callbacks run inside `poll`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;

use crate::kafka::{Health, is_of_one_broker};

pub(super) const ROLE: &str = "invocations";

/// The consumer of invocations.
pub(super) type InvocationConsumer = BaseConsumer<Context>;

/// What the group's coordinator wants, until it is answered with `assign` or `unassign`.
#[derive(Debug)]
pub(super) enum RebalanceEvent {
    /// Take these partitions over.
    Assign(TopicPartitionList),
    /// Give these up.
    Revoke {
        /// Which.
        partitions: TopicPartitionList,
        /// Whether they are somebody else's already: nothing can be committed for them any more.
        lost: bool,
    },
}

/// Shared by the consumer and the poll thread.
pub(super) struct Context {
    pub(super) health: Arc<Health>,
    noted: Mutex<VecDeque<RebalanceEvent>>,
    any_noted: AtomicBool,
    closing: AtomicBool,
    /// A heartbeat of the newer group protocol was not answered in time, and whatever its answer said is lost.
    heartbeat_lost: AtomicBool,
}

impl Context {
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            noted: Mutex::default(),
            any_noted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            heartbeat_lost: AtomicBool::new(false),
        }
    }

    /// The oldest rebalance that nobody has taken up. Cheap where there is none.
    pub(super) fn take_rebalance(&self) -> Option<RebalanceEvent> {
        if !self.any_noted.load(Ordering::Acquire) {
            return None;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let first = noted.pop_front();
        self.any_noted.store(!noted.is_empty(), Ordering::Release);
        first
    }

    /// Whether a rebalance waits to be taken up.
    pub(super) fn is_rebalance_noted(&self) -> bool {
        self.any_noted.load(Ordering::Acquire)
    }

    /// Whether a heartbeat's answer was lost since this was last asked.
    pub(super) fn take_heartbeat_lost(&self) -> bool {
        self.heartbeat_lost.swap(false, Ordering::AcqRel)
    }

    /// From now on rebalances are answered at once: the poll thread is done, and the consumer closes.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

/// Takes partitions over, from the offsets in the list.
pub(super) fn assign(consumer: &InvocationConsumer, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(partitions),
    }
}

/// Gives partitions up.
pub(super) fn unassign(consumer: &InvocationConsumer, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka says this nowhere but in its log.
        if facility == "REQTMOUT" && message.contains("ConsumerGroupHeartbeatRequest") {
            self.heartbeat_lost.store(true, Ordering::Release);
        }
        crate::kafka::log(ROLE, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.closing.load(Ordering::Acquire) {
            // Its end says nothing about the brokers, nor about the consumer that may have taken its place.
            return tracing::debug!(client = ROLE, %error, reason, "a consumer that ends reports");
        }
        match error.rdkafka_error_code() {
            // The poll returns these too.
            Some(Code::Fatal | Code::PollExceeded) => {}
            _ if is_of_one_broker(&error) => self.health.heard(reason),
            _ => self.health.failed(&format_args!("{error}: {reason}")),
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let is_assign = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let answered = if is_assign { assign(consumer, partitions) } else { unassign(consumer, partitions) };
            if let Err(error) = answered {
                tracing::debug!(client = ROLE, %error, "rebalance at close not answered");
            }
            return;
        }
        let partitions = partitions.clone();
        let event = if is_assign {
            RebalanceEvent::Assign(partitions)
        } else {
            RebalanceEvent::Revoke { partitions, lost: consumer.assignment_lost() }
        };
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
        self.any_noted.store(true, Ordering::Release);
    }
}
