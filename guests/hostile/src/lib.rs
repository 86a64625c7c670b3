//! A function that misbehaves on request, for tests of the host: the payload names the deed.
//!
//! Every deed is a function of its own that is never inlined, so that a backtrace names it. Anything else in the payload is
//! answered with `fine`, so that a test can see that a fresh instance works. The host must survive all of it; nothing here
//! may be weakened to be easier on the host.

use std::hint::black_box;

use wasip2::cli::{environment, stderr};
use wasip2::clocks::monotonic_clock;
use wasip2::random::random;

wit_bindgen::generate!({ path: "../../wit", world: "function" });

/// Bytes of a page of wasm memory.
const PAGE_BYTES: usize = 64 << 10;

/// Length of the answer to `huge-answer`, in bytes.
const HUGE_ANSWER_BYTES: usize = 5 << 20;

/// What `stderr-flood` writes, in bytes.
const FLOOD_BYTES: usize = 1 << 20;

/// The most that `blocking-write-and-flush` of WASI takes at once, in bytes.
const WRITE_BYTES: usize = 4096;

/// What `random-flood` asks for in one call, in bytes: more than fits into the memory of most guests.
const RANDOM_BYTES: u64 = 3 << 30;

const HOUR_NS: u64 = 3_600_000_000_000;

struct Hostile;

impl Guest for Hostile {
    /// Fails as the environment variable `FAIL_INIT` says: `trap`, or any other text as the error. Unset or empty: succeeds.
    fn init() -> Result<(), String> {
        let wish = environment::get_environment().into_iter().find(|(name, _)| name == "FAIL_INIT");
        match wish {
            Some((_, text)) if text == "trap" => trap(),
            Some((_, text)) if !text.is_empty() => Err(text),
            _ => Ok(()),
        }
    }

    fn handle(call: Invocation) -> Result<Vec<u8>, Error> {
        match call.payload.trim_ascii() {
            b"trap" => trap(),
            b"loop" => spin(),
            b"eat-memory" => eat_memory(),
            b"huge-answer" => return Ok(vec![b'x'; HUGE_ANSWER_BYTES]),
            b"deep-recursion" => {
                black_box(dive(black_box(1)));
            }
            b"host-resources" => hoard_host_resources(),
            b"sleep" => sleep(),
            b"stderr-flood" => flood_stderr(),
            b"random-flood" => flood_random(),
            b"third-time" if call.attempt < 3 => {
                let message = format!("attempt {} of 3", call.attempt);
                return Err(Error { code: "not_yet".to_owned(), message });
            }
            _ => {}
        }
        Ok(b"fine".to_vec())
    }
}

#[inline(never)]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

/// Never ends and never calls the host.
#[inline(never)]
fn spin() -> ! {
    loop {
        black_box(());
    }
}

/// Grows the memory by 1 MiB at a time and touches every page, until the host refuses; then traps.
#[inline(never)]
fn eat_memory() -> ! {
    const STEP_PAGES: usize = 16;
    loop {
        let before = core::arch::wasm32::memory_grow::<0>(STEP_PAGES);
        if before == usize::MAX {
            trap();
        }
        for page in before..before + STEP_PAGES {
            // SAFETY: the page was just added to this memory, and no allocator knows of it.
            unsafe { core::ptr::write_volatile((page * PAGE_BYTES) as *mut u8, 1) };
        }
    }
}

/// Calls itself until the stack of the host ends.
///
/// What it does with the answer (rotate, then add) is not associative, so no compiler can turn it into a loop; and it keeps
/// nothing in the guest's own memory, so the host's stack is what overflows.
#[inline(never)]
fn dive(depth: u64) -> u64 {
    if depth == 0 {
        return 1;
    }
    dive(depth.wrapping_add(1)).rotate_left(7).wrapping_add(depth)
}

/// Opens pollables and never drops them: each is an entry in a table of the host.
#[inline(never)]
fn hoard_host_resources() -> ! {
    loop {
        core::mem::forget(monotonic_clock::subscribe_duration(HOUR_NS));
    }
}

/// Waits in the host for an hour.
#[inline(never)]
fn sleep() {
    monotonic_clock::subscribe_duration(HOUR_NS).block();
}

/// Writes 1 MiB of lines to stderr; a stream that refuses is left.
#[inline(never)]
fn flood_stderr() {
    let stream = stderr::get_stderr();
    let mut line = [b'e'; WRITE_BYTES];
    line[WRITE_BYTES - 1] = b'\n';
    for _ in 0..FLOOD_BYTES / WRITE_BYTES {
        if stream.blocking_write_and_flush(&line).is_err() {
            return;
        }
    }
}

/// Asks the host for 3 GiB of random bytes at once.
#[inline(never)]
fn flood_random() {
    black_box(random::get_random_bytes(RANDOM_BYTES));
}

export!(Hostile);
