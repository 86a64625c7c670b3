//! Makes instances: ahead, to meet a warm target, and on demand, for calls that wait. Retires those that are not wanted.
//!
//! Must not: choose targets; it carries out what `pool::plan` says of them.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::fault::{Fault, NODE_MEMORY};
use super::function::{Function, Phase, Ready, State, Version};
use super::host::Grace;
use super::instance::Instance;
use super::memory::{Account, Room};
use super::pace::Turn;
use super::shelf::Offered;
use super::slots::Slot;
use super::stdio::CallLog;
use super::{Node, Outcomes, wall_clock};
use crate::pool::{self, Full, Purpose};
use crate::types::{FunctionName, Status, Timestamp, WarmKind, WarmReason, WarmTarget};

/// The size that is reserved for the first instance of a function: one that is known replaces it.
const FIRST_INSTANCE_BYTES: u64 = 1 << 20;
/// A preparation that is known to take no longer passes the line of those that do: it costs them less than a turn.
const QUICK_PREPARATION: Duration = Duration::from_millis(1);
/// Preparations of one function that may have been begun and not be done, where that is more than two a core. Those that wait
/// in the host hold no turn, so that turns alone would not bound them.
const BEGUN_MAX: u32 = 8;

/// How many preparations of one function may have been begun and not be done.
pub(super) fn begun_max(cores: usize) -> u32 {
    u32::try_from(2 * cores).unwrap_or(u32::MAX).max(BEGUN_MAX)
}

/// One instance that a function wants now, and that is counted as being prepared.
pub(super) struct Claim {
    version: Arc<Version>,
    purpose: Purpose,
    reason: WarmReason,
}

impl<T> State<T> {
    /// What the function wants an instance for, if it wants one that may be begun now.
    fn wants(&self, now: Timestamp, begun_max: u32) -> Option<Purpose> {
        let preparing = self.shelf.usage(0).preparing;
        if self.phase != Phase::Running || self.version.is_none() || preparing >= begun_max {
            return None;
        }
        let is_full = |purpose| self.full.is_some_and(|full| full == purpose || full == Purpose::Call);
        let allows = |purpose| !is_full(purpose) && self.breaker.allows(now, purpose, preparing);
        if self.shelf.lacks() && allows(Purpose::Call) {
            return Some(Purpose::Call);
        }
        let is_planned = self.planned > 0 && self.shelf.plan().prepare > 0;
        (is_planned && allows(Purpose::Warmth)).then_some(Purpose::Warmth)
    }

    /// Takes what [`wants`](Self::wants) says: looked at only now, it is wanted by a call or a target that is still there.
    fn claim(&mut self, now: Timestamp, begun_max: u32) -> Option<Claim> {
        let purpose = self.wants(now, begun_max)?;
        let version = Arc::clone(self.version.as_ref()?);
        let usage = self.shelf.usage(0);
        let reason = match purpose {
            Purpose::Call => WarmReason { kind: WarmKind::Invocation, detail: None },
            Purpose::Warmth => {
                self.planned -= 1;
                reason(self.shelf.target(), (usage.ready + usage.preparing).saturating_sub(usage.waiting) + 1)
            }
        };
        self.shelf.begin();
        Some(Claim { version, purpose, reason })
    }

    /// There is no place for what was claimed: the next look tries again, and looks after a call that waits for it.
    fn has_no_slot(&mut self, purpose: Purpose) {
        self.shelf.not_prepared();
        self.full = if self.full == Some(Purpose::Call) { self.full } else { Some(purpose) };
    }
}

impl<O: Outcomes> Node<O> {
    /// Brings the shelf to its target, and sees to it that no waiting call is forgotten.
    pub(super) fn reconcile(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>) {
        let mut state = function.state();
        if state.phase != Phase::Running {
            return;
        }
        let change = state.shelf.plan();
        let mut retired = Vec::new();
        for _ in 0..change.retire {
            retired.extend(state.shelf.retire());
        }
        state.planned = change.prepare;
        state.full = None;
        drop(state);
        self.retire(retired);
        self.seek(function);
    }

