//! One pre-trigger that is held: what it announced, what came of it, and what is learned from that.
//!
//! Must not: know the other notices of its function.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use super::super::sources::{Evidence, Place, Sources, Standing, next_edge};
use crate::types::{Notice, OutcomeKind, Timestamp, WarmKind};

/// A call that comes, as the notices of its function see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) now: Timestamp,
    /// With this one.
    pub(super) in_flight: u32,
    /// Calls of the function that were announced, with this one; the count wraps.
    pub(super) announced_calls: u32,
}

/// How crowded its calls were: the peak of calls in flight against the announced calls of the function that came, both
/// from its start to the last call of its own.
///
/// All of the function's announced calls count, and not its own alone, because a source may send one notice a call: a
/// stream of those is as little crowded as one notice for them all.
#[derive(Clone, Copy, Debug, Default)]
struct Crowd {
    /// Calls in flight, and calls of the function that were announced, when it began; `None` before.
    begin: Option<(u32, u32)>,
    peak: u32,
    calls: u32,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Held {
    /// Of the id, so that most comparisons need not look at it.
    hash: u64,
    pub(in super::super) id: Box<str>,
    pub(in super::super) announced: u32,
    /// The same for all nodes together.
    whole: u32,
    confidence: f32,
    /// Calls that were taken off it.
    pub(in super::super) came: u32,
    /// Calls that would have been, had its source been the only one.
    came_alone: u32,
    starts_at: Timestamp,
    /// From when on calls count as the ones that it announced (inclusive).
    pub(super) live_from: Timestamp,
    /// From when on it acts (inclusive), unless a call came before.
    acts_from: Timestamp,
    /// The end of its life (exclusive).
    pub(in super::super) expires_at: Timestamp,
    /// When its id first came.
    pub(super) received_at: Timestamp,
    pub(super) first_call_at: Option<Timestamp>,
    /// What part of its calls was still to come when it was received, as far as that was known.
    seen: f32,
    crowd: Crowd,
    /// The most instances that its source can afford for it.
    instances_max: f64,
    /// Instance time that it asks for, in µs.
    cost: u64,
    /// What of that its source's account is charged with.
    committed: u64,
    /// Whether the function's `notices_min` was reached while it counted. Once reached, it stays reached.
    pub(super) acting: bool,
    /// Whether another notice with calls to come ever stood before it. What came once it has is no sign that as much
    /// comes again.
    pub(super) behind: bool,
    /// Whether the function's target ever had a part of its own for it.
    pub(super) asked: bool,
    /// Whether it had one the last time that the target was made; `None` before the first.
    pub(super) asks: Option<bool>,
    /// Whether the function was called between its start and its receipt.
    called_before: bool,
    learned: bool,
}

/// Instances, and how long each is held, in µs.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Wanted {
    instances: u64,
    pub(in super::super) each_micros: u64,
}

/// What a pre-trigger that has passed says, put in our time.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Announcement<'a> {
    pub(in super::super) id: &'a str,
    /// At least 1; this node's part of it, which may be 0.
    pub(in super::super) whole: u32,
    pub(in super::super) expected: u32,
    pub(in super::super) confidence: f64,
    pub(in super::super) starts_at: Timestamp,
    /// Not after `starts_at`.
    pub(in super::super) live_from: Timestamp,
    pub(in super::super) expires_at: Timestamp,
    /// How long it takes to have instances ready.
    pub(in super::super) lead: Duration,
    pub(in super::super) called_before: bool,
}

/// A number by which ids are told apart quickly; equal ones are compared.
pub(super) fn hash_of(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(id.as_bytes());
    hasher.finish()
}

impl Held {
    /// `pair`: of its source and function.
    pub(in super::super) fn new(
        now: Timestamp,
        announcement: &Announcement<'_>,
        pair: Place,
        sources: &Sources,
    ) -> Self {
        let &Announcement { id, whole, expected, confidence, starts_at, live_from, expires_at, lead, called_before } =
            announcement;
        let (elapsed, window) = (now.since(starts_at), expires_at.since(starts_at));
        Self {
            hash: hash_of(id),
            id: id.into(),
            announced: expected,
            whole,
            confidence: confidence.clamp(0.0, 1.0) as f32,
            came: 0,
            came_alone: 0,
            starts_at,
            live_from,
            acts_from: (starts_at + sources.earliest(pair) - lead).max(live_from),
            expires_at,
            received_at: now,
            first_call_at: None,
            seen: sources.survival(pair, elapsed, window),
            crowd: Crowd::default(),
            instances_max: f64::INFINITY,
            cost: 0,
            committed: 0,
            acting: false,
            behind: false,
            asked: false,
            asks: None,
            called_before,
            learned: false,
        }
    }

