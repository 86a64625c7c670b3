//! Exact percentiles of a bounded number of samples.

/// Samples in µs. Keeps each one: made for runs of up to some millions of calls.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    samples_us: Vec<u64>,
}

impl Latencies {
    /// Takes a sample.
    pub fn add(&mut self, us: u64) {
        self.samples_us.push(us);
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.samples_us.len()
    }

    /// The smallest sample that at least `per_mille` of 1,000 samples do not exceed (nearest-rank method); 0 where there is
    /// none. `per_mille` is from 1 to 1,000 inclusive: 500 is the median, 990 the 99th percentile.
    pub fn percentile_us(&self, per_mille: usize) -> u64 {
        let mut sorted = self.samples_us.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * per_mille).div_ceil(1_000);
        rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_us(500), 0);
        for us in (1..=100).rev() {
            latencies.add(us);
        }
        assert_eq!(latencies.percentile_us(500), 50);
        assert_eq!(latencies.percentile_us(990), 99);
        assert_eq!(latencies.percentile_us(991), 100);
        assert_eq!(latencies.percentile_us(1), 1);
        assert_eq!(latencies.percentile_us(1_000), 100);
    }
}
