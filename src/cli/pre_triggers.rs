//! `pre-triggers list|outcomes`: the notices that lie on their topics, and how they ended.
//!
//! Must not: pass over in silence a record that cannot be read; the client tells.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::newest::{Newest, say_older};
use super::{ClientArguments, print_json, unread};
use crate::app::wall_clock;
use crate::client::{Events, Start};
use crate::codec::Event;
use crate::types::{FunctionName, OutcomeKind, PreTrigger, PreTriggerOutcome, Timestamp};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print pre-triggers as JSON, one a line, oldest first: those of users, of guests and of tenants.
    List {
        /// Only those whose window is still open.
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        selection: Selection,
    },
    /// Print how pre-triggers ended, as JSON, one a line, oldest first. Each node says so of each.
    Outcomes {
        /// Only those that ended so: refused, withdrawn, hit, late, wasted or expired.
        #[arg(long, value_parser = parse_kind)]
        kind: Option<OutcomeKind>,
        #[command(flatten)]
        selection: Selection,
    },
}

/// Which of them.
#[derive(Args)]
pub(super) struct Selection {
    /// Only of this function.
    #[arg(long)]
    function: Option<FunctionName>,
    /// Only this one.
    #[arg(long)]
    id: Option<String>,
    /// Only from this source.
    #[arg(long)]
    source: Option<String>,
    /// Only those that were written within this time, such as "10m".
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// At most so many: the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    count: usize,
    #[command(flatten)]
    client: ClientArguments,
}

impl Selection {
    fn start(&self) -> Start {
        self.since.map_or(Start::Beginning, |since| Start::Since(wall_clock() - since))
    }

    fn wants(&self, function: &FunctionName, id: &str, source: &str) -> bool {
        self.function.as_ref().is_none_or(|wanted| wanted == function)
            && self.id.as_ref().is_none_or(|wanted| wanted == id)
            && self.source.as_ref().is_none_or(|wanted| wanted == source)
    }
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { live, selection } => {
            let (client, now) = (selection.client.connect()?, wall_clock());
            let mut newest = Newest::new(selection.count);
            for notices in client.pre_triggers(selection.start()) {
                read(notices?, |notice: PreTrigger| {
                    let is_wanted = selection.wants(&notice.function, &notice.id, &notice.source);
                    if is_wanted && (!live || is_live(&notice, now)) {
                        newest.take(notice.emitted_at, notice);
                    }
                })?;
            }
            print(newest)
        }
        Command::Outcomes { kind, selection } => {
            let client = selection.client.connect()?;
            let mut newest = Newest::new(selection.count);
            read(client.outcomes(selection.start())?, |outcome: PreTriggerOutcome| {
                let is_wanted = selection.wants(&outcome.function, &outcome.pre_trigger_id, &outcome.source);
                if is_wanted && kind.is_none_or(|kind| kind == outcome.kind) {
                    newest.take(outcome.ended_at, outcome);
                }
            })?;
            print(newest)
        }
    }
}

/// Reads to the end of the topic.
fn read<E: Event>(mut events: Events<E>, mut take: impl FnMut(E)) -> anyhow::Result<()> {
    while !events.at_end() {
        if let Some(came) = events.next(Duration::from_millis(250))? {
            take(came.event);
        }
    }
    Ok(())
}

fn print<E: serde::Serialize>(newest: Newest<E>) -> anyhow::Result<ExitCode> {
    let (mut kept, older) = newest.into_values();
    kept.try_for_each(|event| print_json(&event))?;
    say_older(older);
    Ok(unread::settle(ExitCode::SUCCESS))
}

/// Whether calls may still be expected on its account. A notice that withdraws another announces nothing.
fn is_live(notice: &PreTrigger, now: Timestamp) -> bool {
    notice.expected_invocations > 0 && notice.expires_at() > now
}

fn parse_kind(text: &str) -> Result<OutcomeKind, String> {
    let names = || OutcomeKind::ALL.map(OutcomeKind::as_str).join(", ");
    let found = OutcomeKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| format!("there are {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_live_until_its_window_is_over() {
        let mut notice: PreTrigger = serde_json::from_value(serde_json::json!({
            "id": "n", "source": "s", "function": "f", "window_ms": 1_000, "emitted_at": 5_000,
        }))
        .unwrap();
        let at = Timestamp::from_millis;
        assert!(is_live(&notice, at(5_999)) && !is_live(&notice, at(6_000)));
        notice.not_before = Some(at(7_000));
        assert!(is_live(&notice, at(7_999)) && !is_live(&notice, at(8_000)));
        notice.expected_invocations = 0;
        assert!(!is_live(&notice, at(5_000)));
    }

    #[test]
    fn a_kind_is_named_as_it_is_on_the_wire() {
        assert_eq!(parse_kind("hit"), Ok(OutcomeKind::Hit));
        assert!(parse_kind("hitt").unwrap_err().contains("refused, withdrawn, hit"));
    }
}
