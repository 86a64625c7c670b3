//! What names a function that is not known: held until the registry was read to its end as it was then.
//!
//! A user deploys a function and calls it at once; the two topics have no order between them. So "unknown" is said only
//! after the definitions that were there before the call have all been read. What is held is bounded by what ingest lets in.

use std::sync::Arc;

use super::outbox::{Outbox, Ticket};
use crate::execute::{Call, Executor};
use crate::kafka::tail::{Fenced, Fences};

/// See the head of this file.
pub struct Unknown {
    executor: Executor<Arc<Outbox>>,
    fences: Fences,
}

impl Unknown {
    /// Holds calls for `executor` until a fence was passed.
    pub fn new(executor: Executor<Arc<Outbox>>, fences: Fences) -> Self {
        Self { executor, fences }
    }

    /// Holds a call; it is submitted again, and rejected if its function is still not known then.
    pub fn hold(&self, call: Call<Ticket>) {
        let executor = self.executor.clone();
        let slot = Arc::new(std::sync::Mutex::new(Some(call)));
        let held = Arc::clone(&slot);
        let take = |slot: &std::sync::Mutex<Option<Call<Ticket>>>| {
            slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        };
        let accepted = self.fences.fence(move |fenced| match (fenced, take(&held)) {
            (Fenced::Read, Some(call)) => submit_or_reject(&executor, call),
            // A shutdown: the call comes again, as its offset has not moved.
            (Fenced::Stopped, _) | (_, None) => {}
        });
        if !accepted && let Some(call) = take(&slot) {
            // Too many are held already, or the registry is stopping: judged by what is known now.
            submit_or_reject(&self.executor, call);
        }
    }
}

fn submit_or_reject(executor: &Executor<Arc<Outbox>>, call: Call<Ticket>) {
    if let Err(call) = executor.submit(call) {
        let name = &call.invocation.function;
        let message = format!("function {name} is not registered: deploy it, or check the name");
        executor.reject(*call, "unknown_function", message);
    }
}
