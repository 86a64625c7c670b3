//! Replays single calls and notices through the control plane, with a made executor and virtual time.
//!
//! The control plane is the real one. It is driven as the service drives it: what happens between two ticks is handed to
//! it at the next one, in order, then the tick with what the executor holds; then the executor is brought to the targets.
//!
//! Must not: tell the control plane what it could not know, or know how it decides.

pub mod keep_alive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::ledger::{Ledger, Outcome};
use super::shelf::{Changes, Instance, Shelf, Waiting};
use super::workload::{What, Workload};
use crate::config::{ChainsConfig, ForecastConfig, TargetConfig};
use crate::control::{Action, Control, Event};
use crate::forecast::chains::Evidence;
use crate::forecast::history::Model;
use crate::types::{FunctionName, StartKind, Status, Timestamp, WarmKind, WarmReason};

/// What the replay is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The forecaster's.
    pub forecast: ForecastConfig,
    /// The chains'.
    pub chains: ChainsConfig,
    /// The fleet's model.
    pub model: Model,
    /// The target's; its memory budget is what shares of the budget are relative to.
    pub target: TargetConfig,
    /// Time between two ticks; above zero.
    pub tick: Duration,
    /// The start cost: how long the preparation of an instance takes.
    pub prepare: Duration,
    /// What an instance holds, in bytes; at least 1.
    pub instance_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            forecast: ForecastConfig::default(),
            chains: ChainsConfig::default(),
            target: TargetConfig::default(),
            model: Model::shipped(),
            tick: Duration::from_millis(100),
            prepare: Duration::from_millis(400),
            instance_bytes: 8 << 20,
        }
    }
}

/// Replays a workload to its end, which is when its last call has ended.
pub fn run(workload: &Workload, settings: &Settings) -> Outcome {
    let Some((first, _)) = workload.happenings.first() else { return Outcome::default() };
    let mut replay = Replay::new(workload, settings, *first);
    for (at, what) in &workload.happenings {
        replay.pass_until(*at);
        replay.happens(*at, what);
    }
    replay.finish()
}

/// A call as the replay knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Coming {
    run: Duration,
    is_announced: bool,
}

/// What was begun and will end.
#[derive(Debug)]
enum Due {
    /// An instance is ready.
    Ready { function: usize, reason: WarmReason },
    /// A call ended.
    Ended { function: usize, instance: Instance, kind: StartKind, run: Duration },
}

/// How a call began that has come at `since`.
fn start_kind(instance: &Instance, since: Timestamp) -> StartKind {
    if instance.uses > 0 {
        StartKind::Warm
    } else if instance.ready_at <= since {
        StartKind::Prewarmed
    } else {
        StartKind::Linked
    }
}

struct Replay<'a> {
    workload: &'a Workload,
    settings: &'a Settings,
    control: Control,
    shelves: Vec<Shelf<Coming>>,
    /// Only for look-ups.
    places: HashMap<&'a FunctionName, usize>,
    /// Functions whose shelf may not be idle, in the order in which they became so.
    active: Vec<usize>,
    is_active: Vec<bool>,
    /// What will end, by time and then in the order in which it was begun.
    due: BTreeMap<(Timestamp, u64), Due>,
    begun: u64,
    /// Calls that have come and not ended.
    in_flight: usize,
    /// What the control plane will be told at the next tick.
    observed: Vec<Event>,
    next_tick: Timestamp,
    ledger: Ledger,
}

impl<'a> Replay<'a> {
    fn new(workload: &'a Workload, settings: &'a Settings, first: Timestamp) -> Self {
        let functions = &workload.functions;
        let mut replay = Self {
            workload,
            settings,
            control: Control::new(
                settings.forecast.clone(),
                &settings.chains,
                settings.target.clone(),
                settings.model.clone(),
            ),
            shelves: functions.iter().map(Shelf::new).collect(),
            places: functions.iter().enumerate().map(|(place, definition)| (&definition.name, place)).collect(),
            active: Vec::new(),
            is_active: vec![false; functions.len()],
            due: BTreeMap::new(),
            begun: 0,
            in_flight: 0,
            observed: functions
                .iter()
                .map(|definition| Event::FunctionDefined { definition: Arc::new(definition.clone()), since: first })
                .collect(),
            next_tick: first,
            ledger: Ledger::new(workload, settings, first),
        };
        // The control plane knows the functions before anything happens.
        replay.tick();
        replay
    }

    /// Lets everything happen that was begun, and every tick, before `until` (exclusive).
    fn pass_until(&mut self, until: Timestamp) {
        loop {
            let due = self.due.first_key_value().map_or(Timestamp::from_micros(i64::MAX), |((at, _), _)| *at);
            if due.min(self.next_tick) >= until {
                return;
            }
            // What ends at the moment of a tick is seen by it.
            if due > self.next_tick {
                self.tick();
            } else if let Some(((at, _), due)) = self.due.pop_first() {
                self.ends(at, due);
            }
        }
    }

