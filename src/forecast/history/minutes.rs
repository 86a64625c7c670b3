//! One bit a minute for the last day and more: in which minutes a function was in use.
//!
//! Must not: know what in use means, or read a clock; minutes come as numbers.

pub(super) const WORDS: usize = 24;

/// Minutes that are remembered: 25.6 hours, so that the same minute of yesterday is among them, and its neighbours.
pub(super) const MINUTES: i64 = WORDS as i64 * 64;

/// A ring of bits; minute `m` has bit `m mod MINUTES`. The owner says where its newest minute is, and clears the bits of
/// minutes that are passed over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Minutes(pub(super) [u64; WORDS]);

impl Minutes {
    /// Sets or clears one minute.
    pub(super) fn set(&mut self, minute: i64, in_use: bool) {
        let (word, bit) = place(minute);
        self.0[word] = self.0[word] & !(1 << bit) | u64::from(in_use) << bit;
    }

    /// Whether the minute's bit is set; the caller knows that it is remembered.
    pub(super) fn get(&self, minute: i64) -> bool {
        let (word, bit) = place(minute);
        self.0[word] >> bit & 1 == 1
    }

    /// How many of the `minutes` (at most `MINUTES`) that end with `last` (inclusive) were in use.
    pub(super) fn count(&self, last: i64, minutes: i64) -> u32 {
        let (mut at, mut left, mut count) = (last, minutes.clamp(0, MINUTES), 0);
        while left > 0 {
            let (word, bit) = place(at);
            let take = left.min(bit as i64 + 1);
            // The `take` bits that end at `bit`.
            let bits = self.0[word] << (63 - bit) >> (64 - take as u32);
            count += bits.count_ones();
            at -= take;
            left -= take;
        }
        count
    }

    /// The minutes in use among those remembered, from `last` (inclusive) back to `first` (inclusive).
    pub(super) fn backwards(&self, last: i64, first: i64) -> impl Iterator<Item = i64> {
        let mut at = last;
        std::iter::from_fn(move || {
            while at >= first {
                let (word, bit) = place(at);
                let bits = self.0[word] << (63 - bit);
                if bits == 0 {
                    at -= bit as i64 + 1;
                    continue;
                }
                let found = at - i64::from(bits.leading_zeros());
                at = found - 1;
                return (found >= first).then_some(found);
            }
            None
        })
    }
}

fn place(minute: i64) -> (usize, u32) {
    let bit = minute.rem_euclid(MINUTES);
    // Both are small: below WORDS and below 64.
    ((bit / 64) as usize, (bit % 64) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_list(
            last in -5_000_i64..5_000,
            back in prop::collection::btree_set(0_i64..MINUTES, 0..80),
            minutes in 0_i64..=MINUTES,
        ) {
            let mut bits = Minutes::default();
            let in_use: Vec<i64> = back.iter().map(|back| last - back).collect();
            in_use.iter().for_each(|&minute| bits.set(minute, true));
            let within = in_use.iter().filter(|&&minute| minute > last - minutes).count();
            prop_assert_eq!(bits.count(last, minutes) as usize, within);
            let first = last - MINUTES + 1;
            prop_assert_eq!(bits.backwards(last, first).collect::<Vec<_>>(), in_use.clone());
            prop_assert_eq!(bits.backwards(last, last - minutes + 1).count(), within);
            for minute in first..=last {
                prop_assert_eq!(bits.get(minute), in_use.contains(&minute));
            }
            in_use.iter().for_each(|&minute| bits.set(minute, false));
            prop_assert_eq!(bits, Minutes::default());
        }
    }
}
