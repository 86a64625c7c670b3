//! The pre-triggers that one function holds: which act, which calls they announced, which are over.
//!
//! They stand in one line. Sources stand in the order of the trust that they have for this function when they announce,
//! equal ones as they came, and the notices of one source as they came. A call is taken off the first notice in line
//! that is live and has calls to come; so each call is taken off one notice at most, and a source that lies does not take
//! the calls, and with them the trust, of one that does not. Besides, for each source it is counted what would have
//! been taken off its notices had it been the only one: that is what trust is learned from.
//!
//! Must not: judge a pre-trigger's content; here it has passed. Must not hold more than [`NOTICES_MAX`], with those over
//! that may still turn out late.

mod held;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::held::{Announcement, Held};
use self::held::{Arrival, hash_of};
use super::sources::{Place, Sources};
use crate::types::{Criteria, Notice, OutcomeKind, Timestamp};

/// Notices that one function holds at most (inclusive), spent ones included.
pub(super) const NOTICES_MAX: usize = 256;

/// A notice that brings a call with at least this probability is taken to be asked for, until it is known.
const BELIEVED: f32 = 0.25;

/// A notice that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) source: Place,
    pub(super) held: Held,
    pub(super) kind: OutcomeKind,
}

/// A notice that is to be held, and what is known of who sent it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) source: Place,
    pub(super) pair: Place,
    pub(super) trust: f32,
    /// Calls of the function in flight now.
    pub(super) in_flight: u32,
    /// The function's.
    pub(super) criteria: &'a Criteria,
    pub(super) held: Held,
}

/// The notices of one source, in the order in which their ids first came.
#[derive(Debug)]
struct Lane {
    source: Place,
    pair: Place,
    /// When it announced last.
    trust: f32,
    /// All before this one are done.
    open_from: usize,
    held: Vec<Held>,
}

/// The notices of one function.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The line; none is empty.
    lanes: Vec<Lane>,
    /// Over without a call, and a call may still come late.
    overdue: Vec<(Place, Held)>,
    /// Calls that some notice announced; wraps.
    announced_calls: u32,
    /// No notice is over before this.
    ends_from: Option<Timestamp>,
}

impl Lane {
    fn open(&mut self) -> &mut [Held] {
        &mut self.held[self.open_from..]
    }

    /// Passes over those at the front that are done.
    fn advance(&mut self) {
        self.open_from += self.open().iter().take_while(|held| held.is_done()).count();
    }

    fn position(&self, id: &str) -> Option<usize> {
        let hash = hash_of(id);
        self.held.iter().position(|held| held.is(hash, id))
    }

    fn remove(&mut self, position: usize) -> Held {
        self.open_from = 0;
        self.held.remove(position)
    }
}