    /// Replaces an instance that was used up, where the standing parts of the target (floor, history) ask for it. What a
    /// pre-trigger announced is used up by the call that came; the next tick decides on the rest.
    pub(super) fn replenish(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>) {
        let mut state = function.state();
        let target = state.shelf.target();
        let standing = |kind| matches!(kind, WarmKind::Floor | WarmKind::History);
        let part = target.parts.iter().rfind(|part| standing(part.reason.kind));
        let wanted = part.map_or(0, |part| part.instances.min(target.ready));
        let usage = state.shelf.usage(0);
        let coming = usage.ready.saturating_add(usage.preparing).saturating_add(state.planned);
        if coming.saturating_sub(usage.waiting) < wanted {
            state.planned += 1;
        }
        drop(state);
        self.seek(function);
    }

    /// A call waits: an instance is sought for it, and one that was begun ahead is hurried.
    pub(super) fn seek_for_call(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>) {
        self.seek(function);
        self.hurry(&function.name);
    }

    /// Sees to it that the function stands in line where it wants an instance. It stands there once, whatever it wants: when
    /// its turn comes, what is wanted then is looked at.
    pub(super) fn seek(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>) {
        let now = self.now();
        let mut state = function.state();
        if function.prepares_quickly(QUICK_PREPARATION) {
            let claims: Vec<_> = std::iter::from_fn(|| state.claim(now, self.begun_max)).collect();
            drop(state);
            for claim in claims {
                self.handle.spawn(Arc::clone(self).prepare(Arc::clone(function), claim, None));
            }
            return;
        }
        let Some(purpose) = state.wants(now, self.begun_max) else { return };
        if state.asked == Some(purpose) || state.asked == Some(Purpose::Call) {
            return;
        }
        state.asked = Some(purpose);
        let tenant = state.version.as_ref().and_then(|version| version.definition.tenant.clone());
        drop(state);
        self.stand_in_line(&function.name, &tenant, purpose);
    }

    /// The function has its turn to begin a preparation.
    pub(super) async fn begin(self: Arc<Self>, function: Arc<Function<O::Ticket>>, turn: Turn<O>) {
        let claim = {
            let mut state = function.state();
            state.asked = None;
            state.claim(self.now(), self.begun_max)
        };
        // It may want more than one.
        self.seek(&function);
        if let Some(claim) = claim {
            self.prepare(function, claim, Some(turn)).await;
        }
    }

