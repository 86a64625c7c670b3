//! What is known of sources, as it is kept while the service is away.
//!
//! It is kept by function: what the sources' notices for that function brought. What a source's notices brought over all
//! functions is put together from that again.
//!
//! Must not: trust what it reads.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::beliefs::{MEMORY_NOTICES, Shares};
use super::lags::{BINS, Lags};
use super::{Account, Beliefs, Pair, Place, Sources};
use crate::types::YIELD_STEPS;

/// Sources of one function that are kept (inclusive): those that are best known.
const SAVED_MAX: usize = 16;
/// The longest name that is taken, in bytes (inclusive).
const NAME_LEN_MAX: usize = 256;
/// What memory can add up to, with room for what rounding adds.
const WEIGHT_MAX: f32 = MEMORY_NOTICES + 0.1;

/// What one source's notices for a function brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Saved {
    source: String,
    tenant: Option<String>,
    alone: [f32; YIELD_STEPS + 1],
    behind: [f32; YIELD_STEPS + 1],
    confidence: f32,
    lags: [f32; BINS],
    at_once: f32,
}

/// Pairs that are looked at in one go.
const PAIRS_A_LOOK: usize = 4_096;

/// Which pairs each function has: put together bit by bit, since pairs are many.
#[derive(Debug, Default)]
pub(in super::super) struct Index {
    /// The last pair of each function, by the function's serial number.
    last: HashMap<u64, Place>,
    /// Of every pair that was looked at, the one of the same function before it. A list for each function would take
    /// long to give back.
    before: Vec<Option<Place>>,
}

impl Index {
    fn of(&self, function: u64) -> impl Iterator<Item = Place> {
        let last = self.last.get(&function).copied();
        std::iter::successors(last, |&place| self.before.get(place as usize).copied().flatten())
    }
}

impl Sources {
    /// Goes on with an index; answers whether it has every pair now.
    pub(in super::super) fn index(&self, index: &mut Index) -> bool {
        // At most as many as there are places.
        let first = index.before.len() as Place;
        for (place, &(_, function)) in self.pairs.keys(first).take(PAIRS_A_LOOK) {
            index.before.push(index.last.insert(function, place));
        }
        self.pairs.keys(index.before.len() as Place).next().is_none()
    }

    /// What is kept of the pairs that an index has of one function. The index may be of an earlier moment: what was
    /// forgotten since, and whose place is another one's now, is left out.
    pub(in super::super) fn save(&self, function: u64, index: &Index) -> Vec<Saved> {
        let mut saved: Vec<Saved> = index.of(function).filter_map(|pair| self.save_one(function, pair)).collect();
        let weight = |saved: &Saved| saved.alone.iter().sum::<f32>();
        saved.retain(|saved| weight(saved) > 0.0);
        saved.sort_by(|one, other| {
            weight(other)
                .total_cmp(&weight(one))
                .then_with(|| (&one.tenant, &one.source).cmp(&(&other.tenant, &other.source)))
        });
        saved.truncate(SAVED_MAX);
        saved
    }

    fn save_one(&self, function: u64, pair: Place) -> Option<Saved> {
        let key = *self.pairs.key_at(pair);
        let Pair { source, beliefs, lags, at_once } = self.pairs.at(pair);
        if key != (self.sources.at(*source).serial, function) {
            return None;
        }
        let (name, tenant) = self.names(*source);
        Some(Saved {
            source: name.to_owned(),
            tenant: tenant.map(str::to_owned),
            alone: beliefs.alone.0,
            behind: beliefs.behind.0,
            confidence: beliefs.confidence,
            lags: lags.0,
            at_once: *at_once,
        })
    }

    /// Takes over what was kept of one function's sources; `false` where nothing can be like that, and then nothing is.
    pub(in super::super) fn restore(&mut self, function: u64, saved: &[Saved]) -> bool {
        let is_sound = saved.len() <= SAVED_MAX && saved.iter().all(Saved::is_sound);
        if is_sound {
            for saved in saved {
                self.restore_one(function, saved);
            }
        }
        is_sound
    }

    fn restore_one(&mut self, function: u64, saved: &Saved) {
        let Some(source) = self.meet(saved.tenant.as_deref(), &saved.source) else {
            self.forgotten += 1;
            return;
        };
        let Some(pair) = self.meet_pair(source, function) else {
            self.forgotten += 1;
            return;
        };
        let beliefs =
            Beliefs { alone: Shares(saved.alone), behind: Shares(saved.behind), confidence: saved.confidence };
        *self.pairs.at_mut(pair) = Pair { source, beliefs, lags: Lags(saved.lags), at_once: saved.at_once };
        self.pairs.used(pair, beliefs.alone.weight());
        let row = self.sources.at_mut(source);
        row.learned.add(&beliefs);
        row.told = row.learned;
        row.account.earn(&beliefs.alone);
        let (known, tenant) = (row.learned.alone.weight(), row.tenant);
        self.sources.used(source, known);
        self.tenant_mut(tenant).account.earn(&beliefs.alone);
        if let Some(tenant) = tenant {
            self.tenants.used(tenant, known);
        }
    }
}

impl Saved {
    fn is_sound(&self) -> bool {
        let are_weights = |weights: &[f32]| {
            weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
                && weights.iter().sum::<f32>() <= WEIGHT_MAX
        };
        let is_name = |name: &str| name.len() <= NAME_LEN_MAX;
        is_name(&self.source)
            && self.tenant.as_deref().is_none_or(is_name)
            && are_weights(&self.alone)
            && are_weights(&self.behind)
            && are_weights(&self.lags)
            && (0.0..=WEIGHT_MAX).contains(&self.confidence)
            && self.at_once > 0.0
            && self.at_once <= 1.0
    }
}

impl Beliefs {
    /// Takes in what was learned elsewhere, as if it had been learned here.
    fn add(&mut self, other: &Self) {
        // Confidence is a sum over what `alone` has counted, so that it fades with it.
        self.confidence = (self.confidence + other.confidence) * self.alone.add(&other.alone);
        self.behind.add(&other.behind);
    }
}

impl Account {
    /// What notices brought in an earlier life counts as it did then.
    fn earn(&mut self, shares: &Shares) {
        let came = shares.0.iter().zip(0_u8..).map(|(weight, place)| weight * f32::from(place));
        self.hits = (self.hits + came.sum::<f32>() / YIELD_STEPS as f32).min(MEMORY_NOTICES);
    }
}

impl Shares {
    /// Adds what another one has counted, as far as memory reaches: answers what part of both it keeps.
    fn add(&mut self, other: &Self) -> f32 {
        self.0.iter_mut().zip(other.0).for_each(|(held, more)| *held += more);
        let kept = (MEMORY_NOTICES / self.weight()).min(1.0);
        self.0.iter_mut().for_each(|held| *held *= kept);
        kept
    }
}
