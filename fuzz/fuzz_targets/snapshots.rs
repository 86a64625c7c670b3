//! Runs `forewarm_fuzz::snapshots` under libFuzzer. Must not: hold any check of its own.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forewarm_fuzz::snapshots(bytes));
