//! The control plane as a pure state machine: events go in with the time, actions come out.
//!
//! It stands between the driver, which turns what happens into events and carries the actions out, and the rooms that
//! think: it feeds the forecaster, asks it each tick for the demand that may have changed, has `target` make targets of
//! it and cut them to the memory budget, and says what changed. The same code runs live, in simulations and in
//! backtests.
//!
//! The executor keeps a target until it is told another one, and replaces ready instances that were taken by itself.
//!
//! Must not: read a clock, wait, log, or touch the pool. Must not act on calls one by one: the data plane does not wait
//! for it.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod story;
#[cfg(test)]
mod trust;

mod tenants;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::tenants::{Tenants, Wanted};
use crate::config::{ChainsConfig, ForecastConfig, TargetConfig};
use crate::forecast::chains::{EdgeView, Evidence};
use crate::forecast::history::Model;
use crate::forecast::{self, Criterion, Forecaster, Restored, Share, Slot, Table, Verdict};
use crate::target::{Amount, Budget, Hold, Rule, Timetable, Wish, asking, decide, fit};
use crate::types::{
    Demand, ForecastSnapshot, FunctionDefinition, FunctionName, PoolUsage, PreTrigger, PreTriggerOutcome, StartKind,
    Status, Timestamp, WarmTarget,
};

/// How often a function's target is made anew at once, at most. Each round settles at least one more notice in line.
const ROUNDS_MAX: u32 = 4;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A function was registered, or registered anew.
    FunctionDefined {
        /// The function.
        definition: Arc<FunctionDefinition>,
        /// When that was. At a start this is long ago: such a function is no newcomer.
        since: Timestamp,
    },
    /// A function is no more.
    FunctionRemoved(FunctionName),
    /// A pre-trigger was read.
    PreTriggerReceived(PreTrigger),
    /// A pre-trigger was read that may not come from there.
    PreTriggerRefused {
        /// As it came.
        pre_trigger: PreTrigger,
        /// Why not.
        criterion: Criterion,
    },
    /// What was learned before this start, of functions that are defined by now. To be sent once, before the first call.
    SnapshotsRead(Vec<ForecastSnapshot>),
    /// A call was read. Each is followed by one `InvocationEnded`, also where it is rejected.
    InvocationArrived {
        /// The function that is called.
        function: FunctionName,
        /// What the call belongs to.
        evidence: Evidence,
    },
    /// A call is over.
    InvocationEnded {
        /// The function that was called.
        function: FunctionName,
        /// What came of it.
        status: Status,
        /// How it began; absent where nothing ran.
        start_kind: Option<StartKind>,
        /// How long it was in the guest.
        execute: Duration,
    },
    /// The part of the calls that this node runs is another one from now on.
    ShareChanged(Share),
    /// Time has passed. To be sent several times a second.
    Ticked {
        /// Every function of which the pool holds an instance or a call, or held one since the last tick. One that is
        /// not listed has no call in flight.
        usage: Vec<(FunctionName, PoolUsage)>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hold that many instances of the function ready from now on, for these reasons. Said only where it changed.
    SetTarget {
        /// The function.
        function: FunctionName,
        /// Its whole target, not the difference.
        target: WarmTarget,
    },
    /// Tell the metrics, and who wants to know, what became of a pre-trigger.
    JudgedPreTrigger {
        /// The pre-trigger's id.
        id: String,
        /// Who sent it.
        source: String,
        /// The function that it named.
        function: FunctionName,
        /// What became of it.
        verdict: Verdict,
    },
    /// Say that a function will not be warmed, and why.
    RefusedFunction {
        /// Why, and which.
        error: forecast::Error,
    },
    /// Tell who wants to know how a pre-trigger ended. Each one that does not repeat, change or withdraw another one is
    /// told once: at once where it does not count, otherwise when it is over.
    PreTriggerEnded(PreTriggerOutcome),
    /// Keep what is known of a function until the next start.
    KeepSnapshot(ForecastSnapshot),
    /// A function is no more: nothing has to be kept of it.
    ForgetSnapshot(FunctionName),
    /// Say what became of the snapshots that were read.
    RestoredSnapshots(Restored),
}

