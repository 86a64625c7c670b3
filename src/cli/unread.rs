//! Says on stderr what a command waits for, and what it could not read and leaves out: the first few in full, and all by number.
//!
//! Must not: decide what is left out; who reads does.

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::{Tell, Told, Unreadable};
use crate::types::Shown;

/// The exit code of a command that did what it was asked for, but for records that it could not read.
pub(super) const EX_IN_PART: u8 = 3;
/// Records that are told in full (inclusive).
const LINES_MAX: u64 = 10;

/// Of this process, which runs one command.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// For clients: says what they tell.
pub(super) fn tell() -> Tell {
    Arc::new(|told| match told {
        Told::Unread(Unreadable { topic, partition, offset, reason }) => {
            left_out(format_args!("topic {topic}, partition {partition}, offset {offset}: {reason}"));
        }
        Told::Waits(reason) => say(reason),
    })
}

/// A line on stderr, escaped.
pub(super) fn say(words: impl Display) {
    eprintln!("forewarm: {}", Shown::of(words));
}

/// Counts a record that is left out, and says which one, and why, unless so many were said before.
pub(super) fn left_out(what: impl Display) {
    match LEFT_OUT.fetch_add(1, Ordering::Relaxed) {
        said if said < LINES_MAX => say(format_args!("left out, as it cannot be read: {what}")),
        LINES_MAX => say("more is left out, as it cannot be read; the number follows"),
        _ => {}
    }
}

/// How many there were so far.
pub(super) fn count() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// The exit code of a command that reads records, at its end: says how many were left out, and makes success a success in part.
pub(super) fn settle(code: ExitCode) -> ExitCode {
    match count() {
        0 => code,
        records => {
            say(format_args!("{records} record{} left out", if records == 1 { " is" } else { "s are" }));
            if code == ExitCode::SUCCESS { ExitCode::from(EX_IN_PART) } else { code }
        }
    }
}
