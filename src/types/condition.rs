//! Conditions: faults that an operator should see to, on a node that goes on taking calls.
//!
//! Must not: decide whether a node is ready; `app` does.

use serde::Serialize;

/// Something that an operator should know of, while the node serves everything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Which kind it is; the label of its metric.
    pub kind: ConditionKind,
    /// What it is about: `TOPIC/PARTITION`, an address, or the name of a function. Foreign text is escaped.
    pub subject: String,
    /// A sentence for people: since when, why, and what helps. Foreign text is escaped.
    pub detail: String,
}

/// The closed set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionKind {
    /// A partition of the calls stands, because a record of it cannot be read.
    PartitionStands,
    /// Records of a topic that every node reads whole were passed over, because they cannot be read.
    RecordsPassed,
    /// The schema registry does not answer, or refuses; messages that need a schema of it wait.
    SchemaRegistry,
    /// A function or a tenant holds its share of what the node has in flight.
    ShareHeld,
    /// The newest version of a function cannot run here, and is not tried again.
    FunctionRefused,
    /// The artifact of the newest version of a function cannot be had now.
    FunctionUnavailable,
    /// Instances of a function cannot be prepared.
    FunctionFailing,
}

impl ConditionKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::PartitionStands,
        Self::RecordsPassed,
        Self::SchemaRegistry,
        Self::ShareHeld,
        Self::FunctionRefused,
        Self::FunctionUnavailable,
        Self::FunctionFailing,
    ];

    /// Its name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PartitionStands => "partition-stands",
            Self::RecordsPassed => "records-passed",
            Self::SchemaRegistry => "schema-registry",
            Self::ShareHeld => "share-held",
            Self::FunctionRefused => "function-refused",
            Self::FunctionUnavailable => "function-unavailable",
            Self::FunctionFailing => "function-failing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_name() {
        for kind in ConditionKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
