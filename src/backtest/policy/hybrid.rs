//! The hybrid histogram policy: Shahrad et al., "Serverless in the Wild", USENIX ATC 2020, section 4.
//!
//! The first instance of a function is unloaded after a use and prepared again shortly before the next one is likely, by
//! a histogram of the gaps between uses. Where the paper leaves a choice at a tick of a minute, this one is made:
//!
//! - A gap is the difference between the numbers of two minutes in which the function was in use; its bin is itself. A gap
//!   of 240 minutes or more is out of bounds.
//! - The window opens at the bin of the 5th percentile less 10 %, rounded down, and closes with the upper edge of that of
//!   the 99th plus 10 %, rounded down. Both ends are held.
//! - There is a histogram from the first gap on. It is good where the coefficient of variation of its bins' counts is at
//!   least 2. Without a good one the instance is held for the whole range after its last use: 240 minutes.
//! - Where more than half of all gaps are out of bounds, the next is taken to be the mean of the last 8 (of any size), and
//!   the window opens 15 % before it, rounded down, and closes 15 % after, rounded up. The paper fits an ARIMA there.
//!
//! The paper has one instance a function. Further ones are kept for 10 minutes after their last use; while one of them is
//! held the first is held too, as it was in use whenever they were.
//!
//! Must not: be tuned; it is the yardstick.

use super::super::trace::Minute;
use super::{Fixed, Policy};

/// Bins of a minute: 4 hours.
const BINS: u32 = 240;
/// Gaps whose mean counts where most are out of bounds.
const LAST_GAPS: usize = 8;
/// How long further instances are kept, in minutes.
const KEEP_FURTHER: u32 = 10;
/// A coefficient of variation below this one makes no good histogram.
const VARIATION_MIN: f64 = 2.0;

/// The policy of one function.
#[derive(Clone, Debug)]
pub struct HybridHistogram {
    bins: [u32; BINS as usize],
    /// Gaps in `bins`.
    in_bounds: u32,
    /// The sum of the squares of `bins`.
    squares: u64,
    out_of_bounds: u32,
    /// The last gaps, oldest first.
    last_gaps: Vec<u32>,
    last_used: Option<u32>,
    /// When the first instance is held, in minutes since its last use, both inclusive.
    window: (u32, u32),
    further: Fixed,
}

impl Default for HybridHistogram {
    fn default() -> Self {
        Self {
            bins: [0; BINS as usize],
            in_bounds: 0,
            squares: 0,
            out_of_bounds: 0,
            last_gaps: Vec::with_capacity(LAST_GAPS + 1),
            last_used: None,
            window: (0, BINS),
            further: Fixed::new(KEEP_FURTHER),
        }
    }
}

impl HybridHistogram {
    fn count(&mut self, gap: u32) {
        match self.bins.get_mut(gap as usize) {
            Some(bin) => {
                self.squares += 2 * u64::from(*bin) + 1;
                *bin += 1;
                self.in_bounds += 1;
            }
            None => self.out_of_bounds += 1,
        }
        self.last_gaps.push(gap);
        if self.last_gaps.len() > LAST_GAPS {
            self.last_gaps.remove(0);
        }
    }

    fn next_window(&self) -> (u32, u32) {
        if self.out_of_bounds > self.in_bounds {
            let mean = f64::from(self.last_gaps.iter().sum::<u32>()) / self.last_gaps.len() as f64;
            return ((mean * 0.85).floor() as u32, (mean * 1.15).ceil() as u32);
        }
        if self.variation().is_none_or(|variation| variation < VARIATION_MIN) {
            return (0, BINS);
        }
        // In whole numbers: 1.1 is not a binary fraction.
        (self.percentile(5) * 9 / 10, (self.percentile(99) + 1) * 11 / 10)
    }

    /// The coefficient of variation of the bins' counts; `None` where all are empty.
    fn variation(&self) -> Option<f64> {
        if self.in_bounds == 0 {
            return None;
        }
        let mean = f64::from(self.in_bounds) / f64::from(BINS);
        Some((self.squares as f64 / f64::from(BINS) - mean * mean).max(0.0).sqrt() / mean)
    }

    /// The first bin up to which at least `percent` of the gaps in bounds lie.
    fn percentile(&self, percent: u64) -> u32 {
        let mut below = 0;
        let reaches = |&bin: &u32| {
            below += u64::from(bin);
            below * 100 >= percent * u64::from(self.in_bounds)
        };
        self.bins.iter().position(reaches).map_or(BINS, |bin| bin as u32)
    }
}

impl Policy for HybridHistogram {
    fn warm(&mut self, minute: u32) -> u32 {
        let (opens, closes) = self.window;
        let first = self.last_used.is_some_and(|last| (opens..=closes).contains(&(minute - last)));
        let all = self.further.warm(minute);
        if all > 1 { all } else { u32::from(first) }
    }

    fn saw(&mut self, minute: u32, seen: &Minute) {
        self.further.saw(minute, seen);
        if seen.need == 0 {
            return;
        }
        if let Some(last) = self.last_used.replace(minute) {
            self.count(minute - last);
            self.window = self.next_window();
        }
    }
}
