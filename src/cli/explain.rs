//! `explain`: why a function is held warm, or is not.
//!
//! Must not: judge; it prints what the node says.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use crate::types::{FunctionExplanation, FunctionName, Shown, Timestamp, WarmKind, WarmReason, WarmTarget};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function.
    function: FunctionName,
    /// Print the node's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: super::admin::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = ["functions", arguments.function.as_str()];
    if let Some(explanation) = arguments.admin.ask_for::<FunctionExplanation>(&path, &[], arguments.json)? {
        print!("{}", text(&explanation));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(explanation: &FunctionExplanation) -> String {
    let FunctionExplanation { version, enabled, floor, ceiling, in_flight, wanted, granted, .. } = explanation;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", sentence(explanation));
    let _ = writeln!(
        text,
        "\nversion {}{}, floor {floor}, ceiling {ceiling}, {in_flight} in flight, {} an instance",
        Shown::of(version),
        if *enabled { "" } else { " (disabled)" },
        bytes(explanation.instance_bytes),
    );
    if granted.ready < wanted.ready {
        let _ = writeln!(text, "the memory budget grants {} of the {} that are wanted", granted.ready, wanted.ready);
    }
    if !wanted.parts.is_empty() {
        let _ = writeln!(text, "\n{:<42} {:>8} {:>8}", "asked for by", "upto", "adds");
        let mut before = 0;
        for part in &wanted.parts {
            let adds = part.instances.saturating_sub(before);
            before = before.max(part.instances);
            let _ = writeln!(text, "{:<42} {:>8} {:>8}", reason(&part.reason), part.instances, adds);
        }
    }
    if !explanation.notices.is_empty() {
        let _ = writeln!(text, "\n{:<42} {:>8} {:>8} {:>8}  until", "announced by", "calls", "any", "all");
        for notice in &explanation.notices {
            let said = reason(&WarmReason { kind: notice.kind, detail: Some(notice.id.clone()) });
            let (any, all) = (percent(notice.any_probability), percent(notice.all_probability));
            let _ =
                writeln!(text, "{said:<42} {:>8.1} {any:>8} {all:>8}  {}", notice.instances, time(notice.expires_at));
        }
    }
    if !explanation.outlook.is_empty() {
        let levels = explanation.outlook.iter().take(12);
        let levels: Vec<_> =
            levels.map(|level| format!("{} {}", level.instances, percent(level.probability))).collect();
        let _ = writeln!(text, "\nits record says for this minute, in use at once at least: {}", levels.join(", "));
    }
    text
}

/// What is held, in one sentence.
fn sentence(explanation: &FunctionExplanation) -> String {
    let FunctionExplanation { function, granted, .. } = explanation;
    if granted.ready == 0 {
        return format!("{function} is not held warm: {}", why_not(explanation));
    }
    let shares: Vec<String> = shares(granted).into_iter().map(|(count, by)| format!("{count} by {by}")).collect();
    format!("{function} is held {} ready: {}", granted.ready, shares.join(", "))
}

fn why_not(explanation: &FunctionExplanation) -> String {
    let FunctionExplanation { enabled, wanted, notices, outlook, .. } = explanation;
    match outlook.first() {
        _ if !enabled => "it is disabled".to_owned(),
        _ if wanted.ready > 0 => "the memory budget has no room for it".to_owned(),
        _ if !notices.is_empty() => "what is announced is not likely enough".to_owned(),
        Some(level) => format!("a call within the minute has a probability of {}", percent(level.probability)),
        None => "nothing is known of it that makes a call likely".to_owned(),
    }
}

/// Who each ready instance is there for, in the order of the instances.
fn shares(target: &WarmTarget) -> Vec<(u32, String)> {
    let mut shares: Vec<(u32, String)> = Vec::new();
    let mut before = 0;
    for part in &target.parts {
        let upto = part.instances.min(target.ready);
        if upto > before {
            shares.push((upto - before, reason(&part.reason)));
            before = upto;
        }
    }
    shares
}

fn reason(reason: &WarmReason) -> String {
    let kind = match reason.kind {
        WarmKind::PreTrigger => "pre-trigger",
        kind => kind.as_str(),
    };
    reason.detail.as_ref().map_or_else(|| kind.to_owned(), |detail| format!("{kind} {}", Shown::of(detail)))
}

fn percent(probability: f32) -> String {
    format!("{:.1}%", probability * 100.0)
}

fn bytes(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    } else {
        format!("{} MiB", bytes.div_ceil(1 << 20))
    }
}

