//! The end of a consumer whose place another has taken, on a thread of its own.
//!
//! Must not: hold up whoever goes on with the other one, or end the process for the sake of a client that is of no more use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, ConsumerContext};

use super::Watch;

/// How long a consumer that was replaced may take to end.
const END: Duration = Duration::from_secs(60);
/// How long dropping it may take once it has.
const DROP_OVERDUE: Duration = Duration::from_secs(120);

/// Closes a consumer and drops it. What waits for its coordinator is given back with that.
///
/// One that does not end within a minute is left as it is, since dropping it would wait for its end: a client's threads and
/// buffers are lost then.
pub fn retire<C: ConsumerContext + 'static>(consumer: Arc<BaseConsumer<C>>, watch: &Watch) {
    let watch = watch.clone();
    let end = move || {
        if let Err(error) = consumer.close_queue() {
            tracing::debug!(%error, "a consumer that was replaced is not closed");
        }
        let by = Instant::now() + END;
        while !consumer.closed() {
            if Instant::now() >= by {
                tracing::warn!(within = ?END, "a consumer that was replaced does not end; it is left as it is");
                return std::mem::forget(consumer);
            }
            // It may return at once; librdkafka would wait by the wall clock.
            drop(consumer.poll(Duration::ZERO));
            std::thread::sleep(Duration::from_millis(20));
        }
        watch.call("end of a consumer that was replaced", DROP_OVERDUE, || drop(consumer));
    };
    if let Err(error) = std::thread::Builder::new().name("retired-client".to_owned()).spawn(end) {
        tracing::warn!(%error, "no thread to end a consumer on that was replaced");
    }
}
