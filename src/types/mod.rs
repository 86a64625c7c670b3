//! The words that every room shares: events, functions, positions, time, demand.
//!
//! Duty: plain data with its invariants. Must not: do I/O, read a clock, know a wire format, or import any other room.

mod artifact;
mod condition;
mod demand;
mod event;
mod explanation;
mod function;
mod group;
pub mod headers;
mod log;
mod outcome;
mod overflow;
mod payload;
mod position;
mod retry;
mod schedule;
mod shown;
mod snapshot;
mod status;
mod time;

pub use artifact::{Artifact, Chunks, Sha256};
pub use condition::{Condition, ConditionKind};
pub use demand::{Demand, Notice, PoolUsage, Reason, TargetPart, WarmTarget, YIELD_STEPS};
pub use event::{
    Attributes, Invocation, InvocationError, InvocationResult, PreTrigger, StartKind, Status, WarmKind, WarmReason,
};
pub use explanation::{ChainExplanation, FunctionExplanation, FunctionSummary, NoticeExplanation, OutlookLevel};
pub use function::{
    ChainRule, ChainRuleKind, Criteria, FunctionDefinition, FunctionKind, FunctionName, InvalidName, Limits, Ordering,
    Reuse, WarmPolicy,
};
pub use group::{GONE_AFTER, Group};
pub use headers::Headers;
pub use log::{FunctionLog, LeftOut, LogBatch, LogLine, LogStream};
pub use outcome::{OutcomeKind, PreTriggerOutcome};
pub use overflow::Overflow;
pub use payload::Payload;
pub use position::{Fate, Generation, NextOffset, Offset, Position};
pub use retry::{Retry, RetryStatus};
pub use schedule::{InvalidSchedule, Schedule, Windows};
pub use shown::{Escaping, Shown, ShownJson};
pub use snapshot::ForecastSnapshot;
pub use status::{Failures, FunctionFacts, FunctionStatus, StatusKind, cut_reason};
pub use time::Timestamp;
