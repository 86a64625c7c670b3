//! Runs `forewarm_fuzz::shown` under libFuzzer. Must not: hold any check of its own.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forewarm_fuzz::shown(bytes));
