//! A function's schedules at work: how many instances they keep at a time, and when that changes next.
//!
//! Must not: read a clock, or judge a schedule; a definition with a faulty one is refused before it comes here.

use crate::types::{Schedule, Timestamp, Windows};

/// What a schedule asks for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled<'a> {
    /// Instances, ready and busy together.
    pub instances: u32,
    /// The expression of the schedule that says so.
    pub cron: &'a str,
}

/// The schedules of one function. Looking costs a comparison, until something changes.
#[derive(Debug)]
pub struct Timetable {
    rows: Vec<(Schedule, Windows)>,
    /// The row that counts from `since` until before `until`.
    open: Option<usize>,
    since: Timestamp,
    until: Timestamp,
}

impl Timetable {
    /// Of these schedules; `None` where they are none. One that is no good says nothing.
    pub fn new(schedules: &[Schedule]) -> Option<Self> {
        let rows = schedules.iter().filter_map(|schedule| Some((schedule.clone(), schedule.windows().ok()?)));
        let rows: Vec<_> = rows.collect();
        let never = Timestamp::from_micros(i64::MIN);
        (!rows.is_empty()).then_some(Self { rows, open: None, since: never, until: never })
    }

    /// The largest of what open windows ask for at `now`; the first of equal ones.
    pub fn look(&mut self, now: Timestamp) -> Option<Scheduled<'_>> {
        // Where the clock was set back, other windows may be open.
        if now >= self.until || now < self.since {
            self.turn(now);
        }
        let (schedule, _) = &self.rows[self.open?];
        Some(Scheduled { instances: schedule.instances, cron: &schedule.cron })
    }

    /// When a look may say something else; as of the last look.
    pub fn next_change(&self) -> Timestamp {
        self.until
    }

    fn turn(&mut self, now: Timestamp) {
        (self.open, self.since, self.until) = (None, now, Timestamp::from_micros(i64::MAX));
        let mut most = 0;
        for (row, (schedule, windows)) in self.rows.iter().enumerate() {
            let ends = windows.open_until(now);
            if ends.is_some() && schedule.instances > most {
                (most, self.open) = (schedule.instances, Some(row));
            }
            let changes = ends.into_iter().chain(windows.begins_after(now));
            self.until = changes.fold(self.until, Timestamp::min);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn schedule(cron: &str, hours: u64, instances: u32) -> Schedule {
        Schedule { cron: cron.to_owned(), timezone: "UTC".to_owned(), duration_ms: hours * 3_600_000, instances }
    }

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_millis(hour * HOUR)
    }

    #[test]
    fn the_largest_open_window_counts_and_changes_are_known_ahead() {
        let mut table = Timetable::new(&[schedule("0 8 * * *", 4, 2), schedule("0 10 * * *", 1, 5)]).unwrap();
        let two = Some(Scheduled { instances: 2, cron: "0 8 * * *" });
        let five = Some(Scheduled { instances: 5, cron: "0 10 * * *" });
        let rows =
            [(7, None, 8), (8, two, 10), (9, two, 10), (10, five, 11), (11, two, 12), (12, None, 32), (31, None, 32)];
        for (hour, scheduled, next) in rows {
            assert_eq!(table.look(at(hour)), scheduled, "{hour}");
            assert_eq!(table.next_change(), at(next), "{hour}");
        }
        assert_eq!(table.look(at(10)), five, "the clock was set back");
        assert!(Timetable::new(&[]).is_none());
    }
}
