//! Reads what was learned in earlier lives: the compacted topic of forecast snapshots, once, at the start.
//!
//! Of each function the node's own snapshot counts; where there is none, the newest of another node. What is no snapshot
//! is counted and passed over: the worst that a lost one costs is that a function is learned anew. Must not: fail a start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::tail::{Follower, Message, Start, Step, Tail};
use crate::kafka::{Connection, headers};
use crate::types::{ForecastSnapshot, FunctionName};

const THREAD: &str = "forecast-snapshots";

/// The key of a snapshot's record. No name of a function has a zero byte in it.
pub fn key(node: &str, function: &FunctionName) -> Vec<u8> {
    [node.as_bytes(), &[0], function.as_str().as_bytes()].concat()
}

/// Reads the topic to its end, for at most `timeout`; snapshots of at most `functions_max` functions, in their order.
pub fn read(
    connection: &Connection,
    topic: &str,
    node: &str,
    codec: Arc<Codec>,
    functions_max: usize,
    timeout: Duration,
) -> Vec<ForecastSnapshot> {
    let kept = Arc::new(Mutex::new(Kept { node: node.to_owned(), functions_max, ..Kept::default() }));
    let reader = Reader { codec, kept: Arc::clone(&kept) };
    let tail = match Tail::start(connection, topic, THREAD, Start::Beginning, reader) {
        Ok(tail) => tail,
        Err(error) => {
            tracing::warn!(%error, "forecast snapshots are not read: everything is learned anew");
            return Vec::new();
        }
    };
    if !tail.fences().wait(timeout) {
        tracing::warn!(
            topic,
            ?timeout,
            "forecast snapshots were not read to their end: what is missing is learned anew"
        );
    }
    tail.stop();
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.passed_over > 0 {
        tracing::warn!(topic, records = kept.passed_over, "forecast snapshots that cannot be read are passed over");
    }
    std::mem::take(&mut kept.snapshots).into_values().map(|(_, snapshot)| snapshot).collect()
}

/// Which snapshot of each function counts.
#[derive(Default)]
struct Kept {
    node: String,
    functions_max: usize,
    /// With whether it is this node's own.
    snapshots: BTreeMap<FunctionName, (bool, ForecastSnapshot)>,
    passed_over: u64,
}

impl Kept {
    fn take(&mut self, snapshot: ForecastSnapshot) {
        let is_own = snapshot.node == self.node;
        let rank = |is_own: bool, snapshot: &ForecastSnapshot| (is_own, snapshot.taken_at);
        match self.snapshots.get(&snapshot.function) {
            // A later record of one key replaces the earlier one, whatever a clock that was set back said.
            Some((was_own, held)) if !(is_own && *was_own) && rank(*was_own, held) > rank(is_own, &snapshot) => {}
            None if self.snapshots.len() >= self.functions_max => self.passed_over += 1,
            _ => _ = self.snapshots.insert(snapshot.function.clone(), (is_own, snapshot)),
        }
    }

    /// A node says that a function is no more: what it knew itself is gone.
    fn forget(&mut self, node: &str, function: &str) {
        if self.snapshots.get(function).is_some_and(|(_, held)| held.node == node) {
            self.snapshots.remove(function);
        }
    }
}

struct Reader {
    codec: Arc<Codec>,
    kept: Arc<Mutex<Kept>>,
}

impl Follower for Reader {
    fn message(&mut self, message: &Message<'_>) -> Step {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(payload) = message.payload else {
            let key = std::str::from_utf8(message.key.unwrap_or_default()).unwrap_or_default();
            if let Some((node, function)) = key.split_once('\0') {
                kept.forget(node, function);
            }
            return Step::Done;
        };
        let (headers, _) = message.headers();
        match self.codec.decode::<ForecastSnapshot>(payload, headers::text(&headers, "content-type"), &NoSchemaRegistry)
        {
            Ok(snapshot) => kept.take(snapshot),
            Err(fault) => {
                kept.passed_over += 1;
                tracing::debug!(partition = message.partition, offset = message.offset.0, %fault, "no forecast snapshot");
            }
        }
        Step::Done
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_nodes_own_counts_before_the_newest_of_others() {
        let mut kept = Kept { node: "me".to_owned(), functions_max: 2, ..Kept::default() };
        let held = |kept: &Kept| -> Vec<(String, String, i64)> {
            let rows = kept.snapshots.values();
            rows.map(|(_, held)| (held.function.to_string(), held.node.clone(), held.taken_at.as_millis() / 1_000))
                .collect()
        };
        let row = |function: &str, node: &str, second| (function.to_owned(), node.to_owned(), second);
        for (node, function, second) in
            [("you", "f", 10), ("they", "f", 20), ("you", "f", 15), ("me", "g", 5), ("you", "g", 50)]
        {
            kept.take(snapshot(node, function, second));
        }
        assert_eq!(held(&kept), [row("f", "they", 20), row("g", "me", 5)]);
        kept.take(snapshot("me", "f", 1));
        // This node's clock was set back since.
        kept.take(snapshot("me", "g", 4));
        assert_eq!(held(&kept), [row("f", "me", 1), row("g", "me", 4)]);
        kept.take(snapshot("me", "h", 1));
        assert_eq!((kept.snapshots.len(), kept.passed_over), (2, 1));
        kept.forget("you", "f");
        kept.forget("me", "g");
        assert_eq!(held(&kept), [row("f", "me", 1)]);
    }

    #[test]
    fn a_key_names_node_and_function() {
        assert_eq!(key("node-1", &"shop/echo".parse().unwrap()), b"node-1\0shop/echo");
    }
}
