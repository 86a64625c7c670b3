//! The offsets' part in transactions: what one may hold, and what follows from how it ended.
//!
//! Must not: talk to the transaction's coordinator; `publish` does. A plain commit and a transaction are never under way
//! together, as a broker that ends a transaction goes by which of the two was written last.

use std::sync::mpsc::SyncSender;

use rdkafka::consumer::Consumer;

use super::Sink;
use super::counters::count;
use super::intake::Intake;
use super::offsets::list;
use super::rebalance::UnderWay;
use crate::kafka::{Prepared, Settled, Unprepared};
use crate::progress::{Commit, Trial};
use crate::types::{Fate, Position};

/// Somebody wants to make a transaction.
pub(super) struct Preparation {
    /// Positions, and bytes as they were received.
    pub(super) outcomes: Vec<(Position, usize)>,
    pub(super) reply: SyncSender<Result<Prepared, Unprepared>>,
}

/// The poll thread's part of them.
#[derive(Default)]
pub(super) struct Transactions {
    /// Is answered as soon as no commit is under way.
    pub(super) asked: Option<Preparation>,
    under_way: Option<Prospect>,
    /// Partitions that are to be read from their committed offsets, as what became of a transaction is not known.
    pub(super) read_anew: Vec<i32>,
}

impl Transactions {
    /// Whether one was prepared that has not ended.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}

/// What becomes true when the transaction is committed.
struct Prospect {
    taken: Vec<(Position, usize)>,
    commits: Vec<(i32, Commit)>,
}

impl<S: Sink> Intake<S> {
    /// Says what a transaction may hold, where somebody asks and no commit is under way.
    pub(super) fn prepare_where_asked(&mut self) {
        if self.commits.under_way {
            return;
        }
        let Some(Preparation { outcomes, reply }) = self.transactions.asked.take() else { return };
        let Trial { fates, commits } = self.partitions.trial(&outcomes, self.commits.with_metadata);
        let all = outcomes.into_iter().zip(&fates);
        let taken: Vec<_> = all.filter(|(_, fate)| **fate == Fate::Taken).map(|(outcome, _)| outcome).collect();
        let commits = if taken.is_empty() { Vec::new() } else { commits };
        let prepared = match (list(&self.topic, &commits, self.commits.with_metadata), self.consumer.group_metadata()) {
            (Ok(offsets), Some(group)) => Ok(Prepared { fates, offsets, group }),
            _ => Err(Unprepared::NotNow),
        };
        let is_begun = prepared.is_ok() && !taken.is_empty();
        if reply.send(prepared).is_ok() && is_begun {
            self.commits.under_way = true;
            self.commits.asked_at = std::time::Instant::now();
            self.transactions.under_way = Some(Prospect { taken, commits });
        }
    }

    /// The transaction that was prepared has ended.
    pub(super) fn settled(&mut self, settled: Settled) {
        let Some(Prospect { taken, commits }) = self.transactions.under_way.take() else { return };
        self.commits.under_way = false;
        match settled {
            Settled::Committed => {
                taken.into_iter().for_each(|(position, bytes)| self.completed(position, bytes));
                self.partitions.committed(&commits);
                self.doubt.committed(self.commits.asked_at);
                self.control.health.works();
                count(&self.control.counters.commits);
            }
            Settled::Aborted(code) => {
                count(&self.control.counters.commit_failures);
                self.commits.refused_metadata(code);
            }
            Settled::Unknown => self.read_anew(),
        }
    }

    /// What was done here is not known to be stored: it is given up, and read again from what is committed.
    fn read_anew(&mut self) {
        let ids = self.partitions.ids();
        tracing::warn!(
            partitions = ?ids,
            "whether a transaction was committed is not known: reading on from what is; calls in flight run again"
        );
        self.give_up(&ids);
        // Those that go away are looked up by whoever takes them over.
        let going = self.under_way.as_ref().map(UnderWay::giving).unwrap_or_default();
        self.transactions.read_anew.extend(ids.into_iter().filter(|id| !going.contains(id)));
    }
}
