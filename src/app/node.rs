//! What the admin interface is told of this node.
//!
//! Must not: hold anything of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::admin::Node;
use crate::driver::{Asked, Failure, Outbox};
use crate::ingest::Readiness;
use crate::kafka::Watch;
use crate::kafka::tail::Passed;
use crate::registry::SchemaRegistry;
use crate::types::{ChainExplanation, Condition, FunctionExplanation, FunctionName, FunctionSummary};

/// The parts that know.
pub(super) struct Answers {
    pub(super) invocations: Readiness,
    pub(super) outbox: Arc<Outbox>,
    pub(super) failure: Failure,
    pub(super) asked: Asked,
    pub(super) watch: Watch,
    /// Of the topic of functions: what is not known here for as long as this process lives.
    pub(super) definitions_passed: Vec<Passed>,
    /// Where one is configured.
    pub(super) schemas: Option<Arc<SchemaRegistry>>,
}

/// A thread that has not gone on for so long makes the node not ready.
const THREAD_LATE: Duration = Duration::from_secs(3);

impl Node for Answers {
    fn failure(&self) -> Option<String> {
        self.failure.reason().map(str::to_owned)
    }

    fn not_ready(&self) -> Option<String> {
        if self.invocations.is_out() {
            return Some("SIGUSR1 asked this node to stand aside; SIGUSR2 has it take calls again".to_owned());
        }
        if !self.invocations.is_ready() {
            let what = "the group has not let this node in, or its brokers do not answer";
            return Some(because(what, &self.invocations.reason()));
        }
        // A producer that has had nothing to send yet is no reason to wait.
        let publisher = self.outbox.publisher();
        if !publisher.can_store() {
            let stall = publisher.stall().map(|stall| stall.to_string());
            let words = stall.unwrap_or_else(|| publisher.health().reason());
            return Some(because("the brokers do not take results", &words));
        }
        let late = self.watch.late(THREAD_LATE);
        late.map(|(thread, late)| format!("the thread {thread} has not gone on for {} s", late.as_secs()))
    }

    fn conditions(&self) -> Vec<Condition> {
        // Each room bounds its own.
        let mut conditions = self.invocations.conditions();
        conditions.extend(self.definitions_passed.iter().flat_map(Passed::conditions));
        conditions.extend(self.schemas.iter().flat_map(|schemas| schemas.conditions()));
        conditions.extend(self.asked.conditions());
        conditions
    }

    fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary> {
        self.asked.functions(after, limit)
    }

    fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        self.asked.explain(function)
    }

    fn chains(&self, from: Option<&FunctionName>, after: Option<&str>, limit: usize) -> Vec<ChainExplanation> {
        self.asked.chains(from, after, limit)
    }
}

/// A node that answers from the begin of its start on: until its parts are there it lives and is not ready.
#[derive(Default)]
pub(super) struct Starting(OnceLock<Arc<Answers>>);

impl Starting {
    /// The parts are there.
    pub(super) fn has_started(&self, answers: Arc<Answers>) {
        // A node starts once.
        let _ = self.0.set(answers);
    }
}

impl Node for Starting {
    fn failure(&self) -> Option<String> {
        self.0.get().and_then(|answers| answers.failure())
    }

    fn not_ready(&self) -> Option<String> {
        match self.0.get() {
            Some(answers) => answers.not_ready(),
            None => Some("the node starts: it waits for the brokers, or reads what functions there are".to_owned()),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        self.0.get().map_or_else(Vec::new, |answers| answers.conditions())
    }

    fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary> {
        self.0.get().map_or_else(Vec::new, |answers| answers.functions(after, limit))
    }

    fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        self.0.get().and_then(|answers| answers.explain(function))
    }

    fn chains(&self, from: Option<&FunctionName>, after: Option<&str>, limit: usize) -> Vec<ChainExplanation> {
        self.0.get().map_or_else(Vec::new, |answers| answers.chains(from, after, limit))
    }
}

/// What does not work, and why, where that is known.
fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}
