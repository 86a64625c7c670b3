//! `invoke FUNCTION`: calls a function and waits for its result.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{ClientArguments, print_json};
use crate::app::wall_clock;
use crate::client::Start;
use crate::types::{FunctionName, Invocation, Payload, Status};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function to call.
    function: FunctionName,
    /// The payload as text.
    #[arg(long, conflicts_with = "payload_file")]
    payload: Option<String>,
    /// A file with the payload; "-" is stdin.
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// The message's key: calls with one key lie on one partition.
    #[arg(long)]
    key: Option<String>,
    /// The payload's media type.
    #[arg(long)]
    content_type: Option<String>,
    /// Not to be started after this time from now, such as "2s".
    #[arg(long, value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// How long to wait for the result.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Print the payload of the result alone, as it is.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let payload = match (&arguments.payload, &arguments.payload_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            bytes
        }
        (None, Some(path)) => std::fs::read(path).with_context(|| format!("payload file {}", path.display()))?,
        (None, None) => Vec::new(),
    };
    let now = wall_clock();
    let invocation = Invocation {
        id: uuid::Uuid::now_v7().to_string(),
        function: arguments.function.clone(),
        tenant: None,
        payload: Payload(payload),
        content_type: arguments.content_type.clone(),
        deadline: arguments.deadline.map(|wait| now + wait),
        invoked_at: now,
        attributes: Default::default(),
    };
    let client = arguments.client.connect()?;
    // Before the call is sent, so that its result cannot be missed.
    let mut results = client.results(Start::Now)?;
    client.invoke(&invocation, arguments.key.as_deref().map(str::as_bytes), &[])?;
    client.flush(arguments.wait)?;
    let until = Instant::now() + arguments.wait;
    while Instant::now() < until {
        let Some(came) = results.next(Duration::from_millis(250))? else { continue };
        if came.result.invocation_id != invocation.id {
            continue;
        }
        if arguments.raw {
            std::io::stdout().write_all(&came.result.payload.clone().unwrap_or_default().0)?;
        } else {
            print_json(&came.result)?;
        }
        return Ok(if came.result.status == Status::Ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    anyhow::bail!(
        "no result for call {} within {:?}; the call is published and may still be answered: see `forewarm results`",
        invocation.id,
        arguments.wait
    )
}
