//! Whether the brokers can be reached, as one client sees it: a flag for readiness, and one log line a change.
//!
//! Must not: decide what to do while they cannot; it only remembers and says.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

const STARTING: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// The state of one client. It starts as "not reachable" without a word in the log.
#[derive(Debug)]
pub struct Health {
    client: &'static str,
    state: AtomicU8,
    fatal: OnceLock<String>,
    words: Mutex<Words>,
}

/// What was said last.
#[derive(Debug, Default)]
struct Words {
    /// Of the connection to one broker: why there is none, where librdkafka itself only says that there is none.
    of_one_broker: String,
    failed: String,
}

impl Health {
    /// A client named `client` in the log, which has not been heard of yet.
    pub const fn new(client: &'static str) -> Self {
        let words = Mutex::new(Words { of_one_broker: String::new(), failed: String::new() });
        Self { client, state: AtomicU8::new(STARTING), fatal: OnceLock::new(), words }
    }

    /// Something worked. Cheap where that is no news.
    pub fn works(&self) {
        if self.state.load(Ordering::Relaxed) == UP {
            return;
        }
        if self.state.swap(UP, Ordering::Relaxed) == DOWN {
            tracing::info!(client = self.client, "kafka works again");
        }
        *self.words() = Words::default();
    }

    /// Something was said of the connection to one broker. That is no failure, as there may be others; where there is none,
    /// it is the cause.
    pub fn heard(&self, reason: &str) {
        tracing::debug!(client = self.client, reason, "kafka client reports");
        reason.clone_into(&mut self.words().of_one_broker);
    }

    /// Why it does not work, as far as was said; empty where it works or was never tried.
    pub fn reason(&self) -> String {
        self.words().failed.clone()
    }

    /// What was last said of the connection to one broker; empty where nothing was since it last worked.
    pub fn heard_last(&self) -> String {
        self.words().of_one_broker.clone()
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something failed that may pass. Logged where it worked before, or was never tried.
    pub fn failed(&self, reason: &dyn std::fmt::Display) {
        let reason = {
            let mut words = self.words();
            let mut reason = reason.to_string();
            if !words.of_one_broker.is_empty() && !reason.contains(&words.of_one_broker) {
                reason = format!("{reason}; a broker's connection: {}", words.of_one_broker);
            }
            reason.clone_into(&mut words.failed);
            reason
        };
        if self.state.swap(DOWN, Ordering::Relaxed) != DOWN {
            tracing::warn!(client = self.client, %reason, "kafka does not work; trying on");
        } else {
            tracing::debug!(client = self.client, %reason, "kafka still does not work");
        }
    }

    /// Something failed for good: the client is of no more use and the process should end. The first reason stays.
    /// Returns whether this was the first.
    pub fn failed_for_good(&self, reason: &str) -> bool {
        self.state.store(DOWN, Ordering::Relaxed);
        let first = self.fatal.set(reason.to_owned()).is_ok();
        if first {
            tracing::error!(client = self.client, reason, "kafka client failed for good");
        }
        first
    }

    /// Whether the last thing tried worked.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    /// Whether something failed since, and nothing has worked after it.
    pub fn is_down(&self) -> bool {
        self.state.load(Ordering::Relaxed) == DOWN
    }

    /// Why the client is of no more use; None where it is.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_the_first_fatal_one_stays() {
        let health = Health::new("test");
        assert!(!health.is_up() && !health.is_down());
        health.failed(&"refused");
        assert!(health.is_down());
        health.works();
        assert!(health.is_up() && health.fatal().is_none() && health.reason().is_empty());
        health.heard("bad certificate");
        assert!(health.is_up());
        health.failed(&"all brokers are down");
        assert_eq!(health.reason(), "all brokers are down; a broker's connection: bad certificate");
        assert!(health.failed_for_good("fenced"));
        assert!(!health.failed_for_good("later"));
        assert!(health.is_down());
        assert_eq!(health.fatal(), Some("fenced"));
    }
}
