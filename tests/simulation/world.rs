//! One run: calls arrive, nodes work, faults happen; then the faults end, and everything has to come to its end.
//!
//! Must not: take a number from anywhere but the seed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use forewarm::control::Event;
use forewarm::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, Ordering, PreTrigger, Retry, Sha256, Timestamp,
};

use crate::broker::Broker;
use crate::chance::Chance;
use crate::node::Node;

const NODES: usize = 3;
/// Faults and arrivals end at this time.
const FAULTY: Duration = Duration::from_millis(2_500);
/// By this time everything has its outcome.
const END: Duration = Duration::from_secs(40);
/// A member that says nothing for this long is thrown out.
const SESSION: Duration = Duration::from_millis(500);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A fault that is put in on purpose, to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// The offset may move before the outcome is stored.
    AcknowledgeBeforeStored,
    /// Calls of a line go out as they come.
    IgnoreLines,
    /// Outcomes whose partitions have gone are published all the same.
    IgnoreFate,
    /// After a transaction of which nothing is known, its outcomes are published again.
    GoOnAfterUnknown,
    /// An outcome is not published.
    LoseAnOutcome,
    /// Tenants have no limit.
    IgnoreQuotas,
    /// The set of calls that are done reaches the brokers damaged.
    DamageMetadata,
}

/// How likely things go wrong in this run.
#[derive(Default)]
pub struct Faults {
    pub publish_fails: f64,
    pub slow_publish: f64,
    pub commit_lost: f64,
    pub transaction_aborts: f64,
    pub transaction_unknown: f64,
    /// By function.
    pub calls_fail: [f64; 4],
    crashes: f64,
    pauses: f64,
}

/// What runs came to.
#[derive(Default)]
pub struct Summary {
    pub seeds: u64,
    pub calls: u64,
    pub attempts: u64,
    pub retries: u64,
    pub resent: u64,
    pub crashes: u64,
    pub pauses: u64,
    pub thrown_out: u64,
    pub fenced: u64,
    pub transactions: u64,
    pub aborted: u64,
    pub unknown: u64,
    pub repeated: u64,
    pub dead_letters: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.calls += other.calls;
        self.attempts += other.attempts;
        self.retries += other.retries;
        self.resent += other.resent;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.thrown_out += other.thrown_out;
        self.fenced += other.fenced;
        self.transactions += other.transactions;
        self.aborted += other.aborted;
        self.unknown += other.unknown;
        self.repeated += other.repeated;
        self.dead_letters += other.dead_letters;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} calls, {} attempts ({} after a failure), {} dead letters; {} crashes, {} pauses, {} times thrown out \
             of the group; {} outcomes fenced, {} sent again, {} outcomes repeated (at least once); {} transactions, {} \
             aborted, {} of unknown fate",
            self.seeds,
            self.calls,
            self.attempts,
            self.retries,
            self.dead_letters,
            self.crashes,
            self.pauses,
            self.thrown_out,
            self.fenced,
            self.resent,
            self.repeated,
            self.transactions,
            self.aborted,
            self.unknown
        )
    }
}

pub struct World {
    chance: Chance,
    now: Timestamp,
    broker: Broker,
    /// None while a node is down; then when it comes up again.
    nodes: Vec<Result<Node, Timestamp>>,
    functions: Arc<[Arc<FunctionDefinition>]>,
    faults: Faults,
    members: u64,
    calls: usize,
    sabotage: Sabotage,
    summary: Summary,
    tells: bool,
}

