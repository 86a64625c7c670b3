//! Calls between their message and their last attempt: behind others of their line, or waiting to be tried again.
//!
//! Duty: what a function's definition says of the order of its calls and of failed ones, as a state machine: calls go in,
//! those that may go out come back. Must not: run a call, publish, read a clock, or draw a number.
//!
//! It has no bound of its own: every call in it is one that ingest counts as in flight, and ingest has a bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::order::Lines;
use crate::retry;
use crate::types::{FunctionDefinition, FunctionName, Ordering, Retry, Status, Timestamp};

/// What calls of one line have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LineKey {
    /// A message key, of one function.
    Key(FunctionName, Box<[u8]>),
    /// A partition, of one function.
    Partition(FunctionName, i32),
}

/// What a definition asks for a call, beyond the ordinary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// The line in which it goes, where its function's calls have an order.
    pub line: Option<LineKey>,
    /// How it is tried again, where it is.
    pub retry: Option<Arc<Retry>>,
}

impl Terms {
    /// Whether nothing is asked for.
    pub fn are_ordinary(&self) -> bool {
        self.line.is_none() && self.retry.is_none()
    }
}

/// The terms of every function that asks for any.
#[derive(Debug, Default)]
pub struct Policies(HashMap<FunctionName, (Ordering, Option<Arc<Retry>>)>);

impl Policies {
    /// A function is defined, or defined anew.
    pub fn define(&mut self, definition: &FunctionDefinition) {
        let retry = (definition.retry.attempts_max > 1).then(|| Arc::new(definition.retry.clone()));
        if retry.is_some() || definition.ordering != Ordering::Unordered {
            self.0.insert(definition.name.clone(), (definition.ordering, retry));
        } else {
            self.0.remove(&definition.name);
        }
    }

    /// A function is no more.
    pub fn remove(&mut self, function: &FunctionName) {
        self.0.remove(function);
    }

    /// How many functions ask for something.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a failed call of this function may end as a dead letter.
    pub fn tries_again(&self, function: &FunctionName) -> bool {
        self.0.get(function).is_some_and(|(_, retry)| retry.is_some())
    }

    /// What is asked for a call with this message key, of this partition.
    pub fn terms(&self, function: &FunctionName, key: Option<&[u8]>, partition: Option<i32>) -> Terms {
        let Some((ordering, retry)) = self.0.get(function) else { return Terms::default() };
        let line = match (ordering, key, partition) {
            (Ordering::Key, Some(key), _) => Some(LineKey::Key(function.clone(), key.into())),
            (Ordering::Partition, _, Some(partition)) => Some(LineKey::Partition(function.clone(), partition)),
            // Without a key there is nothing that it would have to follow.
            (Ordering::Unordered | Ordering::Key | Ordering::Partition, ..) => None,
        };
        Terms { line, retry: retry.clone() }
    }
}

/// A call, as the backlog sees it.
pub trait Held {
    /// What its definition asked for when it came.
    fn terms(&self) -> &Terms;
    /// The partition that it came from; None for one that came from elsewhere.
    fn partition(&self) -> Option<i32>;
    /// Which attempt it is at, from 1.
    fn attempt(&self) -> u32;
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
}

impl<C> Default for Backlog<C> {
    fn default() -> Self {
        Self { lines: Lines::default(), waiting: BTreeMap::new(), serial: 0 }
    }
}

impl<C: Held> Backlog<C> {
    /// A call comes. It is given back where it may go out at once.
    pub fn enter(&mut self, call: C) -> Option<C> {
        match call.terms().line.clone() {
            Some(line) => self.lines.enter(line, call),
            None => Some(call),
        }
    }

    /// An attempt of a call ended with `status`. `age` is the time since the call was received; `chance` as in
    /// [`retry::next`].
    pub fn ended(&mut self, now: Timestamp, mut call: C, status: Status, age: Duration, chance: f64) -> Ended<C> {
        let Some(policy) = &call.terms().retry else { return Ended::Over { call, used_up: false } };
        let used_up = retry::is_tried_again(policy, status);
        let Some(wait) = retry::next(policy, status, call.attempt(), age, chance) else {
            return Ended::Over { call, used_up };
        };
        call.next_attempt();
        self.waiting.insert((now + wait, self.serial), call);
        self.serial += 1;
        Ended::Again
    }

    /// The outcome of a call of this line is on its way. Gives the next one, which goes out.
    pub fn leave(&mut self, line: &LineKey) -> Option<C> {
        self.lines.leave(line)
    }

