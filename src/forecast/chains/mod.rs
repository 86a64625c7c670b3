//! Chains, learned: "a call of A announces B", with how likely and how soon.
//!
//! Two ways lead to an edge. **Strong**: the calls of A and B carry the same trace context; the edge is there at once
//! and needs little more. A common message key makes an edge at once, too, but proves nothing: keys may be few. **Weak**: B comes soon after A again and again. After six calls of A, then twelve, and so on up to 192,
//! what followed the last six is looked through once, and functions that followed most of them become edges. From then on an edge is measured the same way, whichever way led to it: each call of A
//! that is watched (one at a time) is a trial, and B coming within the horizon is a success.
//!
//! Whether an edge acts is judged by [`edge`]: support, probability, lift over B's own rate, and no coincidence.
//!
//! Bounds: edges a function by configuration; 65,536 calls in the log, of which the oldest go first (so a system with more
//! calls finds only quicker chains by closeness in time; trace context has no such limit); 128 log entries of work a call on
//! average, with what is over put off; 16,384 causes by trace or key.
//!
//! What it is not: two functions that fire together by the clock look like a chain, and are one as far as warming goes; their
//! lag is too short to matter. Functions that are called all the time are nobody's successor: history holds them warm.
//!
//! Must not: read a clock, or know names.

mod edge;
mod recent;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

pub use edge::{Hold, Rule};
pub(super) use saved::{Saved, is_weight};

use self::edge::{Edge, Thresholds, divergence};
use self::recent::{Causes, Log};
use super::agenda::Slot;
use crate::config::ChainsConfig;
use crate::types::Timestamp;

/// Calls of A whose followers are looked through together.
const MINED: usize = 6;
/// Of those, how many a function must have followed to become an edge.
const MINED_MIN: u8 = 4;
/// How far from what its rate would do, in nats (see `edge`), and how many at once.
const MINED_NATS_MIN: f64 = 1.5;
const MINED_EDGES_MAX: usize = 6;
/// Trials that an edge has before it may make room for another.
const TRIALS_MIN: f32 = 8.0;
/// A rate's time constant, in seconds.
const RATE_SECONDS: f64 = 300.0;
/// A function that comes this often within the horizon by itself is nobody's successor.
const COMMON: f64 = 0.7;
/// Log entries that may be looked at for each call, and how many may be saved up.
const WORK_PER_CALL: u64 = 128;
const WORK_MAX: u64 = 1 << 20;
/// Watches between two looks at most: looks that find nothing become rare.
const LOOK_EVERY_MAX: u16 = 192;
/// Watches that are open at once.
const WATCHES_MAX: usize = 16_384;

/// What led to a call, where the call says it: hashes, so that nothing of the user's is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Of the trace's id.
    pub trace: Option<u64>,
    /// Of the message's key.
    pub key: Option<u64>,
}

/// A call of A says that B is likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Announcement {
    /// What is likely to be called.
    pub to: Slot,
    /// How likely, 0.0 to 1.0.
    pub probability: f32,
    /// 5 % of the calls come earlier than this.
    pub earliest: Duration,
    /// 5 % of the calls come later than this.
    pub latest: Duration,
}

/// An edge, to be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeView {
    /// What is called first.
    pub from: Slot,
    /// What follows.
    pub to: Slot,
    /// How likely it follows.
    pub probability: f32,
    /// That against the chance that it comes by itself.
    pub lift: f64,
    /// Successes, decayed.
    pub support: f32,
    /// How often trace context led from the one to the other.
    pub strong: f32,
    /// See [`Announcement`].
    pub earliest: Duration,
    /// See [`Announcement`].
    pub latest: Duration,
    /// Calls that announced it and were watched.
    pub announced: u32,
    /// Of those, the ones that it followed.
    pub came: u32,
    /// What a user says of it.
    pub rule: Option<Rule>,
    /// Why it does not act; `None` where it does.
    pub held_by: Option<Hold>,
}

/// What was passed over since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Looks through the log that were put off for want of work allowance.
    pub looks_put_off: u64,
    /// Edges that made room for others.
    pub edges_evicted: u64,
    /// Calls that were not watched because too many were.
    pub watches_refused: u64,
}

