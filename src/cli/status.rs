//! What the whole group says of functions: `function status`, what `list` and `show` say of it, and `deploy --wait`.
//!
//! Must not: judge which node is there (`types::Group` does), or show foreign text as it came.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::ClientArguments;
use crate::app::wall_clock;
use crate::client::{Client, Statuses};
use crate::types::{FunctionDefinition, FunctionName, FunctionStatus, Group, Shown, ShownJson, StatusKind, Timestamp};

/// How long reading the topic may take.
const READ: Duration = Duration::from_secs(30);
/// Records that are taken in between two looks, at most.
const RECORDS_BETWEEN: usize = 1_000;
/// The longest reason in a table, in bytes; all of it is in JSON.
const REASON_SHOWN: usize = 300;

#[derive(Args)]
pub(super) struct Arguments {
    /// Only this function.
    name: Option<FunctionName>,
    /// Print JSON, on one line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Prints what the nodes say; the exit status is 1 where nobody says anything of the function that was named.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (name, now) = (arguments.name.as_ref(), wall_clock());
    let group = read(&arguments.client.connect()?)?;
    let functions: Vec<_> = group.functions(name, now).collect();
    let nodes: Vec<_> = group.nodes(now).chain(group.nodes_gone(now)).collect();
    if arguments.json {
        let both = serde_json::json!({ "functions": functions, "nodes": nodes });
        println!("{}", ShownJson(&both.to_string()));
    } else {
        print!("{}", table(&functions));
        print!("{}", of_nodes(&group, now));
    }
    if let (Some(name), true) = (name, functions.is_empty()) {
        eprintln!("forewarm: no node says anything of function {name}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the group says, read to the topic's end.
pub(super) fn read(client: &Client) -> anyhow::Result<Group> {
    let mut statuses = client.statuses()?;
    anyhow::ensure!(statuses.read_to_end(READ)?, "topics.function-status was not read to its end within {READ:?}");
    Ok(statuses.group)
}

/// What nodes say of one function, as part of what is printed of its definition.
pub(super) fn of_function(group: &Group, function: &FunctionName, now: Timestamp) -> serde_json::Value {
    let nodes = group.functions(Some(function), now).map(|status| {
        let FunctionStatus { node, state, reason, since, version, running_version, .. } = status;
        serde_json::json!({
            "node": node, "state": state, "reason": reason, "since": since,
            "version": version, "running_version": running_version,
        })
    });
    nodes.collect()
}

const HEADS: [&str; 6] = ["FUNCTION", "VERSION", "NODE", "STATE", "SINCE", "REASON"];

fn table(statuses: &[&FunctionStatus]) -> String {
    let rows: Vec<_> = statuses.iter().map(|status| row(status)).collect();
    let mut widths = HEADS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 6]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let heads = HEADS.map(str::to_owned);
    std::iter::once(&heads).chain(&rows).map(line).collect()
}

fn row(status: &FunctionStatus) -> [String; 6] {
    let FunctionStatus { function, version, running_version, node, state, since, reason, .. } = status;
    let shown = |text: &str| Shown::of(text).within(128).to_string();
    let mut versions = version.as_deref().map_or("?".to_owned(), shown);
    if let Some(running) = running_version.as_deref().filter(|running| version.as_deref() != Some(running)) {
        versions = format!("{versions} ({} runs)", shown(running));
    }
    [
        function.as_ref().map_or(String::new(), ToString::to_string),
        versions,
        shown(node),
        state.as_str().to_owned(),
        since.to_string(),
        reason.as_deref().map_or(String::new(), |reason| Shown::of(reason).within(REASON_SHOWN).to_string()),
    ]
}

/// Nodes that take no calls, or that are gone, a line each; and that there is none, where there is none.
fn of_nodes(group: &Group, now: Timestamp) -> String {
    let mut said = String::new();
    for node in group.nodes(now).filter(|node| node.state != StatusKind::Serving) {
        let reason = node.reason.as_deref().unwrap_or("it does not say why");
        let (name, reason) = (Shown::of(&node.node), Shown::of(reason).within(REASON_SHOWN));
        said += &format!("node {name} takes no calls, since {}: {reason}\n", node.since);
    }
    // One that ended in order is no news.
    for node in group.nodes_gone(now).filter(|node| node.state != StatusKind::Stopped) {
        said += &format!("node {} is gone: it was last heard of at {}\n", Shown::of(&node.node), node.said_at);
    }
    if group.nodes(now).next().is_none() {
        said += "no node is there\n";
    }
    said
}

/// Where a group is with one definition.
#[derive(Debug, PartialEq)]
enum Progress {
    /// Every node that is there has it; their names, and their words for it.
    Everywhere(Vec<(String, StatusKind)>),
    /// A node cannot run it: which one, and why.
    Failed(String),
    /// No node is there.
    Nobody,
    /// What is waited for.
    Waiting(String),
}

/// Where the nodes that are there are with a definition. Nodes that take no calls now count as others do.
fn progress(group: &Group, definition: &FunctionDefinition, digest: &str, now: Timestamp) -> Progress {
    let nodes: BTreeSet<&str> = group.nodes(now).map(|node| node.node.as_str()).collect();
    let of: Vec<_> = group.functions(Some(&definition.name), now).collect();
    let (mut waits, mut have) = (Vec::new(), Vec::new());
    for node in &nodes {
        let Some(status) = of.iter().find(|status| status.node == *node) else {
            waits.push(format!("node {} has not said anything of it", Shown::of(node)));
            continue;
        };
        let (state, reason) = (status.state, status.reason.as_deref().unwrap_or_default());
        let told =
            || format!("{} on node {}, since {}: {}", state.as_str(), Shown::of(node), status.since, Shown::of(reason));
        if status.definition.as_deref() != Some(digest) {
            waits.push(format!("node {} has not heard of it", Shown::of(node)));
            continue;
        }
        match state {
            StatusKind::Refused | StatusKind::Failing => return Progress::Failed(told()),
            StatusKind::Running | StatusKind::Disabled => have.push(((*node).to_owned(), state)),
            // Where instances are kept in any case, one of them has to prove that the version can be prepared.
            StatusKind::Loaded if definition.warm.floor == 0 => have.push(((*node).to_owned(), state)),
            _ => waits.push(told()),
        }
    }
    match (nodes.is_empty(), waits.is_empty()) {
        (true, _) => Progress::Nobody,
        (false, true) => Progress::Everywhere(have),
        (false, false) => Progress::Waiting(waits.join("; ")),
    }
}

/// What is waited for after a deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nodes, also where none is there yet.
    Required,
    /// Those nodes that are there, as far as anybody can tell.
    IfThere,
}

/// Waits until every node that is there runs the definition, and tells each node's word and the next step on stderr.
///
/// # Errors
/// Where a node refuses the version or cannot prepare it, or the time is over; with the reason.
pub(super) fn wait(
    client: &Client,
    definition: &FunctionDefinition,
    timeout: Duration,
    mode: Waiting,
) -> anyhow::Result<()> {
    let (began, digest) = (Instant::now(), definition.digest());
    let FunctionDefinition { name, version, .. } = definition;
    let version = Shown::of(version).to_string();
    let mut statuses = match client.statuses() {
        Err(fault) if mode == Waiting::IfThere => {
            eprintln!("forewarm: what nodes make of it is not known: {}", super::told(&fault.into()));
            return Ok(());
        }
        opened => opened?,
    };
    let mut said = String::new();
    loop {
        let waiting = match look(&statuses, definition, &digest) {
            Some(Progress::Everywhere(nodes)) => {
                say_everywhere(definition, &nodes);
                return Ok(());
            }
            Some(Progress::Failed(why)) => anyhow::bail!(
                "version {version} of {name} is {why}; the definition stands: deploy one that runs, or remove it (forewarm \
                 function remove {name})"
            ),
            Some(Progress::Nobody) if mode == Waiting::IfThere => {
                eprintln!("no node is there: the first one that starts takes it");
                return Ok(());
            }
            Some(Progress::Nobody) => "no node is there".to_owned(),
            Some(Progress::Waiting(waiting)) => waiting,
            None => "topics.function-status is being read".to_owned(),
        };
        if began.elapsed() >= timeout {
            anyhow::bail!("version {version} of {name} is not on every node after {timeout:?}: {waiting}");
        }
        if said != waiting && statuses.at_end() {
            eprintln!("waiting: {waiting}");
            said = waiting;
        }
        take_in(&mut statuses)?;
    }
}

fn say_everywhere(definition: &FunctionDefinition, nodes: &[(String, StatusKind)]) {
    let FunctionDefinition { name, version, .. } = definition;
    let names = nodes.iter().map(|(node, _)| Shown::of(node).to_string()).collect::<Vec<_>>().join(", ");
    eprintln!("version {} of {name} is on every node that is there: {names}", Shown::of(version));
    nodes.iter().for_each(|(node, state)| eprintln!("  {}: {}", Shown::of(node), state.as_str()));
    if definition.enabled {
        eprintln!("call it: forewarm invoke {name} --payload TEXT");
    }
}

/// What is there is taken in before it is judged again.
fn take_in(statuses: &mut Statuses) -> anyhow::Result<()> {
    for _ in 0..RECORDS_BETWEEN {
        if !statuses.next(Duration::from_millis(200))? {
            break;
        }
    }
    Ok(())
}

/// The nodes that have a function which is about to be removed.
pub(super) struct Leaving {
    statuses: Statuses,
    function: FunctionName,
    have: BTreeSet<String>,
}

impl Leaving {
    /// Looks which nodes have it, before it is removed.
    ///
    /// # Errors
    /// Where the topic of statuses cannot be read.
    pub(super) fn of(client: &Client, function: &FunctionName) -> anyhow::Result<Self> {
        let mut statuses = client.statuses()?;
        anyhow::ensure!(statuses.read_to_end(READ)?, "topics.function-status was not read to its end within {READ:?}");
        let mut leaving = Self { statuses, function: function.clone(), have: BTreeSet::new() };
        leaving.have = leaving.have_now();
        Ok(leaving)
    }

