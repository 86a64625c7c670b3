//! Nagle's algorithm for records: what librdkafka has of a partition is never more than it can send at once; the rest waits
//! here and goes as one batch.
//!
//! librdkafka's idempotent producer stops sending for a partition of which five *messages* are unacknowledged, and its thread
//! then polls without a pause for as long as more of them are queued. So a lane (all that goes to one partition) lets through up
//! to [`WINDOW`] records, and holds those behind them back until every record before is acknowledged or given back; what has
//! gathered by then is let through together, to be sent in one request.
//!
//! Must not: send, know what a record is, or have a clock.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

/// Records of a lane that librdkafka may have without them being one batch (inclusive): its `RD_KAFKA_IDEMP_MAX_INFLIGHT`.
pub(super) const WINDOW: usize = 5;
/// Lanes that are looked at for a record that may go into any.
const CANDIDATES: usize = 8;

/// What fits into one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Records in a batch (inclusive). Up to [`WINDOW`] go in any case: they may travel in requests of their own.
    pub(super) records_max: usize,
    /// Bytes of a batch (inclusive), with the same exception.
    pub(super) bytes_max: usize,
    /// Records without a position that wait, in all lanes (inclusive).
    pub(super) loose_max: usize,
}

/// What became of a record that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<T> {
    /// To be sent now.
    Now(T),
    /// It waits.
    Waits,
    /// No call waits for it, and as many of its kind wait as may.
    Refused(T),
}

/// A record that waits, or is being handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waiting<T> {
    pub(super) item: T,
    bytes: usize,
    loose: bool,
}

#[derive(Debug)]
struct Lane<T> {
    in_flight: usize,
    /// Whether a batch is being handed over at this moment: nothing may overtake it.
    handing_over: bool,
    /// When a record of it last ended, or the first was let through after all had.
    moved_at: Instant,
    waiting: VecDeque<Waiting<T>>,
}

impl<T> Lane<T> {
    fn takes_one(&self) -> bool {
        !self.handing_over && self.waiting.is_empty() && self.in_flight < WINDOW
    }

    fn is_due(&self) -> bool {
        let fits = self.in_flight == 0 || self.in_flight + self.waiting.len() <= WINDOW;
        !self.handing_over && !self.waiting.is_empty() && fits
    }
}

/// All lanes. Their number is that of the partitions written to.
#[derive(Debug)]
pub(super) struct Lanes<K, T> {
    limits: Limits,
    lanes: HashMap<K, Lane<T>>,
    waiting: usize,
    loose: usize,
}

/// A lane that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing<K> {
    pub(super) lane: K,
    /// Since when no record of it has ended.
    pub(super) since: Instant,
}

