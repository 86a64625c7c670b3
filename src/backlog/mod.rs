//! Calls between their message and their last attempt: behind others of their line, waiting to be tried again, or for their
//! tenant's turn.
//!
//! Duty: what a function's definition says of the order of its calls and of failed ones, and what a tenant may run at once,
//! as a state machine: calls go in, those that may go out come back. Must not: run a call, publish, read a clock, or draw a number.
//!
//! It has no bound of its own: every call in it is one that ingest counts as in flight, and ingest has a bound.

mod gate;
mod policies;
#[cfg(test)]
mod properties;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use gate::{Quota, Quotas};
pub use policies::{LineKey, Policies, Terms};

use self::gate::Gate;
use crate::order::Lines;
use crate::retry;
use crate::types::{Status, Timestamp};

/// A call, as the backlog sees it.
pub trait Held {
    /// What its definition asked for when it came.
    fn terms(&self) -> &Terms;
    /// The partition that it came from; None for one that came from elsewhere.
    fn partition(&self) -> Option<i32>;
    /// Which attempt it is at, from 1.
    fn attempt(&self) -> u32;
    /// When it is of no more use, where that was said.
    fn deadline(&self) -> Option<Timestamp> {
        None
    }
    /// It is at the next one.
    fn next_attempt(&mut self);
}

/// What follows from the end of an attempt.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call that is over has an outcome to be published"]
pub enum Ended<C> {
    /// It is tried again; what the attempt came to is not its outcome.
    Again,
    /// It is over.
    Over {
        /// The call.
        call: C,
        /// Whether it failed in a way that is tried again, and may not be any more.
        used_up: bool,
    },
}

/// See the head of this file.
#[derive(Debug)]
pub struct Backlog<C> {
    lines: Lines<LineKey, C>,
    waiting: BTreeMap<(Timestamp, u64), C>,
    serial: u64,
    gate: Gate<C>,
}

impl<C: Held> Backlog<C> {
    /// Holds nothing.
    pub fn new(quotas: Arc<Quotas>) -> Self {
        Self { lines: Lines::default(), waiting: BTreeMap::new(), serial: 0, gate: Gate::new(quotas) }
    }

    /// Other quotas hold from now on: calls that waited for their tenant's turn go out where there is room now.
    pub fn set_quotas(&mut self, quotas: Arc<Quotas>, out: &mut Vec<C>) {
        out.extend(self.gate.set_quotas(quotas));
    }

    /// A call comes; where it may, it goes out. It is given back where its tenant has as many waiting as it may.
    pub fn enter(&mut self, call: C, out: &mut Vec<C>) -> Option<C> {
        // Refused before it is in its line: behind it nothing must wait.
        if self.gate.is_full(&call) {
            return Some(call);
        }
        self.gate.hold(&call);
        let first = match call.terms().line.clone() {
            Some(line) => self.lines.enter(line, call),
            None => Some(call),
        };
        self.pass(first, out);
        None
    }

    fn pass(&mut self, call: Option<C>, out: &mut Vec<C>) {
        out.extend(call.and_then(|call| self.gate.enter(call)));
    }

    /// An attempt of a call ended with `status`. `age` is the time since the call was received; `chance` as in
    /// [`retry::next`]. No attempt begins at the call's deadline or later. Another call of its tenant may go out.
    pub fn ended(
        &mut self,
        now: Timestamp,
        mut call: C,
        status: Status,
        age: Duration,
        chance: f64,
        out: &mut Vec<C>,
    ) -> Ended<C> {
        out.extend(self.gate.leave(&call));
        let Some(policy) = &call.terms().retry else { return Ended::Over { call, used_up: false } };
        // One that had failed before, and then might not run: it failed for good.
        let used_up = retry::is_tried_again(policy, status) || (status == Status::Rejected && call.attempt() > 1);
        let in_time = |wait: &Duration| call.deadline().is_none_or(|deadline| now + *wait < deadline);
        let Some(wait) = retry::next(policy, status, call.attempt(), age, chance).filter(in_time) else {
            return Ended::Over { call, used_up };
        };
        call.next_attempt();
        self.gate.hold(&call);
        self.waiting.insert((now + wait, self.serial), call);
        self.serial += 1;
        Ended::Again
    }

    /// A call that went out has not begun, and will enter again.
    pub fn withdraw(&mut self, call: &C, out: &mut Vec<C>) {
        out.extend(self.gate.leave(call));
        if let Some(line) = &call.terms().line {
            self.leave(line, out);
        }
    }

    /// The outcome of a call of this line is on its way: the next one may go out.
    pub fn leave(&mut self, line: &LineKey, out: &mut Vec<C>) {
        let next = self.lines.leave(line);
        self.pass(next, out);
    }

