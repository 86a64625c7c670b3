//! What is coming: from the pre-triggers and calls of each function, the demand that it will have.
//!
//! It stands between the events and the target rule: `control` feeds it every event and asks it, each tick, for the
//! demand of the functions whose demand may have changed. What it believes, in this version:
//!
//! - **Notices** (pre-triggers that act): a notice announces expected × confidence calls from its start (less the lead)
//!   to its end. A call that comes is taken off the oldest live notice: it is no longer to come.
//! - **History**: the instances that were in use at once within the last `history-window` will be in use at once again.
//!   This is the windowed maximum of calls in flight (running and waiting). The mean, arrival rate × mean run time (J.
//!   D. C. Little, "A Proof for the Queuing Formula L = λW", 1961), is never above that maximum, so it would add
//!   nothing to it.
//!
//! Bounds: functions and notices by configuration, 256 notices a function, 256 bytes an id, 12 buckets of history a
//! function. An event costs O(log functions + notices of its function); a look costs as `agenda` says.
//!
//! Must not: read a clock, decide how many instances to hold (that is `target`'s), or walk every function.

mod agenda;
pub mod chains;
pub mod history;
mod notices;
mod peaks;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeSet;
use std::time::Duration;

pub use verdict::{Criterion, Verdict};

use self::agenda::{Agenda, Slot};
use self::notices::{Held, Notices, Put};
use self::peaks::{BUCKETS, Peaks};
use self::table::Table;
use crate::config::ForecastConfig;
use crate::types::{Criteria, Demand, FunctionDefinition, FunctionName, PoolUsage, PreTrigger, Timestamp};

/// The longest id of a pre-trigger that is held, in bytes (inclusive).
const ID_BYTES_MAX: usize = 256;

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

/// What the forecaster passed over since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Arrivals, ends and looks of functions that are not defined.
    pub unknown_function_events: u64,
    /// Spent notices that were forgotten before their end, to make room: if one is read again, it counts as new.
    pub ids_forgotten: u64,
}

/// What is known of one function.
#[derive(Debug)]
struct Function {
    criteria: Criteria,
    enabled: bool,
    notices: Notices,
    peaks: Peaks,
    /// As the last look saw it, and moved by arrivals and ends since.
    in_flight: u32,
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
    notices_held: usize,
    /// Functions with calls in flight.
    busy: BTreeSet<Slot>,
    /// Number of the look that is under way, from 1.
    look: u64,
    counters: Counters,
}

impl Forecaster {
    /// A forecaster that knows nothing yet.
    pub fn new(config: ForecastConfig) -> Self {
        let window_micros = i64::try_from(config.history_window.as_micros()).unwrap_or(i64::MAX);
        Self {
            bucket_micros: (window_micros / BUCKETS as i64).max(1),
            functions: Table::new(config.functions_max.get()),
            config,
            agenda: Agenda::default(),
            notices_held: 0,
            busy: BTreeSet::new(),
            look: 1,
            counters: Counters::default(),
        }
    }

    /// Gets to know a function, or its new definition: notices and history stay, new criteria hold for notices to come.
    ///
    /// # Errors
    /// Where it is new and `functions-max` are known.
    pub fn define(&mut self, definition: &FunctionDefinition) -> Result<(), Error> {
        let criteria = definition.pre_trigger.clone();
        let enabled = definition.enabled;
        let slot = if let Some((slot, function)) = self.functions.find_mut(&definition.name) {
            (function.criteria, function.enabled) = (criteria, enabled);
            slot
        } else {
            let (notices, peaks) = (Notices::default(), Peaks::default());
            let function = Function { criteria, enabled, notices, peaks, in_flight: 0, look: 0 };
            self.functions.insert(definition.name.clone(), function).ok_or_else(|| Error::TooManyFunctions {
                function: definition.name.clone(),
                limit: self.config.functions_max.get(),
            })?
        };
        self.agenda.touch(slot);
        Ok(())
    }

    /// Forgets a function with all its notices and history; `false` where it is not known.
    pub fn remove(&mut self, name: &FunctionName) -> bool {
        let Some((slot, function)) = self.functions.remove(name) else { return false };
        self.notices_held -= function.notices.len();
        self.busy.remove(&slot);
        self.agenda.forget(slot);
        true
    }

    /// Judges a pre-trigger, and holds it if it counts.
    ///
    /// Senders' clocks are not ours. Without `not_before` its life is counted from `emitted_at` or from now, whichever
    /// is earlier; its end is never later than `window-max` from now.
    pub fn pre_trigger(&mut self, now: Timestamp, pre_trigger: &PreTrigger) -> Verdict {
        let Some((slot, function)) = self.functions.find_mut(&pre_trigger.function) else {
            return Verdict::Refused(Criterion::UnknownFunction);
        };
        // Those of this function that have ended count neither against its bound nor against that of all.
        let before = function.notices.len();
        function.notices.purge(now);
        self.notices_held -= before - function.notices.len();
        let held_others = self.notices_held - function.notices.len();
        let room = self.notices_held < self.config.notices_max.get() as usize;
        let verdict = take(&self.config, &mut self.counters, now, function, pre_trigger, room);
        self.notices_held = held_others + function.notices.len();
        if !matches!(verdict, Verdict::Refused(_) | Verdict::Late | Verdict::UnknownWithdrawal) {
            self.agenda.touch(slot);
            if let Some(at) = function.notices.next_change(now) {
                self.agenda.wake_at(slot, at);
            }
        }
        verdict
    }

