//! What is coming: from the pre-triggers and calls of each function, the demand that it will have.
//!
//! It stands between the events and the target rule: `control` feeds it every event and asks it, each tick, for the
//! demand of the functions whose demand may have changed. What it believes, in this version:
//!
//! - **Notices** (pre-triggers that act): a notice announces calls from its start (less the lead) to its end. How many
//!   of them come, when, and how many at once is learned from what its source announced before (`sources`). A call that
//!   comes is taken off one notice (`notices`): it is no longer to come. Each pre-trigger ends with one outcome.
//! - **Chains** (`chains`): a call of A announces calls of what has followed A often enough.
//! - **History**: once a minute the fleet's model says how likely each number of instances is in use at once in the next
//!   minute, by the function's record (`history`). Beside it, what was in use at once within the last `history-window` is
//!   held for what happens within a minute (`peaks`).
//!
//! Bounds: functions, notices, sources and what is known of them by configuration, 256 notices a function, 256 bytes an
//! id, 12 buckets of history a function. An event costs O(log functions + notices of its function); a look costs as
//! `agenda` says.
//!
//! Must not: read a clock, decide how many instances to hold (that is `target`'s), or walk every function.

mod agenda;
mod asking;
mod chained;
pub mod chains;
mod counters;
mod ends;
pub mod history;
mod judge;
mod notices;
mod origin;
#[cfg(test)]
mod outcomes;
mod past;
mod peaks;
mod ruled;
mod share;
mod snapshot;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use counters::Counters;
pub use origin::Origin;
pub use share::Share;
pub use snapshot::{RestoreError, Restored};
pub use verdict::{Criterion, Verdict};

use self::agenda::Agenda;
pub(crate) use self::agenda::Slot;
use self::asking::Asking;
use self::chained::{Chained, yields};
use self::chains::{Announcement, Chains, EdgeView, Evidence};
use self::ends::{at_once, settle};
use self::history::Model;
use self::judge::{Case, judge};
use self::notices::Notices;
use self::past::{Newcomers, Past};
use self::peaks::{BUCKETS, Peaks};
use self::ruled::Ruled;
use self::snapshot::Round;
use self::sources::Sources;
pub(crate) use self::table::Table;
use crate::config::{ChainsConfig, ForecastConfig};
use crate::types::{
    Demand, FunctionDefinition, FunctionName, Notice, OutcomeKind, PoolUsage, PreTrigger, PreTriggerOutcome, Timestamp,
    WarmKind,
};

/// What the forecaster cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The function is not known to the forecaster: it gets no target, and its pre-triggers are refused.
    #[error("function {function} gets no forecast: {limit} functions are known already (raise forecast.functions-max)")]
    TooManyFunctions {
        /// The function that was defined.
        function: FunctionName,
        /// The bound that is reached.
        limit: u32,
    },
}

/// What is known of one function.
#[derive(Debug)]
struct Function {
    /// Never given twice, so that what is known of a pair of source and function dies with the function.
    serial: u64,
    /// Shared with everybody else who has it.
    definition: Arc<FunctionDefinition>,
    notices: Notices,
    peaks: Peaks,
    past: Past,
    chained: Chained,
    /// As the last look saw it, and moved by arrivals and ends since.
    in_flight: u32,
    last_arrival: Option<Timestamp>,
    /// When something may last have been learned of it.
    learned_at: Option<Timestamp>,
    /// Whether it is among `Forecaster::announced`.
    is_announced: bool,
    /// Whether it is among `Forecaster::untimed`.
    is_untimed: bool,
    /// The look in which it was observed last.
    look: u64,
}

