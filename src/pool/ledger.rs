//! The ledger of slots: which function holds how many instances and bytes, within the bounds of the node, of one function, and
//! of work ahead.
//!
//! Must not: choose who has to go; it only says that there is no room, and by which bound. Every call is O(1).

use std::collections::HashMap;

use super::Purpose;
use crate::types::FunctionName;

/// A number of instances and their bytes: a bound (inclusive), or what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Instances: being prepared, ready and busy.
    pub instances: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// How much may be held (each inclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bounds {
    /// By all functions. 0 means none, not without bound.
    pub all: Capacity,
    /// By one function; but a function that holds nothing gets one instance, however large.
    pub function: Capacity,
    /// By all functions, where the instance is for no call: the rest is kept for calls of functions that have none ready.
    pub ahead: Capacity,
}

/// The part of the pool that is kept for calls: as much of it as this divisor says, rounded up.
const KEPT_FOR_CALLS: u32 = 10;

impl Bounds {
    /// The bounds of a pool of which one function may hold `function_share` (above 0.0, at most 1.0), rounded up.
    ///
    /// A tenth (rounded up) is kept for calls, so that floors can never fill the pool; nothing of a pool of one instance.
    pub fn of(all: Capacity, function_share: f64) -> Self {
        let share = |whole: u64| (whole as f64 * function_share.clamp(0.0, 1.0)).ceil() as u64;
        let instances = u32::try_from(share(all.instances.into())).unwrap_or(u32::MAX).min(all.instances);
        let function = Capacity { instances, bytes: share(all.bytes).min(all.bytes) };
        let kept = if all.instances > 1 { all.instances.div_ceil(KEPT_FOR_CALLS) } else { 0 };
        let bytes = all.bytes - all.bytes / u64::from(KEPT_FOR_CALLS);
        Self { all, function, ahead: Capacity { instances: all.instances - kept, bytes } }
    }

    /// Bounds of the whole alone.
    pub fn whole(all: Capacity) -> Self {
        Self { all, function: all, ahead: all }
    }
}

/// One place in the ledger, from [`Ledger::reserve`] to [`Ledger::release`]. Never given out twice: after its release it
/// stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    index: u32,
    /// How often the place had been given out before.
    tenancy: u64,
}

/// Why there is no room for another instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Every slot is taken: drop one instance, or wait for one.
    #[error("no slot for an instance of {function}: all {instances} are taken; retire one or raise the instance limit")]
    Instances {
        /// Who asked.
        function: FunctionName,
        /// The bound, reached.
        instances: u32,
    },
    /// The bytes do not fit beside what is there: drop instances until at least `short_bytes` are free.
    #[error(
        "no memory for an instance of {function}: {bytes} bytes asked, {short_bytes} more than are free; retire \
         instances or raise the memory budget"
    )]
    Bytes {
        /// Who asked.
        function: FunctionName,
        /// What was asked for.
        bytes: u64,
        /// How many bytes are missing.
        short_bytes: u64,
    },
    /// The function holds its share: a call of it waits for an instance of its own.
    #[error(
        "no slot for an instance of {function}: it holds {instances} instances of {bytes} bytes, the share of one function \
         (execute.function-instances-share-max)"
    )]
    Share {
        /// Who asked.
        function: FunctionName,
        /// What it holds.
        instances: u32,
        /// What these hold.
        bytes: u64,
    },
    /// The instance is larger than the whole budget: dropping others does not help.
    #[error(
        "an instance of {function} needs {bytes} bytes and the memory budget is {budget_bytes}: raise the budget or \
         lower the function's need"
    )]
    Never {
        /// Who asked.
        function: FunctionName,
        /// What was asked for.
        bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
}

/// Why an instance may not grow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGrowth {
    /// The bytes do not fit, [`Full::Bytes`] now or [`Full::Never`].
    #[error(transparent)]
    Full(#[from] Full),
    /// A fault in the caller's bookkeeping.
    #[error(transparent)]
    Stale(#[from] StaleSlot),
}

/// A slot was used after its release: a fault in the caller's bookkeeping. The ledger has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {} was released before (tenancy {}): an instance is accounted for twice", slot.index, slot.tenancy)]
pub struct StaleSlot {
    /// The slot.
    pub slot: SlotId,
}

#[derive(Debug)]
struct Place {
    tenancy: u64,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    function: FunctionName,
    bytes: u64,
}

/// A sum that is exact whatever sizes are reported: 2³² instances of 2⁶⁴ bytes do not fill it.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    instances: u32,
    bytes: u128,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.instances += 1;
        self.bytes += u128::from(bytes);
    }

    fn remove(&mut self, bytes: u64) {
        self.instances -= 1;
        self.bytes -= u128::from(bytes);
    }

    fn resize(&mut self, from: u64, to: u64) {
        self.bytes = self.bytes - u128::from(from) + u128::from(to);
    }

    fn read(self) -> Capacity {
        Capacity { instances: self.instances, bytes: u64::try_from(self.bytes).unwrap_or(u64::MAX) }
    }
}

