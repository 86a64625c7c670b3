//! Listens to what librdkafka says of connections that fail, so that whoever waits in vain can say why.
//!
//! Must not: judge, or make anybody wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

/// Brokers of which the last fault is remembered (inclusive).
const BROKERS_MAX: usize = 4;

/// The context of a client whose connections are listened to. It remembers the last fault of each broker, of a few of them.
#[derive(Debug)]
pub struct Listener {
    role: &'static str,
    /// Each broker, with the last fault of its connection; the latest last.
    heard: Mutex<Vec<(String, String)>>,
}

impl Listener {
    /// For a client that is for this, in the log.
    pub fn new(role: &'static str) -> Self {
        Self { role, heard: Mutex::default() }
    }

    fn faults(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said since it was forgotten, each with its address; None where nothing was.
    pub fn heard(&self) -> Option<String> {
        let faults = self.faults();
        let said: Vec<_> = faults.iter().map(|(_, fault)| fault.as_str()).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// The connections work: what was said of them is old.
    pub fn forget(&self) {
        self.faults().clear();
    }

    fn hear(&self, said: &str) {
        let (broker, fault) = fault_of(said);
        let mut faults = self.faults();
        faults.retain(|(of, _)| *of != broker);
        if faults.len() == BROKERS_MAX {
            faults.remove(0);
        }
        faults.push((broker, fault));
    }
}

/// The broker of which a line of librdkafka's speaks, and the line without the thread's name in front and without how long it took
/// behind.
fn fault_of(said: &str) -> (String, String) {
    let said = match said.strip_prefix("[thrd:") {
        Some(rest) => rest.split_once("]: ").map_or(said, |(_, said)| said),
        None => said,
    };
    let said = said.split(" (after ").next().unwrap_or(said);
    (said.split(": ").next().unwrap_or(said).to_owned(), said.to_owned())
}

impl ClientContext for Listener {
    /// Consumers hear of faults by the log alone: what is polled of an error is its code.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(self.role, level, facility, message);
        if facility == "FAIL" {
            self.hear(message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = self.role, %error, reason, "kafka client reports");
        // That no broker is left says nothing of why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.hear(reason);
        }
    }
}

impl ConsumerContext for Listener {}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fault_of_each_broker_is_remembered_and_of_few() {
        let listener = Listener::new("test");
        assert_eq!(listener.heard(), None);
        listener.hear("[thrd:a:1/bootstrap]: a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: refused (after 0ms in state CONNECT)");
        listener.hear("a:1/bootstrap: Failed to resolve 'a:1': Name or service not known (after 9ms in state CONNECT)");
        listener.hear("b:2/bootstrap: SASL authentication error: no such user");
        let said = "a:1/bootstrap: Failed to resolve 'a:1': Name or service not known; \
                    b:2/bootstrap: SASL authentication error: no such user";
        assert_eq!(listener.heard().as_deref(), Some(said));
        (0..100).for_each(|port| listener.hear(&format!("c:{port}: gone")));
        assert_eq!(listener.faults().len(), BROKERS_MAX);
        listener.forget();
        assert_eq!(listener.heard(), None);
    }
}
