//! `function deploy|list|show|status|remove|prune`: the registry topic, what nodes say of it, and the artifacts' directory, for
//! people.
//!
//! Must not: know what nodes say; `status` does.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};

use super::{ClientArguments, print_json, unread};
use crate::artifacts::{DirectoryStore, PRUNE_AFTER_MIN};
use crate::registry::{self, Judge};
use crate::types::{Artifact, FunctionDefinition, FunctionKind, FunctionName, Group, Reuse, Sha256};

const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub(super) enum Command {
    /// Publish a function's definition, and keep its artifact where the nodes find it.
    Deploy(Box<Deploy>),
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
    Remove {
        /// The function's name.
        name: FunctionName,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Remove artifacts from artifacts.directory that no function's definition names, and print them, one a line.
    ///
    /// Not for a directory that serves other clusters, or topics of functions, too: their definitions are not read.
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
pub(super) struct Deploy {
    /// The function's name.
    name: FunctionName,
    /// Its WebAssembly file.
    #[arg(value_name = "WASM")]
    artifact: PathBuf,
    /// A TOML file with other fields of the definition (limits, warm, pre_trigger, environment, …).
    #[arg(long, value_name = "FILE")]
    definition: Option<PathBuf>,
    /// The version's name; the start of the artifact's digest where it is not given.
    #[arg(long)]
    version: Option<String>,
    /// What world the guest lives in; told from the file where it is not given.
    #[arg(long)]
    kind: Option<Kind>,
    /// Instances that are kept ready whatever the forecast says.
    #[arg(long)]
    floor: Option<u32>,
    /// One call an instance.
    #[arg(long)]
    fresh: bool,
    /// An environment variable of the guest.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = super::key_value)]
    environment: Vec<(String, String)>,
    /// Publish a file:// address of the artifact instead of copying it to artifacts.directory. Nodes read it only where their
    /// artifacts.file-roots has a folder around it.
    #[arg(long)]
    in_place: bool,
    /// Wait until every node that is there runs this version; exit status 1 with the reason where one cannot.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    wait_timeout: Duration,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Component,
    Command,
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Deploy(arguments) => deploy(arguments),
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
        Command::Remove { name, client } => {
            let client = client.connect()?;
            client.remove(name)?;
            client.flush(BROKER_TIMEOUT)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn deploy(arguments: &Deploy) -> anyhow::Result<ExitCode> {
    let path = &arguments.artifact;
    let wasm = std::fs::read(path).with_context(|| format!("artifact {}", path.display()))?;
    let kind = match arguments.kind {
        Some(Kind::Component) => FunctionKind::Component,
        Some(Kind::Command) => FunctionKind::Command,
        None => kind_of(&wasm).with_context(|| format!("{} is no WebAssembly binary", path.display()))?,
    };
    let config = arguments.client.load()?;
    let owner = config.tenants.owner_of(&arguments.name);
    let sha256 = Sha256::of(&wasm);
    let uri = match owner {
        _ if arguments.in_place => format!("file://{}", std::fs::canonicalize(path)?.display()),
        Some(owner) => format!("{}{}", Artifact::STORE, owner.tenant),
        None => Artifact::STORE.to_owned(),
    };
    let mut definition = template(arguments, kind, Artifact { uri, sha256 })?;
    if let Some(floor) = arguments.floor {
        definition.warm.floor = floor;
    }
    if arguments.fresh {
        definition.warm.reuse = Reuse::Fresh;
    }
    definition.environment.extend(arguments.environment.iter().cloned());
    if let Some(owner) = owner {
        definition.tenant.get_or_insert_with(|| owner.tenant.clone());
    }
    // The nodes' own rule, and in their words.
    let mut faults = Judge::new(&config).faults(&definition);
    let bytes_max = config.artifacts.bytes_max.get();
    if wasm.len() as u64 > bytes_max {
        faults.push(format!(
            "the artifact has {} bytes, above the operator's artifacts.bytes-max of {bytes_max}",
            wasm.len()
        ));
    }
    anyhow::ensure!(faults.is_empty(), "the definition is refused: {}", faults.join("; "));
    if !arguments.in_place {
        let store = DirectoryStore::open(&config.artifacts);
        let store = definition.artifact.folder().map_or(Some(store.clone()), |folder| store.of(folder));
        store.context("the tenant's name can be no folder's")?.put(&wasm)?;
    }
    let client = arguments.client.connect()?;
    client.define(&definition)?;
    client.flush(BROKER_TIMEOUT)?;
    print_json(&definition)?;
    if arguments.wait {
        super::status::wait(&client, &definition, arguments.wait_timeout)?;
    } else {
        eprintln!("published; what the nodes make of it: forewarm function status {}", definition.name);
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

/// The definition from the file, where there is one, with what the command line knows better.
fn template(arguments: &Deploy, kind: FunctionKind, artifact: Artifact) -> anyhow::Result<FunctionDefinition> {
    let mut fields = match &arguments.definition {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("definition {}", file.display()))?;
            toml::from_str::<toml::Table>(&text).with_context(|| format!("definition {}", file.display()))?
        }
        None => toml::Table::new(),
    };
    let version = arguments.version.clone().unwrap_or_else(|| artifact.sha256.to_string()[..12].to_owned());
    fields.insert("name".to_owned(), arguments.name.as_str().into());
    if arguments.version.is_some() || !fields.contains_key("version") {
        fields.insert("version".to_owned(), version.into());
    }
    fields.insert("kind".to_owned(), toml::Value::try_from(kind)?);
    fields.insert("artifact".to_owned(), toml::Value::try_from(artifact)?);
    Ok(fields.try_into()?)
}

/// What a WebAssembly binary says it is: its header's layer is 0 for a module and 1 for a component.
fn kind_of(wasm: &[u8]) -> Option<FunctionKind> {
    match wasm.get(..8)? {
        [0, b'a', b's', b'm', _, _, 0, 0] => Some(FunctionKind::Command),
        [0, b'a', b's', b'm', _, _, 1, 0] => Some(FunctionKind::Component),
        _ => None,
    }
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
