//! Tells the group what the functions of this node, and the node itself, are doing; and cleans up after nodes that are gone.
//!
//! Where the topic is missing, or may not be looked at, nothing is told, and the log says so once: records that nobody takes would
//! hold up the way down.
//!
//! Must not: choose what is told when (`driver::Statuses` does), or hold up the main loop: it only hands records over.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::{Config, Executor, Outbox, wall_clock};
use crate::client::{RequestError, Statuses as Reader};
use crate::codec::Codec;
use crate::driver::{Asked, Said, Statuses};
use crate::kafka::{ClientError, Connection};
use crate::types::Timestamp;

/// From one look to the next. A change is told that much later at most, where nothing holds it back.
const LOOK: Duration = Duration::from_secs(1);
/// Where so many records wait to be stored, statuses wait with what is so until there is room.
const WAITING_MAX: usize = 500;

/// See the head of this file.
pub(super) struct Teller {
    statuses: Statuses,
    /// Whether the topic is there; nothing while that is not known.
    is_there: Arc<OnceLock<bool>>,
    looked_at: Option<Instant>,
}

impl Teller {
    /// Of a node whose process began at `started_at`; `is_there` comes from [`clean`].
    pub(super) fn new(asked: &Asked, started_at: Timestamp, is_there: Arc<OnceLock<bool>>) -> Self {
        Self { statuses: Statuses::new(asked, started_at), is_there, looked_at: None }
    }

    /// Tells what is new, once a second; what cannot be stored now is not told, and is told as it is then.
    pub(super) fn look(&mut self, outbox: &Outbox, not_ready: impl FnOnce() -> Option<String>) {
        if self.looked_at.is_some_and(|looked_at| looked_at.elapsed() < LOOK) {
            return;
        }
        if self.is_there.get() != Some(&true) {
            return;
        }
        let publisher = outbox.publisher();
        if !publisher.can_store() || publisher.waiting() > WAITING_MAX {
            return;
        }
        self.looked_at = Some(Instant::now());
        self.statuses.look(wall_clock(), not_ready()).into_iter().for_each(|said| say(outbox, said));
    }

    /// The node's last word.
    pub(super) fn stopped(&self, outbox: &Outbox) {
        self.statuses.stopped(wall_clock()).into_iter().for_each(|said| say(outbox, said));
    }
}

fn say(outbox: &Outbox, said: Said) {
    match said {
        Said::Status(status) => outbox.tell_status(status),
        Said::Forgotten(function) => outbox.forget_status(&function),
    }
}

/// Removes statuses of nodes and functions that are gone, on a thread of its own that ends with that: nothing waits for it. What
/// cannot be read now is left to the next start. Answers whether the topic is there, once that is known.
///
/// # Errors
/// Where the system gives no thread.
pub(super) fn clean(
    connection: &Connection,
    config: &Config,
    codec: &Arc<Codec>,
    executor: Executor<Arc<Outbox>>,
    outbox: Arc<Outbox>,
) -> std::io::Result<Arc<OnceLock<bool>>> {
    let is_there = Arc::new(OnceLock::new());
    let found = Arc::clone(&is_there);
    let (connection, codec, node) = (connection.clone(), Arc::clone(codec), config.node_id());
    let (topic, timeout) = (config.topics.function_status.clone(), config.registry.catch_up_timeout);
    let body = move || {
        let opened = Reader::open(&connection, &topic, codec);
        let is_missing =
            matches!(opened, Err(RequestError::Client(ClientError::TopicMissing { .. } | ClientError::Topic { .. })));
        // Set once, here.
        let _ = found.set(!is_missing);
        let read = opened.and_then(|mut reader| {
            let is_whole = reader.read_to_end(timeout)?;
            Ok((reader, is_whole))
        });
        match read {
            // Of a topic that was not read to its end nothing goes: a later record may say otherwise.
            Ok((reader, true)) => {
                let stale = reader.group.stale(&node, |function| executor.knows(function), wall_clock());
                outbox.forget_stale_statuses(stale);
            }
            Ok((_, false)) => {
                tracing::warn!(topic, ?timeout, "function statuses were not read to their end: none is removed")
            }
            Err(error) if is_missing => tracing::warn!(
                topic, %error,
                "what functions do on this node is not told to others, until the next start"
            ),
            Err(error) => tracing::warn!(topic, %error, "function statuses cannot be read: none is removed"),
        }
    };
    std::thread::Builder::new().name("function-status".to_owned()).spawn(body).map(|_| is_there)
}
