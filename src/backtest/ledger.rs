//! The account of one replay of single calls: how they began, and what was held for whom.
//!
//! Must not: change what it accounts for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::events::Settings;
use super::workload::Workload;
use crate::forecast::Verdict;
use crate::types::{FunctionName, PreTrigger, StartKind, Timestamp, WarmKind, WarmReason, WarmTarget};

/// Notices after which a source should be known for what it is.
pub const NOTICES_TO_LEARN: u64 = 50;

/// How calls began.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize)]
pub struct Starts {
    /// In an instance that had served a call before.
    pub warm: u64,
    /// In an instance that was there before the call, as its first use.
    pub prewarmed: u64,
    /// After waiting for an instance to be prepared.
    pub linked: u64,
    /// What all calls together waited for an instance, in seconds.
    pub waited_s: f64,
}

impl Starts {
    /// All calls that began.
    pub fn calls(&self) -> u64 {
        self.warm + self.prewarmed + self.linked
    }

    /// The share of calls that found an instance ready; `None` where there was no call.
    pub fn ready_share(&self) -> Option<f64> {
        (self.calls() > 0).then(|| (self.warm + self.prewarmed) as f64 / self.calls() as f64)
    }

    /// These and others together.
    pub(super) fn and(&self, others: &Self) -> Self {
        Self {
            warm: self.warm + others.warm,
            prewarmed: self.prewarmed + others.prewarmed,
            linked: self.linked + others.linked,
            waited_s: self.waited_s + others.waited_s,
        }
    }

    pub(super) fn add(&mut self, kind: StartKind, waited: Duration) {
        match kind {
            StartKind::Warm => self.warm += 1,
            StartKind::Prewarmed => self.prewarmed += 1,
            StartKind::Linked | StartKind::Loaded | StartKind::Cold => self.linked += 1,
        }
        self.waited_s += waited.as_secs_f64();
    }
}

/// On whose behalf instances were prepared and held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A call that waited.
    Call,
    /// The function's floor.
    Floor,
    /// The function's history.
    History,
    /// Notices of this source.
    Source(String),
    /// A chain from this function.
    Chain(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call => f.write_str("waiting calls"),
            Self::Floor => f.write_str("the floor"),
            Self::History => f.write_str("history"),
            Self::Source(source) => write!(f, "notices of {source}"),
            Self::Chain(from) => write!(f, "the chain from {from}"),
        }
    }
}

/// What was prepared and held on one cause's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Account {
    /// Instances that were prepared.
    pub prepared: u64,
    /// Those of them that served a call.
    pub used: u64,
    /// Ready instance-seconds held, as seen at each tick.
    pub held_s: f64,
}

/// What one source announced, and what was held for what did not come.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Source {
    /// Its notices.
    pub notices: u64,
    /// Those that no call followed.
    pub lies: u64,
    /// What the control plane said of them, and how often.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Ready instance-seconds held for lies.
    pub lies_held_s: f64,
    /// The part of it after [`NOTICES_TO_LEARN`] notices.
    pub lies_held_late_s: f64,
    /// When that many had come, and what had been held for anybody until then, in instance-seconds.
    known: Option<(Timestamp, f64)>,
    /// From then to the end, in seconds.
    pub late_s: f64,
    /// What was held for anybody from then to the end, in instance-seconds.
    pub late_held_s: f64,
}

/// A chain that acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Calls of the announcing function until it first acted, that one included.
    pub first_acted_at: u64,
    /// How often it began to act.
    pub acted: u64,
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Outcome {
    /// How long it lasted, in seconds.
    pub lasted_s: f64,
    /// Calls that a notice had announced.
    pub announced: Starts,
    /// All others.
    pub unannounced: Starts,
    /// The same calls by function, in the order of the workload.
    pub by_function: Vec<Starts>,
    /// What was prepared and held, by cause.
    pub accounts: BTreeMap<Cause, Account>,
    /// Who announced.
    pub sources: BTreeMap<String, Source>,
    /// Which chain acted, from and to.
    pub edges: BTreeMap<(FunctionName, FunctionName), Edge>,
    /// Functions that the control plane refused.
    pub functions_refused: u64,
}

/// See the head of this file.
pub(super) struct Ledger {
    began: Timestamp,
    tick_s: f64,
    names: Vec<FunctionName>,
    places: HashMap<FunctionName, usize>,
    calls: Vec<u64>,
    /// Whose a notice is, and whether it is a lie, by its id.
    notices: HashMap<String, (String, bool)>,
    /// Instance-seconds held for anybody.
    held_s: f64,
    outcome: Outcome,
}

impl Ledger {
    pub(super) fn new(workload: &Workload, settings: &Settings, began: Timestamp) -> Self {
        let names: Vec<FunctionName> = workload.functions.iter().map(|definition| definition.name.clone()).collect();
        Self {
            began,
            tick_s: settings.tick.as_secs_f64(),
            places: names.iter().cloned().zip(0..).collect(),
            calls: vec![0; names.len()],
            notices: HashMap::new(),
            held_s: 0.0,
            outcome: Outcome { by_function: vec![Starts::default(); names.len()], ..Outcome::default() },
            names,
        }
    }

