//! The partitions that a node reads: one tracker each, what is in flight in all, and what a transaction may hold.
//!
//! Must not: act on its answers, or choose when to commit, pause or give up; the caller does.

use std::collections::BTreeMap;

use super::aside::Aside;
use super::shares::{Admission, Claim, Holding, ShareBounds, Shares};
use super::tracker::Mark;
use super::{Commit, Completion, MetadataFault, Receipt, Tracker};
use crate::types::{Fate, Generation, NextOffset, Offset, Position};

/// Fewer offsets than this are read once more rather than passed: what was fetched ahead is lost where the consumer is moved.
const SKIP_MIN: i64 = 1_000;

/// What to do with a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that is not new must not run"]
pub enum Verdict {
    /// It is in flight now.
    New(Position),
    /// It was done before, or is being worked on.
    Known,
    /// It comes once more, as the caller went back for messages that were put aside; this is none of them.
    Replayed,
    /// Its partition is being given up, or is not ours.
    NotOurs,
}

struct Partition {
    tracker: Tracker,
    /// Messages in flight that nobody works on, and that are to come again.
    aside: Aside,
    bytes: usize,
    /// Messages in flight that will not run here: they went back without having begun.
    given_back: usize,
    draining: bool,
    /// Whether the consumer was told to pause it.
    paused: bool,
}

/// Where a partition stands that has nothing in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// Its number.
    pub partition: i32,
    /// Its assignment.
    pub generation: Generation,
    /// Everything below is done.
    pub next: NextOffset,
}

/// What was left in flight when partitions were forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abandoned {
    /// How many.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What one transaction may hold, and the offsets that belong to it. Nothing is changed by asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What becomes of each outcome that was asked about, in the order in which they were given.
    pub fates: Vec<Fate>,
    /// Partition and what to commit along with the outcomes that are [`Fate::Taken`].
    pub commits: Vec<(i32, Commit)>,
}

impl Partition {
    /// Whether what comes next has not come before.
    fn is_at_its_end(&self) -> bool {
        let (next, high) = self.tracker.reads();
        next >= high
    }

    /// Where to read on instead of where it reads.
    fn reads_on(&self, shares: &Shares) -> Option<NextOffset> {
        let (next, high) = self.tracker.reads();
        match self.aside.lowest(|account| shares.has_room(account)) {
            Some(lowest) if lowest.0 < next => Some(NextOffset(lowest.0)),
            lowest => {
                let further = lowest.map_or(high, |lowest| lowest.0);
                (further - next >= SKIP_MIN).then_some(NextOffset(further))
            }
        }
    }
}

/// The table.
#[derive(Default)]
pub struct Partitions {
    partitions: BTreeMap<i32, Partition>,
    generation: u64,
    in_flight: usize,
    bytes: usize,
    /// Messages that were put aside: none of those in flight above.
    aside: usize,
    shares: Shares,
    /// Times that offsets went back.
    pub went_back: u64,
    /// Messages that were in flight then.
    pub went_back_abandoned: u64,
}

impl Partitions {
    /// None yet; what one function and one tenant may hold of what is in flight is bounded.
    pub fn with_bounds(bounds: ShareBounds) -> Self {
        Self { shares: Shares::new(bounds), ..Self::default() }
    }

    /// Begins to answer for a partition, under a generation of its own. What was in flight of it before is given up.
    pub fn take_over(
        &mut self,
        partition: i32,
        committed: Option<NextOffset>,
        metadata: &str,
    ) -> (Abandoned, Option<MetadataFault>) {
        let abandoned = self.forget(partition);
        let (tracker, fault) = Tracker::resume(self.next_generation(), committed, metadata);
        let aside = Aside::default();
        self.partitions
            .insert(partition, Partition { tracker, aside, bytes: 0, given_back: 0, draining: false, paused: false });
        (abandoned, fault)
    }

    fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        Generation(self.generation)
    }

    /// Takes note of a message of `bytes` bytes.
    pub fn received(&mut self, partition: i32, offset: Offset, bytes: usize) -> Verdict {
        let Some(state) = self.partitions.get_mut(&partition).filter(|state| !state.draining) else {
            return Verdict::NotOurs;
        };
        let is_replayed = offset.0 < state.tracker.reads().1;
        let receipt = match state.tracker.received(offset) {
            Receipt::WentBack { .. } => {
                self.start_over(partition);
                let Some(state) = self.partitions.get_mut(&partition) else { return Verdict::NotOurs };
                state.tracker.received(offset)
            }
            receipt => receipt,
        };
        let Some(state) = self.partitions.get_mut(&partition) else { return Verdict::NotOurs };
        let aside = state.tracker.mark(offset).filter(|mark| receipt == Receipt::InFlight && mark.aside);
        if let Some(Mark { account, .. }) = aside {
            state.tracker.set_mark(offset, None);
            state.aside.take(account, offset);
            self.shares.back(account);
            self.aside -= 1;
        } else if receipt != Receipt::New {
            return if is_replayed { Verdict::Replayed } else { Verdict::Known };
        }
        state.bytes += bytes;
        self.bytes += bytes;
        self.in_flight += 1;
        Verdict::New(Position { partition, offset, generation: state.tracker.generation() })
    }

    /// Says on whose account a message is that was received as new, and so whether it may run. One that goes aside counts no more
    /// as in flight, keeps the watermark where it is, and comes again when the caller [goes back](Self::moves) for it.
    pub fn admit(&mut self, position: Position, bytes: usize, claim: &Claim) -> Admission {
        let Position { partition, offset, generation } = position;
        let state = self.partitions.get_mut(&partition);
        let Some(state) = state.filter(|state| state.tracker.generation() == generation) else {
            return Admission::Taken;
        };
        let account = self.shares.account(claim);
        let admission = self.shares.admit(account, claim, bytes, state.aside.is_behind(account, offset));
        let aside = admission == Admission::Aside;
        if admission != Admission::Refused {
            state.tracker.set_mark(offset, Some(Mark { account, bytes, aside }));
        }
        if aside {
            state.aside.put(account, offset);
            state.bytes -= bytes.min(state.bytes);
            self.bytes -= bytes.min(self.bytes);
            self.in_flight -= 1;
            self.aside += 1;
        }
        admission
    }

    /// Whether a function or tenant has just reached its share: for a moment nothing should be taken.
    pub fn is_crowded(&self) -> bool {
        self.shares.is_full()
    }

    /// That moment is over: further calls of those who hold their share are put aside.
    pub fn spill(&mut self) {
        self.shares.spill();
    }

    /// Those who hold their share and have further calls put aside, or refused; at most `limit`.
    pub fn over(&self, limit: usize) -> Vec<Holding> {
        self.shares.over(limit)
    }

    /// Messages that were put aside.
    pub fn aside(&self) -> usize {
        self.aside
    }

    /// Where the caller should read on instead of where it reads: at the lowest message that was put aside and may run now, or
    /// past what is known. Partitions that are paused or given up stay where they are.
    pub fn moves(&self) -> Vec<(i32, NextOffset)> {
        if self.aside == 0 && self.partitions.values().all(|state| state.is_at_its_end()) {
            return Vec::new();
        }
        let here = self.partitions.iter().filter(|(_, state)| !state.draining && !state.paused);
        here.filter_map(|(&partition, state)| Some((partition, state.reads_on(&self.shares)?))).collect()
    }

    /// The consumer was moved as [`moves`](Self::moves) said. False where it was moved to this place several times in vain: the
    /// message there does not exist any more.
    #[must_use]
    pub fn moved(&mut self, partition: i32, next: NextOffset) -> bool {
        let Some(state) = self.partitions.get_mut(&partition) else { return true };
        if next.0 < state.tracker.reads().0 {
            state.tracker.replay_from(next);
            return state.aside.sought(next);
        }
        state.tracker.skip_to(next);
        true
    }

    /// The partition's offsets mean something else from now on.
    fn start_over(&mut self, partition: i32) {
        let paused = self.partitions.get(&partition).is_some_and(|state| state.paused);
        self.went_back += 1;
        let (abandoned, _) = self.take_over(partition, None, "");
        self.went_back_abandoned += abandoned.messages as u64;
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.paused = paused;
        }
    }

    /// Takes note that an outcome is stored. `bytes` as they were received.
    pub fn completed(&mut self, position: Position, bytes: usize) -> Completion {
        let Some(state) = self.partitions.get_mut(&position.partition) else { return Completion::Fenced };
        let mark = state.tracker.mark(position.offset);
        let completion = state.tracker.completed(position);
        if completion == Completion::Counted {
            match mark {
                Some(Mark { account, aside: true, .. }) => {
                    // Nobody works on it, so nobody should say so; the sums hold all the same.
                    state.aside.take(account, position.offset);
                    self.aside -= 1;
                    self.shares.back(account);
                    return completion;
                }
                Some(Mark { account, bytes, .. }) => self.shares.leave(account, bytes),
                None => {}
            }
            // Whoever acknowledges hands the bytes back; a wrong number must not make the sums wrap.
            let bytes = bytes.min(state.bytes);
            state.bytes -= bytes;
            self.bytes -= bytes;
            self.in_flight -= 1;
        }
        completion
    }

    /// Takes note that a message in flight goes back without having begun; it stays in flight, and is read by whoever comes
    /// next. False where its assignment has ended.
    pub fn given_back(&mut self, position: Position) -> bool {
        let state = self.partitions.get_mut(&position.partition);
        let Some(state) = state.filter(|state| state.tracker.generation() == position.generation) else { return false };
        state.given_back += 1;
        true
    }

    /// Messages of one partition that will not run here: they went back without having begun, or were put aside.
    pub fn given_back_of(&self, partition: i32) -> usize {
        self.partitions.get(&partition).map_or(0, |state| state.given_back + state.aside.len())
    }

    /// Messages in flight that went back without having begun, of all partitions.
    pub fn given_back_in_all(&self) -> usize {
        self.partitions.values().map(|state| state.given_back).sum()
    }

    /// Partitions with nothing in flight, whose watermark is known, and where that stands.
    pub fn quiet(&self) -> Vec<Quiet> {
        let quiet = self.partitions.iter().filter(|(_, state)| !state.draining && state.tracker.in_flight() == 0);
        let place = |(&partition, state): (&i32, &Partition)| {
            let generation = state.tracker.generation();
            Some(Quiet { partition, generation, next: state.tracker.watermark()? })
        };
        quiet.filter_map(place).collect()
    }

    /// Nothing that can be delivered lies from where `quiet` stood up to `end` (exclusive). False where the partition has moved
    /// since.
    pub fn pass(&mut self, quiet: Quiet, end: NextOffset) -> bool {
        let state = self.partitions.get_mut(&quiet.partition);
        state.is_some_and(|state| state.tracker.generation() == quiet.generation && state.tracker.pass(quiet.next, end))
    }

    /// What a transaction with these outcomes may hold. A commit says of exactly those calls that they are done which were
    /// done before or are taken, so that whatever becomes of the transaction, outcomes and offsets agree.
    ///
    /// Costs a copy of the tracker of each partition that is named.
    pub fn trial(&self, outcomes: &[(Position, usize)], with_metadata: bool) -> Trial {
        let mut fates = vec![Fate::Fenced; outcomes.len()];
        let mut order: Vec<usize> = (0..outcomes.len()).collect();
        // The lowest first: each that ends at the watermark makes room for others.
        order.sort_unstable_by_key(|&index| (outcomes[index].0.partition, outcomes[index].0.offset));
        let mut trials: BTreeMap<i32, Tracker> = BTreeMap::new();
        // What follows one that waits waits too: of calls with an order, no outcome passes an earlier one.
        let mut waits = None;
        for index in order {
            let position = outcomes[index].0;
            let Some(state) = self.partitions.get(&position.partition) else { continue };
            if state.tracker.generation() != position.generation {
                continue;
            }
            let tracker = trials.entry(position.partition).or_insert_with(|| state.tracker.clone());
            fates[index] = if waits == Some(position.partition) || !tracker.can_say(position.offset, with_metadata) {
                waits = Some(position.partition);
                Fate::Later
            } else if tracker.completed(position) == Completion::Counted {
                Fate::Taken
            } else {
                Fate::Fenced
            };
        }
        let commits =
            trials.into_iter().filter_map(|(partition, tracker)| Some((partition, tracker.commit()?))).collect();
        Trial { fates, commits }
    }

    /// Takes no more messages of these partitions.
    pub fn drain(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(state) = self.partitions.get_mut(partition) {
                state.draining = true;
            }
        }
    }

    /// Messages in flight of one partition.
    pub fn in_flight_of(&self, partition: i32) -> usize {
        self.partitions.get(&partition).map_or(0, |state| state.tracker.in_flight())
    }

    /// Stops answering for a partition. Says what was still in flight.
    pub fn forget(&mut self, partition: i32) -> Abandoned {
        let Some(state) = self.partitions.remove(&partition) else { return Abandoned::default() };
        let abandoned = Abandoned { messages: state.tracker.in_flight(), bytes: state.bytes };
        for Mark { account, bytes, aside } in state.tracker.marks() {
            if aside { self.shares.back(account) } else { self.shares.leave(account, bytes) }
        }
        self.aside -= state.aside.len();
        self.in_flight -= abandoned.messages - state.aside.len();
        self.bytes -= abandoned.bytes;
        abandoned
    }

    /// What there is to commit, for every partition or for those given.
    pub fn commits(&self, only: Option<&[i32]>) -> Vec<(i32, Commit)> {
        let wanted = |partition: &i32| only.is_none_or(|only| only.contains(partition));
        let mine = self.partitions.iter().filter(|(partition, _)| wanted(partition));
        mine.filter_map(|(&partition, state)| Some((partition, state.tracker.commit()?))).collect()
    }

    /// [`commits`](Self::commits) says all that is known once more, changed or not.
    pub fn commit_again(&mut self) {
        self.partitions.values_mut().for_each(|state| state.tracker.commit_again());
    }

    /// The broker took these.
    pub fn committed(&mut self, commits: &[(i32, Commit)]) {
        for (partition, commit) in commits {
            if let Some(state) = self.partitions.get_mut(partition) {
                state.tracker.committed(commit);
            }
        }
    }

    /// Brings what is paused in line with `wants`, which says of each partition whether it should be. One whose tracker is full
    /// is paused anyway, and so are all while as many messages are put aside as may; but not while what was put aside is read
    /// again, which is what ends both. Returns the partitions to pause and those to resume.
    pub fn regulate(&mut self, wants: impl Fn(i32) -> bool) -> (Vec<i32>, Vec<i32>) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        let no_more_aside = self.aside >= self.shares.bounds().aside_max;
        for (&partition, state) in self.partitions.iter_mut().filter(|(_, state)| !state.draining) {
            let brings_no_new = || !state.is_at_its_end() || state.reads_on(&self.shares).is_some();
            let wanted = wants(partition) || ((state.tracker.full() || no_more_aside) && !brings_no_new());
            if wanted != state.paused {
                state.paused = wanted;
                if wanted { pause.push(partition) } else { resume.push(partition) }
            }
        }
        (pause, resume)
    }

    /// The consumer did not do as told: [`regulate`](Self::regulate) will say it again.
    pub fn not_regulated(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(state) = self.partitions.get_mut(partition) {
                state.paused = !state.paused;
            }
        }
    }

    /// Messages in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many partitions there are.
    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Where a partition stands; None for one that is not here.
    pub fn tracker(&self, partition: i32) -> Option<&Tracker> {
        self.partitions.get(&partition).map(|state| &state.tracker)
    }

    /// Their numbers.
    pub fn ids(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests;
