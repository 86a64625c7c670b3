//! A function or tenant that holds its share of what is in flight: for a moment nothing is taken, as most are below it again at
//! once; then its further calls are put aside while those of others go on, and the consumer goes back for them.
//!
//! A call that is put aside is an offset, without its message: the watermark stays below it, so another node would read it too.
//! Must not: judge who holds what; `progress` does.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::Offset as At;
use rdkafka::consumer::Consumer;

use super::Sink;
use super::counters::count;
use super::intake::Intake;
use crate::progress::{Holder, Holding};
use crate::types::{Condition, ConditionKind, NextOffset};

/// How long a holder may be at its share before its calls are put aside. Each of those is read twice, so holders that work their
/// calls off are given the time to.
const CROWDED_FOR: Duration = Duration::from_millis(200);
/// How long the client may take to take note that it reads on elsewhere. No broker has a part in that; within it, it is certain
/// that nothing from the old place comes any more.
const MOVE: Duration = Duration::from_secs(1);
/// From a move that failed to the next.
const MOVE_AGAIN: Duration = Duration::from_secs(1);
/// From one line of log about shares to the next.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Most holders that are named at once.
const NAMED_MAX: usize = 100;

/// The poll thread's part of it.
#[derive(Default)]
pub(super) struct Crowd {
    /// Since when a holder is at its share, and none of its calls put aside yet.
    since: Option<Instant>,
    /// Who was over its share at the last look.
    over: Vec<Holder>,
    looked_at: Option<Instant>,
    said_at: Option<Instant>,
    move_at: Option<Instant>,
}

impl Crowd {
    /// Whether nothing is taken for a moment.
    pub(super) fn waits(&self) -> bool {
        self.since.is_some()
    }
}

impl<S: Sink> Intake<S> {
    /// Says of those at their share that it has lasted, where it has.
    pub(super) fn regulate_shares(&mut self, now: Instant) {
        if !self.partitions.is_crowded() {
            self.crowd.since = None;
        } else if now.duration_since(*self.crowd.since.get_or_insert(now)) >= CROWDED_FOR {
            self.partitions.spill();
            self.crowd.since = None;
        }
        self.name_holders(now);
    }

    /// Moves the consumer to calls that were put aside and have room now, or past those that are known.
    pub(super) fn follow_aside(&mut self, now: Instant) {
        if self.crowd.move_at.is_some_and(|at| now < at) {
            return;
        }
        self.crowd.move_at = None;
        for (partition, next) in self.partitions.moves() {
            // One that stands is moved for that.
            if self.standing.has(partition) {
                continue;
            }
            count(&self.control.counters.moves);
            if let Err(error) = self.consumer.seek(&self.topic, partition, At::Offset(next.0), MOVE) {
                // Where it is moved all the same, its offsets seem to go back, and calls in flight run again.
                tracing::warn!(partition, offset = next.0, %error, "the consumer was not moved to calls that were put aside; tried again");
                self.crowd.move_at = Some(now + MOVE_AGAIN);
                return;
            }
            if !self.partitions.moved(partition, next) {
                self.read_partition_anew(partition, next);
            }
        }
    }

    /// A message that was put aside is not on its topic any more: only the group's offset says where to go on.
    fn read_partition_anew(&mut self, partition: i32, next: NextOffset) {
        tracing::warn!(
            topic = %self.topic, partition, offset = next.0,
            "a call that was put aside is not there any more (retention, compaction): its partition is read from its committed offset"
        );
        self.give_up(&[partition]);
        self.transactions.read_anew.push(partition);
    }

    /// Tells operators who holds its share, when that changes, and every second what they hold.
    fn name_holders(&mut self, now: Instant) {
        if self.crowd.looked_at.is_some_and(|at| now.duration_since(at) < Duration::from_secs(1)) {
            return;
        }
        self.crowd.looked_at = Some(now);
        let over = self.partitions.over(NAMED_MAX);
        let names: Vec<Holder> = over.iter().map(|holding| holding.holder.clone()).collect();
        let may_say = self.crowd.said_at.is_none_or(|at| now.duration_since(at) >= SAY_EVERY);
        if names != self.crowd.over && may_say {
            self.crowd.said_at = Some(now);
            for Holding { holder, held, aside } in over.iter().take(3) {
                let holder = named(holder);
                tracing::warn!(
                    holder,
                    calls = held.calls,
                    bytes = held.bytes,
                    aside,
                    holders = over.len(),
                    "a share of what this node has in flight is used up (ingest.function-share-max, ingest.tenant-share-max): \
                     further calls of this holder wait on their topic or are refused, as its definition says; others go on"
                );
            }
            if over.is_empty() {
                tracing::info!("nobody holds a whole share of what this node has in flight any more");
            }
            self.crowd.over = names;
        }
        *self.control.over.lock().unwrap_or_else(PoisonError::into_inner) = over;
    }
}

/// A holder's name, for people.
fn named(holder: &Holder) -> String {
    match holder {
        Holder::Function(name) => format!("function {name}"),
        Holder::Tenant(Some(tenant)) => format!("tenant {tenant:?}"),
        Holder::Tenant(None) => "the functions without a tenant".to_owned(),
    }
}

/// What is said of a holder beside the node's health.
pub(super) fn condition(Holding { holder, held, aside }: &Holding) -> Condition {
    let mib = held.bytes.div_ceil(1 << 20);
    let detail = format!(
        "it holds {} calls and {mib} MiB of what this node has in flight, which is its share (ingest.function-share-max, \
         ingest.tenant-share-max); {aside} more wait on their topic, or are refused, as its definition says (overflow)",
        held.calls
    );
    let subject = match holder {
        Holder::Function(name) => name.to_string(),
        Holder::Tenant(_) => named(holder),
    };
    Condition { kind: ConditionKind::ShareHeld, subject, detail }
}