    /// When the next attempt is due; None where none waits.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// A call's next attempt is due: it may go out. False where none is due.
    pub fn due(&mut self, now: Timestamp, out: &mut Vec<C>) -> bool {
        let is_due = self.next_due().is_some_and(|due| due <= now);
        let first = is_due.then(|| self.waiting.pop_first().map(|(_, call)| call)).flatten();
        self.pass(first, out);
        is_due
    }

    /// Partitions are another node's: drops what waits here of their calls, and answers how many those were. Calls of other
    /// partitions that were behind them go out.
    pub fn forget(&mut self, partitions: &[i32], out: &mut Vec<C>) -> usize {
        let is_gone = |call: &C| call.partition().is_some_and(|partition| partitions.contains(&partition));
        let behind = self.lines.forget(is_gone);
        let due: Vec<_> = self.waiting.iter().filter(|(_, call)| is_gone(call)).map(|(due, _)| *due).collect();
        let mut dropped: Vec<C> = due.into_iter().filter_map(|due| self.waiting.remove(&due)).collect();
        dropped.extend(self.gate.forget(is_gone));
        behind.iter().chain(&dropped).for_each(|call| self.gate.dropped(call));
        for call in &dropped {
            // Each of them was the one that is out in its line.
            if let Some(line) = &call.terms().line {
                self.leave(line, out);
            }
        }
        behind.len() + dropped.len()
    }

    /// Calls that are here.
    pub fn len(&self) -> usize {
        self.lines.waiting() + self.waiting.len() + self.gate.waiting()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionDefinition, FunctionKind, FunctionName, Ordering, Retry, Sha256};

    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct One {
        pub(super) id: u32,
        pub(super) terms: Terms,
        pub(super) partition: i32,
        pub(super) attempt: u32,
    }

    impl Held for One {
        fn terms(&self) -> &Terms {
            &self.terms
        }

        fn partition(&self) -> Option<i32> {
            Some(self.partition)
        }

        fn attempt(&self) -> u32 {
            self.attempt
        }

        fn next_attempt(&mut self) {
            self.attempt += 1;
        }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn policies(ordering: Ordering, attempts_max: u32) -> Policies {
        let mut policies = Policies::default();
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let name = FunctionName::new("f").unwrap();
        let mut definition = FunctionDefinition::new(name, "1", artifact, FunctionKind::Component);
        definition.ordering = ordering;
        definition.retry = Retry { attempts_max, backoff_ms: 100, ..Retry::default() };
        policies.define(&definition);
        policies
    }

    fn call(policies: &Policies, id: u32, key: &str, partition: i32) -> One {
        let function = FunctionName::new("f").unwrap();
        let terms = policies.terms(&function, Some(key.as_bytes()), Some(partition));
        One { id, terms, partition, attempt: 1 }
    }

    fn ended(backlog: &mut Backlog<One>, call: One, status: Status) -> Ended<One> {
        backlog.ended(NOW, call, status, Duration::ZERO, 0.0, &mut Vec::new())
    }

    fn backlog() -> Backlog<One> {
        Backlog::new(Arc::default())
    }

    /// What goes out when this is done.
    fn out(act: impl FnOnce(&mut Vec<One>)) -> Vec<One> {
        let mut out = Vec::new();
        act(&mut out);
        out
    }

    fn ids(calls: &[One]) -> Vec<u32> {
        calls.iter().map(|call| call.id).collect()
    }

    fn enter(backlog: &mut Backlog<One>, call: One) -> Vec<One> {
        out(|out| assert_eq!(backlog.enter(call, out), None))
    }

    #[test]
    fn only_functions_that_ask_for_something_are_kept() {
        assert!(policies(Ordering::Unordered, 1).are_ordinary());
        let ordered = policies(Ordering::Key, 1);
        assert!(!ordered.are_ordinary() && !ordered.tries_again(&FunctionName::new("f").unwrap()));
        assert!(ordered.terms(&FunctionName::new("g").unwrap(), None, Some(0)).are_ordinary());
        assert!(
            ordered.terms(&FunctionName::new("f").unwrap(), None, Some(0)).are_ordinary(),
            "without a key, no line"
        );
    }

