//! Replays recorded calls against warm policies and judges them: what a price would have cost, before it is set.
//!
//! [`run`] reads a trace, [`replay`] judges what is read already; both give a [`Report`] that is a table, JSON or a page.
//! The ticks are minutes, as the traces are; the policies of the product come in by [`Priced`], so that what is judged is
//! what runs live.
//!
//! Beside them, [`findings`] replays single calls and notices, recorded or of made workloads, through the real control
//! plane in virtual time, and says how it did against what is true of them.
//!
//! Must not: print, read a clock, or know how the product forecasts.

pub mod ablation;
mod error;
pub mod events;
pub mod findings;
pub mod fit;
pub mod held_back;
pub mod holding;
pub mod judge;
pub mod ledger;
mod measured;
pub mod policy;
mod random;
pub mod report;
mod shelf;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod workload;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

pub use error::Error;
pub use measured::MeasureFrom;
pub use policy::{Kind, Policy, Priced, Setup};
pub use report::Report;
pub use trace::{Minute, Trace};

use self::judge::{Tally, replay as replay_function};
use self::policy::{Fixed, HybridHistogram, Nothing, Oracle};
use self::report::{Group, Timeline};
use self::trace::{Function, Set};

/// Prices of a sweep where none is named, in seconds: from hardly holding anything to hardly dropping anything.
const PRICES_S: [u64; 14] = [120, 180, 300, 420, 600, 900, 1_200, 1_800, 2_700, 3_600, 5_400, 7_200, 10_800, 14_400];
/// The policy that ratios are relative to.
const BASELINE: Kind = Kind::Fixed { minutes: BASELINE_MINUTES };
const BASELINE_MINUTES: u32 = 10;
/// Policies, and prices, of one backtest (inclusive).
const ENTRANTS_MAX: usize = 64;
/// Functions of a set whose timeline is shown where none is named.
const TIMELINES: usize = 3;
/// Timelines of one report (inclusive).
const TIMELINES_MAX: usize = 64;

/// What is to be replayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The trace: a folder or a file, as [`Trace::read`] takes them.
    pub path: PathBuf,
    /// Its sets; empty: all.
    pub sets: Vec<String>,
    /// The policies, each at most once.
    pub policies: Vec<Kind>,
    /// The prices at which each policy that has one is replayed: how much idle time of one instance a cold start is worth.
    /// Often [`prices`].
    pub prices: Vec<Duration>,
    /// Where the measured part of each set begins.
    pub measure_from: MeasureFrom,
    /// Whether a function needs one instance at most.
    pub single: bool,
    /// Functions whose timeline the report shows; empty: those of each set that had most cold starts.
    pub timelines: Vec<String>,
}

/// The prices of a sweep where none is named.
pub fn prices() -> Vec<Duration> {
    PRICES_S.map(Duration::from_secs).to_vec()
}

