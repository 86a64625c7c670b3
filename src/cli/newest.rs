//! Keeps the newest of what is read from several partitions, in the order of time.
//!
//! Must not: know what it keeps.

use std::collections::BTreeMap;

use crate::types::Timestamp;

/// At most so many values, in the order of their time, and where that is the same in the order in which they came.
pub(super) struct Newest<T> {
    kept: BTreeMap<(Timestamp, u64), T>,
    taken: u64,
    max: usize,
}

impl<T> Newest<T> {
    /// Keeps at most `max` (inclusive).
    pub(super) fn new(max: usize) -> Self {
        Self { kept: BTreeMap::new(), taken: 0, max }
    }

    pub(super) fn take(&mut self, at: Timestamp, value: T) {
        self.kept.insert((at, self.taken), value);
        self.taken += 1;
        if self.kept.len() > self.max {
            self.kept.pop_first();
        }
    }

    /// The values, and how many older ones there were.
    pub(super) fn into_values(self) -> (impl Iterator<Item = T>, u64) {
        let older = self.taken - self.kept.len() as u64;
        (self.kept.into_values(), older)
    }
}

/// Says that older ones were left out, where they were.
pub(super) fn say_older(older: u64) {
    if older > 0 {
        super::unread::say(format_args!("{older} older ones are not shown: raise --count, or narrow the selection"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_in_order() {
        let mut newest = Newest::new(3);
        for (millis, value) in [(5, "e"), (1, "a"), (9, "z"), (5, "f"), (2, "b")] {
            newest.take(Timestamp::from_millis(millis), value);
        }
        let (values, older) = newest.into_values();
        assert_eq!((values.collect::<Vec<_>>(), older), (vec!["e", "f", "z"], 2));
    }
}
