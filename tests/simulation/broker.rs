//! Made-up brokers: logs, a group with generations, committed offsets, results, and transactions with pending offsets.
//!
//! Must not: be kinder than the real ones. Requests of an old generation, or of a producer that was fenced, are refused; a
//! partition with offsets pending in an open transaction says nothing of where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forewarm::progress::{Receipt, Tracker};
use forewarm::types::{Generation, NextOffset, Offset, Timestamp};

/// A member of the group: one life of one node.
pub type Member = u64;
/// A call, by its place in [`Broker::calls`].
pub type CallId = usize;
/// Partition, next offset and metadata.
pub type Offsets = Vec<(i32, NextOffset, String)>;

const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(2);

pub struct CallInfo {
    pub partition: i32,
    pub offset: i64,
    pub function: usize,
    pub key: u8,
    /// Results that readers of committed messages see.
    pub results: u32,
    pub dead_letters: u32,
    /// Whether its last attempt ended on some node, ever.
    pub over: bool,
}

#[derive(Default)]
struct Log {
    entries: Vec<(i64, CallId)>,
    next: i64,
}

struct Open {
    since: Timestamp,
    written: u64,
    outcomes: Vec<(CallId, bool)>,
    offsets: Offsets,
}

#[derive(Default)]
struct Producer {
    epoch: u64,
    open: Option<Open>,
}

/// A request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The sender is not a member of this generation.
    Generation,
    /// Another producer has the transactional id, or the transaction was too old.
    Producer,
}

#[derive(Default)]
pub struct Broker {
    logs: Vec<Log>,
    pub calls: Vec<CallInfo>,
    committed: Vec<Option<(NextOffset, String)>>,
    /// When each was written, and how many commits were written in all: a transaction that ends does not take the place of
    /// what was written after its own offsets.
    written: Vec<u64>,
    commits: u64,
    pub generation: u64,
    pub members: BTreeSet<Member>,
    owners: Vec<Option<Member>>,
    wanted: Vec<Option<Member>>,
    producers: BTreeMap<usize, Producer>,
    pub exactly_once: bool,
    /// The first invariant that was broken.
    pub violation: Option<String>,
}

impl Broker {
    pub fn new(partitions: usize, exactly_once: bool) -> Self {
        let mut broker = Self { exactly_once, ..Self::default() };
        broker.add_partitions(partitions);
        broker
    }

    pub fn add_partitions(&mut self, count: usize) {
        for _ in 0..count {
            self.logs.push(Log::default());
            self.committed.push(None);
            self.written.push(0);
            self.owners.push(None);
            self.wanted.push(None);
        }
        self.rebalance();
    }

    pub fn partitions(&self) -> usize {
        self.logs.len()
    }

    pub fn violated(&mut self, name: &str, what: String) {
        self.violation.get_or_insert_with(|| format!("{name}: {what}"));
    }

    /// A call is published; `hole` offsets before it hold no message, as behind a transaction marker.
    pub fn publish(&mut self, partition: i32, function: usize, key: u8, hole: i64) {
        let log = &mut self.logs[partition as usize];
        log.next += hole;
        log.entries.push((log.next, self.calls.len()));
        self.calls.push(CallInfo {
            partition,
            offset: log.next,
            function,
            key,
            results: 0,
            dead_letters: 0,
            over: false,
        });
        log.next += 1;
    }

    /// The next call at or above an offset.
    pub fn fetch(&self, partition: i32, from: i64) -> Option<(i64, CallId)> {
        let entries = &self.logs[partition as usize].entries;
        entries.get(entries.partition_point(|(offset, _)| *offset < from)).copied()
    }

    // --- the group

    pub fn join(&mut self, member: Member) {
        self.members.insert(member);
        self.rebalance();
    }

    /// A member left, or was thrown out; what it had is free at once.
    pub fn remove(&mut self, member: Member) {
        if self.members.remove(&member) {
            for owner in &mut self.owners {
                if *owner == Some(member) {
                    *owner = None;
                }
            }
            self.rebalance();
        }
    }

    fn rebalance(&mut self) {
        self.generation += 1;
        let members: Vec<_> = self.members.iter().copied().collect();
        for (index, wanted) in self.wanted.iter_mut().enumerate() {
            // By the generation too, so that partitions move although the number of members stays.
            let turn = index + self.generation as usize;
            *wanted = (!members.is_empty()).then(|| members[turn % members.len()]);
        }
        self.hand_out();
    }

    fn hand_out(&mut self) {
        for (owner, wanted) in self.owners.iter_mut().zip(&self.wanted) {
            if owner.is_none() {
                *owner = *wanted;
            }
        }
    }

    /// Partitions that a member has, and whether it is to give each up.
    pub fn assignment(&self, member: Member) -> Vec<(i32, bool)> {
        let all = self.owners.iter().zip(&self.wanted).enumerate();
        let mine = all.filter(|(_, (owner, _))| **owner == Some(member));
        mine.map(|(partition, (owner, wanted))| (partition as i32, owner != wanted)).collect()
    }

    /// A member has given a partition up.
    pub fn released(&mut self, member: Member, partition: i32) {
        let owner = &mut self.owners[partition as usize];
        if *owner == Some(member) {
            *owner = None;
            self.generation += 1;
            self.hand_out();
        }
    }