/// What is known of one function.
#[derive(Debug, Default)]
struct Node {
    /// Decayed count of its calls, and when it was brought up to date, in µs.
    weight: f64,
    updated: i64,
    /// When it was last called, and the time before, in µs.
    calls: [i64; 2],
    is_watched: bool,
    /// Where in the log the calls are whose followers are to be looked through.
    mined: Vec<u64>,
    /// Watches until the next look, and how many there were between the last two.
    look_in: u16,
    look_every: u16,
    edges: Vec<Edge>,
}

impl Node {
    /// The decayed count of its calls at `now`.
    fn weight(&self, now: i64) -> f64 {
        self.weight * (-seconds(self.updated, now) / RATE_SECONDS).exp()
    }
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    from: Slot,
    at: i64,
    /// Which of its edges announced, a bit each.
    announced: u32,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Chains {
    horizon_micros: i64,
    successors_max: usize,
    thresholds: Thresholds,
    nodes: Vec<Option<Box<Node>>>,
    log: Log,
    causes: Causes,
    /// In the order of their time, so the oldest ends first.
    watches: VecDeque<Watch>,
    work: u64,
    /// The time of the first call, in µs.
    began: Option<i64>,
    counters: Counters,
}

impl Chains {
    /// Knows no chain yet.
    pub fn new(config: &ChainsConfig) -> Self {
        Self {
            horizon_micros: i64::try_from(config.horizon.as_micros()).unwrap_or(i64::MAX),
            successors_max: usize::from(config.successors_max.get()),
            thresholds: Thresholds {
                probability_min: config.probability_min,
                lift_min: config.lift_min,
                support_min: f64::from(config.support_min),
            },
            nodes: Vec::new(),
            log: Log::default(),
            causes: Causes::default(),
            watches: VecDeque::new(),
            work: WORK_MAX,
            began: None,
            counters: Counters::default(),
        }
    }

    /// A call came. Puts what it announces behind what `out` holds.
    pub fn arrived(&mut self, now: Timestamp, slot: Slot, evidence: Evidence, out: &mut Vec<Announcement>) {
        let now = now.as_micros();
        self.began.get_or_insert(now);
        self.work = (self.work + WORK_PER_CALL).min(WORK_MAX);
        self.end_watches(now);
        let [by_trace, by_key] = self.causes.of(now, self.horizon_micros, slot, evidence);
        self.link(by_trace, slot, 1.0);
        // Keys may be shared by much that has nothing to do with each other: they lead to an edge, and prove nothing.
        self.link(by_key, slot, 0.0);
        let common = COMMON / (self.horizon_micros as f64 / 1e6);
        let per_second = self.per_second(now, slot);
        let node = node(&mut self.nodes, slot);
        node.weight = node.weight(now) + 1.0;
        node.updated = now;
        node.calls = [now, node.calls[0]];
        // What is common is nobody's successor.
        let at = if per_second > common { self.log.end() } else { self.log.push(now, slot) };
        let announced = self.announce(slot, out);
        let node = node_of(&mut self.nodes, slot);
        if node.is_none_or(|node| node.is_watched) {
            return;
        }
        if self.watches.len() >= WATCHES_MAX {
            self.counters.watches_refused += 1;
            return;
        }
        if let Some(node) = node_of(&mut self.nodes, slot) {
            node.is_watched = true;
            if node.mined.len() >= MINED {
                node.mined.remove(0);
            }
            node.mined.push(at);
        }
        self.watches.push_back(Watch { from: slot, at: now, announced });
    }

    /// Forgets a function, also as a successor.
    pub fn forget(&mut self, slot: Slot) {
        if let Some(place) = self.nodes.get_mut(slot as usize) {
            *place = None;
        }
        for node in self.nodes.iter_mut().flatten() {
            node.edges.retain(|edge| edge.to != slot);
        }
        self.watches.retain(|watch| watch.from != slot);
        self.log.forget(slot);
        self.causes.forget(slot);
    }