    async fn prepare(self: Arc<Self>, function: Arc<Function<O::Ticket>>, claim: Claim, turn: Option<Turn<O>>) {
        let Claim { version, purpose, reason } = claim;
        let asked_at = Instant::now();
        let slot = match self.find_slot(&function, purpose) {
            Ok(slot) => slot,
            Err(full @ Full::Never { .. }) => {
                let fault = Fault::new(Status::Limit, NODE_MEMORY, full.to_string());
                return self.preparation_failed(&function, &version, purpose, fault, Duration::ZERO);
            }
            Err(_) => return function.state().has_no_slot(purpose),
        };
        let room: Weak<dyn Room> = Arc::downgrade(&self) as _;
        let account = Account::new(function.name.clone(), slot.clone(), room, purpose);
        let (config, grace, log) = (&self.config, Grace::default(), CallLog::new(self.logs.bounds));
        let work = Instance::prepare(
            &version.code,
            &version.definition,
            account,
            &self.announce,
            log.clone(),
            (config.init_timeout, &grace),
            config.touch_bytes_max,
        );
        let prepared = self.paced(&function, &version, purpose, turn, &grace, work).await;
        function.prepared(asked_at.elapsed());
        let fault = prepared.as_ref().and_then(|prepared| prepared.as_ref().err());
        self.prepared_wrote(&function, &version, &log, fault);
        match prepared {
            // The node's memory was used up meanwhile, as it may be before: the call goes on waiting, for as much as is
            // known now to be needed.
            Some(Err(Fault { needs_bytes: Some(bytes), .. })) => {
                drop(slot);
                self.metrics.slots_missing.add(1);
                function.set_instance_bytes(bytes);
                function.state().has_no_slot(purpose);
            }
            Some(Ok(instance)) => {
                let bytes = instance.memory_bytes();
                slot.resize(bytes);
                function.set_instance_bytes(bytes);
                let ready_at = Instant::now();
                let ready =
                    Ready { instance, version, reason, asked_at, ready_at, shelved_at: ready_at, uses: 0, slot };
                self.metrics.instances_prepared.add(1);
                self.deliver(function, Box::new(ready)).await;
            }
            // Nobody wants it any more.
            None => {
                drop(slot);
                function.state().shelf.not_prepared();
                self.seek(&function);
            }
            Some(Err(fault)) if fault.is_full_pool() => {
                drop(slot);
                self.pool_is_full(&function, purpose, &fault);
            }
            Some(Err(fault)) => {
                drop(slot);
                self.metrics.prepare_failures.add(1);
                tracing::warn!(
                    function = %function.name, version = version.definition.version, ?purpose,
                    status = fault.status.as_str(), error = fault.error.message,
                    "an instance could not be prepared: its init or start function failed"
                );
                self.preparation_failed(&function, &version, purpose, fault, asked_at.elapsed());
            }
        }
    }

    /// Wasmtime's pool ended before the ledger's slots did: a slot is missing.
    fn pool_is_full(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>, purpose: Purpose, fault: &Fault) {
        match self.evict_for(&function.name, purpose) {
            Some(evicted) => {
                self.metrics.instances_evicted.add(1);
                drop(evicted);
                function.state().shelf.not_prepared();
                self.seek(function);
            }
            None => {
                tracing::debug!(function = %function.name, message = fault.error.message, "no room for an instance");
                self.metrics.slots_missing.add(1);
                function.state().has_no_slot(purpose);
            }
        }
    }

    /// Gives a new instance to a waiting call or to the shelf; drops it where its version was replaced meanwhile.
    async fn deliver(self: Arc<Self>, function: Arc<Function<O::Ticket>>, ready: Box<Ready>) {
        let offered = {
            let mut state = function.state();
            if state.story.is_about(ready.version.serial) {
                state.story.prepared(wall_clock);
            }
            if state.runs(&ready.version) {
                state.breaker.succeeded();
                state.unavailable = None;
                Ok(state.shelf.prepared(ready))
            } else {
                state.shelf.not_prepared();
                Err(ready)
            }
        };
        self.seek(&function);
        match offered {
            Ok(Offered::Shelved) => self.slots.changed(),
            Ok(Offered::Run(ready, pending)) => self.serve(function, ready, pending).await,
            Err(stale) => self.retire(vec![stale]),
        }
    }

    /// Answers calls that waited for an instance with the fault that prevented it: one call, or, where preparing has failed
    /// again and again, all of them.
    fn preparation_failed(
        self: &Arc<Self>,
        function: &Arc<Function<O::Ticket>>,
        version: &Version,
        purpose: Purpose,
        fault: Fault,
        took: Duration,
    ) {
        let mut state = function.state();
        state.shelf.not_prepared();
        let mut answered = Vec::new();
        // The fault of a version that was replaced says nothing of the one that runs.
        if state.runs(version) {
            state.cannot_run(&fault.error.message);
            if state.story.is_about(version.serial) {
                let what = if fault.status == Status::FunctionError { "init failed" } else { fault.status.as_str() };
                state.story.failed(&format!("{what}: {}", fault.error.message), wall_clock());
            }
            state.breaker.failed(self.now(), took);
            if state.breaker.is_open() {
                answered = state.shelf.abandon_if(|_| true);
            } else if purpose == Purpose::Call {
                answered.extend(state.shelf.abandon());
            }
        }
        drop(state);
        for pending in answered {
            let fault = Fault { status: fault.status, error: fault.error.clone(), needs_bytes: None };
            self.fail(pending, fault, Some(version.definition.version.clone()));
        }
        self.seek(function);
    }

