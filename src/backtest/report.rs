//! What a backtest found: numbers for machines, a table for a terminal, a page with plots.
//!
//! Must not: replay, or print.

mod html;
mod plot;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use super::Error;
use super::judge::{Score, cold_at, cold_within};

/// The group of all functions of a set.
pub const ALL: &str = "all";

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether needs were clipped at one instance.
    pub single: bool,
    /// Each set of functions that was recorded over the same minutes.
    pub sets: Vec<Set>,
    /// Which price to set; absent where no policy with a price was replayed.
    pub advice: Option<Advice>,
    /// The same, in one sentence.
    pub advice_text: String,
}

/// One set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// How long it is.
    pub minutes: u32,
    /// The first minute that is measured, from 0; policies see the minutes before it, too.
    pub measured_from_minute: u32,
    /// All functions first, then each class by name.
    pub groups: Vec<Group>,
    /// What one policy did over time.
    pub timelines: Vec<Timeline>,
}

/// Functions that are judged together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// `all`, or the class.
    pub class: String,
    /// How many functions.
    pub functions: usize,
    /// All their calls in the measured minutes.
    pub calls: u64,
    /// What fixed:10m came to, to which ratios are relative.
    pub baseline: Baseline,
    /// Each policy, at each price where it has one.
    pub rows: Vec<Row>,
    /// Policies with a price against those without, at the idle time of the latter.
    pub at_equal_idle: Vec<EqualIdle>,
}

/// What fixed:10m came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// Cold starts.
    pub cold: u64,
    /// Idle instance-minutes.
    pub idle_minutes: u64,
    /// Instances made.
    pub loads: u64,
}

/// What one policy came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which policy.
    pub policy: String,
    /// At which price, in seconds; absent where it has none.
    pub price_s: Option<f64>,
    /// Cold starts.
    pub cold: u64,
    /// Median over functions of the cold starts of 100 calls.
    pub cold_percent_p50: f64,
    /// Third quartile of the same.
    pub cold_percent_p75: f64,
    /// Mean of the same.
    pub cold_percent_mean: f64,
    /// Idle instance-minutes.
    pub idle_minutes: u64,
    /// Relative to fixed:10m's; absent where that one has none.
    pub idle_ratio: Option<f64>,
    /// Instances made.
    pub loads: u64,
    /// Relative to fixed:10m's; absent where that one has none.
    pub loads_ratio: Option<f64>,
}

/// A policy's price sweep, read where it idles as long as another policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EqualIdle {
    /// The policy with a price.
    pub policy: String,
    /// The policy it is held against.
    pub against: String,
    /// The idle time of the latter, relative to fixed:10m's.
    pub idle_ratio: Option<f64>,
    /// The cold starts of the latter.
    pub against_cold: u64,
    /// The cold starts of the sweep there; absent where it does not reach so far.
    pub cold: Option<f64>,
    /// How many percent fewer that are; below 0 where they are more.
    pub fewer_percent: Option<f64>,
}

/// What a policy did for one function, minute by minute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// Which function.
    pub function: String,
    /// What kind of load it is, where the trace says so.
    pub class: Option<String>,
    /// Which policy.
    pub policy: String,
    /// At which price, in seconds.
    pub price_s: Option<f64>,
    /// Calls in the measured minutes.
    pub calls: u64,
    /// Cold starts in the measured minutes.
    pub cold: u64,
    /// Instances needed in each minute.
    pub needs: Vec<u32>,
    /// Instances held in each minute.
    pub warm: Vec<u32>,
}

/// Which price to set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Of which policy.
    pub policy: String,
    /// The price, in seconds.
    pub price_s: f64,
    /// Cold starts over all sets.
    pub cold: u64,
    /// Those of fixed:10m.
    pub baseline_cold: u64,
    /// Idle time over all sets, relative to that of fixed:10m; absent where that one has none.
    pub idle_ratio: Option<f64>,
}

impl Group {
    /// Puts rows (policy, price in seconds, score) into relation to the baseline.
    pub(super) fn new(class: &str, functions: usize, baseline: Score, rows: Vec<(String, Option<f64>, Score)>) -> Self {
        let row = |(policy, price_s, score): (String, Option<f64>, Score)| Row {
            policy,
            price_s,
            cold: score.sum.cold,
            cold_percent_p50: score.cold_percent_p50,
            cold_percent_p75: score.cold_percent_p75,
            cold_percent_mean: score.cold_percent_mean,
            idle_minutes: score.sum.idle,
            idle_ratio: ratio(score.sum.idle, baseline.sum.idle),
            loads: score.sum.loads,
            loads_ratio: ratio(score.sum.loads, baseline.sum.loads),
        };
        let mut group = Self {
            class: class.to_owned(),
            functions,
            calls: baseline.sum.calls,
            baseline: Baseline { cold: baseline.sum.cold, idle_minutes: baseline.sum.idle, loads: baseline.sum.loads },
            rows: rows.into_iter().map(row).collect(),
            at_equal_idle: Vec::new(),
        };
        group.at_equal_idle = group.compare();
        group
    }

    /// The policies with a price, in order.
    fn priced(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.rows.iter().filter(|row| row.price_s.is_some()).map(|row| row.policy.as_str()).collect();
        names.dedup();
        names
    }

