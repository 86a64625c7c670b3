//! What librdkafka calls back into about records that go the plain way: delivery reports and errors.
//!
//! Must not: decide what follows; the publisher does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::partition::Partitions;
use super::resend::Envelope;
use super::shared::{ROLE, Shared};
use crate::kafka::is_of_one_broker;

/// The plain producers' own.
pub(super) struct Context(pub(super) Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(ROLE, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.0.failed_for_good(reason);
        } else if is_of_one_broker(&error) {
            self.0.health.heard(reason);
        } else {
            if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
                self.0.cut_off.store(true, Ordering::Release);
            }
            self.0.health.failed(&format_args!("{error}: {reason}"));
        }
    }
}

impl ProducerContext<Partitions> for Context {
    type DeliveryOpaque = Box<Envelope>;

    fn delivery(&self, result: &DeliveryResult<'_>, envelope: Box<Envelope>) {
        let lane = envelope.lane;
        match result {
            Ok(_) => self.0.delivered(&envelope),
            Err((error, message)) => self.0.not_delivered(error, message, *envelope),
        }
        // None at the end, when a producer gives back what it has.
        if let Some(producers) = self.0.producers.get().and_then(Weak::upgrade) {
            producers.ended(lane);
        }
    }

    fn get_custom_partitioner(&self) -> Option<&Partitions> {
        self.0.chooses.then_some(&self.0.partitions)
    }
}

/// Whether the brokers' refusal is due to the record, or to another one in its batch, so that a broker that does better does
/// not help.
pub(super) fn is_of_the_record(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidTimestamp
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::UnsupportedForMessageFormat
            | Code::PolicyViolation
    )
}
