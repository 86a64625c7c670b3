//! `logs FUNCTION`: prints what a function wrote, a line each.
//!
//! Must not: show a guest's text on a terminal as it came.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::{ClientArguments, print_json, unread};
use crate::app::wall_clock;
use crate::client::{Came, RequestError, Start};
use crate::kafka::ClientError;
use crate::types::{FunctionLog, FunctionName, LogStream, Shown, Timestamp};

/// The longest line that is shown; `--json` has all of it. Above what a node writes by default.
const LINE_SHOWN: usize = 64 << 10;
/// The longest id that is shown.
const ID_SHOWN: usize = 256;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function.
    function: FunctionName,
    /// Go on with what comes; without it, end where the topic ends.
    #[arg(long)]
    follow: bool,
    /// Only lines of this call.
    #[arg(long, value_name = "ID")]
    invocation: Option<String>,
    /// Only lines of this time until now, such as "10m", and what comes.
    #[arg(long, value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Prints the lines; the exit status is 1 where there is no topic, no line, or one that cannot be read.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let since = arguments.since.map(|since| wall_clock() - since);
    let client = arguments.client.connect()?;
    let mut logs = client.function_logs(Start::Beginning).map_err(explain)?;
    let mut printed = 0_u64;
    while arguments.follow || !logs.at_end() {
        let Some(Came { event: line, .. }) = logs.next(Duration::from_millis(250))? else { continue };
        if !arguments.wants(&line, since) {
            continue;
        }
        printed += 1;
        if arguments.json {
            print_json(&line)?;
        } else {
            writeln!(io::stdout(), "{}", shown(&line))?;
        }
    }
    if printed == 0 {
        eprintln!("forewarm: no line of function {} is kept{}", arguments.function, arguments.which());
    }
    Ok(unread::settle(if printed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }))
}

impl Arguments {
    fn wants(&self, line: &FunctionLog, since: Option<Timestamp>) -> bool {
        line.function == self.function
            && since.is_none_or(|since| line.written_at >= since)
            && self.invocation.as_ref().is_none_or(|wanted| line.invocation_id.as_ref() == Some(wanted))
    }

    /// Which lines were asked for, beyond the function.
    fn which(&self) -> String {
        let mut which = String::new();
        // Writing to a string does not fail.
        if let Some(id) = &self.invocation {
            let _ = write!(which, " for invocation {}", Shown::of(id).within(ID_SHOWN));
        }
        if let Some(since) = self.since {
            let _ = write!(which, " of the last {}", humantime::format_duration(since));
        }
        which
    }
}

/// A line for people.
fn shown(line: &FunctionLog) -> String {
    let FunctionLog { written_at, version, invocation_id, stream, text, left_out_bytes, .. } = line;
    // Lines of one call stand closer together than a second.
    let millis = u64::try_from(written_at.as_millis()).unwrap_or(0);
    let at = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
    let version = Shown::of(version.as_deref().unwrap_or("?")).within(ID_SHOWN);
    let call = invocation_id.as_deref().unwrap_or("-");
    let (call, stream, text) = (Shown::of(call).within(ID_SHOWN), stream.as_str(), Shown::of(text).within(LINE_SHOWN));
    let cut = match (line.stream, left_out_bytes) {
        (LogStream::Node, _) | (_, 0) => String::new(),
        (_, bytes) => format!("… and {bytes} bytes more"),
    };
    format!("{at} {version} {call} {stream}: {text}{cut}")
}

/// That the topic is not there means that nobody writes it.
fn explain(error: RequestError) -> anyhow::Error {
    match error {
        RequestError::Client(ClientError::TopicMissing { topic, .. }) => anyhow::anyhow!(
            "the topic {topic} of functions' logs is not there: nodes write it where topics.function-logs names it, and make \
             it where topics.create is set; this command takes the name from its own configuration, else \"function-logs\""
        ),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> FunctionLog {
        FunctionLog {
            function: "f".parse().unwrap(),
            version: Some("7".to_owned()),
            invocation_id: Some("i\u{1b}[2J".to_owned()),
            attempt: 1,
            tenant: None,
            node: "n".to_owned(),
            stream: LogStream::Stderr,
            written_at: Timestamp::from_millis(1_767_225_600_250),
            text: "no\u{1b}]0;title\u{7} word\u{202e}".to_owned(),
            left_out_lines: 0,
            left_out_bytes: 0,
        }
    }

    #[test]
    fn a_line_is_escaped_and_says_what_was_cut() {
        assert_eq!(shown(&line()), r"2026-01-01T00:00:00.250Z 7 i\u{1b}[2J stderr: no\u{1b}]0;title\u{7} word\u{202e}");
        let cut = FunctionLog { left_out_bytes: 9, invocation_id: None, text: "ab".to_owned(), ..line() };
        assert_eq!(shown(&cut), "2026-01-01T00:00:00.250Z 7 - stderr: ab… and 9 bytes more");
        let told = FunctionLog { stream: LogStream::Node, left_out_lines: 3, ..cut };
        assert_eq!(shown(&told), "2026-01-01T00:00:00.250Z 7 - node: ab");
    }

    #[test]
    fn lines_are_chosen_by_function_call_and_time() {
        use clap::Parser;
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            arguments: Arguments,
        }
        let of = |words: &[&str]| Command::parse_from([&["logs"], words].concat()).arguments;
        let since = Some(Timestamp::from_millis(1_767_225_600_251));
        assert!(of(&["f"]).wants(&line(), None));
        assert!(!of(&["f"]).wants(&line(), since));
        assert!(!of(&["g"]).wants(&line(), None));
        assert!(!of(&["f", "--invocation", "other"]).wants(&line(), None));
        assert!(of(&["f", "--invocation", "i\u{1b}[2J"]).wants(&line(), None));
        let which = of(&["f", "--invocation", "i", "--since", "10m"]).which();
        assert_eq!(which, " for invocation i of the last 10m");
    }
}
