//! One made-up node: the service's own pure rooms, put together as its shell does it, with time and brokers as values.
//!
//! What stands here for the shell follows `ingest` (rebalances, commits), `driver` (order and retries) and `execute` (a call
//! takes a while and comes to something). Must not: decide what those rooms decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use forewarm::backlog::{Backlog, Ended, Held, LineKey, Policies, Quota, Quotas, Terms};
use forewarm::config::{ChainsConfig, ForecastConfig, TargetConfig};
use forewarm::control::{Action, Control, Event};
use forewarm::forecast::chains::Evidence;
use forewarm::forecast::history::Model;
use forewarm::invariant::violations;
use forewarm::progress::{Commit, Completion, Partitions, Verdict};
use forewarm::types::{FunctionDefinition, Offset, PoolUsage, Position, Status, Timestamp};

use crate::broker::{Broker, CallId, Member, Offsets};
use crate::chance::Chance;
use crate::sends::{Outcome, Sends};
use crate::world::{Faults, Sabotage, Summary};

const IN_FLIGHT_MAX: usize = 40;
const COMMIT_EVERY: Duration = Duration::from_millis(60);
const DRAIN: Duration = Duration::from_millis(300);
const LAST_COMMIT: Duration = Duration::from_millis(150);

/// A call under way on a node.
#[derive(Debug)]
pub struct Call {
    pub id: CallId,
    pub function: usize,
    pub position: Position,
    terms: Terms,
    attempt: u32,
    received_at: Timestamp,
}

impl Held for Call {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn partition(&self) -> Option<i32> {
        Some(self.position.partition)
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn next_attempt(&mut self) {
        self.attempt += 1;
    }
}

/// A partition that is being given up.
struct Giving {
    drain_by: Timestamp,
    /// Calls that wait and will not be run here: they count as in flight and never end.
    put_aside: usize,
    commit_by: Option<Timestamp>,
}

/// A plain commit that is with the coordinator.
struct Committing {
    due: Timestamp,
    generation: u64,
    commits: Vec<(i32, Commit)>,
}

pub struct Node {
    pub id: usize,
    pub member: Member,
    pub paused_until: Option<Timestamp>,
    pub generation: u64,
    pub partitions: Partitions,
    pub backlog: Backlog<Call>,
    pub sends: Sends,
    /// Whether a commit or a transaction is under way.
    pub commit_under_way: bool,
    pub sabotage: Sabotage,
    functions: Arc<[Arc<FunctionDefinition>]>,
    policies: Policies,
    control: Control,
    /// The control plane's clock may stand anywhere; it never goes back.
    skew: Duration,
    read_from: BTreeMap<i32, i64>,
    running: Vec<(Timestamp, Call)>,
    /// Calls that may go out since others of theirs went elsewhere.
    let_out: Vec<Call>,
    taking: BTreeMap<i32, Timestamp>,
    giving: BTreeMap<i32, Giving>,
    committing: Option<Committing>,
    commit_at: Timestamp,
    tick_at: Timestamp,
}

impl Node {
    pub fn new(
        id: usize,
        member: Member,
        now: Timestamp,
        functions: &Arc<[Arc<FunctionDefinition>]>,
        broker: &mut Broker,
        chance: &mut Chance,
        sabotage: Sabotage,
    ) -> Self {
        let quotas = Arc::new(Quotas::new(Quota { calls_max: 6, waiting_max: 0 }, [("t1", Quota::default())]));
        let mut policies = Policies::new(Arc::clone(&quotas));
        let target = TargetConfig { memory_budget_bytes: 20 << 20, ..TargetConfig::default() };
        let mut control = Control::new(ForecastConfig::default(), &ChainsConfig::default(), target, Model::shipped());
        let skew = chance.millis(0, 100_000_000);
        for definition in functions.iter() {
            policies.define(definition);
            let event = Event::FunctionDefined { definition: Arc::clone(definition), since: now + skew };
            control.handle(now + skew, event, &mut Vec::new());
        }
        broker.join(member);
        let epoch = broker.init_transactions(id);
        Self {
            id,
            member,
            paused_until: None,
            generation: broker.generation,
            partitions: Partitions::default(),
            backlog: Backlog::new(if sabotage == Sabotage::IgnoreQuotas { Arc::default() } else { quotas }),
            sends: Sends::new(broker.exactly_once, epoch),
            commit_under_way: false,
            sabotage,
            functions: Arc::clone(functions),
            policies,
            control,
            skew,
            read_from: BTreeMap::new(),
            running: Vec::new(),
            let_out: Vec::new(),
            taking: BTreeMap::new(),
            giving: BTreeMap::new(),
            committing: None,
            commit_at: now,
            tick_at: now,
        }
    }

