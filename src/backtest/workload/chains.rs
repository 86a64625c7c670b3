//! Chains of calls, A→B→C, among functions that have nothing to do with them.
//!
//! Must not: say in a call's event that it belongs to a chain; that is what is to be found.

use std::time::Duration;

use super::super::random::Random;
use super::{What, Workload, definition, name, second};
use crate::types::Reuse;

/// A workload of one chain and noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Chains {
    /// The same seed makes the same workload.
    pub seed: u64,
    /// How many functions the chain has: 3 is A→B→C.
    pub length: u32,
    /// Calls of the first function.
    pub occurrences: u32,
    /// Mean time between them; they come at random.
    pub gap: Duration,
    /// How likely a call is followed by one of the next function.
    pub probability: f64,
    /// The time from a call to the one that follows it, from and to; each as likely.
    pub lag: (Duration, Duration),
    /// Functions that are called at random, each for itself.
    pub unrelated: u32,
    /// The mean time between calls of an unrelated function lies between these, with each order of magnitude as likely.
    pub unrelated_gap: (Duration, Duration),
    /// Mean run time of a call; they are spread exponentially.
    pub run: Duration,
}

impl Default for Chains {
    fn default() -> Self {
        Self {
            seed: 1,
            length: 3,
            occurrences: 300,
            gap: Duration::from_secs(20),
            probability: 0.8,
            lag: (Duration::from_millis(200), Duration::from_secs(2)),
            unrelated: 1_000,
            unrelated_gap: (Duration::from_secs(10), Duration::from_secs(1_000)),
            run: Duration::from_millis(50),
        }
    }
}

impl Chains {
    /// Makes the workload. The chain's functions come first: `chain-0` is A, `chain-1` is B, and so on.
    pub fn make(&self) -> Workload {
        let mut random = Random::new(self.seed);
        let mut happenings = Vec::new();
        let mut call = |random: &mut Random, seconds: f64, function: u32| {
            let run = Duration::from_secs_f64(random.exponential(self.run.as_secs_f64()));
            happenings.push((second(seconds), What::Called { function: function as usize, run, is_announced: false }));
        };
        let mut now = 0.0;
        for _ in 0..self.occurrences {
            now += random.exponential(self.gap.as_secs_f64());
            let mut at = now;
            for link in 0..self.length {
                if link > 0 {
                    if !random.chance(self.probability) {
                        break;
                    }
                    at += random.between(self.lag.0.as_secs_f64(), self.lag.1.as_secs_f64());
                }
                call(&mut random, at, link);
            }
        }
        let (least, most) = (self.unrelated_gap.0.as_secs_f64(), self.unrelated_gap.1.as_secs_f64());
        for function in 0..self.unrelated {
            let gap = random.between(least.ln(), most.ln()).exp();
            let mut at = random.exponential(gap);
            while at < now {
                call(&mut random, at, self.length + function);
                at += random.exponential(gap);
            }
        }
        let chain = (0..self.length).map(|link| format!("chain-{link}"));
        let names = chain.chain((0..self.unrelated).map(|n| format!("unrelated-{n}")));
        Workload::new(names.map(|text| definition(name(&text), Reuse::Reuse)).collect(), happenings)
    }
}
