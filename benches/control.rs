//! What an event and a tick of the control plane cost with 100,000 known functions, of which 10,000 are active.
//!
//! Wanted: a call's event below 1 µs, a tick below 20 ms. The tick with one active function beside it shows what the
//! idle ones cost; the tick over budget shows what sharing adds. In every tick all active functions change, which is
//! the worst case. The ticks right after a minute's end ask the model about many functions, and are measured by
//! themselves. A pre-trigger costs more than a call: it is judged, and held or refused.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up should stop")]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use forewarm::config::{ChainsConfig, ForecastConfig, TargetConfig};
use forewarm::control::{Action, Control, Event};
use forewarm::forecast::chains::Evidence;
use forewarm::forecast::history::Model;
use forewarm::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, PoolUsage, PreTrigger, Sha256, Status, Timestamp,
};

const KNOWN: usize = 100_000;
const ACTIVE: usize = 10_000;

fn name(n: usize) -> FunctionName {
    FunctionName::new(&format!("tenant-{}/function-{n}", n % 100)).unwrap()
}

fn definition(n: usize) -> FunctionDefinition {
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
    FunctionDefinition::new(name(n), "1", artifact, FunctionKind::Component)
}

fn notice(function: &FunctionName, id: usize, now: Timestamp) -> PreTrigger {
    PreTrigger {
        id: format!("0198c5b2-1d5f-7c0e-8a55-{id:012}"),
        source: "bench".to_owned(),
        function: function.clone(),
        tenant: None,
        expected_invocations: 4,
        confidence: 0.9,
        not_before: None,
        window_ms: 3_000_000,
        emitted_at: now,
        attributes: Default::default(),
    }
}

/// A clock that goes on by 100 ms a tick, a control plane, and whose turn it is.
struct Bench {
    now: Timestamp,
    control: Control,
    actions: Vec<Action>,
    turn: usize,
    /// The active functions.
    names: Vec<FunctionName>,
}

impl Bench {
    fn new(memory_budget_bytes: u64, active: usize, notices: usize) -> Self {
        let control = Control::new(
            ForecastConfig::default(),
            &ChainsConfig::default(),
            TargetConfig { memory_budget_bytes, ..Default::default() },
            Model::shipped(),
        );
        let now = Timestamp::from_millis(1_700_000_000_000);
        let mut bench = Self { now, control, actions: vec![], turn: 0, names: (0..active).map(name).collect() };
        for n in 0..KNOWN {
            bench.send(Event::FunctionDefined { definition: Arc::new(definition(n)), since: Timestamp::ZERO });
        }
        for id in 0..active * notices {
            bench.send(Event::PreTriggerReceived(notice(&bench.names[id % active], id, now)));
        }
        let usage = bench.usage();
        bench.send(usage);
        bench
    }

    fn send(&mut self, event: Event) {
        self.actions.clear();
        self.control.handle(self.now, black_box(event), &mut self.actions);
        black_box(&self.actions);
    }

    /// One tick in which every active function is busy and differs from the tick before.
    fn usage(&mut self) -> Event {
        self.now = self.now + Duration::from_millis(100);
        self.turn += 1;
        let usage = |(n, name): (usize, &FunctionName)| {
            let busy = ((n + self.turn) % 5) as u32;
            let in_flight_peak = busy + 1;
            (name.clone(), PoolUsage { ready: 2, busy, in_flight_peak, instance_bytes: 40_000, ..PoolUsage::default() })
        };
        Event::Ticked { usage: self.names.iter().enumerate().map(usage).collect() }
    }
}

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control-event");
    let mut bench = Bench::new(u64::MAX, ACTIVE, 1);
    let mut turn = 0;
    group.bench_function("arrival-and-end", |b| {
        b.iter(|| {
            turn = (turn + 7_919) % ACTIVE;
            let function = bench.names[turn].clone();
            bench.send(Event::InvocationArrived { function: function.clone(), evidence: Evidence::default() });
            let (status, start_kind, execute) = (Status::Ok, None, Duration::ZERO);
            bench.send(Event::InvocationEnded { function, status, start_kind, execute });
        });
    });
    for notices in [1, 10] {
        let mut bench = Bench::new(u64::MAX, ACTIVE, notices);
        group.bench_function(format!("pre-trigger-{notices}-held"), |b| {
            b.iter_batched(
                || {
                    // An id that is held, and is replaced: what is held stays the same.
                    turn = (turn + 7_919) % (ACTIVE * notices);
                    Event::PreTriggerReceived(notice(&bench.names[turn % ACTIVE], turn, bench.now))
                },
                |event| {
                    let mut actions = Vec::new();
                    bench.control.handle(bench.now, event, &mut actions);
                    actions
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn ticks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control-tick");
    group.sample_size(20);
    for (label, active, budget) in [
        ("1-active", 1, u64::MAX),
        ("10000-active", ACTIVE, u64::MAX),
        // Less than what is wanted: the budget is shared anew at every tick.
        ("10000-active-over-budget", ACTIVE, 400_000_000),
    ] {
        let bench = RefCell::new(Bench::new(budget, active, 1));
        group.bench_function(label, |b| {
            b.iter_batched(
                || bench.borrow_mut().usage(),
                |event| bench.borrow_mut().send(event),
                BatchSize::PerIteration,
            );
        });
    }
    // Ten hours of calls each, so that the records have something to say.
    let mut bench = Bench::new(u64::MAX, ACTIVE, 0);
    for minute in 0..600 {
        bench.now = bench.now + Duration::from_secs(60);
        for n in (minute % 7..ACTIVE).step_by(7) {
            let function = bench.names[n].clone();
            bench.send(Event::InvocationArrived { function: function.clone(), evidence: Evidence::default() });
            let (status, start_kind, execute) = (Status::Ok, None, Duration::from_millis(500));
            bench.send(Event::InvocationEnded { function, status, start_kind, execute });
        }
        (0..60).for_each(|_| bench.send(Event::Ticked { usage: vec![] }));
    }
    let bench = RefCell::new(bench);
    group.bench_function("10000-active-at-a-minutes-end", |b| {
        b.iter_batched(
            || {
                // Every iteration is the first tick of a minute (they end ten seconds before the clock's), and the active
                // functions are the first in the table.
                let mut bench = bench.borrow_mut();
                let second = bench.now.as_millis() / 1_000;
                bench.now = Timestamp::from_millis((second - second % 60 + 110) * 1_000 - 150);
                let before = bench.usage();
                bench.send(before);
                bench.usage()
            },
            |event| bench.borrow_mut().send(event),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, events, ticks);
criterion_main!(benches);
