//! Where recorded calls come from, for the commands that replay or learn from them: files, or the topic of results.
//!
//! Must not: judge calls; `backtest` does.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use super::ClientArguments;
use crate::backtest::trace::{CALLS_MAX, Call, Trace};
use crate::client::{Client, Start};
use crate::types::InvocationResult;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Recorded calls: a folder of counts by minute, or a CSV of timestamp,function[,duration_ms], or of other columns that
    /// its first line names; gzip too.
    pub(super) trace: Option<PathBuf>,
    /// Instead, the calls whose results the topic of results keeps.
    #[arg(long, conflicts_with = "trace")]
    pub(super) topic: bool,
    /// Only these sets of the folder.
    #[arg(long = "set", value_name = "SET")]
    pub(super) sets: Vec<String>,
    #[command(flatten)]
    pub(super) client: ClientArguments,
}

impl Arguments {
    /// What is said where neither is named.
    const NONE: &str = "name a file or folder of recorded calls, or --topic for those that the topic of results keeps";

    /// The calls by minute.
    pub(super) fn trace(&self) -> anyhow::Result<Trace> {
        match &self.trace {
            Some(path) => Ok(Trace::read(path, &self.sets)?),
            None => {
                let calls = self.calls()?;
                Trace::from_calls("results", &calls).map_err(|what| anyhow::anyhow!("the topic of results: {what}"))
            }
        }
    }

    /// The calls one by one, in the order of their time.
    pub(super) fn calls(&self) -> anyhow::Result<Vec<Call>> {
        match &self.trace {
            Some(path) => {
                anyhow::ensure!(
                    !path.is_dir(),
                    "{} is a folder, which has counts by minute: --events needs single calls, as a CSV or --topic has them",
                    path.display()
                );
                Ok(Trace::read_calls(path)?)
            }
            None if self.topic => from_topic(&self.client.connect()?),
            None => anyhow::bail!(Self::NONE),
        }
    }
}

/// Reads the topic of results from its beginning to its end.
fn from_topic(client: &Client) -> anyhow::Result<Vec<Call>> {
    let mut results = client.results(Start::Beginning)?;
    let mut kept = Kept::default();
    while !results.at_end() {
        if let Some(came) = results.next(Duration::from_millis(250))? {
            kept.take(&came.event);
        }
        anyhow::ensure!(
            kept.calls.len() <= CALLS_MAX,
            "the topic of results keeps more than {CALLS_MAX} calls: write a part of them to a CSV"
        );
    }
    let Kept { mut calls, repeated, not_run, .. } = kept;
    eprintln!(
        "{} calls; {repeated} results that repeat, and {not_run} of calls that did not run, left out",
        calls.len()
    );
    calls.sort_by_key(|call| call.at);
    Ok(calls)
}

/// What results say of calls.
#[derive(Default)]
struct Kept {
    calls: Vec<Call>,
    seen: HashSet<u64>,
    repeated: u64,
    not_run: u64,
}

impl Kept {
    fn take(&mut self, result: &InvocationResult) {
        let mut hasher = DefaultHasher::new();
        (&result.function, &result.invocation_id).hash(&mut hasher);
        if result.start_kind.is_none() {
            self.not_run += 1;
        } else if self.seen.insert(hasher.finish()) {
            self.calls.push(call(result));
        } else {
            self.repeated += 1;
        }
    }
}

/// The call that a result is of: it came when it was received, and used an instance from when it had one.
fn call(result: &InvocationResult) -> Call {
    let InvocationResult { function, queued_us, prepare_us, execute_us, completed_at, .. } = result;
    let waited = Duration::from_micros(queued_us.saturating_add(*prepare_us));
    let run = Duration::from_micros(*execute_us);
    Call { at: *completed_at - run - waited, function: function.clone(), run }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{StartKind, Status, Timestamp};

    fn result(id: &str, start_kind: Option<StartKind>) -> InvocationResult {
        InvocationResult {
            invocation_id: id.to_owned(),
            function: "f".parse().unwrap(),
            function_version: None,
            status: Status::Ok,
            payload: None,
            error: None,
            start_kind,
            warm_reason: None,
            queued_us: 1_000,
            prepare_us: 20_000,
            execute_us: 300_000,
            attempt: 1,
            node: "n".to_owned(),
            completed_at: Timestamp::from_millis(10_000),
        }
    }

    #[test]
    fn each_call_that_ran_counts_once_from_when_it_came() {
        let mut kept = Kept::default();
        for (id, kind) in [("a", Some(StartKind::Cold)), ("a", Some(StartKind::Warm)), ("b", None)] {
            kept.take(&result(id, kind));
        }
        let call =
            Call { at: Timestamp::from_millis(9_679), function: "f".parse().unwrap(), run: Duration::from_millis(300) };
        assert_eq!((kept.calls, kept.repeated, kept.not_run), (vec![call], 1, 1));
    }
}