/// Why the target of a function is what it is.
#[derive(Clone, Copy, Debug)]
pub struct Explanation<'a> {
    /// The function.
    pub definition: &'a FunctionDefinition,
    /// The demand as it was decided on; its history is the level that is held.
    pub demand: &'a Demand,
    /// What the demand asks for: the target before the budget.
    pub wanted: &'a WarmTarget,
    /// What was said last.
    pub target: &'a WarmTarget,
    /// What one instance was taken to hold when the target was set, in bytes; at least 1.
    pub instance_bytes: u64,
}

/// What is remembered of one function.
#[derive(Debug)]
struct Entry {
    definition: Arc<FunctionDefinition>,
    /// Absent where it has no schedules.
    timetable: Option<Box<Timetable>>,
    /// When it may say something else, as it stands in `Control::windows`.
    changes: Option<Timestamp>,
    hold: Hold,
    /// What one instance was measured to hold; 0 before.
    measured_bytes: u64,
    /// What one instance is taken to hold.
    instance_bytes: u64,
    demand: Demand,
    wanted: WarmTarget,
    target: WarmTarget,
    /// Most instances in use at once within the last moments.
    recent: u32,
    /// Whether it is among `Control::wishing`.
    wishes: bool,
    /// Whether it is among `Control::settling`.
    settles: bool,
}

impl Entry {
    fn wants(&self) -> Wanted {
        let slots = u64::from(self.wanted.ready);
        Wanted { bytes: u128::from(slots) * u128::from(self.instance_bytes), slots }
    }

    /// Whether its target is what it wants, cut to `ready`.
    fn has(&self, ready: u32) -> bool {
        self.target.ready == ready && self.target.parts == self.wanted.parts
    }

    fn wish(&self, tenant: u32) -> Wish<'_> {
        let in_use = if self.definition.reuses_instances() { self.demand.in_flight } else { 0 };
        Wish {
            target: &self.wanted,
            tenant,
            instance_bytes: self.instance_bytes,
            outlook: &self.demand.outlook,
            certain: self.recent,
            in_use,
        }
    }
}

/// The state of the control plane.
#[derive(Debug)]
pub struct Control {
    config: TargetConfig,
    rule: Rule,
    forecaster: Forecaster,
    functions: Table<Entry>,
    /// Functions whose held level will fall by time alone.
    settling: BTreeSet<Slot>,
    /// When schedules next change what they ask for, and of which function.
    windows: BTreeSet<(Timestamp, Slot)>,
    /// Functions that want at least one ready instance; in this order they share the budget.
    wishing: BTreeSet<Slot>,
    /// What all functions want together.
    wanted: Wanted,
    /// Whether a target may be lower than wanted.
    cut: bool,
    tenants: Tenants,
}

impl Control {
    /// A control plane that knows no function yet.
    pub fn new(forecast: ForecastConfig, chains: &ChainsConfig, target: TargetConfig, model: Model) -> Self {
        Self {
            rule: Rule::new(&target),
            tenants: Tenants::new(&target),
            config: target,
            forecaster: Forecaster::new(forecast, chains, model),
            functions: Table::new(u32::MAX),
            settling: BTreeSet::new(),
            windows: BTreeSet::new(),
            wishing: BTreeSet::new(),
            wanted: Wanted::default(),
            cut: false,
        }
    }

