//! Windows of time that come again: a crontab expression says when each begins.
//!
//! Must not: read a clock; it is asked about a time.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, CronPattern, Weekday};
use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A window of time that comes again, in which instances are kept whatever the forecast says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// When the window begins: minute, hour, day of month, month, day of week, as in crontab(5).
    pub cron: String,
    /// The IANA time zone that the expression is read in.
    #[serde(default = "utc")]
    pub timezone: String,
    /// How long the window lasts, in milliseconds.
    pub duration_ms: u64,
    /// Instances that are kept within it, ready and busy together.
    pub instances: u32,
}

const WEEKDAYS: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

fn utc() -> String {
    Schedule::UTC.to_owned()
}

/// Why a schedule says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// The expression.
    #[error(
        "cron {cron:?} is not valid: {cause}; give minute, hour, day of month, month and day of week, as in \"0 9 * * 1-5\""
    )]
    Cron {
        /// As it was given, cut at 64 characters.
        cron: String,
        /// Why.
        cause: String,
    },
    /// The expression names a date that does not come.
    #[error("cron {cron:?} never begins")]
    Never {
        /// As it was given.
        cron: String,
    },
    /// The time zone.
    #[error("timezone {timezone:?} is not known: give a name of the IANA database, such as Europe/Berlin")]
    Timezone {
        /// As it was given, cut at 64 characters.
        timezone: String,
    },
    /// The length.
    #[error("duration_ms {duration_ms} is outside 1 to 604800000 (a week)")]
    Duration {
        /// As it was given.
        duration_ms: u64,
    },
    /// The number of instances.
    #[error("instances must be at least 1")]
    Instances,
}

impl Schedule {
    /// The time zone where none is named.
    pub const UTC: &str = "UTC";
    /// The longest window, in milliseconds (inclusive): a week.
    pub const DURATION_MAX_MS: u64 = 7 * 24 * 3_600_000;
    /// The longest expression, in bytes (inclusive).
    const CRON_LEN_MAX: usize = 256;

    /// The windows that the schedule means.
    ///
    /// # Errors
    /// The first fault that it has.
    pub fn windows(&self) -> Result<Windows, InvalidSchedule> {
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        if !(1..=Self::DURATION_MAX_MS).contains(&self.duration_ms) {
            return Err(InvalidSchedule::Duration { duration_ms: self.duration_ms });
        }
        if self.instances == 0 {
            return Err(InvalidSchedule::Instances);
        }
        let timezone =
            self.timezone.parse().map_err(|_| InvalidSchedule::Timezone { timezone: shown(&self.timezone) })?;
        let fault = |cause: String| InvalidSchedule::Cron { cron: shown(&self.cron), cause };
        if self.cron.len() > Self::CRON_LEN_MAX {
            return Err(fault(format!("it has {} bytes, more than {}", self.cron.len(), Self::CRON_LEN_MAX)));
        }
        // As in crontab(5): a day field with a * in it does not restrict, so both fields must match. The parser takes ? for *.
        let has_star = self.cron.split_whitespace().skip(2).step_by(2).any(|field| field.contains(['*', '?']));
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).dom_and_dow(has_star).build();
        let cron = parser.parse(&without_stars_in_lists(&self.cron)).map_err(|error| fault(error.to_string()))?;
        if !has_a_moment(&cron.pattern) {
            return Err(InvalidSchedule::Never { cron: shown(&self.cron) });
        }
        Ok(Windows { cron, timezone, duration: Duration::from_millis(self.duration_ms) })
    }
}

/// The parser knows a * that stands alone or before a step, and none as an item of a list, where crontab(5) has it.
fn without_stars_in_lists(cron: &str) -> Cow<'_, str> {
    if !cron.contains(',') {
        return Cow::Borrowed(cron);
    }
    let field = |field: &str| {
        if !field.contains(',') {
            return field.to_owned();
        }
        let items = field.split(',').map(|item| if matches!(item, "*" | "?") { "*/1" } else { item });
        items.collect::<Vec<_>>().join(",")
    };
    Cow::Owned(cron.split_whitespace().map(field).collect::<Vec<_>>().join(" "))
}

