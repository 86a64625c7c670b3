//! What the `functions` topic says, as a table: the last good record of each name, and what changed.
//!
//! Must not: read a topic or fetch an artifact. It is a pure state machine; see its tests for the rules.
//!
//! Until the topic has been read to its end once, nothing is said: a name may have many records in it, and code that was
//! replaced long ago must not be compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{FunctionDefinition, FunctionName, Offset, Timestamp};

/// Most names in the table (inclusive).
pub const FUNCTIONS_MAX: usize = 100_000;

/// What a reader of the registry learns, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum RegistryEvent {
    /// A function is there, or there is a new version of it; and the time of the record that says so, where it has one.
    Defined(Arc<FunctionDefinition>, Option<Timestamp>),
    /// A function is no more.
    Removed(FunctionName),
    /// A record is no definition. A version that was there before stays.
    Refused {
        /// The record's key as far as it is text, cut at 128 characters.
        function: String,
        /// What is wrong, every fault at once.
        reason: String,
    },
    /// Everything that was in the topic at the start has been said. Comes once.
    CaughtUp,
}

/// Where a record stands, for deciding which of two is the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: Offset,
    pub(super) timestamp: Option<Timestamp>,
}

impl Place {
    /// Within a partition the order is the topic's. Across partitions, where a name has moved because partitions were
    /// added, only the timestamps tell; without one, what comes later counts as later.
    fn is_before(&self, other: &Self) -> bool {
        self.partition != other.partition
            && matches!((self.timestamp, other.timestamp), (Some(mine), Some(theirs)) if mine < theirs)
    }
}

struct Row {
    /// None for a name that was removed; kept only to know where.
    definition: Option<Arc<FunctionDefinition>>,
    place: Place,
}

/// The table.
#[derive(Default)]
pub(super) struct Table {
    rows: BTreeMap<FunctionName, Row>,
    /// What was refused before the end was reached: name → reason of its last record, where that one was refused.
    refused: BTreeMap<String, String>,
    caught_up: bool,
    /// Records that were overtaken by a later one of the same name in another partition.
    pub(super) overtaken: u64,
}

impl Table {
    /// A record that is a definition, or a tombstone.
    pub(super) fn record(
        &mut self,
        name: FunctionName,
        definition: Option<FunctionDefinition>,
        place: Place,
        say: &mut dyn FnMut(RegistryEvent),
    ) {
        self.refused.remove(name.as_str());
        let before = self.rows.get(&name);
        if before.is_some_and(|before| place.is_before(&before.place)) {
            self.overtaken += 1;
            return;
        }
        let before = before.and_then(|row| row.definition.as_ref());
        let event = match &definition {
            Some(definition) if before.is_some_and(|before| **before == *definition) => None,
            None if before.is_none() && self.rows.len() >= FUNCTIONS_MAX => return,
            Some(_) if before.is_none() && self.rows.len() >= FUNCTIONS_MAX => {
                let reason = format!("there are {FUNCTIONS_MAX} functions already; remove some");
                return self.refuse(name.to_string(), reason, say);
            }
            Some(definition) => Some(RegistryEvent::Defined(Arc::new(definition.clone()), place.timestamp)),
            None => before.map(|_| RegistryEvent::Removed(name.clone())),
        };
        let definition = match &event {
            Some(RegistryEvent::Defined(definition, _)) => Some(Arc::clone(definition)),
            Some(_) => None,
            None => before.cloned(),
        };
        if definition.is_none() && self.caught_up {
            // From now on records come in the order in which they are written, as near as can be.
            self.rows.remove(&name);
        } else {
            self.rows.insert(name, Row { definition, place });
        }
        if self.caught_up
            && let Some(event) = event
        {
            say(event);
        }
    }

    /// A record that is neither.
    pub(super) fn refuse(&mut self, function: String, reason: String, say: &mut dyn FnMut(RegistryEvent)) {
        if self.caught_up {
            say(RegistryEvent::Refused { function, reason });
        } else if self.refused.len() < FUNCTIONS_MAX || self.refused.contains_key(&function) {
            self.refused.insert(function, reason);
        }
    }

