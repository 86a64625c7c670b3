//! What one node has learned of one function, to be kept while it is away: the event on the topic of forecast snapshots,
//! field by field as in `schemas/forecast-snapshot.avsc`.
//!
//! Must not: know what the state means; the forecaster does.

use serde::{Deserialize, Serialize};

use super::{FunctionName, Payload, Timestamp};

/// What one node has learned of one function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForecastSnapshot {
    /// The function.
    pub function: FunctionName,
    /// The node that learned it; empty until it is published.
    pub node: String,
    /// When it was so.
    pub taken_at: Timestamp,
    /// The forecaster's own form: its first byte is the number of that form.
    pub state: Payload,
}
