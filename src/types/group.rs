//! What a group of nodes says of its functions, put together from the topic of function statuses.
//!
//! A plain table: records in, the present state out. A node that ended or was not heard of for [`GONE_AFTER`] is gone, and so is
//! all that it said; likewise what an earlier process of its name said. Must not: read a topic or a clock.
//!
//! Bounds: [`STATUSES_MAX`] statuses; further ones are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{FunctionName, FunctionStatus, StatusKind, Timestamp};

/// A node that has said nothing of itself for so long is gone.
pub const GONE_AFTER: Duration = Duration::from_secs(90);
/// Most statuses in the table (inclusive), nodes among them.
pub const STATUSES_MAX: usize = 1_000_000;
/// What is left of a node that is gone may be removed after so long.
const KEEP: Duration = Duration::from_secs(24 * 3_600);
/// Keys that are named at once to be removed, at most (inclusive).
const STALE_MAX: usize = 10_000;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Group {
    nodes: BTreeMap<String, FunctionStatus>,
    /// By function first: that is the order in which they are told.
    functions: BTreeMap<(FunctionName, String), FunctionStatus>,
    /// Records for which there was no room, or that are none.
    pub passed_over: u64,
}

impl Group {
    /// Takes a record in, in the topic's order.
    pub fn take(&mut self, status: FunctionStatus) {
        let full = self.nodes.len() + self.functions.len() >= STATUSES_MAX;
        match &status.function {
            None if full && !self.nodes.contains_key(&status.node) => self.passed_over += 1,
            None => drop(self.nodes.insert(status.node.clone(), status)),
            Some(function) => {
                let key = (function.clone(), status.node.clone());
                if full && !self.functions.contains_key(&key) {
                    self.passed_over += 1;
                } else {
                    self.functions.insert(key, status);
                }
            }
        }
    }

    /// A tombstone of this key was read.
    pub fn forget(&mut self, key: &[u8]) {
        let Some((node, function)) = std::str::from_utf8(key).ok().and_then(|key| key.split_once('\0')) else { return };
        if function.is_empty() {
            self.nodes.remove(node);
        } else if let Ok(function) = FunctionName::new(function) {
            self.functions.remove(&(function, node.to_owned()));
        }
    }

    /// Nodes that are there at `now`.
    pub fn nodes(&self, now: Timestamp) -> impl Iterator<Item = &FunctionStatus> {
        self.nodes.values().filter(move |node| is_there(node, now))
    }

    /// Nodes that were heard of and are not there: those that ended in order have the state that says so.
    pub fn nodes_gone(&self, now: Timestamp) -> impl Iterator<Item = &FunctionStatus> {
        self.nodes.values().filter(move |node| !is_there(node, now))
    }

    /// What the nodes that are there say of one function, or of all, by function and then by node.
    pub fn functions(&self, function: Option<&FunctionName>, now: Timestamp) -> impl Iterator<Item = &FunctionStatus> {
        let of = move |status: &&FunctionStatus| function.is_none() || status.function.as_ref() == function;
        self.functions.values().filter(of).filter(move |status| {
            let node = self.nodes.get(&status.node);
            node.is_some_and(|node| is_there(node, now) && node.node_started_at == status.node_started_at)
        })
    }

    /// Keys that `own` may remove at its start: what it said of functions that are not defined, and all that is left of nodes
    /// that have been gone for a day. At most 10,000; the rest waits for the next start.
    pub fn stale(&self, own: &str, is_defined: impl Fn(&FunctionName) -> bool, now: Timestamp) -> Vec<Vec<u8>> {
        let long_gone = |node: &str, said_at: Timestamp| {
            let heard_at = self.nodes.get(node).map_or(said_at, |node| node.said_at);
            node != own && now.since(heard_at) >= KEEP
        };
        let functions = self.functions.iter().filter(|((function, node), status)| {
            if node == own { !is_defined(function) } else { long_gone(node, status.said_at) }
        });
        let nodes = self.nodes.iter().filter(|(node, status)| long_gone(node, status.said_at));
        let keys = functions.map(|(_, status)| status.key()).chain(nodes.map(|(_, status)| status.key()));
        keys.take(STALE_MAX).collect()
    }
}

