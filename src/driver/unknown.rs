//! Calls of functions that are not known: held until the registry was read to its end as it was when the call came.
//!
//! A user deploys a function and calls it at once; the two topics have no order between them. So "unknown" is said only
//! after the definitions that were there before the call have all been read. What is held is bounded by what ingest lets in.

use super::outcomes::{OutcomeSink, Ticket};
use crate::execute::{Call, Executor};
use crate::registry::Fence;

/// See the head of this file.
pub struct Unknown {
    executor: Executor<OutcomeSink>,
    fence: Fence,
}

impl Unknown {
    /// Holds calls for `executor` until `fence` was passed.
    pub fn new(executor: Executor<OutcomeSink>, fence: Fence) -> Self {
        Self { executor, fence }
    }

    /// Holds a call; it is submitted again, and rejected if its function is still not known then.
    pub fn hold(&self, call: Call<Ticket>) {
        let executor = self.executor.clone();
        // The registry answers all that wait with one look at the brokers. Where it ends before (a shutdown), the call is
        // dropped here and comes again: its offset has not moved.
        self.fence.then(Box::new(move || {
            if let Err(call) = executor.submit(call) {
                let name = &call.invocation.function;
                let message = format!("function {name} is not registered: deploy it, or check the name");
                executor.reject(*call, "unknown_function", message);
            }
        }));
    }
}
