//! `dead-letters list|show|redrive`: what was not run, or failed as often as it may, and putting it back.
//!
//! Must not: read or write the topic itself; `client` does.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::ClientArguments;
use crate::client::{Letter, LetterId};
use crate::types::{FunctionName, Shown, ShownJson, Timestamp};

/// The longest value, key or header that is printed, in bytes.
const VALUE_MAX: usize = 1 << 20;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print letters, one a line, oldest first.
    List(Selection),
    /// Print one letter: its labels, its headers, its value.
    Show {
        /// The letter, as PARTITION:OFFSET of the topic of dead letters; `list` prints it.
        letter: LetterId,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Put letters back to the topic that they came from, each once; a call keeps its id.
    Redrive {
        /// Say what would be put back, and do nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        selection: Selection,
    },
}

/// Which letters.
#[derive(Args)]
pub(super) struct Selection {
    /// Only calls of this function that failed.
    #[arg(long)]
    function: Option<FunctionName>,
    /// Only letters with this reason, such as attempts_used_up or malformed.
    #[arg(long)]
    reason: Option<String>,
    /// Only letters that are no older than this, as "1h" or "30m".
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only these letters, each as PARTITION:OFFSET.
    #[arg(long = "letter", value_name = "PARTITION:OFFSET")]
    letters: Vec<LetterId>,
    /// At most this many.
    #[arg(long, default_value_t = 10_000)]
    limit: usize,
    #[command(flatten)]
    client: ClientArguments,
}

impl Selection {
    fn wanted(&self, now: Timestamp) -> impl Fn(&Letter) -> bool {
        let oldest = self.since.map(|since| now - since);
        move |letter| {
            self.function.as_ref().is_none_or(|function| letter.function() == Some(function.as_str()))
                && self.reason.as_ref().is_none_or(|reason| letter.reason() == reason)
                && oldest.is_none_or(|oldest| letter.at.is_some_and(|at| at >= oldest))
                && (self.letters.is_empty() || self.letters.contains(&letter.id))
        }
    }
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(selection) => list(selection),
        Command::Show { letter, client } => show(*letter, client),
        Command::Redrive { dry_run, selection } => redrive(*dry_run, selection),
    }
}

fn list(selection: &Selection) -> anyhow::Result<ExitCode> {
    let client = selection.client.connect()?;
    let (letters, more) = client.dead_letters(selection.limit, selection.wanted(crate::app::wall_clock()))?;
    letters.iter().for_each(|letter| println!("{}", Shown::of(line(letter))));
    if more {
        eprintln!("there are more than {}: narrow the selection, or raise --limit", selection.limit);
    }
    Ok(ExitCode::SUCCESS)
}

fn line(letter: &Letter) -> String {
    let mut line = format!("{:<10} {}  {:<16}", letter.id, when(letter), letter.reason());
    if let Some((status, attempts)) = letter.failure() {
        let (function, id) = (letter.function().unwrap_or("?"), letter.invocation_id().unwrap_or("?"));
        line += &format!("  {function} {id}: {status} after {attempts} attempts");
    } else {
        line += &format!("  {} {}: {}", letter.topic(), letter.place(), letter.detail());
    }
    if letter.redriven {
        line += "  (put back)";
    }
    line
}

fn when(letter: &Letter) -> String {
    let Some(at) = letter.at else { return "-".to_owned() };
    let since = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

fn show(id: LetterId, client: &ClientArguments) -> anyhow::Result<ExitCode> {
    let client = client.connect()?;
    let (letters, _) = client.dead_letters(1, |letter| letter.id == id)?;
    let letter = letters.first().with_context(|| format!("there is no dead letter at {id}"))?;
    print!("{}", whole(letter));
    if let Some(event) = client.event_in(letter) {
        println!("event     {}", ShownJson(&event));
    }
    Ok(ExitCode::SUCCESS)
}

/// A letter with everything in it. Lines of ours begin with a word, those of a guest's backtrace with a space.
fn whole(letter: &Letter) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", Shown::of(line(letter)));
    let _ = writeln!(text, "from      {} {}", Shown::of(letter.topic()), Shown::of(letter.place()));
    let _ = writeln!(text, "detail    {}", Shown::of(letter.detail()));
    if let Some(backtrace) = letter.backtrace() {
        let _ = writeln!(text, "backtrace");
        backtrace.lines().for_each(|line| _ = writeln!(text, "  {}", Shown::of(line)));
    }
    let bytes = |bytes: &[u8]| Shown::of(String::from_utf8_lossy(bytes).escape_debug().to_string()).within(VALUE_MAX);
    let key = letter.key.as_deref().map_or_else(|| "-".to_owned(), |key| bytes(key).to_string());
    let _ = writeln!(text, "key       {key}");
    for (name, value) in letter.message_headers() {
        let _ = match value {
            Some(value) => writeln!(text, "header    {}: {}", Shown::of(name), bytes(&value)),
            None => writeln!(text, "header    {} (null)", Shown::of(name)),
        };
    }
    let _ = match &letter.payload {
        Some(payload) => writeln!(text, "value     {} bytes: {}", payload.len(), bytes(payload)),
        None if letter.is_cut() => {
            writeln!(text, "value     left out: it was larger than the topic of dead letters takes")
        }
        None => writeln!(text, "value     none"),
    };
    text
}

fn redrive(dry_run: bool, selection: &Selection) -> anyhow::Result<ExitCode> {
    let client = selection.client.connect()?;
    let wanted = selection.wanted(crate::app::wall_clock());
    let done = client.redrive(selection.limit, dry_run, wanted, |letter| println!("{}", Shown::of(line(letter))))?;
    let verb = if dry_run { "would be put back" } else { "put back" };
    eprintln!(
        "{} {verb}; {} had been before, {} have no value to put back, {} are from topics that are not this service's",
        done.letters, done.before, done.cut, done.foreign
    );
    if done.more {
        eprintln!("there are more than {}: run it again with a higher --limit", selection.limit);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_moves_no_terminal_and_forges_no_line() {
        let foreign = "x\u{1b}[2J\r\nfrom      invocations 9:9\u{9b}\u{202e}";
        let of_the_letter =
            ["topic", "detail", "reason", "function", "invocation-id", "status", "attempts", "backtrace"];
        let headers =
            of_the_letter.map(|name| (format!("forewarm.dead-letter.{name}"), Some(foreign.as_bytes().to_vec())));
        let letter = Letter {
            id: LetterId { partition: 0, offset: 7 },
            at: None,
            key: Some(foreign.into()),
            headers: headers.into_iter().chain([(foreign.to_owned(), Some(foreign.into()))]).collect(),
            payload: Some(foreign.into()),
            redriven: false,
        };
        let text = whole(&letter);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert_eq!(text.lines().filter(|line| line.starts_with("from ")).count(), 1, "{text}");
        assert_eq!(text.lines().count(), 3 + 3 + 3, "{text}");
    }
}
