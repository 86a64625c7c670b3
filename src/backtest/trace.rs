//! Recorded calls: who was called, in which minute, how often and for how long.
//!
//! Two forms are read: a folder of counts by minute ([`Trace::read`] says which files), and a CSV of single calls. Bounds:
//! 100,000 functions, 60 days, 10 million single calls, 10 million calls of a function in a minute, 4 MiB a line; beyond
//! them there is an error, never a shorter trace.
//!
//! Must not: judge a policy, or let one see a minute early; `judge` hands the minutes out one by one.

mod calls;
mod counts;
mod lines;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Error;
use crate::types::{FunctionName, Timestamp};

/// Functions of one trace (inclusive).
const FUNCTIONS_MAX: usize = 100_000;
/// Length of one set, in minutes (inclusive): 60 days.
const MINUTES_MAX: u32 = 60 * 24 * 60;
/// Single calls of one trace (inclusive).
pub const CALLS_MAX: usize = 10_000_000;
/// Calls of one function in one minute (inclusive).
const COUNT_MAX: u32 = 10_000_000;
const MINUTE_MICROS: i64 = 60_000_000;

/// What one minute of one function was.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Minute {
    /// Calls that began in it.
    pub count: u32,
    /// Run time in it, in instance-minutes: what runs for longer than a minute counts in the minutes after, too.
    pub load: f64,
    /// Instances that it needs.
    pub need: u32,
}

impl Minute {
    /// A minute with its need: `ceil(load + sqrt(load))`, and at least 1 where a call begins or still runs.
    ///
    /// The square root is the usual room for chance above the mean: with Poisson arrivals the instances in use have the
    /// load as mean and as variance.
    pub fn new(count: u32, load: f64) -> Self {
        let least = u32::from(count > 0 || load > 0.0);
        Self { count, load, need: ((load + load.sqrt()).ceil() as u32).max(least) }
    }
}

/// One function's calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// What kind of load it is, where the trace says so.
    pub class: Option<String>,
    /// Whose it is, where the trace says so.
    pub owner: Option<String>,
    /// All its calls.
    pub calls: u64,
    /// The minutes in which a call began or ran, ascending.
    active: Vec<(u32, Minute)>,
}

impl Function {
    /// The first `minutes` minutes, in order, idle ones included.
    pub fn minutes(&self, minutes: u32) -> impl Iterator<Item = Minute> + '_ {
        let mut active = self.active.iter().peekable();
        (0..minutes)
            .map(move |minute| active.next_if(|(at, _)| *at == minute).map_or(Minute::default(), |(_, seen)| *seen))
    }

    /// Calls that begin in one minute and run for `run` each, given in any order, made into minutes from 0 to `minutes`
    /// (exclusive).
    fn new(
        name: FunctionName,
        class: Option<String>,
        owner: Option<String>,
        minutes: u32,
        batches: impl Iterator<Item = (u32, u32, Duration)>,
    ) -> Self {
        let mut calls = 0;
        let mut counts = BTreeMap::<u32, u32>::new();
        // Where the load rises and falls, in µs of run time a minute. i128: 10 million calls a minute for 60 days.
        let mut steps = BTreeMap::<u32, i128>::new();
        for (minute, count, run) in batches {
            calls += u64::from(count);
            *counts.entry(minute).or_default() += count;
            let (full, rest) = (run.as_micros() / MINUTE_MICROS as u128, run.as_micros() % MINUTE_MICROS as u128);
            let full_until = minute.saturating_add(u32::try_from(full).unwrap_or(u32::MAX));
            let (whole, part) = (i128::from(count) * i128::from(MINUTE_MICROS), i128::from(count) * rest as i128);
            for (at, step) in [(minute, whole), (full_until, part - whole), (full_until.saturating_add(1), -part)] {
                *steps.entry(at).or_default() += step;
            }
        }
        let mut active = Vec::new();
        let (mut load_micros, mut carried_from) = (0, 0);
        for (at, step) in steps {
            for minute in carried_from..at.min(minutes) {
                let count = counts.get(&minute).copied().unwrap_or(0);
                if count > 0 || load_micros > 0 {
                    active.push((minute, Minute::new(count, load_micros as f64 / MINUTE_MICROS as f64)));
                }
            }
            load_micros += step;
            carried_from = at;
        }
        Self { name, class, owner, calls, active }
    }
}

/// Functions that were recorded over the same minutes.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// How long it was recorded.
    pub minutes: u32,
    /// Its functions, in the order of the trace.
    pub functions: Vec<Function>,
}

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it began.
    pub at: Timestamp,
    /// What was called.
    pub function: FunctionName,
    /// How long it ran; zero where that is not known.
    pub run: Duration,
}

