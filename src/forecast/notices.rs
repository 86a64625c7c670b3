//! The pre-triggers that one function holds: which act, which are spent, when that changes next.
//!
//! Calls are counted in millionths, so that expected × confidence is taken apart call by call without rounding errors.
//!
//! Must not: judge a pre-trigger's content; here it has passed. Must not hold more than [`NOTICES_MAX`].

use std::time::Duration;

use crate::types::{Criteria, Notice, Timestamp, WarmKind, YIELD_STEPS};

/// Notices that one function holds at most (inclusive), spent ones included.
pub(super) const NOTICES_MAX: usize = 256;

/// One call, in millionths.
const CALL: u64 = 1_000_000;

/// One pre-trigger that is held.
#[derive(Debug)]
pub(super) struct Held {
    id: Box<str>,
    /// Expected × confidence, in millionths of a call.
    announced: u64,
    /// How much of it has come.
    arrived: u64,
    /// From when on it acts (inclusive), and calls count as the ones it announced.
    live_from: Timestamp,
    /// The end of its life (exclusive).
    expires_at: Timestamp,
    /// When its id first came.
    received_at: Timestamp,
    /// Whether the function's `notices_min` was reached while it counted. Once reached, it stays reached.
    acting: bool,
}

impl Held {
    pub(super) fn new(
        id: &str,
        expected: u32,
        confidence: f64,
        received_at: Timestamp,
        live_from: Timestamp,
        expires_at: Timestamp,
    ) -> Self {
        // Exact enough: u32::MAX calls in millionths stay below 2^53.
        let announced = (f64::from(expected) * confidence.clamp(0.0, 1.0) * CALL as f64).round() as u64;
        Self { id: id.into(), announced, arrived: 0, live_from, expires_at, received_at, acting: false }
    }

    fn left(&self) -> u64 {
        self.announced.saturating_sub(self.arrived)
    }

    fn is_live(&self, now: Timestamp) -> bool {
        self.live_from <= now && now < self.expires_at
    }
}

/// What [`Notices::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Added,
    /// Added, and the oldest spent notice forgotten for it: if that one is read again, it counts as new.
    AddedForgetting,
    Replaced,
    Full,
}

/// The notices of one function, in the order in which their ids first came.
#[derive(Debug, Default)]
pub(super) struct Notices {
    held: Vec<Held>,
}

impl Notices {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Holds `notice`, in place of the one with its id if there is one. `room`: whether one more may be held over all
    /// functions.
    pub(super) fn put(&mut self, notice: Held, room: bool) -> Put {
        if let Some(held) = self.held.iter_mut().find(|held| held.id == notice.id) {
            let Held { announced, live_from, expires_at, .. } = notice;
            *held = Held { id: notice.id, announced, live_from, expires_at, ..*held };
            return Put::Replaced;
        }
        let mut put = Put::Added;
        if !room || self.held.len() >= NOTICES_MAX {
            // A spent notice is kept only to know its id again; a new one is worth more.
            let Some(spent) = self.held.iter().position(|held| held.left() == 0) else { return Put::Full };
            self.held.remove(spent);
            put = Put::AddedForgetting;
        }
        self.held.push(notice);
        put
    }

    /// Lets every notice that came within the criteria's time act, if they are enough. Says whether the one named acts.
    ///
    /// Spent notices and those whose time is still to come count too: what is asked is how many announced.
    pub(super) fn apply_criteria(&mut self, now: Timestamp, criteria: &Criteria, id: &str) -> bool {
        let within = Duration::from_millis(criteria.within_ms);
        let counts = |held: &Held| now.since(held.received_at) < within;
        // At least 1: a time of zero must not keep a lone notice out where one is enough.
        let came = self.held.iter().filter(|held| counts(held)).count().max(1);
        if came >= usize::try_from(criteria.notices_min).unwrap_or(usize::MAX) {
            self.held.iter_mut().filter(|held| counts(held) || *held.id == *id).for_each(|held| held.acting = true);
        }
        self.held.iter().any(|held| held.acting && *held.id == *id)
    }

    /// Lets go of the notice with this id; `false` where none is held.
    pub(super) fn withdraw(&mut self, id: &str) -> bool {
        let before = self.held.len();
        self.held.retain(|held| *held.id != *id);
        self.held.len() < before
    }

    /// Counts one call as announced by the oldest live notices, which may share it. Says whether any had announced it.
    ///
    /// A notice that does not act yet is counted down as well: its call has come.
    pub(super) fn count_arrival(&mut self, now: Timestamp) -> bool {
        let mut call = CALL;
        for held in self.held.iter_mut().filter(|held| held.is_live(now)) {
            let part = call.min(held.left());
            held.arrived += part;
            call -= part;
            if call == 0 {
                break;
            }
        }
        call < CALL
    }

    /// Lets go of every notice whose life has ended.
    pub(super) fn purge(&mut self, now: Timestamp) {
        self.held.retain(|held| now < held.expires_at);
    }

