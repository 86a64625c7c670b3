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
            return Some("the group has not let this node in, or its brokers do not answer".to_owned());
        }
        // A producer that has had nothing to send yet is no reason to wait.
        let is_down = self.outbox.publisher().health().is_down();
        is_down.then(|| "the brokers do not take results".to_owned())
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
