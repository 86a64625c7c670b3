//! Puts the layers together: the embedded defaults, the user's file, the environment.
//!
//! Every fault is told at once: each value that the user gave is tried alone above the defaults, so that a bad one is told
//! with its own key, whatever else is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use config::{File, FileFormat};
use toml::{Table, Value};

use super::{Budgets, Config, ConfigError, Machine};

/// The reference of every key, with its default.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What variables of the environment begin with.
const PREFIX: &str = "FOREWARM__";

/// The tables whose keys are not ours, each with what an underscore in the name of a variable stands for.
const FREE_TABLES: [([&str; 2], &str); 4] = [
    (["kafka", "properties"], "."),
    (["kafka", "property-files"], "."),
    (["telemetry", "otlp-headers"], "-"),
    (["telemetry", "otlp-header-files"], "-"),
];

/// One value that the user gave.
struct Given {
    /// Where: the file's name, or the variable's.
    source: String,
    path: Vec<String>,
    value: Value,
}

impl Given {
    fn key(&self) -> String {
        self.path.join(".")
    }

    fn is_free(&self) -> bool {
        self.path.len() == 3 && is_free_table(&self.path[..2])
    }

    /// The value as a document of its own.
    fn document(&self) -> Table {
        let mut value = self.value.clone();
        for key in self.path.iter().rev() {
            value = Value::Table(Table::from_iter([(key.clone(), value)]));
        }
        match value {
            Value::Table(table) => table,
            _ => Table::new(),
        }
    }
}

fn is_free_table(path: &[String]) -> bool {
    FREE_TABLES.iter().any(|(table, _)| path == table)
}

/// Loads the configuration: defaults, then `file`, then the variables of `environment` that begin with `FOREWARM__`.
///
/// In a variable's name two underscores separate section from key, and one stands for `-`; below `kafka.properties`
/// and `kafka.property-files` it stands for `.`. A variable's value is text that is read as its key's type; a list is given as
/// JSON or TOML.
///
/// # Errors
/// All faults at once.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut given = Vec::new();
    let mut faults = Vec::new();
    if let Some(path) = file {
        match read(path) {
            Ok(table) => leaves(&path.display().to_string(), &mut Vec::new(), table, &mut given),
            Err(fault) => faults.push(fault),
        }
    }
    let defaults = defaults();
    for (name, value) in environment {
        match from_variable(&defaults, &name, value) {
            Some(Ok(one)) => given.push(one),
            Some(Err(fault)) => faults.push(fault),
            None => {}
        }
    }
    for one in &given {
        if let Some(fault) = unknown_key(&defaults, one).or_else(|| bad_value(one)) {
            faults.push(fault);
        }
    }
    if faults.is_empty() {
        match merge(&given) {
            Ok(mut config) => {
                config.node.is_named = !config.node.id.is_empty();
                if !config.node.is_named {
                    config.node.id = host_name().unwrap_or_default();
                }
                faults = config.kafka.read_property_files();
                faults.extend(config.faults());
                if faults.is_empty() {
                    let Config { execute, target, ingest, .. } = &mut config;
                    config.budgets = Budgets::settle(Machine::here(), execute, target, ingest);
                    return Ok(config);
                }
            }
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    Err(ConfigError { faults })
}

/// The host's name, as Linux tells it.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

#[expect(clippy::expect_used, reason = "part of the build; tests load it")]
fn defaults() -> Table {
    DEFAULTS.parse().expect("config/default.toml is TOML")
}

fn read(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|fault| format!("file {}: {fault}", path.display()))?;
    text.parse().map_err(|fault| format!("file {}: {fault}", path.display()))
}

/// See [`Config::keys_that_differ`].
pub(super) fn keys_that_differ(one: &Config, other: &Config) -> Vec<String> {
    let values = |config: &Config| {
        let mut given = Vec::new();
        // What was read from TOML can be written as TOML.
        let table = Table::try_from(config).unwrap_or_default();
        leaves("", &mut Vec::new(), table, &mut given);
        given.into_iter().map(|one| (one.key(), one.value)).collect::<BTreeMap<_, _>>()
    };
    let (one, other) = (values(one), values(other));
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).cloned().collect()
}

/// Takes a table apart into its values. Below a free table nested tables are dotted names: TOML reads
/// `security.protocol = "ssl"` as one.
fn leaves(source: &str, path: &mut Vec<String>, table: Table, given: &mut Vec<Given>) {
    for (key, value) in table {
        let deep = path.len() == 3 && is_free_table(&path[..2]);
        if deep {
            if let Some(name) = path.last_mut() {
                let before = name.len();
                name.push('.');
                name.push_str(&key);
                leaf(source, path, value, given);
                if let Some(name) = path.last_mut() {
                    name.truncate(before);
                }
            }
        } else {
            path.push(key);
            leaf(source, path, value, given);
            path.pop();
        }
    }
}

fn leaf(source: &str, path: &mut Vec<String>, value: Value, given: &mut Vec<Given>) {
    match value {
        Value::Table(table) => leaves(source, path, table, given),
        value => given.push(Given { source: source.to_owned(), path: path.clone(), value }),
    }
}

