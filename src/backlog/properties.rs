//! Properties of the backlog against a naive model: a flat list of calls, each with a word for where it is, that is looked
//! through from the beginning for every question.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::One;
use super::{Backlog, Ended, LineKey, Policies, Quota, Quotas};
use crate::retry;
use crate::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, Ordering, Retry, Sha256, Status, Timestamp,
};

const CALLS_MAX: usize = 2;
const WAITING_MAX: usize = 4;

/// Where a call is. Those with a number go by it, smallest first.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// Behind others of its line.
    Behind,
    /// Waits for its tenant's turn.
    Gate(u64),
    Out,
    /// Waits for its next attempt.
    Waiting(Timestamp, u64),
    /// It has its outcome, and its line is still its own.
    Over,
    Gone,
}

#[derive(Debug)]
struct Entry {
    call: One,
    place: Place,
}

impl Entry {
    fn line(&self) -> Option<&LineKey> {
        self.call.terms.line.as_ref()
    }

    fn is_here(&self) -> bool {
        matches!(self.place, Place::Behind | Place::Gate(_) | Place::Waiting(..))
    }
}

/// Calls in the order in which they came.
#[derive(Debug, Default)]
struct Naive {
    calls: Vec<Entry>,
    serial: u64,
}

impl Naive {
    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn at_gate(&self, tenant: &str) -> Vec<usize> {
        let mut found: Vec<(u64, usize)> = Vec::new();
        for (index, entry) in self.calls.iter().enumerate() {
            if let (Place::Gate(serial), Some(of)) = (&entry.place, &entry.call.terms.tenant)
                && **of == *tenant
            {
                found.push((*serial, index));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, index)| index).collect()
    }

    /// Moves whatever may move; what goes out, in order.
    fn settle(&mut self) -> Vec<u32> {
        let mut out = Vec::new();
        loop {
            let holds = |line: &LineKey| {
                let is_held = |place: &Place| !matches!(place, Place::Behind | Place::Gone);
                self.calls.iter().any(|entry| entry.line() == Some(line) && is_held(&entry.place))
            };
            let is_next = |entry: &Entry| entry.place == Place::Behind && !entry.line().is_some_and(holds);
            if let Some(index) = self.calls.iter().position(is_next) {
                self.calls[index].place = Place::Gate(self.next_serial());
                continue;
            }
            let goes = self.calls.iter().position(|entry| {
                let Place::Gate(_) = entry.place else { return false };
                let Some(tenant) = &entry.call.terms.tenant else { return true };
                let is_out =
                    |other: &&Entry| other.place == Place::Out && other.call.terms.tenant.as_ref() == Some(tenant);
                self.calls.iter().filter(is_out).count() < CALLS_MAX
            });
            let Some(index) = goes else { return out };
            // Of its tenant's calls the one that has waited longest.
            let tenant = self.calls[index].call.terms.tenant.clone();
            let index = tenant.map_or(index, |tenant| self.at_gate(&tenant)[0]);
            self.calls[index].place = Place::Out;
            out.push(self.calls[index].call.id);
        }
    }

    fn enter(&mut self, call: One) -> Option<Vec<u32>> {
        let is_full = call.terms.tenant.as_ref().is_some_and(|tenant| {
            let waits = |entry: &&Entry| entry.is_here() && entry.call.terms.tenant.as_ref() == Some(tenant);
            self.calls.iter().filter(waits).count() >= WAITING_MAX
        });
        if is_full {
            return None;
        }
        self.calls.push(Entry { call, place: Place::Behind });
        Some(self.settle())
    }

    fn place(&mut self, id: u32) -> &mut Place {
        &mut self.calls.iter_mut().find(|entry| entry.call.id == id).expect("it came").place
    }

    fn put(&mut self, id: u32, place: Place) -> Vec<u32> {
        *self.place(id) = place;
        self.settle()
    }

    fn waiting(&self) -> Option<(Timestamp, u64, u32)> {
        let of = |entry: &Entry| match entry.place {
            Place::Waiting(due, serial) => Some((due, serial, entry.call.id)),
            _ => None,
        };
        self.calls.iter().filter_map(of).min()
    }

    fn forget(&mut self, partition: i32) -> (usize, Vec<u32>) {
        let gone = |entry: &&mut Entry| entry.call.partition == partition;
        let mut count = 0;
        for entry in self.calls.iter_mut().filter(gone) {
            if entry.place == Place::Behind {
                entry.place = Place::Gone;
                count += 1;
            }
        }
        // What holds a line gives it up one after another: by when it is due, then by its tenant.
        let mut leaving = Vec::new();
        for entry in self.calls.iter_mut().filter(gone) {
            let rank = match entry.place {
                Place::Waiting(due, serial) => (0, due, String::new(), serial),
                Place::Gate(serial) => {
                    let tenant = entry.call.terms.tenant.as_ref().expect("without a tenant nothing waits");
                    (1, Timestamp::from_millis(0), tenant.to_string(), serial)
                }
                _ => continue,
            };
            leaving.push((rank, entry.call.id));
            entry.place = Place::Over;
        }
        leaving.sort();
        count += leaving.len();
        (count, leaving.into_iter().flat_map(|(_, id)| self.put(id, Place::Gone)).collect())
    }

    fn len(&self) -> usize {
        self.calls.iter().filter(|entry| entry.is_here()).count()
    }
}

fn policies(quotas: &Arc<Quotas>) -> Policies {
    let mut policies = Policies::new(Arc::clone(quotas));
    for (index, (ordering, attempts_max)) in
        [(Ordering::Unordered, 3), (Ordering::Key, 2), (Ordering::Partition, 3), (Ordering::Key, 1)]
            .into_iter()
            .enumerate()
    {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new(function(index), "1", artifact, FunctionKind::Component);
        definition.ordering = ordering;
        definition.retry = Retry { attempts_max, backoff_ms: 20, backoff_max_ms: 30, ..Retry::default() };
        policies.define(&definition);
    }
    policies
}

