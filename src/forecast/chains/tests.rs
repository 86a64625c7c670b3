//! Chains among a thousand functions that have nothing to do with them: found soon, and nothing else acts.

use std::collections::{BTreeSet, BinaryHeap};

use super::*;

/// Seeded even numbers: splitmix64.
struct Random(u64);

impl Random {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, per_second: f64) -> i64 {
        (-(1.0 - self.share()).ln() / per_second * 1e6) as i64
    }
}

const A: Slot = 0;
const B: Slot = 1;
const C: Slot = 2;
const UNRELATED: Slot = 1_000;

/// A world in which A is called at random, B follows A and C follows B with 80 %, 0.2 to 2 s later, and unrelated
/// functions are called at random.
struct World {
    random: Random,
    due: BinaryHeap<std::cmp::Reverse<(i64, Slot)>>,
    rates: Vec<f64>,
    chained: bool,
    chains: Chains,
    /// Calls of A, B and C.
    called: [u32; 3],
    /// At which call of its first function each edge acted first.
    acted: Vec<(u32, Slot, Slot)>,
    calls: u64,
}

impl World {
    fn new(seed: u64, a_per_second: f64, unrelated: impl Fn(&mut Random) -> f64) -> Self {
        let mut random = Random(seed);
        let mut rates = vec![a_per_second, 0.0, 0.0];
        rates.extend((0..UNRELATED).map(|_| unrelated(&mut random)));
        let mut due = BinaryHeap::new();
        for (slot, rate) in (0..).zip(&rates).filter(|(_, rate)| **rate > 0.0) {
            due.push(std::cmp::Reverse((random.exponential(*rate), slot)));
        }
        let chains = Chains::new(&ChainsConfig::default());
        Self { random, due, rates, chained: true, chains, called: [0; 3], acted: vec![], calls: 0 }
    }

    fn run(&mut self, seconds: i64, evidence: impl Fn(Slot, i64) -> Evidence) {
        let mut out = Vec::new();
        let end = self.due.peek().map_or(0, |next| next.0.0) + seconds * 1_000_000;
        while let Some(std::cmp::Reverse((at, slot))) = self.due.pop().filter(|next| next.0.0 < end) {
            self.calls += 1;
            if let Some(called) = self.called.get_mut(slot as usize) {
                *called += 1;
            }
            out.clear();
            self.chains.arrived(Timestamp::from_micros(at), slot, evidence(slot, at), &mut out);
            for announcement in &out {
                if !self.acted.iter().any(|(_, from, to)| (*from, *to) == (slot, announcement.to)) {
                    self.acted.push((self.called.get(slot as usize).copied().unwrap_or(0), slot, announcement.to));
                }
            }
            let follows = match slot {
                A => Some(B),
                B => Some(C),
                _ => None,
            };
            if let Some(next) = follows
                && self.chained
                && self.random.share() < 0.8
            {
                let lag = 200_000 + (self.random.share() * 1_800_000.0) as i64;
                self.due.push(std::cmp::Reverse((at + lag, next)));
            }
            let rate = self.rates[slot as usize];
            if rate > 0.0 {
                let next = at + self.random.exponential(rate);
                self.due.push(std::cmp::Reverse((next, slot)));
            }
        }
    }

    fn edges_that_acted(&self) -> BTreeSet<(Slot, Slot)> {
        self.acted.iter().map(|(_, from, to)| (*from, *to)).collect()
    }
}

/// How often an unrelated function is called, in calls a second.
type Rate = fn(&mut Random) -> f64;

fn nothing(_: Slot, _: i64) -> Evidence {
    Evidence::default()
}

#[test]
fn a_chain_among_a_thousand_others_is_found_within_fifty_calls_and_nothing_else_acts() {
    // How often the unrelated ones are called: rarely, often, and as mixed as life.
    let rates: [(&str, Rate); 3] = [
        ("0.01 a second", |_| 0.01),
        ("0.1 a second", |_| 0.1),
        ("0.001 to 1 a second", |random| 10.0_f64.powf(-3.0 * random.share())),
    ];
    for (name, unrelated) in rates {
        for seed in 0..4 {
            let mut world = World::new(seed, 1.0 / 15.0, unrelated);
            world.run(3_600, nothing);
            let first = |from, to| world.acted.iter().find(|(_, f, t)| (*f, *t) == (from, to)).map(|(at, ..)| *at);
            for (from, to) in [(A, B), (B, C)] {
                let at = first(from, to).unwrap_or(u32::MAX);
                assert!(at <= 50, "{name}, seed {seed}: {from}→{to} acted first at call {at}");
            }
            let allowed = BTreeSet::from([(A, B), (B, C), (A, C)]);
            let false_edges: Vec<_> = world.edges_that_acted().difference(&allowed).copied().collect();
            assert_eq!(false_edges, [], "{name}, seed {seed}");
        }
    }
}