    /// The end was reached for the first time.
    pub(super) fn caught_up(&mut self, say: &mut dyn FnMut(RegistryEvent)) {
        self.caught_up = true;
        self.rows.retain(|_, row| row.definition.is_some());
        for row in self.rows.values() {
            if let Some(definition) = &row.definition {
                say(RegistryEvent::Defined(Arc::clone(definition), row.place.timestamp));
            }
        }
        for (function, reason) in std::mem::take(&mut self.refused) {
            say(RegistryEvent::Refused { function, reason });
        }
        say(RegistryEvent::CaughtUp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    fn name(name: &str) -> FunctionName {
        FunctionName::new(name).unwrap()
    }

    fn definition(of: &str, version: &str) -> FunctionDefinition {
        serde_json::from_value(serde_json::json!({
            "name": of,
            "version": version,
            "artifact": Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) },
            "kind": FunctionKind::Command,
        }))
        .unwrap()
    }

    fn at(partition: i32, offset: i64, millis: Option<i64>) -> Place {
        Place { partition, offset: Offset(offset), timestamp: millis.map(Timestamp::from_millis) }
    }

    #[derive(Default)]
    struct Said {
        table: Table,
        events: Vec<String>,
    }

    impl Said {
        fn does(&mut self, act: impl FnOnce(&mut Table, &mut dyn FnMut(RegistryEvent))) -> Vec<String> {
            let events = &mut self.events;
            act(&mut self.table, &mut |event| {
                events.push(match event {
                    RegistryEvent::Defined(definition, _) => format!("+{} {}", definition.name, definition.version),
                    RegistryEvent::Removed(name) => format!("-{name}"),
                    RegistryEvent::Refused { function, reason } => format!("!{function} {reason}"),
                    RegistryEvent::CaughtUp => "end".to_owned(),
                });
            });
            std::mem::take(&mut self.events)
        }

        fn defines(&mut self, of: &str, version: &str, place: Place) -> Vec<String> {
            self.does(|table, say| table.record(name(of), Some(definition(of, version)), place, say))
        }

        fn removes(&mut self, of: &str, place: Place) -> Vec<String> {
            self.does(|table, say| table.record(name(of), None, place, say))
        }

        fn refuses(&mut self, of: &str) -> Vec<String> {
            self.does(|table, say| table.refuse(of.to_owned(), "bad".to_owned(), say))
        }

        fn catches_up(&mut self) -> Vec<String> {
            self.does(|table, say| table.caught_up(say))
        }
    }

    #[test]
    fn nothing_is_said_before_the_end_and_then_the_last_of_each() {
        let mut said = Said::default();
        assert!(said.defines("b", "1", at(0, 0, None)).is_empty());
        assert!(said.defines("b", "2", at(0, 1, None)).is_empty());
        assert!(said.defines("a", "1", at(0, 2, None)).is_empty());
        assert!(said.defines("gone", "1", at(0, 3, None)).is_empty());
        assert!(said.removes("gone", at(0, 4, None)).is_empty());
        assert!(said.refuses("a").is_empty());
        assert!(said.refuses("b").is_empty());
        assert!(said.defines("b", "3", at(0, 6, None)).is_empty());
        assert_eq!(said.catches_up(), ["+a 1", "+b 3", "!a bad", "end"]);
        assert_eq!(said.defines("a", "2", at(0, 7, None)), ["+a 2"]);
        assert!(said.defines("a", "2", at(0, 8, None)).is_empty());
        assert_eq!(said.refuses("a"), ["!a bad"]);
        assert_eq!(said.removes("a", at(0, 9, None)), ["-a"]);
        assert!(said.removes("a", at(0, 10, None)).is_empty());
        assert!(said.removes("never", at(0, 11, None)).is_empty());
        assert_eq!(said.table.rows.len(), 1);
    }

    #[test]
    fn across_partitions_the_timestamp_says_which_is_later() {
        let mut said = Said::default();
        said.defines("a", "new", at(1, 0, Some(200)));
        said.defines("a", "old", at(0, 9, Some(100)));
        said.removes("b", at(1, 1, Some(200)));
        said.defines("b", "old", at(0, 10, Some(100)));
        assert_eq!(said.table.overtaken, 2);
        assert_eq!(said.catches_up(), ["+a new", "end"]);
        assert!(said.defines("a", "old", at(0, 11, Some(150))).is_empty());
        assert_eq!(said.defines("a", "clock went back", at(1, 2, Some(150))), ["+a clock went back"]);
        assert_eq!(said.defines("a", "no time", at(0, 12, None)), ["+a no time"]);
    }
}