    fn happens(&mut self, at: Timestamp, what: &What) {
        match what {
            What::Announced { notice, is_lie } => {
                self.ledger.announced(at, notice, *is_lie);
                self.observed.push(Event::PreTriggerReceived(notice.clone()));
            }
            What::Called { function, run, is_announced } => {
                let call = Coming { run: *run, is_announced: *is_announced };
                self.ledger.called(*function);
                self.in_flight += 1;
                self.observed
                    .push(Event::InvocationArrived { function: self.name(*function), evidence: Evidence::default() });
                self.activate(*function);
                match self.shelves[*function].submit(Waiting { since: at, call }) {
                    Ok(pair) => self.starts(at, *function, pair),
                    Err(on_demand) => self.prepare_on_demand(at, *function, on_demand),
                }
            }
        }
    }

    fn ends(&mut self, now: Timestamp, due: Due) {
        match due {
            Due::Ready { function, reason } => {
                let instance = Instance { reason, ready_at: now, idle_since: now, uses: 0 };
                if let Some(pair) = self.shelves[function].prepared(instance) {
                    self.starts(now, function, pair);
                }
            }
            Due::Ended { function, mut instance, kind, run } => {
                instance.idle_since = now;
                self.in_flight -= 1;
                let name = self.name(function);
                let (status, start_kind) = (Status::Ok, Some(kind));
                self.observed.push(Event::InvocationEnded { function: name, status, start_kind, execute: run });
                let (next, changes) = self.shelves[function].ended(instance);
                if let Some(pair) = next {
                    self.starts(now, function, pair);
                }
                if let Some(changes) = changes {
                    self.carry_out(now, function, changes);
                }
            }
        }
    }

    fn starts(&mut self, now: Timestamp, function: usize, (instance, waiting): (Instance, Waiting<Coming>)) {
        let kind = start_kind(&instance, waiting.since);
        let Coming { run, is_announced } = waiting.call;
        let first_use = (instance.uses == 0).then_some(&instance.reason);
        self.ledger.started(function, (kind, now.since(waiting.since)), is_announced, first_use);
        self.begin(now + run, Due::Ended { function, instance, kind, run });
    }

    /// One turn of the control plane, as the service's thread does it.
    fn tick(&mut self) {
        let now = self.next_tick;
        self.next_tick = now + self.settings.tick;
        let (shelves, is_active) = (&self.shelves, &mut self.is_active);
        self.active.retain(|&function| {
            is_active[function] = !shelves[function].is_idle();
            is_active[function]
        });
        let mut usage = Vec::with_capacity(self.active.len());
        for place in 0..self.active.len() {
            let function = self.active[place];
            usage.push((self.name(function), self.shelves[function].look(self.settings.instance_bytes)));
        }
        let mut actions = Vec::new();
        for event in std::mem::take(&mut self.observed) {
            self.control.handle(now, event, &mut actions);
        }
        self.control.handle(now, Event::Ticked { usage }, &mut actions);
        for action in actions {
            self.act(now, action);
        }
        for place in 0..self.active.len() {
            let function = self.active[place];
            let changes = self.shelves[function].reconcile();
            self.carry_out(now, function, changes);
        }
        let shelves = self.active.iter().map(|&function| &self.shelves[function]);
        self.ledger.held(now, shelves.map(|shelf| (shelf.ready(), shelf.target())));
    }

    fn activate(&mut self, function: usize) {
        if !std::mem::replace(&mut self.is_active[function], true) {
            self.active.push(function);
        }
    }

    fn act(&mut self, now: Timestamp, action: Action) {
        match action {
            Action::SetTarget { function, target } => {
                let Some(&place) = self.places.get(&function) else { return };
                self.ledger.targeted(place, self.shelves[place].target(), &target);
                self.shelves[place].set_target(target);
                self.activate(place);
                let changes = self.shelves[place].reconcile();
                self.carry_out(now, place, changes);
            }
            Action::JudgedPreTrigger { source, verdict, .. } => self.ledger.judged(source, verdict),
            Action::RefusedFunction { .. } => self.ledger.refused(),
            // The ledger knows the truth; what the forecaster makes of a notice is not asked.
            Action::PreTriggerEnded(_)
            | Action::KeepSnapshot(_)
            | Action::ForgetSnapshot(_)
            | Action::RestoredSnapshots(_) => {}
        }
    }

    fn carry_out(&mut self, now: Timestamp, function: usize, changes: Changes) {
        self.prepare_on_demand(now, function, changes.on_demand);
        for reason in changes.ahead {
            self.ledger.prepared(&reason);
            self.begin(now + self.settings.prepare, Due::Ready { function, reason });
        }
    }

    fn prepare_on_demand(&mut self, now: Timestamp, function: usize, instances: u32) {
        for _ in 0..instances {
            let reason = WarmReason { kind: WarmKind::Invocation, detail: None };
            self.ledger.prepared(&reason);
            self.begin(now + self.settings.prepare, Due::Ready { function, reason });
        }
    }

    fn begin(&mut self, ends_at: Timestamp, due: Due) {
        self.due.insert((ends_at, self.begun), due);
        self.begun += 1;
    }

    /// Lets the calls that run and wait come to their end; ticks go on meanwhile.
    fn finish(mut self) -> Outcome {
        while self.in_flight > 0 {
            self.pass_until(self.next_tick + Duration::from_micros(1));
        }
        self.ledger.finish(self.next_tick)
    }

    fn name(&self, function: usize) -> FunctionName {
        self.workload.functions[function].name.clone()
    }
}