    /// The time since the node began, on a clock that does not go back.
    fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.started_at.elapsed()
    }

    /// A slot for one instance; where the pool is full, room is made by what `pool::victim` chooses.
    fn find_slot(&self, function: &Function<O::Ticket>, purpose: Purpose) -> Result<Slot, Full> {
        let known = function.instance_bytes();
        let bytes = if known == 0 { FIRST_INSTANCE_BYTES.min(self.capacity.bytes) } else { known };
        // Bounded: each round either ends or takes one of a bounded number of instances away.
        loop {
            let full = match self.slots.reserve(&function.name, bytes, purpose) {
                Ok(slot) => return Ok(slot),
                Err(full @ Full::Never { .. }) => return Err(full),
                // Another function's instances are of no use to it: it waits for one of its own.
                Err(full @ Full::Share { .. }) => {
                    tracing::debug!(function = %function.name, ?purpose, %full, "no slot for an instance");
                    self.metrics.slots_missing.add(1);
                    return Err(full);
                }
                Err(full) => full,
            };
            let Some(evicted) = self.evict_for(&function.name, purpose) else {
                tracing::debug!(function = %function.name, ?purpose, %full, "no slot for an instance");
                self.metrics.slots_missing.add(1);
                return Err(full);
            };
            self.metrics.instances_evicted.add(1);
            drop(evicted);
        }
    }

    pub(super) fn evict_for(&self, needs: &FunctionName, purpose: Purpose) -> Option<Box<Ready>> {
        let functions = self.all();
        let candidates = functions.iter().filter_map(|function| {
            let state = function.state();
            let idle_since = state.shelf.longest_idle()?.shelved_at.saturating_duration_since(self.started_at);
            Some(pool::Candidate {
                function: &function.name,
                ready: state.shelf.ready(),
                target_ready: state.shelf.target().ready,
                promised: promised(state.shelf.target()),
                idle_since: Timestamp::ZERO + idle_since,
                instance_bytes: function.instance_bytes(),
            })
        });
        let victim = pool::victim(candidates, needs, purpose)?.clone();
        let function = self.find(victim.as_str())?;
        function.state().shelf.retire()
    }

    /// Drops an instance that was used up, and tells its function that there is a slot again, if it was in want of one.
    pub(super) fn retire_used(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>, used: Box<Ready>) {
        self.metrics.instances_retired.add(1);
        let (node, function) = (Arc::clone(self), Arc::clone(function));
        self.handle.spawn(async move {
            drop(used);
            if function.state().full.take().is_some() {
                node.seek(&function);
            }
        });
    }

    /// Drops instances where it hurts nobody: giving memory back to the kernel takes longer than a warm call.
    #[expect(clippy::vec_box, reason = "an instance stays in the box in which it was made: only the pointer moves")]
    pub(super) fn retire(&self, instances: Vec<Box<Ready>>) {
        if !instances.is_empty() {
            self.metrics.instances_retired.add(instances.len() as u64);
            self.handle.spawn(async move { drop(instances) });
        }
    }
}

fn reason(target: &WarmTarget, nth: u32) -> WarmReason {
    target.reason_for(nth).cloned().unwrap_or(WarmReason { kind: WarmKind::History, detail: None })
}

/// How many instances of a target were promised: what a floor, a schedule or a notice asks for, and not history or chains.
fn promised(target: &WarmTarget) -> u32 {
    let is_promise = |kind| matches!(kind, WarmKind::Floor | WarmKind::Schedule | WarmKind::PreTrigger);
    let parts = target.parts.iter().filter(|part| is_promise(part.reason.kind));
    parts.map(|part| part.instances).max().unwrap_or(0).min(target.ready)
}
