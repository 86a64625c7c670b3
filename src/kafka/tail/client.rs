//! The consumer of a topic's reader, and what librdkafka calls back into.
//!
//! Must not: read, or know what is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kafka::fence::Shared;
use crate::kafka::{ClientError, Connection, is_of_one_broker};

/// The reader's own.
pub(super) struct Context {
    shared: Arc<Shared>,
    pub(super) role: &'static str,
    /// Its place is another's: what it says counts for nothing any more.
    pub(super) replaced: AtomicBool,
}

/// A consumer that wakes its reader where it has something.
pub(super) fn consumer(
    connection: &Connection,
    shared: &Arc<Shared>,
    role: &'static str,
) -> Result<Arc<BaseConsumer<Context>>, ClientError> {
    let context = Context { shared: Arc::clone(shared), role, replaced: AtomicBool::new(false) };
    let made = connection.reader().create_with_context(context);
    let mut consumer: BaseConsumer<Context> = made.map_err(|error| ClientError::create(role, &error))?;
    let woken = Arc::clone(shared);
    consumer.set_nonempty_callback(move || {
        if let Some(reader) = woken.reader.get() {
            reader.unpark();
        }
    });
    Ok(Arc::new(consumer))
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(self.role, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // One broker of many does not matter; where none is left, that is an error of its own. The end of a partition is
        // told as an error too, and is what this reader waits for.
        let at_end = error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF);
        if self.replaced.load(Ordering::Acquire) {
            tracing::debug!(client = self.role, %error, reason, "a reader that was replaced reports");
        } else if is_of_one_broker(&error) {
            self.shared.health.heard(reason);
        } else if !at_end {
            self.shared.health.failed(&format_args!("{error}: {reason}"));
        }
    }
}

impl ConsumerContext for Context {}