/// Whether any day of any year, and any minute of it, matches. No search through years: a month is told by its number, its
/// length and the weekday on which it begins, and in the 400 years after which the calendar comes again each of these occurs.
fn has_a_moment(pattern: &CronPattern) -> bool {
    /// A year of 365 days and one of 366.
    const YEARS: [i32; 2] = [2023, 2024];
    if pattern.minutes.values().is_empty() || pattern.hours.values().is_empty() {
        return false;
    }
    let months = (1..=12).filter(|&month| pattern.month_match(month).unwrap_or(false));
    months.flat_map(|month| YEARS.map(|year| (year, month))).any(|(year, month)| {
        // A day that the month does not have is an error.
        let matches = |day, weekday| pattern.day_match(year, month, day, weekday).unwrap_or(false);
        (1..=31).any(|day| WEEKDAYS.iter().any(|&weekday| matches(day, weekday)))
    })
}

/// When a schedule's windows begin and end.
#[derive(Clone, Debug)]
pub struct Windows {
    cron: Cron,
    timezone: Tz,
    duration: Duration,
}

impl Windows {
    /// The end of the window that is open at `now`, which is its first moment outside; `None` where none is. Of several
    /// that overlap it is the last one's.
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let began = self.cron.find_previous_occurrence(&self.local(now)?, true).ok()?;
        let end = timestamp(&began) + self.duration;
        (end > now).then_some(end)
    }

    /// When the next window begins, later than `now`.
    pub fn begins_after(&self, now: Timestamp) -> Option<Timestamp> {
        let begins = self.cron.find_next_occurrence(&self.local(now)?, false).ok()?;
        Some(timestamp(&begins))
    }

    fn local(&self, now: Timestamp) -> Option<DateTime<Tz>> {
        Some(Utc.timestamp_micros(now.as_micros()).single()?.with_timezone(&self.timezone))
    }
}

