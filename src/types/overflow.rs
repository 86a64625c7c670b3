//! What becomes of the calls of a function that already holds its share of what a node has in flight.
//!
//! Must not: know what the share is; the configuration says it.

use serde::{Deserialize, Serialize};

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Further calls stay on their topic, and are read when there is room again.
    #[default]
    Pause,
    /// Further calls are answered with `rejected`.
    Reject,
    /// Further calls are answered with `rejected`, and kept as dead letters.
    DeadLetter,
}