    /// Everything that is due on this node.
    pub fn step(
        &mut self,
        now: Timestamp,
        broker: &mut Broker,
        chance: &mut Chance,
        faults: &Faults,
        sum: &mut Summary,
    ) {
        if !broker.members.contains(&self.member) {
            self.lose_everything(broker, sum);
        }
        self.generation = broker.generation;
        self.follow_assignment(now, broker, chance);
        self.begin_let_out(now, broker, chance);
        self.end_calls(now, broker, chance, faults, sum);
        let mut out = Vec::new();
        while self.backlog.due(now, &mut out) {
            sum.retries += 1;
        }
        self.begin_all(now, out, broker, chance);
        Sends::step(self, now, broker, chance, faults, sum);
        self.begin_let_out(now, broker, chance);
        self.give_up_what_is_drained(now, broker, chance);
        self.begin_let_out(now, broker, chance);
        self.commit(now, broker, chance, faults);
        self.poll(now, broker, chance);
        self.tick(now, broker, chance);
    }

    // --- the group

    /// Thrown out of the group: everything is somebody else's.
    fn lose_everything(&mut self, broker: &mut Broker, sum: &mut Summary) {
        sum.thrown_out += 1;
        let ids = self.partitions.ids();
        self.give_away(&ids);
        self.taking.clear();
        self.giving.clear();
        broker.join(self.member);
    }

    fn give_away(&mut self, ids: &[i32]) {
        self.backlog.forget(ids, &mut self.let_out);
        for &id in ids {
            self.partitions.forget(id);
            self.read_from.remove(&id);
        }
    }

    /// Those that were let out, of partitions that are still here.
    fn begin_let_out(&mut self, now: Timestamp, broker: &mut Broker, chance: &mut Chance) {
        let mut out = std::mem::take(&mut self.let_out);
        while let Some(call) = out.pop() {
            if self.partitions.tracker(call.position.partition).is_some() {
                self.begin(now, call, broker, chance);
            } else {
                self.backlog.withdraw(&call, &mut out);
            }
        }
    }

    fn follow_assignment(&mut self, now: Timestamp, broker: &mut Broker, chance: &mut Chance) {
        let mine = broker.assignment(self.member);
        let ids: BTreeSet<i32> = mine.iter().map(|(id, _)| *id).collect();
        let gone: Vec<i32> = self.partitions.ids().into_iter().filter(|id| !ids.contains(id)).collect();
        self.give_away(&gone);
        self.taking.retain(|id, _| ids.contains(id));
        self.giving.retain(|id, _| ids.contains(id));
        for (id, is_to_go) in mine {
            if is_to_go {
                self.taking.remove(&id);
                self.partitions.drain(&[id]);
                self.giving.entry(id).or_insert(Giving { drain_by: now + DRAIN, put_aside: 0, commit_by: None });
            } else if self.partitions.tracker(id).is_none() && !self.giving.contains_key(&id) {
                self.taking.entry(id).or_insert_with(|| now + chance.millis(1, 20));
            }
        }
        let due: Vec<i32> = self.taking.iter().filter(|(_, due)| **due <= now).map(|(id, _)| *id).collect();
        for id in due {
            // While a transaction has offsets of it pending, nobody says where it stands.
            let Some(committed) = broker.committed(id) else { continue };
            self.taking.remove(&id);
            let (next, metadata) = committed.map_or((None, String::new()), |(next, metadata)| (Some(next), metadata));
            let (_, fault) = self.partitions.take_over(id, next, &metadata);
            if let Some(fault) = fault {
                broker.violated("metadata-is-sound", format!("partition {id}: {fault}"));
            }
            self.read_from.insert(id, next.map_or(0, |next| next.0));
        }
    }

    fn give_up_what_is_drained(&mut self, now: Timestamp, broker: &mut Broker, chance: &mut Chance) {
        let ids: Vec<i32> = self.giving.keys().copied().collect();
        for id in ids {
            let in_flight = self.partitions.in_flight_of(id);
            let Some(giving) = self.giving.get_mut(&id) else { continue };
            giving.put_aside += self.backlog.forget(&[id], &mut self.let_out);
            if in_flight > giving.put_aside && now < giving.drain_by {
                continue;
            }
            let by = *giving.commit_by.get_or_insert(now + LAST_COMMIT);
            let commits = self.partitions.commits(Some(&[id]));
            let is_committed = !self.commit_under_way && commits.is_empty();
            if is_committed || now >= by {
                self.giving.remove(&id);
                self.give_away(&[id]);
                broker.released(self.member, id);
            } else if !self.commit_under_way {
                self.ask_commit(now, commits, chance);
            }
        }
    }

