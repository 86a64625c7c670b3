//! Makes instances: ahead, to meet a warm target, and on demand, for calls that wait. Retires those that are not wanted.
//!
//! Must not: choose targets; it carries out what `pool::plan` says of them.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;

use super::fault::{Fault, NODE_MEMORY};
use super::function::{Function, Phase, Ready, Version};
use super::instance::Instance;
use super::memory::{Account, Room};
use super::shelf::Offered;
use super::slots::Slot;
use super::{Node, Outcomes, wall_clock};
use crate::pool::{self, Full, Purpose};
use crate::types::{FunctionName, Status, Timestamp, WarmKind, WarmReason, WarmTarget};

/// The size that is reserved for the first instance of a function: one that is known replaces it.
const FIRST_INSTANCE_BYTES: u64 = 1 << 20;
/// Pause after the first preparation ahead that failed; doubles with each further one.
const FAILURE_BACKOFF: Duration = Duration::from_millis(500);
const FAILURE_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A preparation that is known to take no longer passes the line of those that do: it costs them less than a turn.
const QUICK_PREPARATION: Duration = Duration::from_millis(1);

/// Who wants an instance.
enum Cause {
    /// A waiting call.
    Demand,
    /// A warm target.
    Ahead(WarmReason),
}

impl<O: Outcomes> Node<O> {
    /// Brings the shelf to its target, and sees to it that no waiting call is forgotten.
    pub(super) fn reconcile(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>) {
        let mut state = function.state();
        if state.phase != Phase::Running {
            return;
        }
        let on_demand = state.shelf.claim_on_demand();
        let usage = state.shelf.usage(0);
        let change = state.shelf.plan();
        let mut retired = Vec::new();
        for _ in 0..change.retire {
            retired.extend(state.shelf.retire());
        }
        let held_back = state.planned_after.is_some_and(|after| Instant::now() < after);
        let ahead = if held_back { 0 } else { change.prepare };
        state.shelf.claim_planned(ahead);
        let have = (usage.ready + usage.preparing).saturating_sub(usage.waiting);
        let reasons: Vec<_> = (1..=ahead).map(|nth| reason(state.shelf.target(), have + nth)).collect();
        drop(state);
        self.retire(retired);
        self.prepare_on_demand(function, on_demand);
        for reason in reasons {
            self.spawn_preparation(function, Cause::Ahead(reason));
        }
    }

    /// Replaces an instance that was used up, where the standing parts of the target (floor, history) ask for it. What a
    /// pre-trigger announced is used up by the call that came; the next tick decides on the rest.
    pub(super) fn replenish(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>) {
        let mut state = function.state();
        if state.phase != Phase::Running || state.planned_after.is_some() {
            return;
        }
        let target = state.shelf.target();
        let standing = |kind| matches!(kind, WarmKind::Floor | WarmKind::History);
        let Some(part) = target.parts.iter().rfind(|part| standing(part.reason.kind)) else {
            return;
        };
        let (wanted, reason) = (part.instances.min(target.ready), part.reason.clone());
        let usage = state.shelf.usage(0);
        if (usage.ready + usage.preparing).saturating_sub(usage.waiting) < wanted {
            state.shelf.claim_planned(1);
            drop(state);
            self.spawn_preparation(function, Cause::Ahead(reason));
        }
    }

    /// Starts `count` preparations, already counted on the shelf, for waiting calls.
    pub(super) fn prepare_on_demand(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>, count: u32) {
        for _ in 0..count {
            self.spawn_preparation(function, Cause::Demand);
        }
    }

    fn spawn_preparation(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>, cause: Cause) {
        self.handle.spawn(Arc::clone(self).prepare(Arc::clone(function), cause));
    }

    async fn prepare(self: Arc<Self>, function: Arc<Function<O::Ticket>>, cause: Cause) {
        let asked_at = Instant::now();
        let on_demand = matches!(cause, Cause::Demand);
        let version = function.state().version.clone();
        let Some(version) = version else {
            return function.state().shelf.not_prepared();
        };
        let purpose = if on_demand { Purpose::Call } else { Purpose::Warmth };
        let slot = match self.find_slot(&function, purpose) {
            Ok(slot) => slot,
            Err(full @ Full::Never { .. }) => {
                let fault = Fault::new(Status::Limit, NODE_MEMORY, full.to_string());
                return self.preparation_failed(&function, &version, on_demand, fault);
            }
            // No place for it now: a call that waits for it is looked after at the next tick.
            Err(_) => return function.state().shelf.not_prepared(),
        };
        let prepared = {
            let _turn = self.turn(&function, on_demand).await;
            let (config, begun) = (&self.config, Instant::now());
            let room: Weak<dyn Room> = Arc::downgrade(&self) as _;
            let account = Account::new(function.name.clone(), slot.clone(), room, purpose);
            let prepared = Instance::prepare(
                &version.code,
                &version.definition,
                account,
                &self.announce,
                config.init_timeout,
                config.touch_bytes_max,
            )
            .await;
            function.prepared(begun.elapsed());
            prepared
        };
        let reason = match cause {
            Cause::Ahead(reason) => reason,
            Cause::Demand => WarmReason { kind: WarmKind::Invocation, detail: None },
        };
        match prepared {
            // The node's memory was used up meanwhile, as it may be before: the call goes on waiting, for as much as is
            // known now to be needed.
            Err(Fault { needs_bytes: Some(bytes), .. }) => {
                drop(slot);
                self.metrics.slots_missing.add(1);
                function.set_instance_bytes(bytes);
                function.state().shelf.not_prepared();
            }
            Ok(instance) => {
                let bytes = instance.memory_bytes();
                slot.resize(bytes);
                function.set_instance_bytes(bytes);
                let ready_at = Instant::now();
                let ready =
                    Ready { instance, version, reason, asked_at, ready_at, shelved_at: ready_at, uses: 0, slot };
                self.metrics.instances_prepared.add(1);
                self.deliver(function, Box::new(ready)).await;
            }
            Err(fault) => {
                drop(slot);
                self.metrics.prepare_failures.add(1);
                tracing::warn!(
                    function = %function.name, version = version.definition.version, on_demand,
                    status = fault.status.as_str(), error = fault.error.message,
                    "an instance could not be prepared"
                );
                self.preparation_failed(&function, &version, on_demand, fault);
            }
        }
    }