    /// The rows of one policy with a price, by price.
    pub fn sweep<'a>(&'a self, policy: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.price_s.is_some() && row.policy == policy)
    }

    fn compare(&self) -> Vec<EqualIdle> {
        let mut found = Vec::new();
        for policy in self.priced() {
            let sweep: Vec<(f64, f64)> =
                self.sweep(policy).map(|row| (row.idle_minutes as f64, row.cold as f64)).collect();
            // The oracle and `none` are ends of the scale, nothing to be held against.
            let is_other = |row: &&Row| row.price_s.is_none() && !["oracle", "none"].contains(&row.policy.as_str());
            for other in self.rows.iter().filter(is_other) {
                let cold = cold_at(&sweep, other.idle_minutes as f64);
                let fewer = |cold: f64| 100.0 * (1.0 - cold / other.cold as f64);
                found.push(EqualIdle {
                    policy: policy.to_owned(),
                    against: other.policy.clone(),
                    idle_ratio: other.idle_ratio,
                    against_cold: other.cold,
                    cold,
                    fewer_percent: cold.filter(|_| other.cold > 0).map(fewer),
                });
            }
        }
        found
    }
}

impl Report {
    /// A report of sets, with its advice.
    pub(super) fn new(single: bool, sets: Vec<Set>) -> Self {
        let advice = advice(&sets);
        let advice_text = advice.as_ref().map_or_else(
            || "No policy with a price was replayed, so there is no price to advise.".to_owned(),
            Advice::sentence,
        );
        Self { single, sets, advice, advice_text }
    }

    /// What fixed:10m came to over all sets: cold starts, and idle minutes.
    pub fn baseline(&self) -> (u64, u64) {
        baseline(&self.sets)
    }

    /// The cold starts of a policy's price sweep over all sets, within so many idle minutes; `None` where it idles longer at
    /// every price.
    pub fn cold_within(&self, policy: &str, idle_minutes: u64) -> Option<f64> {
        let sweep = sweep(&self.sets, policy);
        let points: Vec<(f64, f64)> = sweep.iter().map(|swept| (swept.idle as f64, swept.cold as f64)).collect();
        cold_within(&points, idle_minutes as f64)
    }

    /// The report as plain text.
    pub fn table(&self) -> String {
        table::render(self)
    }

    /// The report as plain text, without its advice.
    pub fn policies_table(&self) -> String {
        table::render_policies(self)
    }

    /// The report as one page that needs no other file.
    ///
    /// # Errors
    /// Where a plot cannot be drawn.
    pub fn html(&self) -> Result<String, Error> {
        html::render(self)
    }
}

/// What a policy at one price came to over all sets.
struct Swept {
    price_s: f64,
    cold: u64,
    idle: u64,
}

/// The groups of all functions, of each set.
fn all(sets: &[Set]) -> impl Iterator<Item = &Group> {
    sets.iter().flat_map(|set| set.groups.iter().find(|group| group.class == ALL))
}

/// Cold starts and idle minutes of fixed:10m over all sets.
fn baseline(sets: &[Set]) -> (u64, u64) {
    all(sets).fold((0, 0), |(cold, idle), group| (cold + group.baseline.cold, idle + group.baseline.idle_minutes))
}

/// A policy's price sweep over all sets, by price.
fn sweep(sets: &[Set], policy: &str) -> Vec<Swept> {
    let Some(first) = all(sets).next() else { return Vec::new() };
    let at = |price_s| {
        let rows = all(sets).flat_map(|group| group.sweep(policy)).filter(|row| row.price_s == price_s);
        let none = Swept { price_s: price_s.unwrap_or(0.0), cold: 0, idle: 0 };
        rows.fold(none, |swept, row| Swept {
            cold: swept.cold + row.cold,
            idle: swept.idle + row.idle_minutes,
            ..swept
        })
    };
    first.sweep(policy).map(|row| at(row.price_s)).collect()
}

/// Over all sets: of the first policy with a price, the price with the fewest cold starts among those that idle no longer
/// than fixed:10m; where all idle longer, the one that idles least.
fn advice(sets: &[Set]) -> Option<Advice> {
    let first = all(sets).next()?;
    let (baseline_cold, baseline_idle) = baseline(sets);
    let policy = *first.priced().first()?;
    let excess = |idle: u64| idle.saturating_sub(baseline_idle);
    let sums = sweep(sets, policy).into_iter();
    let Swept { price_s, cold, idle } = sums.min_by_key(|swept| (excess(swept.idle), swept.cold, swept.idle))?;
    Some(Advice { policy: policy.to_owned(), price_s, cold, baseline_cold, idle_ratio: ratio(idle, baseline_idle) })
}

impl Advice {
    fn sentence(&self) -> String {
        let Self { cold, baseline_cold, .. } = self;
        let price = price_text(self.price_s);
        let change = match ratio(*cold, *baseline_cold) {
            Some(ratio) if ratio <= 1.0 => format!(" ({:.0} % fewer)", 100.0 * (1.0 - ratio)),
            Some(ratio) => format!(" ({:.0} % more)", 100.0 * (ratio - 1.0)),
            None => String::new(),
        };
        let idle = self.idle_ratio.map_or_else(|| "no".to_owned(), |ratio| format!("{ratio:.2} times the"));
        let hint = if self.idle_ratio.is_some_and(|ratio| ratio > 1.0) {
            "; every price tried idles longer than that, so try lower ones too"
        } else {
            ""
        };
        format!(
            "Set target.price to {price}: {cold} cold starts where keeping instances for 10 minutes has \
             {baseline_cold}{change}, with {idle} idle time{hint}."
        )
    }
}

fn ratio(value: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| value as f64 / of as f64)
}

/// A price as it is written in the configuration.
fn price_text(price_s: f64) -> String {
    humantime::format_duration(Duration::from_secs_f64(price_s.clamp(0.0, 1e15))).to_string().replace(' ', "")
}

/// A policy's name with its price.
fn label(policy: &str, price_s: Option<f64>) -> String {
    price_s.map_or_else(|| policy.to_owned(), |price_s| format!("{policy} at {}", price_text(price_s)))
}
