//! Between ingest and the executor: carries out what [`Backlog`] says of the order of calls and of failed ones.
//!
//! Calls of functions without order and retries, which is most, pass through with one look at a number. A call that waits
//! for those before it, or for its next attempt, holds no instance and no thread; ingest goes on counting it as in flight,
//! which bounds how many there are. Must not: decide when to try again or who is next; `backlog` does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use super::outbox::{Outbox, Ticket};
use super::plane::Clock;
use super::unknown::Unknown;
use crate::backlog::{Backlog, Ended, Held, LineKey, Policies, Terms};
use crate::execute::{Call, Executor};
use crate::telemetry::Metrics;
use crate::types::{FunctionDefinition, FunctionName, Invocation, Status};

impl Held for Call<Ticket> {
    fn terms(&self) -> &Terms {
        &self.ticket.terms
    }

    fn partition(&self) -> Option<i32> {
        self.ticket.position.map(|position| position.partition)
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn next_attempt(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
    }
}

/// See the head of this file. Shared by the threads that receive, run and try again.
pub struct Delivery {
    /// Itself, for those whom it hands to others.
    me: Weak<Self>,
    executor: OnceLock<Executor<Arc<Outbox>>>,
    unknown: OnceLock<Unknown>,
    policies: RwLock<Policies>,
    /// How many there are: nearly always asked first.
    policies_len: AtomicUsize,
    desk: Mutex<Desk>,
    changed: Condvar,
    clock: Clock,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Desk {
    backlog: Backlog<Call<Ticket>>,
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
            desk: Mutex::default(),
            changed: Condvar::new(),
            clock: Clock::start(),
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
        self.change(|policies| policies.define(definition));
    }

    /// A function is no more.
    pub fn remove(&self, function: &FunctionName) {
        self.change(|policies| policies.remove(function));
    }

    fn change(&self, change: impl FnOnce(&mut Policies)) {
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut policies);
        self.policies_len.store(policies.len(), Atomic::Release);
    }

    /// The policies; None where no function has one.
    fn policies(&self) -> Option<RwLockReadGuard<'_, Policies>> {
        let any = self.policies_len.load(Atomic::Acquire) > 0;
        any.then(|| self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this call may end as a dead letter.
    pub fn tries_again(&self, invocation: &Invocation) -> bool {
        self.policies().is_some_and(|policies| policies.tries_again(&invocation.function))
    }

    /// Takes a call that was received.
    pub fn submit(&self, mut call: Call<Ticket>) {
        if let Some(policies) = self.policies() {
            let partition = call.ticket.position.map(|position| position.partition);
            call.ticket.terms = policies.terms(&call.invocation.function, call.ticket.key.as_deref(), partition);
        }
        if call.ticket.terms.line.is_none() {
            return self.hand_over(call);
        }
        // Bound first: handing over may run the call, and end it, right here.
        let goes_out = self.desk().backlog.enter(call);
        if let Some(call) = goes_out {
            self.hand_over(call);
        }
    }

    /// A call ended with `status`. Says whether it is over, and so this its outcome, or is tried again.
    pub fn ended(&self, call: Call<Ticket>, status: Status) -> Ended<Call<Ticket>> {
        let age = call.received_at.elapsed();
        let ended = self.desk().backlog.ended(self.clock.now(), call, status, age, chance());
        if matches!(ended, Ended::Again) {
            self.metrics.retries.add(1);
            self.changed.notify_one();
        }
        ended
    }

    /// The outcome of a call of this line is on its way: the next one may go out.
    pub fn leave(&self, line: &LineKey) {
        let next = self.desk().backlog.leave(line);
        if let Some(call) = next {
            self.let_go(call);
        }
    }

    /// Partitions went to another node: what waits here of their calls is run there.
    pub fn forget(&self, partitions: &[i32]) {
        let (dropped, go_out) = self.desk().backlog.forget(partitions);
        go_out.into_iter().for_each(|call| self.let_go(call));
        if dropped > 0 {
            tracing::info!(calls = dropped, ?partitions, "waiting calls go on where their partitions are now");
        }
    }

    /// No more attempts are begun.
    pub fn stop(&self) {
        self.desk().stopped = true;
        self.changed.notify_all();
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
        let mut desk = self.desk();
        while !desk.stopped {
            let now = self.clock.now();
            if let Some(call) = desk.backlog.due(now) {
                drop(desk);
                self.hand_over(call);
                desk = self.desk();
            } else if let Some(due) = desk.backlog.next_due() {
                desk = self.changed.wait_timeout(desk, due.since(now)).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number from 0.0 to below 1.0, that differs from call to call: the lowest bits of the time will do for spreading waits.
fn chance() -> f64 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Knuth's multiplicative hash, so that neighbours in time are not neighbours in chance.
    f64::from(nanos.subsec_nanos().wrapping_mul(2_654_435_761)) / (f64::from(u32::MAX) + 1.0)
}
