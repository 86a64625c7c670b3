//! How calls went with one way of holding instances, so that two ways can be set beside each other.
//!
//! Must not: replay anything, or decide which way is better.

use std::fmt::Write as _;

use serde::Serialize;

use super::ledger::{Outcome, Starts};

/// How calls went with one way of holding instances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Holding {
    /// Which way: `ours`, `fixed:10m`, or what was switched off.
    pub policy: String,
    /// How calls began.
    pub starts: Starts,
    /// The share of them that found an instance ready; absent where there was no call.
    pub ready_share: Option<f64>,
    /// Instances that were prepared.
    pub prepared: u64,
    /// Instances among them that served no call.
    pub never_used: u64,
    /// Ready instance-seconds held.
    pub held_s: f64,
}

impl Holding {
    /// What the control plane's replay came to.
    pub(super) fn of(policy: &str, outcome: &Outcome) -> Self {
        let starts = outcome.announced.and(&outcome.unannounced);
        let accounts = || outcome.accounts.values();
        let prepared = accounts().map(|account| account.prepared).sum();
        Self {
            policy: policy.to_owned(),
            ready_share: starts.ready_share(),
            starts,
            prepared,
            never_used: prepared - accounts().map(|account| account.used).sum::<u64>(),
            held_s: accounts().map(|account| account.held_s).sum(),
        }
    }
}

/// The rows as a table of plain text.
pub(super) fn table(rows: &[&Holding]) -> String {
    let width = rows.iter().map(|row| row.policy.chars().count()).max().unwrap_or(0).max("policy".len());
    let mut text = format!(
        "{:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>10}  {:>7}  {:>9}  {:>11}  {:>15}\n",
        "policy",
        "calls",
        "warm",
        "prewarmed",
        "waited",
        "waited s",
        "ready %",
        "prepared",
        "served none",
        "held instance-s"
    );
    for Holding { policy, starts, ready_share, prepared, never_used, held_s } in rows {
        let ready = ready_share.map_or_else(|| "-".to_owned(), |share| format!("{:.2}", 100.0 * share));
        let Starts { warm, prewarmed, linked, waited_s } = starts;
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{policy:width$}  {:>9}  {warm:>9}  {prewarmed:>9}  {linked:>9}  {waited_s:>10.1}  {ready:>7}  {prepared:>9}  \
             {never_used:>11}  {held_s:>15.0}",
            starts.calls()
        );
    }
    text
}
