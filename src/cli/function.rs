//! `function list|show|remove|prune`, and the way to `deploy` and `status`: the registry topic, what nodes say of it, and the
//! artifacts' directory, for people.
//!
//! Must not: know what nodes say; `status` does.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::status::Leaving;
use super::{ClientArguments, print_json, unread};
use crate::artifacts::{DirectoryStore, PRUNE_AFTER_MIN, TopicStore};
use crate::client::Registered;
use crate::registry::{self, Judge};
use crate::types::{FunctionDefinition, FunctionName, Group, Sha256, Shown};

const BROKER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long reading a topic of artifacts whole may take.
const TOPIC_READ: Duration = Duration::from_mins(10);

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check an artifact, keep it where the nodes find it, publish its function's definition, and wait for the nodes.
    ///
    /// What is given is merged into the definition that stands.
    Deploy(Box<super::deploy::Arguments>),
    /// Print all functions as JSON, one a line: the definition, and as `nodes` what each node says of it.
    List {
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Print one function as JSON: the definition, and as `nodes` what each node says of it.
    Show {
        /// The function's name.
        name: FunctionName,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Print what functions are doing on every node: versions, states, since when and why.
    Status(super::status::Arguments),
    /// Remove a function: its calls are rejected from then on.
    Remove(Remove),
    /// The same as `artifacts prune`.
    Prune(Prune),
}

#[derive(Subcommand)]
pub(super) enum Artifacts {
    /// Remove artifacts that no function's definition names, from topics and from artifacts.directory, and print them, one a line.
    ///
    /// Not for topics, or a directory, that serve other clusters, or topics of functions, too: their definitions are not read.
    Prune(Prune),
}

#[derive(Args)]
pub(super) struct Prune {
    /// Only artifacts that were last deployed so long ago or longer; 1h at least.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = age)]
    older_than: Duration,
    /// Only print what would be removed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Args)]
pub(super) struct Remove {
    /// The function's name.
    name: FunctionName,
    /// Do not wait until the nodes have let go of it.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    wait_timeout: Duration,
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn run_artifacts(Artifacts::Prune(arguments): &Artifacts) -> anyhow::Result<ExitCode> {
    prune(arguments)
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Deploy(arguments) => super::deploy::run(arguments),
        Command::Prune(arguments) => prune(arguments),
        Command::List { client } => {
            let (definitions, group) = (definitions(client)?, super::status::read_if_there(client));
            for definition in definitions.functions.values() {
                print_with_nodes(definition, group.as_ref())?;
            }
            for (function, reason) in &definitions.refused {
                unread::left_out(format_args!("the newest definition of {function}: {reason}"));
            }
            Ok(unread::settle(ExitCode::SUCCESS))
        }
        Command::Show { name, client } => {
            let definitions = definitions(client)?;
            let refused = definitions.refused.get(name.as_str());
            if let Some(reason) = refused {
                unread::say(format_args!("the newest definition of {name} cannot be read: {reason}"));
            }
            let definition = definitions.functions.get(name).with_context(|| match refused {
                Some(_) => format!("no definition of {name} can be read"),
                None => format!("function {name} is not registered"),
            })?;
            print_with_nodes(definition, super::status::read_if_there(client).as_ref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(arguments) => super::status::run(arguments).map(unread::settle),
        Command::Remove(arguments) => remove(arguments),
    }
}

/// Removes a function, and says what that came to.
fn remove(arguments: &Remove) -> anyhow::Result<ExitCode> {
    let (name, client) = (&arguments.name, arguments.client.connect()?);
    let was = match client.registered(name, BROKER_TIMEOUT) {
        Ok(Registered::No) => {
            eprintln!("forewarm: function {name} is not registered: nothing was removed");
            return Ok(ExitCode::FAILURE);
        }
        Ok(Registered::Yes(definition)) => format!("version {} of function {name}", Shown::of(&definition.version)),
        Ok(Registered::Unreadable(_)) => format!("the record of function {name}, which was no definition"),
        Err(fault) => {
            eprintln!("forewarm: whether {name} is registered is not known: {}", super::told(&fault.into()));
            format!("function {name}, if it was there,")
        }
    };
    // Before the removal, so that each node that lets go of it is told.
    let leaving = match arguments.no_wait {
        true => None,
        false => Leaving::of(&client, name)
            .inspect_err(|fault| eprintln!("forewarm: which nodes let go of it is not known: {}", super::told(fault)))
            .ok(),
    };
    client.remove(name)?;
    client.flush(BROKER_TIMEOUT)?;
    eprintln!("{was} was removed: its calls are rejected from now on");
    if let Some(leaving) = leaving {
        leaving.wait(arguments.wait_timeout)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a definition with what the nodes say of it; without, where that could not be read.
fn print_with_nodes(definition: &FunctionDefinition, group: Option<&Group>) -> anyhow::Result<()> {
    let nodes = group.map(|group| super::status::of_function(group, &definition.name, crate::app::wall_clock()));
    print_json(&WithNodes { definition, nodes })
}

/// A definition, and what nodes say of it.
#[derive(serde::Serialize)]
struct WithNodes<'a> {
    #[serde(flatten)]
    definition: &'a FunctionDefinition,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<serde_json::Value>,
}

/// Nothing is removed where the topic cannot be read whole and understood whole: any record may name an artifact. A topic
/// without functions is taken for the wrong one.
fn prune(arguments: &Prune) -> anyhow::Result<ExitCode> {
    let config = arguments.client.load()?;
    let topic = &config.topics.functions;
    let registry::Definitions { functions, refused } = definitions(&arguments.client)?;
    anyhow::ensure!(
        refused.is_empty(),
        "nothing is removed: the records of {} on topic {topic} are no definitions that can be read here, and may name \
         artifacts; define these functions anew, or remove them",
        refused.into_keys().collect::<Vec<_>>().join(", ")
    );
    anyhow::ensure!(
        !functions.is_empty(),
        "nothing is removed: topic {topic} has no function; check kafka.bootstrap-servers and topics.functions"
    );
    let directory = config.artifacts.directory.display();
    let store = DirectoryStore::open(&config.artifacts);
    let own = config.tenants.with_topics().map(|tenant| Some(tenant.tenant.as_str()));
    for folder in [None].into_iter().chain(own) {
        // What is in no folder may be named by its path too.
        let in_it = functions.values().map(|definition| &definition.artifact);
        let named: BTreeSet<Sha256> =
            in_it.filter(|artifact| artifact.folder() == folder).map(|artifact| artifact.sha256).collect();
        let pruned = folder
            .map_or(Some(store.clone()), |folder| store.of(folder))
            .context("the tenant's name can be no folder's")?
            .prune(&named, arguments.older_than, !arguments.dry_run)
            .with_context(|| format!("artifacts.directory {directory}"))?;
        pruned.iter().try_for_each(print_json)?;
    }
    let artifacts: Vec<_> = functions.values().map(|definition| definition.artifact.clone()).collect();
    let topics = TopicStore::new(&config, crate::app::connection(&config));
    for topic in std::iter::once(config.topics.artifacts.as_str()).chain(config.tenants.artifact_topics()) {
        let pruned = topics.prune(topic, &artifacts, arguments.older_than, !arguments.dry_run, TOPIC_READ)?;
        pruned.iter().try_for_each(print_json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|fault| fault.to_string())?;
    if age >= PRUNE_AFTER_MIN {
        Ok(age)
    } else {
        Err("1h is the least: an artifact is deployed before its definition".to_owned())
    }
}

fn definitions(client: &ClientArguments) -> anyhow::Result<registry::Definitions> {
    let config = client.load()?;
    let (connection, judge) = (super::reached(&config)?, Judge::lenient(&config));
    let writers = crate::app::writer_schemas(&config)?;
    Ok(registry::read_all(&connection, &config.topics.functions, judge, writers, BROKER_TIMEOUT)?)
}
