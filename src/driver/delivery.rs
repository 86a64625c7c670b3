//! Between ingest and the executor: what a function's definition says of the order of its calls and of failed ones.
//!
//! Calls of functions without order and retries, which is most, pass through with one look at a number. A call that waits
//! for those before it, or for its next attempt, holds no instance and no thread; ingest goes on counting it as in flight,
//! which bounds how many there are. Must not: decide when to try again (that is `retry`'s) or who is next (`order`'s).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::outbox::{Outbox, Ticket};
use super::unknown::Unknown;
use crate::execute::{Call, Executor};
use crate::order::Lines;
use crate::retry;
use crate::telemetry::Metrics;
use crate::types::{FunctionDefinition, FunctionName, Ordering, Retry, Status};

/// What calls of one line have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LineKey {
    /// A message key, of one function.
    Key(FunctionName, Box<[u8]>),
    /// A partition, of one function.
    Partition(FunctionName, i32),
}

/// What a definition says beyond the ordinary.
#[derive(Debug)]
struct Policy {
    ordering: Ordering,
    retry: Option<Arc<Retry>>,
}

/// See the head of this file. Shared by the threads that receive, run and try again.
pub struct Delivery {
    /// Itself, for those whom it hands to others.
    me: Weak<Self>,
    executor: OnceLock<Executor<Arc<Outbox>>>,
    unknown: OnceLock<Unknown>,
    policies: RwLock<HashMap<FunctionName, Policy>>,
    /// How many there are: nearly always asked first.
    policies_len: AtomicUsize,
    lines: Mutex<Lines<LineKey, Call<Ticket>>>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    metrics: Arc<Metrics>,
}

/// Calls that wait for their next attempt, by when that is due.
#[derive(Default)]
struct Waiting {
    calls: BTreeMap<(Instant, u64), Call<Ticket>>,
    serial: u64,
    stopped: bool,
}

thread_local! {
    /// Calls that were let go on this thread while another one was being handed over on it. Without this, a long line of
    /// short calls would be a deep stack.
    static LET_GO: RefCell<Option<VecDeque<Call<Ticket>>>> = const { RefCell::new(None) };
}

