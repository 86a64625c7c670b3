//! What replays of single calls through the control plane found: of recorded calls how they began, of made workloads how
//! the control plane did against what is true of them.
//!
//! Must not: make or replay anything itself; `workload` and `events` do.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::events::{self, Settings, keep_alive};
use super::holding::{self, Holding};
use super::ledger::{Account, Cause, NOTICES_TO_LEARN, Outcome, Starts};
use super::trace::Call;
use super::workload::{Bursts, Chains, Workload};
use super::{BASELINE, BASELINE_MINUTES, policy::OURS};
use crate::types::Reuse;

/// How long keep-alive keeps.
const KEEP: Duration = Duration::from_secs(60 * BASELINE_MINUTES as u64);

/// How recorded calls went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallReport {
    /// With the control plane.
    pub ours: Holding,
    /// With each instance kept for ten minutes after its last use.
    pub keep_alive: Holding,
    /// The ready instance-seconds that the control plane held, relative to those of keep-alive; absent where that held none.
    pub held_ratio: Option<f64>,
    /// How long the replay lasted, in seconds.
    pub lasted_s: f64,
    /// What the control plane prepared and held, by cause.
    pub causes: Vec<CauseReport>,
}

/// What was prepared and held on one cause's behalf.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CauseReport {
    /// Which.
    pub cause: String,
    /// Instances that were prepared.
    pub prepared: u64,
    /// Those of them that served no call.
    pub never_used: u64,
    /// Ready instance-seconds held.
    pub held_s: f64,
}

/// How announced bursts went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BurstReport {
    /// Calls that were announced.
    pub announced: Starts,
    /// The share of them that found an instance ready.
    pub announced_ready_share: Option<f64>,
    /// Calls that were not.
    pub unannounced: Starts,
    /// Instances that were prepared for notices.
    pub prepared: u64,
    /// Those of them that served no call.
    pub never_used: u64,
    /// `prepared` of one announced call that came.
    pub prepared_per_call: Option<f64>,
    /// Who announced.
    pub sources: Vec<SourceReport>,
}

/// How one source was believed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// Its name.
    pub source: String,
    /// Its notices.
    pub notices: u64,
    /// Those that no call followed.
    pub lies: u64,
    /// Instances that were prepared for its notices.
    pub prepared: u64,
    /// Those of them that served no call.
    pub never_used: u64,
    /// Ready instance-seconds held for its notices.
    pub held_s: f64,
    /// The part of them that was held for lies.
    pub wasted_s: f64,
    /// After its first 50 notices: what was held for its lies, of all that the memory budget could have held.
    pub late_waste_of_budget: Option<f64>,
    /// The same, of all ready instance-seconds that were held from then on for anybody.
    pub late_waste_of_held: Option<f64>,
}

/// How a chain was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChainReport {
    /// The chain's own edges in order, and then every other that acted.
    pub edges: Vec<EdgeReport>,
    /// Edges that acted although there is nothing behind them.
    pub false_edges: usize,
    /// The calls of each of the chain's functions, from the first.
    pub starts: Vec<Starts>,
    /// Instances that were prepared for chains.
    pub prepared: u64,
    /// Those of them that served no call.
    pub never_used: u64,
}

/// What an edge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// One call follows the other.
    True,
    /// Both are of the chain, with others between them.
    Indirect,
    /// There is nothing behind it.
    False,
}

/// One edge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EdgeReport {
    /// The announcing function.
    pub from: String,
    /// The announced function.
    pub to: String,
    /// What it is.
    pub truth: Truth,
    /// Calls of `from` until it first acted, that one included; absent where it never did.
    pub first_acted_at: Option<u64>,
    /// How often it began to act.
    pub acted: u64,
}

