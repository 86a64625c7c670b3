//! `results`: prints results, one a line, in the order of their time.
//!
//! Must not: pass over in silence a record that cannot be read; the client tells.

use std::process::ExitCode;
use std::time::Duration;

use super::newest::{Newest, say_older};
use super::{ClientArguments, parse_status, print_json, unread};
use crate::app::wall_clock;
use crate::client::Start;
use crate::types::{FunctionName, InvocationResult, Shown, StartKind, Status};

/// The longest message in a line for people, in bytes.
const MESSAGE_MAX: usize = 300;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Go on with what comes; without it, end where the topic ends.
    #[arg(long)]
    follow: bool,
    /// Only with what comes from now on.
    #[arg(long, conflicts_with = "since")]
    from_now: bool,
    /// Only results that were written within this time, such as "10m".
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only results of this function.
    #[arg(long)]
    function: Option<FunctionName>,
    /// Only the result of this call; may be given several times.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Only results with this status: ok, function_error, trap, timeout, limit or rejected; may be given several times.
    #[arg(long = "status", value_name = "STATUS", value_parser = parse_status)]
    statuses: Vec<Status>,
    /// At most so many of those that are there: the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    count: usize,
    /// Print JSON, one object a line; so it is unless --text is given.
    #[arg(long, conflicts_with = "text")]
    json: bool,
    /// Print lines for people: time, function, call, status, how it began, how long it took, node, and what went wrong.
    #[arg(long)]
    text: bool,
    #[command(flatten)]
    client: ClientArguments,
}

impl Arguments {
    fn wants(&self, result: &InvocationResult) -> bool {
        self.function.as_ref().is_none_or(|wanted| *wanted == result.function)
            && (self.ids.is_empty() || self.ids.contains(&result.invocation_id))
            && (self.statuses.is_empty() || self.statuses.contains(&result.status))
    }

    fn print(&self, result: &InvocationResult) -> anyhow::Result<()> {
        if self.text {
            println!("{}", Shown::of(line(result)));
            return Ok(());
        }
        print_json(result)
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.client.connect()?;
    let start = match arguments.since {
        _ if arguments.from_now => Start::Now,
        Some(since) => Start::Since(wall_clock() - since),
        None => Start::Beginning,
    };
    let mut results = client.results(start)?;
    let mut newest = Newest::new(arguments.count);
    while !results.at_end() {
        let Some(came) = results.next(Duration::from_millis(250))? else { continue };
        if arguments.wants(&came.event) {
            newest.take(came.event.completed_at, came.event);
        }
    }
    let (kept, older) = newest.into_values();
    for result in kept {
        arguments.print(&result)?;
    }
    say_older(older);
    if !arguments.follow {
        return Ok(unread::settle(ExitCode::SUCCESS));
    }
    loop {
        let Some(came) = results.next(Duration::from_millis(250))? else { continue };
        if arguments.wants(&came.event) {
            arguments.print(&came.event)?;
        }
    }
}

fn line(result: &InvocationResult) -> String {
    let InvocationResult { invocation_id, function, status, error, start_kind, completed_at, node, .. } = result;
    let took_ms = (result.queued_us + result.prepare_us + result.execute_us) as f64 / 1_000.0;
    let (status, start) = (status.as_str(), start_kind.map_or("-", StartKind::as_str));
    let mut line =
        format!("{completed_at}  {function}  {invocation_id}  {status:<14}  {start:<9}  {took_ms:.1} ms  {node}");
    if let Some(error) = error {
        line += &format!("  {}", Shown::of(&error.message).within(MESSAGE_MAX));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{InvocationError, Timestamp};

    #[test]
    fn a_line_tells_what_came_of_a_call() {
        let message = "no\nway".to_owned();
        let result = InvocationResult {
            invocation_id: "call-1".to_owned(),
            function: "shop/echo".parse().unwrap(),
            function_version: None,
            status: Status::Trap,
            payload: None,
            error: Some(InvocationError { message, code: None, backtrace: None }),
            start_kind: Some(StartKind::Cold),
            warm_reason: None,
            queued_us: 1_000,
            prepare_us: 20_000,
            execute_us: 300_000,
            attempt: 1,
            node: "n".to_owned(),
            completed_at: Timestamp::from_millis(1_767_225_647_000),
        };
        let wanted = "2026-01-01T00:00:47Z  shop/echo  call-1  trap            cold       321.0 ms  n  no\\nway";
        assert_eq!(line(&result), wanted);
    }
}