/// Every function's notices and history.
#[derive(Debug)]
pub struct Forecaster {
    config: ForecastConfig,
    /// Width of one bucket of history, in µs; at least 1.
    bucket_micros: i64,
    functions: Table<Function>,
    agenda: Agenda,
    sources: Sources,
    share: Share,
    model: Model,
    newcomers: Newcomers,
    /// Absent where chains are switched off.
    chains: Option<Chains>,
    ruled: Ruled,
    round: Round,
    /// Reused from call to call.
    announcements: Vec<Announcement>,
    asking: Asking,
    /// Functions that hold notices.
    announced: BTreeSet<Slot>,
    /// Functions whose notices have changed since the last look. Their timers are set at the next one, and not at each
    /// notice, because most notices would move them.
    untimed: Vec<Slot>,
    outcomes: Vec<PreTriggerOutcome>,
    /// Functions defined so far.
    serial: u64,
    /// Functions with calls in flight.
    busy: BTreeSet<Slot>,
    /// Number of the look that is under way, from 1.
    look: u64,
    counters: Counters,
}

impl Forecaster {
    /// A forecaster that knows nothing yet.
    pub fn new(config: ForecastConfig, chains: &ChainsConfig, model: Model) -> Self {
        let window_micros = i64::try_from(config.history_window.as_micros()).unwrap_or(i64::MAX);
        Self {
            bucket_micros: (window_micros / BUCKETS as i64).max(1),
            functions: Table::new(config.functions_max.get()),
            sources: Sources::new(&config),
            share: Share::WHOLE,
            model,
            newcomers: Newcomers::new(config.newcomer_share as f32),
            chains: chains.enabled.then(|| Chains::new(chains)),
            ruled: Ruled::default(),
            round: Round::default(),
            announcements: Vec::new(),
            asking: Asking::default(),
            config,
            agenda: Agenda::default(),
            announced: BTreeSet::new(),
            untimed: Vec::new(),
            outcomes: Vec::new(),
            serial: 0,
            busy: BTreeSet::new(),
            look: 1,
            counters: Counters::default(),
        }
    }

    /// Gets to know a function, or its new definition: notices and history stay, new criteria hold for notices to come.
    /// `since` is when it was defined, which matters for one that was never called.
    ///
    /// # Errors
    /// Where it is new and `functions-max` are known.
    pub fn define(
        &mut self,
        now: Timestamp,
        since: Timestamp,
        definition: impl Into<Arc<FunctionDefinition>>,
    ) -> Result<(), Error> {
        let definition = definition.into();
        let slot = if let Some((slot, function)) = self.functions.find_mut(&definition.name) {
            function.definition = Arc::clone(&definition);
            slot
        } else {
            self.serial += 1;
            let mut function = Function::new(since.min(now), self.serial, Arc::clone(&definition));
            function.past.look_ahead(now, 0, &self.model, &mut self.newcomers);
            self.functions.insert(definition.name.clone(), function).ok_or_else(|| Error::TooManyFunctions {
                function: definition.name.clone(),
                limit: self.config.functions_max.get(),
            })?
        };
        if let Some(chains) = &mut self.chains {
            self.ruled.define(chains, &self.functions, slot, &definition.name, &definition.chains);
        }
        self.agenda.touch(slot);
        Ok(())
    }

    /// Forgets a function with all its notices and history; `false` where it is not known. Its notices end with what
    /// came until now.
    pub fn remove(&mut self, now: Timestamp, name: &FunctionName) -> bool {
        let Some((slot, mut function)) = self.functions.remove(name) else { return false };
        let mut ended = Vec::new();
        function.notices.end_all(&mut self.sources, &mut ended);
        settle(now, name, ended, &mut self.sources, &mut self.outcomes);
        self.busy.remove(&slot);
        self.announced.remove(&slot);
        self.agenda.forget(slot);
        self.ruled.remove(slot);
        if let Some(chains) = &mut self.chains {
            chains.forget(slot);
        }
        true
    }

