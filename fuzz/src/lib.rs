//! What comes from outside, as any bytes: one plain function for each way in.
//!
//! Duty: hand the bytes to the pure core and check what must hold of its answers; a panic is a finding. The same functions
//! run under libFuzzer (`fuzz_targets/`) and, for a fixed number of inputs, in `cargo test` (`tests/fuzz.rs`, which takes
//! this file in by its path). Must not: know of a fuzzer, read a clock, or keep anything from one input to the next.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a target says what it found")]

mod definitions;
mod events;
mod input;
mod metadata;
mod plane;
mod runs;
mod schedules;
mod seeds;
mod shown;
mod snapshots;
mod tracker;
mod writers;

pub use definitions::definitions;
pub use events::events;
pub use metadata::metadata;
pub use schedules::schedules;
pub use seeds::seeds;
pub use shown::shown;
pub use snapshots::snapshots;
pub use tracker::tracker;
pub use writers::writers;

/// What takes an input in, and panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its binary.
pub const TARGETS: [(&str, Target); 8] = [
    ("events", events),
    ("writers", writers),
    ("metadata", metadata),
    ("tracker", tracker),
    ("definitions", definitions),
    ("snapshots", snapshots),
    ("schedules", schedules),
    ("shown", shown),
];
