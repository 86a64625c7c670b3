//! The account of a run: which calls were sent, which results came, and how long they took.
//!
//! A result that nobody waits for is counted too: a second one for a call is a duplicate, one for no call is a stranger.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Latencies;
use crate::types::{InvocationResult, StartKind, Status};

/// What came of one group of calls.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Calls sent.
    pub sent: u64,
    /// Calls with a first result.
    pub answered: u64,
    /// First results by status.
    pub statuses: BTreeMap<&'static str, u64>,
    /// First results by start kind.
    pub start_kinds: BTreeMap<StartKind, u64>,
    /// Time to an instance in hand, as the service reports it.
    pub prepare: Latencies,
    /// From sending to reading the result, as this client sees it.
    pub whole: Latencies,
}

struct Sent {
    group: &'static str,
    at: Instant,
    answers: u32,
}

/// See the head of this file.
#[derive(Default)]
pub struct Tally {
    sent: HashMap<String, Sent>,
    groups: BTreeMap<&'static str, Group>,
    outstanding: u64,
    duplicates: u64,
    strangers: u64,
}

impl Tally {
    /// A call of `group` is about to be sent.
    pub fn sending(&mut self, group: &'static str, id: String, now: Instant) {
        self.groups.entry(group).or_default().sent += 1;
        self.sent.insert(id, Sent { group, at: now, answers: 0 });
        self.outstanding += 1;
    }

    /// A result was read.
    pub fn came(&mut self, result: &InvocationResult, now: Instant) {
        let Some(sent) = self.sent.get_mut(&result.invocation_id) else {
            self.strangers += 1;
            return;
        };
        sent.answers += 1;
        if sent.answers > 1 {
            self.duplicates += 1;
            return;
        }
        self.outstanding -= 1;
        let group = self.groups.entry(sent.group).or_default();
        group.answered += 1;
        *group.statuses.entry(result.status.as_str()).or_default() += 1;
        group.whole.add(u64::try_from(now.duration_since(sent.at).as_micros()).unwrap_or(u64::MAX));
        if let Some(kind) = result.start_kind {
            *group.start_kinds.entry(kind).or_default() += 1;
            group.prepare.add(result.prepare_us);
        }
    }

    /// The groups, by name.
    pub fn groups(&self) -> &BTreeMap<&'static str, Group> {
        &self.groups
    }

    /// Calls sent.
    pub fn sent(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Calls without a result yet.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Results after the first of their call.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Results of calls that were not sent here.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Whether each call sent had exactly one result, with the status `ok`.
    pub fn is_clean(&self) -> bool {
        let all_ok = self
            .groups
            .values()
            .all(|group| group.statuses.get(Status::Ok.as_str()).copied().unwrap_or(0) == group.sent);
        all_ok && self.outstanding == 0 && self.duplicates == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{FunctionName, Timestamp};

    fn result(id: &str, status: Status) -> InvocationResult {
        InvocationResult {
            invocation_id: id.to_owned(),
            function: FunctionName::new("f").unwrap(),
            function_version: None,
            status,
            payload: None,
            error: None,
            start_kind: Some(StartKind::Warm),
            warm_reason: None,
            queued_us: 0,
            prepare_us: 7,
            execute_us: 0,
            attempt: 1,
            node: "n".to_owned(),
            completed_at: Timestamp::ZERO,
        }
    }

    #[test]
    fn missing_double_and_strange_results_are_told_apart() {
        let start = Instant::now();
        let mut tally = Tally::default();
        tally.sending("a", "1".to_owned(), start);
        tally.sending("a", "2".to_owned(), start);
        tally.came(&result("1", Status::Ok), start + Duration::from_millis(3));
        assert!(!tally.is_clean());
        assert_eq!(tally.outstanding(), 1);
        tally.came(&result("2", Status::Ok), start + Duration::from_millis(5));
        assert!(tally.is_clean());
        let group = &tally.groups()["a"];
        assert_eq!((group.answered, group.whole.percentile_us(1_000), group.prepare.percentile_us(500)), (2, 5_000, 7));
        tally.came(&result("2", Status::Ok), start);
        tally.came(&result("3", Status::Ok), start);
        assert_eq!((tally.duplicates(), tally.strangers()), (1, 1));
        assert!(!tally.is_clean());
    }

    #[test]
    fn a_failed_call_is_answered_but_not_clean() {
        let start = Instant::now();
        let mut tally = Tally::default();
        tally.sending("a", "1".to_owned(), start);
        tally.came(&result("1", Status::Trap), start);
        assert_eq!(tally.outstanding(), 0);
        assert!(!tally.is_clean());
    }
}
