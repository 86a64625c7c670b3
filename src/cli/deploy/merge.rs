//! What a deploy comes to: the definition that stands, changed by what was given; and what is kept, dropped and misspelt.
//!
//! Pure. Must not: read a topic or a file, or judge a definition.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use toml::{Table, Value};

use crate::config::nearest;
use crate::types::{
    Artifact, ChainRule, ChainRuleKind, FunctionDefinition, FunctionKind, FunctionName, Limits, Reuse, Schedule, Sha256,
};

/// Fields that belong to the code that is deployed, and are never kept.
const OF_THE_CODE: [&str; 4] = ["name", "version", "kind", "artifact"];

/// What was asked for.
pub(super) struct Asked {
    pub(super) name: FunctionName,
    pub(super) kind: FunctionKind,
    pub(super) artifact: Artifact,
    /// Fields of the definition's file, and above them those of the command line; `version` may be among them.
    pub(super) given: Table,
    /// Variables of the environment that go.
    pub(super) unset: Vec<String>,
}

/// What is to be published.
pub(super) struct Merged {
    pub(super) definition: FunctionDefinition,
    /// What the definition that stands has and was not given, with values: kept, or with `--replace` dropped.
    pub(super) not_given: Vec<String>,
    /// Whether one version would stand for two things.
    pub(super) is_version_taken: bool,
}

/// Merges: fields that were given replace those that stand, tables by their keys and lists whole; with `replace` nothing of what
/// stands is kept.
///
/// # Errors
/// Where a value is none that its field can have; with the field.
pub(super) fn merge(asked: Asked, stands: Option<&FunctionDefinition>, replace: bool) -> anyhow::Result<Merged> {
    let Asked { name, kind, artifact, given, unset } = asked;
    let usual = FunctionDefinition::new(name.clone(), "", artifact.clone(), kind);
    let usual = leaves(&Table::try_from(&usual).context("the defaults")?);
    let mut kept = match stands {
        Some(stands) => Table::try_from(stands)
            .context("a number of the definition that stands is too large to be kept; deploy with --replace")?,
        None => Table::new(),
    };
    OF_THE_CODE.iter().for_each(|field| drop(kept.remove(*field)));
    let said: BTreeSet<String> = leaves(&given).into_keys().collect();
    let is_given = |path: &str| {
        said.contains(path)
            || path.strip_prefix("environment.").is_some_and(|key| unset.iter().any(|unset| unset == key))
    };
    let not_given = leaves(&kept).into_iter().filter(|(path, value)| !is_given(path) && usual.get(path) != Some(value));
    let not_given = not_given.map(|(path, value)| shown(&path, &value)).collect();
    let mut fields = if replace { Table::new() } else { kept };
    lay_over(&mut fields, given);
    if let Some(Value::Table(environment)) = fields.get_mut("environment") {
        unset.iter().for_each(|key| drop(environment.remove(key)));
    }
    let has_version = fields.contains_key("version");
    fields.insert("name".to_owned(), name.as_str().into());
    fields.insert("kind".to_owned(), Value::try_from(kind)?);
    fields.insert("artifact".to_owned(), Value::try_from(artifact)?);
    fields.entry("version").or_insert_with(|| "?".into());
    let mut definition: FunctionDefinition = fields.try_into().context("the definition")?;
    if !has_version {
        definition.version = version_of(&definition);
    }
    let is_version_taken = stands
        .is_some_and(|stands| stands.version == definition.version && version_of(stands) != version_of(&definition));
    Ok(Merged { definition, not_given, is_version_taken })
}

/// The version's name where none is given: the start of the artifact's digest, and behind it that of what its calls run with, where
/// that is not as usual.
fn version_of(definition: &FunctionDefinition) -> String {
    let FunctionDefinition { environment, limits, warm, artifact, .. } = definition;
    let code = artifact.sha256.to_string()[..12].to_owned();
    if environment.is_empty() && *limits == Limits::default() && warm.reuse == Reuse::default() {
        return code;
    }
    let runs_with = serde_json::json!({ "environment": environment, "limits": limits, "reuse": warm.reuse });
    format!("{code}-{}", &Sha256::of(runs_with.to_string().as_bytes()).to_string()[..8])
}

/// A field in words; values of the environment may be secrets.
fn shown(path: &str, value: &Value) -> String {
    if path.starts_with("environment.") { path.to_owned() } else { format!("{path} = {value}") }
}

/// Every value with its path; lists are values.
fn leaves(table: &Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(below) => {
                found.extend(leaves(below).into_iter().map(|(path, value)| (format!("{key}.{path}"), value)));
            }
            value => drop(found.insert(key.clone(), value.clone())),
        }
    }
    found
}

/// Puts `over` over `under`.
pub(super) fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// Keys of a definition's file that there are not, each with the nearest that there is.
pub(super) fn misspelt(given: &Table) -> anyhow::Result<Vec<String>> {
    // The types themselves say which keys there are: every table and list of tables has something in it here.
    let artifact = Artifact { uri: Artifact::STORE.to_owned(), sha256: Sha256([0; 32]) };
    let name: FunctionName = "f".parse()?;
    let chain = ChainRule { to: name.clone(), rule: ChainRuleKind::Pin, probability: 1.0, lag_ms: 0 };
    let schedule = Schedule { cron: String::new(), timezone: String::new(), duration_ms: 0, instances: 0 };
    let known = FunctionDefinition {
        schedules: vec![schedule],
        chains: vec![chain],
        tenant: Some(String::new()),
        ..FunctionDefinition::new(name, "", artifact, FunctionKind::Command)
    };
    let mut faults = Vec::new();
    unknown("", given, &Table::try_from(&known)?, &mut faults);
    Ok(faults)
}