    /// A call came: it is in flight, and the oldest live notice announces one call less.
    pub fn arrived(&mut self, now: Timestamp, name: &FunctionName) {
        let Some((slot, function)) = self.functions.find_mut(name) else {
            self.counters.unknown_function_events += 1;
            return;
        };
        function.notices.count_arrival(now);
        function.in_flight = function.in_flight.saturating_add(1);
        self.busy.insert(slot);
        self.agenda.touch(slot);
    }

    /// A call ended, whatever came of it.
    pub fn ended(&mut self, name: &FunctionName) {
        let Some((slot, function)) = self.functions.find_mut(name) else {
            self.counters.unknown_function_events += 1;
            return;
        };
        function.in_flight = function.in_flight.saturating_sub(1);
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
        while let Some(slot) = self.agenda.take_due(now) {
            let Some(function) = self.functions.row_mut(slot) else { continue };
            let before = function.notices.len();
            function.notices.purge(now);
            self.notices_held -= before - function.notices.len();
            let next = function.notices.next_change(now);
            let falls = function.peaks.falls_at(now, self.bucket_micros);
            // Strictly later: at the end of time itself a timer for now would be due for ever.
            if let Some(at) = next.into_iter().chain(falls).filter(|&at| at > now).min() {
                self.agenda.wake_at(slot, at);
            }
            self.agenda.touch(slot);
        }
        let touched = self.agenda.take_touched();
        touched.into_iter().filter_map(|slot| Some(self.functions.row(slot)?.0.clone())).collect()
    }

    /// The demand of a function now; nothing at all for one that is not known.
    pub fn demand(&self, now: Timestamp, name: &FunctionName) -> Demand {
        let Some((_, function)) = self.functions.find(name) else { return Demand::default() };
        Demand {
            history: f64::from(function.peaks.max(now, self.bucket_micros)),
            notices: function.notices.acting(now).collect(),
            in_flight: function.in_flight,
        }
    }

    /// What was passed over.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Pre-triggers held now over all functions, those included that ended since the last look.
    pub fn notices_held(&self) -> usize {
        self.notices_held
    }
}

/// Judges a pre-trigger for a known function and holds it there, if it counts.
fn take(
    config: &ForecastConfig,
    counters: &mut Counters,
    now: Timestamp,
    function: &mut Function,
    pre_trigger: &PreTrigger,
    room: bool,
) -> Verdict {
    let PreTrigger { id, source, expected_invocations, confidence, not_before, window_ms, .. } = pre_trigger;
    let criteria = &function.criteria;
    if !function.enabled {
        return Verdict::Refused(Criterion::FunctionDisabled);
    }
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Verdict::Refused(Criterion::IdLength);
    }
    if !criteria.sources.is_empty() && !criteria.sources.contains(source) {
        return Verdict::Refused(Criterion::SourceNotAllowed);
    }
    if *expected_invocations == 0 {
        let known = function.notices.withdraw(id);
        return if known { Verdict::Withdrawn } else { Verdict::UnknownWithdrawal };
    }
    if confidence.is_nan() || *confidence < criteria.confidence_min {
        return Verdict::Refused(Criterion::ConfidenceTooLow);
    }
    let window = Duration::from_millis(*window_ms);
    if window > config.window_max {
        return Verdict::Refused(Criterion::WindowTooLong);
    }
    let horizon = now + config.window_max;
    let starts_at = not_before.unwrap_or_else(|| pre_trigger.emitted_at.min(now));
    if starts_at >= horizon {
        return Verdict::Refused(Criterion::TooFarAhead);
    }
    let expires_at = (starts_at + window).min(horizon);
    if expires_at <= now {
        return Verdict::Late;
    }
    // Only an announced start gets a lead: without one the calls may come at any moment.
    let live_from = not_before.map_or(starts_at, |at| at - config.lead);
    let held = Held::new(id, *expected_invocations, *confidence, now, live_from, expires_at);
    let put = function.notices.put(held, room);
    if put == Put::Full {
        return Verdict::Refused(Criterion::TooManyNotices);
    }
    counters.ids_forgotten += u64::from(put == Put::AddedForgetting);
    let acts = function.notices.apply_criteria(now, criteria, id);
    match put {
        Put::Replaced => Verdict::Replaced,
        _ if acts => Verdict::Accepted,
        _ => Verdict::Pending,
    }
}
