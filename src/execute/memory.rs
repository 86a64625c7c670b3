//! What a guest holds of this machine's memory, and the two bounds on it: the function's own, and the node's.
//!
//! Counted are its linear memories, its tables, its copy of the environment, and what Wasmtime and the host keep for any
//! instance. Growth is asked for before it happens: what the function's limit refuses is told to the guest (`memory.grow`
//! answers -1), and a guest that grows past the node's budget is ended. Before that, idle instances are given up, and a call
//! waits for others to end. Must not: know what the memory is used for.

use std::sync::Weak;
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiterAsync;
use wasmtime_wasi::async_trait;

use super::slots::Slot;
use super::{Node, Outcomes};
use crate::pool::{Full, Purpose};
use crate::types::{FunctionDefinition, FunctionName, PoolUsage};

/// Most elements of one table: function pointers of large guests are well below it.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// A table's element: a pointer.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// What any instance takes beside its own memories and tables: its store, its stack, Wasmtime's own tables, the pages of a
/// slot that stay.
pub(super) const OVERHEAD_BYTES: u64 = 192 << 10;
/// What Wasmtime keeps in each instance for a function that may be called through a table or from outside.
const FUNCTION_BYTES: u64 = 32;
/// A variable of the environment, beside its text: two texts with their headers, each a piece of the heap.
const VARIABLE_BYTES: u64 = 48 + 2 * 16;
/// How long a call waits for memory (inclusive) while other calls run that may give some back.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The node has no memory for this guest.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeMemory {
    /// Not now: others hold it.
    #[error(
        "{asked_bytes} more bytes could not be had: other instances hold the node's memory for guests \
         (execute.memory-bytes-max)"
    )]
    UsedUp {
        /// What was asked for.
        asked_bytes: u64,
        /// The instance with it.
        bytes: u64,
    },
    /// The instance alone would pass the budget.
    #[error("the instance needs {bytes} bytes, and execute.memory-bytes-max of this node is {budget_bytes}")]
    Never {
        /// The instance's size.
        bytes: u64,
        /// The budget (inclusive).
        budget_bytes: u64,
    },
}

impl NodeMemory {
    fn of(full: &Full, asked_bytes: u64, bytes: u64) -> Self {
        match *full {
            Full::Never { bytes, budget_bytes, .. } => Self::Never { bytes, budget_bytes },
            Full::Instances { .. } | Full::Bytes { .. } | Full::Share { .. } => Self::UsedUp { asked_bytes, bytes },
        }
    }

    /// What the instance needs, where it may be had later.
    pub(super) fn needs_bytes(&self) -> Option<u64> {
        match *self {
            Self::UsedUp { bytes, .. } => Some(bytes),
            Self::Never { .. } => None,
        }
    }
}

/// Something that can give up idle instances. The executor does; a guest that grows knows it by this alone.
pub(super) trait Room: Send + Sync {
    /// Gives up one idle instance, so that `function` has more memory; false where none may be given up.
    fn make(&self, function: &FunctionName, purpose: Purpose) -> bool;

    /// Calls that run, and instances that are being prepared: whatever holds memory and will come to an end.
    fn running(&self) -> u32;

    /// Says that there was none.
    fn refused(&self, function: &FunctionName, fault: &NodeMemory);
}

/// One instance's account with the node.
pub(super) struct Account {
    function: FunctionName,
    slot: Slot,
    room: Weak<dyn Room>,
    purpose: Purpose,
    /// Whether a call runs: it may wait for memory. A preparation does not, as others wait for its turn.
    waits: bool,
}

impl Account {
    pub(super) fn new(function: FunctionName, slot: Slot, room: Weak<dyn Room>, purpose: Purpose) -> Self {
        Self { function, slot, room, purpose, waits: false }
    }

    /// Takes room until the account holds `bytes`; see [`wait`](Self::wait).
    async fn cover(&self, bytes: u64, asked_bytes: u64) -> Result<(), NodeMemory> {
        let Err(full) = self.take(bytes) else { return Ok(()) };
        let waited = if self.waits && !matches!(full, Full::Never { .. }) { self.wait(bytes).await } else { Err(full) };
        waited.map_err(|full| {
            let fault = NodeMemory::of(&full, asked_bytes, bytes);
            if let Some(room) = self.room.upgrade() {
                room.refused(&self.function, &fault);
            }
            fault
        })
    }

