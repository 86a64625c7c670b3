//! `pre-trigger FUNCTION`: announces calls.

use std::process::ExitCode;
use std::time::Duration;

use super::{ClientArguments, print_json};
use crate::app::wall_clock;
use crate::types::{FunctionName, PreTrigger};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function whose calls are announced.
    function: FunctionName,
    /// How many calls are expected; 0 with --id withdraws that notice.
    #[arg(long, default_value_t = 1)]
    expected: u32,
    /// How sure that is, from 0.0 to 1.0.
    #[arg(long, default_value_t = 1.0)]
    confidence: f64,
    /// How long the notice stays live, such as "30s".
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    window: Duration,
    /// The calls come only after this time from now, such as "5s".
    #[arg(long, value_parser = humantime::parse_duration)]
    not_before: Option<Duration>,
    /// Who says so.
    #[arg(long, default_value = "cli")]
    source: String,
    /// The notice's id; made up where it is not given.
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let now = wall_clock();
    let pre_trigger = PreTrigger {
        id: arguments.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
        source: arguments.source.clone(),
        function: arguments.function.clone(),
        tenant: None,
        expected_invocations: arguments.expected,
        confidence: arguments.confidence,
        not_before: arguments.not_before.map(|wait| now + wait),
        window_ms: u64::try_from(arguments.window.as_millis())?,
        emitted_at: now,
        attributes: Default::default(),
    };
    let client = arguments.client.connect()?;
    client.pre_trigger(&pre_trigger)?;
    client.flush(Duration::from_secs(30))?;
    print_json(&pre_trigger)?;
    Ok(ExitCode::SUCCESS)
}
