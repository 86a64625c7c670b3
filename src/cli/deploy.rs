//! `function deploy`: checks an artifact as a node would, merges the definition with the one that stands, publishes both, and waits
//! for the nodes' word.
//!
//! Must not: know how definitions are merged (`merge` does), or what nodes say (`status` does).

mod merge;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use toml::{Table, Value};

use self::merge::{Asked, Merged, lay_over, merge, misspelt};
use super::status::Waiting;
use super::{ClientArguments, print_json};
use crate::artifacts::{ArtifactStore, DirectoryStore, TopicStore};
use crate::client::{Client, Registered};
use crate::config::{Config, Store};
use crate::execute::{Unfit, check};
use crate::registry::Judge;
use crate::types::{Artifact, Chunks, FunctionDefinition, FunctionKind, FunctionName, Sha256, Shown};

const BROKER_TIMEOUT: Duration = Duration::from_secs(30);
/// Artifacts from this size on may take the compiler long enough to say so.
const LARGE_BYTES: usize = 1 << 20;

#[derive(Args)]
pub(super) struct Arguments {
    /// The function's name.
    name: FunctionName,
    /// Its WebAssembly file.
    #[arg(value_name = "WASM")]
    artifact: PathBuf,
    /// A TOML file with other fields of the definition (limits, warm, pre_trigger, environment, …).
    #[arg(long, value_name = "FILE")]
    definition: Option<PathBuf>,
    /// The version's name. Where it is not given: the start of the artifact's digest, and of that of limits, environment and reuse.
    #[arg(long)]
    version: Option<String>,
    /// What world the guest lives in; told from the file where it is not given.
    #[arg(long)]
    kind: Option<Kind>,
    /// Instances that are kept ready whatever the forecast says.
    #[arg(long)]
    floor: Option<u32>,
    /// One call an instance; "--fresh=false": many calls again.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    fresh: Option<bool>,
    /// An environment variable of the guest.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    environment: Vec<(String, String)>,
    /// Take an environment variable away.
    #[arg(long = "unset-env", value_name = "KEY")]
    unset: Vec<String>,
    /// Keep nothing of the definition that stands: what is not given is as by default. Otherwise what is given is merged into it.
    #[arg(long)]
    replace: bool,
    /// Publish without checking and compiling the artifact here; the nodes do that.
    #[arg(long)]
    unchecked: bool,
    /// Publish a file:// address of the artifact instead of putting it in a topic (or artifacts.directory, by artifacts.store). Nodes
    /// read it only where their artifacts.file-roots has a folder around it.
    #[arg(long)]
    in_place: bool,
    /// Exit status 1 also where no node is there, or what nodes say cannot be read.
    #[arg(long)]
    wait: bool,
    /// Do not wait until every node that is there runs this version.
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    wait_timeout: Duration,
    /// Print the definition as JSON, as is done in any case where the output is no terminal.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Component,
    Command,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.artifact;
    let wasm = std::fs::read(path).with_context(|| format!("artifact {}", path.display()))?;
    let config = arguments.client.load()?;
    let given = given(arguments)?;
    let place = Place::of(arguments, &config);
    let asked = asked(arguments, &config, &wasm, given, &place)?;
    let client = arguments.client.connect()?;
    let stands = stands(&client, arguments)?;
    let Merged { mut definition, not_given, is_version_taken } = merge(asked, stands.as_ref(), arguments.replace)?;
    let (name, version) = (definition.name.clone(), Shown::of(&definition.version).to_string());
    if let (Some(stands), false) = (&stands, not_given.is_empty()) {
        let did = if arguments.replace { "dropped" } else { "kept" };
        eprintln!("{did}, from version {}: {}", Shown::of(&stands.version), Shown::of(&not_given.join(", ")));
    }
    if is_version_taken {
        eprintln!(
            "warning: version {version} already stands for other code, limits or environment; results cannot tell them apart"
        );
    }
    refuse(&config, &definition, &wasm)?;
    if !arguments.unchecked {
        fits(&config, &definition, &wasm)?;
    }
    definition.artifact = put(&config, &place, &definition.artifact, &wasm, stands.as_ref())?;
    client.define(&definition)?;
    client.flush(BROKER_TIMEOUT)?;
    if arguments.json || !std::io::stdout().is_terminal() {
        print_json(&definition)?;
    }
    eprintln!(
        "published: version {version} of {name}, {} bytes; its status: forewarm function status {name}",
        wasm.len()
    );
    if !definition.enabled {
        eprintln!("{name} is disabled, and rejects its calls: deploy it with enabled = true in a --definition file");
    }
    if !arguments.no_wait {
        let waiting = if arguments.wait { Waiting::Required } else { Waiting::IfThere };
        super::status::wait(&client, &definition, arguments.wait_timeout, waiting)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The fields that the definition's file gives, and above them those of the command line.
fn given(arguments: &Arguments) -> anyhow::Result<Table> {
    let mut fields = Table::new();
    if let Some(file) = &arguments.definition {
        let of = || format!("definition {}", file.display());
        let text = std::fs::read_to_string(file).with_context(of)?;
        fields = toml::from_str::<Table>(&text).with_context(of)?;
        let faults = misspelt(&fields)?;
        anyhow::ensure!(faults.is_empty(), "{}: {}", of(), faults.join("; "));
        if let Some(name) = fields.remove("name") {
            let is_it = name.as_str() == Some(arguments.name.as_str());
            anyhow::ensure!(is_it, "{}: its name is {name}, and {} is deployed", of(), arguments.name);
        }
        let artifact = fields.remove("artifact");
        anyhow::ensure!(artifact.is_none(), "{}: leave artifact out: the file that is named is deployed", of());
    }
    let mut flags = Table::new();
    let mut warm = Table::new();
    if let Some(floor) = arguments.floor {
        warm.insert("floor".to_owned(), i64::from(floor).into());
    }
    if let Some(fresh) = arguments.fresh {
        warm.insert("reuse".to_owned(), if fresh { "fresh" } else { "reuse" }.into());
    }
    let environment = arguments.environment.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    for (key, table) in [("warm", warm), ("environment", environment.collect())] {
        if !table.is_empty() {
            flags.insert(key.to_owned(), Value::Table(table));
        }
    }
    if let Some(version) = &arguments.version {
        flags.insert("version".to_owned(), version.as_str().into());
    }
    lay_over(&mut fields, flags);
    Ok(fields)
}

/// What is asked for, with what the artifact itself and the configuration say.
fn asked(
    arguments: &Arguments,
    config: &Config,
    wasm: &[u8],
    mut given: Table,
    place: &Place,
) -> anyhow::Result<Asked> {
    let path = &arguments.artifact;
    let told = kind_of(wasm).with_context(|| no_wasm(path, wasm))?;
    let in_file =
        given.remove("kind").map(Value::try_into::<FunctionKind>).transpose().context("the definition's kind")?;
    let kind = match arguments.kind {
        Some(Kind::Component) => FunctionKind::Component,
        Some(Kind::Command) => FunctionKind::Command,
        None => in_file.unwrap_or(told),
    };
    if let Some(owner) = config.tenants.owner_of(&arguments.name) {
        given.entry("tenant").or_insert_with(|| owner.tenant.as_str().into());
    }
    let uri = match place {
        Place::File => format!("file://{}", std::fs::canonicalize(path)?.display()),
        Place::Directory(folder) => format!("{}{folder}", Artifact::STORE),
        // Where it is in the topic is known when it is there; whether the topic may be named is known now.
        Place::Topic(topic) => Chunks { topic: topic.clone(), partition: 0, first: 0, last: 0 }.to_string(),
    };
    let artifact = Artifact { uri, sha256: Sha256::of(wasm) };
    Ok(Asked { name: arguments.name.clone(), kind, artifact, given, unset: arguments.unset.clone() })
}

/// Where an artifact goes.
enum Place {
    /// It stays where it is.
    File,
    /// `artifacts.directory`, or a tenant's folder in it.
    Directory(String),
    /// A topic.
    Topic(String),
}

impl Place {
    fn of(arguments: &Arguments, config: &Config) -> Self {
        if arguments.in_place {
            return Self::File;
        }
        match (config.tenants.owner_of(&arguments.name), config.artifacts.store) {
            (None, Store::Topic) => Self::Topic(config.topics.artifacts.clone()),
            (None, Store::Directory) => Self::Directory(String::new()),
            (Some(owner), Store::Topic) if !owner.artifacts_topic.is_empty() => {
                Self::Topic(owner.artifacts_topic.clone())
            }
            (Some(owner), _) => Self::Directory(owner.tenant.clone()),
        }
    }
}

/// Puts the artifact where the nodes find it, and answers its address. What the definition that stands names is not put in a topic once
/// more: that definition is replaced by one that names it too, so that nobody prunes it between the two.
fn put(
    config: &Config,
    place: &Place,
    artifact: &Artifact,
    wasm: &[u8],
    stands: Option<&FunctionDefinition>,
) -> anyhow::Result<Artifact> {
    match place {
        Place::File => Ok(artifact.clone()),
        Place::Directory(folder) => {
            if config.artifacts.store == Store::Topic {
                eprintln!(
                    "tenant {} has no artifacts-topic: the artifact goes to {}, which the nodes have to share",
                    Shown::of(folder),
                    config.artifacts.directory.display()
                );
            }
            let store = DirectoryStore::open(&config.artifacts);
            let store = if folder.is_empty() { Some(store) } else { store.of(folder) };
            store.context("the tenant's name can be no folder's")?.put(wasm)?;
            Ok(artifact.clone())
        }
        Place::Topic(topic) => {
            let connection = crate::app::connection(config);
            let store = TopicStore::new(config, connection.clone());
            let there = stands.map(|stands| &stands.artifact).filter(|there| {
                there.sha256 == artifact.sha256 && there.topic() == Some(topic) && store.fetch(there).is_ok()
            });
            if let Some(there) = there {
                return Ok(there.clone());
            }
            if let Some(policy) = crate::app::artifacts_topic(&connection, config, topic)? {
                eprintln!(
                    "warning: topic {topic} has cleanup.policy={policy}: the artifact will be lost; set it to compact (kafka-configs \
                     --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact)"
                );
            }
            Ok(store.put(topic, wasm)?)
        }
    }
}

/// The definition that stands now.
fn stands(client: &Client, arguments: &Arguments) -> anyhow::Result<Option<FunctionDefinition>> {
    let name = &arguments.name;
    match client.registered(name, BROKER_TIMEOUT) {
        Ok(Registered::No) => Ok(None),
        Ok(Registered::Yes(definition)) => Ok(Some(*definition)),
        Ok(Registered::Unreadable(why)) => {
            eprintln!("warning: what stands under {name} cannot be read here, and nothing of it is kept: {}", Shown::of(&why));
            Ok(None)
        }
        Err(fault) if arguments.replace => {
            eprintln!("warning: it is not known what is replaced: {}", super::told(&fault.into()));
            Ok(None)
        }
        Err(fault) => Err(anyhow::Error::new(fault).context(format!(
            "it is not known what stands under {name}, and so what is to be kept of it; --replace publishes all the same"
        ))),
    }
}

/// The nodes' own rule for definitions, and in their words.
fn refuse(config: &Config, definition: &FunctionDefinition, wasm: &[u8]) -> anyhow::Result<()> {
    let mut faults = Judge::new(config).faults(definition);
    let (bytes, bytes_max) = (wasm.len() as u64, config.artifacts.bytes_max.get());
    if bytes > bytes_max {
        faults.push(format!("the artifact has {bytes} bytes, above the operator's artifacts.bytes-max of {bytes_max}"));
    }
    anyhow::ensure!(faults.is_empty(), "the definition is refused: {}", faults.join("; "));
    Ok(())
}

/// Whether a node could run it.
fn fits(config: &Config, definition: &FunctionDefinition, wasm: &[u8]) -> anyhow::Result<()> {
    if wasm.len() >= LARGE_BYTES {
        eprintln!("checking the artifact: it is compiled here, as a node would (--unchecked leaves that to the nodes)");
    }
    let memory_bytes = match check(&config.execute, definition.kind, wasm) {
        Ok(memory_bytes) => memory_bytes,
        Err(Unfit::Refused(why)) => anyhow::bail!("nothing was published: no node can run it: {why}"),
        Err(Unfit::Unknown(why)) => {
            eprintln!("warning: whether a node can run it is not known here: {}", Shown::of(&why));
            return Ok(());
        }
    };
    let limit = definition.limits.memory_bytes;
    anyhow::ensure!(
        memory_bytes <= limit,
        "nothing was published: no call could run: its memory begins with {memory_bytes} bytes, and the definition's \
         limits.memory_bytes is {limit}; raise it in a --definition file ([limits] memory_bytes = {memory_bytes})"
    );
    Ok(())
}

/// What a WebAssembly binary says it is: its header's layer is 0 for a module and 1 for a component.
fn kind_of(wasm: &[u8]) -> Option<FunctionKind> {
    match wasm.get(..8)? {
        [0, b'a', b's', b'm', _, _, 0, 0] => Some(FunctionKind::Command),
        [0, b'a', b's', b'm', _, _, 1, 0] => Some(FunctionKind::Component),
        _ => None,
    }
}

fn no_wasm(path: &Path, bytes: &[u8]) -> String {
    let advice = match bytes {
        [] => "it is empty",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed: unpack it first",
        [b'(', ..] => "it is WebAssembly's text: make it binary (wat2wasm, or wasm-tools parse)",
        [0x7f, b'E', b'L', b'F', ..] => "it is a program for this machine: build for wasm32-wasip1",
        _ => "a binary begins with the bytes 00 61 73 6d: build for wasm32-wasip1, or a component",
    };
    format!("{} is no WebAssembly binary: {advice}", path.display())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_binary_is_told_by_its_first_bytes() {
        let said = |bytes: &[u8]| no_wasm(Path::new("x"), bytes);
        assert!(said(b"(module)").contains("wat2wasm") && said(b"\x7fELF\x02").contains("wasm32-wasip1"));
        assert!(said(b"\x1f\x8b\x08").contains("compressed") && said(b"").contains("empty"));
        assert_eq!(kind_of(b"\0asm\x01\0\0\0"), Some(FunctionKind::Command));
        assert_eq!(kind_of(b"\0asm\x0d\0\x01\0"), Some(FunctionKind::Component));
        assert_eq!(kind_of(b"\0asm\x01\0\0"), None);
    }
}