/// The accounts of every instance on this node. Its own size is bounded by the most instances ever held at once.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    places: Vec<Place>,
    /// Indices of empty places; the last one emptied is taken first.
    empty: Vec<u32>,
    sum: Sum,
    /// Functions that hold at least one instance.
    functions: HashMap<FunctionName, Sum>,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, places: Vec::new(), empty: Vec::new(), sum: Sum::default(), functions: HashMap::new() }
    }

    /// Takes a slot for a new instance of `function`, of about `bytes` bytes.
    ///
    /// # Errors
    /// Where a bound would be passed; nothing is taken then. Of two bounds the one is named that asks more of the caller:
    /// `Never`, then `Share`, then `Instances`, then `Bytes`.
    pub fn reserve(&mut self, function: &FunctionName, bytes: u64, purpose: Purpose) -> Result<SlotId, Full> {
        self.check_room(function, bytes, purpose)?;
        let held = Some(Held { function: function.clone(), bytes });
        let slot = match self.empty.pop() {
            Some(index) => {
                let place = &mut self.places[index as usize];
                place.tenancy += 1;
                place.held = held;
                SlotId { index, tenancy: place.tenancy }
            }
            None => {
                // Every place is taken, so there are as many as instances: fewer than `capacity.instances`, a u32.
                let index = self.sum.instances;
                self.places.push(Place { tenancy: 0, held });
                SlotId { index, tenancy: 0 }
            }
        };
        self.sum.add(bytes);
        match self.functions.get_mut(function) {
            Some(sum) => sum.add(bytes),
            None => self.functions.entry(function.clone()).or_default().add(bytes),
        }
        Ok(slot)
    }

    fn check_room(&self, function: &FunctionName, bytes: u64, purpose: Purpose) -> Result<(), Full> {
        let budget_bytes = self.bounds.all.bytes;
        let held = self.functions.get(function).copied().unwrap_or_default();
        let function = || function.clone();
        if bytes > budget_bytes {
            return Err(Full::Never { function: function(), bytes, budget_bytes });
        }
        let share = self.bounds.function;
        let bytes_after = held.bytes + u128::from(bytes);
        if held.instances > 0 && (held.instances >= share.instances || bytes_after > u128::from(share.bytes)) {
            let Capacity { instances, bytes } = held.read();
            return Err(Full::Share { function: function(), instances, bytes });
        }
        let room = if purpose == Purpose::Call { self.bounds.all } else { self.bounds.ahead };
        let Capacity { instances, bytes: budget_bytes } = room;
        if self.sum.instances >= instances {
            return Err(Full::Instances { function: function(), instances });
        }
        let over = (self.sum.bytes + u128::from(bytes)).saturating_sub(u128::from(budget_bytes));
        if over > 0 {
            let short_bytes = u64::try_from(over).unwrap_or(u64::MAX);
            return Err(Full::Bytes { function: function(), bytes, short_bytes });
        }
        Ok(())
    }

    /// Takes room for `more_bytes` more of an instance that is about to grow.
    ///
    /// # Errors
    /// Where the budget of the node would be passed, or the slot was released before; nothing is taken then. The share of its
    /// function bounds which instances are made, and not how far one that runs grows.
    pub fn grow(&mut self, slot: SlotId, more_bytes: u64) -> Result<(), NoGrowth> {
        let budget_bytes = self.bounds.all.bytes;
        let held = Self::held(&mut self.places, slot)?.as_mut().ok_or(StaleSlot { slot })?;
        let bytes = held.bytes.saturating_add(more_bytes);
        if bytes > budget_bytes {
            return Err(Full::Never { function: held.function.clone(), bytes, budget_bytes }.into());
        }
        let over = (self.sum.bytes + u128::from(more_bytes)).saturating_sub(u128::from(budget_bytes));
        if over > 0 {
            let short_bytes = u64::try_from(over).unwrap_or(u64::MAX);
            return Err(Full::Bytes { function: held.function.clone(), bytes: more_bytes, short_bytes }.into());
        }
        self.resized(slot, bytes)?;
        Ok(())
    }

    /// Notes the real size of an instance: the estimate was wrong. This may pass the budget, since the memory is in use
    /// already; [`over_budget`](Self::over_budget) then says by how much.
    ///
    /// # Errors
    /// Where the slot was released before.
    pub fn resized(&mut self, slot: SlotId, bytes: u64) -> Result<(), StaleSlot> {
        let held = Self::held(&mut self.places, slot)?.as_mut().ok_or(StaleSlot { slot })?;
        let before = std::mem::replace(&mut held.bytes, bytes);
        self.sum.resize(before, bytes);
        if let Some(sum) = self.functions.get_mut(&held.function) {
            sum.resize(before, bytes);
        }
        Ok(())
    }

    /// Gives a slot back: its instance is dropped, or was never made.
    ///
    /// # Errors
    /// Where the slot was released before.
    pub fn release(&mut self, slot: SlotId) -> Result<(), StaleSlot> {
        let Held { function, bytes } = Self::held(&mut self.places, slot)?.take().ok_or(StaleSlot { slot })?;
        self.empty.push(slot.index);
        self.sum.remove(bytes);
        if let Some(sum) = self.functions.get_mut(&function) {
            sum.remove(bytes);
            if sum.instances == 0 {
                self.functions.remove(&function);
            }
        }
        Ok(())
    }

    fn held(places: &mut [Place], slot: SlotId) -> Result<&mut Option<Held>, StaleSlot> {
        let place = places.get_mut(slot.index as usize).filter(|place| place.tenancy == slot.tenancy);
        place.map(|place| &mut place.held).ok_or(StaleSlot { slot })
    }

    /// The bounds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// What all functions hold.
    pub fn in_use(&self) -> Capacity {
        self.sum.read()
    }

    /// What one function holds.
    pub fn of(&self, function: &FunctionName) -> Capacity {
        self.functions.get(function).copied().unwrap_or_default().read()
    }

    /// Functions that hold at least one instance.
    pub fn functions(&self) -> usize {
        self.functions.len()
    }

    /// Bytes in use above the budget; 0 within it.
    pub fn over_budget(&self) -> u64 {
        let over = self.sum.bytes.saturating_sub(u128::from(self.bounds.all.bytes));
        u64::try_from(over).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> FunctionName {
        FunctionName::new(text).unwrap()
    }

    #[test]
    fn slots_and_bytes_come_and_go() {
        let mut ledger = Ledger::new(Bounds::whole(Capacity { instances: 3, bytes: 100 }));
        let (a, b) = (name("a"), name("b"));
        let first = ledger.reserve(&a, 40, Purpose::Call).unwrap();
        let second = ledger.reserve(&b, 30, Purpose::Call).unwrap();
        assert_eq!(ledger.in_use(), Capacity { instances: 2, bytes: 70 });
        assert_eq!(ledger.of(&a), Capacity { instances: 1, bytes: 40 });
        ledger.resized(first, 45).unwrap();
        assert_eq!(ledger.of(&a), Capacity { instances: 1, bytes: 45 });
        ledger.release(first).unwrap();
        assert_eq!((ledger.of(&a), ledger.functions()), (Capacity::default(), 1));
        ledger.release(second).unwrap();
        assert_eq!((ledger.in_use(), ledger.functions()), (Capacity::default(), 0));
    }

    #[test]
    fn each_bound_is_named_and_is_inclusive() {
        let mut ledger = Ledger::new(Bounds::whole(Capacity { instances: 2, bytes: 100 }));
        let (a, b) = (name("a"), name("b"));
        assert_eq!(
            ledger.reserve(&a, 101, Purpose::Call),
            Err(Full::Never { function: a.clone(), bytes: 101, budget_bytes: 100 })
        );
        let first = ledger.reserve(&a, 60, Purpose::Call).unwrap();
        assert_eq!(
            ledger.reserve(&b, 41, Purpose::Call),
            Err(Full::Bytes { function: b.clone(), bytes: 41, short_bytes: 1 })
        );
        ledger.reserve(&b, 40, Purpose::Call).unwrap();
        assert_eq!(
            ledger.reserve(&name("c"), 0, Purpose::Call),
            Err(Full::Instances { function: name("c"), instances: 2 })
        );
        assert_eq!(ledger.in_use(), Capacity { instances: 2, bytes: 100 });
        ledger.release(first).unwrap();
        assert!(ledger.reserve(&a, 60, Purpose::Call).is_ok());
        assert!(Ledger::new(Bounds::default()).reserve(&a, 0, Purpose::Call).is_err());
    }

    #[test]
    fn a_released_slot_stands_for_nothing() {
        let mut ledger = Ledger::new(Bounds::whole(Capacity { instances: 1, bytes: 100 }));
        let a = name("a");
        let old = ledger.reserve(&a, 10, Purpose::Call).unwrap();
        ledger.release(old).unwrap();
        assert_eq!(ledger.release(old), Err(StaleSlot { slot: old }));
        // The place has a new tenant now; the old id must not reach it.
        let new = ledger.reserve(&a, 20, Purpose::Call).unwrap();
        assert_ne!(old, new);
        assert_eq!(ledger.release(old), Err(StaleSlot { slot: old }));
        assert_eq!(ledger.resized(old, 99), Err(StaleSlot { slot: old }));
        assert_eq!(ledger.in_use(), Capacity { instances: 1, bytes: 20 });
    }

    #[test]
    fn growth_may_pass_the_budget_and_is_told() {
        let mut ledger = Ledger::new(Bounds::whole(Capacity { instances: 4, bytes: 100 }));
        let a = name("a");
        let first = ledger.reserve(&a, 50, Purpose::Call).unwrap();
        let second = ledger.reserve(&a, 50, Purpose::Call).unwrap();
        ledger.resized(first, 130).unwrap();
        assert_eq!((ledger.over_budget(), ledger.in_use().bytes), (80, 180));
        let b = name("b");
        assert_eq!(
            ledger.reserve(&b, 0, Purpose::Call),
            Err(Full::Bytes { function: b.clone(), bytes: 0, short_bytes: 80 })
        );
        ledger.resized(first, u64::MAX).unwrap();
        ledger.resized(second, u64::MAX).unwrap();
        assert_eq!((ledger.over_budget(), ledger.of(&a).bytes), (u64::MAX, u64::MAX));
        ledger.resized(second, 1).unwrap();
        ledger.release(first).unwrap();
        assert_eq!((ledger.over_budget(), ledger.in_use().bytes), (0, 1));
    }

    #[test]
    fn growth_that_is_asked_for_stays_within_the_budget() {
        let mut ledger = Ledger::new(Bounds::whole(Capacity { instances: 2, bytes: 100 }));
        let a = name("a");
        let mut reserve = |bytes| ledger.reserve(&a, bytes, Purpose::Call).unwrap();
        let (first, second) = (reserve(30), reserve(20));
        assert_eq!(ledger.grow(first, 50), Ok(()));
        let short = Full::Bytes { function: a.clone(), bytes: 1, short_bytes: 1 };
        assert_eq!(ledger.grow(second, 1), Err(short.into()));
        let never = Full::Never { function: a.clone(), bytes: 101, budget_bytes: 100 };
        assert_eq!(ledger.grow(first, 21), Err(never.into()));
        assert_eq!(ledger.of(&a), Capacity { instances: 2, bytes: 100 });
        ledger.release(first).unwrap();
        assert_eq!(ledger.grow(second, 80), Ok(()));
        assert_eq!(ledger.grow(first, 0), Err(StaleSlot { slot: first }.into()));
        assert_eq!(ledger.in_use(), Capacity { instances: 1, bytes: 100 });
    }

    #[test]
    fn the_messages_say_what_to_do() {
        let mut ledger = Ledger::new(Bounds::whole(Capacity { instances: 1, bytes: 10 }));
        let refused = ledger.reserve(&name("mail"), 11, Purpose::Call).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "an instance of mail needs 11 bytes and the memory budget is 10: raise the budget or lower the function's need"
        );
    }

    #[test]
    fn one_function_has_its_share_and_work_ahead_leaves_room_for_calls() {
        let bounds = Bounds::of(Capacity { instances: 11, bytes: 100 }, 0.5);
        assert_eq!(bounds.function, Capacity { instances: 6, bytes: 50 });
        assert_eq!(bounds.ahead, Capacity { instances: 9, bytes: 90 });
        let mut ledger = Ledger::new(bounds);
        let (a, b) = (name("a"), name("b"));
        for _ in 0..6 {
            ledger.reserve(&a, 1, Purpose::Call).unwrap();
        }
        let full = Full::Share { function: a.clone(), instances: 6, bytes: 6 };
        assert_eq!(ledger.reserve(&a, 1, Purpose::Call), Err(full));
        for _ in 0..3 {
            ledger.reserve(&b, 1, Purpose::Warmth).unwrap();
        }
        assert_eq!(ledger.reserve(&b, 1, Purpose::Warmth), Err(Full::Instances { function: b.clone(), instances: 9 }));
        assert!(ledger.reserve(&b, 1, Purpose::Call).is_ok());
    }

    #[test]
    fn a_function_that_holds_nothing_gets_one_instance_however_large() {
        let mut ledger = Ledger::new(Bounds::of(Capacity { instances: 10, bytes: 100 }, 0.5));
        let a = name("a");
        ledger.reserve(&a, 80, Purpose::Call).unwrap();
        let full = Full::Share { function: a.clone(), instances: 1, bytes: 80 };
        assert_eq!(ledger.reserve(&a, 1, Purpose::Call), Err(full));
        assert_eq!(Bounds::of(Capacity { instances: 1, bytes: 9 }, 0.5).ahead.instances, 1);
    }
}