    fn have_now(&self) -> BTreeSet<String> {
        let of = self.statuses.group.functions(Some(&self.function), wall_clock());
        of.map(|status| status.node.clone()).collect()
    }

    /// Waits until none of them says anything of it, and tells which ones have let go of it.
    ///
    /// # Errors
    /// Where the time is over; with the nodes that still have it.
    pub(super) fn wait(mut self, timeout: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        if self.have.is_empty() {
            let nobody = self.statuses.group.nodes(wall_clock()).next().is_none();
            eprintln!("{}", if nobody { "no node is there" } else { "no node had said anything of it" });
        }
        loop {
            let have = self.have_now();
            self.have.difference(&have).for_each(|node| eprintln!("  {}: removed", Shown::of(node)));
            self.have = have;
            if self.have.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= timeout {
                let nodes: Vec<_> = self.have.iter().map(|node| Shown::of(node).to_string()).collect();
                anyhow::bail!(
                    "the removal is published, and these nodes have not said within {timeout:?} that they let go of {}: {}",
                    self.function,
                    nodes.join(", ")
                );
            }
            take_in(&mut self.statuses)?;
        }
    }
}

fn look(statuses: &Statuses, definition: &FunctionDefinition, digest: &str) -> Option<Progress> {
    statuses.at_end().then(|| progress(&statuses.group, definition, digest, wall_clock()))
}

/// What the nodes say, for commands that go on without it: a topic that is not there, or may not be read, is said once.
pub(super) fn read_if_there(client: &ClientArguments) -> Option<Group> {
    let group = client.connect().and_then(|client| read(&client)).context("what nodes say is left out");
    group.inspect_err(|fault| eprintln!("forewarm: {}", super::told(fault))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_647_000);

    fn definition(floor: u32) -> FunctionDefinition {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition =
            FunctionDefinition::new("shop/echo".parse().unwrap(), "8", artifact, FunctionKind::Component);
        definition.warm.floor = floor;
        definition
    }

    fn status(node: &str, function: Option<&str>, state: StatusKind, reason: Option<&str>) -> FunctionStatus {
        FunctionStatus {
            node: node.to_owned(),
            function: function.map(|function| function.parse().unwrap()),
            state,
            reason: reason.map(str::to_owned),
            since: NOW,
            version: Some("8".to_owned()),
            running_version: None,
            definition: Some(definition(0).digest()),
            node_started_at: NOW,
            said_at: NOW,
        }
    }

    fn group(nodes: &[&str], states: &[(&str, StatusKind)]) -> Group {
        let mut group = Group::default();
        nodes.iter().for_each(|node| group.take(status(node, None, StatusKind::Serving, None)));
        for (node, state) in states {
            group.take(status(node, Some("shop/echo"), *state, Some("boom\u{1b}[2J")));
        }
        group
    }

    fn seen(floor: u32, nodes: &[&str], states: &[(&str, StatusKind)]) -> Progress {
        progress(&group(nodes, states), &definition(floor), &definition(0).digest(), NOW)
    }

    #[test]
    fn a_version_is_everywhere_when_every_node_that_is_there_has_it() {
        use StatusKind::{Disabled, Failing, Loaded, Loading, Refused, Running, Unavailable};
        let everywhere = |nodes: &[(&str, StatusKind)]| {
            Progress::Everywhere(nodes.iter().map(|(node, state)| ((*node).to_owned(), *state)).collect())
        };
        let told = |state: &str| format!("{state} on node b, since 2026-01-01T00:00:47Z: boom\\u{{1b}}[2J");
        let both = ["a", "b"];
        let states = [("a", Running), ("b", Loaded)];
        assert_eq!(seen(0, &both, &states), everywhere(&states));
        assert_eq!(seen(0, &["a"], &[("a", Disabled), ("gone", Refused)]), everywhere(&[("a", Disabled)]));
        assert_eq!(seen(1, &both, &[("a", Running), ("b", Loaded)]), Progress::Waiting(told("loaded")));
        for state in [Loading, Unavailable] {
            let waits = Progress::Waiting(told(state.as_str()));
            assert_eq!(seen(0, &both, &[("a", Running), ("b", state)]), waits);
        }
        for state in [Refused, Failing] {
            assert_eq!(seen(0, &both, &[("a", Loading), ("b", state)]), Progress::Failed(told(state.as_str())));
        }
        let silent = Progress::Waiting("node b has not said anything of it".to_owned());
        assert_eq!(seen(0, &both, &[("a", Running)]), silent);
        assert_eq!(seen(0, &[], &[("a", Running)]), Progress::Nobody);
        // Another definition of that version, as of before: what is said of it is old.
        let other = progress(&group(&["a"], &[("a", Refused)]), &definition(0), "another", NOW);
        assert_eq!(other, Progress::Waiting("node a has not heard of it".to_owned()));
    }

    #[test]
    fn the_table_tells_versions_states_and_reasons_on_one_line_each() {
        let running = FunctionStatus {
            running_version: Some("7".to_owned()),
            ..status("node-1", Some("shop/echo"), StatusKind::Refused, Some("no export\nhandle"))
        };
        let other = status("b", Some("f"), StatusKind::Running, None);
        let told = table(&[&running, &other]);
        let wanted = "\
FUNCTION   VERSION     NODE    STATE    SINCE                 REASON
shop/echo  8 (7 runs)  node-1  refused  2026-01-01T00:00:47Z  no export\\nhandle
f          8           b       running  2026-01-01T00:00:47Z
";
        assert_eq!(told, wanted);
    }

    #[test]
    fn nodes_that_take_no_calls_or_are_gone_are_named() {
        let mut group = group(&["a"], &[]);
        assert_eq!(of_nodes(&group, NOW), "");
        group.take(status("b", None, StatusKind::NotReady, Some("no brokers")));
        group.take(status("c", None, StatusKind::Stopped, None));
        assert_eq!(of_nodes(&group, NOW), "node b takes no calls, since 2026-01-01T00:00:47Z: no brokers\n");
        let later = NOW + Duration::from_secs(90);
        let gone = "node a is gone: it was last heard of at 2026-01-01T00:00:47Z\n\
                    node b is gone: it was last heard of at 2026-01-01T00:00:47Z\nno node is there\n";
        assert_eq!(of_nodes(&group, later), gone);
    }

    #[test]
    fn what_nodes_say_stands_beside_a_definition() {
        let said = of_function(&group(&["a"], &[("a", StatusKind::Refused)]), &definition(0).name, NOW);
        assert_eq!((said[0]["node"].as_str(), said[0]["state"].as_str()), (Some("a"), Some("refused")));
    }
}