    /// Whether a transaction was committed is not known: everything is read from what is.
    pub fn read_anew(&mut self) {
        let ids = self.partitions.ids();
        self.give_away(&ids);
    }

    // --- plain commits

    fn ask_commit(&mut self, now: Timestamp, mut commits: Vec<(i32, Commit)>, chance: &mut Chance) {
        if self.sabotage == Sabotage::DamageMetadata {
            // One character more or less is what a text comes to on a bad way.
            for (_, commit) in &mut commits {
                commit.metadata.pop();
            }
        }
        self.commit_under_way = true;
        self.committing = Some(Committing { due: now + chance.millis(1, 15), generation: self.generation, commits });
    }

    fn commit(&mut self, now: Timestamp, broker: &mut Broker, chance: &mut Chance, faults: &Faults) {
        let is_answered = |committing: &mut Committing| committing.due <= now;
        if let Some(Committing { generation, commits, .. }) = self.committing.take_if(is_answered) {
            self.commit_under_way = false;
            let offsets = offsets(&commits);
            // Lost on the way there, or the answer on the way back.
            let (arrives, answered) = (!chance.happens(faults.commit_lost), !chance.happens(faults.commit_lost));
            let accepted = arrives && broker.commit(self.member, generation, &offsets).is_ok();
            if accepted && answered {
                self.partitions.committed(&commits);
            }
        }
        if now >= self.commit_at && !self.commit_under_way {
            self.commit_at = now + COMMIT_EVERY;
            let commits = self.partitions.commits(None);
            if !commits.is_empty() {
                self.ask_commit(now, commits, chance);
            }
        }
    }

    // --- calls

    fn poll(&mut self, now: Timestamp, broker: &mut Broker, chance: &mut Chance) {
        for partition in self.partitions.ids() {
            if self.giving.contains_key(&partition) {
                continue;
            }
            for _ in 0..chance.below(5) {
                if self.partitions.in_flight() >= IN_FLIGHT_MAX {
                    return;
                }
                let from = self.read_from.entry(partition).or_insert(0);
                let Some((offset, id)) = broker.fetch(partition, *from) else { break };
                *from = offset + 1;
                if let Verdict::New(position) = self.partitions.received(partition, Offset(offset), 1) {
                    self.receive(now, id, position, broker, chance);
                }
            }
        }
    }

    fn receive(&mut self, now: Timestamp, id: CallId, position: Position, broker: &mut Broker, chance: &mut Chance) {
        let info = &broker.calls[id];
        let name = self.functions[info.function].name.clone();
        let terms = self.policies.terms(&name, Some(&[info.key]), Some(position.partition));
        let call = Call { id, function: info.function, position, terms, attempt: 1, received_at: now };
        let event = Event::InvocationArrived { function: name, evidence: Evidence::default() };
        self.control.handle(now + self.skew, event, &mut Vec::new());
        let mut out = Vec::new();
        if self.sabotage == Sabotage::IgnoreLines {
            out.push(call);
        } else {
            // There is no bound on those that wait.
            assert!(self.backlog.enter(call, &mut out).is_none());
        }
        self.begin_all(now, out, broker, chance);
    }

    fn begin_all(&mut self, now: Timestamp, calls: Vec<Call>, broker: &mut Broker, chance: &mut Chance) {
        calls.into_iter().for_each(|call| self.begin(now, call, broker, chance));
    }

    /// An attempt begins.
    fn begin(&mut self, now: Timestamp, call: Call, broker: &mut Broker, chance: &mut Chance) {
        if let Some(line) = &call.terms.line {
            self.check_line(&call, line, broker);
        }
        let of_tenant = self.running.iter().filter(|(_, other)| other.terms.tenant == call.terms.tenant).count();
        if self.sabotage != Sabotage::IgnoreLines && call.terms.tenant.as_deref() != Some("t1") && of_tenant >= 6 {
            broker.violated("quota-of-a-tenant", format!("{of_tenant} calls run beside call {}", call.id));
        }
        let slow = chance.happens(0.03);
        let takes = if slow { chance.millis(100, 600) } else { chance.millis(0, 12) };
        self.running.push((now + takes, call));
    }

    /// Of a line one call runs at a time, and every earlier one of its partition has run to its end.
    fn check_line(&self, call: &Call, line: &LineKey, broker: &mut Broker) {
        let also = self.running.iter().find(|(_, other)| other.terms.line.as_ref() == Some(line));
        if let Some((_, other)) = also {
            let what = format!("call {} runs beside call {} of its line", call.id, other.id);
            broker.violated("order-of-a-line", what);
        }
        let mine = &broker.calls[call.id];
        let by_key = matches!(line, LineKey::Key(..));
        let earlier = broker.calls.iter().enumerate().find(|(_, other)| {
            other.function == mine.function
                && other.partition == mine.partition
                && other.offset < mine.offset
                && (!by_key || other.key == mine.key)
                && !other.over
        });
        if let Some((earlier, _)) = earlier {
            broker.violated("order-of-a-line", format!("call {} begins, and call {earlier} has not ended", call.id));
        }
    }