    /// What it announced is changed; what came stays.
    pub(super) fn change(&mut self, changed: Self) {
        let Self { announced, whole, confidence, starts_at, live_from, acts_from, expires_at, .. } = changed;
        let Self { instances_max, cost, .. } = changed;
        self.whole = whole;
        (self.instances_max, self.cost) = (instances_max, cost);
        (self.announced, self.confidence, self.expires_at) = (announced, confidence, expires_at);
        (self.starts_at, self.live_from, self.acts_from) = (starts_at, live_from, acts_from);
    }

    /// This node's part of what it announced is another one from now on.
    pub(super) fn share(&mut self, part: impl Fn(u32) -> u32) {
        self.announced = part(self.whole);
    }

    /// Whether any of it was this node's.
    pub(in super::super) fn is_ours(&self) -> bool {
        self.announced > 0 || self.came > 0
    }

    pub(super) fn is(&self, hash: u64, id: &str) -> bool {
        self.hash == hash && *self.id == *id
    }

    pub(super) fn left(&self) -> u32 {
        self.announced.saturating_sub(self.came)
    }

    /// Whether a call that comes is its own, had its source been the only one.
    pub(super) fn announces_alone(&self) -> bool {
        self.came_alone < self.announced
    }

    /// Nothing can come of it any more, for itself or for what is learned.
    pub(super) fn is_done(&self) -> bool {
        self.left() == 0 && !self.announces_alone()
    }

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        self.live_from <= now && now < self.expires_at
    }

    /// Whether both have calls to come at one time.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.left() > 0 && self.live_from < other.expires_at && other.live_from < self.expires_at
    }

    /// What it would ask for: as many instances as its calls need at once, until its end.
    pub(in super::super) fn wants(&self, now: Timestamp, ceiling: u32, at_once: f32) -> Wanted {
        let instances = (f64::from(self.announced) * f64::from(at_once)).ceil().min(f64::from(ceiling));
        let each = self.expires_at.since(self.acts_from.max(now)).as_micros();
        Wanted { instances: instances as u64, each_micros: u64::try_from(each).unwrap_or(u64::MAX) }
    }

    /// Keeps it to what its source can afford.
    pub(in super::super) fn limit(&mut self, wanted: Wanted, affordable: u64) {
        let instances = wanted.instances.min(affordable);
        self.instances_max = if affordable < wanted.instances { instances as f64 } else { f64::INFINITY };
        self.cost = instances.saturating_mul(wanted.each_micros);
    }

    /// Instance time that its source's account has for it, in µs.
    pub(in super::super) fn committed(&self) -> u64 {
        self.committed
    }

    /// Charges its source's account with what it asks for; with nothing where nothing is left of it.
    pub(super) fn charge(&mut self, source: Place, sources: &mut Sources) {
        let cost = if self.left() > 0 { self.cost } else { 0 };
        sources.commit(source, std::mem::replace(&mut self.committed, cost), cost);
    }

    /// Notes what is in flight when it begins.
    pub(super) fn begin(&mut self, in_flight: u32, announced_calls: u32) {
        self.crowd.begin.get_or_insert((in_flight, announced_calls));
    }

    /// A call comes that it announced, if its source were the only one.
    pub(super) fn count_alone(&mut self, arrival: &Arrival, pair: Place, sources: &mut Sources) {
        self.came_alone += 1;
        sources.count_lag(pair, arrival.now.since(self.starts_at), self.announced);
        let before = (arrival.in_flight.saturating_sub(1), arrival.announced_calls.wrapping_sub(1));
        let (in_flight, calls) = *self.crowd.begin.get_or_insert(before);
        self.crowd.calls = arrival.announced_calls.wrapping_sub(calls);
        self.crowd.peak = self.crowd.peak.max(arrival.in_flight.saturating_sub(in_flight));
    }

    /// A call is taken off it. Once all have come it asks for nothing, and what is to be learned is known.
    pub(super) fn take(&mut self, now: Timestamp, source: Place, pair: Place, sources: &mut Sources) {
        self.came += 1;
        self.first_call_at.get_or_insert(now);
        if self.left() == 0 {
            self.charge(source, sources);
            self.learn(1.0, source, pair, sources);
        }
    }

    /// Learns from it, unless that was done: from all of its life that was seen, or from that part of it which is over
    /// where it is cut short now.
    pub(super) fn learn_at_end(
        &mut self,
        cut_short: Option<Timestamp>,
        source: Place,
        pair: Place,
        sources: &mut Sources,
    ) {
        let to_come = cut_short.map_or(0.0, |now| {
            let began = self.acts_from.max(self.received_at) <= now;
            if began { sources.survival(pair, now.since(self.starts_at), self.window()) } else { self.seen }
        });
        self.learn(self.seen - to_come, source, pair, sources);
    }

    fn learn(&mut self, weight: f32, source: Place, pair: Place, sources: &mut Sources) {
        if weight <= 0.0 || self.announced == 0 || std::mem::replace(&mut self.learned, true) {
            return;
        }
        let Crowd { peak, calls, .. } = self.crowd;
        let evidence = Evidence {
            announced: self.announced,
            confidence: self.confidence,
            // More than it announced where the share has become less since.
            came_alone: self.came_alone.min(self.announced),
            came: self.came.min(self.announced),
            behind: self.behind,
            at_once: (calls > 0).then(|| peak.clamp(1, calls) as f32 / calls as f32),
            weight,
        };
        sources.learn(source, pair, &evidence);
    }

    fn window(&self) -> Duration {
        self.expires_at.since(self.starts_at)
    }

    /// Whether it acts now and still announces something.
    pub(super) fn acts(&self, now: Timestamp) -> bool {
        let begins = now >= self.acts_from || self.came_alone > 0;
        self.acting && begins && self.is_live(now) && self.left() > 0
    }

    /// What it is in the forecast; `None` where it does not act now. `hidden`: whether what stands in front of it is
    /// believed, so that what it has learned to add to others counts.
    pub(super) fn notice(
        &self,
        now: Timestamp,
        source: Place,
        pair: Place,
        hidden: bool,
        sources: &Sources,
    ) -> Option<Notice> {
        if !self.acts(now) {
            return None;
        }
        let standing = Standing {
            announced: self.announced,
            confidence: self.confidence,
            came: self.came,
            behind: self.behind && hidden,
            elapsed: now.since(self.starts_at),
            window: self.window(),
        };
        Some(Notice {
            kind: WarmKind::PreTrigger,
            id: self.id.to_string(),
            calls: (f64::from(self.left()) * f64::from(sources.at_once(pair))).min(self.instances_max),
            yields: sources.outlook(source, pair, &standing),
            expires_at: self.expires_at,
        })
    }

    /// When what [`Self::notice`] says changes next by time alone, or its life ends, seen from `now` (exclusive).
    pub(super) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let edge = next_edge(now.since(self.starts_at)).map(|edge| self.starts_at + edge);
        let edge = edge.filter(|_| self.left() > 0 && self.is_live(now));
        let others = [self.live_from, self.acts_from, self.expires_at];
        others.into_iter().chain(edge).filter(|&at| at > now).min()
    }

    /// What became of it, where nothing but time ended it; `None` while a call may still make it late.
    pub(super) fn ends_as(&self, may_be_late: bool) -> Option<OutcomeKind> {
        if self.came > 0 {
            Some(OutcomeKind::Hit)
        } else if self.called_before {
            Some(OutcomeKind::Late)
        } else if may_be_late {
            None
        } else if self.asked {
            Some(OutcomeKind::Wasted)
        } else {
            Some(OutcomeKind::Expired)
        }
    }

    /// From its start to the first call taken off it, in µs.
    pub(in super::super) fn first_call_lag_us(&self) -> Option<i64> {
        self.first_call_at.map(|at| at.as_micros().saturating_sub(self.starts_at.as_micros()))
    }
}
