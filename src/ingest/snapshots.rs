//! Reads what was learned in earlier lives: the compacted topic of forecast snapshots, once, at the start.
//!
//! Which snapshots count and which may go is `kept`'s to decide. What is no snapshot is counted and passed over: the worst
//! that a lost one costs is that a function is learned anew. Must not: fail a start, or write to the topic.

mod kept;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::kept::Kept;
use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::headers::Bounds;
use crate::kafka::tail::{Follower, Message, Start, Step, Tail};
use crate::kafka::{Connection, headers};
use crate::types::{ForecastSnapshot, FunctionName, Timestamp};

const THREAD: &str = "forecast-snapshots";
/// A node writes one or two.
const HEADERS: Bounds = Bounds { count_max: 64, bytes_max: 64 << 10 };

/// How many snapshots of nodes and functions that are gone are named at one start; the rest waits for the next.
pub const STALE_MAX: usize = 10_000;

/// The key of a snapshot's record. No name of a function has a zero byte in it.
pub fn key(node: &str, function: &FunctionName) -> Vec<u8> {
    [node.as_bytes(), &[0], function.as_str().as_bytes()].concat()
}

/// How the topic is read.
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// Functions of which a snapshot is taken over (inclusive).
    pub functions_max: usize,
    /// Snapshots that are at least this old may go.
    pub keep: Duration,
    /// The time by which their age is told.
    pub now: Timestamp,
    /// Whether a function is defined; asked when every definition was read.
    pub is_defined: Box<dyn Fn(&FunctionName) -> bool + Send>,
    /// How long reading may take.
    pub timeout: Duration,
}

/// What was found on the topic.
#[derive(Debug, Default)]
pub struct Found {
    /// What counts: at most one snapshot a function, in the functions' order.
    pub snapshots: Vec<ForecastSnapshot>,
    /// Keys of snapshots that may go, in their order; none where the topic was not read to its end.
    pub stale: Vec<Vec<u8>>,
    /// Whether there are more of those.
    pub more_stale: bool,
}

/// Reads the topic to its end, for at most the time that the settings give.
pub fn read(connection: &Connection, topic: &str, codec: Arc<Codec>, settings: Settings) -> Found {
    let timeout = settings.timeout;
    let kept = Arc::new(Mutex::new(Kept::new(settings)));
    let reader = Reader { codec, kept: Arc::clone(&kept) };
    let tail = match Tail::start(connection, topic, THREAD, Start::Beginning, reader) {
        Ok(tail) => tail,
        Err(error) => {
            tracing::warn!(%error, "forecast snapshots are not read: everything is learned anew");
            return Found::default();
        }
    };
    let is_whole = tail.fences().wait(timeout);
    if !is_whole {
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
    kept.take_found(is_whole)
}

struct Reader {
    codec: Arc<Codec>,
    kept: Arc<Mutex<Kept>>,
}

impl Follower for Reader {
    fn message(&mut self, message: &Message<'_>) -> Step {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let message_key = message.key.unwrap_or_default();
        let Some(payload) = message.payload else {
            let key = std::str::from_utf8(message_key).unwrap_or_default();
            if let Some((node, function)) = key.split_once('\0') {
                kept.forget(node, function);
            }
            return Step::Done;
        };
        let Ok((headers, _)) = message.headers(HEADERS) else {
            kept.passed_over += 1;
            return Step::Done;
        };
        let content_type = headers::text(&headers, "content-type");
        let fault = match self.codec.decode::<ForecastSnapshot>(payload, content_type, &NoSchemaRegistry) {
            Ok(snapshot) if key(&snapshot.node, &snapshot.function) == message_key => {
                kept.take(snapshot);
                return Step::Done;
            }
            Ok(_) => "its key is not its node's and its function's".to_owned(),
            Err(fault) => fault.to_string(),
        };
        kept.passed_over += 1;
        tracing::debug!(partition = message.partition, offset = message.offset.0, fault, "no forecast snapshot");
        Step::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_node_and_function() {
        assert_eq!(key("node-1", &"shop/echo".parse().unwrap()), b"node-1\0shop/echo");
    }
}
