//! From what the pool holds and what is wanted, to what is begun and what is dropped.
//!
//! Must not: know the budget (the ledger refuses) or the forecast (the target has it).

use crate::types::{PoolUsage, WarmTarget};

/// What to do about one function. At most one of the two is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Change {
    /// Instances to begin to prepare for the shelf.
    pub prepare: u32,
    /// Ready instances to drop.
    pub retire: u32,
}

/// Calls that wait and may take an instance as soon as there is one: those that running calls leave room for within
/// `concurrency_max`. The others wait for a call to end; no instance would help them.
fn takers(usage: &PoolUsage, concurrency_max: u32) -> u64 {
    u64::from(usage.waiting.min(concurrency_max.saturating_sub(usage.busy)))
}

/// Compares what the pool holds of a function with its warm target.
///
/// Waiting calls come first: the instances that they will take do not count for the target, be they in preparation or
/// ready. How many that are is bounded by `concurrency_max` (calls in flight at once, inclusive): calls above it take
/// nothing, and if they counted, each look would find the shelf too low again. What is begun for calls with no instance in
/// sight is [`on_demand`]'s, never this.
///
/// - `prepare = target − (ready + preparing − takers)`, with the bracket at least 0, where that is above 0.
/// - `retire = ready − takers − target`, where that is above 0. Preparing ones are not counted here: one that is at hand
///   is not dropped for one that may fail.
pub fn plan(usage: &PoolUsage, target: &WarmTarget, concurrency_max: u32) -> Change {
    let takers = takers(usage, concurrency_max);
    let ready = u64::from(usage.ready);
    let coming = (ready + u64::from(usage.preparing)).saturating_sub(takers);
    let at_hand = ready.saturating_sub(takers);
    let wanted = u64::from(target.ready);
    Change { prepare: narrow(wanted.saturating_sub(coming)), retire: narrow(at_hand.saturating_sub(wanted)) }
}

/// How many instances to begin now for calls that wait with no instance in sight.
///
/// A waiting call is covered by a ready or a preparing instance, whatever that was begun for. The rest need one each, as
/// long as calls that run and calls that will stay within `concurrency_max` (inclusive).
pub fn on_demand(usage: &PoolUsage, concurrency_max: u32) -> u32 {
    let in_sight = u64::from(usage.ready) + u64::from(usage.preparing);
    narrow(takers(usage, concurrency_max).saturating_sub(in_sight))
}

