//! What is to be said of the way down.

use std::time::Duration;

/// How the service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Ended {
    /// Why it had to end; None where somebody asked for it.
    pub failure: Option<String>,
    /// Calls that were still in flight: they are read again by whoever comes next.
    pub unfinished: usize,
    /// Records that the brokers had not stored.
    pub unpublished: u64,
    /// How long the way down took.
    pub took: Duration,
}

impl Ended {
    /// Whether nothing was left undone and nothing had failed.
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && self.unfinished == 0 && self.unpublished == 0
    }

    pub(super) fn log(&self) {
        let Self { failure, unfinished, unpublished, took } = self;
        if self.is_clean() {
            tracing::info!(?took, "ended; every call that was read has its outcome stored and committed");
        } else {
            tracing::warn!(?took, failure, unfinished, unpublished, "ended; calls in flight will be read again");
        }
    }
}