fn is_there(node: &FunctionStatus, now: Timestamp) -> bool {
    node.state != StatusKind::Stopped && now.since(node.said_at) < GONE_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis((START + second) * 1_000)
    }

    fn status(node: &str, function: &str, state: StatusKind, life: i64, said: i64) -> FunctionStatus {
        FunctionStatus {
            node: node.to_owned(),
            function: FunctionName::new(function).ok(),
            state,
            reason: None,
            since: at(said),
            version: None,
            running_version: None,
            definition: None,
            node_started_at: at(life),
            said_at: at(said),
        }
    }

    fn node(name: &str, life: i64, said: i64) -> FunctionStatus {
        status(name, "", StatusKind::Serving, life, said)
    }

    /// Function, node and state of what counts.
    fn told(group: &Group, second: i64) -> Vec<(String, String, StatusKind)> {
        let functions = group.functions(None, at(second));
        functions
            .map(|status| (status.function.clone().unwrap().to_string(), status.node.clone(), status.state))
            .collect()
    }

    fn row(function: &str, node: &str, state: StatusKind) -> (String, String, StatusKind) {
        (function.to_owned(), node.to_owned(), state)
    }

    #[test]
    fn the_last_word_of_each_node_counts_as_long_as_the_node_is_there() {
        let mut group = Group::default();
        for record in [
            node("a", 0, 0),
            node("b", 0, 50),
            status("b", "f", StatusKind::Loading, 0, 51),
            status("b", "f", StatusKind::Running, 0, 52),
            status("a", "f", StatusKind::Refused, 0, 1),
            status("a", "e", StatusKind::Running, 0, 1),
            // Nobody has heard of this node itself.
            status("c", "f", StatusKind::Running, 0, 1),
        ] {
            group.take(record);
        }
        let all = [
            row("e", "a", StatusKind::Running),
            row("f", "a", StatusKind::Refused),
            row("f", "b", StatusKind::Running),
        ];
        assert_eq!(told(&group, 89), all);
        assert_eq!(told(&group, 90), all[2..]);
        assert_eq!(group.nodes_gone(at(90)).map(|node| node.node.as_str()).collect::<Vec<_>>(), ["a"]);
        group.take(node("a", 0, 91));
        assert_eq!(told(&group, 92), all);
        let f: FunctionName = "f".parse().unwrap();
        assert_eq!(group.functions(Some(&f), at(92)).count(), 2);
        group.forget(b"a\0f");
        assert_eq!(told(&group, 92), [all[0].clone(), all[2].clone()]);
        group.take(status("b", "", StatusKind::Stopped, 0, 93));
        assert_eq!(told(&group, 93), all[..1]);
    }

    #[test]
    fn what_an_earlier_life_said_does_not_count() {
        let mut group = Group::default();
        group.take(node("a", 0, 0));
        group.take(status("a", "f", StatusKind::Running, 0, 1));
        group.take(node("a", 5, 5));
        assert_eq!(told(&group, 6), []);
        group.take(status("a", "f", StatusKind::Loading, 5, 6));
        assert_eq!(told(&group, 6), [row("f", "a", StatusKind::Loading)]);
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_node_gone() {
        let mut group = Group::default();
        group.take(node("a", 1_000, 1_000));
        assert_eq!(group.nodes(at(0)).count(), 1);
    }

    #[test]
    fn what_is_long_gone_may_be_removed_and_so_may_own_functions_that_are_no_more() {
        const DAY: i64 = 24 * 3_600;
        let mut group = Group::default();
        for record in [
            node("me", 0, 0),
            status("me", "here", StatusKind::Running, 0, 0),
            status("me", "gone", StatusKind::Running, 0, 0),
            node("old", 0, 0),
            status("old", "here", StatusKind::Running, 0, 0),
            node("young", 0, 1),
            status("young", "here", StatusKind::Running, 0, 0),
            status("unknown", "here", StatusKind::Running, 0, 0),
        ] {
            group.take(record);
        }
        let stale = |now| {
            let keys = group.stale("me", |function| function.as_str() == "here", at(now));
            keys.into_iter().map(|key| String::from_utf8(key).unwrap().replace('\0', "/")).collect::<Vec<_>>()
        };
        assert_eq!(stale(DAY - 1), ["me/gone"]);
        assert_eq!(stale(DAY), ["me/gone", "old/here", "unknown/here", "old/"]);
    }

    #[test]
    fn keys_that_are_none_are_passed_over() {
        let mut group = Group::default();
        group.take(node("a", 0, 0));
        for key in [&b""[..], b"a", b"\xff\0f", b"a\0no name!"] {
            group.forget(key);
        }
        assert_eq!(group.nodes(at(0)).count(), 1);
        group.forget(b"a\0");
        assert_eq!(group.nodes(at(0)).count(), 0);
    }
}
