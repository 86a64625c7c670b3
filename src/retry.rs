//! Whether a call that failed is tried again, and when.
//!
//! Must not: read a clock, or draw a number; both come in.

use std::time::Duration;

use crate::types::{Retry, RetryStatus, Status};

/// The part of a wait that is taken off by chance, at most.
const JITTER: f64 = 0.2;

/// How an attempt ended, as far as trying again goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// Its status.
    pub status: Status,
    /// Whether it was rejected because its function could not run for a while.
    pub is_unavailable: bool,
}

impl From<Status> for Attempted {
    fn from(status: Status) -> Self {
        Self { status, is_unavailable: false }
    }
}

/// How long to wait before the next attempt; `None` where there is none.
///
/// `attempt` is the one that ended, from 1; `age` is the time since the call was received; `chance`, 0.0 (inclusive) to 1.0
/// (exclusive), is drawn anew for each wait, so that calls that failed together do not come back together. The wait is
/// `backoff_ms` × 2^(attempt − 1), at most `backoff_max_ms`, less up to a fifth. No attempt begins later than `age_max_ms`
/// after the call was received.
pub fn next(policy: &Retry, ended: impl Into<Attempted>, attempt: u32, age: Duration, chance: f64) -> Option<Duration> {
    if attempt >= policy.attempts_max || !is_tried_again(policy, ended) {
        return None;
    }
    let doublings = attempt.saturating_sub(1).min(63);
    let whole = policy.backoff_ms.saturating_mul(1 << doublings).min(policy.backoff_max_ms);
    let wait = Duration::from_millis(whole).mul_f64(1.0 - JITTER * chance);
    (age.saturating_add(wait) <= Duration::from_millis(policy.age_max_ms)).then_some(wait)
}

/// Whether calls that end so are tried again at all.
pub fn is_tried_again(policy: &Retry, ended: impl Into<Attempted>) -> bool {
    let Attempted { status, is_unavailable } = ended.into();
    let status = match status {
        Status::FunctionError => RetryStatus::FunctionError,
        Status::Trap => RetryStatus::Trap,
        Status::Timeout => RetryStatus::Timeout,
        Status::Limit => RetryStatus::Limit,
        Status::Rejected if is_unavailable => RetryStatus::Unavailable,
        Status::Ok | Status::Rejected => return false,
    };
    policy.statuses.contains(&status)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(attempts_max: u32) -> Retry {
        Retry { attempts_max, backoff_ms: 100, backoff_max_ms: 1_000, age_max_ms: 3_000, ..Retry::default() }
    }

    fn waits(policy: &Retry, chance: f64) -> Vec<u64> {
        let mut age = Duration::ZERO;
        let mut waits = Vec::new();
        for attempt in 1.. {
            let Some(wait) = next(policy, Status::Trap, attempt, age, chance) else { break };
            age += wait;
            waits.push(wait.as_millis() as u64);
        }
        waits
    }

    #[test]
    fn waits_double_to_their_maximum_until_attempts_or_age_end() {
        assert_eq!(waits(&policy(4), 0.0), [100, 200, 400]);
        assert_eq!(waits(&policy(100), 0.0), [100, 200, 400, 800, 1_000]);
        assert_eq!(waits(&policy(4), 0.5), [90, 180, 360]);
        assert!(waits(&policy(1), 0.0).is_empty());
    }

    #[test]
    fn only_the_named_outcomes_are_tried_again_and_of_rejected_calls_only_those_of_functions_that_could_not_run() {
        let tried = |statuses: &[RetryStatus]| {
            let policy = Retry { statuses: statuses.to_vec(), ..policy(2) };
            let is_tried = |status: &Status| next(&policy, *status, 1, Duration::ZERO, 0.0).is_some();
            Status::ALL.into_iter().filter(is_tried).collect::<Vec<_>>()
        };
        assert_eq!(tried(&Retry::default().statuses), [Status::FunctionError, Status::Trap, Status::Timeout]);
        assert_eq!(tried(&[RetryStatus::Limit]), [Status::Limit]);
        assert_eq!(tried(&[]), []);
        assert_eq!(tried(&[RetryStatus::Unavailable]), []);
        let unavailable = Attempted { status: Status::Rejected, is_unavailable: true };
        let policy = |statuses: &[RetryStatus]| Retry { statuses: statuses.to_vec(), ..policy(2) };
        assert!(is_tried_again(&policy(&[RetryStatus::Unavailable]), unavailable));
        assert!(!is_tried_again(&policy(&Retry::default().statuses), unavailable));
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds_whatever_the_numbers(
            attempts_max in any::<u32>(), backoff_ms in any::<u64>(), backoff_max_ms in any::<u64>(), age_max_ms in any::<u64>(),
            attempt in 1_u32.., age_ms in any::<u64>(), chance in 0.0..1.0_f64,
        ) {
            let policy = Retry { attempts_max, backoff_ms, backoff_max_ms, age_max_ms, ..Retry::default() };
            let age = Duration::from_millis(age_ms);
            if let Some(wait) = next(&policy, Status::Timeout, attempt, age, chance) {
                prop_assert!(attempt < attempts_max);
                prop_assert!(wait <= Duration::from_millis(backoff_max_ms));
                prop_assert!(age + wait <= Duration::from_millis(age_max_ms));
            }
        }
    }
}
