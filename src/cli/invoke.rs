//! `invoke FUNCTION`: calls a function, once or several times, and waits for the results.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{ClientArguments, print_json, unread};
use crate::app::wall_clock;
use crate::client::{Client, Results, Start};
use crate::telemetry::is_traceparent;
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
    /// The caller's word of whose call it is.
    #[arg(long)]
    tenant: Option<String>,
    /// An attribute of the call; may be given several times.
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = super::key_value)]
    attributes: Vec<(String, String)>,
    /// The call's id; made up where it is not given. With --count above 1 the number of the call is put behind it, as in ID-1.
    #[arg(long)]
    id: Option<String>,
    /// How many calls are made, all alike but for their ids.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// W3C trace context that the call belongs to, as the header of that name.
    #[arg(long, value_parser = parse_traceparent)]
    traceparent: Option<String>,
    /// Not to be started after this time from now, such as "2s".
    #[arg(long, value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// How long to wait for the results.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Print the payloads of the results alone, as they are, one after another.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    client: ClientArguments,
}

impl Arguments {
    fn payload(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match (&self.payload, &self.payload_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) if path.as_os_str() == "-" => {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes)?;
                bytes
            }
            (None, Some(path)) => std::fs::read(path).with_context(|| format!("payload file {}", path.display()))?,
            (None, None) => Vec::new(),
        })
    }

    fn id_of(&self, number: u32) -> String {
        match &self.id {
            Some(id) if self.count == 1 => id.clone(),
            Some(id) => format!("{id}-{number}"),
            None => uuid::Uuid::now_v7().to_string(),
        }
    }

    /// Publishes the calls; their ids.
    fn send(&self, client: &Client) -> anyhow::Result<HashSet<String>> {
        let now = wall_clock();
        let mut invocation = Invocation {
            id: String::new(),
            function: self.function.clone(),
            tenant: self.tenant.clone(),
            payload: Payload(self.payload()?),
            content_type: self.content_type.clone(),
            deadline: self.deadline.map(|wait| now + wait),
            invoked_at: now,
            attributes: self.attributes.iter().cloned().collect(),
        };
        let headers = self.traceparent.iter().map(|value| ("traceparent".to_owned(), value.clone().into_bytes()));
        let headers: Vec<_> = headers.collect();
        let mut ids = HashSet::new();
        for number in 1..=self.count {
            invocation.id = self.id_of(number);
            client.invoke(&invocation, self.key.as_deref().map(str::as_bytes), &headers)?;
            ids.insert(invocation.id.clone());
        }
        client.flush(self.wait)?;
        Ok(ids)
    }
}

/// Prints the results; the exit status is 0 where every call has one and each is `ok`.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.client.connect()?;
    // Before the calls are sent, so that no result can be missed.
    let results = client.results(Start::Now)?;
    let until = Instant::now() + arguments.wait;
    let waiting = arguments.send(&client)?;
    answers(arguments, results, waiting, until)
}

fn answers(
    arguments: &Arguments,
    mut results: Results,
    mut waiting: HashSet<String>,
    until: Instant,
) -> anyhow::Result<ExitCode> {
    let mut all_well = true;
    // A result that lies there already is taken, however late it is.
    while !waiting.is_empty() && (Instant::now() < until || !results.at_end()) {
        let Some(came) = results.next(Duration::from_millis(250))? else { continue };
        let result = came.event;
        if !waiting.remove(&result.invocation_id) {
            continue;
        }
        if arguments.raw {
            std::io::stdout().write_all(&result.payload.clone().unwrap_or_default().0)?;
        } else {
            print_json(&result)?;
        }
        all_well &= result.status == Status::Ok;
    }
    if waiting.is_empty() {
        return Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let unread = match unread::count() {
        0 => String::new(),
        records => format!("; {records} records of the topic of results could not be read"),
    };
    let which = match waiting.len() {
        1 => format!("call {}", waiting.iter().next().map_or("", String::as_str)),
        calls => format!("{calls} of {} calls", arguments.count),
    };
    anyhow::bail!(
        "no result for {which} within {:?}{unread}; what is published may still be answered: see `forewarm results --id ID`",
        arguments.wait
    )
}

fn parse_traceparent(text: &str) -> Result<String, String> {
    let fault = || "no traceparent, as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    if is_traceparent(text) { Ok(text.to_owned()) } else { Err(fault()) }
}