fn functions() -> Arc<[Arc<FunctionDefinition>]> {
    let orderings = [Ordering::Unordered, Ordering::Key, Ordering::Partition, Ordering::Key];
    let attempts = [1, 3, 2, 1];
    let define = |(index, (ordering, attempts_max)): (usize, _)| {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let name = FunctionName::new(&format!("f{index}")).unwrap();
        let mut definition = FunctionDefinition::new(name, "1", artifact, FunctionKind::Component);
        definition.ordering = ordering;
        // The last one has none, as the first two have one of their own each, and t1 has no limit.
        definition.tenant = ["t0", "t2", "t1"].get(index).map(|&tenant| tenant.to_owned());
        definition.retry = Retry { attempts_max, backoff_ms: 20, backoff_max_ms: 100, ..Retry::default() };
        Arc::new(definition)
    };
    orderings.into_iter().zip(attempts).enumerate().map(define).collect()
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage, tells: bool) -> Self {
        let mut chance = Chance::new(seed);
        let exactly_once = chance.happens(0.5);
        // Some runs have no fault of a kind, some have many.
        let mut some = |often: f64| if chance.happens(0.4) { chance.part() * often } else { 0.0 };
        let faults = Faults {
            publish_fails: some(0.3),
            slow_publish: some(0.5),
            commit_lost: some(0.5),
            transaction_aborts: some(0.5),
            transaction_unknown: some(0.3),
            calls_fail: [some(0.5), some(0.8), some(0.8), some(0.3)],
            crashes: some(0.008),
            pauses: some(0.008),
        };
        let partitions = 1 + chance.below(4) as usize;
        let calls = 50 + chance.below(250) as usize;
        let broker = Broker::new(partitions, exactly_once);
        let nodes = (0..NODES).map(|_| Err(START + chance.millis(0, 200))).collect();
        let summary = Summary { seeds: 1, ..Summary::default() };
        let functions = functions();
        Self { chance, now: START, broker, nodes, functions, faults, members: 0, calls, sabotage, summary, tells }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>9.3} ms  {}", self.now.since(START).as_secs_f64() * 1e3, what());
        }
    }

    /// Runs to the end; the first violation, where there is one.
    pub fn run(mut self) -> Result<Summary, String> {
        self.say(|| {
            format!(
                "exactly once: {}, {} partitions, {} calls",
                self.broker.exactly_once,
                self.broker.partitions(),
                self.calls
            )
        });
        while self.now < START + END {
            self.now = self.now + self.chance.millis(1, 4);
            if self.now < START + FAULTY {
                self.arrive();
                self.break_something();
            } else {
                self.faults = Faults { calls_fail: self.faults.calls_fail, ..Faults::default() };
            }
            for index in 0..NODES {
                self.step(index);
                if let Some(violation) = self.broker.violation.take() {
                    return Err(violation);
                }
            }
            self.broker.expire(self.now);
            if self.now >= START + FAULTY && self.is_over() {
                return self.finish();
            }
        }
        let open = self.broker.calls.iter().filter(|call| call.results == 0).count();
        let behind: Vec<i32> = (0..self.broker.partitions() as i32).filter(|id| !self.broker.is_done(*id)).collect();
        for id in &behind {
            for node in self.nodes.iter().flatten() {
                self.say(|| format!("partition {id} stands at {:?}; {}", self.broker.committed(*id), node.about(*id)));
            }
        }
        Err(format!(
            "every-call-ends: {open} calls have no outcome and partitions {behind:?} are not committed at the end"
        ))
    }

    fn arrive(&mut self) {
        let left = self.calls.saturating_sub(self.broker.calls.len());
        if left == 0 || !self.chance.happens(0.5) {
            return;
        }
        for _ in 0..=self.chance.below(3).min(left as u64 - 1) {
            let function = self.chance.below(self.functions.len() as u64) as usize;
            let key = self.chance.below(5) as u8;
            let partition = i32::from(key) % self.broker.partitions() as i32;
            let hole = if self.chance.happens(0.1) { 1 + self.chance.below(3) as i64 } else { 0 };
            self.broker.publish(partition, function, key, hole);
        }
    }

    fn break_something(&mut self) {
        if self.chance.happens(0.001) && self.broker.partitions() < 6 {
            self.say(|| "a partition is added".to_owned());
            self.broker.add_partitions(1);
        }
        for index in 0..NODES {
            if self.chance.happens(self.faults.crashes) {
                let up_at = self.now + self.chance.millis(50, 900);
                if let Ok(node) = std::mem::replace(&mut self.nodes[index], Err(up_at)) {
                    self.summary.crashes += 1;
                    self.say(|| format!("node {index} is killed"));
                    // The group notices when its session is over, or when it comes back.
                    drop(node);
                }
            }
            if self.chance.happens(self.faults.pauses) {
                let until = self.now + self.chance.millis(50, 1_200);
                if let Ok(node) = &mut self.nodes[index] {
                    self.summary.pauses += 1;
                    node.paused_until = Some(until);
                }
                self.say(|| format!("node {index} hangs until {:.3} ms", until.since(START).as_secs_f64() * 1e3));
            }
        }
        if self.chance.happens(0.03) {
            self.announce();
        }
    }

    /// A pre-trigger, as likely as not from a source whose clock is wrong.
    fn announce(&mut self) {
        let function = self.functions[self.chance.below(self.functions.len() as u64) as usize].name.clone();
        let lies = if self.chance.happens(0.5) { 0 } else { self.chance.below(20_000_000) as i64 - 10_000_000 };
        let calls = self.chance.below(200) as u32;
        for index in 0..NODES {
            let Ok(node) = &mut self.nodes[index] else { continue };
            let emitted_at = Timestamp::from_micros(node.clock(self.now).as_micros() + lies);
            let pre_trigger = PreTrigger {
                id: format!("{}", self.now.as_micros()),
                source: "source".to_owned(),
                function: function.clone(),
                tenant: None,
                expected_invocations: calls,
                confidence: 1.0,
                not_before: None,
                window_ms: 2_000,
                emitted_at,
                attributes: Default::default(),
            };
            node.tell(self.now, Event::PreTriggerReceived(pre_trigger), &mut self.broker);
        }
    }

    fn step(&mut self, index: usize) {
        let Self { chance, now, broker, nodes, functions, faults, members, sabotage, summary, .. } = self;
        match &mut nodes[index] {
            Err(up_at) if *up_at <= *now => {
                // The member that it was before is still in the group, for as long as its session lasts: here no longer.
                let old: Vec<_> =
                    broker.members.iter().copied().filter(|member| *member as usize % NODES == index).collect();
                old.into_iter().for_each(|member| broker.remove(member));
                *members += 1;
                let member = *members * NODES as u64 + index as u64;
                nodes[index] = Ok(Node::new(index, member, *now, functions, broker, chance, *sabotage));
            }
            Err(up_at) => {
                if up_at.since(*now) < Duration::from_millis(400) && chance.happens(0.02) {
                    let old: Vec<_> =
                        broker.members.iter().copied().filter(|member| *member as usize % NODES == index).collect();
                    old.into_iter().for_each(|member| broker.remove(member));
                }
            }
            Ok(node) => match node.paused_until {
                Some(until) if *now < until => {
                    // Its session ends at some time of a long pause.
                    if until.since(*now) < SESSION && chance.happens(0.02) {
                        broker.remove(node.member);
                    }
                }
                _ => {
                    node.paused_until = None;
                    node.step(*now, broker, chance, faults, summary);
                }
            },
        }
    }

    fn is_over(&self) -> bool {
        self.broker.calls.iter().all(|call| call.results > 0)
            && (0..self.broker.partitions() as i32).all(|partition| self.broker.is_done(partition))
    }

    fn finish(mut self) -> Result<Summary, String> {
        for call in &self.broker.calls {
            self.summary.repeated += u64::from(call.results - 1);
            self.summary.dead_letters += u64::from(call.dead_letters > 0);
        }
        self.summary.calls = self.broker.calls.len() as u64;
        Ok(self.summary)
    }
}
