//! A record as it is kept while the service is away.
//!
//! Must not: trust what it reads: everything that the record relies on is checked.

use serde::{Deserialize, Serialize};

use super::minutes::{Minutes, WORDS};
use super::{HALF_LIVES, History, NEEDS, level};

/// The largest mean load that is taken (inclusive). Far above any; its square, and sums of that, are still numbers.
const LOAD_MAX: f32 = 1e9;

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Saved {
    first: i64,
    next: i64,
    last_used: Option<i64>,
    in_use: [u64; WORDS],
    needs: Vec<u8>,
    loads: [(f32, f32); HALF_LIVES.len()],
    last_load: f32,
    largest: u8,
}

impl History {
    pub(in super::super) fn save(&self) -> Saved {
        let Self { first, next, last_used, ref in_use, ref needs, loads, last_load, largest } = *self;
        Saved { first, next, last_used, in_use: in_use.0, needs: needs.to_vec(), loads, last_load, largest }
    }

    /// The record that was saved; `None` where no record can be like that, or where it knows minutes after `minute`.
    pub(in super::super) fn restore(saved: Saved, minute: i64) -> Option<Self> {
        let Saved { first, next, last_used, in_use, needs, loads, last_load, largest } = saved;
        let is_load = |load: f32| (0.0..=LOAD_MAX).contains(&load);
        let is_variance = |variance: f32| (0.0..=LOAD_MAX * LOAD_MAX).contains(&variance);
        let is_sound = first <= next
            && next <= minute + 1
            // Far from the ends, so that no difference of two minutes can overflow.
            && first > i64::MIN / 4
            && last_used.is_none_or(|last| (first..next).contains(&last))
            && loads.iter().all(|(mean, variance)| is_load(*mean) && is_variance(*variance))
            && is_load(last_load)
            && needs.iter().all(|need| *need <= largest)
            && level::level(largest) < u32::MAX;
        let needs: [u8; NEEDS as usize] = needs.try_into().ok()?;
        is_sound.then(|| Self {
            first,
            next,
            last_used,
            in_use: Minutes(in_use),
            needs: Box::new(needs),
            loads,
            last_load,
            largest,
        })
    }
}