    #[test]
    fn a_call_that_waits_for_its_next_attempt_keeps_its_line() {
        let policies = policies(Ordering::Key, 2);
        let mut backlog = backlog();
        let first = enter(&mut backlog, call(&policies, 1, "a", 0)).pop().unwrap();
        assert_eq!(enter(&mut backlog, call(&policies, 2, "a", 0)), []);
        assert_eq!(enter(&mut backlog, call(&policies, 3, "b", 0)).len(), 1);
        assert_eq!(ended(&mut backlog, first, Status::Trap), Ended::Again);
        assert_eq!((backlog.len(), backlog.next_due()), (2, Some(NOW + Duration::from_millis(100))));
        assert_eq!(out(|out| assert!(!backlog.due(NOW + Duration::from_millis(99), out))), []);
        let again = out(|out| assert!(backlog.due(NOW + Duration::from_millis(100), out))).pop().unwrap();
        assert_eq!((again.id, again.attempt), (1, 2));
        let line = again.terms.line.clone().unwrap();
        assert!(matches!(ended(&mut backlog, again, Status::Trap), Ended::Over { used_up: true, .. }));
        assert_eq!(ids(&out(|out| backlog.leave(&line, out))), [2]);
    }

    #[test]
    fn what_is_not_tried_again_is_not_used_up() {
        let mut backlog = backlog();
        for (status, attempts_max) in [(Status::Ok, 3), (Status::Rejected, 3), (Status::Limit, 3), (Status::Trap, 1)] {
            let call = call(&policies(Ordering::Unordered, attempts_max), 1, "a", 0);
            assert!(matches!(ended(&mut backlog, call, status), Ended::Over { used_up: false, .. }), "{status:?}");
        }
        assert!(backlog.is_empty());
    }

    #[test]
    fn partitions_that_go_take_their_waiting_calls_along_and_let_others_out() {
        let policies = policies(Ordering::Key, 3);
        let mut backlog = backlog();
        // The key moved from partition 0 to 1 when partitions were added.
        let first = enter(&mut backlog, call(&policies, 1, "a", 0)).pop().unwrap();
        assert_eq!(enter(&mut backlog, call(&policies, 2, "a", 0)), []);
        assert_eq!(enter(&mut backlog, call(&policies, 3, "a", 1)), []);
        assert_eq!(ended(&mut backlog, first, Status::Trap), Ended::Again);
        let go_out = out(|out| assert_eq!(backlog.forget(&[0], out), 2));
        assert_eq!(ids(&go_out), [3]);
        assert!(backlog.is_empty() && backlog.next_due().is_none());
    }

    fn of(tenant: &str, id: u32, partition: i32, policies: &Policies) -> One {
        let function = FunctionName::new("f").unwrap();
        let terms = Terms { tenant: Some(tenant.into()), ..policies.terms(&function, Some(b"k"), Some(partition)) };
        One { id, terms, partition, attempt: 1 }
    }

