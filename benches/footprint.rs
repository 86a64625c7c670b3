//! What the control plane holds for each function, and a run of events whose instructions can be counted.
//!
//!     cargo bench --no-default-features --features backtest --bench footprint              memory a function
//!     scripts/instructions                                                                  instructions an event
//!
//! Wanted: at most 1 KiB a function on average, with 100,000 known and 10,000 active. Must not: measure time.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on should stop; it prints"
)]

use std::sync::Arc;
use std::time::Duration;

use forewarm::config::{ChainsConfig, ForecastConfig, TargetConfig};
use forewarm::control::{Control, Event};
use forewarm::forecast::chains::Evidence;
use forewarm::forecast::history::Model;
use forewarm::types::{Artifact, FunctionDefinition, FunctionKind, FunctionName, Sha256, Status, Timestamp};

const KNOWN: usize = 100_000;
const ACTIVE: usize = 10_000;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match arguments.next().as_deref() {
        Some("events") => events(arguments.next().unwrap().parse().unwrap()),
        _ => memory(),
    }
}

fn control() -> Control {
    Control::new(
        ForecastConfig::default(),
        &ChainsConfig::default(),
        TargetConfig { memory_budget_bytes: u64::MAX, ..TargetConfig::default() },
        Model::shipped(),
    )
}

fn name(nth: usize) -> FunctionName {
    FunctionName::new(&format!("tenant-{}/function-{nth}", nth % 100)).unwrap()
}

fn definition(nth: usize) -> Arc<FunctionDefinition> {
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
    Arc::new(FunctionDefinition::new(name(nth), "1", artifact, FunctionKind::Component))
}

fn define(control: &mut Control, now: Timestamp, definition: Arc<FunctionDefinition>) {
    control.handle(now, Event::FunctionDefined { definition, since: Timestamp::ZERO }, &mut Vec::new());
}

fn call(control: &mut Control, now: Timestamp, function: &FunctionName) {
    let mut actions = Vec::new();
    let arrival = Event::InvocationArrived { function: function.clone(), evidence: Evidence::default() };
    control.handle(now, arrival, &mut actions);
    let (status, start_kind, execute) = (Status::Ok, None, Duration::from_millis(5));
    let end = Event::InvocationEnded { function: function.clone(), status, start_kind, execute };
    control.handle(now, end, &mut actions);
}

/// Defines all functions and calls the active ones every seven minutes for ten hours; prints what that holds.
fn memory() {
    let begin = resident_bytes();
    // Shared with the registry, which has them anyway.
    let definitions: Vec<_> = (0..KNOWN).map(definition).collect();
    let before = resident_bytes();
    let (mut control, mut now) = (control(), Timestamp::from_millis(1_700_000_000_000));
    definitions.iter().for_each(|definition| define(&mut control, now, Arc::clone(definition)));
    let defined = resident_bytes();
    let active: Vec<_> = (0..ACTIVE).map(name).collect();
    for minute in 0..600 {
        active.iter().skip(minute % 7).step_by(7).for_each(|function| call(&mut control, now, function));
        for _ in 0..120 {
            now = now + Duration::from_millis(500);
            control.handle(now, Event::Ticked { usage: vec![] }, &mut Vec::new());
        }
    }
    let used = resident_bytes();
    let each = |bytes: usize, functions: usize| bytes / functions;
    println!("definitions: {} bytes a function", each(before - begin, KNOWN));
    println!("known, never called: {} bytes a function", each(defined - before, KNOWN));
    println!("active, beside that: {} bytes a function", each(used - defined, ACTIVE));
    println!("{KNOWN} known, {ACTIVE} active: {} bytes a function on average", each(used - before, KNOWN));
}

/// Resident memory of the process, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    // The second number is the resident pages, of 4 KiB.
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// A thousand functions, and then so many calls of them, a hundred between two ticks.
fn events(calls: usize) {
    let (mut control, mut now) = (control(), Timestamp::from_millis(1_700_000_000_000));
    (0..1_000).for_each(|nth| define(&mut control, now, definition(nth)));
    let names: Vec<_> = (0..1_000).map(name).collect();
    for nth in 0..calls {
        now = now + Duration::from_micros(100);
        call(&mut control, now, &names[nth * 7_919 % names.len()]);
    }
    println!("{calls} calls");
}
