//! The whole way of a call, simulated: brokers, a group of nodes, executors and producers that are made up, and between them
//! the service's own pure rooms: `progress`, `backlog`, `order`, `retry` and `control`. Time is virtual; every delay and every
//! fault comes from one seed, so that a run can be had again.
//!
//! Not simulated: librdkafka, Wasmtime, and the threads of the shell; `tests/kafka_rooms`, `tests/execute.rs` and `tests/e2e`
//! have those.
//!
//! One seed again, with what happened:
//! `FOREWARM_SIMULATION_SEED=7 cargo test --release --no-default-features --test simulation -- --nocapture`.
//! More or fewer seeds: `FOREWARM_SIMULATION_SEEDS=100000`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may fail, and says what it saw"
)]

mod broker;
mod chance;
mod node;
mod sends;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Sabotage, Summary, World};

const SEEDS: u64 = 10_000;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs seeds from 0 on, on every core; the first violation of each seed that has one, and what all runs came to.
fn run(seeds: u64, sabotage: Sabotage) -> (BTreeMap<u64, String>, Summary) {
    let next = AtomicU64::new(0);
    let found = Mutex::new((BTreeMap::new(), Summary::default()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Summary::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    match World::new(seed, sabotage, false).run() {
                        Ok(summary) => mine.add(&summary),
                        Err(violation) => drop(found.lock().unwrap().0.insert(seed, violation)),
                    }
                }
                found.lock().unwrap().1.add(&mine);
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn every_seed_keeps_every_invariant() {
    if let Some(seed) = variable("FOREWARM_SIMULATION_SEED") {
        match World::new(seed, Sabotage::None, true).run() {
            Ok(summary) => println!("seed {seed}: {summary}"),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
        return;
    }
    let (violations, summary) = run(variable("FOREWARM_SIMULATION_SEEDS").unwrap_or(SEEDS), Sabotage::None);
    println!("simulation: {summary}");
    if let Some((seed, violation)) = violations.first_key_value() {
        panic!(
            "{} seeds violate an invariant; the first is {seed}: {violation}\nonce more: FOREWARM_SIMULATION_SEED={seed} \
             cargo test --release --no-default-features --test simulation -- --nocapture",
            violations.len()
        );
    }
}

/// Whether the simulation would notice: each fault, put in on purpose, breaks the invariant that is there for it.
#[test]
fn a_fault_that_is_put_in_is_found_by_name() {
    for (sabotage, name) in [
        (Sabotage::AcknowledgeBeforeStored, "outcome-before-commit"),
        (Sabotage::IgnoreLines, "order-of-a-line"),
        (Sabotage::IgnoreFate, "one-outcome"),
        (Sabotage::GoOnAfterUnknown, "outcome-before-commit|one-outcome"),
        (Sabotage::LoseAnOutcome, "every-call-ends"),
        (Sabotage::IgnoreQuotas, "quota-of-a-tenant"),
        (Sabotage::DamageMetadata, "metadata-is-sound"),
    ] {
        let (violations, _) = run(400, sabotage);
        let is_it = |violation: &&String| name.split('|').any(|name| violation.starts_with(name));
        let found = violations.values().filter(is_it).count();
        assert!(found > 0, "{sabotage:?} is not found as {name}: {:?}", violations.first_key_value());
    }
}
