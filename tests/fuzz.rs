//! The fuzz targets over a fixed number of inputs: the seeds, every truncation of them, seeded changes to them, and bytes
//! that are near nothing. None may panic, and none may hold more memory than its length allows.
//!
//! The targets are those in `fuzz/src`, the same that run under libFuzzer. A failing input is printed in hexadecimal; to see
//! it again: `FOREWARM_FUZZ_INPUT=events:00c3… cargo test --release --test fuzz replay`. Must not: depend on a fuzzer.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "what failed, and how much ran, is what this is for")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

mod fuzz {
    pub mod allocation;
    pub mod dense;
    pub mod mutate;
}

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use forewarm::codec::{CONTENT_TYPE_JSON, Codec, Event, NoSchemaRegistry};
use forewarm::types::{FunctionDefinition, Invocation, PreTrigger};
use fuzz::allocation::peak_bytes;
use fuzz::dense::{dense, dense_events};
use fuzz::mutate::{Random, any, near};

/// What an input may make a target hold at once: so many bytes, and so many for each of its own. What the target's own
/// checks hold is in it.
#[derive(Clone, Copy)]
struct Bound {
    bytes: usize,
    per_byte: usize,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn target(name: &str) -> targets::Target {
    let found = targets::TARGETS.iter().find(|(of, _)| *of == name);
    found.unwrap_or_else(|| panic!("there is no target {name}")).1
}

/// Runs one target over everything: its seeds and their truncations, its densest inputs, `changes` changed seeds, and a
/// tenth as many that are near nothing.
fn run(name: &str, changes: usize, bound: Bound) {
    let (target, seeds) = (target(name), targets::seeds(name));
    // What is made once and kept is nobody's.
    target(&seeds[0]);
    let (mut inputs, mut most) = (0, (0, 0));
    let mut input = |bytes: &[u8]| {
        let mut held = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            held = peak_bytes(|| target(bytes));
            let allowed = bound.bytes + bound.per_byte * bytes.len();
            assert!(held <= allowed, "{held} bytes held for {}, {allowed} allowed", bytes.len());
        }));
        if let Err(panic) = outcome {
            eprintln!("FOREWARM_FUZZ_INPUT={name}:{}", hex(bytes));
            resume_unwind(panic);
        }
        inputs += 1;
        most = most.max((held, bytes.len()));
    };
    for seed in &seeds {
        (0..=seed.len()).for_each(|len| input(&seed[..len]));
    }
    dense(name).iter().for_each(|bytes| input(bytes));
    let mut random = Random(0);
    for _ in 0..changes {
        let (seed, other) = (&seeds[random.below(seeds.len())], &seeds[random.below(seeds.len())]);
        input(&near(seed, other, &mut random));
    }
    (0..changes / 10).for_each(|_| input(&any(&mut random)));
    println!("{name}: {inputs} inputs; at most {} bytes held, for one of {}", most.0, most.1);
}

#[test]
fn messages_do_no_harm() {
    run("events", 20_000, Bound { bytes: 16 << 10, per_byte: 500 });
}

#[test]
fn schemas_of_other_writers_do_no_harm() {
    run("writers", 8_000, Bound { bytes: 256 << 10, per_byte: 64 });
}

#[test]
fn commit_metadata_does_no_harm() {
    run("metadata", 20_000, Bound { bytes: 16 << 10, per_byte: 100 });
}

#[test]
fn a_partition_keeps_its_account() {
    run("tracker", 8_000, Bound { bytes: 32 << 10, per_byte: 100 });
}

#[test]
fn definitions_do_no_harm() {
    run("definitions", 15_000, Bound { bytes: 64 << 10, per_byte: 80 });
}

#[test]
fn snapshots_do_no_harm() {
    run("snapshots", 4_000, Bound { bytes: 128 << 10, per_byte: 4 });
}

#[test]
fn schedules_do_no_harm() {
    run("schedules", 3_000, Bound { bytes: 16 << 10, per_byte: 4 });
}

#[test]
fn foreign_text_does_no_harm_where_it_is_shown() {
    // A byte becomes an escape of six, in four texts that are held at once and double while they grow.
    run("shown", 20_000, Bound { bytes: 16 << 10, per_byte: 100 });
}

/// Reading alone, without what the targets do with it: 80 bytes for each byte of the message, and a few for a refusal. An
/// array of empty texts is the densest: 24 bytes each, in a list that doubles while the one before it is still there.
#[test]
fn reading_a_message_holds_memory_by_its_length() {
    fn read<E: Event>(codec: &Codec, bytes: &[u8]) {
        let held = peak_bytes(|| drop(codec.decode::<E>(bytes, Some(CONTENT_TYPE_JSON), &NoSchemaRegistry)));
        let allowed = 2_048 + 80 * bytes.len();
        assert!(held <= allowed, "{held} bytes held for {}, {allowed} allowed: {}", bytes.len(), hex(bytes));
    }
    let (codec, seeds) = (Codec::new(), targets::seeds("events"));
    let mut random = Random(1);
    let near = (0..5_000).map(|_| near(&seeds[random.below(seeds.len())], &seeds[0], &mut random));
    for bytes in dense_events().into_iter().chain(near) {
        read::<PreTrigger>(&codec, &bytes);
        read::<Invocation>(&codec, &bytes);
        read::<FunctionDefinition>(&codec, &bytes);
    }
}

#[test]
fn dense_inputs_are_read_and_not_refused() {
    let codec = Codec::new();
    let refusal = |bytes: &Vec<u8>| {
        let decoded = codec.decode::<FunctionDefinition>(bytes, Some(CONTENT_TYPE_JSON), &NoSchemaRegistry);
        decoded.err().map(|refusal| refusal.to_string())
    };
    assert_eq!(dense_events().iter().filter_map(refusal).collect::<Vec<_>>(), Vec::<String>::new());
}

/// An input that failed, once more: `target:hexadecimal digits` in the environment.
#[test]
fn replay() {
    let Ok(given) = std::env::var("FOREWARM_FUZZ_INPUT") else { return };
    let (name, hex) = given.split_once(':').expect("the target's name, a colon, the input");
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits a byte");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    target(name)(&bytes);
}

#[test]
#[ignore = "writes files: the seeds, to fuzz/corpus, where cargo-fuzz looks for them"]
fn the_seeds_are_written() {
    for (target, _) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        for (nth, seed) in targets::seeds(target).iter().enumerate() {
            fs::write(folder.join(format!("seed-{nth}")), seed).unwrap();
        }
    }
}