/// A variable that is nobody's, and would be a key's with two underscores behind the program's name and the section's: it would be
/// passed over without a word.
fn misspelt(defaults: &Table, name: &str) -> Option<String> {
    let word = |text: &str| text.to_ascii_uppercase().replace(['-', '.'], "_");
    let given = name.replace("__", "_");
    let mut meant = defaults.iter().flat_map(|(section, value)| match value {
        Value::Table(keys) => keys.keys().map(|key| format!("{}__{}", word(section), word(key))).collect(),
        _ => vec![word(section)],
    });
    let meant = meant.find(|meant| given == format!("FOREWARM_{}", meant.replace("__", "_")))?;
    Some(format!("variable {name}: two underscores stand before a section and before a key: {PREFIX}{meant}"))
}

/// None where the variable is not ours.
fn from_variable(defaults: &Table, name: &str, text: String) -> Option<Result<Given, String>> {
    let Some(rest) = name.strip_prefix(PREFIX) else { return misspelt(defaults, name).map(Err) };
    let rest = rest.to_ascii_lowercase();
    let mut parts = rest.split("__");
    let mut path: Vec<String> = parts.by_ref().take(2).map(|part| part.replace('_', "-")).collect();
    let stands_for = FREE_TABLES.iter().find(|(table, _)| path == table).map_or("-", |(_, stands_for)| stands_for);
    path.extend(parts.map(|part| part.replace('_', stands_for)));
    let given = |value| Given { source: format!("variable {name}"), path: path.clone(), value };
    if !is_list(defaults, &path) {
        return Some(Ok(given(Value::String(text))));
    }
    let list = list(&text).map_err(|fault| {
        let key = path.join(".");
        format!("variable {name}: {key}: no list in JSON or TOML, as in [{{\"key\": \"value\"}}]: {fault}")
    });
    Some(list.map(given))
}

fn is_list(defaults: &Table, path: &[String]) -> bool {
    let mut value = None;
    let mut table = Some(defaults);
    for key in path {
        value = table.and_then(|table| table.get(key));
        table = value.and_then(Value::as_table);
    }
    value.is_some_and(Value::is_array)
}

/// A list as JSON, or as TOML has it behind a `=`. What is said where it is neither is of JSON, which most mean.
fn list(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str::<Value>(text).or_else(|fault| {
        let table: Option<Table> = format!("list = {text}").parse().ok();
        table.and_then(|mut table| table.remove("list")).ok_or_else(|| fault.to_string())
    })?;
    if value.is_array() { Ok(value) } else { Err(format!("{} and not a list", value.type_str())) }
}

fn unknown_key(defaults: &Table, given: &Given) -> Option<String> {
    if given.is_free() {
        return None;
    }
    let mut table = defaults;
    for (depth, key) in given.path.iter().enumerate() {
        match table.get(key) {
            Some(Value::Table(below)) if depth + 1 < given.path.len() => table = below,
            Some(Value::Table(_)) => return Some(format!("{}: {} is a section, not a key", given.source, given.key())),
            Some(_) if depth + 1 == given.path.len() => return None,
            _ => {
                let hint = nearest(key, table.keys()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Some(format!("{}: there is no key {}{hint}", given.source, given.key()));
            }
        }
    }
    None
}

/// Of `keys`, the one for which `key` may be a slip of the pen.
pub fn nearest<'a>(key: &str, keys: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let near = keys.max_by(|a, b| strsim::jaro(key, a).total_cmp(&strsim::jaro(key, b)));
    near.filter(|near| strsim::jaro(key, near) > 0.7)
}

fn bad_value(given: &Given) -> Option<String> {
    let fault = merge(std::slice::from_ref(given)).err()?;
    // The crate's text names the key in its own way after the fault; ours stands in front.
    let fault = fault.to_string();
    let fault = fault.split(" for key `").next().unwrap_or(&fault);
    let fault = if fault.contains("variant constructor") { choices(given) } else { None }.unwrap_or(fault.to_owned());
    Some(format!("{}: {}: {fault}", given.source, given.key()))
}

/// What may stand there where one of a few words must, which TOML's own reader says and the layers' does not.
fn choices(given: &Given) -> Option<String> {
    let mut all = defaults();
    let (last, sections) = given.path.split_last()?;
    let mut table = &mut all;
    for section in sections {
        table = table.get_mut(section)?.as_table_mut()?;
    }
    table.insert(last.clone(), given.value.clone());
    let fault = all.try_into::<Config>().err()?;
    fault.message().lines().next().map(str::to_owned)
}

fn merge(given: &[Given]) -> Result<Config, Box<dyn fmt::Display>> {
    let mut layers = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    for one in given {
        let text = toml::to_string(&one.document()).map_err(|fault| Box::new(fault) as Box<dyn fmt::Display>)?;
        layers = layers.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let fault = |fault: config::ConfigError| Box::new(fault) as Box<dyn fmt::Display>;
    layers.build().map_err(fault)?.try_deserialize().map_err(fault)
}

impl fmt::Display for Config {
    /// As TOML, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string_pretty(&self.redacted()).map_err(|_| fmt::Error)?)
    }
}