    /// When the next attempt is due; None where none waits.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// A call whose next attempt is due; it goes out.
    pub fn due(&mut self, now: Timestamp) -> Option<C> {
        let is_due = self.next_due().is_some_and(|due| due <= now);
        is_due.then(|| self.waiting.pop_first().map(|(_, call)| call)).flatten()
    }

    /// Partitions are another node's: drops what waits here of their calls. Gives back how many those were, and the calls of
    /// other partitions that were behind them, which go out.
    pub fn forget(&mut self, partitions: &[i32]) -> (usize, Vec<C>) {
        let is_gone = |call: &C| call.partition().is_some_and(|partition| partitions.contains(&partition));
        let mut dropped = self.lines.forget(is_gone).len();
        let due: Vec<_> = self.waiting.iter().filter(|(_, call)| is_gone(call)).map(|(due, _)| *due).collect();
        let mut go_out = Vec::new();
        for due in due {
            let Some(call) = self.waiting.remove(&due) else { continue };
            dropped += 1;
            // It was out in its line while it waited.
            go_out.extend(call.terms().line.as_ref().and_then(|line| self.lines.leave(line)));
        }
        (dropped, go_out)
    }

    /// Calls that are here.
    pub fn len(&self) -> usize {
        self.lines.waiting() + self.waiting.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    #[derive(Debug, Clone, PartialEq)]
    struct One {
        id: u32,
        terms: Terms,
        partition: i32,
        attempt: u32,
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
        backlog.ended(NOW, call, status, Duration::ZERO, 0.0)
    }

    #[test]
    fn only_functions_that_ask_for_something_are_kept() {
        assert!(policies(Ordering::Unordered, 1).is_empty());
        let ordered = policies(Ordering::Key, 1);
        assert_eq!((ordered.len(), ordered.tries_again(&FunctionName::new("f").unwrap())), (1, false));
        assert!(ordered.terms(&FunctionName::new("g").unwrap(), None, Some(0)).are_ordinary());
        assert!(
            ordered.terms(&FunctionName::new("f").unwrap(), None, Some(0)).are_ordinary(),
            "without a key, no line"
        );
    }

    #[test]
    fn a_call_that_waits_for_its_next_attempt_keeps_its_line() {
        let policies = policies(Ordering::Key, 2);
        let mut backlog = Backlog::default();
        let first = backlog.enter(call(&policies, 1, "a", 0)).unwrap();
        assert_eq!(backlog.enter(call(&policies, 2, "a", 0)), None);
        assert!(backlog.enter(call(&policies, 3, "b", 0)).is_some());
        assert_eq!(ended(&mut backlog, first, Status::Trap), Ended::Again);
        assert_eq!((backlog.len(), backlog.next_due()), (2, Some(NOW + Duration::from_millis(100))));
        assert_eq!(backlog.due(NOW + Duration::from_millis(99)), None);
        let again = backlog.due(NOW + Duration::from_millis(100)).unwrap();
        assert_eq!((again.id, again.attempt), (1, 2));
        let line = again.terms.line.clone().unwrap();
        assert!(matches!(ended(&mut backlog, again, Status::Trap), Ended::Over { used_up: true, .. }));
        assert_eq!(backlog.leave(&line).unwrap().id, 2);
    }

    #[test]
    fn what_is_not_tried_again_is_not_used_up() {
        let mut backlog = Backlog::default();
        for (status, attempts_max) in [(Status::Ok, 3), (Status::Rejected, 3), (Status::Limit, 3), (Status::Trap, 1)] {
            let call = call(&policies(Ordering::Unordered, attempts_max), 1, "a", 0);
            assert!(matches!(ended(&mut backlog, call, status), Ended::Over { used_up: false, .. }), "{status:?}");
        }
        assert!(backlog.is_empty());
    }

    #[test]
    fn partitions_that_go_take_their_waiting_calls_along_and_let_others_out() {
        let policies = policies(Ordering::Key, 3);
        let mut backlog = Backlog::default();
        // The key moved from partition 0 to 1 when partitions were added.
        let first = backlog.enter(call(&policies, 1, "a", 0)).unwrap();
        assert_eq!(backlog.enter(call(&policies, 2, "a", 0)), None);
        assert_eq!(backlog.enter(call(&policies, 3, "a", 1)), None);
        assert_eq!(ended(&mut backlog, first, Status::Trap), Ended::Again);
        let (dropped, go_out) = backlog.forget(&[0]);
        assert_eq!((dropped, go_out.iter().map(|call| call.id).collect::<Vec<_>>()), (2, vec![3]));
        assert!(backlog.is_empty() && backlog.next_due().is_none());
    }
}
