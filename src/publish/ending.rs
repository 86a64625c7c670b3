//! The end of clients and threads that may not end.
//!
//! librdkafka waits without a limit for its own threads when a client is dropped, and a thread inside a call that hangs cannot be
//! joined. Must not: keep anybody waiting for longer than is said.

use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::kafka::Watch;

/// How long a client may take to end before the watch says so: it gives back what it has, which takes librdkafka half a second
/// where all is well.
const OVERDUE: Duration = Duration::from_secs(45);
/// How often it is looked whether a thread has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Joins a thread that ends within `limit`. One that does not is left to itself, and said.
pub(super) fn join_within(thread: JoinHandle<()>, limit: Duration) {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    let until = Instant::now() + limit;
    while !thread.is_finished() {
        if Instant::now() >= until {
            tracing::error!(thread = name, ?limit, "the thread does not end; it is left to itself");
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if thread.join().is_err() {
        tracing::error!(thread = name, "the thread had panicked");
    }
}

/// Does `end` (drops a client) on a thread of its own, under the watch, and waits for it up to `limit`.
pub(super) fn end_within(watch: &Watch, limit: Duration, end: impl FnOnce() + Send + 'static) {
    let (said, heard) = sync_channel(1);
    let watch = watch.clone();
    let end = move || {
        watch.call("end of a producer", OVERDUE, end);
        // Nobody waits any more where it took too long.
        let _ = said.send(());
    };
    match std::thread::Builder::new().name("publish-end".to_owned()).spawn(end) {
        Ok(_) if limit.is_zero() => {}
        Ok(_) => {
            if heard.recv_timeout(limit).is_err() {
                tracing::error!(?limit, "a producer does not end; it is left to itself");
            }
        }
        // What it held is dropped here and now by the failed spawn.
        Err(error) => tracing::debug!(%error, "no thread to end a producer on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_keeps_nobody_waiting() {
        let (_keep, never) = sync_channel::<()>(1);
        let stuck = move || assert!(never.recv().is_err());
        let began = Instant::now();
        join_within(std::thread::spawn(stuck), Duration::from_millis(20));
        let (_keep, never) = sync_channel::<()>(1);
        end_within(&Watch::default(), Duration::from_millis(20), move || assert!(never.recv().is_err()));
        // A wide limit for a busy machine: without one the test would hang.
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_ends_is_waited_for() {
        let (tell, told) = sync_channel(2);
        let tell_too = tell.clone();
        join_within(std::thread::spawn(move || tell.send(1).expect("heard")), Duration::from_secs(60));
        end_within(&Watch::default(), Duration::from_secs(60), move || tell_too.send(2).expect("heard"));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