    /// When a notice begins or ends next, seen from `now` (exclusive).
    pub(super) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let next = |held: &Held| if held.live_from > now { held.live_from } else { held.expires_at };
        self.held.iter().map(next).filter(|&at| at > now).min()
    }

    /// The notices that act now and still announce something, oldest first.
    pub(super) fn acting(&self, now: Timestamp) -> impl Iterator<Item = Notice> {
        self.held.iter().filter(move |held| held.acting && held.left() > 0 && held.is_live(now)).map(|held| Notice {
            kind: WarmKind::PreTrigger,
            id: held.id.to_string(),
            calls: held.left() as f64 / CALL as f64,
            yields: [1.0; YIELD_STEPS],
            expires_at: held.expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn notice(id: &str, expected: u32, confidence: f64, from: i64, to: i64) -> Held {
        Held { acting: true, ..Held::new(id, expected, confidence, at(from), at(from), at(to)) }
    }

    fn calls(notices: &Notices, now: Timestamp) -> Vec<(String, f64)> {
        notices.acting(now).map(|notice| (notice.id, notice.calls)).collect()
    }

    #[test]
    fn calls_count_down_the_oldest_notice_and_then_the_next() {
        let mut notices = Notices::default();
        assert_eq!(notices.put(notice("a", 3, 0.5, 0, 10), true), Put::Added);
        assert_eq!(notices.put(notice("b", 2, 1.0, 0, 10), true), Put::Added);
        assert!(notices.count_arrival(at(1)));
        assert_eq!(calls(&notices, at(1)), [("a".to_owned(), 0.5), ("b".to_owned(), 2.0)]);
        assert!(notices.count_arrival(at(1)));
        assert_eq!(calls(&notices, at(1)), [("b".to_owned(), 1.5)]);
        assert!(notices.count_arrival(at(2)) && notices.count_arrival(at(2)));
        assert_eq!(calls(&notices, at(2)), []);
        assert!(!notices.count_arrival(at(2)));
    }

    #[test]
    fn a_notice_lives_from_its_start_inclusive_to_its_end_exclusive() {
        let mut notices = Notices::default();
        notices.put(notice("a", 1, 1.0, 5, 10), true);
        assert_eq!(calls(&notices, Timestamp::from_micros(4_999_999)), []);
        assert!(!notices.count_arrival(Timestamp::from_micros(4_999_999)));
        assert_eq!(calls(&notices, at(5)).len(), 1);
        assert_eq!(calls(&notices, at(10)), []);
        assert_eq!(notices.next_change(at(0)), Some(at(5)));
        assert_eq!(notices.next_change(at(5)), Some(at(10)));
        notices.purge(at(10));
        assert_eq!((notices.len(), notices.next_change(at(10))), (0, None));
    }

    #[test]
    fn the_same_id_again_keeps_what_has_come() {
        let mut notices = Notices::default();
        notices.put(notice("a", 8, 1.0, 0, 10), true);
        (0..3).for_each(|_| assert!(notices.count_arrival(at(1))));
        assert_eq!(notices.put(notice("a", 8, 1.0, 0, 10), true), Put::Replaced);
        assert_eq!(calls(&notices, at(1)), [("a".to_owned(), 5.0)]);
        assert_eq!(notices.put(notice("a", 2, 1.0, 0, 10), true), Put::Replaced);
        assert_eq!(calls(&notices, at(1)), []);
    }

    #[test]
    fn the_bound_holds_and_spent_notices_make_room() {
        let mut notices = Notices::default();
        for n in 0..NOTICES_MAX {
            assert_eq!(notices.put(notice(&n.to_string(), 1, 1.0, 0, 10), true), Put::Added);
        }
        assert_eq!(notices.put(notice("one more", 1, 1.0, 0, 10), true), Put::Full);
        assert!(notices.count_arrival(at(1)));
        assert_eq!(notices.put(notice("one more", 1, 1.0, 0, 10), false), Put::AddedForgetting);
        assert_eq!(notices.len(), NOTICES_MAX);
        assert_eq!(notices.put(notice("another", 1, 1.0, 0, 10), true), Put::Full);
    }

    #[test]
    fn enough_notices_within_the_time_act_together_and_go_on_acting() {
        let criteria = Criteria { notices_min: 2, within_ms: 3_000, ..Criteria::default() };
        let mut notices = Notices::default();
        let mut come = |id: &str, second: i64| {
            notices.put(Held::new(id, 1, 1.0, at(second), at(0), at(60)), true);
            (notices.apply_criteria(at(second), &criteria, id), calls(&notices, at(second)).len())
        };
        assert_eq!(come("a", 0), (false, 0));
        assert_eq!(come("a", 1), (false, 0));
        assert_eq!(come("b", 3), (false, 0));
        assert_eq!(come("c", 5), (true, 2));
        assert_eq!(come("d", 30), (false, 2));
    }

    proptest! {
        #[test]
        fn calls_are_conserved(
            announced in prop::collection::vec((1_u32..20, 0.0_f64..=1.0), 1..40),
            arrivals in 0_u64..400,
        ) {
            let mut notices = Notices::default();
            for (n, (expected, confidence)) in announced.iter().enumerate() {
                notices.put(notice(&n.to_string(), *expected, *confidence, 0, 10), true);
            }
            let total: u64 = notices.held.iter().map(|held| held.announced).sum();
            (0..arrivals).for_each(|_| { notices.count_arrival(at(1)); });
            let arrived: u64 = notices.held.iter().map(|held| held.arrived).sum();
            let left: u64 = notices.held.iter().map(Held::left).sum();
            prop_assert_eq!(arrived, total.min(arrivals * CALL));
            prop_assert_eq!(arrived + left, total);
        }
    }
}
