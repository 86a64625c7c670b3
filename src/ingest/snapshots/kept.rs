//! Which forecast snapshots count, and which may go.
//!
//! Of each defined function the node's own counts; where there is none, the newest of another node. A snapshot of another node
//! may go when it is old enough and is not the newest that other nodes have of its function: so what was taken over from a
//! node that is gone stays until another node has written something newer. A snapshot of a function that is not defined may go
//! when it is old enough, whoever wrote it. Must not: let the only snapshot of a defined function go.
//!
//! Bounds: two snapshots of each of `functions_max` functions, and [`STALE_MAX`](super::STALE_MAX) keys.

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, STALE_MAX, Settings, key};
use crate::types::{ForecastSnapshot, FunctionName};

/// What counts of one function: this node's own, and the newest of the others.
#[derive(Default)]
struct Known {
    own: Option<ForecastSnapshot>,
    other: Option<ForecastSnapshot>,
}

/// See the head of this file.
pub(super) struct Kept {
    settings: Settings,
    functions: BTreeMap<FunctionName, Known>,
    stale: BTreeSet<Vec<u8>>,
    more_stale: bool,
    /// Records that are no snapshot, and snapshots of functions for which there is no room.
    pub(super) passed_over: u64,
}

impl Kept {
    pub(super) fn new(settings: Settings) -> Self {
        let (functions, stale) = Default::default();
        Self { settings, functions, stale, more_stale: false, passed_over: 0 }
    }

    /// Takes the records in, in the topic's order: a later one of a key replaces the earlier one.
    pub(super) fn take(&mut self, snapshot: ForecastSnapshot) {
        let Settings { node, functions_max, is_defined, .. } = &self.settings;
        self.stale.remove(&key(&snapshot.node, &snapshot.function));
        if !is_defined(&snapshot.function) {
            return self.may_go(&snapshot);
        }
        if self.functions.len() >= *functions_max && !self.functions.contains_key(&snapshot.function) {
            self.passed_over += 1;
            return;
        }
        let known = self.functions.entry(snapshot.function.clone()).or_default();
        if snapshot.node == *node {
            // Whatever a clock that was set back said.
            known.own = Some(snapshot);
            return;
        }
        let replaces = |held: &ForecastSnapshot| held.node == snapshot.node || held.taken_at <= snapshot.taken_at;
        let passed = match &mut known.other {
            Some(held) if !replaces(held) => Some(snapshot),
            other => other.replace(snapshot.clone()).filter(|held| held.node != snapshot.node),
        };
        if let Some(passed) = passed {
            self.may_go(&passed);
        }
    }

    /// A node says that it has nothing of a function any more.
    pub(super) fn forget(&mut self, node: &str, function: &str) {
        if let Ok(function) = FunctionName::new(function) {
            self.stale.remove(&key(node, &function));
        }
        if let Some(known) = self.functions.get_mut(function) {
            known.own.take_if(|held| held.node == node);
            known.other.take_if(|held| held.node == node);
        }
    }

    /// What was found; with what may go only where the topic was read to its end.
    pub(super) fn take_found(&mut self, is_whole: bool) -> Found {
        let snapshots = std::mem::take(&mut self.functions).into_values();
        let snapshots = snapshots.filter_map(|known| known.own.or(known.other)).collect();
        let stale = std::mem::take(&mut self.stale);
        if is_whole {
            Found { snapshots, stale: stale.into_iter().collect(), more_stale: self.more_stale }
        } else {
            // A later record may have made one of them new again.
            Found { snapshots, ..Found::default() }
        }
    }