    fn is_current(&self, member: Member, generation: u64) -> bool {
        self.members.contains(&member) && generation == self.generation
    }

    // --- offsets

    /// Where the group stands in a partition; None while a transaction has offsets of it pending.
    pub fn committed(&self, partition: i32) -> Option<Option<(NextOffset, String)>> {
        let open = self.producers.values().filter_map(|producer| producer.open.as_ref());
        let mut pending = open.flat_map(|open| &open.offsets);
        if pending.any(|(pending, ..)| *pending == partition) {
            return None;
        }
        Some(self.committed[partition as usize].clone())
    }

    pub fn commit(&mut self, member: Member, generation: u64, offsets: &Offsets) -> Result<(), Refused> {
        if !self.is_current(member, generation) {
            return Err(Refused::Generation);
        }
        self.commits += 1;
        self.apply(offsets, self.commits);
        Ok(())
    }

    fn apply(&mut self, offsets: &Offsets, written: u64) {
        for (partition, next, metadata) in offsets {
            if self.written[*partition as usize] > written {
                continue;
            }
            self.written[*partition as usize] = written;
            self.committed[*partition as usize] = Some((*next, metadata.clone()));
            self.check_commit(*partition, *next, metadata);
        }
    }

    /// Every call that a commit calls done has its outcome stored; so the watermark passes no gap.
    fn check_commit(&mut self, partition: i32, next: NextOffset, metadata: &str) {
        let (mut tracker, fault) = Tracker::resume(Generation(0), Some(next), metadata);
        if let Some(fault) = fault {
            return self.violated("metadata-is-sound", format!("partition {partition}: {fault}"));
        }
        let done = |&(offset, call): &(i64, CallId)| {
            let is_done = offset < next.0 || tracker.received(Offset(offset)) == Receipt::AlreadyDone;
            is_done.then_some(call)
        };
        let done: Vec<CallId> = self.logs[partition as usize].entries.iter().filter_map(done).collect();
        let bare = done.into_iter().find(|&call| self.calls[call].results == 0);
        if let Some(call) = bare {
            let offset = self.calls[call].offset;
            self.violated("outcome-before-commit", format!("partition {partition} offset {offset} has no outcome"));
        }
    }

    /// Whether all of a partition is committed.
    pub fn is_done(&self, partition: i32) -> bool {
        let Some((last, _)) = self.logs[partition as usize].entries.last() else { return true };
        self.committed[partition as usize].as_ref().is_some_and(|(next, _)| next.0 > *last)
    }

    // --- what is published

    /// An outcome becomes visible: a result, or the dead letter beside it.
    pub fn store(&mut self, call: CallId, dead_letter: bool) {
        let info = &mut self.calls[call];
        let count = if dead_letter { &mut info.dead_letters } else { &mut info.results };
        *count += 1;
        if *count > 1 && self.exactly_once {
            let (partition, offset) = (info.partition, info.offset);
            self.violated("one-outcome", format!("partition {partition} offset {offset} has more than one"));
        }
    }

    // --- transactions

    /// A producer begins: what its predecessor left open is aborted, and that one is fenced.
    pub fn init_transactions(&mut self, id: usize) -> u64 {
        let producer = self.producers.entry(id).or_default();
        producer.open = None;
        producer.epoch += 1;
        producer.epoch
    }

    /// Outcomes and offsets come into a transaction.
    #[expect(clippy::too_many_arguments, reason = "as many as the real request has parts")]
    pub fn add_to_transaction(
        &mut self,
        now: Timestamp,
        id: usize,
        epoch: u64,
        member: Member,
        generation: u64,
        outcomes: Vec<(CallId, bool)>,
        offsets: Offsets,
    ) -> Result<(), Refused> {
        let current = self.is_current(member, generation);
        let producer = self.producers.entry(id).or_default();
        if producer.epoch != epoch {
            return Err(Refused::Producer);
        }
        if !current {
            producer.open = None;
            return Err(Refused::Generation);
        }
        self.commits += 1;
        producer.open = Some(Open { since: now, written: self.commits, outcomes, offsets });
        Ok(())
    }

    pub fn abort(&mut self, id: usize, epoch: u64) {
        let producer = self.producers.entry(id).or_default();
        if producer.epoch == epoch {
            producer.open = None;
        }
    }

    pub fn commit_transaction(&mut self, id: usize, epoch: u64) -> Result<(), Refused> {
        let producer = self.producers.entry(id).or_default();
        if producer.epoch != epoch {
            return Err(Refused::Producer);
        }
        let Some(open) = producer.open.take() else { return Err(Refused::Producer) };
        for (call, dead_letter) in open.outcomes {
            self.store(call, dead_letter);
        }
        self.apply(&open.offsets, open.written);
        Ok(())
    }

    /// Ends transactions that are too old, and fences their producers.
    pub fn expire(&mut self, now: Timestamp) {
        for producer in self.producers.values_mut() {
            if producer.open.as_ref().is_some_and(|open| now.since(open.since) > TRANSACTION_TIMEOUT) {
                producer.open = None;
                producer.epoch += 1;
            }
        }
    }
}
