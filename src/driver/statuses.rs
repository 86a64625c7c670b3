//! Which statuses are said when: functions when their state changes, the node itself when it changes and every 30 seconds.
//!
//! A plain state machine between the executor's facts and the topic of function statuses. Must not: publish (`outbox` does), or
//! say anything at every look: counts of instances are not in a status, and a function that goes to and fro is held back.
//!
//! Bounds: 200 records a look; of one function four at once and then one in ten seconds; of a reason that alone is new, one a
//! minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::asked::{Asked, Facts};
use crate::types::{FunctionFacts, FunctionName, FunctionStatus, StatusKind, Timestamp, cut_reason};

/// Records of one look, at most.
const RECORDS_MAX: usize = 200;
/// The node is heard of so often; it is gone where it is not heard of thrice in a row.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Where nothing could be said for so long, others may have removed what was said before: all is said again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// One record of a function costs so much of its allowance, which holds at most [`BURST`] times that.
const COST: Duration = Duration::from_secs(10);
const BURST: u32 = 4;
/// A reason that is new where nothing else is waits for so long.
const REASON_ALONE: Duration = Duration::from_secs(60);

/// What is to be published.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A status; its node is filled in where it is published.
    Status(FunctionStatus),
    /// A function is not on this node any more.
    Forgotten(FunctionName),
}

/// What was said last of one function.
struct Told {
    /// The newest change that was seen.
    change: u64,
    /// None before the first time.
    last: Option<(FunctionFacts, Timestamp)>,
    /// When the next record is due, where something is left to say.
    due: Option<Timestamp>,
    /// How far its allowance is used up, as a time (the theoretical arrival time of the generic cell rate algorithm).
    used_until: Timestamp,
}

/// What was said last of the node.
struct NodeTold {
    state: StatusKind,
    since: Timestamp,
    at: Timestamp,
}

/// See the head of this file.
pub struct Statuses {
    started_at: Timestamp,
    facts: Arc<dyn Facts>,
    told: HashMap<FunctionName, Told>,
    node: Option<NodeTold>,
}

impl Statuses {
    /// Says what `asked` knows, of a node whose process began at `started_at`.
    pub fn new(asked: &Asked, started_at: Timestamp) -> Self {
        Self::of(Arc::clone(&asked.facts), started_at)
    }

    fn of(facts: Arc<dyn Facts>, started_at: Timestamp) -> Self {
        Self { started_at, facts, told: HashMap::new(), node: None }
    }

    /// What is to be said now; `not_ready` is why the node takes no calls, where it takes none. To be called every second or so,
    /// while records can be stored.
    pub fn look(&mut self, now: Timestamp, not_ready: Option<String>) -> Vec<Said> {
        let mut said = Vec::new();
        let was_silent = self.node.as_ref().is_some_and(|node| now.since(node.at) >= AGAIN_AFTER);
        // Before the functions: what they say counts from then on.
        said.extend(self.node_status(now, not_ready));
        let facts = Arc::clone(&self.facts);
        let gone: Vec<_> =
            self.told.keys().filter(|function| !facts.knows(function)).take(RECORDS_MAX).cloned().collect();
        for function in gone {
            self.told.remove(&function);
            said.push(Said::Forgotten(function));
        }
        if was_silent {
            self.told.clear();
        }
        for (function, change, facts) in facts.changed(&|name| self.told.get(name).map(|told| told.change), RECORDS_MAX)
        {
            let told = self.told.entry(function).or_insert(Told { change, last: None, due: None, used_until: now });
            told.change = change;
            told.due = told.due_for(&facts, now);
        }
        let due = self.told.iter_mut().filter(|(_, told)| told.due.is_some_and(|due| due <= now)).take(RECORDS_MAX);
        for (function, told) in due {
            // Gone in this moment: the next look says so.
            let Some(facts) = facts.facts(function) else { continue };
            said.push(Said::Status(status(function, &facts, self.started_at, now)));
            told.used_until = told.used_until.max(now) + COST;
            (told.due, told.last) = (None, Some((facts, now)));
        }
        said
    }

    /// The node's last word, where it has spoken before.
    pub fn stopped(&self, now: Timestamp) -> Option<Said> {
        self.node.as_ref().map(|_| Said::Status(self.of_node(StatusKind::Stopped, None, now, now)))
    }