    /// Judges a pre-trigger, and holds it if it counts. What does not count ends at once; see [`Self::take_outcomes`].
    ///
    /// Senders' clocks are not ours. Without `not_before` its life is counted from `emitted_at` or from now, whichever
    /// is earlier; its end is never later than `window-max` from now. An id means one notice of one source and function.
    pub fn pre_trigger(&mut self, now: Timestamp, pre_trigger: &PreTrigger) -> Verdict {
        let name = &pre_trigger.function;
        let Some((slot, function)) = self.functions.find_mut(name) else {
            let verdict = Verdict::Refused(Criterion::UnknownFunction);
            self.outcomes.extend(at_once(now, pre_trigger, verdict));
            return verdict;
        };
        let mut ended = Vec::new();
        function.notices.end(now, self.config.late_grace, &mut self.sources, &mut ended);
        let share = self.share;
        let case = Case { now, config: &self.config, share, function, sources: &mut self.sources, ended: &mut ended };
        let verdict = judge(case, pre_trigger);
        function.learned_at = ended.first().map(|_| now).or(function.learned_at);
        self.counters.ids_forgotten +=
            ended.iter().filter(|ended| ended.kind == OutcomeKind::Hit && now < ended.held.expires_at).count() as u64;
        if matches!(verdict, Verdict::Accepted | Verdict::Pending | Verdict::Replaced | Verdict::Withdrawn) {
            if !std::mem::replace(&mut function.is_untimed, true) {
                self.untimed.push(slot);
            }
            self.agenda.touch(slot);
        }
        if !function.is_announced && !function.notices.is_empty() {
            function.is_announced = true;
            self.announced.insert(slot);
        }
        settle(now, name, ended, &mut self.sources, &mut self.outcomes);
        self.outcomes.extend(at_once(now, pre_trigger, verdict));
        verdict
    }

    /// Notes that a pre-trigger may not come from where it came; see [`Origin::admit`].
    pub fn refuse(&mut self, now: Timestamp, pre_trigger: &PreTrigger, criterion: Criterion) -> Verdict {
        let verdict = Verdict::Refused(criterion);
        self.outcomes.extend(at_once(now, pre_trigger, verdict));
        verdict
    }

    /// A call came: it is in flight, one of the notices that announced it announces one call less, and it may itself
    /// announce calls of other functions. `evidence` says what it belongs to.
    pub fn arrived(&mut self, now: Timestamp, name: &FunctionName, evidence: Evidence) {
        let Some((slot, function)) = self.functions.find_mut(name) else {
            self.counters.unknown_function_events += 1;
            return;
        };
        function.in_flight = function.in_flight.saturating_add(1);
        (function.last_arrival, function.learned_at) = (Some(now), Some(now));
        function.past.uses(now, function.in_flight, function.in_flight);
        function.chained.came(now);
        self.busy.insert(slot);
        self.agenda.touch(slot);
        if !function.notices.is_empty() {
            let mut ended = Vec::new();
            let (grace, in_flight) = (self.config.late_grace, function.in_flight);
            function.notices.count_arrival(now, grace, in_flight, &mut self.sources, &mut ended);
            settle(now, name, ended, &mut self.sources, &mut self.outcomes);
        }
        self.follow(now, slot, evidence);
    }

    /// What a call says of others.
    fn follow(&mut self, now: Timestamp, slot: Slot, evidence: Evidence) {
        let Some(chains) = &mut self.chains else { return };
        chains.arrived(now, slot, evidence, &mut self.announcements);
        for Announcement { to, probability, latest, .. } in self.announcements.drain(..) {
            let Some(function) = self.functions.row_mut(to) else { continue };
            let until = now + latest;
            function.chained.expect(now, slot, probability, until);
            self.agenda.touch(to);
            self.agenda.wake_at(to, until);
        }
    }

    /// A call ended that ran for `run`, whatever came of it.
    pub fn ended(&mut self, now: Timestamp, name: &FunctionName, run: Duration) {
        let Some((slot, function)) = self.functions.find_mut(name) else {
            self.counters.unknown_function_events += 1;
            return;
        };
        (function.in_flight, function.learned_at) = (function.in_flight.saturating_sub(1), Some(now));
        function.past.ran(now, run, function.in_flight);
        if function.in_flight == 0 {
            self.busy.remove(&slot);
        }
        self.agenda.touch(slot);
    }

