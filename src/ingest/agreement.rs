//! Whether this member may have missed what its group assigned, where the brokers assign partitions (KIP-848).
//!
//! librdkafka 2.12 loses an assignment whose heartbeat was answered too late: it drops the answer, and does not ask for the
//! whole assignment at its next heartbeat, as the protocol wants it. The coordinator then waits for this member to give a
//! partition up, or to take it, for `max.poll.interval.ms` or for ever, and nobody reads the partition meanwhile, while every
//! heartbeat goes well. So a member whose heartbeat was late, and that heard of no rebalance since, leaves its group and joins it
//! anew, which gives it the whole assignment.
//!
//! Must not: wait for the coordinator.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::Sink;
use super::counters::count;
use super::intake::Intake;

/// How long heartbeats must have gone well since the one that was late. An assignment is whole, so that one that comes meanwhile
/// makes up for what was lost.
const SETTLED: Duration = Duration::from_secs(4);
/// From one time to the next, at least: brokers that are slow shall not see members come and go.
const EVERY: Duration = Duration::from_secs(30);
/// What librdkafka may take, after the partitions were given up, to tell the coordinator that the member leaves.
const LEAVE_SENT: Duration = Duration::from_millis(200);

/// See the head of this file.
pub(super) struct Agreement {
    /// When the last heartbeat was late that no rebalance followed.
    late_at: Option<Instant>,
    rejoined_at: Option<Instant>,
    rejoin: Rejoin,
}

/// How far the member has come that leaves and joins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejoin {
    No,
    /// It is to leave.
    Wanted,
    /// It leaves: its partitions are being given up, or were at this time.
    Leaves {
        empty_since: Option<Instant>,
    },
}

impl Agreement {
    pub(super) fn new() -> Self {
        Self { late_at: None, rejoined_at: None, rejoin: Rejoin::No }
    }

    /// Whether the member is to join anew: a heartbeat was late, all went well since, and the last time was long enough ago.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_settled = self.late_at.is_some_and(|at| now.duration_since(at) >= SETTLED);
        let is_rested = self.rejoined_at.is_none_or(|at| now.duration_since(at) >= EVERY);
        if !is_settled || !is_rested {
            return false;
        }
        (self.late_at, self.rejoined_at) = (None, Some(now));
        true
    }
}

impl<S: Sink> Intake<S> {
    /// Has the member join anew where it may have missed an assignment.
    pub(super) fn compare_with_group(&mut self, now: Instant) {
        if self.consumer.context().take_heartbeat_lost() {
            self.agreement.late_at = Some(now);
        }
        if self.under_way.is_some() || self.consumer.context().is_rebalance_noted() {
            self.agreement.late_at = None;
        }
        if !self.is_steady() || !self.agreement.is_due(now) {
            return;
        }
        self.agreement.rejoin = Rejoin::Wanted;
        count(&self.control.counters.rejoined);
        tracing::warn!(
            "a heartbeat was answered too late, and what the group assigned may be lost with its answer; leaving the group to join \
             it anew"
        );
    }

    /// Takes the next step of a member that leaves and joins anew; false where it is none. Between two rebalances, as
    /// librdkafka waits for the answer of one.
    pub(super) fn rejoins(&mut self, now: Instant) -> bool {
        match self.agreement.rejoin {
            Rejoin::No => return false,
            Rejoin::Wanted => {
                self.consumer.unsubscribe();
                self.control.joined.store(false, Ordering::Release);
                self.agreement.rejoin = Rejoin::Leaves { empty_since: None };
            }
            Rejoin::Leaves { .. } if !self.partitions.is_empty() => {}
            Rejoin::Leaves { empty_since } => {
                let since = empty_since.unwrap_or(now);
                self.agreement.rejoin = Rejoin::Leaves { empty_since: Some(since) };
                if now.duration_since(since) < LEAVE_SENT {
                    return true;
                }
                match self.consumer.subscribe(&[self.consumers.topic()]) {
                    Ok(()) => self.agreement.rejoin = Rejoin::No,
                    Err(error) => {
                        let topic = self.consumers.topic();
                        self.control.health.failed(&format_args!("topic {topic} not subscribed to: {error}"));
                    }
                }
            }
        }
        true
    }

    /// Whether this node is in its group by the newer protocol, and nothing moves.
    fn is_steady(&self) -> bool {
        self.consumers.is_newer_protocol()
            && self.control.joined.load(Ordering::Acquire)
            && !self.control.is_out.load(Ordering::Acquire)
            && self.under_way.is_none()
            && self.agreement.rejoin == Rejoin::No
            && !self.consumer.context().is_rebalance_noted()
            && !self.control.health.is_down()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_heartbeat_counts_once_all_went_well_since_and_not_too_often() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut agreement = Agreement::new();
        assert!(!agreement.is_due(at(0)));
        agreement.late_at = Some(at(0));
        assert!(!agreement.is_due(at(3)));
        assert!(agreement.is_due(at(4)));
        assert!(!agreement.is_due(at(5)), "once");
        agreement.late_at = Some(at(10));
        assert!(!agreement.is_due(at(33)));
        assert!(agreement.is_due(at(34)));
    }
}