impl Delivery {
    /// Knows no function yet. [`connect`](Self::connect) has to follow before the first call.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            executor: OnceLock::new(),
            unknown: OnceLock::new(),
            policies: RwLock::default(),
            policies_len: AtomicUsize::new(0),
            lines: Mutex::default(),
            waiting: Mutex::default(),
            changed: Condvar::new(),
            metrics,
        })
    }

    /// Where calls go, and where those go that name no known function; and starts the thread that tries again.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn connect(self: &Arc<Self>, executor: Executor<Arc<Outbox>>, unknown: Unknown) -> std::io::Result<()> {
        // Set once: there is one service a process, and it is put together once.
        let _ = self.executor.set(executor);
        let _ = self.unknown.set(unknown);
        let delivery = Arc::clone(self);
        std::thread::Builder::new().name("retries".to_owned()).spawn(move || delivery.run())?;
        Ok(())
    }

    /// A function is defined, or defined anew. What waits already is not touched.
    pub fn define(&self, definition: &FunctionDefinition) {
        let retry = (definition.retry.attempts_max > 1).then(|| Arc::new(definition.retry.clone()));
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        if retry.is_some() || definition.ordering != Ordering::Unordered {
            policies.insert(definition.name.clone(), Policy { ordering: definition.ordering, retry });
        } else {
            policies.remove(&definition.name);
        }
        self.policies_len.store(policies.len(), Atomic::Release);
    }

    /// A function is no more.
    pub fn remove(&self, function: &FunctionName) {
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        policies.remove(function);
        self.policies_len.store(policies.len(), Atomic::Release);
    }

    /// Takes a call that was received.
    pub fn submit(&self, mut call: Call<Ticket>) {
        if self.policies_len.load(Atomic::Acquire) > 0 {
            self.mark(&mut call);
        }
        let Some(line) = call.ticket.line.clone() else { return self.hand_over(call) };
        // Bound first: handing over may run the call, and end it, right here.
        let goes_out = self.lines().enter(line, call);
        if let Some(call) = goes_out {
            self.hand_over(call);
        }
    }

    /// A call ended with `status`. Gives it back where it is not tried again, and so has this outcome.
    pub fn ended(&self, mut call: Call<Ticket>, status: Status) -> Option<Call<Ticket>> {
        let Some(policy) = &call.ticket.retry else { return Some(call) };
        let age = call.received_at.elapsed();
        let Some(wait) = retry::next(policy, status, call.attempt, age, chance()) else { return Some(call) };
        self.metrics.retries.add(1);
        call.attempt = call.attempt.saturating_add(1);
        let mut waiting = self.waiting();
        let serial = waiting.serial;
        waiting.serial += 1;
        waiting.calls.insert((Instant::now() + wait, serial), call);
        drop(waiting);
        self.changed.notify_one();
        None
    }

    /// The outcome of a call of this line is on its way: the next one may go out.
    pub fn leave(&self, line: &LineKey) {
        let next = self.lines().leave(line);
        if let Some(call) = next {
            self.let_go(call);
        }
    }

    /// Partitions went to another node: what waits here of their calls is run there.
    pub fn forget(&self, partitions: &[i32]) {
        let is_gone =
            |call: &Call<Ticket>| call.ticket.position.is_some_and(|position| partitions.contains(&position.partition));
        let mut dropped = self.lines().forget(is_gone);
        let mut waiting = self.waiting();
        let keys: Vec<_> = waiting.calls.iter().filter(|(_, call)| is_gone(call)).map(|(key, _)| *key).collect();
        let retries: Vec<_> = keys.iter().filter_map(|key| waiting.calls.remove(key)).collect();
        drop(waiting);
        for call in &retries {
            if let Some(line) = &call.ticket.line {
                self.leave(line);
            }
        }
        dropped.extend(retries);
        if !dropped.is_empty() {
            tracing::info!(calls = dropped.len(), ?partitions, "waiting calls go on where their partitions are now");
        }
    }

    /// No more attempts are begun.
    pub fn stop(&self) {
        self.waiting().stopped = true;
        self.changed.notify_all();
    }

    /// Says what the definition of its function asks for.
    fn mark(&self, call: &mut Call<Ticket>) {
        let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
        let Some(policy) = policies.get(&call.invocation.function) else { return };
        call.ticket.retry.clone_from(&policy.retry);
        let function = || call.invocation.function.clone();
        call.ticket.line = match (policy.ordering, &call.ticket.key, call.ticket.position) {
            (Ordering::Key, Some(key), _) => Some(LineKey::Key(function(), key.as_slice().into())),
            (Ordering::Partition, _, Some(position)) => Some(LineKey::Partition(function(), position.partition)),
            // Without a key there is nothing that it would have to follow.
            (Ordering::Unordered | Ordering::Key | Ordering::Partition, ..) => None,
        };
    }

    fn hand_over(&self, call: Call<Ticket>) {
        let Some(executor) = self.executor.get() else { return };
        let Err(call) = executor.submit(call) else { return };
        match self.unknown.get().filter(|_| !call.ticket.was_held) {
            Some(unknown) => unknown.hold(*call, &self.me),
            None => {
                let name = &call.invocation.function;
                let message = format!("function {name} is not registered: deploy it, or check the name");
                executor.reject(*call, "unknown_function", message);
            }
        }
    }

    /// Hands a call over, and those that its end lets go, one after another.
    fn let_go(&self, call: Call<Ticket>) {
        let is_outermost = LET_GO.with_borrow_mut(|queue| match queue {
            Some(queue) => {
                queue.push_back(call);
                false
            }
            None => {
                *queue = Some(VecDeque::from([call]));
                true
            }
        });
        if !is_outermost {
            return;
        }
        while let Some(call) = LET_GO.with_borrow_mut(|queue| queue.as_mut().and_then(VecDeque::pop_front)) {
            self.hand_over(call);
        }
        LET_GO.set(None);
    }

    /// The thread that begins attempts when they are due.
    fn run(&self) {
        let mut waiting = self.waiting();
        while !waiting.stopped {
            let now = Instant::now();
            let next = waiting.calls.first_key_value().map(|((due, _), _)| *due);
            match next {
                Some(due) if due <= now => {
                    let Some((_, call)) = waiting.calls.pop_first() else { continue };
                    drop(waiting);
                    self.hand_over(call);
                    waiting = self.waiting();
                }
                Some(due) => {
                    let (guard, _) =
                        self.changed.wait_timeout(waiting, due - now).unwrap_or_else(PoisonError::into_inner);
                    waiting = guard;
                }
                None => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines<LineKey, Call<Ticket>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number from 0.0 to below 1.0, that differs from call to call: the lowest bits of the time will do for spreading waits.
fn chance() -> f64 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Knuth's multiplicative hash, so that neighbours in time are not neighbours in chance.
    f64::from(nanos.subsec_nanos().wrapping_mul(2_654_435_761)) / (f64::from(u32::MAX) + 1.0)
}