fn timestamp(at: &DateTime<Tz>) -> Timestamp {
    Timestamp::from_micros(at.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, timezone: &str, minutes: u64) -> Schedule {
        Schedule { cron: cron.to_owned(), timezone: timezone.to_owned(), duration_ms: minutes * 60_000, instances: 3 }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::from_micros(text.parse::<DateTime<Utc>>().unwrap().timestamp_micros())
    }

    #[test]
    fn a_window_is_open_from_its_beginning_to_before_its_end() {
        let windows = schedule("0 9 * * 1-5", "UTC", 90).windows().unwrap();
        // 5 January 2026 is a Monday.
        assert_eq!(windows.open_until(at("2026-01-05T08:59:59.999999Z")), None);
        assert_eq!(windows.open_until(at("2026-01-05T09:00:00Z")), Some(at("2026-01-05T10:30:00Z")));
        assert_eq!(windows.open_until(at("2026-01-05T10:29:59.999999Z")), Some(at("2026-01-05T10:30:00Z")));
        assert_eq!(windows.open_until(at("2026-01-05T10:30:00Z")), None);
        assert_eq!(windows.begins_after(at("2026-01-05T09:00:00Z")), Some(at("2026-01-06T09:00:00Z")));
        assert_eq!(windows.begins_after(at("2026-01-09T09:00:00Z")), Some(at("2026-01-12T09:00:00Z")));
    }

    #[test]
    fn a_time_zone_moves_with_its_summer_time() {
        let windows = schedule("0 9 * * *", "Europe/Berlin", 60).windows().unwrap();
        assert_eq!(windows.begins_after(at("2026-03-28T00:00:00Z")), Some(at("2026-03-28T08:00:00Z")));
        assert_eq!(windows.begins_after(at("2026-03-29T00:00:00Z")), Some(at("2026-03-29T07:00:00Z")));
    }

    #[test]
    fn windows_that_overlap_end_with_the_last() {
        let windows = schedule("*/10 * * * *", "UTC", 15).windows().unwrap();
        assert_eq!(windows.open_until(at("2026-01-05T09:12:00Z")), Some(at("2026-01-05T09:25:00Z")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fault = |schedule: Schedule| schedule.windows().unwrap_err().to_string();
        let cases = [
            (schedule("0 9 * *", "UTC", 1), "cron \"0 9 * *\" is not valid"),
            (schedule("0 0 9 * * *", "UTC", 1), "cron \"0 0 9 * * *\" is not valid"),
            (schedule("61 9 * * *", "UTC", 1), "cron \"61 9 * * *\" is not valid"),
            (schedule("0 0 30 2 *", "UTC", 1), "cron \"0 0 30 2 *\" never begins"),
            (schedule("0 0 31 2,4,6,9,11 *", "UTC", 1), "never begins"),
            (schedule("0 0 31W 2 *", "UTC", 1), "never begins"),
            (schedule("0 0 1-7 * +1#2", "UTC", 1), "never begins"),
            (schedule(", 0 * * *", "UTC", 1), "never begins"),
            (schedule(&"0,".repeat(1_000), "UTC", 1), "it has 2000 bytes, more than 256"),
            (schedule("0 9 * * *", "Mars/Olympus", 1), "timezone \"Mars/Olympus\" is not known"),
            (schedule("0 9 * * *", "UTC", 0), "duration_ms 0 is outside"),
            (schedule("0 9 * * *", "UTC", 10_081), "duration_ms 604860000 is outside"),
            (Schedule { instances: 0, ..schedule("0 9 * * *", "UTC", 1) }, "instances must be at least 1"),
        ];
        for (schedule, wanted) in cases {
            let said = fault(schedule);
            assert!(said.contains(wanted), "{said}");
        }
    }

    #[test]
    fn what_begins_at_all_is_told_without_a_search_and_as_a_search_tells_it() {
        let days = ["*", "?", "29", "30", "31", "L", "LW", "31W", "1-7", "*/2", "28,30"];
        let months = ["*", "2", "4", "2,6", "1"];
        let weekdays = ["*", "1", "1#5", "5#L", "+1#2", "+0", "+1#5", "*/3"];
        for day in days {
            for month in months {
                for weekday in weekdays {
                    let cron = format!("0 0 {day} {month} {weekday}");
                    let windows = schedule(&cron, "UTC", 1).windows();
                    let Ok(windows) = windows else {
                        // The search itself, which finds nothing in 400 years.
                        let has_star = day.contains(['*', '?']) || weekday.contains('*');
                        let parser = CronParser::builder().dom_and_dow(has_star).build();
                        let found = parser.parse(&cron).unwrap().find_next_occurrence(&Utc.timestamp_nanos(0), false);
                        assert!(found.is_err(), "{cron}: {found:?}");
                        continue;
                    };
                    assert!(windows.begins_after(Timestamp::from_millis(0)).is_some(), "{cron}");
                }
            }
        }
    }

    #[test]
    fn a_day_field_with_a_star_does_not_restrict() {
        // The Mondays among the odd days: 5, 19 January 2026.
        let windows = schedule("0 0 */2 * 1", "UTC", 1).windows().unwrap();
        assert_eq!(windows.begins_after(at("2026-01-01T00:00:00Z")), Some(at("2026-01-05T00:00:00Z")));
        assert_eq!(windows.begins_after(at("2026-01-05T00:00:00Z")), Some(at("2026-01-19T00:00:00Z")));
        // Both in March 2026, where the 1st is a Sunday; with neither, either is enough.
        let days = |day: &str, weekday: &str| {
            let windows = schedule(&format!("30 6 {day} 3 {weekday}"), "UTC", 1).windows().unwrap();
            let first = at("2026-03-01T06:30:00Z");
            (1..=14)
                .filter(|day| windows.open_until(first + Duration::from_hours(24 * (day - 1))).is_some())
                .collect::<Vec<_>>()
        };
        for (day, weekday, expected) in [
            ("*/3", "2", vec![10]),
            ("?/3", "2", vec![10]),
            ("5,*/4", "0,3-4", vec![1, 5]),
            ("*", "6", vec![7, 14]),
            ("?", "6", vec![7, 14]),
            ("8-14", "*/3", vec![8, 11, 14]),
            ("8-14", "6,*", (8..=14).collect()),
            ("3,*", "1", vec![2, 9]),
            ("3", "1", vec![2, 3, 9]),
            ("2-4", "SAT", vec![2, 3, 4, 7, 14]),
        ] {
            assert_eq!(days(day, weekday), expected, "{day} and {weekday}");
        }
    }

    #[test]
    fn times_at_the_ends_of_the_calendar_have_no_window() {
        let windows = schedule("0 9 * * *", "UTC", 60).windows().unwrap();
        for micros in [i64::MIN, i64::MAX] {
            let now = Timestamp::from_micros(micros);
            assert_eq!((windows.open_until(now), windows.begins_after(now)), (None, None));
        }
    }
}
