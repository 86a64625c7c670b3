//! What librdkafka calls back into about records of a transaction: which of them the brokers did not take.
//!
//! Must not: decide what follows. A transaction is stored as a whole or not at all, so there is nothing to acknowledge here.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::shared::{ROLE, Shared};
use crate::kafka::is_of_one_broker;

/// Which record of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// The outcome's place among those of the transaction.
    pub(super) index: usize,
    /// Whether it is the dead letter beside the result.
    pub(super) dead_letter: bool,
}

/// Records that were not taken, and why.
#[derive(Default)]
pub(super) struct NotTaken(Mutex<Vec<(Sent, Code)>>);

impl NotTaken {
    pub(super) fn take(&self) -> Vec<(Sent, Code)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why the first of them was not taken.
    pub(super) fn first(&self) -> Option<Code> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).first().map(|(_, code)| *code)
    }

    pub(super) fn clear(&self) {
        drop(self.take());
    }
}

/// The transactional producer's own.
pub(super) struct Context {
    pub(super) sent: NotTaken,
    shared: Arc<Shared>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { sent: NotTaken::default(), shared }
    }
}

impl ClientContext for Context {
    /// librdkafka takes every move of a coordinator and every fenced producer for an error of the application's. Requests of
    /// transactions come back with the same words, and where that lasts it is said (see `Shared::transaction_failed`).
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::debug!(target: "librdkafka", client = ROLE, facility, ?level, "{message}");
            }
            level => crate::kafka::log(ROLE, level, facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // A fatal error comes back from the next request too, and there it is known what to do.
        if is_of_one_broker(&error) {
            self.shared.health.heard(reason);
        } else if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            self.shared.health.failed(&format_args!("{error}: {reason}"));
        } else if error.rdkafka_error_code() != Some(Code::Fatal) {
            self.shared.transaction_failed(&format_args!("{error}: {reason}"));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        if let Err((error, _)) = result
            && let Some(code) = error.rdkafka_error_code()
        {
            self.sent.0.lock().unwrap_or_else(PoisonError::into_inner).push((*sent, code));
        }
    }
}