/// Recorded calls, by set.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The sets, by name.
    pub sets: Vec<Set>,
}

impl Trace {
    /// Reads a trace. `sets` names those wanted; empty: all.
    ///
    /// A folder has `functions.csv` (columns `fid`, `set`, `minutes`, `total`, `dur_avg_ms`, and where known `cls`, `owner`;
    /// others are passed over) and for each set `counts_SET….txt` or `.txt.gz`, a line per function: `fid minute:count …`.
    /// A file is a CSV of calls, `timestamp,function[,duration_ms]`, plain or gzip, in any order; its first line may name the columns,
    /// in any case and order; commas, semicolons or tabs part them. Times are RFC 3339, or seconds, ms, µs or ns since 1970. It makes one set, named by the file.
    ///
    /// # Errors
    /// Where a file cannot be read, is not of that form, or is beyond the bounds.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self, Error> {
        let trace = if path.is_dir() {
            counts::read(path)?
        } else {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            Self::from_calls(&name, &calls::read(path)?).map_err(|what| Error::Trace { path: path.to_owned(), what })?
        };
        trace.only(sets)
    }

    /// Reads the calls of a CSV one by one, ordered by time; see [`Self::read`].
    ///
    /// # Errors
    /// Where the file cannot be read, is not of that form, or is beyond the bounds.
    pub fn read_calls(path: &Path) -> Result<Vec<Call>, Error> {
        calls::read(path)
    }

    /// One set out of single calls, in any order. Minute 0 is the whole minute in which the first call began; the last
    /// minute is that in which the last one did.
    ///
    /// # Errors
    /// What is wrong, where there is no call or the calls are beyond the bounds.
    pub fn from_calls(name: &str, calls: &[Call]) -> Result<Self, String> {
        let minute_of = |call: &Call| call.at.as_micros().div_euclid(MINUTE_MICROS);
        let (Some(first), Some(last)) = (calls.iter().map(minute_of).min(), calls.iter().map(minute_of).max()) else {
            return Err("there is no call in it: give at least one line timestamp,function[,duration_ms]".to_owned());
        };
        let minutes = last - first + 1;
        if minutes > i64::from(MINUTES_MAX) {
            return Err(format!("its calls span {minutes} minutes, {MINUTES_MAX} are allowed: give a shorter part"));
        }
        let mut of_function = BTreeMap::<&FunctionName, Vec<&Call>>::new();
        for call in calls {
            of_function.entry(&call.function).or_default().push(call);
        }
        if calls.len() > CALLS_MAX || of_function.len() > FUNCTIONS_MAX {
            let (calls, functions) = (calls.len(), of_function.len());
            return Err(format!(
                "it has {calls} calls of {functions} functions, {CALLS_MAX} of {FUNCTIONS_MAX} are allowed: give a part"
            ));
        }
        let functions = of_function.into_iter().map(|(name, calls)| {
            // Lossless: no minute is beyond `minutes`, which is within `MINUTES_MAX`.
            let batches = calls.into_iter().map(|call| ((minute_of(call) - first) as u32, 1, call.run));
            Function::new(name.clone(), None, None, minutes as u32, batches)
        });
        Ok(Self { sets: vec![Set { name: name.to_owned(), minutes: minutes as u32, functions: functions.collect() }] })
    }

    /// The functions for which `wanted` holds, alone, and the sets that have any of them.
    pub fn only_functions(&self, wanted: impl Fn(&Function) -> bool) -> Self {
        let some = |set: &Set| {
            let functions: Vec<Function> = set.functions.iter().filter(|function| wanted(function)).cloned().collect();
            (!functions.is_empty()).then(|| Set { name: set.name.clone(), minutes: set.minutes, functions })
        };
        Self { sets: self.sets.iter().filter_map(some).collect() }
    }

    /// The named sets alone; all where none is named.
    fn only(mut self, sets: &[String]) -> Result<Self, Error> {
        if let Some(unknown) = sets.iter().find(|name| !self.sets.iter().any(|set| set.name == **name)) {
            let known: Vec<&str> = self.sets.iter().map(|set| set.name.as_str()).collect();
            return Err(Error::Option(format!(
                "there is no set {unknown:?} in the trace: it has {}",
                known.join(", ")
            )));
        }
        self.sets.retain(|set| sets.is_empty() || sets.contains(&set.name));
        Ok(self)
    }
}
