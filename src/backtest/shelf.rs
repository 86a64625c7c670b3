//! The executor as far as a backtest needs one: the ready instances of one function, its waiting calls, and the counts.
//!
//! It follows the executor's rules, and the same `pool` says what to begin and what to drop. It differs in this: memory
//! has no end, each preparation takes the same time, as many as wanted go on at once, and none fails.
//!
//! Must not: know the time that things take, or account for anything; `events` does.

use std::collections::VecDeque;

use crate::pool::{on_demand, plan};
use crate::types::{FunctionDefinition, PoolUsage, Timestamp, WarmKind, WarmReason, WarmTarget};

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Instance {
    /// Why it was prepared.
    pub(super) reason: WarmReason,
    /// When its preparation ended.
    pub(super) ready_at: Timestamp,
    /// When it last became ready, for the first time or after a call.
    pub(super) idle_since: Timestamp,
    /// Calls that it served.
    pub(super) uses: u32,
}

/// A call that has come. `C` is the caller's own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting<C> {
    pub(super) since: Timestamp,
    pub(super) call: C,
}

/// What is to be begun.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Changes {
    /// Instances to prepare for waiting calls.
    pub(super) on_demand: u32,
    /// Instances to prepare ahead, each with its reason.
    pub(super) ahead: Vec<WarmReason>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shelf<C> {
    /// Most recently used last.
    ready: VecDeque<Instance>,
    waiting: VecDeque<Waiting<C>>,
    preparing: u32,
    busy: u32,
    in_flight_peak: u32,
    concurrency: u32,
    /// Calls that one instance serves at most.
    uses_max: u32,
    target: WarmTarget,
}

impl<C> Shelf<C> {
    pub(super) fn new(definition: &FunctionDefinition) -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            preparing: 0,
            busy: 0,
            in_flight_peak: 0,
            concurrency: definition.limits.concurrency,
            uses_max: if definition.reuses_instances() { definition.warm.max_invocations } else { 1 },
            target: WarmTarget::default(),
        }
    }

    /// Takes a call; where it cannot run at once, it waits, and so many instances are to be prepared for calls.
    pub(super) fn submit(&mut self, waiting: Waiting<C>) -> Result<(Instance, Waiting<C>), u32> {
        self.waiting.push_back(waiting);
        self.in_flight_peak = self.in_flight_peak.max(self.in_flight());
        self.pair().ok_or_else(|| self.claim_on_demand())
    }

    /// A preparation ended: the waiting call that runs in the instance now, if there is one.
    pub(super) fn prepared(&mut self, instance: Instance) -> Option<(Instance, Waiting<C>)> {
        self.preparing -= 1;
        self.ready.push_back(instance);
        self.pair()
    }

    /// A call ended. Answers the call that runs now, and what is to be begun where the instance is used up.
    pub(super) fn ended(&mut self, mut instance: Instance) -> (Option<(Instance, Waiting<C>)>, Option<Changes>) {
        self.busy -= 1;
        instance.uses += 1;
        if instance.uses < self.uses_max {
            self.ready.push_back(instance);
            return (self.pair(), None);
        }
        let on_demand = self.claim_on_demand();
        let next = self.pair();
        (next, Some(Changes { on_demand, ahead: self.replenish() }))
    }

    /// Brings the shelf to its target, and sees to it that no waiting call is forgotten.
    pub(super) fn reconcile(&mut self) -> Changes {
        let on_demand = self.claim_on_demand();
        let change = plan(&self.usage(0), &self.target, self.concurrency);
        // The longest idle go.
        self.ready.drain(..change.retire as usize);
        let have = self.in_sight();
        self.preparing += change.prepare;
        let reason =
            |nth| self.target.reason_for(nth).cloned().unwrap_or(WarmReason { kind: WarmKind::History, detail: None });
        Changes { on_demand, ahead: (1..=change.prepare).map(|nth| reason(have + nth)).collect() }
    }

    /// Takes out the instances that have been idle since `moment` (inclusive) or longer.
    pub(super) fn expire(&mut self, moment: Timestamp) -> Vec<Instance> {
        // The most recently used one is last.
        let expired = self.ready.iter().take_while(|instance| instance.idle_since <= moment).count();
        self.ready.drain(..expired).collect()
    }

    /// Sets what is wanted; the caller then reconciles.
    pub(super) fn set_target(&mut self, target: WarmTarget) {
        self.target = target;
    }

    pub(super) fn target(&self) -> &WarmTarget {
        &self.target
    }

    /// Whether nothing is here, wanted, or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.preparing == 0
            && self.in_flight_peak == 0
            && self.in_flight() == 0
            && self.target.ready == 0
    }

    /// The counts; starts a new period for the peak.
    pub(super) fn look(&mut self, instance_bytes: u64) -> PoolUsage {
        let usage = self.usage(instance_bytes);
        self.in_flight_peak = self.in_flight();
        usage
    }

    /// How many instances are ready.
    pub(super) fn ready(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }

    /// Replaces an instance that was used up, where the standing parts of the target (floor, history) ask for it.
    fn replenish(&mut self) -> Vec<WarmReason> {
        let standing = |kind| matches!(kind, WarmKind::Floor | WarmKind::Schedule | WarmKind::History);
        let part = self.target.parts.iter().rfind(|part| standing(part.reason.kind));
        let wanted = part.filter(|part| self.in_sight() < part.instances.min(self.target.ready));
        let reasons: Vec<WarmReason> = wanted.map(|part| part.reason.clone()).into_iter().collect();
        self.preparing += u32::from(!reasons.is_empty());
        reasons
    }

    fn claim_on_demand(&mut self) -> u32 {
        let wanted = on_demand(&self.usage(0), self.concurrency);
        self.preparing += wanted;
        wanted
    }

    /// A call and an instance that can be brought together now.
    fn pair(&mut self) -> Option<(Instance, Waiting<C>)> {
        if self.busy >= self.concurrency || self.waiting.is_empty() {
            return None;
        }
        let instance = self.ready.pop_back()?;
        self.busy += 1;
        self.waiting.pop_front().map(|call| (instance, call))
    }

    /// Ready instances and those on their way, less those that waiting calls will take.
    fn in_sight(&self) -> u32 {
        let usage = self.usage(0);
        (usage.ready + usage.preparing).saturating_sub(usage.waiting)
    }

    fn in_flight(&self) -> u32 {
        self.busy + u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    fn usage(&self, instance_bytes: u64) -> PoolUsage {
        PoolUsage {
            ready: self.ready(),
            preparing: self.preparing,
            busy: self.busy,
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            in_flight_peak: self.in_flight_peak,
            instance_bytes,
        }
    }
}
