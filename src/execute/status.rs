//! What is so of each function here, for everybody who asks: a story that loading and preparing tell as they go, and views of it.
//!
//! A [`Story`] is a plain state machine under its function's lock; time comes in. Must not: decide what happens to a call
//! (`Phase` does), or start anything.

use std::sync::atomic::{AtomicU64, Ordering};

use super::function::Function;
use super::{Executor, Outcomes, wall_clock};
use crate::types::{
    Failures, FunctionDefinition, FunctionFacts, FunctionName, PoolUsage, StatusKind, Timestamp, cut_reason,
};

/// Numbers of changes. One sequence for all functions, as one that is removed and defined again begins a new story.
static CHANGES: AtomicU64 = AtomicU64::new(1);

/// How far the newest definition has come.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// On its way; what is being done.
    Loading(&'static str),
    /// Its artifact cannot be had now.
    Unavailable(String),
    Loaded,
    Refused(String),
    Disabled,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Story {
    /// The definition's serial; 0 where the newest one cannot be read.
    serial: u64,
    version: Option<String>,
    definition: Option<String>,
    step: Step,
    failures: Option<Failures>,
    /// Whether an instance of the version was ready.
    proven: bool,
    since: Timestamp,
    change: u64,
}

impl Story {
    /// A function whose newest definition was just read.
    pub(super) fn new(now: Timestamp) -> Self {
        let step = Step::Loading("waits for its turn to load");
        Self {
            serial: 0,
            version: None,
            definition: None,
            step,
            failures: None,
            proven: false,
            since: now,
            change: next_change(),
        }
    }

    /// The newest definition is this one, and is loaded from now on, unless it is disabled.
    pub(super) fn defined(&mut self, definition: &FunctionDefinition, serial: u64, now: Timestamp) {
        self.serial = serial;
        self.version = Some(definition.version.clone());
        self.definition = Some(definition.digest());
        (self.failures, self.proven) = (None, false);
        let step = if definition.enabled { Step::Loading("waits for its turn to load") } else { Step::Disabled };
        // Another definition is another story, also where its state has the same name.
        (self.step, self.since, self.change) = (step, now, next_change());
    }

    /// The newest definition cannot be read, so that neither its version nor anything else of it is known.
    pub(super) fn unreadable(&mut self, reason: &str, now: Timestamp) {
        (self.serial, self.version, self.definition) = (0, None, None);
        self.refused(reason, now);
    }

    /// Loading goes on with `doing`, such as "is compiled".
    pub(super) fn loads(&mut self, doing: &'static str, now: Timestamp) {
        // Where its artifact could not be had, that is so until the artifact was there: it is asked for again and again.
        if !matches!(self.step, Step::Unavailable(_)) {
            self.enter(Step::Loading(doing), now);
        }
    }

    /// The artifact of the newest definition is there.
    pub(super) fn fetched(&mut self, doing: &'static str, now: Timestamp) {
        self.enter(Step::Loading(doing), now);
    }

    /// The artifact of the newest definition cannot be had now, and is asked for again.
    pub(super) fn unavailable(&mut self, reason: &str, now: Timestamp) {
        self.enter(Step::Unavailable(cut_reason(reason)), now);
    }

    /// The newest definition's version is the one that runs.
    pub(super) fn loaded(&mut self, now: Timestamp) {
        self.failures = None;
        self.enter(Step::Loaded, now);
    }

    /// The newest definition's version cannot run here.
    pub(super) fn refused(&mut self, reason: &str, now: Timestamp) {
        self.failures = None;
        self.enter(Step::Refused(cut_reason(reason)), now);
    }

    /// An instance of the version that runs could not be prepared.
    pub(super) fn failed(&mut self, reason: &str, now: Timestamp) {
        let was = self.kind();
        let first = || Failures { count: 0, reason: String::new(), since: now, last_at: now };
        let failures = self.failures.get_or_insert_with(first);
        failures.count = failures.count.saturating_add(1);
        (failures.reason, failures.last_at) = (cut_reason(reason), now);
        self.changed(was, now);
    }

    /// An instance of the version that runs was prepared.
    pub(super) fn prepared(&mut self, now: impl FnOnce() -> Timestamp) {
        if self.failures.is_some() || !self.proven {
            let was = self.kind();
            (self.failures, self.proven) = (None, true);
            self.changed(was, now());
        }
    }

    fn enter(&mut self, step: Step, now: Timestamp) {
        if self.step != step {
            let was = self.kind();
            self.step = step;
            self.changed(was, now);
        }
    }

    /// Whether the definition with that serial is the one that it is about.
    pub(super) fn is_about(&self, serial: u64) -> bool {
        self.serial == serial
    }

    fn changed(&mut self, was: StatusKind, now: Timestamp) {
        if self.kind() != was {
            self.since = now;
        }
        self.change = next_change();
    }

    pub(super) fn kind(&self) -> StatusKind {
        match self.step {
            Step::Loading(_) => StatusKind::Loading,
            Step::Unavailable(_) => StatusKind::Unavailable,
            Step::Refused(_) => StatusKind::Refused,
            Step::Disabled => StatusKind::Disabled,
            Step::Loaded if self.failures.is_some() => StatusKind::Failing,
            Step::Loaded if !self.proven => StatusKind::Loaded,
            Step::Loaded => StatusKind::Running,
        }
    }

    fn reason(&self) -> Option<String> {
        match &self.step {
            Step::Loading(doing) => Some((*doing).to_owned()),
            Step::Unavailable(reason) | Step::Refused(reason) => Some(reason.clone()),
            Step::Disabled => None,
            Step::Loaded => self.failures.as_ref().map(|failures| failures.reason.clone()),
        }
    }

    /// What is so, with the version that serves and the counts of the shelf.
    fn facts(&self, running_version: Option<&str>, usage: &PoolUsage) -> FunctionFacts {
        FunctionFacts {
            state: self.kind(),
            reason: self.reason(),
            since: self.since,
            version: self.version.clone(),
            running_version: running_version.map(str::to_owned),
            definition: self.definition.clone(),
            failures: self.failures.clone(),
            ready: usage.ready,
            preparing: usage.preparing,
            busy: usage.busy,
            waiting: usage.waiting,
        }
    }
}

fn next_change() -> u64 {
    CHANGES.fetch_add(1, Ordering::Relaxed)
}

impl<T> Function<T> {
    /// Goes on with the story of the definition with that serial, unless it is the newest one no more.
    pub(super) fn tell(&self, serial: u64, tell: impl FnOnce(&mut Story, Timestamp)) {
        let mut state = self.state();
        if state.story.is_about(serial) {
            tell(&mut state.story, wall_clock());
        }
    }

    fn facts(&self) -> FunctionFacts {
        let state = self.state();
        let running_version = state.version.as_ref().map(|version| version.definition.version.as_str());
        state.story.facts(running_version, &state.shelf.usage(0))
    }
}

impl<O: Outcomes> Executor<O> {
    /// What is so of a function; `None` where it is not known.
    pub fn facts(&self, function: &FunctionName) -> Option<FunctionFacts> {
        self.0.find(function.as_str()).map(|function| function.facts())
    }

    /// What is so of the functions after a name, in the order of their names, at most `limit`.
    pub fn facts_after(&self, after: Option<&str>, limit: usize) -> Vec<(FunctionName, FunctionFacts)> {
        let mut functions = self.0.all();
        functions.retain(|function| after.is_none_or(|after| function.name.as_str() > after));
        functions.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        functions.truncate(limit);
        functions.iter().map(|function| (function.name.clone(), function.facts())).collect()
    }

    /// Functions that somebody has to look after, at most `limit`, in no order.
    pub fn in_trouble(&self, limit: usize) -> Vec<(FunctionName, FunctionFacts)> {
        let functions = self.0.all();
        let in_trouble = functions.iter().filter(|function| function.state().story.kind().is_trouble()).take(limit);
        in_trouble.map(|function| (function.name.clone(), function.facts())).collect()
    }

    /// Functions whose story has changed since the change that `known` says was seen of them, with the number of their newest
    /// change. Their counts of instances are no change.
    pub fn changed(
        &self,
        known: impl Fn(&FunctionName) -> Option<u64>,
        limit: usize,
    ) -> Vec<(FunctionName, u64, FunctionFacts)> {
        let mut changed = Vec::new();
        for function in self.0.all() {
            let change = function.state().story.change;
            if known(&function.name) != Some(change) {
                changed.push((function.name.clone(), change, function.facts()));
                if changed.len() >= limit {
                    break;
                }
            }
        }
        changed
    }

    /// How many functions are in each state, in the order of [`StatusKind::FUNCTIONS`], and how many ready instances the targets
    /// of all of them ask for.
    pub fn totals(&self) -> ([u64; StatusKind::FUNCTIONS.len()], u64) {
        let (mut counts, mut wanted) = ([0; StatusKind::FUNCTIONS.len()], 0);
        for function in self.0.all() {
            let state = function.state();
            wanted += u64::from(state.shelf.target().ready);
            let kind = state.story.kind();
            if let Some(place) = StatusKind::FUNCTIONS.iter().position(|known| *known == kind) {
                counts[place] += 1;
            }
        }
        (counts, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn definition(version: &str) -> FunctionDefinition {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        FunctionDefinition::new("f".parse().unwrap(), version, artifact, FunctionKind::Component)
    }

    /// State, reason and since when, in seconds.
    fn told(story: &Story) -> (StatusKind, Option<String>, i64) {
        let facts = story.facts(None, &PoolUsage::default());
        (facts.state, facts.reason, facts.since.as_millis() / 1_000)
    }

    fn row(kind: StatusKind, reason: &str, since: i64) -> (StatusKind, Option<String>, i64) {
        (kind, (!reason.is_empty()).then(|| reason.to_owned()), since)
    }

    #[test]
    fn loading_says_how_far_it_is_and_since_when() {
        let mut story = Story::new(at(0));
        story.defined(&definition("1"), 1, at(1));
        assert_eq!(told(&story), row(StatusKind::Loading, "waits for its turn to load", 1));
        story.loads("is fetched", at(2));
        story.unavailable("no such file", at(3));
        // Looking again is no news.
        story.loads("is fetched", at(4));
        story.unavailable("no such file", at(5));
        assert_eq!(told(&story), row(StatusKind::Unavailable, "no such file", 3));
        story.fetched("is compiled", at(6));
        assert_eq!(told(&story), row(StatusKind::Loading, "is compiled", 6));
        story.loaded(at(7));
        assert_eq!(told(&story), row(StatusKind::Loaded, "", 7));
        story.prepared(|| at(8));
        story.prepared(|| at(9));
        assert_eq!(told(&story), row(StatusKind::Running, "", 8));
    }

    #[test]
    fn a_function_fails_from_the_first_failure_on_until_an_instance_is_ready() {
        let mut story = Story::new(at(0));
        story.defined(&definition("1"), 1, at(0));
        story.loaded(at(1));
        story.prepared(|| at(2));
        assert_eq!(told(&story), row(StatusKind::Running, "", 2));
        story.failed("first", at(3));
        story.failed("second", at(4));
        assert_eq!(told(&story), row(StatusKind::Failing, "second", 3));
        let failures = story.facts(None, &PoolUsage::default()).failures.unwrap();
        assert_eq!((failures.count, failures.since, failures.last_at), (2, at(3), at(4)));
        story.prepared(|| at(5));
        assert_eq!(told(&story), row(StatusKind::Running, "", 5));
        story.failed("third", at(6));
        // A new version begins without what is held against the old one.
        story.defined(&definition("2"), 1, at(7));
        assert_eq!(told(&story), row(StatusKind::Loading, "waits for its turn to load", 7));
    }

    #[test]
    fn a_definition_that_cannot_be_read_has_no_version() {
        let mut story = Story::new(at(0));
        story.defined(&definition("1"), 1, at(0));
        story.loaded(at(1));
        story.unreadable("version must have 1 to 128 bytes", at(2));
        let facts = story.facts(Some("1"), &PoolUsage::default());
        assert_eq!(
            (facts.state, facts.version, facts.running_version.as_deref()),
            (StatusKind::Refused, None, Some("1"))
        );
    }

    #[test]
    fn only_what_is_new_is_a_change() {
        let mut story = Story::new(at(0));
        story.defined(&definition("1"), 1, at(0));
        let before = story.change;
        story.loads("waits for its turn to load", at(1));
        assert_eq!(story.change, before);
        story.loaded(at(2));
        assert!(story.change > before);
        // The same definition again is loaded again.
        let before = story.change;
        story.defined(&definition("1"), 1, at(3));
        assert!(story.change > before);
        assert_eq!(told(&story).2, 3);
    }

    #[test]
    fn disabled_is_no_trouble() {
        let mut story = Story::new(at(0));
        story.defined(&FunctionDefinition { enabled: false, ..definition("1") }, 1, at(1));
        assert_eq!(told(&story), row(StatusKind::Disabled, "", 1));
        assert!(!story.kind().is_trouble());
    }
}
