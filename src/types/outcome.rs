//! What became of a pre-trigger in the end: the event by which its sender learns, field by field as in
//! `schemas/pre-trigger-outcome.avsc`.
//!
//! Must not: judge; the forecaster does.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{FunctionName, Timestamp};

/// How a pre-trigger ended. Where several would fit, the first of this list is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// It was never held, for the reason in `criterion`.
    Refused,
    /// Its sender took it back before its window ended.
    Withdrawn,
    /// At least one call that it announced came while it was held, whether or not an instance was prepared for it.
    Hit,
    /// Calls came, but not while it was held and live: its window was over when it came; or the function was called
    /// between its start and its receipt, and never after; or a call came only after its window, by no more than
    /// `forecast.late-grace`.
    Late,
    /// No call came, and instances were asked for on its account.
    Wasted,
    /// No call came, and nothing was asked for on its account: it was not trusted enough, not one of enough, too early
    /// to act, or others asked for as much already.
    Expired,
}

impl OutcomeKind {
    /// Every kind, in the order of the schema's enum.
    pub const ALL: [Self; 6] = [Self::Refused, Self::Withdrawn, Self::Hit, Self::Late, Self::Wasted, Self::Expired];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
            Self::Hit => "hit",
            Self::Late => "late",
            Self::Wasted => "wasted",
            Self::Expired => "expired",
        }
    }
}

/// The end of one pre-trigger.
///
/// Each pre-trigger has one. A message that repeats or changes one that is held belongs to that one; a message that
/// withdraws one has none of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreTriggerOutcome {
    /// The pre-trigger's id.
    pub pre_trigger_id: String,
    /// Who sent it.
    pub source: String,
    /// Whose quota it counted against.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The function whose calls it announced.
    pub function: FunctionName,
    /// How it ended.
    pub kind: OutcomeKind,
    /// Why it was refused; absent where it was not.
    #[serde(default)]
    pub criterion: Option<Cow<'static, str>>,
    /// How many calls it announced.
    pub announced: u32,
    /// How many calls were taken off it; at most `announced`. Each call is taken off one pre-trigger at most.
    #[serde(default)]
    pub arrived: u32,
    /// From its start (`not_before`, or else `emitted_at`) to the first of those calls, in µs; negative where that came
    /// before an announced start. For a `late` one the call after its window; absent where there is none.
    #[serde(default)]
    pub first_call_lag_us: Option<i64>,
    /// When this was known.
    pub ended_at: Timestamp,
    /// The node that says so; empty until it is published.
    pub node: String,
}
