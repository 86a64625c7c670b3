//! `[function-logs]`: how much of what functions write is kept, and for how long.
//!
//! Must not: say where it goes; `topics.function-logs` does.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[function-logs]`. Every bound is inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct FunctionLogs {
    /// Lines of one call, or of one `init`.
    pub call_lines_max: NonZeroU32,
    /// Bytes of these lines.
    pub call_bytes_max: NonZeroU32,
    /// Bytes of one line.
    pub line_bytes_max: NonZeroU32,
    /// Lines of one function on one node in each second; five times as many after a quiet time.
    pub lines_per_second: NonZeroU32,
    /// Bytes of one function on one node in each second; five times as many after a quiet time.
    pub bytes_per_second: NonZeroU32,
    /// Bytes of lines that wait for the brokers, of all functions.
    pub queue_bytes_max: NonZeroU32,
    /// How long brokers keep lines, where this node makes the topic.
    #[serde(with = "super::humantime_text")]
    pub retention: Duration,
}

impl Default for FunctionLogs {
    #[expect(clippy::expect_used, reason = "none of them is zero")]
    fn default() -> Self {
        let number = |number: u32| NonZeroU32::new(number).expect("above zero");
        Self {
            call_lines_max: number(256),
            call_bytes_max: number(64 << 10),
            line_bytes_max: number(4 << 10),
            lines_per_second: number(200),
            bytes_per_second: number(128 << 10),
            queue_bytes_max: number(8 << 20),
            retention: Duration::from_hours(3 * 24),
        }
    }
}

impl FunctionLogs {
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        // Below it, records would be larger than topics take.
        let line_bytes = self.line_bytes_max.get();
        if line_bytes > 256 << 10 {
            faults.push(format!("function-logs.line-bytes-max: {line_bytes} is too many: use at most 262144"));
        }
        if self.retention < Duration::from_secs(1) {
            faults.push("function-logs.retention must be at least 1s".to_owned());
        }
        faults
    }
}
