//! What names a function that is not known: held until the registry was read to its end as it was then.
//!
//! A user deploys a function and calls it at once; the two topics have no order between them. So "unknown" is said only
//! after the definitions that were there before the call have all been read. What is held is bounded by what ingest lets in.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::delivery::Delivery;
use super::outbox::Ticket;
use crate::execute::Call;
use crate::kafka::tail::Fenced;
use crate::registry::Fences;

/// See the head of this file.
pub struct Unknown(Fences);

impl Unknown {
    /// Holds calls until a fence was passed.
    pub fn new(fences: Fences) -> Self {
        Self(fences)
    }

    /// Holds calls of one function; they are judged by what is known when the fence was passed.
    pub(super) fn hold(&self, calls: Vec<Call<Ticket>>, delivery: &Weak<Delivery>) {
        let Some(function) = calls.first().map(|call| call.invocation.function.clone()) else { return };
        let again = Weak::clone(delivery);
        let slot = Arc::new(Mutex::new(Some(calls)));
        let held = Arc::clone(&slot);
        let take = |slot: &Mutex<Option<Vec<Call<Ticket>>>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let accepted = self.0.of(&function).fence(move |fenced| {
            // Else a shutdown: the calls come again, as their offsets have not moved.
            if let (Fenced::Read, Some(calls), Some(delivery)) = (fenced, take(&held), again.upgrade()) {
                delivery.judge(calls);
            }
        });
        if !accepted && let (Some(calls), Some(delivery)) = (take(&slot), delivery.upgrade()) {
            // Too many are held already, or the registry is stopping: judged by what is known now.
            delivery.judge(calls);
        }
    }
}