    /// Takes over what users say of the edges of `from`; rules that were there and are not named end.
    pub fn set_rules(&mut self, from: Slot, rules: &[(Slot, Rule)]) {
        let max = self.successors_max;
        let node = node(&mut self.nodes, from);
        for edge in &mut node.edges {
            // Without its rule it acts when it has earned that.
            edge.acts &= edge.rule.take().is_none();
        }
        for &(to, rule) in rules {
            if let Some(edge) = edge_to(&mut node.edges, to, max, &mut self.counters) {
                edge.rule = Some(rule);
                edge.acts = rule != Rule::Deny;
            }
        }
    }

    /// The edges that lead away from one function, or all.
    pub fn edges(&self, now: Timestamp, from: Option<Slot>) -> Vec<EdgeView> {
        let slots = from.map_or(0..self.nodes.len() as Slot, |from| from..from.saturating_add(1));
        let nodes = slots.filter_map(|slot| Some((slot, self.nodes.get(slot as usize)?.as_deref()?)));
        nodes
            .flat_map(|(slot, node)| node.edges.iter().map(move |edge| self.view(now.as_micros(), slot, edge)))
            .collect()
    }

    /// The functions from which edges lead away.
    pub fn begun(&self) -> impl Iterator<Item = Slot> + '_ {
        let nodes = (0..).zip(&self.nodes);
        nodes.filter(|(_, node)| node.as_deref().is_some_and(|node| !node.edges.is_empty())).map(|(slot, _)| slot)
    }

    /// What was passed over.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn view(&self, now: i64, from: Slot, edge: &Edge) -> EdgeView {
        let per_second = self.per_second(now, edge.to);
        let (earliest, latest) = edge.lag_range();
        EdgeView {
            from,
            to: edge.to,
            probability: edge.probability(),
            lift: f64::from(edge.probability()) / edge.base(per_second).max(1e-9),
            support: edge.hits(),
            strong: edge.strong,
            earliest,
            latest,
            announced: edge.announced,
            came: edge.came,
            rule: edge.rule,
            held_by: edge.judge(&self.thresholds, per_second).err(),
        }
    }

    /// A function's rate: its decayed count over the time that the decay leaves of the time since the start.
    fn per_second(&self, now: i64, slot: Slot) -> f64 {
        let Some(node) = self.nodes.get(slot as usize).and_then(Option::as_deref) else { return 0.0 };
        let seen = seconds(self.began.unwrap_or(now), now).max(1.0);
        node.weight(now) / (RATE_SECONDS * (1.0 - (-seen / RATE_SECONDS).exp()))
    }

    /// Says what acts; answers with a bit for each edge that does.
    fn announce(&self, slot: Slot, out: &mut Vec<Announcement>) -> u32 {
        let Some(node) = self.nodes.get(slot as usize).and_then(Option::as_deref) else { return 0 };
        let mut announced = 0;
        for (place, edge) in node.edges.iter().enumerate() {
            if edge.acts {
                let (earliest, latest) = edge.lag_range();
                let probability = edge.announced_probability();
                out.push(Announcement { to: edge.to, probability, earliest, latest });
                announced |= 1 << place;
            }
        }
        announced
    }

    /// Counts the trials whose horizon has passed.
    fn end_watches(&mut self, now: i64) {
        while let Some(&watch) = self.watches.front() {
            if now - watch.at < self.horizon_micros && now >= watch.at {
                return;
            }
            self.watches.pop_front();
            let until = watch.at.saturating_add(self.horizon_micros);
            let Some(mut node) = self.nodes.get_mut(watch.from as usize).and_then(Option::take) else { continue };
            node.is_watched = false;
            for (place, edge) in node.edges.iter_mut().enumerate() {
                let lag = self.first_call(edge.to, watch.at, until).map(|at| at - watch.at);
                edge.trial(lag);
                edge.choose_time(self.per_second(now, edge.to));
                edge.acts = edge.judge(&self.thresholds, self.per_second(now, edge.to)).is_ok();
                if watch.announced >> place & 1 == 1 {
                    edge.announced = edge.announced.saturating_add(1);
                    edge.came = edge.came.saturating_add(u32::from(lag.is_some()));
                }
            }
            node.look_in = node.look_in.saturating_sub(1);
            if node.mined.len() >= MINED && node.look_in == 0 {
                self.mine(now, watch.from, &mut node);
            }
            self.nodes[watch.from as usize] = Some(node);
        }
    }

    /// The first of the last two calls that lies in the time (exclusive, inclusive).
    fn first_call(&self, slot: Slot, after: i64, until: i64) -> Option<i64> {
        let node = self.nodes.get(slot as usize)?.as_deref()?;
        node.calls.into_iter().filter(|&at| at > after && at <= until).min()
    }

    /// Looks through what followed the last calls of a function.
    fn mine(&mut self, now: i64, from: Slot, node: &mut Node) {
        let Some(entries) = self.log.spans(&node.mined, self.horizon_micros) else {
            // Most of it is no longer in the log.
            node.mined.clear();
            return;
        };
        if entries > self.work {
            self.counters.looks_put_off += 1;
            return;
        }
        self.work -= entries;
        node.look_every = (node.look_every * 2).clamp(MINED as u16, LOOK_EVERY_MAX);
        node.look_in = node.look_every;
        let followers = self.log.followers(&node.mined, self.horizon_micros, from);
        let mut candidates: Vec<(f64, Slot)> = followers
            .into_iter()
            .filter(|(to, followed, _)| *followed >= MINED_MIN && node.edges.iter().all(|edge| edge.to != *to))
            .map(|(to, followed, latest)| {
                let base = 1.0 - (-self.per_second(now, to) * latest as f64 / 1e6).exp();
                let share = f64::from(followed) / MINED as f64;
                (MINED as f64 * divergence(share, base.clamp(1e-9, 1.0 - 1e-9)), to)
            })
            .filter(|(nats, _)| *nats >= MINED_NATS_MIN)
            .collect();
        candidates.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        for (_, to) in candidates.into_iter().take(MINED_EDGES_MAX) {
            // It begins without a trial: those that made it a candidate were chosen.
            edge_to(&mut node.edges, to, self.successors_max, &mut self.counters);
        }
    }

    /// An edge that the calls themselves tell of.
    fn link(&mut self, from: Option<Slot>, to: Slot, strong: f32) {
        let Some(from) = from else { return };
        let max = self.successors_max;
        let node = node(&mut self.nodes, from);
        if let Some(edge) = edge_to(&mut node.edges, to, max, &mut self.counters) {
            edge.strong += strong;
        }
    }
}