/// Replays recorded calls, ordered by time, of functions with the default policy: through the control plane, and beside it with
/// keep-alive.
pub fn recorded(calls: &[Call], reuse: Reuse, settings: &Settings) -> CallReport {
    let workload = Workload::recorded(calls, reuse);
    let outcome = events::run(&workload, settings);
    let cause = |(cause, account): (&Cause, &Account)| CauseReport {
        cause: cause.to_string(),
        prepared: account.prepared,
        never_used: account.prepared - account.used,
        held_s: account.held_s,
    };
    let ours = Holding::of(OURS, &outcome);
    let kept = keep_alive::run(&workload, KEEP, settings.prepare);
    let keep_alive = Holding {
        policy: BASELINE.to_string(),
        starts: kept.starts,
        ready_share: kept.starts.ready_share(),
        prepared: kept.prepared,
        never_used: kept.never_used,
        held_s: kept.held_s,
    };
    CallReport {
        held_ratio: share(ours.held_s, keep_alive.held_s),
        ours,
        keep_alive,
        lasted_s: outcome.lasted_s,
        causes: outcome.accounts.iter().map(cause).collect(),
    }
}

/// Replays announced bursts.
pub fn bursts(made: &Bursts, settings: &Settings) -> BurstReport {
    let outcome = events::run(&made.make(), settings);
    let budget = settings.target.memory_budget_bytes as f64 / settings.instance_bytes as f64;
    let sources = outcome.sources.iter().map(|(name, source)| {
        let account = outcome.accounts.get(&Cause::Source(name.clone())).copied().unwrap_or_default();
        let could_hold_s = budget * source.late_s;
        SourceReport {
            source: name.clone(),
            notices: source.notices,
            lies: source.lies,
            prepared: account.prepared,
            never_used: account.prepared - account.used,
            held_s: account.held_s,
            wasted_s: source.lies_held_s,
            late_waste_of_budget: share(source.lies_held_late_s, could_hold_s),
            late_waste_of_held: share(source.lies_held_late_s, source.late_held_s),
        }
    });
    let (prepared, never_used) = sum(&outcome, |cause| matches!(cause, Cause::Source(_)));
    let came = outcome.announced.calls();
    BurstReport {
        announced: outcome.announced,
        announced_ready_share: outcome.announced.ready_share(),
        unannounced: outcome.unannounced,
        prepared,
        never_used,
        prepared_per_call: (came > 0).then(|| prepared as f64 / came as f64),
        sources: sources.collect(),
    }
}

/// Replays a chain among unrelated functions.
pub fn chains(made: &Chains, settings: &Settings) -> ChainReport {
    let workload = made.make();
    let outcome = events::run(&workload, settings);
    let chain = &workload.functions[..made.length as usize];
    let place = |name: &str| chain.iter().position(|definition| definition.name.as_str() == name);
    let mut edges = Vec::new();
    for pair in chain.windows(2) {
        let key = (pair[0].name.clone(), pair[1].name.clone());
        let edge = outcome.edges.get(&key);
        edges.push(EdgeReport {
            from: key.0.to_string(),
            to: key.1.to_string(),
            truth: Truth::True,
            first_acted_at: edge.map(|edge| edge.first_acted_at),
            acted: edge.map_or(0, |edge| edge.acted),
        });
    }
    for ((from, to), edge) in &outcome.edges {
        let truth = match (place(from.as_str()), place(to.as_str())) {
            (Some(from), Some(to)) if from + 1 == to => continue,
            (Some(from), Some(to)) if from < to => Truth::Indirect,
            _ => Truth::False,
        };
        let (first_acted_at, acted) = (Some(edge.first_acted_at), edge.acted);
        edges.push(EdgeReport { from: from.to_string(), to: to.to_string(), truth, first_acted_at, acted });
    }
    let (prepared, never_used) = sum(&outcome, |cause| matches!(cause, Cause::Chain(_)));
    ChainReport {
        false_edges: edges.iter().filter(|edge| edge.truth == Truth::False).count(),
        edges,
        starts: outcome.by_function[..chain.len()].to_vec(),
        prepared,
        never_used,
    }
}

fn share(part: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| part / of)
}

