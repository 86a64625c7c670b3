//! The events on the topics, field by field as in `schemas/*.avsc`.
//!
//! Must not: know how they are encoded beyond their serde shape; that is `codec`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FunctionName, Payload, Timestamp};

/// Free key-value pairs that travel with an event.
pub type Attributes = BTreeMap<String, String>;

/// A notice that calls to a function are likely soon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreTrigger {
    /// Unique per notice of its source and function; a second one with the same id replaces the first.
    pub id: String,
    /// Who sends it.
    pub source: String,
    /// The function whose calls are announced.
    pub function: FunctionName,
    /// Whose quota it counts against.
    #[serde(default)]
    pub tenant: Option<String>,
    /// How many calls are announced; 0 with a known id withdraws that notice.
    #[serde(default = "one")]
    pub expected_invocations: u32,
    /// How likely it is, in the sender's own opinion, that these calls come (all of them), 0.0 to 1.0 inclusive. It counts
    /// until it is known what comes of this source's notices; after that, only against what the source usually says.
    #[serde(default = "certain")]
    pub confidence: f64,
    /// The calls are not expected before this time; absent: from now on.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// How long it stays live, counted from `not_before` (or from `emitted_at`), in milliseconds.
    #[serde(default = "default_window_ms")]
    pub window_ms: u64,
    /// When the sender sent it; zero: when its message was recorded.
    #[serde(default)]
    pub emitted_at: Timestamp,
    /// Free key-value pairs.
    #[serde(default)]
    pub attributes: Attributes,
}

impl PreTrigger {
    /// The longest window, in milliseconds (inclusive): one day.
    pub const WINDOW_MS_MAX: u64 = 86_400_000;

    /// The first moment at which the announced calls are expected (inclusive).
    pub fn starts_at(&self) -> Timestamp {
        self.not_before.unwrap_or(self.emitted_at)
    }

    /// The end of its life (exclusive): from this moment on it asks for nothing.
    pub fn expires_at(&self) -> Timestamp {
        self.starts_at() + Duration::from_millis(self.window_ms)
    }
}

const fn one() -> u32 {
    1
}

const fn certain() -> f64 {
    1.0
}

const fn default_window_ms() -> u64 {
    30_000
}

/// One call of a function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// Unique per call; the result carries it.
    pub id: String,
    /// The function to call.
    pub function: FunctionName,
    /// Whose quota it counts against.
    #[serde(default)]
    pub tenant: Option<String>,
    /// What the function gets.
    #[serde(default)]
    pub payload: Payload,
    /// The media type of `payload`.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Past this moment the call is not started any more (rejected), and ended where it runs (timeout).
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// When the caller sent it; zero: when its message was recorded.
    #[serde(default)]
    pub invoked_at: Timestamp,
    /// Free key-value pairs.
    #[serde(default)]
    pub attributes: Attributes,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The function answered.
    Ok,
    /// The function answered with an error of its own.
    FunctionError,
    /// The guest trapped.
    Trap,
    /// The guest ran past its time limit.
    Timeout,
    /// The guest hit its memory, payload or host-resource limit.
    Limit,
    /// The call was not run.
    Rejected,
}

impl Status {
    /// Every status, in the order of the schema's enum.
    pub const ALL: [Self; 6] = [Self::Ok, Self::FunctionError, Self::Trap, Self::Timeout, Self::Limit, Self::Rejected];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::FunctionError => "function_error",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Rejected => "rejected",
        }
    }
}

/// How a call began, from the quickest to the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// In an instance that had served a call before.
    Warm,
    /// In an instance that was ready before the call came, as its first use.
    Prewarmed,
    /// The instance was linked, instantiated and initialised while the call waited.
    Linked,
    /// The call also waited for machine code to be loaded from the cache on disk.
    Loaded,
    /// The call also waited for the code to be compiled.
    Cold,
}

impl StartKind {
    /// Every kind, in the order of the schema's enum.
    pub const ALL: [Self; 5] = [Self::Warm, Self::Prewarmed, Self::Linked, Self::Loaded, Self::Cold];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Prewarmed => "prewarmed",
            Self::Linked => "linked",
            Self::Loaded => "loaded",
            Self::Cold => "cold",
        }
    }
}

/// What kind of reason an instance was prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmKind {
    /// The function's own minimum.
    Floor,
    /// A pre-trigger; `detail` is its id.
    PreTrigger,
    /// A learned chain; `detail` is the function that announced this one.
    Chain,
    /// The function's own history of calls.
    History,
    /// An earlier call had to make the instance for itself; `detail` is absent.
    Invocation,
    /// A schedule of the function's definition; `detail` is its crontab expression.
    Schedule,
}

impl WarmKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Schedule => "schedule",
            Self::PreTrigger => "pre_trigger",
            Self::Chain => "chain",
            Self::History => "history",
            Self::Invocation => "invocation",
        }
    }
}

/// Why the instance that served a call was there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WarmReason {
    /// What kind of reason.
    pub kind: WarmKind,
    /// Which one: the pre-trigger's id, or the announcing function.
    #[serde(default)]
    pub detail: Option<String>,
}

/// Why a call did not end with `ok`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationError {
    /// What happened, in one sentence, with what to do where that is known.
    pub message: String,
    /// The function's own error code, or the trap's name.
    #[serde(default)]
    pub code: Option<String>,
    /// The guest's backtrace, innermost frame first.
    #[serde(default)]
    pub backtrace: Option<String>,
}

/// The outcome of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvocationResult {
    /// The id of the call.
    pub invocation_id: String,
    /// The function that was called.
    pub function: FunctionName,
    /// The version that ran; absent where none did.
    #[serde(default)]
    pub function_version: Option<String>,
    /// What came of it.
    pub status: Status,
    /// The answer, where the status is `ok`.
    #[serde(default)]
    pub payload: Option<Payload>,
    /// Why not, where the status is not `ok`.
    #[serde(default)]
    pub error: Option<InvocationError>,
    /// How the call began; absent where nothing ran.
    #[serde(default)]
    pub start_kind: Option<StartKind>,
    /// Why the instance was there before the call came; absent where it was not.
    #[serde(default)]
    pub warm_reason: Option<WarmReason>,
    /// From receipt to the moment the node began to find an instance for it, in µs.
    #[serde(default)]
    pub queued_us: u64,
    /// From then until an instance was in hand, in µs.
    #[serde(default)]
    pub prepare_us: u64,
    /// In the guest, in µs.
    #[serde(default)]
    pub execute_us: u64,
    /// Which attempt this was, from 1.
    #[serde(default = "one")]
    pub attempt: u32,
    /// The node that answered.
    pub node: String,
    /// When the outcome was known.
    pub completed_at: Timestamp,
}
