//! When announced calls come: a decayed histogram of the time from a notice's start to its calls, in bins that double.
//!
//! Must not: know sources or functions, or look between the edges of two bins: what it says changes at edges alone, so
//! that a timer for each edge misses nothing.

use std::time::Duration;

use super::beliefs::MEMORY_NOTICES;

/// Bin 0 ends at 2 ms, every later one at twice the end of the one before, and the last one (from 2.3 hours on) never.
pub(super) const BINS: usize = 24;
/// Notices of whose calls the lags must be known before they are acted on.
const KNOWN_NOTICES: f32 = 3.0;
/// A call that comes later than any before is this likely, in notices. With 0.05, what has always come and is late is
/// given up after about six notices.
const LATER_THAN_EVER: f32 = 0.05;
/// Calls that came earlier than all but this part are passed over when it is asked when calls begin to come.
const EARLIEST: f32 = 1.0 / 64.0;

/// The lags of one source's calls of one function. Each notice weighs 1, however many calls it announced.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lags(pub(super) [f32; BINS]);

fn bin(lag: Duration) -> usize {
    // Duration::MAX in ms is below 2^95, so the logarithm fits.
    (lag.as_millis().max(1).ilog2() as usize).min(BINS - 1)
}

/// The lag at which a bin begins.
fn begin(bin: usize) -> Duration {
    if bin == 0 { Duration::ZERO } else { Duration::from_millis(1 << bin) }
}

/// The next lag after `lag` at which the answers change; `None` after the last edge.
pub(in super::super) fn next_edge(lag: Duration) -> Option<Duration> {
    (bin(lag) + 1 < BINS).then(|| begin(bin(lag) + 1))
}

impl Lags {
    /// Counts one call of a notice that announced so many.
    pub(super) fn count(&mut self, lag: Duration, announced: u32) {
        self.0[bin(lag)] += 1.0 / announced as f32;
    }

    /// One more notice is over.
    pub(super) fn fade(&mut self, weight: f32) {
        self.0.iter_mut().for_each(|held| *held *= 1.0 - weight / MEMORY_NOTICES);
    }

    fn weight(&self) -> f32 {
        self.0.iter().sum()
    }

    /// What part of a notice's calls comes this long after its start or later, 0.0 to 1.0: as learned, and before
    /// anything is known evenly over its window, from its start to its end.
    pub(super) fn survival(&self, elapsed: Duration, window: Duration) -> f32 {
        let bin = bin(elapsed);
        let passed = begin(bin).as_secs_f64() / window.as_secs_f64();
        // An empty window makes this no number or infinite: then nothing is left of it once it has begun.
        let unknown = if passed.is_finite() { (1.0 - passed as f32).max(0.0) } else { 0.0 };
        let unknown = if bin == 0 { 1.0 } else { unknown };
        let later: f32 = self.0[bin..].iter().sum();
        let earlier: f32 = self.0[..bin].iter().sum();
        let known = later + LATER_THAN_EVER * unknown;
        known / (earlier + later + LATER_THAN_EVER)
    }

    /// How long after the start the calls begin to come; zero where that is not known.
    pub(super) fn earliest(&self) -> Duration {
        let weight = self.weight();
        if weight < KNOWN_NOTICES {
            return Duration::ZERO;
        }
        let mut below = 0.0;
        let first = self.0.iter().position(|held| {
            below += held;
            below >= weight * EARLIEST
        });
        begin(first.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bins_double_and_the_edges_are_where_they_change() {
        let rows = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (1_000, 9), (1_024, 10), (u64::MAX, 23)];
        for (lag, expected) in rows {
            assert_eq!(bin(ms(lag)), expected, "{lag} ms");
        }
        assert_eq!(bin(Duration::MAX), 23);
        let mut edge = Duration::ZERO;
        for number in 1..BINS {
            let next = next_edge(edge).unwrap();
            assert_eq!((bin(next), bin(next - Duration::from_nanos(1))), (number, number - 1));
            edge = next;
        }
        assert_eq!(next_edge(edge), None);
    }

    #[test]
    fn nothing_known_means_evenly_over_the_window() {
        let lags = Lags::default();
        let survival = |elapsed| lags.survival(ms(elapsed), ms(8_192));
        assert_eq!([0, 1, 2_048, 4_096, 8_191].map(survival), [1.0, 1.0, 0.75, 0.5, 0.5]);
        assert_eq!(lags.survival(ms(5), Duration::ZERO), 0.0);
        assert_eq!(lags.earliest(), Duration::ZERO);
    }

    #[test]
    fn what_is_learned_outweighs_the_window() {
        let mut lags = Lags::default();
        for _ in 0..10 {
            (0..4).for_each(|_| lags.count(ms(1_500), 4));
        }
        let window = ms(60_000);
        assert!(lags.survival(ms(1_024), window) > 0.999);
        assert!(lags.survival(ms(2_048), window) < 0.005);
        assert_eq!(lags.earliest(), ms(1_024));
        // One call in forty came at once; it is waited for.
        lags.count(ms(1), 4);
        assert_eq!(lags.earliest(), ms(0));
        let before = lags.weight();
        lags.fade(1.0);
        assert!((lags.weight() - before * 32.0 / 33.0).abs() < 1e-4);
    }
}