    /// Waits for a turn to prepare, which ends when the answer is dropped.
    ///
    /// What is prepared ahead leaves room for what calls wait for, and joins those when a call begins to wait for it.
    async fn turn(&self, function: &Function<O::Ticket>, on_demand: bool) -> [Option<SemaphorePermit<'_>>; 2] {
        if function.prepares_quickly(QUICK_PREPARATION) {
            return [None, None];
        }
        let ahead = async { self.preparing_ahead.acquire().await.ok() };
        let ahead = tokio::select! {
            biased;
            () = function.hurry.notified(), if !on_demand => None,
            permit = ahead, if !on_demand => permit,
            else => None,
        };
        [ahead, self.preparing.acquire().await.ok()]
    }

    /// Gives a new instance to a waiting call or to the shelf; drops it where its version was replaced meanwhile.
    async fn deliver(self: Arc<Self>, function: Arc<Function<O::Ticket>>, ready: Box<Ready>) {
        let offered = {
            let mut state = function.state();
            state.planned_after = None;
            state.planned_failures = 0;
            state.unavailable = None;
            if state.story.is_about(ready.version.serial) {
                state.story.prepared(wall_clock);
            }
            if state.version.as_ref().is_some_and(|version| version.serial == ready.version.serial) {
                Ok(state.shelf.prepared(ready))
            } else {
                state.shelf.not_prepared();
                Err((ready, state.shelf.claim_on_demand()))
            }
        };
        match offered {
            Ok(Offered::Shelved) => self.slots.changed(),
            Ok(Offered::Run(ready, pending)) => self.serve(function, ready, pending).await,
            Err((stale, on_demand)) => {
                self.retire(vec![stale]);
                self.prepare_on_demand(&function, on_demand);
            }
        }
    }

    fn preparation_failed(
        self: &Arc<Self>,
        function: &Arc<Function<O::Ticket>>,
        version: &Version,
        on_demand: bool,
        fault: Fault,
    ) {
        let mut state = function.state();
        state.shelf.not_prepared();
        state.cannot_run(&fault.error.message);
        if state.story.is_about(version.serial) {
            let what = if fault.status == Status::FunctionError { "init failed" } else { fault.status.as_str() };
            state.story.failed(&format!("{what}: {}", fault.error.message), wall_clock());
        }
        // The pool's own end is not the guest's fault: its call keeps waiting for a slot.
        let answered = if on_demand { state.shelf.abandon() } else { None };
        if !on_demand {
            state.planned_failures = state.planned_failures.saturating_add(1);
            let backoff = FAILURE_BACKOFF * 2u32.saturating_pow(state.planned_failures.min(16) - 1);
            state.planned_after = Some(Instant::now() + backoff.min(FAILURE_BACKOFF_MAX));
        }
        let more = state.shelf.claim_on_demand();
        drop(state);
        if let Some(pending) = answered {
            self.fail(pending, fault, Some(version.definition.version.clone()));
        }
        self.prepare_on_demand(function, more);
    }

    /// A slot for one instance; where the pool is full, room is made by what `pool::victim` chooses.
    fn find_slot(&self, function: &Function<O::Ticket>, purpose: Purpose) -> Result<Slot, Full> {
        let known = function.instance_bytes();
        let bytes = if known == 0 { FIRST_INSTANCE_BYTES.min(self.capacity.bytes) } else { known };
        // Bounded: each round either ends or takes one of a bounded number of instances away.
        loop {
            let full = match self.slots.reserve(&function.name, bytes) {
                Ok(slot) => return Ok(slot),
                Err(full @ Full::Never { .. }) => return Err(full),
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
                idle_since: Timestamp::ZERO + idle_since,
                instance_bytes: function.instance_bytes(),
            })
        });
        let victim = pool::victim(candidates, needs, purpose)?.clone();
        let function = self.find(victim.as_str())?;
        function.state().shelf.retire()
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
