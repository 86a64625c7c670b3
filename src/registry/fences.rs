//! "Has everything been said of this function that is in its topic now?"
//!
//! Must not: wait for topics in which the function cannot be.

use std::sync::Arc;

use super::Judge;
use crate::kafka::tail;
use crate::types::FunctionName;

/// The fences of every topic of definitions. Cheap to clone.
#[derive(Clone)]
pub struct Fences {
    judge: Arc<Judge>,
    /// The shared topic's first, then those of the tenants with their own, as the judge lists them.
    topics: Arc<[tail::Fences]>,
}

impl Fences {
    pub(super) fn new(judge: &Arc<Judge>, topics: Vec<tail::Fences>) -> Self {
        Self { judge: Arc::clone(judge), topics: topics.into() }
    }

    /// Those of the topic in which this function is defined, if it is.
    pub fn of(&self, function: &FunctionName) -> &tail::Fences {
        &self.topics[self.judge.place_of(function)]
    }
}
