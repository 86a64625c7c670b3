//! `results`: prints results as JSON, one a line.

use std::process::ExitCode;
use std::time::Duration;

use super::{ClientArguments, print_json};
use crate::client::Start;
use crate::types::FunctionName;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Go on with what comes; without it, end where the topic ends.
    #[arg(long)]
    follow: bool,
    /// Only with what comes from now on.
    #[arg(long)]
    from_now: bool,
    /// Only results of this function.
    #[arg(long)]
    function: Option<FunctionName>,
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.client.connect()?;
    let start = if arguments.from_now { Start::Now } else { Start::Beginning };
    let mut results = client.results(start)?;
    while arguments.follow || !results.at_end() {
        let Some(came) = results.next(Duration::from_millis(250))? else { continue };
        if arguments.function.as_ref().is_none_or(|wanted| *wanted == came.result.function) {
            print_json(&came.result)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