    #[test]
    fn a_tenant_runs_as_many_at_once_as_it_may_and_others_pass() {
        let quotas = Arc::new(Quotas::new(Quota { calls_max: 2, waiting_max: 2 }, [("big", Quota::default())]));
        let policies = Policies::new(Arc::clone(&quotas));
        assert!(!policies.are_ordinary());
        let mut backlog = Backlog::new(quotas);
        let mut running = Vec::new();
        for id in 1..=4 {
            running.extend(enter(&mut backlog, of("a", id, 0, &policies)));
        }
        assert_eq!((ids(&running), backlog.len()), (vec![1, 2], 2));
        // Two wait, which is as many as may; those of others go out, and so do all of one without a limit.
        assert_eq!(backlog.enter(of("a", 5, 0, &policies), &mut Vec::new()).unwrap().id, 5);
        assert_eq!(ids(&enter(&mut backlog, of("b", 6, 0, &policies))), [6]);
        for id in 10..20 {
            assert_eq!(ids(&enter(&mut backlog, of("big", id, 0, &policies))), [id]);
        }
        let first = running.remove(0);
        let next = out(|out| {
            let ended = backlog.ended(NOW, first, Status::Ok, Duration::ZERO, 0.0, out);
            assert!(matches!(ended, Ended::Over { used_up: false, .. }));
        });
        assert_eq!(ids(&next), [3]);
        // One that did not begin makes room too, and its partition's calls that wait are dropped with it.
        assert_eq!(ids(&out(|out| backlog.withdraw(&next[0], out))), [4]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_call_counts_against_its_function_s_tenant_and_all_without_one_together() {
        let quotas = Arc::new(Quotas::new(Quota { calls_max: 1, waiting_max: 0 }, [("big", Quota::default())]));
        let mut policies = Policies::new(quotas);
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        for (name, tenant) in [("owned", Some("owner")), ("shared", None)] {
            let name = FunctionName::new(name).unwrap();
            let mut definition = FunctionDefinition::new(name, "1", artifact.clone(), FunctionKind::Component);
            definition.tenant = tenant.map(str::to_owned);
            policies.define(&definition);
        }
        let tenant = |function: &str| {
            let terms = policies.terms(&FunctionName::new(function).unwrap(), None, Some(0));
            terms.tenant.map(|tenant| tenant.to_string())
        };
        assert_eq!(tenant("owned").as_deref(), Some("owner"));
        assert_eq!((tenant("shared").as_deref(), tenant("unknown").as_deref()), (Some(""), Some("")));
    }

    #[test]
    fn calls_that_wait_behind_their_key_or_for_an_attempt_count_against_their_tenant_s_quota() {
        let quotas = Arc::new(Quotas::new(Quota { calls_max: 0, waiting_max: 2 }, [("big", Quota::default())]));
        let mut policies = Policies::new(Arc::clone(&quotas));
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition =
            FunctionDefinition::new(FunctionName::new("f").unwrap(), "1", artifact, FunctionKind::Component);
        definition.ordering = Ordering::Key;
        definition.retry = Retry { attempts_max: 2, backoff_ms: 100, ..Retry::default() };
        policies.define(&definition);
        let mut backlog = Backlog::new(quotas);
        // All of them have one key.
        let first = enter(&mut backlog, of("a", 1, 0, &policies)).pop().unwrap();
        assert_eq!(enter(&mut backlog, of("a", 2, 0, &policies)), []);
        assert_eq!(ended(&mut backlog, first, Status::Trap), Ended::Again);
        assert_eq!(backlog.enter(of("a", 3, 0, &policies), &mut Vec::new()).unwrap().id, 3);
        // What goes out makes room.
        let first = out(|out| assert!(backlog.due(NOW + Duration::from_millis(100), out))).pop().unwrap();
        assert_eq!(enter(&mut backlog, of("a", 3, 0, &policies)), []);
        assert!(backlog.enter(of("a", 4, 0, &policies), &mut Vec::new()).is_some());
        assert_eq!((first.id, first.attempt, backlog.len()), (1, 2, 2));
    }

    #[test]
    fn a_call_that_waits_for_its_tenant_keeps_its_line_and_lets_it_go_with_its_partition() {
        let quotas = Arc::new(Quotas::new(Quota { calls_max: 1, waiting_max: 0 }, [("big", Quota::default())]));
        let mut policies = Policies::new(Arc::clone(&quotas));
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let name = FunctionName::new("f").unwrap();
        let mut definition = FunctionDefinition::new(name, "1", artifact, FunctionKind::Component);
        definition.ordering = Ordering::Partition;
        policies.define(&definition);
        let mut backlog = Backlog::new(quotas);
        assert_eq!(ids(&enter(&mut backlog, of("a", 1, 0, &policies))), [1]);
        // Both lines are free, and the tenant has one out.
        for (id, partition) in [(2, 1), (3, 2), (4, 1)] {
            assert_eq!(enter(&mut backlog, of("a", id, partition, &policies)), []);
        }
        assert!(out(|out| assert_eq!(backlog.forget(&[1], out), 2)).is_empty());
        let first = of("a", 1, 0, &policies);
        let next = out(|out| {
            let _ = backlog.ended(NOW, first, Status::Ok, Duration::ZERO, 0.0, out);
        });
        assert_eq!((ids(&next), backlog.len()), (vec![3], 0));
    }

    #[test]
    fn other_quotas_let_out_what_has_room_and_wait_for_what_is_out() {
        let quotas =
            |calls_max| Arc::new(Quotas::new(Quota { calls_max, waiting_max: 0 }, [("big", Quota::default())]));
        let mut policies = Policies::new(Arc::default());
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let name = FunctionName::new("owned").unwrap();
        let mut definition = FunctionDefinition::new(name.clone(), "1", artifact, FunctionKind::Component);
        definition.tenant = Some("owner".to_owned());
        policies.define(&definition);
        // Without quotas nobody is counted; with them, a function that was defined before is its tenant's.
        assert!(policies.are_ordinary() && policies.terms(&name, None, None).are_ordinary());
        policies.set_quotas(quotas(1));
        assert_eq!(policies.terms(&name, None, None).tenant.as_deref(), Some("owner"));
        let mut backlog = Backlog::new(quotas(1));
        let first = enter(&mut backlog, of("a", 1, 0, &policies)).pop().unwrap();
        for id in 2..=6 {
            assert_eq!(enter(&mut backlog, of("a", id, 0, &policies)), []);
        }
        let more = out(|out| backlog.set_quotas(quotas(3), out));
        assert_eq!(ids(&more), [2, 3]);
        // Lowered below what is out: the next goes out when there is one less than it may be.
        assert_eq!(out(|out| backlog.set_quotas(quotas(1), out)), []);
        for call in [&first, &more[0]] {
            assert_eq!(out(|out| backlog.withdraw(call, out)), []);
        }
        assert_eq!(ids(&out(|out| backlog.withdraw(&more[1], out))), [4]);
        // No limit: everybody.
        assert_eq!(ids(&out(|out| backlog.set_quotas(Arc::default(), out))), [5, 6]);
        assert!(backlog.is_empty());
    }
}