/// Instances prepared on behalf of some causes, and those of them that served no call.
fn sum(outcome: &Outcome, of: impl Fn(&Cause) -> bool) -> (u64, u64) {
    let accounts = outcome.accounts.iter().filter(|(cause, _)| of(cause));
    let add = |(prepared, never_used): (u64, u64), account: &Account| {
        (prepared + account.prepared, never_used + account.prepared - account.used)
    };
    accounts.map(|(_, account)| account).fold((0, 0), add)
}

impl CallReport {
    /// The report as plain text.
    pub fn table(&self) -> String {
        let mut text = format!("Recorded calls, {:.0} s\n\n", self.lasted_s);
        text.push_str(&holding::table(&[&self.ours, &self.keep_alive]));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "\nOf ours, which held {} times as much:", number(self.held_ratio, 2));
        for CauseReport { cause, prepared, never_used, held_s } in &self.causes {
            let _ = writeln!(
                text,
                "for {cause}: prepared {prepared}, {never_used} served no call; held {held_s:.0} instance-seconds"
            );
        }
        text
    }
}

impl BurstReport {
    /// The report as plain text.
    pub fn table(&self) -> String {
        let mut text = String::from("Announced bursts\n\n");
        // Writing into a String cannot fail.
        for (what, starts) in [("announced", &self.announced), ("unannounced", &self.unannounced)] {
            let _ = writeln!(text, "{what:11} {}", sentence(starts));
        }
        let _ = writeln!(
            text,
            "prepared    {} instances for notices, {} a call that came; {} served no call",
            self.prepared,
            number(self.prepared_per_call, 2),
            self.never_used
        );
        for source in &self.sources {
            let SourceReport { source: name, notices, lies, prepared, never_used, .. } = source;
            let _ = writeln!(
                text,
                "source      {name}: {notices} notices, {lies} of them lies; prepared {prepared}, {never_used} served no call; \
                 wasted {:.0} of {:.0} instance-seconds; after {NOTICES_TO_LEARN} notices {} % of the budget, {} % of all that was held",
                source.wasted_s,
                source.held_s,
                number(source.late_waste_of_budget.map(|share| 100.0 * share), 2),
                number(source.late_waste_of_held.map(|share| 100.0 * share), 1)
            );
        }
        text
    }
}

impl ChainReport {
    /// The report as plain text.
    pub fn table(&self) -> String {
        let mut text = String::from("Chains\n\n");
        // Writing into a String cannot fail.
        for EdgeReport { from, to, truth, first_acted_at, acted } in &self.edges {
            let truth = match truth {
                Truth::True => "",
                Truth::Indirect => " (over others)",
                Truth::False => " (false)",
            };
            let _ = match first_acted_at {
                Some(calls) => {
                    writeln!(text, "{from} → {to}{truth}: first acted at call {calls}, {acted} times in all")
                }
                None => writeln!(text, "{from} → {to}{truth}: never acted"),
            };
        }
        for (place, starts) in self.starts.iter().enumerate() {
            let _ = writeln!(text, "function {place} of the chain: {}", sentence(starts));
        }
        let Self { prepared, never_used, false_edges, .. } = self;
        let _ = writeln!(
            text,
            "prepared {prepared} instances for chains, {never_used} served no call; {false_edges} false edges acted"
        );
        text
    }
}

