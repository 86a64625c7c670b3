//! The end of a process in which something hangs that cannot be freed.
//!
//! Must not: wait for anything that may hang as well; not for the log, and not for handlers of exit(3).

use std::time::Duration;

use crate::kafka::Overdue;
use crate::telemetry;

/// The exit status of a process that ended itself because something in it hung (`EX_TEMPFAIL` of BSD's sysexits): starting it
/// again helps.
pub const EXIT_HUNG: i32 = 75;

/// How long the last line may take to be written.
const LAST_LINE: Duration = Duration::from_secs(1);

/// Says what hangs, and ends the process. What was in flight is read again; a transaction that is open is ended by the next
/// process of the same name, or by its time limit.
pub(super) fn end(overdue: &Overdue) -> ! {
    let Overdue { what, lasted, limit } = overdue.clone();
    tracing::error!(
        what,
        ?lasted,
        ?limit,
        status = EXIT_HUNG,
        "something hangs that cannot be freed: the process ends at once, and is to be started again; calls in flight are read \
         again"
    );
    end_at_once(EXIT_HUNG, LAST_LINE)
}

/// Ends the process, after `last_lines` at most for the log, without the handlers of exit(3), which may wait for what hangs.
#[expect(unsafe_code, reason = "_exit(2) has no precondition; std has no safe way to it")]
pub(super) fn end_at_once(status: i32, last_lines: Duration) -> ! {
    telemetry::flush_log(last_lines);
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(status) }
}
