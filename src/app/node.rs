//! What the admin interface is told of this node.
//!
//! Must not: hold anything of its own.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::Node;
use crate::driver::{Asked, Failure, Outbox};
use crate::ingest::Readiness;
use crate::kafka::Watch;
use crate::types::{ChainExplanation, FunctionExplanation, FunctionName, FunctionSummary};

/// The parts that know.
pub(super) struct Answers {
    pub(super) invocations: Readiness,
    pub(super) outbox: Arc<Outbox>,
    pub(super) failure: Failure,
    pub(super) asked: Asked,
    pub(super) watch: Watch,
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

    fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary> {
        self.asked.functions(after, limit)
    }

    fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        self.asked.explain(function)
    }

    fn chains(&self, from: Option<&FunctionName>) -> Vec<ChainExplanation> {
        self.asked.chains(from)
    }
}

/// What does not work, and why, where that is known.
fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}