    /// What a look at the pool saw of one function. Its count of calls in flight replaces our own, and its peak is
    /// history. Call [`Self::looked`] after the last function of a look.
    pub fn observed(&mut self, now: Timestamp, name: &FunctionName, usage: &PoolUsage) {
        let Some((slot, function)) = self.functions.find_mut(name) else {
            self.counters.unknown_function_events += 1;
            return;
        };
        let in_flight = usage.busy.saturating_add(usage.waiting);
        let peak = usage.in_flight_peak.max(in_flight);
        function.look = self.look;
        if peak > 0 {
            function.learned_at = Some(now);
            function.past.uses(now, peak, in_flight);
            let before = function.peaks.max(now, self.bucket_micros);
            function.peaks.record(now, self.bucket_micros, peak);
            if function.peaks.max(now, self.bucket_micros) != before {
                self.agenda.touch(slot);
            }
            if let Some(at) = function.peaks.falls_at(now, self.bucket_micros) {
                self.agenda.wake_at(slot, at);
            }
        }
        if in_flight != function.in_flight {
            function.in_flight = in_flight;
            self.agenda.touch(slot);
        }
        if in_flight > 0 {
            self.busy.insert(slot);
        } else {
            self.busy.remove(&slot);
        }
    }

    /// The look is over: a function that it did not list has no call in flight. This heals a lost end of a call.
    pub fn looked(&mut self) {
        let (functions, agenda, look) = (&mut self.functions, &mut self.agenda, self.look);
        self.busy.retain(|&slot| match functions.row_mut(slot) {
            Some(function) if function.look == look => true,
            Some(function) => {
                function.in_flight = 0;
                agenda.touch(slot);
                false
            }
            None => false,
        });
        self.look += 1;
    }

    /// Takes the functions whose demand may have changed since the last time, by an event or by time alone; each once,
    /// in an order that depends on the events alone. A function that is not among them has the demand that it had,
    /// unless the clock was set back since; then it is among them when its time has come again.
    pub fn take_changed(&mut self, now: Timestamp) -> Vec<FunctionName> {
        self.look_ahead(now);
        for slot in std::mem::take(&mut self.untimed) {
            self.wake(now, slot);
        }
        while let Some(slot) = self.agenda.take_due(now) {
            self.wake(now, slot);
        }
        let news = self.sources.take_news();
        if !news.is_empty() {
            for &slot in &self.announced {
                let function = self.functions.row(slot).map(|(_, function)| function);
                if function.is_some_and(|function| function.notices.has_any_of(&news)) {
                    self.agenda.touch(slot);
                }
            }
        }
        let touched = self.agenda.take_touched();
        touched.into_iter().filter_map(|slot| Some(self.functions.row(slot)?.0.clone())).collect()
    }

    /// The learned chains that lead away from one function, or all: each with its first function and its last.
    pub fn chains(&self, now: Timestamp, from: Option<&FunctionName>) -> Vec<(FunctionName, FunctionName, EdgeView)> {
        let Some(chains) = &self.chains else { return Vec::new() };
        let slot = from.map(|from| self.functions.find(from).map(|(slot, _)| slot));
        let edges = match slot {
            Some(None) => Vec::new(),
            Some(slot @ Some(_)) => chains.edges(now, slot),
            None => chains.edges(now, None),
        };
        let name = |slot| self.functions.row(slot).map(|(name, _)| name.clone());
        edges.into_iter().filter_map(|edge| Some((name(edge.from)?, name(edge.to)?, edge))).collect()
    }

    /// The functions from which learned chains lead away, in no order.
    pub fn chained(&self) -> impl Iterator<Item = &FunctionName> {
        let slots = self.chains.iter().flat_map(Chains::begun);
        slots.filter_map(|slot| self.functions.row(slot).map(|(name, _)| name))
    }