    /// Where others hold it, the call waits for up to [`WAIT_MAX`], unless all calls that run wait as well: then it gives up
    /// at once, and what it held lets another go on.
    async fn wait(&self, bytes: u64) -> Result<(), Full> {
        let stalled = self.slot.slots().stall();
        let until = Instant::now() + WAIT_MAX;
        loop {
            // Heard from before the next look on: what is given back in between is not missed.
            let mut freed = std::pin::pin!(stalled.freed());
            freed.as_mut().enable();
            let Err(full) = self.take(bytes) else { return Ok(()) };
            let running = self.room.upgrade().map_or(0, |room| room.running());
            let hopeless = running <= stalled.count();
            if hopeless || tokio::time::timeout_at(until.into(), freed).await.is_err() {
                return Err(full);
            }
        }
    }

    /// Bounded: each round ends, or takes one of a bounded number of instances away.
    fn take(&self, bytes: u64) -> Result<(), Full> {
        loop {
            let full = match self.slot.cover(bytes) {
                Ok(()) => return Ok(()),
                Err(full @ Full::Never { .. }) => return Err(full),
                Err(full) => full,
            };
            if !self.room.upgrade().is_some_and(|room| room.make(&self.function, self.purpose)) {
                return Err(full);
            }
        }
    }
}

/// Counts the memory of one guest; see the head of this file.
pub(super) struct GuestMemory {
    limit_bytes: u64,
    /// Over all its linear memories: the function's limit is on them.
    linear_bytes: u64,
    table_bytes: u64,
    /// What does not change while it lives.
    fixed_bytes: u64,
    /// The growth that was granted last: it may fail still.
    granted_bytes: u64,
    /// The function's limit refused the guest memory, and none was granted since.
    refused: bool,
    account: Account,
}

impl GuestMemory {
    /// `functions` are those of the guest's module, as far as they can be seen.
    pub(super) fn new(definition: &FunctionDefinition, functions: usize, account: Account) -> Self {
        let variables = definition.environment.iter().map(|(name, value)| VARIABLE_BYTES + heap(name) + heap(value));
        Self {
            limit_bytes: definition.limits.memory_bytes,
            linear_bytes: 0,
            table_bytes: 0,
            fixed_bytes: OVERHEAD_BYTES + variables.sum::<u64>() + functions as u64 * FUNCTION_BYTES,
            granted_bytes: 0,
            refused: false,
            account,
        }
    }

    /// All that the guest holds, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.linear_bytes + self.table_bytes + self.fixed_bytes
    }

    /// A call begins: it is refused nothing yet, and may wait for memory.
    pub(super) fn call_begins(&mut self) {
        self.refused = false;
        self.account.waits = true;
        self.account.purpose = Purpose::Call;
    }

    /// The function's limit, in bytes (inclusive), where it refused the guest memory and the guest got none since.
    pub(super) fn refused(&self) -> Option<u64> {
        self.refused.then_some(self.limit_bytes)
    }
}

/// A text of this many bytes on the heap.
fn heap(text: &str) -> u64 {
    (text.len() as u64).next_multiple_of(16).max(16)
}

#[async_trait]
impl ResourceLimiterAsync for GuestMemory {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        if self.linear_bytes.saturating_add(more) > self.limit_bytes {
            self.refused = true;
            return Ok(false);
        }
        self.account.cover(self.bytes() + more, more).await?;
        self.linear_bytes += more;
        self.granted_bytes = more;
        self.refused = false;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // The growth was granted above and then failed below us (the pool's slot is smaller): the guest sees -1 too. What is
        // over in its account is given back when the call ends.
        self.linear_bytes -= std::mem::take(&mut self.granted_bytes);
        self.refused = true;
        Ok(())
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64 * TABLE_ELEMENT_BYTES;
        self.account.cover(self.bytes() + more, more).await?;
        self.table_bytes += more;
        self.granted_bytes = more;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.table_bytes -= std::mem::take(&mut self.granted_bytes);
        Ok(())
    }
}

impl<O: Outcomes> Room for Node<O> {
    fn make(&self, function: &FunctionName, purpose: Purpose) -> bool {
        // Its own idle instances first: whoever needs the memory gives up its own warmth for it.
        let own = || self.find(function.as_str())?.state().shelf.retire();
        let evicted = if purpose == Purpose::Call { own() } else { None };
        let Some(evicted) = evicted.or_else(|| self.evict_for(function, purpose)) else { return false };
        self.metrics.instances_evicted.add(1);
        drop(evicted);
        true
    }