fn function(index: usize) -> FunctionName {
    FunctionName::new(&format!("f{index}")).expect("a name")
}

#[derive(Clone, Debug)]
enum Step {
    Enter {
        function: usize,
        key: u8,
        partition: i32,
        tenant: Option<u8>,
    },
    /// One of those that are out, by its place among them.
    End {
        which: usize,
        status: Status,
        chance: f64,
    },
    Withdraw {
        which: usize,
    },
    /// One of those whose outcome is on its way.
    Leave {
        which: usize,
    },
    Pass {
        ms: u64,
    },
    Forget {
        partition: i32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let statuses = prop::sample::select(vec![Status::Ok, Status::Trap, Status::FunctionError, Status::Rejected]);
    let step = prop_oneof![
        6 => (0..4_usize, 0..3_u8, 0..3_i32, prop::option::of(0..2_u8))
            .prop_map(|(function, key, partition, tenant)| Step::Enter { function, key, partition, tenant }),
        4 => (any::<usize>(), statuses, 0.0..1.0_f64)
            .prop_map(|(which, status, chance)| Step::End { which, status, chance }),
        1 => any::<usize>().prop_map(|which| Step::Withdraw { which }),
        4 => any::<usize>().prop_map(|which| Step::Leave { which }),
        3 => (0..20_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..3_i32).prop_map(|partition| Step::Forget { partition }),
    ];
    prop::collection::vec(step, 1..200)
}

fn ids(calls: &[One]) -> Vec<u32> {
    calls.iter().map(|call| call.id).collect()
}

proptest! {
    /// Which calls go out at each step, in which order, how many wait, and when the next attempt is due, is what the model says.
    #[test]
    fn calls_go_out_as_a_naive_model_says(steps in steps()) {
        let quota = Quota { calls_max: CALLS_MAX as u32, waiting_max: WAITING_MAX as u32 };
        let quotas = Arc::new(Quotas::new(quota, [("none", Quota::default())]));
        let policies = policies(&quotas);
        let (mut backlog, mut naive) = (Backlog::new(quotas), Naive::default());
        let mut now = Timestamp::from_millis(1_000);
        // Those that went out, and those whose line is not given up yet.
        let (mut running, mut over): (Vec<One>, Vec<One>) = (Vec::new(), Vec::new());
        for (id, step) in (1_u32..).zip(steps) {
            let mut out = Vec::new();
            let expected = match step {
                Step::Enter { function: index, key, partition, tenant } => {
                    let mut terms = policies.terms(&function(index), Some(&[key]), Some(partition));
                    // No tenant is one of them.
                    terms.tenant = tenant.map(|tenant| format!("t{tenant}").into()).or(terms.tenant);
                    let call = One { id, terms, partition, attempt: 1 };
                    let expected = naive.enter(call.clone());
                    prop_assert_eq!(backlog.enter(call, &mut out).is_some(), expected.is_none());
                    expected.unwrap_or_default()
                }
                Step::End { which, status, chance } if !running.is_empty() => {
                    let call = running.remove(which % running.len());
                    let (id, attempt) = (call.id, call.attempt);
                    let policy = call.terms.retry.clone();
                    let wait = policy.and_then(|policy| retry::next(&policy, status, attempt, Duration::ZERO, chance));
                    match (backlog.ended(now, call, status, Duration::ZERO, chance, &mut out), wait) {
                        (Ended::Again, Some(wait)) => {
                            let serial = naive.next_serial();
                            naive.put(id, Place::Waiting(now + wait, serial))
                        }
                        (Ended::Over { call, .. }, None) => {
                            over.push(call);
                            naive.put(id, Place::Over)
                        }
                        (ended, wait) => return Err(TestCaseError::fail(format!("{ended:?} where the wait is {wait:?}"))),
                    }
                }
                Step::Withdraw { which } if !running.is_empty() => {
                    let call = running.remove(which % running.len());
                    backlog.withdraw(&call, &mut out);
                    // Its tenant's next one goes out before its line's.
                    let mut expected = naive.put(call.id, Place::Over);
                    expected.extend(naive.put(call.id, Place::Gone));
                    expected
                }
                Step::Leave { which } if !over.is_empty() => {
                    let call = over.remove(which % over.len());
                    if let Some(line) = &call.terms.line {
                        backlog.leave(line, &mut out);
                    }
                    naive.put(call.id, Place::Gone)
                }
                Step::Pass { ms } => {
                    now = now + Duration::from_millis(ms);
                    while backlog.due(now, &mut out) {}
                    let mut expected = Vec::new();
                    while let Some((_, _, id)) = naive.waiting().filter(|(due, ..)| *due <= now) {
                        let serial = naive.next_serial();
                        expected.extend(naive.put(id, Place::Gate(serial)));
                    }
                    expected
                }
                Step::Forget { partition } => {
                    let (count, expected) = naive.forget(partition);
                    prop_assert_eq!(backlog.forget(&[partition], &mut out), count);
                    expected
                }
                Step::End { .. } | Step::Withdraw { .. } | Step::Leave { .. } => Vec::new(),
            };
            prop_assert_eq!(ids(&out), expected);
            running.extend(out);
            prop_assert_eq!(backlog.len(), naive.len());
            prop_assert_eq!(backlog.is_empty(), naive.len() == 0);
            prop_assert_eq!(backlog.next_due(), naive.waiting().map(|(due, ..)| due));
        }
    }
}