fn seconds(from: i64, to: i64) -> f64 {
    to.saturating_sub(from).max(0) as f64 / 1e6
}

fn node(nodes: &mut Vec<Option<Box<Node>>>, slot: Slot) -> &mut Node {
    let place = slot as usize;
    if nodes.len() <= place {
        nodes.resize_with(place + 1, || None);
    }
    nodes[place].get_or_insert_with(|| Box::new(Node { calls: [i64::MIN; 2], ..Node::default() }))
}

fn node_of(nodes: &mut [Option<Box<Node>>], slot: Slot) -> Option<&mut Node> {
    nodes.get_mut(slot as usize)?.as_deref_mut()
}

/// The edge to `to`: the one that is there, or a new one, in the place of the least successful one that no user named.
fn edge_to<'a>(edges: &'a mut Vec<Edge>, to: Slot, max: usize, counters: &mut Counters) -> Option<&'a mut Edge> {
    if let Some(place) = edges.iter().position(|edge| edge.to == to) {
        return edges.get_mut(place);
    }
    if edges.len() < max {
        edges.push(Edge::new(to));
        return edges.last_mut();
    }
    let free = |edge: &Edge| edge.rule.is_none() && !edge.acts && edge.trials >= TRIALS_MIN;
    let worst = edges
        .iter_mut()
        .filter(|edge| free(edge))
        .min_by(|one, other| one.probability().total_cmp(&other.probability()))?;
    counters.edges_evicted += 1;
    *worst = Edge::new(to);
    Some(worst)
}
