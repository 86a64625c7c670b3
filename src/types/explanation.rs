//! What a node says of itself when it is asked: why a function is held warm, and which chains were learned. The words of the
//! admin interface's JSON, and of the commands that print it.
//!
//! Must not: compute anything that a decision needs.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{FunctionName, Timestamp, WarmKind, WarmTarget};

/// One function in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionSummary {
    /// Its name.
    pub function: FunctionName,
    /// Ready instances wanted now.
    pub ready: u32,
    /// Calls in flight.
    pub in_flight: u32,
    /// Whether its calls are taken.
    pub enabled: bool,
}

/// A number of instances, and how likely so many are in use at once in the minute that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutlookLevel {
    /// Instances in use at once, at least.
    pub instances: u32,
    /// 0.0 to 1.0.
    pub probability: f32,
}

/// A live notice: a pre-trigger's, or a chain's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoticeExplanation {
    /// `pre_trigger` or `chain`.
    pub kind: WarmKind,
    /// The pre-trigger's id, or the function whose call announced this one.
    pub id: String,
    /// Instances that it would need at once if all came that it announced.
    pub instances: f64,
    /// How likely anything of it still comes, 0.0 to 1.0.
    pub any_probability: f32,
    /// How likely all of it still comes, 0.0 to 1.0.
    pub all_probability: f32,
    /// When it stops asking.
    pub expires_at: Timestamp,
}

/// Why the warm target of a function is what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionExplanation {
    /// The function.
    pub function: FunctionName,
    /// Its version.
    pub version: String,
    /// Whether its calls are taken.
    pub enabled: bool,
    /// Instances that are kept whatever the forecast says.
    pub floor: u32,
    /// Instances that the forecast never asks to exceed.
    pub ceiling: u32,
    /// Calls in flight, running and waiting.
    pub in_flight: u32,
    /// Instances in use at once that history makes likely, busy ones included, as it is held.
    pub history: f64,
    /// What the fleet's model says of the function's record.
    pub outlook: Vec<OutlookLevel>,
    /// Live notices, in the order in which calls are taken off them.
    pub notices: Vec<NoticeExplanation>,
    /// What all of that asks for; of `parts` each says up to which instance it reaches.
    pub wanted: WarmTarget,
    /// What is left of it after the memory budget was shared.
    pub granted: WarmTarget,
    /// What one instance is taken to hold, in bytes.
    pub instance_bytes: u64,
}

/// What is known of one chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainExplanation {
    /// What is called first.
    pub from: FunctionName,
    /// What follows.
    pub to: FunctionName,
    /// How likely it follows, 0.0 to 1.0.
    pub probability: f32,
    /// That against the chance that it comes by itself.
    pub lift: f64,
    /// How often it followed, decayed.
    pub support: f32,
    /// How often trace context led from the one to the other.
    pub traced: f32,
    /// 5 % of the calls come earlier than this, in milliseconds.
    pub earliest_ms: u64,
    /// 5 % of the calls come later than this, in milliseconds.
    pub latest_ms: u64,
    /// Calls that announced it and were watched.
    pub announced: u32,
    /// Of those, the ones that it followed.
    pub came: u32,
    /// What the definition says of it: `pin`, `deny` or `state`.
    pub rule: Option<String>,
    /// Why it does not act; absent where it does.
    pub held_by: Option<String>,
}

impl ChainExplanation {
    /// Chains that act first, of these the likeliest first; then by their names.
    pub fn by_worth(one: &Self, other: &Self) -> Ordering {
        let is_held = one.held_by.is_some().cmp(&other.held_by.is_some());
        let likelier = other.probability.total_cmp(&one.probability);
        is_held.then(likelier).then_with(|| (&one.from, &one.to).cmp(&(&other.from, &other.to)))
    }

    /// What part of what it announced came, 0.0 to 1.0; `None` where it has announced nothing.
    pub fn precision(&self) -> Option<f64> {
        (self.announced > 0).then(|| f64::from(self.came) / f64::from(self.announced))
    }

    /// Calls that it announced and that did not come.
    pub fn wasted(&self) -> u32 {
        self.announced.saturating_sub(self.came)
    }
}