impl<K: Copy + Eq + Hash, T> Lanes<K, T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, lanes: HashMap::new(), waiting: 0, loose: 0 }
    }

    /// Records that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Those of them that no call waits for.
    pub(super) fn loose(&self) -> usize {
        self.loose
    }

    /// A record for a lane. One that is to be sent now is in flight from here on. `loose_elsewhere` counts as if it waited here.
    pub(super) fn offer(&mut self, lane: K, item: T, bytes: usize, loose: Option<usize>, now: Instant) -> Offered<T> {
        let new = || Lane { in_flight: 0, handing_over: false, moved_at: now, waiting: VecDeque::new() };
        let lane = self.lanes.entry(lane).or_insert_with(new);
        if lane.takes_one() {
            if lane.in_flight == 0 {
                lane.moved_at = now;
            }
            lane.in_flight += 1;
            return Offered::Now(item);
        }
        if let Some(elsewhere) = loose {
            if self.loose + elsewhere >= self.limits.loose_max {
                return Offered::Refused(item);
            }
            self.loose += 1;
        }
        self.waiting += 1;
        lane.waiting.push_back(Waiting { item, bytes, loose: loose.is_some() });
        Offered::Waits
    }

    /// Whether records of a lane wait, or are being handed over, so that another one would overtake them.
    pub(super) fn holds_back(&self, lane: K) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.handing_over || !lane.waiting.is_empty())
    }

    /// A record that was in flight is no more. Whether the next batch is due.
    pub(super) fn ended(&mut self, lane: K, now: Instant) -> bool {
        let Some(lane) = self.lanes.get_mut(&lane) else { return false };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.moved_at = now;
        lane.is_due()
    }

    /// Lanes whose next batch is due.
    pub(super) fn due(&self) -> Vec<K> {
        if self.waiting == 0 {
            return Vec::new();
        }
        self.lanes.iter().filter(|(_, lane)| lane.is_due()).map(|(key, _)| *key).collect()
    }

    /// Takes the next batch out where it is due; all of it is in flight from here on, and the lane lets nothing else through
    /// until [`handed_over`](Self::handed_over). Empty where nothing is due.
    pub(super) fn take(&mut self, lane: K, now: Instant) -> Vec<Waiting<T>> {
        let Some(lane) = self.lanes.get_mut(&lane) else { return Vec::new() };
        let (mut batch, mut bytes) = (Vec::new(), 0_usize);
        if !lane.is_due() {
            return batch;
        }
        while let Some(next) = lane.waiting.front() {
            bytes = bytes.saturating_add(next.bytes);
            let fits = batch.len() < self.limits.records_max && bytes <= self.limits.bytes_max;
            if !fits && batch.len() >= WINDOW {
                break;
            }
            let Some(next) = lane.waiting.pop_front() else { break };
            self.waiting -= 1;
            self.loose -= usize::from(next.loose);
            batch.push(next);
        }
        lane.in_flight += batch.len();
        lane.handing_over = true;
        lane.moved_at = now;
        batch
    }

    /// The batch that was taken last has been handed over, except for `rest`, its end, which waits again, at the front. Whether
    /// another batch is due.
    pub(super) fn handed_over(&mut self, lane: K, rest: Vec<Waiting<T>>) -> bool {
        let Some(lane) = self.lanes.get_mut(&lane) else { return false };
        lane.handing_over = false;
        lane.in_flight = lane.in_flight.saturating_sub(rest.len());
        self.waiting += rest.len();
        for waiting in rest.into_iter().rev() {
            self.loose += usize::from(waiting.loose);
            lane.waiting.push_front(waiting);
        }
        lane.is_due()
    }

    /// The lane for a record that may go into any of `of`, which begins with the last choice: that lane for as long as it is
    /// under way and takes more, then the next that takes more, else the one with the least in it.
    pub(super) fn choose(&self, of: impl IntoIterator<Item = K>) -> Option<K> {
        let mut of = of.into_iter().take(CANDIDATES).peekable();
        let last = *of.peek()?;
        if self.lanes.get(&last).is_some_and(|lane| lane.in_flight > 0 && lane.takes_one()) {
            return Some(last);
        }
        let mut least = (usize::MAX, last);
        // The last choice comes last: an idle topic's partitions take turns.
        for key in of.skip(1).chain([last]) {
            let load = match self.lanes.get(&key) {
                None => 0,
                Some(lane) if lane.takes_one() => 0,
                Some(lane) => lane.in_flight + lane.waiting.len() + 1,
            };
            if load < least.0 {
                least = (load, key);
            }
        }
        Some(least.1)
    }

    /// Of the lanes that satisfy `of` and have something in flight, the one that has stood longest.
    pub(super) fn standing(&self, of: impl Fn(K) -> bool) -> Option<Standing<K>> {
        let busy = self.lanes.iter().filter(|(key, lane)| lane.in_flight > 0 && of(**key));
        let longest = busy.min_by_key(|(_, lane)| lane.moved_at)?;
        Some(Standing { lane: *longest.0, since: longest.1.moved_at })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { records_max: 100, bytes_max: 1_000, loose_max: 3 };

    fn items(batch: &[Waiting<u32>]) -> Vec<u32> {
        batch.iter().map(|waiting| waiting.item).collect()
    }

    /// Lane 0 with `count` records offered, numbered from 0, of 10 bytes each.
    fn filled(count: u32) -> (Lanes<u8, u32>, Instant) {
        let (mut lanes, now) = (Lanes::new(LIMITS), Instant::now());
        for item in 0..count {
            let offered = lanes.offer(0, item, 10, None, now);
            assert_eq!(offered, if item < 5 { Offered::Now(item) } else { Offered::Waits });
        }
        (lanes, now)
    }

    #[test]
    fn the_sixth_record_waits_until_it_fits_beside_those_before_it() {
        let (mut lanes, now) = filled(6);
        assert_eq!((lanes.waiting(), lanes.due()), (1, vec![]));
        assert_eq!(lanes.offer(1, 9, 10, None, now), Offered::Now(9), "another lane knows nothing of it");
        assert!(lanes.ended(0, now));
        assert_eq!(lanes.due(), [0]);
        assert_eq!(items(&lanes.take(0, now)), [5]);
        assert!(!lanes.handed_over(0, Vec::new()));
        assert_eq!(lanes.offer(0, 6, 10, None, now), Offered::Waits, "five are in flight again");
    }

    #[test]
    fn more_than_fits_waits_for_all_before_it_and_goes_together() {
        let (mut lanes, now) = filled(20);
        for _ in 0..4 {
            assert!(!lanes.ended(0, now));
            assert!(lanes.take(0, now).is_empty());
        }
        assert!(lanes.ended(0, now));
        assert_eq!(items(&lanes.take(0, now)), (5..20).collect::<Vec<_>>());
        assert_eq!(lanes.offer(0, 20, 10, None, now), Offered::Waits);
        assert!(!lanes.handed_over(0, Vec::new()));
        (0..10).for_each(|_| assert!(!lanes.ended(0, now)));
        assert!(lanes.ended(0, now), "four are in flight, and one fits beside them");
        assert_eq!(items(&lanes.take(0, now)), [20]);
    }

    #[test]
    fn a_batch_is_one_request_and_at_least_a_window() {
        let (mut lanes, now) = filled(5);
        for (item, bytes) in [(5, 10), (6, 950), (7, 10), (8, 10), (9, 10), (10, 10), (11, 10)] {
            assert_eq!(lanes.offer(0, item, bytes, None, now), Offered::Waits);
        }
        (0..5).for_each(|_| _ = lanes.ended(0, now));
        // 1,000 bytes after six.
        assert_eq!(items(&lanes.take(0, now)), [5, 6, 7, 8, 9, 10]);
        let large = Lanes::<u8, u32>::new(Limits { records_max: 1, bytes_max: 1, ..LIMITS });
        let mut lanes = (0..12).fold(large, |mut lanes, item| {
            _ = lanes.offer(0, item, 2_000, None, now);
            lanes
        });
        (0..5).for_each(|_| _ = lanes.ended(0, now));
        assert_eq!(items(&lanes.take(0, now)), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn nothing_overtakes_a_batch_that_is_being_handed_over_and_its_rest_comes_first() {
        let (mut lanes, now) = filled(8);
        (0..5).for_each(|_| _ = lanes.ended(0, now));
        let mut batch = lanes.take(0, now);
        assert_eq!((lanes.offer(0, 8, 10, None, now), lanes.holds_back(0)), (Offered::Waits, true));
        assert!(!lanes.ended(0, now) && lanes.due().is_empty() && lanes.take(0, now).is_empty());
        let rest = batch.split_off(1);
        // The one that was sent has ended already.
        assert!(lanes.handed_over(0, rest));
        assert_eq!(lanes.waiting(), 3);
        assert_eq!(items(&lanes.take(0, now)), [6, 7, 8]);
        lanes.handed_over(0, Vec::new());
        assert!(!lanes.holds_back(0) && !lanes.holds_back(1));
    }

    #[test]
    fn records_that_no_call_waits_for_have_a_bound() {
        let (mut lanes, now) = filled(5);
        assert_eq!(lanes.offer(0, 5, 10, Some(1), now), Offered::Waits);
        assert_eq!(lanes.offer(0, 6, 10, Some(1), now), Offered::Waits);
        assert_eq!(lanes.offer(0, 7, 10, Some(1), now), Offered::Refused(7));
        assert_eq!(lanes.offer(0, 8, 10, None, now), Offered::Waits);
        assert_eq!((lanes.loose(), lanes.waiting()), (2, 3));
        (0..5).for_each(|_| _ = lanes.ended(0, now));
        let batch = lanes.take(0, now);
        assert_eq!((lanes.loose(), lanes.waiting()), (0, 0));
        lanes.handed_over(0, batch);
        assert_eq!((lanes.loose(), lanes.waiting()), (2, 3));
    }

    #[test]
    fn a_record_without_a_partition_follows_the_last_until_that_is_full_or_done() {
        let (mut lanes, now) = (Lanes::<u8, u32>::new(LIMITS), Instant::now());
        assert_eq!(lanes.choose([0, 1, 2]), Some(1), "an idle lane's turn is over");
        for item in 0..5 {
            assert_eq!(lanes.offer(1, item, 1, None, now), Offered::Now(item));
            assert_eq!(lanes.choose([1, 2, 0]), Some(if item < 4 { 1 } else { 2 }));
        }
        for lane in [2, 0] {
            (0..9).for_each(|item| _ = lanes.offer(lane, item, 1, None, now));
        }
        assert_eq!(lanes.choose([2, 0, 1]), Some(1), "all are full, and five are less than nine");
        assert_eq!(lanes.choose([]), None);
    }

    #[test]
    fn the_lane_that_stands_is_the_one_that_moved_least_lately() {
        let (mut lanes, now) = filled(2);
        let later = |secs| now + std::time::Duration::from_secs(secs);
        _ = lanes.offer(1, 0, 1, None, later(1));
        assert_eq!(lanes.standing(|_| true), Some(Standing { lane: 0, since: now }));
        lanes.ended(0, later(2));
        assert_eq!(lanes.standing(|_| true), Some(Standing { lane: 1, since: later(1) }));
        assert_eq!(lanes.standing(|lane| lane == 0), Some(Standing { lane: 0, since: later(2) }));
        lanes.ended(0, later(3));
        assert_eq!(lanes.standing(|lane| lane == 0), None);
    }

    proptest! {
        /// Whatever comes in whatever order: nothing is lost or doubled, each lane keeps its order, and what is in flight in a
        /// lane is a window or one batch.
        #[test]
        fn every_record_is_sent_once_in_its_lanes_order(steps in prop::collection::vec((0_u8..3, 0_u8..4, 0_usize..9), 1..400)) {
            let now = Instant::now();
            let limits = Limits { records_max: 7, bytes_max: 20, loose_max: usize::MAX };
            let mut lanes = Lanes::<u8, u32>::new(limits);
            let (mut offered, mut sent) = (BTreeMap::<u8, Vec<u32>>::new(), BTreeMap::<u8, Vec<u32>>::new());
            let mut flying = BTreeMap::<u8, usize>::new();
            let mut next = 0;
            // After the steps, everything in flight ends until nothing waits.
            let rest = (0..2_000_usize).map(|step| ((step % 3) as u8, 1, 9));
            for (lane, what, part) in steps.into_iter().chain(rest) {
                let (sent, flying) = (sent.entry(lane).or_default(), flying.entry(lane).or_default());
                match what {
                    0 | 3 => {
                        offered.entry(lane).or_default().push(next);
                        if let Offered::Now(item) = lanes.offer(lane, next, part, None, now) {
                            sent.push(item);
                            *flying += 1;
                            prop_assert!(*flying <= WINDOW);
                        }
                        next += 1;
                    }
                    1 if *flying > 0 => {
                        *flying -= 1;
                        prop_assert_eq!(lanes.ended(lane, now), lanes.due().contains(&lane));
                    }
                    _ => {
                        let mut batch = lanes.take(lane, now);
                        let rest = batch.split_off(part.max(1).min(batch.len()));
                        prop_assert!(batch.is_empty() || *flying == 0 || *flying + batch.len() <= WINDOW);
                        *flying += batch.len();
                        prop_assert!(*flying <= 7);
                        sent.extend(items(&batch));
                        lanes.handed_over(lane, rest);
                    }
                }
            }
            prop_assert_eq!(lanes.waiting(), 0);
            sent.retain(|_, items| !items.is_empty());
            prop_assert_eq!(sent, offered);
        }
    }
}
