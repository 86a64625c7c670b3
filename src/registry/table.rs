//! What the `functions` topic says, as a table: the last good record of each name, and what changed.
//!
//! Must not: read a topic or fetch an artifact. It is a pure state machine; see its tests for the rules.
//!
//! Until the topic has been read to its end once, nothing is said: a name may have many records in it, and code that was
//! replaced long ago must not be compiled.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::types::{FunctionDefinition, FunctionName, Offset, Timestamp};

/// Most names in the table (inclusive).
pub const FUNCTIONS_MAX: usize = 100_000;

/// Most names of refused records that are known (inclusive). What is refused beyond them is counted, and not said.
const REFUSED_MAX: usize = 10_000;

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
pub(super) struct Table {
    rows: BTreeMap<FunctionName, Row>,
    /// Most functions of one tenant, and of no tenant (inclusive): nobody's fill the table for others.
    tenant_max: u32,
    /// How many functions each tenant has, and how many have none. Only for look-ups.
    tenants: HashMap<Option<Arc<str>>, u32>,
    /// Names whose last record was refused; until the end was reached with the reason.
    refused: BTreeMap<String, String>,
    caught_up: bool,
    /// Records that were overtaken by a later one of the same name in another partition.
    pub(super) overtaken: u64,
}

impl Table {
    /// An empty table in which one tenant may have so many functions.
    pub(super) fn new(tenant_max: u32) -> Self {
        Self {
            rows: BTreeMap::new(),
            tenant_max,
            tenants: HashMap::new(),
            refused: BTreeMap::new(),
            caught_up: false,
            overtaken: 0,
        }
    }