/// Reads a trace and replays it.
///
/// # Errors
/// Where the trace cannot be read, or what is asked for cannot be replayed.
pub fn run(options: &Options, priced: &[Priced<'_>]) -> Result<Report, Error> {
    replay(&Trace::read(&options.path, &options.sets)?, options, priced)
}

/// Replays a trace that is there already; `options.path` and `options.sets` do not matter.
///
/// # Errors
/// Where a policy is not known, there are too many, or a function whose timeline is wanted is not in the trace.
pub fn replay(trace: &Trace, options: &Options, priced: &[Priced<'_>]) -> Result<Report, Error> {
    let entrants = entrants(options, priced)?;
    let unknown = |name: &&String| !functions_of(trace).any(|function| function.name.as_str() == *name);
    if let Some(unknown) = options.timelines.iter().find(unknown) {
        return Err(Error::Option(format!("no timeline of {unknown}: the trace has no such function")));
    }
    if options.timelines.len() > TIMELINES_MAX {
        return Err(Error::Option(format!("more than {TIMELINES_MAX} timelines: name fewer functions")));
    }
    let mut sets = Vec::new();
    let mut tallies = Vec::new();
    for set in &trace.sets {
        let measured = options.measure_from.of(set)?;
        let baseline = [Entrant { kind: BASELINE, price: None, priced: None }];
        let of = |entrants: &[Entrant<'_>]| -> Vec<Vec<Tally>> {
            let mut tallies = vec![Vec::with_capacity(set.functions.len()); entrants.len()];
            for function in &set.functions {
                let mut policies = policies(entrants, set, function, options.single);
                let found = replay_function(function, measured.clone(), options.single, &mut policies, |_, _, _| ());
                tallies.iter_mut().zip(found).for_each(|(tallies, found)| tallies.push(found));
            }
            tallies
        };
        let baseline = of(&baseline).remove(0);
        let of_set = of(&entrants);
        sets.push(report::Set {
            name: set.name.clone(),
            minutes: set.minutes,
            measured_from_minute: measured.start,
            groups: groups(set, &entrants, &baseline, &of_set),
            timelines: Vec::new(),
        });
        tallies.push(of_set);
    }
    let mut report = Report::new(options.single, sets);
    // The plots over time show what the advice leads to, or else the first policy.
    let advised = report.advice.as_ref().map(|advice| (advice.policy.as_str(), advice.price_s));
    let shown = entrants.iter().position(|entrant| {
        advised == Some((entrant.kind.to_string().as_str(), entrant.price.map_or(0.0, |price| price.as_secs_f64())))
    });
    let shown = shown.unwrap_or(0);
    for ((set, of_set), reported) in trace.sets.iter().zip(&tallies).zip(&mut report.sets) {
        reported.timelines = timelines(set, &entrants[shown], &of_set[shown], options)?;
    }
    Ok(report)
}

/// One policy, at one price where it has one.
struct Entrant<'a> {
    kind: Kind,
    price: Option<Duration>,
    priced: Option<&'a Priced<'a>>,
}

/// One function's policies, in the order of the entrants; those of one kind at several prices are made together.
fn policies(entrants: &[Entrant<'_>], set: &Set, function: &Function, single: bool) -> Vec<Box<dyn Policy>> {
    let mut policies: Vec<Box<dyn Policy>> = Vec::with_capacity(entrants.len());
    for of_a_kind in entrants.chunk_by(|one, next| one.kind == next.kind) {
        match &of_a_kind[0].kind {
            Kind::Fixed { minutes } => policies.push(Box::new(Fixed::new(*minutes))),
            Kind::HybridHistogram => policies.push(Box::new(HybridHistogram::default())),
            Kind::Oracle => {
                let clip = if single { 1 } else { u32::MAX };
                let needs = function.minutes(set.minutes).map(|minute| minute.need.min(clip));
                policies.push(Box::new(Oracle::new(needs.collect())));
            }
            Kind::None => policies.push(Box::new(Nothing)),
            Kind::Priced(_) => {
                let setups = of_a_kind.iter().filter_map(|one| Some(Setup { price: one.price?, single }));
                let setups: Vec<Setup> = setups.collect();
                policies.extend(of_a_kind[0].priced.into_iter().flat_map(|priced| (priced.make)(function, &setups)));
            }
        }
    }
    policies
}

/// Every policy that is asked for, those with a price once for each, in the order asked for.
fn entrants<'a>(options: &Options, priced: &'a [Priced<'a>]) -> Result<Vec<Entrant<'a>>, Error> {
    let prices: BTreeSet<Duration> = options.prices.iter().copied().collect();
    let mut entrants: Vec<Entrant<'a>> = Vec::new();
    for kind in &options.policies {
        if entrants.iter().any(|entrant| entrant.kind == *kind) {
            return Err(Error::Option(format!("the policy {kind} is asked for twice")));
        }
        let Kind::Priced(name) = kind else {
            entrants.push(Entrant { kind: kind.clone(), price: None, priced: None });
            continue;
        };
        let Some(found) = priced.iter().find(|priced| priced.name == name) else {
            let named: String = priced.iter().map(|priced| format!(", {}", priced.name)).collect();
            let known = format!("fixed:10m (any whole minutes), hybrid-histogram, oracle, none{named}");
            return Err(Error::Option(format!("there is no policy {name:?}: give one of {known}")));
        };
        if prices.is_empty() {
            return Err(Error::Option(format!("the policy {name} needs a price: give one or more, like 1h")));
        }
        let at = |price: &Duration| Entrant { kind: kind.clone(), price: Some(*price), priced: Some(found) };
        entrants.extend(prices.iter().map(at));
    }
    if entrants.is_empty() || entrants.len() > ENTRANTS_MAX {
        let count = entrants.len();
        return Err(Error::Option(format!("{count} policies and prices to replay: give from 1 to {ENTRANTS_MAX}")));
    }
    Ok(entrants)
}

/// All functions of a set, and each class of them: every entrant's row.
fn groups(set: &Set, entrants: &[Entrant<'_>], baseline: &[Tally], tallies: &[Vec<Tally>]) -> Vec<Group> {
    let classes: BTreeSet<&str> = set.functions.iter().filter_map(|function| function.class.as_deref()).collect();
    let group = |class: Option<&str>| {
        let is_in = |function: &Function| class.is_none() || function.class.as_deref() == class;
        let members: Vec<usize> =
            (0..set.functions.len()).filter(|&function| is_in(&set.functions[function])).collect();
        let score = |of: &[Tally]| judge::Score::of(members.iter().map(|&function| of[function]));
        let rows = entrants.iter().zip(tallies).map(|(entrant, of)| {
            let price_s = entrant.price.map(|price| price.as_secs_f64());
            (entrant.kind.to_string(), price_s, score(of))
        });
        Group::new(class.unwrap_or(report::ALL), members.len(), score(baseline), rows.collect())
    };
    std::iter::once(None).chain(classes.into_iter().map(Some)).map(group).collect()
}

/// What one policy did over time, for the functions named, or for those with most cold starts.
fn timelines(set: &Set, entrant: &Entrant<'_>, tallies: &[Tally], options: &Options) -> Result<Vec<Timeline>, Error> {
    let measured = options.measure_from.of(set)?;
    let mut shown: Vec<usize> = if options.timelines.is_empty() {
        let mut worst_first: Vec<usize> = (0..set.functions.len()).filter(|&i| tallies[i].cold > 0).collect();
        worst_first.sort_by_key(|&function| std::cmp::Reverse(tallies[function].cold));
        worst_first.truncate(TIMELINES);
        worst_first
    } else {
        let named =
            |function: &usize| options.timelines.iter().any(|name| *name == *set.functions[*function].name.as_str());
        (0..set.functions.len()).filter(named).collect()
    };
    shown.dedup();
    let timeline = |function: usize| {
        let function = &set.functions[function];
        let (mut needs, mut warm) = (Vec::new(), Vec::new());
        let mut policies = policies(std::slice::from_ref(entrant), set, function, options.single);
        let tallies = replay_function(function, measured.clone(), options.single, &mut policies, |_, need, held| {
            needs.push(need);
            warm.push(held);
        });
        let tally = tallies.first().copied().unwrap_or_default();
        Timeline {
            function: function.name.as_str().to_owned(),
            class: function.class.clone(),
            policy: entrant.kind.to_string(),
            price_s: entrant.price.map(|price| price.as_secs_f64()),
            calls: tally.calls,
            cold: tally.cold,
            needs,
            warm,
        }
    };
    Ok(shown.into_iter().map(timeline).collect())
}

fn functions_of(trace: &Trace) -> impl Iterator<Item = &Function> {
    trace.sets.iter().flat_map(|set| &set.functions)
}
