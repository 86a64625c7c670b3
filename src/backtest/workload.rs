//! Workloads of single calls and notices: recorded ones, and made ones whose truth is known.
//!
//! Must not: run them; `events` does.

mod bursts;
mod chains;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

pub use bursts::{Bursts, Sender};
pub use chains::Chains;

use super::trace::Call;
use crate::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, PreTrigger, Reuse, Sha256, Timestamp, WarmPolicy,
};

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Somebody announces calls.
    Announced {
        /// The notice.
        notice: PreTrigger,
        /// Whether no call of it will come.
        is_lie: bool,
    },
    /// A call comes.
    Called {
        /// What is called: its place among the workload's functions.
        function: usize,
        /// How long it runs once it has an instance.
        run: Duration,
        /// Whether a notice announced it.
        is_announced: bool,
    },
}

/// Functions, and what happens to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The functions.
    pub functions: Vec<FunctionDefinition>,
    /// What happens, ordered by time.
    pub happenings: Vec<(Timestamp, What)>,
}

impl Workload {
    /// Recorded calls, of functions with the default policy that start afresh or not as `reuse` says.
    pub fn recorded(calls: &[Call], reuse: Reuse) -> Self {
        let names: BTreeSet<&FunctionName> = calls.iter().map(|call| &call.function).collect();
        let names: Vec<&FunctionName> = names.into_iter().collect();
        let happening = |call: &Call| {
            let function = names.binary_search(&&call.function).unwrap_or_else(|place| place);
            (call.at, What::Called { function, run: call.run, is_announced: false })
        };
        let happenings = calls.iter().map(happening).collect();
        Self::new(names.iter().map(|name| definition((*name).clone(), reuse)).collect(), happenings)
    }

    /// Puts what happens into order.
    fn new(functions: Vec<FunctionDefinition>, mut happenings: Vec<(Timestamp, What)>) -> Self {
        happenings.sort_by_key(|(at, _)| *at);
        Self { functions, happenings }
    }
}

/// A function with defaults for everything but this.
fn definition(name: FunctionName, reuse: Reuse) -> FunctionDefinition {
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
    let warm = WarmPolicy { reuse, ..WarmPolicy::default() };
    FunctionDefinition { warm, ..FunctionDefinition::new(name, "1", artifact, FunctionKind::Component) }
}

/// A name of a made function.
fn name(text: &str) -> FunctionName {
    #[expect(clippy::expect_used, reason = "made names are words with a number")]
    FunctionName::new(text).expect("a made name is valid")
}

/// A moment so many seconds after the beginning of a made workload. That is not 1970, so that no sum falls below it.
fn second(seconds: f64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000) + Duration::from_secs_f64(seconds.max(0.0))
}
