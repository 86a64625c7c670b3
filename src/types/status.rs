//! What is so on a node: the state of each function there, and of the node itself. The event on the topic of function statuses,
//! field by field as in `schemas/function-status.avsc`, and what the admin interface says beside the warm target.
//!
//! Must not: judge why an instance is wanted (`explanation` has that), or read a clock.

use serde::{Deserialize, Serialize};

use super::{FunctionDefinition, FunctionName, Sha256, Shown, Timestamp};

/// The longest reason, in bytes (inclusive).
pub const REASON_BYTES_MAX: usize = 1_000;

/// What a function, or a node, is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusKind {
    /// A state that this program does not know: a newer one wrote it.
    Unknown,
    /// The newest version is on its way: it waits for its turn, is fetched, or is compiled.
    Loading,
    /// The newest version's artifact cannot be had now. It is asked for again and again.
    Unavailable,
    /// The newest version cannot run here, and is not tried again.
    Refused,
    /// The newest version is loaded, and the last instance of it that was begun did not become ready.
    Failing,
    /// The newest version is loaded, and no instance of it was begun yet, or none is ready yet.
    Loaded,
    /// The newest version is loaded, and the last instance of it that was begun became ready.
    Running,
    /// Its definition says that its calls are rejected.
    Disabled,
    /// Of a node: it takes calls.
    Serving,
    /// Of a node: it takes no calls now.
    NotReady,
    /// Of a node: it has ended in order.
    Stopped,
}

impl StatusKind {
    /// Those of functions, in the order of their severity, the worst first.
    pub const FUNCTIONS: [Self; 7] =
        [Self::Refused, Self::Unavailable, Self::Failing, Self::Loading, Self::Disabled, Self::Loaded, Self::Running];

    /// The name on the wire, and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Loading => "loading",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Failing => "failing",
            Self::Loaded => "loaded",
            Self::Running => "running",
            Self::Disabled => "disabled",
            Self::Serving => "serving",
            Self::NotReady => "not_ready",
            Self::Stopped => "stopped",
        }
    }

    /// Whether somebody has to do something, of a function.
    pub const fn is_trouble(self) -> bool {
        matches!(self, Self::Unavailable | Self::Refused | Self::Failing)
    }
}

/// Preparations in a row that failed, up to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many; at least 1.
    pub count: u32,
    /// Why the last one failed. Foreign text: whoever shows it escapes it.
    pub reason: String,
    /// When the first one failed.
    pub since: Timestamp,
    /// When the last one failed.
    pub last_at: Timestamp,
}

/// What is so of one function on this node, taken from the executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionFacts {
    /// What the newest definition's version is doing.
    pub state: StatusKind,
    /// Why, and what is done about it; absent where there is nothing to say. May hold foreign text: whoever shows it escapes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// The newest definition's version; absent where that definition cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version that serves calls, which is an older one while the newest is loading or refused; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_version: Option<String>,
    /// Which definition is the newest: [`FunctionDefinition::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Preparations in a row that failed; absent where the last one did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
    /// Instances that are there and idle.
    pub ready: u32,
    /// Instances that are being prepared.
    pub preparing: u32,
    /// Instances that serve a call.
    pub busy: u32,
    /// Calls that wait for an instance.
    pub waiting: u32,
}

impl FunctionFacts {
    /// What has to be said first of a function that does not simply run, for people; `None` where it does.
    pub fn headline(&self) -> Option<String> {
        let Self { state, reason, since, version, running_version, failures, waiting, .. } = self;
        let version = version
            .as_ref()
            .map_or("the newest definition".to_owned(), |version| format!("version {}", Shown::of(version)));
        let why = reason.as_ref().map_or(String::new(), |reason| format!(": {}", Shown::of(reason)));
        // Calls are served by an older version, or not at all.
        let calls = |without: String| match running_version {
            Some(running) => format!("version {} serves", Shown::of(running)),
            None => without,
        };
        let wait = || match waiting {
            0 => "calls wait".to_owned(),
            1 => "1 call waits".to_owned(),
            waiting => format!("{waiting} calls wait"),
        };
        Some(match state {
            StatusKind::Loaded | StatusKind::Running => return None,
            StatusKind::Disabled => format!("it is disabled, since {since}: its calls are rejected"),
            StatusKind::Refused => {
                let calls = calls("its calls are rejected".to_owned());
                format!("{version} is refused, since {since}; {calls}{why}")
            }
            StatusKind::Unavailable => {
                let calls = calls(wait());
                format!("{version} cannot be loaded, since {since}, and is tried again; {calls}{why}")
            }
            StatusKind::Loading => format!("{version} is loading, since {since}; {}{why}", calls(wait())),
            StatusKind::Failing => {
                let count = failures.as_ref().map_or(1, |failures| failures.count);
                let in_a_row = if count == 1 { "once".to_owned() } else { format!("{count} times in a row") };
                format!("an instance of {version} cannot be prepared, since {since}, {in_a_row}{why}")
            }
            _ => format!("{version} is {}, since {since}{why}", state.as_str()),
        })
    }
}

