//! `explain`: what is so of a function, and why it is held warm, or is not.
//!
//! Must not: judge; it prints what the node says. What is wished is never told as if it were so.

use std::fmt::Write;
use std::process::ExitCode;

use crate::types::{FunctionExplanation, FunctionFacts, FunctionName, Shown, WarmKind, WarmReason, WarmTarget};

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
    let FunctionExplanation { facts, enabled, floor, ceiling, in_flight, wanted, granted, .. } = explanation;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", sentence(explanation));
    let _ = writeln!(
        text,
        "\n{}{}, floor {floor}, ceiling {ceiling}, {in_flight} in flight, {} an instance",
        versions(facts),
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
            let _ = writeln!(text, "{said:<42} {:>8.1} {any:>8} {all:>8}  {}", notice.instances, notice.expires_at);
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

/// What is so, and then what is wished: one line, or two where something is in the way.
fn sentence(explanation: &FunctionExplanation) -> String {
    let FunctionExplanation { function, facts, granted, target, .. } = explanation;
    let why = || match target {
        0 => why_not(explanation),
        _ => shares(granted).iter().map(|(count, by)| format!("{count} by {by}")).collect::<Vec<_>>().join(", "),
    };
    if let Some(headline) = facts.headline() {
        return format!("{function}: {headline}\n{}: {}", counts(*target, facts), why());
    }
    match target {
        0 if facts.ready == 0 => format!("{function} is not held warm: {}", why()),
        0 => format!("{function} is not held warm, {} ready: {}", is_or_are(facts.ready), why()),
        target if facts.ready >= *target => format!("{function} is held {target} ready: {}", why()),
        target => format!("{function}: {}: {}", counts(*target, facts), why()),
    }
}

fn is_or_are(count: u32) -> String {
    if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
}

/// Instances that are wanted and that are there, and calls that wait.
fn counts(target: u32, facts: &FunctionFacts) -> String {
    let FunctionFacts { ready, preparing, busy, waiting, .. } = facts;
    let mut counts = format!("{target} wanted, {ready} ready");
    // Writing to a string does not fail.
    for (count, what) in [(preparing, "being prepared"), (busy, "busy"), (waiting, "waiting calls")] {
        if *count > 0 {
            let _ = write!(counts, ", {count} {what}");
        }
    }
    counts
}

/// The newest version, and the one that runs where that is another.
fn versions(facts: &FunctionFacts) -> String {
    let shown = |version: &Option<String>| version.as_ref().map(|version| Shown::of(version).to_string());
    match (shown(&facts.version), shown(&facts.running_version)) {
        (Some(newest), Some(running)) if newest != running => format!("version {running}, and {newest} is the newest"),
        (None, Some(running)) => format!("version {running}, and the newest cannot be read"),
        (Some(newest), Some(_)) => format!("version {newest}"),
        (Some(newest), None) => format!("version {newest}, which does not run"),
        (None, None) => "no version".to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Failures, NoticeExplanation, OutlookLevel, StatusKind, TargetPart, Timestamp};

    const SINCE: Timestamp = Timestamp::from_millis(1_767_225_647_000);

    /// A function that runs, with so many instances on its shelf.
    fn running(ready: u32) -> FunctionFacts {
        FunctionFacts {
            state: StatusKind::Running,
            reason: None,
            since: SINCE,
            version: Some("7".to_owned()),
            running_version: Some("7".to_owned()),
            definition: None,
            failures: None,
            ready,
            preparing: 0,
            busy: 0,
            waiting: 0,
        }
    }

    fn in_state(state: StatusKind, reason: &str, running_version: Option<&str>) -> FunctionFacts {
        let (reason, running_version) = (Some(reason.to_owned()), running_version.map(str::to_owned));
        FunctionFacts { state, reason, running_version, ..running(0) }
    }

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
            facts: running(granted.ready),
            target: granted.ready,
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
            expires_at: SINCE,
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
        let facts = FunctionFacts { version: Some("1\u{7}".to_owned()), ..running(0) };
        let told = FunctionExplanation { facts, ..explanation(target(1, &parts), target(1, &parts)) };
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

    #[test]
    fn what_is_not_so_is_never_told_as_so() {
        let three = target(3, &[(WarmKind::Floor, None, 1), (WarmKind::History, None, 3)]);
        let failures = Failures { count: 2, reason: String::new(), since: SINCE, last_at: SINCE };
        let failing =
            FunctionFacts { failures: Some(failures), ..in_state(StatusKind::Failing, "init failed: boom", Some("7")) };
        let waiting = FunctionFacts { waiting: 4, ..in_state(StatusKind::Loading, "is compiled", None) };
        let unreadable = FunctionFacts { version: None, ..in_state(StatusKind::Refused, "no JSON", Some("6")) };
        let at = "since 2026-01-01T00:00:47Z";
        let wish = "1 by floor, 2 by history";
        let rows = [
            (running(3), format!("checkout is held 3 ready: {wish}")),
            (running(4), format!("checkout is held 3 ready: {wish}")),
            (running(2), format!("checkout: 3 wanted, 2 ready: {wish}")),
            (
                FunctionFacts { preparing: 2, busy: 5, ..running(0) },
                format!("checkout: 3 wanted, 0 ready, 2 being prepared, 5 busy: {wish}"),
            ),
            (
                failing,
                format!(
                    "checkout: an instance of version 7 cannot be prepared, {at}, 2 times in a row: init failed: boom\n\
                     3 wanted, 0 ready: {wish}"
                ),
            ),
            (
                in_state(StatusKind::Refused, "no export `handle`", None),
                format!(
                    "checkout: version 7 is refused, {at}; its calls are rejected: no export `handle`\n3 wanted, 0 ready: {wish}"
                ),
            ),
            (
                in_state(StatusKind::Refused, "no export `handle`", Some("6")),
                format!(
                    "checkout: version 7 is refused, {at}; version 6 serves: no export `handle`\n3 wanted, 0 ready: {wish}"
                ),
            ),
            (
                unreadable,
                format!(
                    "checkout: the newest definition is refused, {at}; version 6 serves: no JSON\n3 wanted, 0 ready: {wish}"
                ),
            ),
            (
                in_state(StatusKind::Unavailable, "no such file", None),
                format!(
                    "checkout: version 7 cannot be loaded, {at}, and is tried again; calls wait: no such file\n\
                     3 wanted, 0 ready: {wish}"
                ),
            ),
            (
                waiting,
                format!(
                    "checkout: version 7 is loading, {at}; 4 calls wait: is compiled\n3 wanted, 0 ready, 4 waiting calls: {wish}"
                ),
            ),
        ];
        for (facts, said) in rows {
            assert_eq!(sentence(&FunctionExplanation { facts, ..explanation(three.clone(), three.clone()) }), said);
        }
    }

    #[test]
    fn what_nobody_wants_is_told_with_what_is_there() {
        let none = || explanation(WarmTarget::default(), WarmTarget::default());
        let said = sentence(&FunctionExplanation { facts: running(1), ..none() });
        assert_eq!(said, "checkout is not held warm, 1 is ready: nothing is known of it that makes a call likely");
        let disabled = in_state(StatusKind::Disabled, "", None);
        let said = sentence(&FunctionExplanation { facts: disabled, enabled: false, ..none() });
        assert_eq!(
            said,
            "checkout: it is disabled, since 2026-01-01T00:00:47Z: its calls are rejected\n0 wanted, 0 ready: it is disabled"
        );
    }

    #[test]
    fn words_of_guests_do_not_reach_the_terminal_as_they_are() {
        let said = sentence(&FunctionExplanation {
            facts: in_state(StatusKind::Failing, "\u{1b}[2Jforged\nline", Some("7")),
            ..explanation(WarmTarget::default(), WarmTarget::default())
        });
        assert!(said.contains(r"\u{1b}[2Jforged\nline"), "{said}");
    }

    #[test]
    fn versions_are_told_apart() {
        let rows = [
            (running(0), "version 7"),
            (in_state(StatusKind::Loading, "", Some("6")), "version 6, and 7 is the newest"),
            (in_state(StatusKind::Loading, "", None), "version 7, which does not run"),
            (FunctionFacts { version: None, ..running(0) }, "version 7, and the newest cannot be read"),
        ];
        for (facts, said) in rows {
            assert_eq!(versions(&facts), said);
        }
    }
}