    /// A record that is a definition, or a tombstone.
    pub(super) fn record(
        &mut self,
        name: FunctionName,
        definition: Option<FunctionDefinition>,
        place: Place,
        say: &mut dyn FnMut(RegistryEvent),
    ) {
        let was_refused = self.refused.remove(name.as_str()).is_some();
        let before = self.rows.get(&name);
        if before.is_some_and(|before| place.is_before(&before.place)) {
            self.overtaken += 1;
            return;
        }
        let before = before.and_then(|row| row.definition.as_ref());
        let full = definition.as_ref().and_then(|definition| self.full(definition, before));
        let event = match &definition {
            // After a record that was refused it is news that the definition of before is the newest one again.
            Some(definition) if !was_refused && before.is_some_and(|before| **before == *definition) => None,
            None if before.is_none() && self.rows.len() >= FUNCTIONS_MAX => return,
            Some(_) if full.is_some() => return self.refuse(name.to_string(), full.unwrap_or_default(), say),
            Some(definition) => Some(RegistryEvent::Defined(Arc::new(definition.clone()), place.timestamp)),
            // A name whose record was refused is known by that alone.
            None if before.is_some() || was_refused => Some(RegistryEvent::Removed(name.clone())),
            None => None,
        };
        let definition = match &event {
            Some(RegistryEvent::Defined(definition, _)) => Some(Arc::clone(definition)),
            Some(_) => None,
            None => before.cloned(),
        };
        let before = before.cloned();
        self.count(before.as_deref(), definition.as_deref());
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

    /// Why there is no room for this definition, where there is none.
    fn full(&self, definition: &FunctionDefinition, before: Option<&Arc<FunctionDefinition>>) -> Option<String> {
        if before.is_none() && self.rows.len() >= FUNCTIONS_MAX {
            return Some(format!("there are {FUNCTIONS_MAX} functions already; remove some"));
        }
        let tenant = definition.tenant.as_deref();
        if before.is_some_and(|before| before.tenant.as_deref() == tenant) {
            return None;
        }
        let (max, has) = (self.tenant_max, self.tenants.get(&tenant.map(Arc::from)).copied().unwrap_or(0));
        let whose = tenant.map_or("no tenant".to_owned(), |tenant| format!("tenant {tenant}"));
        let ceiling = "the operator's limits.functions-tenant-max";
        (has >= max).then(|| format!("{whose} has {has} functions already, and {ceiling} is {max}; remove some"))
    }

    /// Keeps the number of functions of each tenant.
    fn count(&mut self, before: Option<&FunctionDefinition>, after: Option<&FunctionDefinition>) {
        let tenant = |definition: &FunctionDefinition| definition.tenant.as_deref().map(Arc::from);
        let (before, after) = (before.map(tenant), after.map(tenant));
        if before == after {
            return;
        }
        if let Some(tenant) = before
            && let Some(functions) = self.tenants.get_mut(&tenant)
        {
            *functions -= 1;
            if *functions == 0 {
                self.tenants.remove(&tenant);
            }
        }
        if let Some(tenant) = after {
            *self.tenants.entry(tenant).or_default() += 1;
        }
    }

    /// A record that is neither.
    pub(super) fn refuse(&mut self, function: String, reason: String, say: &mut dyn FnMut(RegistryEvent)) {
        if self.refused.len() >= REFUSED_MAX && !self.refused.contains_key(&function) {
            return;
        }
        if self.caught_up {
            // That it is refused is kept, and the reason is not: it is said once.
            self.refused.insert(function.clone(), String::new());
            say(RegistryEvent::Refused { function, reason });
        } else {
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
        for (function, reason) in &mut self.refused {
            say(RegistryEvent::Refused { function: function.clone(), reason: std::mem::take(reason) });
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

    struct Said {
        table: Table,
        events: Vec<String>,
    }

    impl Default for Said {
        fn default() -> Self {
            Self { table: Table::new(u32::MAX), events: Vec::new() }
        }
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
        assert_eq!(said.refuses("never"), ["!never bad"]);
        assert_eq!(said.removes("never", at(0, 12, None)), ["-never"]);
        assert_eq!((said.table.rows.len(), said.table.refused.len()), (1, 0));
    }

    #[test]
    fn the_same_definition_after_one_that_was_refused_is_news() {
        let mut said = Said::default();
        said.catches_up();
        assert_eq!(said.defines("a", "1", at(0, 0, None)), ["+a 1"]);
        assert_eq!(said.refuses("a"), ["!a bad"]);
        assert_eq!(said.defines("a", "1", at(0, 2, None)), ["+a 1"]);
        assert!(said.defines("a", "1", at(0, 3, None)).is_empty());
    }

    #[test]
    fn names_of_what_is_refused_are_bounded() {
        let mut said = Said::default();
        said.catches_up();
        let said_of = (0..REFUSED_MAX + 10).filter(|n| !said.refuses(&format!("f{n}")).is_empty()).count();
        assert_eq!((said_of, said.table.refused.len()), (REFUSED_MAX, REFUSED_MAX));
        assert_eq!(said.refuses("f7"), ["!f7 bad"]);
    }

    #[test]
    fn one_tenants_functions_take_no_more_than_their_share() {
        let of = |tenant: Option<&str>, name: &str| FunctionDefinition {
            tenant: tenant.map(str::to_owned),
            ..definition(name, "1")
        };
        let mut said = Said { table: Table::new(2), ..Said::default() };
        said.catches_up();
        let mut defines = |tenant: Option<&str>, of_name: &str| {
            said.does(|table, say| table.record(name(of_name), Some(of(tenant, of_name)), at(0, 0, None), say))
        };
        let full = |name: &str, whose: &str| {
            vec![format!(
                "!{name} {whose} has 2 functions already, and the operator's limits.functions-tenant-max is 2; remove some"
            )]
        };
        assert_eq!((defines(None, "a"), defines(None, "b")), (vec!["+a 1".to_owned()], vec!["+b 1".to_owned()]));
        assert_eq!(defines(None, "c"), full("c", "no tenant"));
        assert_eq!((defines(Some("t"), "c"), defines(Some("t"), "d")), (vec!["+c 1".into()], vec!["+d 1".into()]));
        assert_eq!(defines(Some("t"), "e"), full("e", "tenant t"));
        // One that moves to another tenant needs room there, and leaves room behind.
        assert_eq!(defines(Some("t"), "a"), full("a", "tenant t"));
        assert_eq!(said.removes("c", at(0, 1, None)), ["-c"]);
        let moved = said.does(|table, say| table.record(name("a"), Some(of(Some("t"), "a")), at(0, 2, None), say));
        assert_eq!(moved, ["+a 1"]);
        assert_eq!(said.defines("f", "1", at(0, 3, None)), ["+f 1"]);
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
