//! What the forecaster says and what the target rule answers: the words between `forecast`, `target`, `pool` and `control`.

use serde::{Deserialize, Serialize};

use super::{Timestamp, WarmKind, WarmReason};

/// Into how many steps the yield of a notice is cut.
pub const YIELD_STEPS: usize = 8;

/// One live notice's share in a function's demand: a pre-trigger's, or a chain's.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// `PreTrigger` or `Chain`.
    pub kind: WarmKind,
    /// The pre-trigger's id; for a chain the function whose call announces this one.
    pub id: String,
    /// Calls in flight **at once** that it would still bring if all came that it announced: the instances that it needs,
    /// and not a count of calls. A hundred calls over an hour may be one at a time. Never negative.
    pub calls: f64,
    /// How likely it is that at least `(i + 1) / YIELD_STEPS` of that still comes, 0.0 to 1.0; never rising with `i`.
    pub yields: [f32; YIELD_STEPS],
    /// When it stops asking (exclusive).
    pub expires_at: Timestamp,
}

/// How many instances of one function will be in use at once, and who says so.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Demand {
    /// Instances in use at once that history makes likely, busy ones included.
    pub history: f64,
    /// Levels, and how likely each is reached in the minute that is under way, by the function's record.
    pub outlook: Vec<(u32, f32)>,
    /// Live notices in the order in which a call that comes is taken off them; on top of the busy instances.
    pub notices: Vec<Notice>,
    /// Calls in flight now, running and waiting.
    pub in_flight: u32,
}

/// Why instances are wanted.
pub type Reason = WarmReason;

/// One part of a warm target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetPart {
    /// Who asks.
    pub reason: Reason,
    /// How many ready instances it asks for, before ceiling and budget.
    pub instances: u32,
}

/// Ready instances wanted now, with the reasons for it.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct WarmTarget {
    /// Ready instances wanted (those being prepared count as ready; busy ones do not).
    pub ready: u32,
    /// Who asked for how many, smallest first; empty where nobody asked.
    pub parts: Vec<TargetPart>,
}

impl WarmTarget {
    /// Why the `nth` ready instance (from 1) is wanted: the smallest part that reaches as far as it.
    pub fn reason_for(&self, nth: u32) -> Option<&Reason> {
        self.parts.iter().find(|part| part.instances >= nth).map(|part| &part.reason)
    }
}

/// What the pool holds of one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PoolUsage {
    /// Instances on the shelf.
    pub ready: u32,
    /// Instances being prepared.
    pub preparing: u32,
    /// Instances that serve a call.
    pub busy: u32,
    /// Calls that wait for an instance.
    pub waiting: u32,
    /// Most calls in flight at once (running and waiting) since the last look.
    pub in_flight_peak: u32,
    /// Bytes of linear memory that one instance of it holds; 0 while none was ever made.
    pub instance_bytes: u64,
}