    /// What time does to a function: notices begin and end, history falls.
    fn wake(&mut self, now: Timestamp, slot: Slot) {
        let Some((name, function)) = self.functions.named_row_mut(slot) else { return };
        let (grace, mut ended) = (self.config.late_grace, Vec::new());
        function.notices.begin(now, function.in_flight);
        function.notices.end(now, grace, &mut self.sources, &mut ended);
        function.learned_at = ended.first().map(|_| now).or(function.learned_at);
        settle(now, name, ended, &mut self.sources, &mut self.outcomes);
        if function.is_announced && function.notices.is_empty() {
            function.is_announced = false;
            self.announced.remove(&slot);
        }
        function.is_untimed = false;
        function.chained.purge(now);
        let chained = function.chained.next_change();
        let next = function.notices.next_change(now, grace);
        let falls = function.peaks.falls_at(now, self.bucket_micros);
        // Strictly later: at the end of time itself a timer for now would be due for ever.
        if let Some(at) = next.into_iter().chain(falls).chain(chained).filter(|&at| at > now).min() {
            self.agenda.wake_at(slot, at);
        }
        self.agenda.touch(slot);
    }

    /// Notes for which notices the function's target has a part of its own: `asking` has their places, rising, in the notices of the
    /// function's [`demand`](Self::demand) at the same `now`. A place says which notice is meant where an id does not: two sources may
    /// use the same one. Without this, a notice that brings no call counts as `expired`, and not as `wasted`.
    /// Says whether the function's demand may be another one for that.
    pub fn asked(&mut self, now: Timestamp, name: &FunctionName, asking: impl Iterator<Item = usize>) -> bool {
        let Some((_, function)) = self.functions.find_mut(name).filter(|(_, function)| !function.notices.is_empty())
        else {
            return false;
        };
        // Chains' shares come behind them.
        function.notices.ask(now, asking)
    }

    /// Takes the outcomes that became known since the last time.
    pub fn take_outcomes(&mut self) -> Vec<PreTriggerOutcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// The demand of a function now; nothing at all for one that is not known.
    pub fn demand(&self, now: Timestamp, name: &FunctionName) -> Demand {
        let Some((_, function)) = self.functions.find(name) else { return Demand::default() };
        let mut notices: Vec<Notice> = function.notices.acting(now, &self.sources).collect();
        // A call that a pre-trigger announces too is one call.
        let announced = notices.iter().map(|notice| notice.calls).sum::<f64>().ceil() as usize;
        notices.extend(function.chained.shares(now, announced).into_iter().filter_map(|share| {
            let (name, _) = self.functions.row(share.from)?;
            Some(Notice {
                kind: WarmKind::Chain,
                id: name.to_string(),
                calls: f64::from(share.calls),
                yields: yields(share.calls, share.probability),
                expires_at: share.until,
            })
        }));
        Demand {
            history: f64::from(function.peaks.max(now, self.bucket_micros)),
            outlook: function.past.outlook().to_vec(),
            notices,
            in_flight: function.in_flight,
        }
    }

    /// What was passed over.
    pub fn counters(&self) -> Counters {
        Counters { sources_forgotten: self.sources.forgotten(), ..self.counters }
    }

    /// Pre-triggers held now over all functions, those included that ended since the last look, and those that may
    /// still turn out late.
    pub fn notices_held(&self) -> usize {
        self.sources.notices()
    }
}

impl Function {
    fn new(now: Timestamp, serial: u64, definition: Arc<FunctionDefinition>) -> Self {
        Self {
            serial,
            definition,
            notices: Notices::default(),
            peaks: Peaks::default(),
            past: Past::new(now),
            chained: Chained::default(),
            in_flight: 0,
            last_arrival: None,
            learned_at: None,
            is_announced: false,
            is_untimed: false,
            look: 0,
        }
    }
}
