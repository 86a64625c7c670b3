//! Places in the pool, given out by `pool::Ledger` and given back when an instance is dropped.
//!
//! The lock is taken when instances are made, grow and are dropped, never when one is taken from its shelf.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::pool::{Bounds, Capacity, Full, Ledger, NoGrowth, Purpose, SlotId};
use crate::types::FunctionName;

/// The node's slots.
#[derive(Clone)]
pub(super) struct Slots(Arc<Shared>);

struct Shared {
    ledger: Mutex<Ledger>,
    /// Calls that wait for memory in the middle of their run.
    stalled: AtomicU32,
    /// Wakes one of them: memory was given back, or an instance became idle.
    freed: Notify,
}

impl Slots {
    pub(super) fn new(bounds: Bounds) -> Self {
        let ledger = Mutex::new(Ledger::new(bounds));
        Self(Arc::new(Shared { ledger, stalled: AtomicU32::new(0), freed: Notify::new() }))
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// Where instances or memory are used up, or the function's share of them.
    pub(super) fn reserve(&self, function: &FunctionName, bytes: u64, purpose: Purpose) -> Result<Slot, Full> {
        let id = self.with(|ledger| ledger.reserve(function, bytes, purpose))?;
        Ok(Slot(Arc::new(Place { id, slots: self.clone(), bytes: AtomicU64::new(bytes) })))
    }

    /// What is in use.
    pub(super) fn in_use(&self) -> Capacity {
        self.with(|ledger| ledger.in_use())
    }

    /// An instance became idle, or its memory was given back: a call that waits for memory looks again. Costs one load
    /// where none waits.
    pub(super) fn changed(&self) {
        if self.0.stalled.load(Ordering::Acquire) > 0 {
            self.0.freed.notify_one();
        }
    }

    /// Counts a call as waiting for memory until the answer is dropped.
    pub(super) fn stall(&self) -> Stalled<'_> {
        self.0.stalled.fetch_add(1, Ordering::AcqRel);
        Stalled(&self.0)
    }

    fn with<R>(&self, act: impl FnOnce(&mut Ledger) -> R) -> R {
        act(&mut self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See [`Slots::stall`].
pub(super) struct Stalled<'a>(&'a Shared);

impl Stalled<'_> {
    /// How many wait, this one among them.
    pub(super) fn count(&self) -> u32 {
        self.0.stalled.load(Ordering::Acquire)
    }

    /// Memory that was given back after this was called ends the answer's wait.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        let left = self.0.stalled.fetch_sub(1, Ordering::AcqRel) - 1;
        // One wake-up wakes one call. Where this call took less than there was, or gave up, the next one looks as well.
        if left > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// One place in the pool. It is shared by the instance, whose memory grows, and by its keeper; the last one to drop it
/// gives it back.
#[derive(Clone)]
pub(super) struct Slot(Arc<Place>);

struct Place {
    id: SlotId,
    slots: Slots,
    /// What the ledger holds for it.
    bytes: AtomicU64,
}

impl Slot {
    /// The instance's real size is known.
    pub(super) fn resize(&self, bytes: u64) {
        let Place { id, slots, bytes: held } = &*self.0;
        if held.load(Ordering::Acquire) != bytes {
            held.store(bytes, Ordering::Release);
            let resized = slots.with(|ledger| ledger.resized(*id, bytes));
            debug_assert!(resized.is_ok(), "a slot lives as long as its place");
            slots.changed();
        }
    }

    /// Takes room until the slot holds `bytes`; nothing where it holds as many already.
    ///
    /// # Errors
    /// Where the node's memory is used up, `Full::Never` where it could never be enough.
    pub(super) fn cover(&self, bytes: u64) -> Result<(), Full> {
        let Place { id, slots, bytes: held } = &*self.0;
        let more = bytes.saturating_sub(held.load(Ordering::Acquire));
        if more == 0 {
            return Ok(());
        }
        match slots.with(|ledger| ledger.grow(*id, more)) {
            Ok(()) => {
                held.fetch_add(more, Ordering::AcqRel);
                Ok(())
            }
            Err(NoGrowth::Full(full)) => Err(full),
            Err(NoGrowth::Stale(fault)) => unreachable!("a slot lives as long as its place: {fault}"),
        }
    }

    /// All slots of the node.
    pub(super) fn slots(&self) -> &Slots {
        &self.0.slots
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let released = self.slots.with(|ledger| ledger.release(self.id));
        debug_assert!(released.is_ok(), "a slot is dropped once");
        self.slots.changed();
    }
}