    /// Nobody will miss it, once it is old enough.
    fn may_go(&mut self, snapshot: &ForecastSnapshot) {
        if self.settings.now.since(snapshot.taken_at) < self.settings.keep {
            return;
        }
        if self.stale.len() < STALE_MAX {
            self.stale.insert(key(&snapshot.node, &snapshot.function));
        } else {
            self.more_stale = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{Payload, Timestamp};

    fn snapshot(node: &str, function: &str, second: i64) -> ForecastSnapshot {
        ForecastSnapshot {
            function: function.parse().unwrap(),
            node: node.to_owned(),
            taken_at: Timestamp::from_millis(second * 1_000),
            state: Payload(vec![1]),
        }
    }

    /// Of node "me" at second 1,000: what is 100 s old may go. Functions that begin with "gone" are not defined.
    fn kept(functions_max: usize) -> Kept {
        Kept::new(Settings {
            node: "me".to_owned(),
            functions_max,
            keep: Duration::from_secs(100),
            now: Timestamp::from_millis(1_000_000),
            is_defined: Box::new(|function| !function.as_str().starts_with("gone")),
            timeout: Duration::ZERO,
        })
    }

    /// What counts, as function, node and second; and what may go, as node and function.
    fn found(mut kept: Kept) -> (Vec<(String, String, i64)>, Vec<String>) {
        let found = kept.take_found(true);
        let counts = found
            .snapshots
            .into_iter()
            .map(|held| (held.function.to_string(), held.node, held.taken_at.as_millis() / 1_000));
        let stale = found.stale.into_iter().map(|key| String::from_utf8(key).unwrap().replace('\0', "/"));
        (counts.collect(), stale.collect())
    }

    fn row(function: &str, node: &str, second: i64) -> (String, String, i64) {
        (function.to_owned(), node.to_owned(), second)
    }

    #[test]
    fn a_nodes_own_counts_before_the_newest_of_others() {
        let mut kept = kept(2);
        for (node, function, second) in
            [("you", "f", 10), ("they", "f", 20), ("you", "f", 15), ("me", "g", 5), ("you", "g", 50), ("they", "h", 9)]
        {
            kept.take(snapshot(node, function, second));
        }
        assert_eq!(kept.passed_over, 1, "two functions are what there is room for");
        // This node's clock was set back since.
        kept.take(snapshot("me", "g", 4));
        assert_eq!(found(kept).0, [row("f", "they", 20), row("g", "me", 4)]);
    }

    #[test]
    fn what_a_node_forgets_does_not_count_and_need_not_go() {
        let mut kept = kept(9);
        for (node, function, second) in
            [("you", "f", 1), ("me", "f", 2), ("they", "g", 3), ("you", "g", 2), ("you", "gone", 1), ("me", "h", 1)]
        {
            kept.take(snapshot(node, function, second));
        }
        for (node, function) in
            [("me", "f"), ("you", "g"), ("you", "gone"), ("me", "h"), ("nobody", "f"), ("me", "no name!")]
        {
            kept.forget(node, function);
        }
        assert_eq!(found(kept), (vec![row("f", "you", 1), row("g", "they", 3)], vec![]));
    }

    #[test]
    fn old_snapshots_of_other_nodes_go_but_for_the_newest_of_each_function() {
        let mut kept = kept(9);
        for (node, function, second) in [
            ("a", "f", 100),
            ("b", "f", 300),
            ("c", "f", 200),
            // Just old enough, and not.
            ("d", "f", 900),
            ("e", "f", 901),
            ("g", "f", 950),
            // Alone: what it knows is taken over.
            ("a", "alone", 1),
            // This node's own counts, and yet the others would want the newest one.
            ("a", "mine", 2),
            ("b", "mine", 3),
            ("me", "mine", 1),
        ] {
            kept.take(snapshot(node, function, second));
        }
        let (counts, stale) = found(kept);
        assert_eq!(counts, [row("alone", "a", 1), row("f", "g", 950), row("mine", "me", 1)]);
        assert_eq!(stale, ["a/f", "a/mine", "b/f", "c/f", "d/f"]);
    }

    #[test]
    fn what_is_written_again_is_not_old() {
        let mut kept = kept(9);
        for (node, function, second) in
            [("a", "f", 1), ("b", "f", 2), ("a", "f", 960), ("b", "f", 950), ("a", "f", 970)]
        {
            kept.take(snapshot(node, function, second));
        }
        assert_eq!(found(kept), (vec![row("f", "a", 970)], vec![]));
    }

    #[test]
    fn snapshots_of_functions_that_are_gone_go_when_they_are_old_whoever_wrote_them() {
        let mut kept = kept(9);
        for (node, function, second) in
            [("me", "gone-1", 900), ("a", "gone-1", 5), ("me", "gone-2", 901), ("a", "gone-2", 2_000)]
        {
            kept.take(snapshot(node, function, second));
        }
        assert_eq!(found(kept), (vec![], vec!["a/gone-1".to_owned(), "me/gone-1".to_owned()]));
    }

    #[test]
    fn one_start_names_so_many_and_no_more() {
        let mut kept = kept(9);
        for number in 0..STALE_MAX {
            kept.take(snapshot(&format!("node-{number}"), "gone", 1));
        }
        assert!(!kept.more_stale);
        kept.take(snapshot("one-more", "gone", 1));
        let found = kept.take_found(true);
        assert_eq!((found.stale.len(), found.more_stale), (STALE_MAX, true));
    }

    #[test]
    fn of_a_topic_that_was_not_read_to_its_end_nothing_goes() {
        let mut kept = kept(9);
        kept.take(snapshot("a", "gone", 1));
        kept.take(snapshot("a", "f", 1));
        let found = kept.take_found(false);
        assert_eq!((found.snapshots.len(), found.stale.len()), (1, 0));
    }

    #[test]
    fn nodes_that_come_and_go_leave_no_more_than_what_is_young_and_one_a_function() {
        // Each life learns three functions under a new name, and 30 s later the next one begins.
        let mut topic: BTreeMap<Vec<u8>, ForecastSnapshot> = BTreeMap::new();
        let mut longest = 0;
        for life in 0..100_i64 {
            let now = 1_000 + 30 * life;
            let mut kept = kept(9);
            (kept.settings.node, kept.settings.now) = (format!("pod-{life}"), Timestamp::from_millis(now * 1_000));
            topic.values().for_each(|held| kept.take(held.clone()));
            let found = kept.take_found(true);
            // What the last life learned is taken over, however old it is.
            let expected = if life == 0 { 0 } else { 3 };
            assert_eq!(found.snapshots.len(), expected);
            assert!(found.snapshots.iter().all(|held| held.node == format!("pod-{}", life - 1)));
            found.stale.iter().for_each(|key| drop(topic.remove(key)));
            for function in ["f", "g", "h"] {
                let held = snapshot(&format!("pod-{life}"), function, now + 10);
                topic.insert(key(&held.node, &held.function), held);
            }
            longest = longest.max(topic.len());
        }
        // Those of three lives are younger than 100 s when the fourth begins.
        assert_eq!(longest, 3 * 4);
    }
}
