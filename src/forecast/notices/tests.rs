//! The line: which notice a call is taken off, what that teaches, and how each notice ends.

use proptest::prelude::*;

use super::*;
use crate::config::ForecastConfig;

const GRACE: Duration = Duration::from_secs(5);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// One function's notices, and who sent them.
struct Bench {
    notices: Notices,
    sources: Sources,
    in_flight: u32,
    ended: Vec<Ended>,
}

impl Bench {
    fn new() -> Self {
        let sources = Sources::new(&ForecastConfig::default());
        Self { notices: Notices::default(), sources, in_flight: 0, ended: Vec::new() }
    }

    fn source(&mut self, name: &str) -> (Place, Place) {
        let source = self.sources.meet(None, name).unwrap();
        (source, self.sources.meet_pair(source, 1).unwrap())
    }

    fn held(&mut self, now: i64, source: &str, id: &str, expected: u32, from: i64, to: i64) -> Held {
        let (_, pair) = self.source(source);
        let announcement = Announcement {
            id,
            whole: expected,
            expected,
            confidence: 1.0,
            starts_at: at(from),
            live_from: at(from),
            expires_at: at(to),
            lead: Duration::from_secs(2),
            called_before: false,
        };
        Held::new(at(now), &announcement, pair, &self.sources)
    }

    fn announce_under(
        &mut self,
        criteria: &Criteria,
        now: i64,
        source: &str,
        id: &str,
        expected: u32,
        to: i64,
    ) -> bool {
        let held = self.held(now, source, id, expected, now, to);
        let (source, pair) = self.source(source);
        let trust = self.sources.trust(source, pair, 1.0);
        let entry = Entry { source, pair, trust, in_flight: self.in_flight, criteria, held };
        self.notices.hold(at(now), entry, &mut self.sources)
    }

    fn announce(&mut self, now: i64, source: &str, id: &str, expected: u32, to: i64) {
        assert!(self.announce_under(&Criteria::default(), now, source, id, expected, to));
    }

    fn arrive(&mut self, now: i64, calls: u32) {
        for _ in 0..calls {
            self.in_flight += 1;
            self.notices.count_arrival(at(now), GRACE, self.in_flight, &mut self.sources, &mut self.ended);
        }
    }

    fn end(&mut self, now: i64) -> Vec<(String, &'static str, u32)> {
        self.notices.end(at(now), GRACE, &mut self.sources, &mut self.ended);
        let said = |ended: Ended| (ended.held.id.to_string(), ended.kind.as_str(), ended.held.came);
        self.ended.drain(..).map(said).collect()
    }

    /// Who announces, in the order of the line, and how many calls are left.
    fn line(&self, now: i64) -> Vec<(String, f64)> {
        self.notices.acting(at(now), &self.sources).map(|notice| (notice.id, notice.calls)).collect()
    }

    /// How likely it is that anything of this notice still comes.
    fn chance(&self, now: i64, id: &str) -> f32 {
        self.notices
            .acting(at(now), &self.sources)
            .find(|notice| notice.id == id)
            .map_or(0.0, |notice| notice.yields[0])
    }
}

fn said(id: &str, kind: &'static str, came: u32) -> (String, &'static str, u32) {
    (id.to_owned(), kind, came)
}

#[test]
fn calls_count_down_the_first_in_line_and_then_the_next() {
    let mut bench = Bench::new();
    bench.announce(0, "s", "a", 2, 10);
    bench.announce(0, "s", "b", 2, 10);
    bench.arrive(1, 1);
    assert_eq!(bench.line(1), [("a".to_owned(), 1.0), ("b".to_owned(), 2.0)]);
    bench.arrive(1, 2);
    assert_eq!(bench.line(1), [("b".to_owned(), 1.0)]);
    bench.arrive(2, 2);
    assert_eq!(bench.line(2), []);
    assert_eq!(bench.end(10), [said("a", "hit", 2), said("b", "hit", 2)]);
    assert!(bench.notices.is_empty());
}

