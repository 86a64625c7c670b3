//! `pre-trigger FUNCTION`: announces calls, and tells whether a node refused to hold the notice.
//!
//! Must not: judge a notice; nodes do, and say so on the topic of outcomes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{ClientArguments, print_json, unread};
use crate::app::wall_clock;
use crate::client::{Events, Start};
use crate::types::{FunctionName, OutcomeKind, PreTrigger, PreTriggerOutcome};

/// How long the brokers may take to store the notice.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// How long to wait for a node that refuses it.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Do not wait.
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
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
    // Before the notice is sent, so that a verdict cannot be missed.
    let outcomes = if arguments.no_wait { None } else { Some(client.outcomes(Start::Now)) };
    client.pre_trigger(&pre_trigger)?;
    client.flush(BROKER_TIMEOUT)?;
    print_json(&pre_trigger)?;
    match outcomes {
        None => Ok(ExitCode::SUCCESS),
        Some(Ok(outcomes)) => verdict(outcomes, &pre_trigger, arguments.wait),
        Some(Err(fault)) => {
            unread::say(format_args!("published; whether a node refuses it cannot be told: {fault}"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Waits for what a node says of the notice. That it is held is not said by anybody before it ends: then silence is consent.
fn verdict(mut outcomes: Events<PreTriggerOutcome>, sent: &PreTrigger, wait: Duration) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let later = "forewarm pre-triggers outcomes --id";
            unread::say(format_args!("no node refused it within {wait:?}; how it ends: {later} {}", sent.id));
            return Ok(ExitCode::SUCCESS);
        }
        let Some(came) = outcomes.next(left.min(Duration::from_millis(250)))? else { continue };
        let PreTriggerOutcome { pre_trigger_id, source, function, kind, criterion, node, .. } = &came.event;
        if (pre_trigger_id, source, function) != (&sent.id, &sent.source, &sent.function) {
            continue;
        }
        let why = criterion.as_ref().map_or(String::new(), |criterion| format!(": {criterion}"));
        unread::say(format_args!("{}{why} (node {node})", kind.as_str()));
        return Ok(if *kind == OutcomeKind::Refused { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
}