fn unknown(above: &str, given: &Table, known: &Table, faults: &mut Vec<String>) {
    for (key, value) in given {
        let path = format!("{above}{key}");
        match (known.get(key), value) {
            (None, _) => {
                let hint = nearest(key, known.keys()).map(|near| format!("; did you mean {above}{near}?"));
                faults.push(format!("there is no key {path}{}", hint.unwrap_or_default()));
            }
            // The names of variables are the user's.
            (Some(_), _) if path == "environment" => {}
            (Some(Value::Table(known)), Value::Table(given)) => unknown(&format!("{path}."), given, known, faults),
            (Some(Value::Array(known)), Value::Array(given)) => {
                let Some(Value::Table(known)) = known.first() else { continue };
                let tables = given.iter().filter_map(Value::as_table);
                tables.for_each(|given| unknown(&format!("{path}."), given, known, faults));
            }
            // Whether the value is of the right type is said where it is taken.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(file: &str) -> Asked {
        Asked {
            name: "shop/pay".parse().unwrap(),
            kind: FunctionKind::Command,
            artifact: Artifact { uri: "store:".to_owned(), sha256: Sha256([1; 32]) },
            given: file.parse().unwrap(),
            unset: Vec::new(),
        }
    }

    fn merged(file: &str, stands: Option<&FunctionDefinition>, replace: bool) -> Merged {
        merge(asked(file), stands, replace).unwrap()
    }

    const FILE: &str = "tenant = 'acme'\n[warm]\nfloor = 2\n[limits]\ntimeout_ms = 500\n[environment]\nA = '1'\nB = '2'\n\
                        [[schedules]]\ncron = '0 9 * * *'\nduration_ms = 1\ninstances = 3";

    #[test]
    fn what_is_not_said_again_is_kept_and_named() {
        let first = merged(FILE, None, false).definition;
        let again = merged("[warm]\nfloor = 4\n[environment]\nB = '3'", Some(&first), false);
        let now = &again.definition;
        assert_eq!((now.warm.floor, now.limits.timeout_ms, now.tenant.as_deref()), (4, 500, Some("acme")));
        assert_eq!((now.environment["A"].as_str(), now.environment["B"].as_str()), ("1", "3"));
        assert_eq!(now.schedules, first.schedules);
        let named = ["environment.A", "limits.timeout_ms = 500", "schedules = [", "tenant = \"acme\""];
        assert_eq!(again.not_given.len(), named.len(), "{:?}", again.not_given);
        assert!(
            again.not_given.iter().zip(named).all(|(said, named)| said.starts_with(named)),
            "{:?}",
            again.not_given
        );
        let replaced = merged("[warm]\nfloor = 4", Some(&first), true);
        assert_eq!(replaced.definition.limits, Limits::default());
        assert!(replaced.definition.environment.is_empty() && replaced.definition.tenant.is_none());
        assert_eq!(replaced.not_given.len(), 5, "{:?}", replaced.not_given);
        assert_eq!(merged(FILE, Some(&first), false).not_given, [""; 0], "all of it was given again");
        let mut unset = asked("");
        unset.unset = vec!["A".to_owned()];
        let unset = merge(unset, Some(&first), false).unwrap();
        assert_eq!(unset.definition.environment.keys().collect::<Vec<_>>(), ["B"]);
        assert!(!unset.not_given.contains(&"environment.A".to_owned()));
    }

    #[test]
    fn each_change_of_what_calls_run_with_is_a_version() {
        let plain = merged("", None, false).definition;
        assert_eq!(plain.version, "010101010101");
        let versions = ["", "[limits]\ntimeout_ms = 5", "[environment]\nA = '1'", "[warm]\nreuse = 'fresh'"];
        let versions: BTreeSet<_> = versions.map(|file| merged(file, Some(&plain), false).definition.version).into();
        assert_eq!(versions.len(), 4, "{versions:?}");
        // How many are kept ready changes no outcome.
        assert_eq!(merged("[warm]\nfloor = 3", Some(&plain), false).definition.version, plain.version);
        // A name that was given is the user's, and stands for that deploy alone.
        let named = merged("version = '7'", Some(&plain), false).definition;
        assert_eq!((named.version.as_str(), merged("", Some(&named), false).definition.version), ("7", plain.version));
        let taken = |file: &str| merged(file, Some(&named), false).is_version_taken;
        assert!(taken("version = '7'\n[environment]\nA = '1'") && !taken("version = '7'\n[warm]\nfloor = 1"));
    }

    #[test]
    fn a_slip_of_the_pen_is_named_with_the_nearest_key() {
        let file = "enviroment = {}\n[warm]\nflor = 1\n[environment]\nANYTHING = ''\n[[schedules]]\ncorn = ''\n[pre_trigger]\n\
                    sources = ['a']\n[[chains]]\nto = 'x'\nrule = 'pin'\n[nothing]\nlike_it = 1";
        let faults = misspelt(&file.parse().unwrap()).unwrap();
        let wanted = [
            "there is no key enviroment; did you mean environment?",
            "there is no key nothing",
            "there is no key schedules.corn; did you mean schedules.cron?",
            "there is no key warm.flor; did you mean warm.floor?",
        ];
        let mut faults = faults;
        faults.sort();
        assert_eq!(faults, wanted);
        // A value of another type is told with its field.
        let fault = format!("{:#}", merge(asked("[warm]\nfloor = 'two'"), None, false).err().unwrap());
        assert!(fault.contains("floor"), "{fault}");
    }
}
