//! "Has everything been read that is in the topic now?": the question, who waits for its answer, and what a tail shares with
//! them.
//!
//! Must not: read the topic; `tail` does, and answers.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Health;
use super::tail::Totals;

/// Most fences that may wait at once; see [`Fences::fence`].
pub const FENCES_WAITING_MAX: usize = 100_000;

/// How often a wait looks whether there is progress.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How a fence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// Everything that was in the topic when the fence was asked for has been offered to the follower.
    Read,
    /// The tail stopped before that.
    Stopped,
}

pub(super) type Then = Box<dyn FnOnce(Fenced) + Send>;

#[derive(Default)]
pub(super) struct Asked {
    pub(super) stop: bool,
    pub(super) fences: Vec<Then>,
}

pub(super) struct Shared {
    pub(super) topic: String,
    pub(super) asked: Mutex<Asked>,
    pub(super) stopping: Condvar,
    pub(super) caught_up: AtomicBool,
    /// How far the first reading has come, while it lasts: partition → the next offset to read, and the end (exclusive).
    pub(super) places: Mutex<BTreeMap<i32, (i64, i64)>>,
    /// The thread that reads, once it does.
    pub(super) reader: OnceLock<Thread>,
    pub(super) health: Health,
    /// What was passed over, because it cannot be read.
    pub(super) passed: Mutex<Totals>,
}

impl Shared {
    pub(super) fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn places(&self) -> MutexGuard<'_, BTreeMap<i32, (i64, i64)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; true where the tail is to stop.
    pub(super) fn stopped_within(&self, wait: Duration) -> bool {
        let asked = self.asked();
        let waited = self.stopping.wait_timeout_while(asked, wait, |asked| !asked.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

/// Asks a tail for fences; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Fences(pub(super) Arc<Shared>);

impl Fences {
    /// Calls `then` once everything that is in the topic at this moment has been offered to the follower, on the tail's
    /// thread. Fences that are asked for close together share one question to the brokers. While these are away it waits.
    ///
    /// Returns whether it was accepted: false where [`FENCES_WAITING_MAX`] wait already, or the tail has stopped. `then` is
    /// dropped then.
    pub fn fence(&self, then: impl FnOnce(Fenced) + Send + 'static) -> bool {
        let mut asked = self.0.asked();
        if asked.stop || asked.fences.len() >= FENCES_WAITING_MAX {
            return false;
        }
        asked.fences.push(Box::new(then));
        true
    }

    /// Where the first reading stands, while it lasts: partition, next offset to read, and end (exclusive).
    pub fn places(&self) -> Vec<(i32, i64, i64)> {
        self.0.places().iter().map(|(&partition, &(next, end))| (partition, next, end)).collect()
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Like [`fence`](Self::fence), and waits for it up to `timeout`. False where it did not come.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_while_moving(timeout, || 0)
    }

    /// Like [`wait`](Self::wait), but the time counts anew whenever `progress` answers otherwise than before.
    pub fn wait_while_moving(&self, patience: Duration, mut progress: impl FnMut() -> u64) -> bool {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let accepted = self.fence(move |fenced| {
            // Nobody listens any more where the wait was too long.
            let _ = sender.send(fenced);
        });
        let (mut seen, mut since) = (progress(), Instant::now());
        if !accepted {
            return false;
        }
        loop {
            match receiver.recv_timeout(patience.saturating_sub(since.elapsed()).min(LOOK_EVERY)) {
                Ok(fenced) => return fenced == Fenced::Read,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = progress();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= patience {
                return false;
            }
        }
    }
}