/// Back to the width of its terms, neither of which is above `u32::MAX`.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(ready: u32, preparing: u32, busy: u32, waiting: u32) -> PoolUsage {
        PoolUsage { ready, preparing, busy, waiting, ..PoolUsage::default() }
    }

    fn target(ready: u32) -> WarmTarget {
        WarmTarget { ready, parts: Vec::new() }
    }

    #[test]
    fn the_shelf_is_brought_to_the_target() {
        let cases = [
            // ready, preparing, waiting, target → prepare, retire
            ((0, 0, 0), 0, (0, 0)),
            ((0, 0, 0), 3, (3, 0)),
            ((1, 1, 0), 3, (1, 0)),
            ((2, 1, 0), 3, (0, 0)),
            ((5, 0, 0), 3, (0, 2)),
            // One at hand is not dropped for one on its way.
            ((3, 2, 0), 3, (0, 0)),
            // Two on their way belong to the two calls that wait.
            ((0, 2, 2), 3, (3, 0)),
            ((0, 4, 2), 3, (1, 0)),
            // Those that wait will take two from the shelf at once.
            ((5, 0, 2), 3, (0, 0)),
            // Calls in need of an instance are not the target's business.
            ((0, 0, 9), 3, (3, 0)),
            // 5 of 12 run: of 20 that wait, 5 may take one; the rest do not make the shelf look low.
            ((3, 5, 20), 3, (0, 0)),
            ((9, 0, 20), 3, (0, 1)),
        ];
        for ((ready, preparing, waiting), wanted, (prepare, retire)) in cases {
            let usage = usage(ready, preparing, 7, waiting);
            assert_eq!(plan(&usage, &target(wanted), 12), Change { prepare, retire }, "{usage:?} target {wanted}");
        }
    }

    #[test]
    fn calls_in_need_get_one_each_within_the_concurrency() {
        let cases = [
            // ready, preparing, busy, waiting, concurrency → begin
            ((0, 0, 0, 0), 64, 0),
            ((0, 0, 0, 1), 64, 1),
            ((0, 1, 0, 1), 64, 0),
            ((1, 0, 0, 3), 64, 2),
            ((0, 2, 3, 9), 8, 3),
            ((0, 5, 3, 9), 8, 0),
            ((0, 0, 8, 9), 8, 0),
            ((0, 0, 9, 9), 8, 0),
            ((0, 0, 0, 5), 0, 0),
        ];
        for ((ready, preparing, busy, waiting), concurrency_max, begin) in cases {
            let usage = usage(ready, preparing, busy, waiting);
            assert_eq!(on_demand(&usage, concurrency_max), begin, "{usage:?} within {concurrency_max}");
        }
    }

    proptest! {
        #[test]
        fn plan_never_overshoots_and_never_pulls_both_ways(
            ready in any::<u32>(), preparing in any::<u32>(), busy in any::<u32>(), waiting in any::<u32>(),
            wanted in any::<u32>(), most in any::<u32>(),
        ) {
            let change = plan(&usage(ready, preparing, busy, waiting), &target(wanted), most);
            prop_assert!(change.prepare == 0 || change.retire == 0);
            prop_assert!(change.retire <= ready);
            let takers = i64::from(waiting).min((i64::from(most) - i64::from(busy)).max(0));
            let left = (i64::from(ready) + i64::from(preparing) - takers).max(0);
            if change.prepare > 0 {
                prop_assert_eq!(left + i64::from(change.prepare), i64::from(wanted));
            } else {
                prop_assert!(left >= i64::from(wanted));
            }
            if change.retire > 0 {
                prop_assert_eq!(i64::from(ready) - takers - i64::from(change.retire), i64::from(wanted));
            } else {
                prop_assert!(i64::from(ready) - takers <= i64::from(wanted));
            }
        }

        /// One round of both, everything begun arrives, every call that may takes one: then nothing is left to do, and the
        /// shelf stands at the target unless more was being prepared already.
        #[test]
        fn one_round_settles(
            ready in 0..99_u32, preparing in 0..99_u32, busy in 0..99_u32, waiting in 0..99_u32, wanted in 0..99_u32,
            most in 0..99_u32,
        ) {
            let mut now = usage(ready, preparing, busy, waiting);
            now.preparing += on_demand(&now, most);
            let change = plan(&now, &target(wanted), most);
            let more_than_asked = now.ready + now.preparing - takers(&now, most) as u32 > wanted;
            let taken = takers(&now, most) as u32;
            let shelf = now.ready - change.retire + now.preparing + change.prepare - taken;
            prop_assert!(shelf == wanted || (more_than_asked && change.prepare == 0 && shelf > wanted));
            let after = usage(shelf, 0, busy + taken, waiting - taken);
            prop_assert_eq!(on_demand(&after, most), 0);
            prop_assert_eq!(plan(&after, &target(wanted), most).prepare, 0);
        }

        #[test]
        fn on_demand_covers_what_the_concurrency_allows_and_no_more(
            ready in 0..99_u32, preparing in 0..99_u32, busy in 0..99_u32, waiting in 0..99_u32, most in 0..99_u32,
        ) {
            let begun = on_demand(&usage(ready, preparing, busy, waiting), most);
            let in_sight = waiting.min(ready + preparing);
            prop_assert!(in_sight + begun <= waiting);
            prop_assert!(begun == 0 || busy + in_sight + begun <= most);
            prop_assert!(in_sight + begun == waiting || busy + in_sight + begun >= most);
            prop_assert_eq!(on_demand(&usage(ready, preparing + begun, busy, waiting), most), 0);
        }
    }
}