#[test]
fn nothing_acts_in_hours_where_nothing_chains() {
    let mut world = World::new(7, 0.2, |random| 10.0_f64.powf(-2.5 * random.share()));
    world.chained = false;
    world.run(4 * 3_600, nothing);
    assert_eq!(world.edges_that_acted(), BTreeSet::new());
    assert!(world.calls > 1_000_000);
}

#[test]
fn a_trace_makes_an_edge_at_once_however_much_is_going_on() {
    let mut world = World::new(1, 1.0 / 15.0, |_| 1.0);
    // Calls of A and of what follows carry one trace: that of the last quarter of a minute.
    world.run(300, |slot, at| match slot {
        A | B => Evidence { trace: Some((at / 15_000_000) as u64), key: None },
        _ => Evidence::default(),
    });
    let (at, ..) = world.acted.iter().find(|(_, from, to)| (*from, *to) == (A, B)).expect("it acts");
    assert!(*at <= 12, "at call {at}");
    let view = world.chains.edges(Timestamp::from_millis(300_000), Some(A));
    assert!(view.iter().any(|edge| edge.to == B && edge.held_by.is_none() && edge.strong >= 3.0), "{view:?}");
}

#[test]
fn an_edge_shows_what_it_paid_and_what_lag_it_has() {
    let mut world = World::new(3, 1.0 / 15.0, |_| 0.01);
    world.run(7_200, nothing);
    let now = Timestamp::from_millis(7_200_000);
    let view = world.chains.edges(now, Some(A)).into_iter().find(|edge| edge.to == B).unwrap();
    assert!((0.7..0.9).contains(&view.probability), "{view:?}");
    assert!((0.7..0.9).contains(&(f64::from(view.came) / f64::from(view.announced))), "{view:?}");
    assert!(view.earliest >= Duration::from_millis(100) && view.latest <= Duration::from_millis(2_048), "{view:?}");
    assert!(view.lift > 3.0, "{view:?}");
}

#[test]
fn a_chain_that_has_ended_is_given_up_and_users_have_the_last_word() {
    let mut world = World::new(5, 1.0 / 15.0, |_| 0.01);
    world.run(3_600, nothing);
    let acts = |world: &World, now: i64| {
        let edges = world.chains.edges(Timestamp::from_millis(now * 1_000), Some(A));
        edges.into_iter().any(|edge| edge.to == B && edge.held_by.is_none())
    };
    assert!(acts(&world, 3_600));
    world.chains.set_rules(A, &[(B, Rule::Deny)]);
    assert!(!acts(&world, 3_600));
    world.chains.set_rules(A, &[]);
    assert!(acts(&world, 3_600));
    world.chained = false;
    world.run(15 * 40, nothing);
    assert!(!acts(&world, 4_200));
    world.chains.set_rules(A, &[(B, Rule::Pin)]);
    assert!(acts(&world, 4_200));
}

#[test]
fn a_function_that_is_forgotten_leaves_nothing() {
    let mut world = World::new(5, 1.0 / 15.0, |_| 0.01);
    world.run(3_600, nothing);
    world.chains.forget(B);
    assert!(world.chains.edges(Timestamp::from_millis(0), None).iter().all(|edge| edge.from != B && edge.to != B));
}

#[test]
fn edges_of_one_function_are_bounded() {
    let mut chains = Chains::new(&ChainsConfig::default());
    let mut out = Vec::new();
    for nth in 0..400 {
        let trace = Evidence { trace: Some(nth), key: Some(nth + 1_000) };
        let at = |ms: i64| Timestamp::from_millis(nth as i64 * 20_000 + ms);
        chains.arrived(at(0), A, trace, &mut out);
        chains.arrived(at(100), 10 + nth as Slot, trace, &mut out);
    }
    assert_eq!(chains.edges(Timestamp::from_millis(0), Some(A)).len(), 12);
    assert!(chains.counters().edges_evicted > 0);
}