    fn end_calls(
        &mut self,
        now: Timestamp,
        broker: &mut Broker,
        chance: &mut Chance,
        faults: &Faults,
        sum: &mut Summary,
    ) {
        let mut at = 0;
        while at < self.running.len() {
            if self.running[at].0 > now {
                at += 1;
                continue;
            }
            let (_, call) = self.running.swap_remove(at);
            sum.attempts += 1;
            let status = if chance.happens(faults.calls_fail[call.function]) { Status::Trap } else { Status::Ok };
            let function = self.functions[call.function].name.clone();
            let event = Event::InvocationEnded { function, status, start_kind: None, execute: Duration::ZERO };
            self.control.handle(now + self.skew, event, &mut Vec::new());
            let age = now.since(call.received_at);
            let mut out = Vec::new();
            if let Ended::Over { call, used_up } = self.backlog.ended(now, call, status, age, chance.part(), &mut out) {
                self.finish(now, call, used_up, broker, chance, faults);
            }
            self.begin_all(now, out, broker, chance);
        }
    }

    /// A call is over: its outcome is on its way, and the next of its line goes out.
    fn finish(
        &mut self,
        now: Timestamp,
        call: Call,
        used_up: bool,
        broker: &mut Broker,
        chance: &mut Chance,
        faults: &Faults,
    ) {
        broker.calls[call.id].over = true;
        let line = call.terms.line.clone();
        let outcome = Outcome { call: call.id, position: call.position, with_dead_letter: used_up };
        if self.sabotage == Sabotage::AcknowledgeBeforeStored {
            self.completed(call.position, &mut Summary::default());
        }
        if self.sabotage != Sabotage::LoseAnOutcome || call.id % 50 != 7 {
            self.sends.push(now, outcome, chance, faults);
        }
        if let Some(line) = line
            && self.sabotage != Sabotage::IgnoreLines
        {
            let mut out = Vec::new();
            self.backlog.leave(&line, &mut out);
            self.begin_all(now, out, broker, chance);
        }
    }

    /// An outcome is stored.
    pub fn completed(&mut self, position: Position, sum: &mut Summary) {
        if self.partitions.completed(position, 1) == Completion::Fenced {
            sum.fenced += 1;
        }
    }

    // --- the control plane

    fn tick(&mut self, now: Timestamp, broker: &mut Broker, chance: &mut Chance) {
        if now < self.tick_at {
            return;
        }
        self.tick_at = now + Duration::from_millis(100);
        // The clock may jump ahead, as when a machine was asleep.
        if chance.happens(0.01) {
            self.skew += chance.millis(0, 3_600_000);
        }
        let mut usage: BTreeMap<usize, PoolUsage> = BTreeMap::new();
        for (_, call) in &self.running {
            let usage = usage.entry(call.function).or_default();
            usage.busy += 1;
            usage.in_flight_peak += 1;
            usage.instance_bytes = 3 << 20;
        }
        let usage = usage.into_iter().map(|(function, usage)| (self.functions[function].name.clone(), usage)).collect();
        self.tell(now, Event::Ticked { usage }, broker);
    }

    /// What this node has of a partition, for people.
    pub fn about(&self, partition: i32) -> String {
        format!(
            "node {}: owned {}, in flight {}, taking {}, giving {}, waiting {}, running {}, to be sent {}, commit under way {}",
            self.id,
            self.partitions.tracker(partition).is_some(),
            self.partitions.in_flight_of(partition),
            self.taking.contains_key(&partition),
            self.giving.contains_key(&partition),
            self.backlog.len(),
            self.running.len(),
            self.sends.len(),
            self.commit_under_way,
        )
    }

    /// Something happens on the control plane; its invariants hold after it.
    pub fn tell(&mut self, now: Timestamp, event: Event, broker: &mut Broker) {
        let mut actions: Vec<Action> = Vec::new();
        self.control.handle(now + self.skew, event, &mut actions);
        if let Some(violation) = violations(&self.control).into_iter().next() {
            broker.violated("control", violation.to_string());
        }
    }

    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now + self.skew
    }
}

/// As they go to a broker.
pub fn offsets(commits: &[(i32, Commit)]) -> Offsets {
    commits.iter().map(|(partition, commit)| (*partition, commit.next, commit.metadata.clone())).collect()
}