    fn node_status(&mut self, now: Timestamp, not_ready: Option<String>) -> Option<Said> {
        let state = if not_ready.is_none() { StatusKind::Serving } else { StatusKind::NotReady };
        let since = match &self.node {
            Some(node) if node.state == state && now.since(node.at) < HEARTBEAT => return None,
            Some(node) if node.state == state => node.since,
            _ => now,
        };
        self.node = Some(NodeTold { state, since, at: now });
        Some(Said::Status(self.of_node(state, not_ready, since, now)))
    }

    fn of_node(&self, state: StatusKind, reason: Option<String>, since: Timestamp, now: Timestamp) -> FunctionStatus {
        FunctionStatus {
            node: String::new(),
            function: None,
            state,
            reason: reason.map(|reason| cut_reason(&reason)),
            since,
            version: None,
            running_version: None,
            definition: None,
            node_started_at: self.started_at,
            said_at: now,
        }
    }
}

impl Told {
    /// When what is so now is to be said; None where it was.
    fn due_for(&self, facts: &FunctionFacts, now: Timestamp) -> Option<Timestamp> {
        let Some((last, said_at)) = &self.last else { return Some(now) };
        let essence = |facts: &FunctionFacts| {
            let FunctionFacts { state, since, version, running_version, definition, .. } = facts;
            (*state, *since, version.clone(), running_version.clone(), definition.clone())
        };
        // A function that is back where it was before that could be said has had no change that somebody must hear of; but its
        // time did.
        if essence(last) != essence(facts) {
            let allowed = self.used_until - COST * (BURST - 1);
            return Some(allowed.max(now));
        }
        (last.reason != facts.reason).then(|| (*said_at + REASON_ALONE).max(now))
    }
}

