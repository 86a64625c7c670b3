//! Whether the brokers can be reached, as one client sees it: a flag for readiness, and one log line a change.
//!
//! Must not: decide what to do while they cannot; it only remembers and says.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

const STARTING: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// The state of one client. It starts as "not reachable" without a word in the log.
#[derive(Debug)]
pub struct Health {
    client: &'static str,
    state: AtomicU8,
    fatal: OnceLock<String>,
}

impl Health {
    /// A client named `client` in the log, which has not been heard of yet.
    pub const fn new(client: &'static str) -> Self {
        Self { client, state: AtomicU8::new(STARTING), fatal: OnceLock::new() }
    }

    /// Something worked. Cheap where that is no news.
    pub fn works(&self) {
        if self.state.load(Ordering::Relaxed) == UP {
            return;
        }
        if self.state.swap(UP, Ordering::Relaxed) == DOWN {
            tracing::info!(client = self.client, "kafka works again");
        }
    }

    /// Something failed that may pass. Logged where it worked before, or was never tried.
    pub fn failed(&self, reason: &dyn std::fmt::Display) {
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
        assert!(health.is_up() && health.fatal().is_none());
        assert!(health.failed_for_good("fenced"));
        assert!(!health.failed_for_good("later"));
        assert!(health.is_down());
        assert_eq!(health.fatal(), Some("fenced"));
    }
}
