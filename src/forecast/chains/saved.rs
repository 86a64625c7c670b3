//! What is known of chains, as it is kept while the service is away.
//!
//! Must not: trust what it reads.

use serde::{Deserialize, Serialize};

use super::edge::{Edge, LAG_BINS, TRIALS_MAX};
use super::{Chains, RATE_SECONDS, edge_to, node};
use crate::forecast::agenda::Slot;
use crate::types::Timestamp;

/// One edge, without the function that it leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Saved {
    trials: f32,
    quick: f32,
    strong: f32,
    lags: [f32; LAG_BINS],
    last_bin: u8,
    acts: bool,
    announced: u32,
    came: u32,
}

impl Chains {
    /// The decayed count of a function's calls.
    pub(in super::super) fn weight(&self, now: Timestamp, slot: Slot) -> f64 {
        let node = self.nodes.get(slot as usize).and_then(Option::as_deref);
        node.map_or(0.0, |node| node.weight(now.as_micros()))
    }

    /// Takes over how often a function was called: a sound weight.
    pub(in super::super) fn restore_weight(&mut self, taken_at: Timestamp, slot: Slot, weight: f64) {
        let taken_at = taken_at.as_micros();
        let node = node(&mut self.nodes, slot);
        (node.weight, node.updated) = (weight, taken_at);
        // The rates are known for as long as they look back.
        let known_since = taken_at.saturating_sub((5.0 * RATE_SECONDS * 1e6) as i64);
        self.began = Some(self.began.map_or(known_since, |began| began.min(known_since)));
    }

    /// The edges that lead away from a function and have been tried.
    pub(in super::super) fn save(&self, from: Slot) -> Vec<(Slot, Saved)> {
        let node = self.nodes.get(from as usize).and_then(Option::as_deref);
        let edges = node.map_or(&[][..], |node| &node.edges).iter().filter(|edge| edge.trials > 0.0);
        edges.map(|edge| (edge.to, edge.save())).collect()
    }

    /// Takes over an edge that is sound, unless there is one already that has been tried.
    pub(in super::super) fn restore(&mut self, from: Slot, to: Slot, saved: &Saved) {
        let edges = &mut node(&mut self.nodes, from).edges;
        if let Some(edge) = edge_to(edges, to, self.successors_max, &mut self.counters)
            && edge.trials == 0.0
        {
            edge.restore(saved);
        }
    }
}

/// Whether a decayed count of calls can be this: no function is called more often than a thousand million times a second.
pub(in super::super) fn is_weight(weight: f64) -> bool {
    (0.0..=1e9 * RATE_SECONDS).contains(&weight)
}

impl Saved {
    /// Whether an edge can be like that.
    pub(in super::super) fn is_sound(&self) -> bool {
        let is_count = |count: f32| (0.0..=TRIALS_MAX).contains(&count);
        is_count(self.trials)
            && (0.0..=1.001).contains(&self.quick)
            && self.strong.is_finite()
            && self.strong >= 0.0
            && self.lags.iter().all(|count| is_count(*count))
            && self.lags.iter().sum::<f32>() <= self.trials * 1.001
            && usize::from(self.last_bin) < LAG_BINS
            && self.came <= self.announced
    }
}

impl Edge {
    fn save(&self) -> Saved {
        let Self { trials, quick, strong, lags, last_bin, acts, announced, came, .. } = *self;
        Saved { trials, quick, strong, lags, last_bin, acts, announced, came }
    }

    /// All but what a user says of it, which has the last word.
    fn restore(&mut self, saved: &Saved) {
        let Saved { trials, quick, strong, lags, last_bin, acts, announced, came } = *saved;
        let acts = if self.rule.is_some() { self.acts } else { acts };
        *self = Self { trials, quick, strong, lags, last_bin, acts, announced, came, rule: self.rule, to: self.to };
    }
}