fn status(
    function: &FunctionName,
    facts: &FunctionFacts,
    node_started_at: Timestamp,
    said_at: Timestamp,
) -> FunctionStatus {
    let FunctionFacts { state, reason, since, version, running_version, definition, .. } = facts.clone();
    let function = Some(function.clone());
    FunctionStatus {
        node: String::new(),
        function,
        state,
        reason,
        since,
        version,
        running_version,
        definition,
        node_started_at,
        said_at,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Functions with the number of their last change.
    #[derive(Default)]
    struct Fake(Mutex<BTreeMap<FunctionName, (u64, FunctionFacts)>>);

    impl Fake {
        fn with<R>(&self, act: impl FnOnce(&mut BTreeMap<FunctionName, (u64, FunctionFacts)>) -> R) -> R {
            act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        /// A function changes: its state and reason are these, since then.
        fn is(&self, function: &str, state: StatusKind, reason: &str, since: i64) {
            self.with(|all| {
                let function: FunctionName = function.parse().unwrap();
                let change = all.get(&function).map_or(0, |(change, _)| *change) + 1;
                let facts = FunctionFacts {
                    state,
                    reason: Some(reason.to_owned()),
                    since: at(since),
                    version: None,
                    running_version: None,
                    definition: None,
                    failures: None,
                    ready: 0,
                    preparing: 0,
                    busy: 0,
                    waiting: 0,
                };
                all.insert(function, (change, facts));
            });
        }
    }

    impl Facts for Fake {
        fn facts(&self, function: &FunctionName) -> Option<FunctionFacts> {
            self.with(|all| all.get(function).map(|(_, facts)| facts.clone()))
        }

        fn facts_after(&self, _: Option<&str>, _: usize) -> Vec<(FunctionName, FunctionFacts)> {
            Vec::new()
        }

        fn in_trouble(&self, _: usize) -> Vec<(FunctionName, FunctionFacts)> {
            Vec::new()
        }

        fn knows(&self, function: &FunctionName) -> bool {
            self.facts(function).is_some()
        }

        fn changed(
            &self,
            known: &dyn Fn(&FunctionName) -> Option<u64>,
            limit: usize,
        ) -> Vec<(FunctionName, u64, FunctionFacts)> {
            self.with(|all| {
                let new = all.iter().filter(|(function, (change, _))| known(function) != Some(*change));
                new.map(|(function, (change, facts))| (function.clone(), *change, facts.clone())).take(limit).collect()
            })
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn new() -> (Arc<Fake>, Statuses) {
        let fake = Arc::new(Fake::default());
        let statuses = Statuses::of(Arc::clone(&fake) as Arc<dyn Facts>, at(0));
        (fake, statuses)
    }

    /// What is said of functions, as text; the node's own words are left out.
    fn of_functions(said: &[Said]) -> Vec<String> {
        let told = said.iter().filter_map(|said| match said {
            Said::Status(FunctionStatus { function: None, .. }) => None,
            Said::Status(status) => {
                let function = status.function.as_ref().unwrap();
                Some(format!("{function} {} {}", status.state.as_str(), status.reason.clone().unwrap_or_default()))
            }
            Said::Forgotten(function) => Some(format!("-{function}")),
        });
        told.collect()
    }

    /// The state of the node where it says something.
    fn of_node(said: &[Said]) -> Option<(StatusKind, i64)> {
        said.iter().find_map(|said| match said {
            Said::Status(status @ FunctionStatus { function: None, .. }) => {
                Some((status.state, status.since.as_millis() / 1_000))
            }
            _ => None,
        })
    }

    #[test]
    fn what_changed_is_said_once() {
        let (fake, mut statuses) = new();
        fake.is("f", StatusKind::Loading, "is fetched", 0);
        assert_eq!(of_functions(&statuses.look(at(0), None)), ["f loading is fetched"]);
        assert_eq!(of_functions(&statuses.look(at(1), None)), [""; 0]);
        fake.is("f", StatusKind::Loaded, "", 2);
        fake.is("g", StatusKind::Loading, "", 2);
        let mut said = of_functions(&statuses.look(at(2), None));
        said.sort();
        assert_eq!(said, ["f loaded ", "g loading "]);
        fake.with(BTreeMap::clear);
        let mut said = of_functions(&statuses.look(at(3), None));
        said.sort();
        assert_eq!(said, ["-f", "-g"]);
        assert_eq!(of_functions(&statuses.look(at(4), None)), [""; 0]);
        // Under the same name, from the first change on.
        fake.is("f", StatusKind::Loading, "is fetched", 5);
        assert_eq!(of_functions(&statuses.look(at(5), None)), ["f loading is fetched"]);
    }

    #[test]
    fn a_function_that_goes_to_and_fro_is_held_back_and_its_last_state_is_said() {
        let (fake, mut statuses) = new();
        let mut records = 0;
        for second in 0..120 {
            let state = if second % 2 == 0 { StatusKind::Failing } else { StatusKind::Running };
            fake.is("f", state, "", second);
            records += of_functions(&statuses.look(at(second), None)).len();
        }
        // Four at once, and one in each ten seconds after that.
        assert_eq!(records, 4 + 11);
        let said: Vec<_> = (120..140).flat_map(|second| of_functions(&statuses.look(at(second), None))).collect();
        assert_eq!(said, ["f running "]);
    }

    #[test]
    fn a_reason_that_alone_is_new_waits_for_a_minute() {
        let (fake, mut statuses) = new();
        let mut said = Vec::new();
        for second in 0..=130 {
            fake.is("f", StatusKind::Failing, &format!("try {second}"), 0);
            said.extend(of_functions(&statuses.look(at(second), None)));
        }
        assert_eq!(said, ["f failing try 0", "f failing try 60", "f failing try 120"]);
    }

    #[test]
    fn one_look_says_so_much_and_the_next_the_rest() {
        let (fake, mut statuses) = new();
        for nth in 0..500 {
            fake.is(&format!("f{nth}"), StatusKind::Loading, "", 0);
        }
        let counts: Vec<_> = (0..4).map(|second| of_functions(&statuses.look(at(second), None)).len()).collect();
        assert_eq!(counts, [200, 200, 100, 0]);
    }

    #[test]
    fn the_node_is_heard_of_when_it_changes_and_every_thirty_seconds() {
        let (_, mut statuses) = new();
        assert_eq!(statuses.stopped(at(0)), None, "it has said nothing yet");
        let reason = || Some("the group has not let this node in".to_owned());
        let said: Vec<_> = (0..70)
            .filter_map(|second| {
                let reason = if second < 5 { reason() } else { None };
                of_node(&statuses.look(at(second), reason)).map(|(state, since)| (second, state, since))
            })
            .collect();
        let serving = StatusKind::Serving;
        assert_eq!(said, [(0, StatusKind::NotReady, 0), (5, serving, 5), (35, serving, 5), (65, serving, 5)]);
        assert!(matches!(statuses.stopped(at(71)), Some(Said::Status(status)) if status.state == StatusKind::Stopped));
    }

    #[test]
    fn after_a_long_silence_all_is_said_again() {
        let (fake, mut statuses) = new();
        fake.is("f", StatusKind::Running, "", 0);
        statuses.look(at(0), None);
        assert_eq!(of_functions(&statuses.look(at(599), None)), [""; 0]);
        assert_eq!(of_functions(&statuses.look(at(599 + 600), None)), ["f running "]);
    }
}