#[test]
fn a_notice_lives_from_its_start_inclusive_to_its_end_exclusive() {
    let mut bench = Bench::new();
    let held = bench.held(0, "s", "a", 1, 5, 10);
    let (source, pair) = bench.source("s");
    let criteria = Criteria::default();
    let entry = Entry { source, pair, trust: 1.0, in_flight: 0, criteria: &criteria, held };
    bench.notices.hold(at(0), entry, &mut bench.sources);
    assert_eq!((bench.line(4).len(), bench.line(5).len(), bench.line(9).len(), bench.line(10).len()), (0, 1, 1, 0));
    bench.arrive(4, 1);
    assert_eq!(bench.line(5), [("a".to_owned(), 1.0)]);
    let next = |now: i64| bench.notices.next_change(at(now), GRACE);
    assert_eq!(next(0), Some(at(5)));
    assert_eq!(next(5), Some(at(5) + Duration::from_millis(2)));
    assert_eq!(next(6), Some(at(5) + Duration::from_millis(1_024)));
    assert_eq!(bench.end(14), []);
    assert_eq!(bench.end(15), [said("a", "expired", 0)]);
}

#[test]
fn a_call_soon_after_the_window_makes_a_notice_late_and_one_call_makes_one_late() {
    let mut bench = Bench::new();
    bench.announce(0, "s", "a", 3, 10);
    bench.announce(0, "s", "b", 3, 11);
    bench.arrive(12, 1);
    assert_eq!(bench.end(12), [said("a", "late", 0)]);
    assert_eq!(bench.end(15), []);
    bench.notices.ask(at(5), [0].into_iter());
    assert_eq!(bench.end(16), [said("b", "expired", 0)], "it was over before it was asked");
    bench.announce(20, "s", "c", 3, 30);
    bench.notices.ask(at(21), [0].into_iter());
    assert_eq!(bench.end(35), [said("c", "wasted", 0)]);
}

#[test]
fn of_two_notices_with_one_id_the_one_that_is_meant_is_asked_for() {
    let mut bench = Bench::new();
    bench.announce(0, "s", "same", 3, 10);
    bench.announce(0, "t", "same", 3, 10);
    assert!(bench.notices.ask(at(1), [1].into_iter()));
    assert!(!bench.notices.ask(at(2), [1].into_iter()), "it stays as it is");
    assert_eq!(bench.end(15), [said("same", "expired", 0), said("same", "wasted", 0)]);
}

#[test]
fn the_same_id_again_keeps_what_has_come() {
    let mut bench = Bench::new();
    bench.announce(0, "s", "a", 8, 10);
    bench.arrive(1, 3);
    let (source, _) = bench.source("s");
    let mut change = |expected| {
        let changed = bench.held(1, "s", "a", expected, 0, 10);
        bench.notices.change(changed, source, &mut bench.sources);
        bench.line(1)
    };
    assert_eq!(change(8), [("a".to_owned(), 5.0)]);
    assert_eq!(change(2), []);
    assert_eq!(bench.end(10), [said("a", "hit", 3)]);
}

#[test]
fn an_id_belongs_to_its_source() {
    let mut bench = Bench::new();
    bench.announce(0, "s", "a", 1, 10);
    bench.announce(0, "t", "a", 2, 10);
    let (source, _) = bench.source("t");
    let withdrawn = bench.notices.withdraw(at(1), source, "a", &mut bench.sources).unwrap();
    assert_eq!((withdrawn.kind, withdrawn.held.announced), (OutcomeKind::Withdrawn, 2));
    assert!(bench.notices.withdraw(at(1), source, "a", &mut bench.sources).is_none());
    assert_eq!(bench.line(1), [("a".to_owned(), 1.0)]);
}

#[test]
fn a_spent_notice_makes_room_and_the_oldest_goes_first() {
    let mut bench = Bench::new();
    bench.announce(0, "s", "a", 1, 10);
    bench.announce(0, "s", "b", 1, 10);
    assert!(bench.notices.forget_spent(None, &mut bench.sources).is_none());
    bench.arrive(1, 2);
    let (other, _) = bench.source("t");
    assert!(bench.notices.forget_spent(Some(other), &mut bench.sources).is_none());
    let forgotten = bench.notices.forget_spent(None, &mut bench.sources).unwrap();
    assert_eq!((&*forgotten.held.id, forgotten.kind), ("a", OutcomeKind::Hit));
}

