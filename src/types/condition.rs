//! What is not as it should be on a node that goes on taking calls.
//!
//! Must not: decide whether a node is ready; `app` does.

use serde::Serialize;

/// Something that an operator should know of, while the node serves everything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Which kind it is; the label of its metric.
    pub kind: ConditionKind,
    /// What it is about: `TOPIC/PARTITION`, or the name of a function. Foreign text is escaped.
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
}

impl ConditionKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::PartitionStands, Self::RecordsPassed];

    /// Its name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PartitionStands => "partition-stands",
            Self::RecordsPassed => "records-passed",
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