    pub(super) fn announced(&mut self, now: Timestamp, notice: &PreTrigger, is_lie: bool) {
        self.notices.insert(notice.id.clone(), (notice.source.clone(), is_lie));
        let source = self.outcome.sources.entry(notice.source.clone()).or_default();
        source.notices += 1;
        source.lies += u64::from(is_lie);
        if source.notices == NOTICES_TO_LEARN {
            source.known = Some((now, self.held_s));
        }
    }

    pub(super) fn judged(&mut self, source: String, verdict: Verdict) {
        *self.outcome.sources.entry(source).or_default().verdicts.entry(verdict.as_str()).or_default() += 1;
    }

    pub(super) fn refused(&mut self) {
        self.outcome.functions_refused += 1;
    }

    pub(super) fn called(&mut self, function: usize) {
        self.calls[function] += 1;
    }

    pub(super) fn prepared(&mut self, reason: &WarmReason) {
        self.account(reason).prepared += 1;
    }

    /// A call began. `first_use` has the reason of an instance that had served none before.
    pub(super) fn started(
        &mut self,
        function: usize,
        (kind, waited): (StartKind, Duration),
        is_announced: bool,
        first_use: Option<&WarmReason>,
    ) {
        let outcome = &mut self.outcome;
        let starts = if is_announced { &mut outcome.announced } else { &mut outcome.unannounced };
        starts.add(kind, waited);
        outcome.by_function[function].add(kind, waited);
        if let Some(reason) = first_use {
            self.account(reason).used += 1;
        }
    }

    /// A function's target changed.
    pub(super) fn targeted(&mut self, function: usize, before: &WarmTarget, after: &WarmTarget) {
        let chains = |target: &WarmTarget| -> Vec<String> {
            let chains = target.parts.iter().filter(|part| part.reason.kind == WarmKind::Chain);
            chains.filter_map(|part| part.reason.detail.clone()).collect()
        };
        let acted_before = chains(before);
        for from in chains(after).into_iter().filter(|from| !acted_before.contains(from)) {
            let Some(&place) = self.places.get(from.as_str()) else { continue };
            let key = (self.names[place].clone(), self.names[function].clone());
            let first_acted_at = self.calls[place];
            self.outcome.edges.entry(key).or_insert(Edge { first_acted_at, acted: 0 }).acted += 1;
        }
    }

    /// What is held from this tick to the next: ready instances and the target of each function, which says for whom.
    pub(super) fn held<'t>(&mut self, now: Timestamp, shelves: impl Iterator<Item = (u32, &'t WarmTarget)>) {
        for (ready, target) in shelves {
            let mut below = 0;
            for part in &target.parts {
                let reaches = part.instances.min(ready);
                let held_s = f64::from(reaches.saturating_sub(below)) * self.tick_s;
                below = below.max(reaches);
                if held_s > 0.0 {
                    self.hold(now, &part.reason, held_s);
                }
            }
        }
    }

    fn hold(&mut self, now: Timestamp, reason: &WarmReason, held_s: f64) {
        self.held_s += held_s;
        self.account(reason).held_s += held_s;
        let lie = reason.detail.as_ref().and_then(|id| self.notices.get(id)).filter(|(_, is_lie)| *is_lie);
        let Some((name, _)) = lie.filter(|_| reason.kind == WarmKind::PreTrigger) else { return };
        let Some(source) = self.outcome.sources.get_mut(name) else { return };
        source.lies_held_s += held_s;
        if source.known.is_some_and(|(known_at, _)| known_at <= now) {
            source.lies_held_late_s += held_s;
        }
    }

    /// The outcome, once the last call has ended.
    pub(super) fn finish(mut self, now: Timestamp) -> Outcome {
        self.outcome.lasted_s = now.since(self.began).as_secs_f64();
        for source in self.outcome.sources.values_mut() {
            if let Some((known_at, held_before_s)) = source.known {
                source.late_s = now.since(known_at).as_secs_f64();
                source.late_held_s = self.held_s - held_before_s;
            }
        }
        self.outcome
    }

    fn account(&mut self, reason: &WarmReason) -> &mut Account {
        let detail = || reason.detail.clone().unwrap_or_default();
        let cause = match reason.kind {
            WarmKind::Invocation => Cause::Call,
            WarmKind::Floor | WarmKind::Schedule => Cause::Floor,
            WarmKind::History => Cause::History,
            WarmKind::Chain => Cause::Chain(detail()),
            WarmKind::PreTrigger => {
                let id = detail();
                Cause::Source(self.notices.get(&id).map_or(id, |(source, _)| source.clone()))
            }
        };
        self.outcome.accounts.entry(cause).or_default()
    }
}