    fn running(&self) -> u32 {
        let of = |usage: PoolUsage| usage.busy.saturating_add(usage.preparing);
        self.all().iter().fold(0, |sum, function| sum.saturating_add(of(function.state().shelf.usage(0))))
    }

    fn refused(&self, function: &FunctionName, fault: &NodeMemory) {
        self.metrics.memory_refused.add(1);
        tracing::warn!(%function, %fault, "the node has no memory for an instance that grows");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::execute::slots::Slots;
    use crate::pool::{Bounds, Capacity};
    use crate::types::{Artifact, FunctionKind, Sha256};

    const PAGE: usize = 65_536;

    /// Idle instances that may be given up, and how many calls run.
    #[derive(Default)]
    struct Idle {
        slots: Mutex<Vec<Slot>>,
        running: AtomicU32,
        refused: AtomicU32,
    }

    impl Room for Idle {
        fn make(&self, _function: &FunctionName, _purpose: Purpose) -> bool {
            self.slots.lock().unwrap().pop().is_some()
        }

        fn running(&self) -> u32 {
            self.running.load(Ordering::Relaxed)
        }

        fn refused(&self, _function: &FunctionName, _fault: &NodeMemory) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn name() -> FunctionName {
        FunctionName::new("orders").unwrap()
    }

    /// A guest with a memory limit of three pages, in a slot that holds `bytes`.
    fn guest(slots: &Slots, idle: &Arc<Idle>, bytes: u64) -> GuestMemory {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new(name(), "1", artifact, FunctionKind::Component);
        definition.limits.memory_bytes = 3 * PAGE as u64;
        let idle: Arc<dyn Room> = Arc::clone(idle) as _;
        let slot = slots.reserve(&name(), bytes, Purpose::Call).unwrap();
        GuestMemory::new(&definition, 0, Account::new(name(), slot, Arc::downgrade(&idle), Purpose::Call))
    }

    fn slots(bytes: u64) -> (Slots, Arc<Idle>) {
        (Slots::new(Bounds::whole(Capacity { instances: 9, bytes })), Arc::default())
    }

    async fn grow(guest: &mut GuestMemory, from: usize, to: usize) -> Result<bool, String> {
        guest.memory_growing(from * PAGE, to * PAGE, None).await.map_err(|fault| fault.to_string())
    }

    #[tokio::test]
    async fn memory_adds_up_over_several_memories_and_stops_at_the_functions_limit() {
        let (slots, idle) = slots(1 << 30);
        let mut guest = guest(&slots, &idle, 0);
        assert_eq!(grow(&mut guest, 0, 1).await, Ok(true));
        assert_eq!(grow(&mut guest, 0, 2).await, Ok(true));
        assert_eq!((guest.bytes(), guest.refused()), (OVERHEAD_BYTES + 3 * PAGE as u64, None));
        assert_eq!(slots.in_use().bytes, guest.bytes());
        assert_eq!(grow(&mut guest, 1, 2).await, Ok(false));
        assert_eq!((guest.bytes(), guest.refused()), (OVERHEAD_BYTES + 3 * PAGE as u64, Some(3 * PAGE as u64)));
        guest.call_begins();
        assert_eq!(guest.refused(), None);
    }

    #[tokio::test]
    async fn growth_that_fails_below_is_not_counted_and_counts_as_refused() {
        let (slots, idle) = slots(1 << 30);
        let mut guest = guest(&slots, &idle, 0);
        assert_eq!(grow(&mut guest, 0, 1).await, Ok(true));
        assert_eq!(grow(&mut guest, 1, 3).await, Ok(true));
        guest.memory_grow_failed(wasmtime::Error::msg("the slot is smaller")).unwrap();
        assert_eq!((guest.bytes(), guest.refused()), (OVERHEAD_BYTES + PAGE as u64, Some(3 * PAGE as u64)));
        assert_eq!(grow(&mut guest, 1, 2).await, Ok(true));
        assert_eq!(guest.refused(), None, "it got memory since");
    }

    #[tokio::test]
    async fn tables_and_the_environment_are_counted() {
        let (slots, idle) = slots(1 << 30);
        let mut guest = guest(&slots, &idle, 0);
        assert!(guest.table_growing(0, 100_000, None).await.unwrap());
        assert!(guest.table_growing(0, 50_000, None).await.unwrap());
        assert!(!guest.table_growing(50_000, 100_001, None).await.unwrap());
        assert_eq!(guest.bytes(), OVERHEAD_BYTES + 8 * 150_000);
        assert_eq!(slots.in_use().bytes, guest.bytes());
        guest.table_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(guest.bytes(), OVERHEAD_BYTES + 8 * 100_000);

        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new(name(), "1", artifact, FunctionKind::Component);
        definition.environment.insert("NAME".to_owned(), "x".repeat(100));
        let room: Weak<Idle> = Weak::new();
        let account = Account::new(name(), slots.reserve(&name(), 0, Purpose::Call).unwrap(), room, Purpose::Call);
        let counted = GuestMemory::new(&definition, 1_000, account).bytes() - OVERHEAD_BYTES;
        assert_eq!(counted, VARIABLE_BYTES + 16 + 112 + 32_000);
    }

    #[tokio::test]
    async fn what_is_reserved_is_used_first_and_idle_instances_go_next() {
        let budget = OVERHEAD_BYTES + 3 * PAGE as u64;
        let (slots, idle) = slots(budget);
        let mut guest = guest(&slots, &idle, OVERHEAD_BYTES + PAGE as u64);
        idle.slots.lock().unwrap().push(slots.reserve(&name(), PAGE as u64, Purpose::Call).unwrap());
        idle.slots.lock().unwrap().push(slots.reserve(&name(), PAGE as u64, Purpose::Call).unwrap());
        assert_eq!(grow(&mut guest, 0, 1).await, Ok(true));
        assert_eq!((slots.in_use().bytes, idle.slots.lock().unwrap().len()), (budget, 2));
        assert_eq!(grow(&mut guest, 1, 2).await, Ok(true));
        assert_eq!((slots.in_use().bytes, idle.slots.lock().unwrap().len()), (budget, 1));
        assert_eq!(grow(&mut guest, 2, 3).await, Ok(true));
        assert_eq!((slots.in_use().bytes, idle.slots.lock().unwrap().len()), (budget, 0));
    }

    #[tokio::test]
    async fn an_instance_that_the_budget_cannot_hold_is_ended_at_once() {
        let (slots, idle) = slots(OVERHEAD_BYTES + PAGE as u64);
        let mut guest = guest(&slots, &idle, 0);
        guest.call_begins();
        idle.running.store(9, Ordering::Relaxed);
        assert_eq!(grow(&mut guest, 0, 1).await, Ok(true));
        let said = grow(&mut guest, 1, 2).await.unwrap_err();
        let needs = OVERHEAD_BYTES + 2 * PAGE as u64;
        let budget = OVERHEAD_BYTES + PAGE as u64;
        assert_eq!(
            said,
            format!("the instance needs {needs} bytes, and execute.memory-bytes-max of this node is {budget}")
        );
        assert_eq!((guest.bytes(), slots.in_use().bytes), (budget, budget));
    }

    #[tokio::test]
    async fn a_call_waits_for_others_and_gives_up_where_all_of_them_wait() {
        let (slots, idle) = slots(OVERHEAD_BYTES + 2 * PAGE as u64);
        let mut guest = guest(&slots, &idle, 0);
        let other = slots.reserve(&name(), PAGE as u64, Purpose::Call).unwrap();
        assert_eq!(grow(&mut guest, 0, 1).await, Ok(true));
        // A preparation does not wait.
        idle.running.store(2, Ordering::Relaxed);
        assert!(grow(&mut guest, 1, 2).await.is_err());
        // Nobody runs but this call, and it waits itself.
        guest.call_begins();
        idle.running.store(1, Ordering::Relaxed);
        let said = grow(&mut guest, 1, 2).await.unwrap_err();
        assert!(
            said.starts_with("65536 more bytes could not be had: other instances hold the node's memory"),
            "{said}"
        );
        assert_eq!(idle.refused.load(Ordering::Relaxed), 2);
        // The other call ends.
        idle.running.store(2, Ordering::Relaxed);
        let (grown, ()) = tokio::join!(grow(&mut guest, 1, 2), async {
            tokio::task::yield_now().await;
            drop(other);
        });
        assert_eq!(grown, Ok(true));
        assert_eq!(slots.in_use().bytes, OVERHEAD_BYTES + 2 * PAGE as u64);
    }
}
