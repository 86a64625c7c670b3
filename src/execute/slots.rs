//! Places in the pool, given out by `pool::Ledger` and given back when an instance is dropped.
//!
//! The lock is taken when instances are made and dropped, never when one is taken from its shelf.

use std::sync::{Arc, Mutex, PoisonError};

use crate::pool::{Bounds, Capacity, Full, Ledger, Purpose, SlotId};
use crate::types::FunctionName;

/// The node's slots.
#[derive(Clone)]
pub(super) struct Slots(Arc<Mutex<Ledger>>);

impl Slots {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(Ledger::new(bounds))))
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// Where instances or memory are used up, or the function's share of them.
    pub(super) fn reserve(&self, function: &FunctionName, bytes: u64, purpose: Purpose) -> Result<Slot, Full> {
        let id = self.with(|ledger| ledger.reserve(function, bytes, purpose))?;
        Ok(Slot { id, slots: self.clone() })
    }

    /// What is in use.
    pub(super) fn in_use(&self) -> Capacity {
        self.with(|ledger| ledger.in_use())
    }

    fn with<R>(&self, act: impl FnOnce(&mut Ledger) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One place in the pool; dropping it gives it back.
pub(super) struct Slot {
    id: SlotId,
    slots: Slots,
}

impl Slot {
    /// The instance's real size is known.
    pub(super) fn resize(&self, bytes: u64) {
        let resized = self.slots.with(|ledger| ledger.resized(self.id, bytes));
        debug_assert!(resized.is_ok(), "a slot lives as long as its place");
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let released = self.slots.with(|ledger| ledger.release(self.id));
        debug_assert!(released.is_ok(), "a slot is dropped once");
    }
}