/// The state of one function on one node, or of the node itself, on the compacted topic of function statuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// The node that says so; empty until it is published.
    pub node: String,
    /// The function; absent where the node speaks of itself.
    #[serde(default)]
    pub function: Option<FunctionName>,
    /// What the newest definition's version is doing.
    pub state: StatusKind,
    /// Why, at most [`REASON_BYTES_MAX`] bytes; absent where there is nothing to say.
    #[serde(default)]
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// The newest definition's version.
    #[serde(default)]
    pub version: Option<String>,
    /// The version that serves calls.
    #[serde(default)]
    pub running_version: Option<String>,
    /// Which definition is the newest.
    #[serde(default)]
    pub definition: Option<String>,
    /// When the node's process began: what an earlier process of that name said does not count any more.
    pub node_started_at: Timestamp,
    /// When this was said.
    pub said_at: Timestamp,
}

impl FunctionStatus {
    /// The key of the record about a function on a node, or about the node itself. No function's name has a zero byte in it.
    pub fn key_of(node: &str, function: Option<&FunctionName>) -> Vec<u8> {
        let function = function.map_or("", FunctionName::as_str);
        [node.as_bytes(), &[0], function.as_bytes()].concat()
    }

    /// The key of this record.
    pub fn key(&self) -> Vec<u8> {
        Self::key_of(&self.node, self.function.as_ref())
    }
}

impl FunctionDefinition {
    /// Tells definitions apart, also where users give two the same version: 16 hexadecimal digits of the SHA-256 of all fields.
    /// The same for everybody who runs this release; another release, which may know other fields, can come to other digits.
    pub fn digest(&self) -> String {
        // Fields come in the order of the struct, keys of maps in their own: the same definition is the same text.
        let text = serde_json::to_vec(self).unwrap_or_default();
        Sha256::of(&text).to_string()[..16].to_owned()
    }
}

/// A text cut at [`REASON_BYTES_MAX`], at a character, with a mark where it was cut.
pub fn cut_reason(reason: &str) -> String {
    const MARK: char = '…';
    if reason.len() <= REASON_BYTES_MAX {
        return reason.to_owned();
    }
    let most = REASON_BYTES_MAX - MARK.len_utf8();
    let end = (0..=most).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{MARK}", &reason[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_name() {
        for kind in StatusKind::FUNCTIONS.into_iter().chain([StatusKind::Serving, StatusKind::NotReady]) {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn a_key_names_node_and_function_or_the_node_alone() {
        let function = "shop/echo".parse().unwrap();
        assert_eq!(FunctionStatus::key_of("node-1", Some(&function)), b"node-1\0shop/echo");
        assert_eq!(FunctionStatus::key_of("node-1", None), b"node-1\0");
    }

    #[test]
    fn definitions_are_told_apart_by_every_field() {
        use crate::types::{Artifact, FunctionKind};
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let one = FunctionDefinition::new("f".parse().unwrap(), "1", artifact, FunctionKind::Component);
        let mut other = one.clone();
        assert_eq!((one.digest().len(), one.digest()), (16, other.digest()));
        other.environment.insert("A".to_owned(), "1".to_owned());
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        assert_eq!(cut_reason("short"), "short");
        let exact = "x".repeat(REASON_BYTES_MAX);
        assert_eq!(cut_reason(&exact), exact);
        let cut = cut_reason(&"é".repeat(REASON_BYTES_MAX));
        assert!(cut.len() <= REASON_BYTES_MAX && cut.ends_with("é…"), "{}", cut.len());
    }
}