fn sentence(starts: &Starts) -> String {
    let Starts { warm, prewarmed, linked, waited_s } = starts;
    format!(
        "{} calls: {warm} warm, {prewarmed} prewarmed, {linked} waited ({waited_s:.1} s in all); {} % found an instance ready",
        starts.calls(),
        number(starts.ready_share().map(|share| 100.0 * share), 1)
    )
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::super::workload::Sender;
    use super::*;
    use crate::types::Timestamp;

    #[test]
    fn recorded_calls_are_told() {
        let call =
            Call { at: Timestamp::from_millis(5_000), function: "f".parse().unwrap(), run: Duration::from_millis(50) };
        let mut settings = Settings::default();
        settings.forecast.newcomer_share = 0.0;
        let report = recorded(&[call], Reuse::Reuse, &settings);
        assert_eq!((report.ours.starts.linked, report.ours.ready_share), (1, Some(0.0)));
        assert_eq!((report.keep_alive.starts.linked, report.keep_alive.prepared), (1, 1));
        assert_eq!(report.held_ratio, None, "keep-alive held nothing before the end of the only call");
        let rows: Vec<Vec<String>> =
            report.table().lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        assert_eq!(rows[3][..7], ["ours", "1", "0", "0", "1", "0.4", "0.00"]);
        assert_eq!(rows[4][..9], ["fixed:10m", "1", "0", "0", "1", "0.4", "0.00", "1", "0"]);
        assert!(report.table().contains("\nfor waiting calls: prepared 1, 0 served no call; "), "{}", report.table());
    }

    #[test]
    fn bursts_are_told_by_source_and_by_call() {
        let sender = |name: &str, lies| Sender { name: name.to_owned(), episodes: 60, misses: 0.2, lies };
        let senders = vec![sender("honest", 0.0), sender("liar", 0.9)];
        let made = Bursts { senders, lasts: Duration::from_secs(600), ..Bursts::default() };
        let report = bursts(&made, &Settings::default());
        let [honest, liar] = &report.sources[..] else { panic!("two sources") };
        assert_eq!((honest.lies, honest.wasted_s), (0, 0.0));
        assert!(liar.lies > 40 && liar.wasted_s <= liar.held_s, "{liar:?}");
        // Only who had sent fifty notices is judged by what came after them.
        assert_eq!((honest.notices > 49, liar.notices > 49), (honest.late_waste_of_held.is_some(), true));
        assert_eq!(report.prepared, honest.prepared + liar.prepared);
        assert_eq!(report.never_used, honest.never_used + liar.never_used);
        assert_eq!(report.prepared_per_call, Some(report.prepared as f64 / report.announced.calls() as f64));
        assert_eq!(report.announced_ready_share, report.announced.ready_share());
        let lines: Vec<String> = report.table().lines().map(|line| line.chars().take(20).collect()).collect();
        assert_eq!(lines.len(), 7, "{}", report.table());
        assert!(lines[5].starts_with("source      honest: ") && lines[6].starts_with("source      liar: "));
    }

    #[test]
    fn edges_are_told_with_what_is_true_of_them() {
        let edge = |to: &str, truth, first_acted_at, acted| EdgeReport {
            from: "a".to_owned(),
            to: to.to_owned(),
            truth,
            first_acted_at,
            acted,
        };
        let starts = Starts { warm: 1, prewarmed: 2, linked: 1, waited_s: 0.25 };
        let report = ChainReport {
            edges: vec![
                edge("b", Truth::True, Some(23), 170),
                edge("c", Truth::Indirect, Some(40), 3),
                edge("x", Truth::False, Some(9), 1),
                edge("d", Truth::True, None, 0),
            ],
            false_edges: 1,
            starts: vec![starts],
            prepared: 7,
            never_used: 2,
        };
        let expected = "\
Chains

a → b: first acted at call 23, 170 times in all
a → c (over others): first acted at call 40, 3 times in all
a → x (false): first acted at call 9, 1 times in all
a → d: never acted
function 0 of the chain: 4 calls: 1 warm, 2 prewarmed, 1 waited (0.2 s in all); 75.0 % found an instance ready
prepared 7 instances for chains, 2 served no call; 1 false edges acted
";
        assert_eq!(report.table(), expected);
    }

    #[test]
    fn a_chain_is_told_from_its_first_function_on() {
        let made = Chains { occurrences: 20, unrelated: 3, ..Chains::default() };
        let report = chains(&made, &Settings::default());
        let edges: Vec<_> = report.edges.iter().take(2).map(|edge| (edge.from.as_str(), edge.to.as_str())).collect();
        assert_eq!(edges, [("chain-0", "chain-1"), ("chain-1", "chain-2")]);
        assert_eq!((report.starts.len(), report.starts[0].calls()), (3, 20));
        assert!(report.starts[1].calls() > report.starts[2].calls());
    }
}