    /// Takes one event in and puts what is to be done behind what `actions` holds.
    ///
    /// `now` is the wall clock. It should not fall; where it does, nothing breaks, but what time alone ends may end
    /// late.
    pub fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::FunctionDefined { definition, since } => self.define(now, since, definition, actions),
            Event::FunctionRemoved(function) => self.remove(now, &function, actions),
            Event::SnapshotsRead(snapshots) => {
                actions.push(Action::RestoredSnapshots(self.forecaster.restore(now, &snapshots)));
            }
            Event::PreTriggerReceived(pre_trigger) => self.pre_trigger(now, pre_trigger, actions),
            Event::PreTriggerRefused { pre_trigger, criterion } => {
                let verdict = self.forecaster.refuse(now, &pre_trigger, criterion);
                let PreTrigger { id, source, function, .. } = pre_trigger;
                actions.push(Action::JudgedPreTrigger { id, source, function, verdict });
            }
            Event::InvocationArrived { function, evidence } => self.forecaster.arrived(now, &function, evidence),
            Event::InvocationEnded { function, execute, .. } => self.forecaster.ended(now, &function, execute),
            Event::ShareChanged(share) => self.forecaster.set_share(share),
            Event::Ticked { usage } => self.tick(now, &usage, actions),
        }
        actions.extend(self.forecaster.take_outcomes().into_iter().map(Action::PreTriggerEnded));
    }

    /// Snapshots of all functions of which something was learned since their last one: for the end.
    pub fn take_all_snapshots(&mut self, now: Timestamp) -> Vec<ForecastSnapshot> {
        self.forecaster.take_all_snapshots(now)
    }

    /// Why the function's target is what it is; `None` for a function that is not known.
    pub fn explain(&self, function: &FunctionName) -> Option<Explanation<'_>> {
        self.functions.find(function).map(|(_, entry)| explanation(entry))
    }

    /// Every function's explanation, in no order: for checks and for a list of all.
    pub fn explanations(&self) -> impl Iterator<Item = Explanation<'_>> {
        self.functions.rows().map(|(_, _, entry)| explanation(entry))
    }

    /// What the targets of all functions may take together.
    pub fn budget(&self) -> Amount {
        let slots = if self.config.instances_max == 0 { u32::MAX } else { self.config.instances_max };
        Amount { bytes: self.config.memory_budget_bytes, slots }
    }

    /// What the targets of one tenant's functions may take together; those without a tenant are one tenant's.
    pub fn tenant_budget(&self) -> Amount {
        self.tenants.budget(self.budget())
    }

    /// The learned chains that lead away from one function, or all: the first function, the last, and what is known.
    pub fn chains(&self, now: Timestamp, from: Option<&FunctionName>) -> Vec<(FunctionName, FunctionName, EdgeView)> {
        self.forecaster.chains(now, from)
    }

    /// The functions from which learned chains lead away, in no order.
    pub fn chained(&self) -> impl Iterator<Item = &FunctionName> {
        self.forecaster.chained()
    }

    /// What the forecaster passed over.
    pub fn counters(&self) -> forecast::Counters {
        self.forecaster.counters()
    }

    fn define(
        &mut self,
        now: Timestamp,
        since: Timestamp,
        definition: Arc<FunctionDefinition>,
        actions: &mut Vec<Action>,
    ) {
        if let Err(error) = self.forecaster.define(now, since, Arc::clone(&definition)) {
            actions.push(Action::RefusedFunction { error });
            return;
        }
        let timetable = Timetable::new(&definition.schedules).map(Box::new);
        if let Some((_, entry)) = self.functions.find_mut(&definition.name) {
            let wants = entry.wants();
            self.tenants.changed(entry.definition.tenant.as_deref(), wants, Wanted::default());
            self.tenants.changed(definition.tenant.as_deref(), Wanted::default(), wants);
            (entry.definition, entry.timetable) = (definition, timetable);
            return;
        }
        let entry = Entry {
            timetable,
            changes: None,
            hold: Hold::default(),
            measured_bytes: 0,
            instance_bytes: 1,
            demand: Demand::default(),
            wanted: WarmTarget::default(),
            target: WarmTarget::default(),
            recent: 0,
            wishes: false,
            settles: false,
            definition: Arc::clone(&definition),
        };
        // The forecaster has a bound on functions, and this table holds no more than it knows.
        self.functions.insert(definition.name.clone(), entry);
    }

    fn remove(&mut self, now: Timestamp, function: &FunctionName, actions: &mut Vec<Action>) {
        self.forecaster.remove(now, function);
        let Some((slot, entry)) = self.functions.remove(function) else { return };
        self.settling.remove(&slot);
        self.wishing.remove(&slot);
        entry.changes.map(|at| self.windows.remove(&(at, slot)));
        actions.push(Action::ForgetSnapshot(function.clone()));
        self.wanted.change(entry.wants(), Wanted::default());
        self.tenants.changed(entry.definition.tenant.as_deref(), entry.wants(), Wanted::default());
        if entry.target != WarmTarget::default() {
            actions.push(Action::SetTarget { function: function.clone(), target: WarmTarget::default() });
        }
    }

    /// Judges a pre-trigger. It is acted on at the next tick, with all that came since the last one: a flood costs no
    /// decision each.
    fn pre_trigger(&mut self, now: Timestamp, pre_trigger: PreTrigger, actions: &mut Vec<Action>) {
        let verdict = self.forecaster.pre_trigger(now, &pre_trigger);
        let PreTrigger { id, source, function, .. } = pre_trigger;
        actions.push(Action::JudgedPreTrigger { id, source, function, verdict });
    }

    fn tick(&mut self, now: Timestamp, usage: &[(FunctionName, PoolUsage)], actions: &mut Vec<Action>) {
        let mut visit = Vec::new();
        for (function, usage) in usage {
            self.forecaster.observed(now, function, usage);
            let Some((slot, entry)) = self.functions.find_mut(function) else { continue };
            if usage.instance_bytes > 0 && usage.instance_bytes != entry.measured_bytes {
                entry.measured_bytes = usage.instance_bytes;
                visit.push(slot);
            }
        }
        self.forecaster.looked();
        // A function may be in it more than once; the second visit changes nothing.
        let changed = self.forecaster.take_changed(now);
        visit.extend(changed.iter().filter_map(|function| Some(self.functions.find(function)?.0)));
        visit.extend(&self.settling);
        // Each visit moves its timer on.
        visit.extend(self.windows.iter().take_while(|(at, _)| *at <= now).map(|(_, slot)| *slot));
        for &slot in &visit {
            self.revise(now, slot);
        }
        actions.extend(self.forecaster.take_snapshots(now).into_iter().map(Action::KeepSnapshot));
        let is_short = self.wanted.is_above(self.budget()) || self.tenants.any_over();
        if std::mem::replace(&mut self.cut, is_short) || is_short {
            return self.share(&visit, actions);
        }
        for slot in visit {
            let ready = self.functions.row(slot).map_or(0, |(_, entry)| entry.wanted.ready);
            self.set_target(slot, ready, actions);
        }
    }

    /// Makes the function's wanted target anew from its demand now.
    fn revise(&mut self, now: Timestamp, slot: Slot) {
        let Some((function, entry)) = self.functions.named_row_mut(slot) else { return };
        let (mut demand, mut wanted) = (Demand::default(), WarmTarget::default());
        // What is asked for on account of one notice may hide another one, so what is asked for is made known and looked at
        // again, until it stays.
        for _ in 0..ROUNDS_MAX {
            demand = self.forecaster.demand(now, function);
            entry.recent = demand.history.ceil() as u32;
            // Of what is held already nothing has to be made.
            let there = entry.hold.level() as u32;
            let expected = f64::from(self.rule.level(&demand.outlook, there.max(demand.in_flight)));
            demand.history = entry.hold.settle(now, self.config.shrink_after, demand.history.max(expected));
            let definition = &entry.definition;
            wanted = if definition.enabled {
                let scheduled = entry.timetable.as_mut().and_then(|timetable| timetable.look(now));
                decide(&self.rule, now, definition, scheduled, &demand)
            } else {
                WarmTarget::default()
            };
            let asking = asking(&self.rule, now, definition, &demand).filter(|_| definition.enabled);
            if !self.forecaster.asked(now, function, asking.map(|(index, _)| index)) {
                break;
            }
        }
        let (definition, before) = (&entry.definition, entry.wants());
        let assumed = definition.limits.memory_bytes.min(self.config.instance_bytes_assumed.get());
        let bytes = if entry.measured_bytes > 0 { entry.measured_bytes } else { assumed };
        entry.instance_bytes = bytes.max(1);
        (entry.demand, entry.wanted) = (demand, wanted);
        self.wanted.change(before, entry.wants());
        self.tenants.changed(entry.definition.tenant.as_deref(), before, entry.wants());
        let changes = entry.timetable.as_ref().map(|timetable| timetable.next_change());
        if entry.changes != changes {
            entry.changes.map(|at| self.windows.remove(&(at, slot)));
            changes.map(|at| self.windows.insert((at, slot)));
            entry.changes = changes;
        }
        let (wishes, settles) = (entry.wanted.ready > 0, entry.hold.is_settling());
        keep(&mut self.wishing, &mut entry.wishes, wishes, slot);
        keep(&mut self.settling, &mut entry.settles, settles, slot);
    }

    /// Shares the budget anew over all functions that wish; those in `visited` that wish for nothing get that.
    fn share(&mut self, visited: &[Slot], actions: &mut Vec<Action>) {
        let rows = self.wishing.iter().filter_map(|&slot| Some((slot, &self.functions.row(slot)?.1)));
        // Numbers in the order of the wishes, so that nothing depends on the map's order.
        let mut numbers: HashMap<Option<&str>, u32> = HashMap::new();
        let (slots, wishes): (Vec<_>, Vec<_>) = rows
            .map(|(slot, entry)| {
                let next = numbers.len() as u32;
                let tenant = *numbers.entry(entry.definition.tenant.as_deref()).or_insert(next);
                (slot, entry.wish(tenant))
            })
            .unzip();
        let budget = Budget {
            all: self.budget(),
            of_tenant: self.tenant_budget(),
            floor_share: self.config.floor_share_max,
            tenants: numbers.len() as u32,
        };
        let granted = fit(&budget, &wishes);
        // Looked up again only where something changes: most of a large fleet gets what it had.
        let changes = slots.into_iter().zip(granted).filter_map(|(slot, ready)| {
            let (_, entry) = self.functions.row(slot)?;
            (!entry.has(ready)).then_some((ready > entry.target.ready, slot, ready))
        });
        // What gives back goes before what takes.
        let (grow, shrink): (Vec<_>, Vec<_>) = changes.partition(|(grows, ..)| *grows);
        for &slot in visited.iter().filter(|slot| !self.wishing.contains(slot)).collect::<Vec<_>>() {
            self.set_target(slot, 0, actions);
        }
        for (_, slot, ready) in shrink.into_iter().chain(grow) {
            self.set_target(slot, ready, actions);
        }
    }

    /// Sets the function's target to what it wants, cut to `ready`, and says so if that is new.
    fn set_target(&mut self, slot: Slot, ready: u32, actions: &mut Vec<Action>) {
        let Some((function, entry)) = self.functions.named_row_mut(slot) else { return };
        if entry.has(ready) {
            return;
        }
        entry.target = WarmTarget { ready, parts: entry.wanted.parts.clone() };
        actions.push(Action::SetTarget { function: function.clone(), target: entry.target.clone() });
    }
}

fn explanation(entry: &Entry) -> Explanation<'_> {
    let Entry { definition, demand, wanted, target, instance_bytes, .. } = entry;
    Explanation { definition, demand, wanted, target, instance_bytes: *instance_bytes }
}

/// Puts the slot into the set or takes it out. `is_in` says whether it is there: asking the set itself would cost more
/// than all the rest of a visit.
fn keep(set: &mut BTreeSet<Slot>, is_in: &mut bool, wanted: bool, slot: Slot) {
    if wanted == *is_in {
        return;
    }
    *is_in = wanted;
    if wanted {
        set.insert(slot);
    } else {
        set.remove(&slot);
    }
}
