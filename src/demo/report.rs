//! What the show has measured: as a table for people, as JSON for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{ANNOUNCED, COMMAND, STEADY, UNANNOUNCED};
use crate::loadgen::{Group, Tally};
use crate::telemetry::Metrics;
use crate::types::StartKind;

/// The result of one show.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Calls sent.
    pub calls: u64,
    /// Calls without a result.
    pub missing: u64,
    /// Results after the first of their call.
    pub duplicates: u64,
    /// Calls whose result was not `ok`.
    pub not_ok: u64,
    /// Without over with pre-trigger: how many times longer the 99th percentile of the prepare time is.
    pub prepare_p99_ratio: f64,
    /// Instances that the service has made.
    pub instances_prepared: u64,
    /// One row a group of calls.
    pub groups: Vec<Row>,
}

/// One group of calls.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Which calls.
    pub name: &'static str,
    /// Calls sent.
    pub calls: u64,
    /// Calls by start kind.
    pub start_kinds: BTreeMap<&'static str, u64>,
    /// Time until an instance was in hand, in µs.
    pub prepare_p50_us: u64,
    /// The same, 99th percentile.
    pub prepare_p99_us: u64,
    /// From sending the call to reading its result, in µs.
    pub whole_p50_us: u64,
    /// The same, 99th percentile.
    pub whole_p99_us: u64,
}

impl Row {
    fn new(name: &'static str, group: &Group) -> Self {
        Self {
            name,
            calls: group.sent,
            start_kinds: group.start_kinds.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            prepare_p50_us: group.prepare.percentile_us(500),
            prepare_p99_us: group.prepare.percentile_us(990),
            whole_p50_us: group.whole.percentile_us(500),
            whole_p99_us: group.whole.percentile_us(990),
        }
    }
}

impl Report {
    pub(super) fn new(tally: &Tally, metrics: &Metrics) -> Self {
        let row = |name| tally.groups().get(name).map(|group| Row::new(name, group));
        let groups: Vec<Row> = [UNANNOUNCED, ANNOUNCED, STEADY, COMMAND].into_iter().filter_map(row).collect();
        let p99 = |name| groups.iter().find(|row| row.name == name).map_or(0, |row| row.prepare_p99_us);
        let ok: u64 = tally.groups().values().filter_map(|group| group.statuses.get("ok")).sum();
        Self {
            calls: tally.sent(),
            missing: tally.outstanding(),
            duplicates: tally.duplicates(),
            not_ok: tally.sent() - tally.outstanding() - ok,
            // A prepare time below the clock's µs counts as one: the ratio errs to the careful side.
            prepare_p99_ratio: p99(UNANNOUNCED) as f64 / p99(ANNOUNCED).max(1) as f64,
            instances_prepared: metrics.instances_prepared.get(),
            groups,
        }
    }

    /// Whether no call is without a result and none has two.
    pub fn every_call_had_one_result(&self) -> bool {
        self.missing == 0 && self.duplicates == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = StartKind::ALL.map(StartKind::as_str);
        writeln!(f)?;
        write!(f, "{:<21}{:>6} │", "calls", "")?;
        for kind in kinds {
            write!(f, "{kind:>10}")?;
        }
        writeln!(f, " │{:>21} │{:>21}", "prepare p50 / p99", "whole p50 / p99")?;
        writeln!(f, "{}", "─".repeat(125))?;
        for row in &self.groups {
            write!(f, "{:<21}{:>6} │", row.name, row.calls)?;
            for kind in kinds {
                match row.start_kinds.get(kind) {
                    Some(count) => write!(f, "{count:>10}")?,
                    None => write!(f, "{:>10}", "·")?,
                }
            }
            let pair = |p50, p99| format!("{} / {}", duration(p50), duration(p99));
            let (prepare, whole) =
                (pair(row.prepare_p50_us, row.prepare_p99_us), pair(row.whole_p50_us, row.whole_p99_us));
            writeln!(f, " │{prepare:>21} │{whole:>21}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "start kinds: warm = instance used before; prewarmed = prepared ahead, first use; linked = prepared while the call waited;"
        )?;
        writeln!(
            f,
            "             loaded, cold = the call also waited for machine code from disk, or for the compiler"
        )?;
        writeln!(
            f,
            "prepare:     until an instance was in hand, as the service measured it; whole: from sending the call to reading its result"
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "Announced by a pre-trigger, the 99th percentile of the prepare time is {:.0} times shorter.",
            self.prepare_p99_ratio
        )?;
        if self.every_call_had_one_result() && self.not_ok == 0 {
            write!(f, "All {} calls had exactly one result, and every result was ok.", self.calls)
        } else {
            write!(
                f,
                "Of {} calls, {} had no result; {} results came twice; {} were not ok.",
                self.calls, self.missing, self.duplicates, self.not_ok
            )
        }
    }
}

/// A time in the unit that reads best.
fn duration(us: u64) -> String {
    match us {
        0 => "<1 µs".to_owned(),
        1..10_000 => format!("{us} µs"),
        _ => format!("{:.1} ms", us as f64 / 1_000.0),
    }
}