fn time(at: Timestamp) -> String {
    let since = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NoticeExplanation, OutlookLevel, TargetPart};

    fn target(ready: u32, parts: &[(WarmKind, Option<&str>, u32)]) -> WarmTarget {
        let part = |&(kind, detail, instances): &(WarmKind, Option<&str>, u32)| TargetPart {
            reason: WarmReason { kind, detail: detail.map(str::to_owned) },
            instances,
        };
        WarmTarget { ready, parts: parts.iter().map(part).collect() }
    }

    fn explanation(wanted: WarmTarget, granted: WarmTarget) -> FunctionExplanation {
        FunctionExplanation {
            function: "checkout".parse().unwrap(),
            version: "7".to_owned(),
            enabled: true,
            floor: 1,
            ceiling: 64,
            in_flight: 2,
            history: 0.0,
            outlook: vec![],
            notices: vec![],
            wanted,
            granted,
            instance_bytes: 3 << 19,
        }
    }

    #[test]
    fn a_held_function_is_told_with_its_reasons() {
        let parts =
            [(WarmKind::Floor, None, 1), (WarmKind::PreTrigger, Some("order-4711"), 3), (WarmKind::History, None, 5)];
        let notice = NoticeExplanation {
            kind: WarmKind::PreTrigger,
            id: "order-4711".to_owned(),
            instances: 4.0,
            any_probability: 0.9,
            all_probability: 0.25,
            expires_at: Timestamp::from_millis(1_767_225_647_000),
        };
        let outlook =
            vec![OutlookLevel { instances: 1, probability: 0.987 }, OutlookLevel { instances: 2, probability: 0.4 }];
        let told =
            FunctionExplanation { notices: vec![notice], outlook, ..explanation(target(5, &parts), target(4, &parts)) };
        let wanted = "\
checkout is held 4 ready: 1 by floor, 2 by pre-trigger order-4711, 1 by history

version 7, floor 1, ceiling 64, 2 in flight, 2 MiB an instance
the memory budget grants 4 of the 5 that are wanted

asked for by                                   upto     adds
floor                                             1        1
pre-trigger order-4711                            3        2
history                                           5        2

announced by                                  calls      any      all  until
pre-trigger order-4711                          4.0    90.0%    25.0%  2026-01-01T00:00:47Z

its record says for this minute, in use at once at least: 1 98.7%, 2 40.0%
";
        assert_eq!(text(&told), wanted);
    }

    #[test]
    fn foreign_text_forges_no_line() {
        let parts = [(WarmKind::PreTrigger, Some("id\nversion 9\u{1b}[2J"), 1)];
        let told =
            FunctionExplanation { version: "1\u{7}".to_owned(), ..explanation(target(1, &parts), target(1, &parts)) };
        let text = text(&told);
        assert!(!text.contains(['\u{1b}', '\u{7}']) && !text.contains("\nversion 9"), "{text}");
    }

    #[test]
    fn a_function_that_is_not_held_is_told_why_not() {
        let none = || explanation(WarmTarget::default(), WarmTarget::default());
        let level = OutlookLevel { instances: 1, probability: 0.004 };
        let rows = [
            (none(), "nothing is known of it that makes a call likely"),
            (
                FunctionExplanation { outlook: vec![level], ..none() },
                "a call within the minute has a probability of 0.4%",
            ),
            (FunctionExplanation { enabled: false, ..none() }, "it is disabled"),
            (
                explanation(target(1, &[(WarmKind::Floor, None, 1)]), WarmTarget::default()),
                "the memory budget has no room for it",
            ),
        ];
        for (told, why) in rows {
            assert_eq!(sentence(&told), format!("checkout is not held warm: {why}"));
        }
    }
}
