//! Between ingest and the executor: carries out what [`Backlog`] says of the order of calls and of failed ones.
//!
//! Calls of functions without order and retries, which is most, pass through with one look at a number. A call that waits
//! for those before it, or for its next attempt, holds no instance and no thread; ingest goes on counting it as in flight,
//! which bounds how many there are. Must not: decide when to try again or who is next; `backlog` does.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use super::outbox::{Outbox, Ticket};
use super::plane::Clock;
use super::unknown::Unknown;
use crate::backlog::{Backlog, Ended, Held, LineKey, Policies, Quotas, Terms};
use crate::execute::{Call, Executor};
use crate::telemetry::Metrics;
use crate::types::{FunctionDefinition, FunctionName, Invocation, Status, Timestamp};

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

    fn deadline(&self) -> Option<Timestamp> {
        self.invocation.deadline
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
    /// By function that the registry is asked about: the calls that came since.
    held: Mutex<HashMap<FunctionName, Vec<Call<Ticket>>>>,
    /// Whether there is such a function, which is asked first.
    any_held: AtomicBool,
    policies: RwLock<Policies>,
    /// Whether they say that every call is an ordinary one, which is asked first.
    all_ordinary: AtomicBool,
    desk: Mutex<Desk>,
    changed: Condvar,
    clock: Clock,
    metrics: Arc<Metrics>,
}

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
    pub fn new(quotas: Quotas, metrics: Arc<Metrics>) -> Arc<Self> {
        let quotas = Arc::new(quotas);
        let policies = Policies::new(Arc::clone(&quotas));
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            executor: OnceLock::new(),
            unknown: OnceLock::new(),
            held: Mutex::default(),
            any_held: AtomicBool::new(false),
            all_ordinary: AtomicBool::new(policies.are_ordinary()),
            policies: RwLock::new(policies),
            desk: Mutex::new(Desk { backlog: Backlog::new(quotas), stopped: false }),
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

    /// Other quotas hold from now on, for calls that come from now on and for those that wait for their turn.
    pub fn set_quotas(&self, quotas: Quotas) {
        let quotas = Arc::new(quotas);
        self.change(|policies| policies.set_quotas(Arc::clone(&quotas)));
        let mut out = Vec::new();
        self.desk().backlog.set_quotas(quotas, &mut out);
        self.let_go(out);
    }

    fn change(&self, change: impl FnOnce(&mut Policies)) {
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut policies);
        self.all_ordinary.store(policies.are_ordinary(), Atomic::Release);
    }

    /// The policies; None where every call is an ordinary one.
    fn policies(&self) -> Option<RwLockReadGuard<'_, Policies>> {
        let any = !self.all_ordinary.load(Atomic::Acquire);
        any.then(|| self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this call may end as a dead letter. Where its function is not known yet, it may.
    pub fn tries_again(&self, invocation: &Invocation) -> bool {
        self.policies().is_some_and(|policies| policies.tries_again(&invocation.function))
            || self.executor.get().is_some_and(|executor| !executor.knows(&invocation.function))
    }

    /// Takes a call that was received. While calls of its function are held, it goes behind them.
    pub fn submit(&self, call: Call<Ticket>) {
        if self.any_held.load(Atomic::Acquire) {
            let mut held = self.held();
            if let Some(behind) = held.get_mut(&call.invocation.function) {
                return behind.push(call);
            }
        }
        self.enter(call);
    }

    /// A call went out, and its function is not known: it waits for what the registry says, and those after it behind it.
    fn hold(&self, mut call: Call<Ticket>) {
        let mut out = Vec::new();
        let first = {
            let mut held = self.held();
            // It comes again as if for the first time.
            self.desk().backlog.withdraw(&call, &mut out);
            call.ticket.terms = Terms::default();
            match held.entry(call.invocation.function.clone()) {
                Entry::Occupied(mut behind) => {
                    behind.get_mut().push(call);
                    None
                }
                Entry::Vacant(behind) => {
                    behind.insert(Vec::new());
                    self.any_held.store(true, Atomic::Release);
                    Some(call)
                }
            }
        };
        if let Some(call) = first {
            self.ask(vec![call]);
        }
        self.let_go(out);
    }

    /// Asks the registry about calls of one function.
    fn ask(&self, calls: Vec<Call<Ticket>>) {
        match self.unknown.get() {
            Some(unknown) => unknown.hold(calls, &self.me),
            None => self.judge(calls),
        }
    }

    /// Calls of one function that were held: the registry has been read as far as it went when they came, or cannot be asked.
    /// Then those behind them; where there is still no such function, the registry is asked for them all at once.
    pub(super) fn judge(&self, calls: Vec<Call<Ticket>>) {
        let Some(function) = calls.first().map(|call| call.invocation.function.clone()) else { return };
        for mut call in calls {
            call.ticket.was_held = true;
            self.enter(call);
        }
        loop {
            let behind = {
                let mut held = self.held();
                let behind = held.get_mut(&function).map(std::mem::take).unwrap_or_default();
                if behind.is_empty() {
                    held.remove(&function);
                    self.any_held.store(!held.is_empty(), Atomic::Release);
                    return;
                }
                behind
            };
            if !self.executor.get().is_some_and(|executor| executor.knows(&function)) {
                return self.ask(behind);
            }
            behind.into_iter().for_each(|call| self.enter(call));
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<FunctionName, Vec<Call<Ticket>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, mut call: Call<Ticket>) {
        if let Some(policies) = self.policies() {
            let partition = call.ticket.position.map(|position| position.partition);
            call.ticket.terms = policies.terms(&call.invocation.function, call.ticket.key.as_deref(), partition);
        }
        if call.ticket.terms.are_ordinary() {
            return self.hand_over(call);
        }
        // Bound first: handing over may run the call, and end it, right here.
        let mut out = Vec::new();
        let refused = self.desk().backlog.enter(call, &mut out);
        out.into_iter().for_each(|call| self.hand_over(call));
        if let (Some(mut call), Some(executor)) = (refused, self.executor.get()) {
            let tenant = call.ticket.terms.tenant.as_deref().unwrap_or_default();
            let whose = if tenant.is_empty() { "functions without a tenant" } else { tenant };
            let message = format!("as many calls of {whose} wait for their turn as may (tenants.waiting-max)");
            // It has been in no line, so its end lets nobody go.
            call.ticket.terms = Terms::default();
            executor.reject(call, "tenant_quota", message);
        }
    }

    /// A call ended with `status`. Says whether it is over, and so this its outcome, or is tried again. Puts into `out` what may
    /// go out now: for [`let_go`](Self::let_go), once the outcome is on its way, as it may run on this very thread.
    pub fn ended(&self, call: Call<Ticket>, status: Status, out: &mut Vec<Call<Ticket>>) -> Ended<Call<Ticket>> {
        let age = call.received_at.elapsed();
        let ended = self.desk().backlog.ended(self.clock.now(), call, status, age, chance(), out);
        if matches!(ended, Ended::Again) {
            self.metrics.retries.add(1);
            self.changed.notify_one();
        }
        ended
    }

    /// A call that went out is not this node's any more: others may go in its place.
    pub fn withdraw(&self, call: &Call<Ticket>) {
        let mut out = Vec::new();
        self.desk().backlog.withdraw(call, &mut out);
        self.let_go(out);
    }

    /// The outcome of a call of this line is on its way: the next one may go out. Puts it into `out`, as [`ended`](Self::ended).
    pub fn leave(&self, line: &LineKey, out: &mut Vec<Call<Ticket>>) {
        self.desk().backlog.leave(line, out);
    }

    /// Partitions go to another node: what waits here of their calls is run there. Answers how many calls those were.
    pub fn forget(&self, partitions: &[i32]) -> usize {
        let mut out = Vec::new();
        let dropped = self.desk().backlog.forget(partitions, &mut out);
        self.let_go(out);
        if dropped > 0 {
            tracing::info!(calls = dropped, ?partitions, "waiting calls go on where their partitions are now");
        }
        dropped
    }

    /// Calls of some partitions are not to begin here: those that wait for an instance go back now.
    pub fn hand_back(&self) {
        if let Some(executor) = self.executor.get() {
            executor.give_back_waiting();
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
            Some(_) => self.hold(*call),
            None => {
                let name = &call.invocation.function;
                let message = format!("function {name} is not registered: deploy it, or check the name");
                executor.reject(*call, "unknown_function", message);
            }
        }
    }

    /// Hands calls over, and those that their ends let go, one after another.
    pub fn let_go(&self, calls: Vec<Call<Ticket>>) {
        if calls.is_empty() {
            return;
        }
        let is_outermost = LET_GO.with_borrow_mut(|queue| match queue {
            Some(queue) => {
                queue.extend(calls);
                false
            }
            None => {
                *queue = Some(VecDeque::from(calls));
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
            let mut out = Vec::new();
            if desk.backlog.due(now, &mut out) {
                drop(desk);
                self.let_go(out);
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
