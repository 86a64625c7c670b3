//! Schedules of definitions: any crontab expression, in any time zone, at any time.
//!
//! The input is the expression, a zero byte, the time zone, a zero byte, and the time in microseconds, 8 bytes. A schedule
//! that is found sound must answer for any time, and its windows must be where it says.

use std::time::Duration;

use forewarm::types::{Schedule, Timestamp};

use super::input::Input;

/// Any schedule at any time.
pub fn schedules(bytes: &[u8]) {
    let mut input = Input(bytes);
    let cron = String::from_utf8_lossy(input.until_zero()).into_owned();
    let timezone = String::from_utf8_lossy(input.until_zero()).into_owned();
    let timezone = if timezone.is_empty() { Schedule::UTC.to_owned() } else { timezone };
    let now = Timestamp::from_micros(input.i64());
    let duration = Duration::from_mins(90);
    let schedule = Schedule { cron, timezone, duration_ms: 90 * 60_000, instances: 2 };
    let windows = match schedule.windows() {
        Ok(windows) => windows,
        Err(fault) => {
            assert!(fault.to_string().len() <= 1_024, "{fault}");
            return;
        }
    };
    if let Some(ends) = windows.open_until(now) {
        assert!(ends > now && ends.since(now) <= duration, "{schedule:?} at {now:?} is open until {ends:?}");
    }
    if let Some(begins) = windows.begins_after(now) {
        assert!(begins > now, "{schedule:?} at {now:?} begins at {begins:?}");
        assert_eq!(windows.open_until(begins), Some(begins + duration), "{schedule:?} begins at {begins:?}");
    }
}
