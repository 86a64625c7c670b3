//! What the admin interface is told of this node.
//!
//! Must not: hold anything of its own.

use std::sync::Arc;

use crate::admin::Node;
use crate::driver::{Asked, Failure, Outbox};
use crate::ingest::Readiness;
use crate::types::{ChainExplanation, FunctionExplanation, FunctionName, FunctionSummary};

/// The parts that know.
pub(super) struct Answers {
    pub(super) invocations: Readiness,
    pub(super) outbox: Arc<Outbox>,
    pub(super) failure: Failure,
    pub(super) asked: Asked,
}

impl Node for Answers {
    fn failure(&self) -> Option<String> {
        self.failure.reason().map(str::to_owned)
    }

    fn not_ready(&self) -> Option<String> {
        if !self.invocations.is_ready() {
            let what = "the group has not let this node in, or its brokers do not answer";
            return Some(because(what, &self.invocations.reason()));
        }
        // A producer that has had nothing to send yet is no reason to wait.
        let publisher = self.outbox.publisher();
        (!publisher.can_store()).then(|| {
            let stall = publisher.stall().map(|stall| stall.to_string());
            because("the brokers do not take results", &stall.unwrap_or_else(|| publisher.health().reason()))
        })
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
