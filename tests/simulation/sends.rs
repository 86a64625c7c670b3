//! A made-up producer: at least once, with answers that get lost; or exactly once, in transactions that break at every step.
//!
//! What stands here for the shell follows `publish`. Must not: know what an outcome means.

use std::time::Duration;

use forewarm::progress::Trial;
use forewarm::types::{Fate, Position, Timestamp};

use crate::broker::{Broker, CallId, Refused};
use crate::chance::Chance;
use crate::node::{Node, offsets};
use crate::world::{Faults, Sabotage, Summary};

const INTERVAL: Duration = Duration::from_millis(30);

#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub call: CallId,
    pub position: Position,
    pub with_dead_letter: bool,
}

/// Where a transaction stands.
enum Stage {
    Idle {
        not_before: Timestamp,
    },
    /// Outcomes and offsets are on their way.
    Offered {
        due: Timestamp,
        taken: Vec<Outcome>,
        trial: Trial,
        generation: u64,
    },
    /// The coordinator is asked to commit.
    Ending {
        due: Timestamp,
        taken: Vec<Outcome>,
        trial: Trial,
    },
}

pub struct Sends {
    exactly_once: bool,
    epoch: u64,
    stage: Stage,
    /// Exactly once: outcomes that wait for a transaction.
    queue: Vec<Outcome>,
    /// At least once: outcomes on their way.
    sent: Vec<(Timestamp, Outcome)>,
}

impl Sends {
    pub fn new(exactly_once: bool, epoch: u64) -> Self {
        let stage = Stage::Idle { not_before: Timestamp::ZERO };
        Self { exactly_once, epoch, stage, queue: Vec::new(), sent: Vec::new() }
    }

    /// Outcomes that wait to be stored.
    pub fn len(&self) -> usize {
        self.queue.len() + self.sent.len()
    }

    pub fn push(&mut self, now: Timestamp, outcome: Outcome, chance: &mut Chance, faults: &Faults) {
        if self.exactly_once {
            return self.queue.push(outcome);
        }
        let late = if chance.happens(faults.slow_publish) { 300 } else { 8 };
        self.sent.push((now + chance.millis(1, late), outcome));
    }

    /// Everything of a node's producer that is due.
    pub fn step(
        node: &mut Node,
        now: Timestamp,
        broker: &mut Broker,
        chance: &mut Chance,
        faults: &Faults,
        sum: &mut Summary,
    ) {
        if node.sends.exactly_once {
            transact(node, now, broker, chance, faults, sum);
        } else {
            deliver(node, now, broker, chance, faults, sum);
        }
    }
}

fn deliver(
    node: &mut Node,
    now: Timestamp,
    broker: &mut Broker,
    chance: &mut Chance,
    faults: &Faults,
    sum: &mut Summary,
) {
    let (due, sent) = std::mem::take(&mut node.sends.sent).into_iter().partition(|(due, _)| *due <= now);
    node.sends.sent = sent;
    let due: Vec<(Timestamp, Outcome)> = due;
    for (_, outcome) in due {
        let stored = !chance.happens(faults.publish_fails);
        if stored {
            store(broker, outcome);
        }
        if stored && !chance.happens(faults.publish_fails) {
            if node.sabotage != Sabotage::AcknowledgeBeforeStored {
                node.completed(outcome.position, sum);
            }
        } else {
            // Not stored, or stored without a word: sent again.
            sum.resent += 1;
            node.sends.sent.push((now + chance.millis(5, 40), outcome));
        }
    }
}

fn store(broker: &mut Broker, outcome: Outcome) {
    broker.store(outcome.call, false);
    if outcome.with_dead_letter {
        broker.store(outcome.call, true);
    }
}

fn transact(
    node: &mut Node,
    now: Timestamp,
    broker: &mut Broker,
    chance: &mut Chance,
    faults: &Faults,
    sum: &mut Summary,
) {
    let idle = Stage::Idle { not_before: now + INTERVAL };
    match std::mem::replace(&mut node.sends.stage, idle) {
        Stage::Idle { not_before } if now < not_before || node.commit_under_way || node.sends.queue.is_empty() => {
            node.sends.stage = Stage::Idle { not_before };
        }
        Stage::Idle { .. } => begin(node, now, chance, sum),
        Stage::Offered { due, taken, trial, generation } if now < due => {
            node.sends.stage = Stage::Offered { due, taken, trial, generation };
        }
        Stage::Offered { taken, trial, generation, .. } => {
            let outcomes = taken.iter().flat_map(|outcome| {
                let letter = outcome.with_dead_letter.then_some((outcome.call, true));
                letter.into_iter().chain([(outcome.call, false)])
            });
            let (id, epoch, member) = (node.id, node.sends.epoch, node.member);
            let added = broker.add_to_transaction(
                now,
                id,
                epoch,
                member,
                generation,
                outcomes.collect(),
                offsets(&trial.commits),
            );
            if added.is_ok() && !chance.happens(faults.transaction_aborts) {
                node.sends.stage = Stage::Ending { due: now + chance.millis(1, 25), taken, trial };
                return;
            }
            // Not committed, and that is certain: the outcomes go into a later one.
            sum.aborted += 1;
            if added == Err(Refused::Producer) {
                node.sends.epoch = broker.init_transactions(id);
            } else {
                broker.abort(id, epoch);
            }
            node.sends.queue.splice(0..0, taken);
            node.commit_under_way = false;
        }
        Stage::Ending { due, taken, trial } if now < due => node.sends.stage = Stage::Ending { due, taken, trial },
        Stage::Ending { taken, trial, .. } => {
            let (id, epoch) = (node.id, node.sends.epoch);
            node.commit_under_way = false;
            let arrives = !chance.happens(faults.transaction_unknown);
            let answered = !chance.happens(faults.transaction_unknown);
            let committed = arrives && broker.commit_transaction(id, epoch).is_ok();
            if committed && answered {
                sum.transactions += 1;
                taken.iter().for_each(|outcome| node.completed(outcome.position, sum));
                node.partitions.committed(&trial.commits);
                return;
            }
            // Stored or not: a new producer ends it one way or the other, and the committed offsets say which.
            sum.unknown += 1;
            node.sends.epoch = broker.init_transactions(id);
            if node.sabotage == Sabotage::GoOnAfterUnknown {
                node.sends.queue.splice(0..0, taken);
            } else {
                node.read_anew();
            }
        }
    }
}

fn begin(node: &mut Node, now: Timestamp, chance: &mut Chance, sum: &mut Summary) {
    let mut outcomes = std::mem::take(&mut node.sends.queue);
    outcomes.sort_by_key(|outcome| (outcome.position.partition, outcome.position.offset));
    let asked: Vec<_> = outcomes.iter().map(|outcome| (outcome.position, 1)).collect();
    // Brokers with a low offset.metadata.max.bytes take none.
    let trial = node.partitions.trial(&asked, node.id != 1);
    let mut taken = Vec::new();
    for (outcome, fate) in outcomes.into_iter().zip(&trial.fates) {
        match fate {
            Fate::Taken => taken.push(outcome),
            Fate::Later => node.sends.queue.push(outcome),
            Fate::Fenced if node.sabotage == Sabotage::IgnoreFate => taken.push(outcome),
            Fate::Fenced => sum.fenced += 1,
        }
    }
    if taken.is_empty() {
        return;
    }
    node.commit_under_way = true;
    let (due, generation) = (now + chance.millis(1, 25), node.generation);
    node.sends.stage = Stage::Offered { due, taken, trial, generation };
}
