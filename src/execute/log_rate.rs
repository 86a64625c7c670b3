//! How many lines of one function's log go out: a token bucket by lines and by bytes.
//!
//! One function that floods keeps no other one's lines from coming out. Lines that are left out are counted, and a line says how many
//! once there is a token again. Must not: read a clock.

use std::time::{Duration, Instant};

use crate::config::FunctionLogs;
use crate::types::{LeftOut, LogLine};

/// How long a function may have been quiet for its tokens to add up, in seconds.
const BURST_S: f64 = 5.0;
/// From one line that says what was left out to the next, at least.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The bucket of one function.
#[derive(Debug)]
pub(super) struct LogRate {
    lines_per_second: f64,
    bytes_per_second: f64,
    lines: f64,
    bytes: f64,
    refilled_at: Instant,
    left_out: LeftOut,
    told_at: Option<Instant>,
}

impl LogRate {
    pub(super) fn new(bounds: &FunctionLogs, now: Instant) -> Self {
        let (lines, bytes) = (f64::from(bounds.lines_per_second.get()), f64::from(bounds.bytes_per_second.get()));
        Self {
            lines_per_second: lines,
            bytes_per_second: bytes,
            lines: lines * BURST_S,
            bytes: bytes * BURST_S,
            refilled_at: now,
            left_out: LeftOut::default(),
            told_at: None,
        }
    }

    /// Takes those lines out that may not go; answers how much that was.
    pub(super) fn admit(&mut self, lines: &mut Vec<LogLine>, now: Instant) -> LeftOut {
        self.refill(now);
        let mut left_out = LeftOut::default();
        lines.retain(|line| {
            let bytes = line.text.len() as f64;
            let may_go = self.lines >= 1.0 && self.bytes >= bytes;
            if may_go {
                self.lines -= 1.0;
                self.bytes -= bytes;
            } else {
                // What a line says of others that were left out is still true.
                left_out.add(line.left_out.lines + 1, line.left_out.bytes + line.text.len() as u64);
            }
            may_go
        });
        self.left_out.add(left_out.lines, left_out.bytes);
        left_out
    }

    /// Whether something was left out that was not told yet.
    pub(super) fn owes(&self) -> bool {
        !self.left_out.is_nothing()
    }

    /// What was left out since it was last told, where it may be told now; that takes a token.
    pub(super) fn tell(&mut self, now: Instant) -> Option<LeftOut> {
        self.refill(now);
        let is_due = self.told_at.is_none_or(|told_at| now.saturating_duration_since(told_at) >= TELL_EVERY);
        if !self.owes() || !is_due || self.lines < 1.0 {
            return None;
        }
        self.lines -= 1.0;
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.refilled_at = now.max(self.refilled_at);
        self.lines = (self.lines + seconds * self.lines_per_second).min(self.lines_per_second * BURST_S);
        self.bytes = (self.bytes + seconds * self.bytes_per_second).min(self.bytes_per_second * BURST_S);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogStream, Timestamp};

    fn lines(count: usize, text: &str) -> Vec<LogLine> {
        let line = LogLine {
            stream: LogStream::Stderr,
            written_at: Timestamp::ZERO,
            text: text.to_owned(),
            left_out: LeftOut::default(),
        };
        vec![line; count]
    }

    fn rate(lines: u32, bytes: u32) -> (LogRate, Instant) {
        let number = |number: u32| number.try_into().unwrap();
        let bounds = FunctionLogs {
            lines_per_second: number(lines),
            bytes_per_second: number(bytes),
            ..FunctionLogs::default()
        };
        let now = Instant::now();
        (LogRate::new(&bounds, now), now)
    }

    #[test]
    fn lines_come_at_once_and_then_at_their_rate_and_the_others_are_told() {
        let (mut rate, start) = rate(10, 1_000_000);
        let mut came = lines(70, "x");
        assert_eq!(rate.admit(&mut came, start), LeftOut { lines: 20, bytes: 20 });
        assert_eq!(came.len(), 50);
        assert_eq!(rate.tell(start), None, "no token is left");
        let later = start + Duration::from_millis(500);
        let mut came = lines(10, "x");
        rate.admit(&mut came, later);
        assert_eq!(came.len(), 5);
        let later = start + Duration::from_secs(1);
        assert_eq!(rate.tell(later), Some(LeftOut { lines: 25, bytes: 25 }));
        assert!(!rate.owes());
        // No more than once a second.
        rate.admit(&mut lines(100, "x"), later);
        assert_eq!(rate.tell(later + Duration::from_millis(900)), None);
        assert_eq!(rate.tell(later + Duration::from_millis(1_000)).map(|left_out| left_out.lines), Some(96));
    }

    #[test]
    fn bytes_have_a_rate_of_their_own() {
        let (mut rate, start) = rate(1_000, 100);
        let mut came = lines(10, &"x".repeat(90));
        assert_eq!(rate.admit(&mut came, start), LeftOut { lines: 5, bytes: 450 });
        let mut short = lines(1, "short");
        rate.admit(&mut short, start);
        assert_eq!(short.len(), 1, "a shorter one fits");
    }
}