#[test]
fn enough_notices_within_the_time_act_together_and_go_on_acting() {
    let criteria = Criteria { notices_min: 2, within_ms: 3_000, ..Criteria::default() };
    let mut bench = Bench::new();
    let mut come = |source: &str, id: &str, second: i64| {
        let acts = bench.announce_under(&criteria, second, source, id, 1, 60);
        (acts, bench.line(second).len())
    };
    assert_eq!(come("s", "a", 0), (false, 0));
    assert_eq!(come("t", "b", 3), (false, 0));
    assert_eq!(come("s", "c", 5), (true, 2));
    assert_eq!(come("t", "d", 30), (false, 2));
}

#[test]
fn a_liar_that_stands_in_the_line_takes_no_calls_from_one_that_does_not_lie() {
    let mut bench = Bench::new();
    for round in 0..12 {
        let now = round * 20;
        // The liar comes first each time, announces the most, and is always there.
        (0..10).for_each(|n| bench.announce(now, "liar", &format!("{round}-{n}"), 100, now + 19));
        bench.announce(now + 1, "honest", "h", 8, now + 19);
        bench.arrive(now + 2, 8);
        bench.end(now + 19);
    }
    bench.announce(300, "liar", "l", 100, 319);
    bench.announce(300, "honest", "h", 8, 319);
    assert_eq!(bench.line(300), [("h".to_owned(), 8.0), ("l".to_owned(), 100.0)]);
    assert!(bench.chance(300, "h") > 0.7, "{}", bench.chance(300, "h"));
    assert!(bench.chance(300, "l") < 0.25, "{}", bench.chance(300, "l"));
}

#[test]
fn a_trickle_needs_few_instances_and_a_burst_as_many_as_it_has_calls() {
    let mut bench = Bench::new();
    for round in 0..40 {
        let now = round * 100;
        bench.announce(now, "s", "trickle", 50, now + 60);
        for second in 1..=50 {
            bench.arrive(now + second, 1);
            bench.in_flight -= 1;
        }
        bench.end(now + 70);
    }
    bench.announce(5_000, "s", "next", 50, 5_060);
    let calls = bench.line(5_000)[0].1;
    assert!((0.99..=1.5).contains(&calls), "{calls}");
    // One crowded notice is enough to prepare for it the next time.
    bench.arrive(5_001, 50);
    bench.end(5_060);
    bench.announce(6_000, "s", "next", 50, 6_060);
    assert_eq!(bench.line(6_000), [("next".to_owned(), 50.0)]);
}

#[test]
fn a_stream_of_notices_of_one_call_each_is_as_little_crowded_as_one_for_all() {
    let mut bench = Bench::new();
    // A notice each second, a call 20 s after each; every call is over before the next one comes.
    for second in 0..200 {
        bench.announce(second, "s", &second.to_string(), 1, second + 30);
        if second >= 20 {
            bench.arrive(second, 1);
            bench.in_flight -= 1;
        }
        bench.end(second);
    }
    // Calls are known to come 16.4 s after their notice at the earliest: those that are 2 s or less from that act.
    let line = bench.line(199);
    assert_eq!(line.len(), 5);
    let calls: f64 = line.iter().map(|(_, calls)| calls).sum();
    assert!((0.2..=1.0).contains(&calls), "{calls}");
}

proptest! {
    #[test]
    fn calls_are_conserved_and_each_is_taken_off_one_notice(
        steps in prop::collection::vec((0_usize..4, 1_u32..20, 0_i64..4, 0_u32..12), 1..40),
    ) {
        let mut bench = Bench::new();
        let (mut now, mut came, mut taken) = (0, 0, 0);
        for (n, (source, expected, pause, calls)) in steps.into_iter().enumerate() {
            now += pause;
            bench.announce(now, ["s", "t", "u", "v"][source], &n.to_string(), expected, now + 10);
            came += calls;
            for _ in 0..calls {
                // Whoever it is taken off: where somebody alive announces it, it is taken.
                let announced = bench.notices.all().any(|(_, held)| at(now) < held.expires_at && held.left() > 0);
                taken += u32::from(announced);
                bench.arrive(now, 1);
            }
            prop_assert!(bench.notices.all().all(|(_, held)| held.came <= held.announced));
            bench.sources.take_news();
        }
        let arrived: u32 = bench.end(now + 100).iter().map(|(_, _, came)| *came).sum();
        prop_assert_eq!(arrived, taken);
        prop_assert!(arrived <= came);
        prop_assert_eq!(bench.sources.pins().1, 0);
    }
}