impl Notices {
    /// Those held, with those over that may still turn out late.
    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.held.len()).sum::<usize>() + self.overdue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.overdue.is_empty()
    }

    pub(super) fn has_any_of(&self, sources: &[Place]) -> bool {
        self.lanes.iter().any(|lane| sources.contains(&lane.source))
    }

    /// How many notices this source holds here.
    pub(super) fn len_of(&self, source: Place) -> usize {
        self.lane(source).map_or(0, |lane| self.lanes[lane].held.len())
    }

    fn lane(&self, source: Place) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.source == source)
    }

    /// The notice of this source with this id.
    pub(super) fn find(&self, source: Place, id: &str) -> Option<&Held> {
        let lane = &self.lanes[self.lane(source)?];
        lane.position(id).map(|position| &lane.held[position])
    }

    /// Changes the notice that is held with this id to what `changed` announces.
    pub(super) fn change(&mut self, changed: Held, source: Place, sources: &mut Sources) {
        let Some(lane) = self.lane(source).map(|lane| &mut self.lanes[lane]) else { return };
        let Some(position) = lane.position(&changed.id) else { return };
        lane.open_from = 0;
        let held = &mut lane.held[position];
        held.change(changed);
        held.charge(source, sources);
        let ends_at = held.expires_at;
        self.ends_by(ends_at);
    }

    /// Holds a notice that is new, at the end of its source's; `trust` is the source's now. Says whether it acts.
    pub(super) fn hold(&mut self, now: Timestamp, entry: Entry<'_>, sources: &mut Sources) -> bool {
        let Entry { source, pair, trust, in_flight, criteria, mut held } = entry;
        sources.hold(source);
        held.charge(source, sources);
        if held.is_live(now) {
            held.begin(in_flight, self.announced_calls);
        }
        if let Some(lane) = self.lane(source) {
            self.lanes[lane].trust = trust;
        } else {
            sources.keep_pair(pair);
            self.lanes.push(Lane { source, pair, trust, open_from: 0, held: Vec::new() });
        }
        // Stable, so equal ones stay as they came.
        self.lanes.sort_by(|a, b| b.trust.total_cmp(&a.trust));
        let place = self.lanes.iter().take_while(|lane| lane.source != source).count();
        let (before, after) = self.lanes.split_at_mut(place + 1);
        held.behind = before.iter().any(|lane| lane.held[lane.open_from..].iter().any(|other| other.overlaps(&held)));
        for other in after.iter_mut().flat_map(Lane::open) {
            other.behind |= held.overlaps(other);
        }
        self.ends_by(held.expires_at);
        self.lanes[place].held.push(held);
        self.let_act(now, criteria, place)
    }

    /// Lets the notice that was held last act if one is enough, or else every notice that came within the criteria's
    /// time if they are enough. Says whether the last one acts.
    ///
    /// Spent notices and those whose time is still to come count too: what is asked is how many announced.
    fn let_act(&mut self, now: Timestamp, criteria: &Criteria, place: usize) -> bool {
        let within = Duration::from_millis(criteria.within_ms);
        let counts = |held: &&mut Held| now.since(held.received_at) < within;
        if criteria.notices_min > 1 {
            let came = self.lanes.iter_mut().flat_map(|lane| &mut lane.held).filter(counts).count();
            if came < usize::try_from(criteria.notices_min).unwrap_or(usize::MAX) {
                return false;
            }
            self.lanes.iter_mut().flat_map(|lane| &mut lane.held).filter(counts).for_each(|held| held.acting = true);
        }
        if let Some(held) = self.lanes[place].held.last_mut() {
            held.acting = true;
        }
        true
    }

    /// Takes back the notice of this source with this id, and learns from the part of its life that is over.
    pub(super) fn withdraw(&mut self, now: Timestamp, source: Place, id: &str, sources: &mut Sources) -> Option<Ended> {
        let place = self.lane(source)?;
        let lane = &mut self.lanes[place];
        let position = lane.position(id)?;
        let mut held = lane.remove(position);
        held.learn_at_end(Some(now), source, lane.pair, sources);
        self.sweep(sources);
        Some(Ended { source, held, kind: OutcomeKind::Withdrawn })
    }

    /// Lets go of the oldest spent notice of this source, or of any. It is kept only to know its id again; if it is read
    /// again it counts as new.
    pub(super) fn forget_spent(&mut self, source: Option<Place>, sources: &mut Sources) -> Option<Ended> {
        let spent = |lane: &Lane| lane.held.iter().position(|held| held.left() == 0);
        let lanes = self.lanes.iter_mut().filter(|lane| source.is_none_or(|source| lane.source == source));
        let ended = lanes.into_iter().find_map(|lane| {
            let position = spent(lane)?;
            Some(Ended { source: lane.source, held: lane.remove(position), kind: OutcomeKind::Hit })
        })?;
        self.sweep(sources);
        Some(ended)
    }

    /// A call comes. It is taken off the first notice in line that is live and has calls to come; where there is none,
    /// it makes the notice late that has been over for longest. `in_flight`: with it.
    pub(super) fn count_arrival(
        &mut self,
        now: Timestamp,
        grace: Duration,
        in_flight: u32,
        sources: &mut Sources,
        ended: &mut Vec<Ended>,
    ) {
        let arrival = Arrival { now, in_flight, announced_calls: self.announced_calls.wrapping_add(1) };
        let (mut taken, mut announced) = (false, false);
        for lane in &mut self.lanes {
            let (source, pair) = (lane.source, lane.pair);
            let mut alone = false;
            for held in lane.open().iter_mut().filter(|held| held.is_live(now)) {
                if !alone && held.announces_alone() {
                    held.count_alone(&arrival, pair, sources);
                    alone = true;
                }
                if !taken && held.left() > 0 {
                    held.take(now, source, pair, sources);
                    taken = true;
                }
                if alone && taken {
                    break;
                }
            }
            announced |= alone;
            lane.advance();
        }
        if announced {
            self.announced_calls = arrival.announced_calls;
        }
        if taken {
            return;
        }
        self.end(now, grace, sources, ended);
        if !self.overdue.is_empty() {
            let (source, mut held) = self.overdue.remove(0);
            held.first_call_at = Some(now);
            ended.push(Ended { source, held, kind: OutcomeKind::Late });
        }
    }

    /// Ends the notices whose life is over: learns from them, and hands out those of which it is known how they ended.
    /// One without a call waits for `grace`, in which a call makes it late.
    pub(super) fn end(&mut self, now: Timestamp, grace: Duration, sources: &mut Sources, ended: &mut Vec<Ended>) {
        if self.ends_from.is_none_or(|from| now < from) {
            return;
        }
        for lane in &mut self.lanes {
            let (source, pair) = (lane.source, lane.pair);
            lane.open_from = 0;
            for mut held in lane.held.extract_if(.., |held| held.expires_at <= now) {
                held.learn_at_end(None, source, pair, sources);
                match held.ends_as(now < held.expires_at + grace) {
                    Some(kind) => ended.push(Ended { source, held, kind }),
                    None => self.overdue.push((source, held)),
                }
            }
        }
        for (source, held) in self.overdue.extract_if(.., |(_, held)| held.expires_at + grace <= now) {
            if let Some(kind) = held.ends_as(false) {
                ended.push(Ended { source, held, kind });
            }
        }
        self.sweep(sources);
        let over = self.overdue.iter().map(|(_, held)| held.expires_at + grace);
        self.ends_from = self.all().map(|(_, held)| held.expires_at).chain(over).min();
    }

    /// Ends all, and learns nothing: the function is gone, which says nothing of those who announced its calls.
    pub(super) fn end_all(&mut self, sources: &mut Sources, ended: &mut Vec<Ended>) {
        let live = self.lanes.iter_mut().flat_map(|lane| lane.held.drain(..).map(|held| (lane.source, held)));
        for (source, held) in live.chain(self.overdue.drain(..)) {
            if let Some(kind) = held.ends_as(false) {
                ended.push(Ended { source, held, kind });
            }
        }
        self.sweep(sources);
    }

    /// Takes empty lanes out of the line.
    fn sweep(&mut self, sources: &mut Sources) {
        for lane in self.lanes.extract_if(.., |lane| lane.held.is_empty()) {
            sources.drop_pair(lane.pair);
        }
    }

    /// This node's part of what is announced is another one from now on.
    pub(super) fn share(&mut self, part: impl Fn(u32) -> u32, sources: &mut Sources) {
        for lane in &mut self.lanes {
            lane.open_from = 0;
            for held in &mut lane.held {
                held.share(&part);
                held.charge(lane.source, sources);
            }
        }
    }

    fn ends_by(&mut self, at: Timestamp) {
        self.ends_from = Some(self.ends_from.map_or(at, |from| from.min(at)));
    }

    /// Notes what is in flight for those whose time has come.
    pub(super) fn begin(&mut self, now: Timestamp, in_flight: u32) {
        let calls = self.announced_calls;
        let live = self.lanes.iter_mut().flat_map(Lane::open).filter(|held| held.is_live(now));
        live.for_each(|held| held.begin(in_flight, calls));
    }

    fn all(&self) -> impl Iterator<Item = (&Lane, &Held)> {
        self.lanes.iter().flat_map(|lane| lane.held.iter().map(move |held| (lane, held)))
    }

    /// When the forecast changes next by time alone, or a notice ends, seen from `now` (exclusive).
    pub(super) fn next_change(&self, now: Timestamp, grace: Duration) -> Option<Timestamp> {
        let over = self.overdue.iter().map(|(_, held)| held.expires_at + grace);
        self.all().filter_map(|(_, held)| held.next_change(now)).chain(over).filter(|&at| at > now).min()
    }

    /// The notices that act now and still announce something, in the order of the line.
    pub(super) fn acting(&self, now: Timestamp, sources: &Sources) -> impl Iterator<Item = Notice> {
        // Of two that announce the same calls the one in front is prepared for, and the one behind adds what it has learned
        // to add. Where nothing is asked for on account of the one in front, the one behind must not go without.
        let mut hidden = false;
        self.all().filter_map(move |(lane, held)| {
            let notice = held.notice(now, lane.source, lane.pair, hidden, sources)?;
            hidden |= held.asks.unwrap_or(notice.yields[0] >= BELIEVED);
            Some(notice)
        })
    }

    /// Notes for which notices instances are asked; `asking` has their places, rising, in what [`acting`](Self::acting) says. Answers
    /// whether that is other than before, so that those behind them may look otherwise.
    pub(super) fn ask(&mut self, now: Timestamp, asking: impl Iterator<Item = usize>) -> bool {
        let (mut asking, mut place, mut changed) = (asking.peekable(), 0, false);
        for held in self.lanes.iter_mut().flat_map(Lane::open).filter(|held| held.is_live(now)) {
            let acts = held.acts(now);
            let asks = acts && asking.next_if_eq(&place).is_some();
            place += usize::from(acts);
            held.asked |= asks;
            changed |= held.asks.replace(asks) != Some(asks);
        }
        changed
    }
}
