//! What a definition says of failed calls.
//!
//! Must not: decide when a call is tried again; the room `retry` does.

use serde::{Deserialize, Serialize};

/// Whether and how a failed call is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Attempts in all; at least 1. 1 means that nothing is tried again.
    pub attempts_max: u32,
    /// Wait before the second attempt, in milliseconds; doubles from then on, less up to a fifth by chance.
    pub backoff_ms: u64,
    /// The longest wait, in milliseconds.
    pub backoff_max_ms: u64,
    /// From when the node had the call in hand, in milliseconds: what would begin later is not tried again; nor what would
    /// begin at the call's deadline or later.
    pub age_max_ms: u64,
    /// Which outcomes are tried again.
    pub statuses: Vec<RetryStatus>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 1,
            backoff_ms: 1_000,
            backoff_max_ms: 60_000,
            age_max_ms: 900_000,
            statuses: vec![RetryStatus::FunctionError, RetryStatus::Trap, RetryStatus::Timeout],
        }
    }
}

/// An outcome that can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryStatus {
    /// The function said no.
    FunctionError,
    /// The guest trapped.
    Trap,
    /// The call ran past its time limit.
    Timeout,
    /// The call met another limit.
    Limit,
    /// The function could not run when the call came, for as long as a call waits for that.
    Unavailable,
}
