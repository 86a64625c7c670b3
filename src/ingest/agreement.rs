//! Whether the group's coordinator and this member mean the same partitions, where the brokers assign them (KIP-848).
//!
//! librdkafka 2.12 loses an assignment whose heartbeat was answered too late: it drops the answer, and does not ask for the
//! whole assignment at its next heartbeat, as the protocol wants it. The coordinator then waits for this member to give a
//! partition up, or to take it, for `max.poll.interval.ms` or for ever, and nobody reads the partition meanwhile, while every
//! heartbeat goes well. So the coordinator is asked now and then, and where the two differ for a while, this member leaves its
//! group and joins it anew, which gives it the whole assignment.
//!
//! Must not: wait for the coordinator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::Sink;
use super::context::{Context, InvocationConsumer};
use super::counters::count;
use super::intake::Intake;
use crate::kafka::AssignedByGroup;

/// From one question to the next.
const EVERY: Duration = Duration::from_secs(2);
/// How long both must have differed without a break before the member joins anew. An assignment that is on its way is answered
/// at the next heartbeat, which comes every 5 s by default.
const FOR: Duration = Duration::from_secs(6);

/// What librdkafka may take, after the partitions were given up, to tell the coordinator that the member leaves.
const LEAVE_SENT: Duration = Duration::from_millis(200);

/// See the head of this file.
pub(super) struct Agreement {
    question: Option<AssignedByGroup<Context>>,
    ask_at: Instant,
    difference: Difference,
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
    pub(super) fn new(now: Instant) -> Self {
        Self { question: None, ask_at: now + EVERY, difference: Difference::default(), rejoin: Rejoin::No }
    }
}

/// Since when the coordinator and the member have meant the same two sets of partitions, which differ.
#[derive(Debug, Default)]
struct Difference {
    since: Option<(Instant, Vec<i32>, Vec<i32>)>,
}

impl Difference {
    /// Both are seen as they are at `now`, in order. Returns whether they have differed, unchanged, for [`FOR`] or longer.
    fn seen(&mut self, now: Instant, theirs: &[i32], ours: &[i32]) -> bool {
        if theirs == ours {
            self.since = None;
            return false;
        }
        match &self.since {
            Some((since, their_last, our_last)) if their_last == theirs && our_last == ours => {
                now.duration_since(*since) >= FOR
            }
            _ => {
                self.since = Some((now, theirs.to_vec(), ours.to_vec()));
                false
            }
        }
    }
}

impl<S: Sink> Intake<S> {
    /// Asks the coordinator where it is time, and compares its answer with the partitions that are read here.
    pub(super) fn compare_with_group(&mut self, now: Instant) {
        if !self.is_steady() {
            // A rebalance is under way, which is what the answer would be about.
            self.agreement.difference = Difference::default();
            self.agreement.question = None;
            self.agreement.ask_at = now + EVERY;
            return;
        }
        if let Some(question) = &self.agreement.question {
            let Some(answer) = question.answer() else { return };
            self.agreement.question = None;
            self.agreement.ask_at = now + EVERY;
            let Some(theirs) = answer else { return };
            let mut ours = self.partitions.ids();
            ours.sort_unstable();
            if self.agreement.difference.seen(now, &theirs, &ours) {
                self.agreement.difference = Difference::default();
                self.agreement.rejoin = Rejoin::Wanted;
                count(&self.control.counters.rejoined);
                tracing::warn!(
                    assigned = ?theirs, read = ?ours,
                    "the group's coordinator has assigned other partitions than this node reads, and does not say so again; \
                     leaving the group to join it anew"
                );
            }
        } else if now >= self.agreement.ask_at {
            self.agreement.question = self.ask_group();
            self.agreement.ask_at = now + EVERY;
        }
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

    fn ask_group(&self) -> Option<AssignedByGroup<Context>> {
        let consumer: &Arc<InvocationConsumer> = &self.consumer;
        AssignedByGroup::ask(consumer, &self.consumers.connection().group_id, self.consumers.topic())
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
    fn only_a_difference_that_stays_as_it_is_counts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut difference = Difference::default();
        assert!(!difference.seen(at(0), &[1, 3], &[1, 3, 4]));
        assert!(!difference.seen(at(5), &[1, 3], &[1, 3, 4]));
        assert!(difference.seen(at(6), &[1, 3], &[1, 3, 4]));
        // A member that does not know of a partition.
        assert!(!difference.seen(at(7), &[1, 3, 6], &[1, 3]));
        assert!(!difference.seen(at(12), &[1, 3], &[1, 3]), "it came");
        assert!(!difference.seen(at(13), &[1, 3, 6], &[1, 3]));
        assert!(!difference.seen(at(18), &[1, 3, 7], &[1, 3]), "the group went on");
        assert!(difference.seen(at(24), &[1, 3, 7], &[1, 3]));
    }
}
