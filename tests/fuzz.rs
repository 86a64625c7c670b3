//! The fuzz targets over a fixed number of inputs: the seeds, every truncation of them, seeded changes to them, and bytes
//! that are near nothing. None may panic, and none may hold more memory than its length allows.
//!
//! The targets are `fuzz/src`, the same that run under libFuzzer. A failing input is printed in hexadecimal; to see it again:
//! `FOREWARM_FUZZ_INPUT=events:00c3… cargo test --release --test fuzz replay`. Must not: depend on a fuzzer.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

mod fuzz {
    pub mod allocation;
    pub mod mutate;
}

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fuzz::allocation::peak_bytes;
use fuzz::mutate::{Random, any, near};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Run {
    name: &'static str,
    target: fn(&[u8]),
    inputs: usize,
    most: (usize, usize),
    ratio: (usize, usize),
}

impl Run {
    fn input(&mut self, bytes: &[u8]) {
        let (name, target) = (self.name, self.target);
        let mut peak = 0;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| peak = peak_bytes(|| target(bytes)))) {
            eprintln!("FOREWARM_FUZZ_INPUT={name}:{}", hex(bytes));
            resume_unwind(panic);
        }
        self.inputs += 1;
        if peak > self.most.0 { self.most = (peak, bytes.len()); }
        if bytes.len() > 100 && peak * self.ratio.1 > self.ratio.0 * bytes.len() { self.ratio = (peak, bytes.len()); }
    }
}

fn run(name: &'static str, changes: usize) {
    let (_, target) = targets::TARGETS[targets::TARGETS.iter().position(|(n, _)| *n == name).unwrap()];
    let seeds = targets::seeds(name);
    let mut run = Run { name, target, inputs: 0, most: (0, 0), ratio: (0, 1) };
    let begin = std::time::Instant::now();
    target(&seeds[0]);
    for seed in &seeds {
        run.input(seed);
    }
    for seed in &seeds {
        let step = seed.len() / 256 + 1;
        for len in (0..seed.len()).step_by(step) { run.input(&seed[..len]); }
    }
    let mut random = Random(0);
    for _ in 0..changes {
        let (one, other) = (&seeds[random.below(seeds.len())], &seeds[random.below(seeds.len())]);
        let bytes = near(one, other, &mut random);
        run.input(&bytes);
    }
    for _ in 0..changes / 10 { run.input(&any(&mut random)); }
    println!("{name}: {} inputs in {:?}; most {:?}, ratio {:?}", run.inputs, begin.elapsed(), run.most, run.ratio);
}

#[test]
fn all() {
    for (name, _) in targets::TARGETS {
        let only = std::env::var("ONLY").unwrap_or_default();
        if only.is_empty() || only == name { run(name, std::env::var("N").map_or(3000, |n| n.parse().unwrap())); }
    }
}
