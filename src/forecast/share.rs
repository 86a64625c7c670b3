//! The part of an announcement that is this node's: calls spread over the partitions, and so over the nodes that own them.
//!
//! Must not: know which partitions those are.

use super::Forecaster;

/// What this node owns of the partitions of the invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Partitions that it owns.
    pub owned: u32,
    /// All partitions; 0 where that is not known, which counts as owning all.
    pub all: u32,
}

impl Share {
    /// All of it: one node alone, or one that does not know better.
    pub const WHOLE: Self = Self { owned: 1, all: 1 };

    /// How many of `calls` are to be expected here, rounded up: which node gets the odd one is not known.
    pub(super) fn of(self, calls: u32) -> u32 {
        if self.owned >= self.all {
            return calls;
        }
        let part = (u64::from(calls) * u64::from(self.owned)).div_ceil(u64::from(self.all));
        u32::try_from(part).unwrap_or(calls)
    }
}

impl Forecaster {
    /// The node's share has changed. Notices that are held announce the new part of what they announced, from now on; what
    /// is known of their sources is not touched, as that is counted against the part that was this node's.
    pub fn set_share(&mut self, share: Share) {
        if std::mem::replace(&mut self.share, share) == share {
            return;
        }
        for &slot in &self.announced {
            let Some(function) = self.functions.row_mut(slot) else { continue };
            function.notices.share(|calls| share.of(calls), &mut self.sources);
            if !std::mem::replace(&mut function.is_untimed, true) {
                self.untimed.push(slot);
            }
            self.agenda.touch(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_nothing_of_nothing() {
        let of = |owned, all, calls| Share { owned, all }.of(calls);
        assert_eq!(
            [of(1, 3, 30), of(1, 3, 31), of(2, 3, 1), of(0, 3, 30), of(3, 3, 30), of(5, 3, 30)],
            [10, 11, 1, 0, 30, 30]
        );
        assert_eq!((of(0, 0, 7), Share::WHOLE.of(7), of(u32::MAX - 1, u32::MAX, u32::MAX)), (7, 7, u32::MAX - 1));
    }
}
