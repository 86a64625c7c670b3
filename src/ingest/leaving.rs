//! The way down of the poll thread: calls that have not begun go back, calls that run end, their offsets are committed, and
//! the group hears of it.
//!
//! Must not: wait; each round does what its time has come for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::Sink;
use super::counters::add;
use super::intake::{Intake, POLL};
use crate::types::Position;

/// How long the last commit may take once the time for a shutdown is over.
const LAST_COMMIT: Duration = Duration::from_secs(2);
/// How long the group may take to hear that a member with a name of its own goes.
const UNSUBSCRIBE: Duration = Duration::from_secs(2);
/// What librdkafka may take, after it was told to give partitions up, to say so to the coordinator.
const LEAVE_SENT: Duration = Duration::from_millis(200);

/// What the way down has come to.
#[derive(Default)]
pub(super) struct Leaving {
    /// Whether calls that have not begun were asked for.
    handing_back: bool,
    /// Calls that waited here, for those before them or for another attempt, and were given up.
    dropped: usize,
    /// When the last commit was asked for, at the end.
    last_commit_by: Option<Instant>,
    /// Another consumer takes the place of this one, because the brokers do not know its protocol.
    pub(super) renew_now: bool,
    /// Since when the group has not let this member in; None where it has, or never had.
    outside_since: Option<Instant>,
    /// Whether it ever had.
    was_inside: bool,
    /// When this member was last outside a group that it had been in.
    outside_at: Option<Instant>,
    /// When a refusal of this member's name was last taken for an echo.
    excused_at: Option<Instant>,
}

/// How long after a member was outside its group a refusal of its name may be an echo of its own requests: longer than any
/// request of librdkafka's waits for its answer.
const ECHO: Duration = Duration::from_secs(60);

impl Leaving {
    /// Whether a member that was in its group has been outside for `at_least`.
    pub(super) fn is_outside(&mut self, now: Instant, joined: bool, at_least: Duration) -> bool {
        self.was_inside |= joined;
        if joined || !self.was_inside {
            self.outside_since = None;
            return false;
        }
        self.outside_at = Some(now);
        now.duration_since(*self.outside_since.get_or_insert(now)) >= at_least
    }

    /// Whether the brokers' word that another member has this one's name may be an echo: this member joined lately, and
    /// a request to join whose answer was lost makes the brokers take the next one for another member's. True at most once
    /// a minute, so that two processes with one name do not throw each other out for ever.
    pub(super) fn excuses(&mut self, now: Instant) -> bool {
        let is_recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < ECHO);
        let excuses = is_recent(self.outside_at) && !is_recent(self.excused_at);
        if excuses {
            self.excused_at = Some(now);
        }
        excuses
    }
}

impl<S: Sink> Intake<S> {
    fn end_by(&self) -> Option<Instant> {
        *self.control.end_by.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From the moment on in which the end was asked for, no call begins: what waits goes back to the group.
    pub(super) fn hand_back_where_leaving(&mut self) {
        if self.end_by().is_none() {
            return;
        }
        let ids = self.partitions.ids();
        if !std::mem::replace(&mut self.leaving.handing_back, true) {
            self.sink.hands_back(&ids);
        }
        self.leaving.dropped += self.sink.gives_up_waiting(&ids);
    }

    /// A call went back without having begun.
    pub(super) fn given_back(&mut self, position: Position) {
        if self.partitions.given_back(position) {
            add(&self.control.counters.handed_back, 1);
        }
    }

    /// Calls that began and have not ended, as far as is known: those in flight, without those that wait for a schema, were
    /// given up while they waited, or went back.
    pub(super) fn unfinished(&self) -> usize {
        let put_aside: usize = self.partitions.ids().into_iter().map(|id| self.held.count(id)).sum();
        let not_begun = put_aside + self.leaving.dropped + self.partitions.given_back_in_all();
        self.partitions.in_flight().saturating_sub(not_begun)
    }

    /// Whether everything is done that a shutdown waits for, or its time is over.
    pub(super) fn has_ended(&mut self, now: Instant) -> bool {
        let Some(end_by) = self.end_by() else { return false };
        if self.unfinished() > 0 && now < end_by {
            return false;
        }
        let by = *self.leaving.last_commit_by.get_or_insert(end_by.max(now) + LAST_COMMIT);
        if now >= by {
            return true;
        }
        if self.commits.under_way {
            return false;
        }
        let commits = self.partitions.commits(None);
        if commits.is_empty() {
            return true;
        }
        if now >= self.commits.retry_at {
            self.ask_commit(commits);
        }
        false
    }

    /// Leaves the group, which polls until the coordinator knows.
    pub(super) fn close(mut self) {
        self.consumer.context().close();
        self.answer_all();
        let Self { consumer, queue, offsets, commits, consumers, .. } = self;
        // Before its consumer, whose queue it is.
        drop(queue);
        if consumers.has_a_name_of_its_own() {
            leave(&consumer);
        }
        offsets.stop(!commits.under_way);
        drop(consumer);
    }
}

/// Says to the group that a member with a name of its own (`group.instance.id`) goes, so that its partitions do not wait for
/// it. librdkafka says so where a subscription ends, and not where a consumer is closed (KIP-345).
fn leave(consumer: &Arc<super::context::InvocationConsumer>) {
    consumer.unsubscribe();
    let by = Instant::now() + UNSUBSCRIBE;
    let mut gave_up_at = None;
    while Instant::now() < by {
        // Rebalances are answered inside.
        while consumer.poll(Duration::ZERO).is_some() {}
        let is_empty = consumer.assignment().is_ok_and(|assignment| assignment.count() == 0);
        if is_empty && gave_up_at.get_or_insert_with(Instant::now).elapsed() >= LEAVE_SENT {
            return;
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_refused_name_is_excused_once_where_the_member_was_outside_lately() {
        let start = Instant::now();
        let mut leaving = Leaving::default();
        leaving.is_outside(start, false, S);
        assert!(!leaving.excuses(start), "it has not been inside");
        leaving.is_outside(start, true, S);
        assert!(!leaving.excuses(start), "it is inside: another process has its name");
        leaving.is_outside(start + S, false, S);
        leaving.is_outside(start + S * 2, true, S);
        assert!(leaving.excuses(start + S * 30));
        assert!(!leaving.excuses(start + S * 31), "once");
        leaving.is_outside(start + S * 80, false, S);
        assert!(!leaving.excuses(start + S * 89));
        assert!(leaving.excuses(start + S * 90), "a minute after the last one");
    }
}
