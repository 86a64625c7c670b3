//! When offsets are committed, and what follows from the coordinator's answer, or from its silence.
//!
//! Must not: wait for the coordinator; `offsets` does.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};

use super::Sink;
use super::counters::{add, count};
use super::intake::{Intake, POLL};
use super::offsets::{Request, is_moving, is_rebalancing};
use crate::progress::Commit;

/// Where the commits stand.
pub(super) struct Commits {
    /// Whether one is with the coordinator, or in a transaction that has not ended.
    pub(super) under_way: bool,
    /// Not before: after one that failed.
    pub(super) retry_at: Instant,
    /// When the last was asked for.
    pub(super) asked_at: Instant,
    /// When the next is due, where there is anything to commit.
    pub(super) due_at: Instant,
    /// Changes since the last that was asked for.
    pub(super) changes: u64,
    /// False where the brokers refused metadata of the size that it may have.
    pub(super) with_metadata: bool,
}

impl Commits {
    pub(super) fn new(now: Instant) -> Self {
        Self { under_way: false, retry_at: now, asked_at: now, due_at: now, changes: 0, with_metadata: true }
    }

    /// How long the commit that is with the coordinator has not been answered; zero where none is.
    pub(super) fn unanswered(&self, now: Instant) -> Duration {
        if self.under_way { now.duration_since(self.asked_at) } else { Duration::ZERO }
    }

    /// Goes on without metadata where that is what the brokers refused. False where it is not.
    pub(super) fn refused_metadata(&mut self, code: Option<Code>) -> bool {
        if code != Some(Code::OffsetMetadataTooLarge) || !self.with_metadata {
            return false;
        }
        self.with_metadata = false;
        tracing::warn!(
            "the brokers' offset.metadata.max.bytes is below its default: commits go without the set of calls done out of \
             order; those repeat after a crash, or wait for the calls before them where delivery is exactly-once"
        );
        true
    }
}

impl<S: Sink> Intake<S> {
    /// Whether the coordinator has not answered a commit for so long that this node may be out of its group without knowing.
    pub(super) fn commit_is_late(&self, now: Instant) -> bool {
        // A transaction waits for its records as well, and what it commits is fenced by the brokers.
        !self.transactions.is_under_way() && self.commits.unanswered(now) >= self.settings.doubt_after
    }

    pub(super) fn take_commit(&mut self, commits: &[(i32, Commit)], result: KafkaResult<()>) {
        self.commits.under_way = false;
        let counters = &self.control.counters;
        let error = match result {
            Ok(()) => {
                self.partitions.committed(commits);
                self.doubt.committed(self.commits.asked_at);
                self.control.health.works();
                count(&counters.commits);
                return add(&counters.runs_left_out, commits.iter().map(|(_, commit)| commit.runs_left_out).sum());
            }
            Err(error) => error,
        };
        count(&counters.commit_failures);
        self.commits.changes += 1;
        if self.commits.refused_metadata(error.rdkafka_error_code()) {
            return;
        }
        let now = Instant::now();
        self.commits.retry_at = now + self.settings.commit_interval.max(POLL);
        self.doubt.refused(now);
        if is_rebalancing(&error) || is_moving(&error) {
            // Doubt keeps calls from being taken, and readiness knows of it where it lasts.
            tracing::debug!(%error, "commit not taken while the group changes, or its coordinator moves");
        } else {
            self.control.health.failed(&format_args!("commit of topic {}: {error}", self.topic));
        }
    }

    pub(super) fn commit_where_due(&mut self, now: Instant) {
        let commits = &self.commits;
        if self.doubt.is_in() && !commits.under_way && now >= commits.retry_at && !self.control.health.is_down() {
            // Whether anything has changed or not: whether it is taken is what matters.
            self.partitions.commit_again();
            let commits = self.partitions.commits(None);
            if commits.is_empty() {
                return self.doubt.nothing_to_commit(now);
            }
            return self.ask_commit(commits);
        }
        let due = now >= commits.due_at || commits.changes >= self.settings.commit_completions;
        if commits.under_way || commits.changes == 0 || !due || now < commits.retry_at {
            return;
        }
        self.commits.due_at = now + self.settings.commit_interval;
        self.commits.changes = 0;
        let commits = self.partitions.commits(None);
        if !commits.is_empty() {
            self.ask_commit(commits);
        }
    }

    pub(super) fn ask_commit(&mut self, commits: Vec<(i32, Commit)>) {
        let with_metadata = self.commits.with_metadata;
        self.commits.asked_at = Instant::now();
        self.commits.under_way = self.offsets.ask(Request::Commit { commits, with_metadata });
    }
}
