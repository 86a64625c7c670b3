//! The configuration as a user meets it: layers, and every fault at once.

#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::path::PathBuf;
use std::time::Duration;

use forewarm::config::{
    Config, ConfigError, Execute, ForecastConfig, FunctionLogs, LimitsConfig, MemorySource, TargetConfig, load,
};

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forewarm.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn loaded(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let (_directory, path) = file(text);
    load(Some(&path), environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn the_reference_file_holds_the_defaults_of_the_code() {
    let mut config = load(None, []).unwrap();
    // These two follow the machine; the code has numbers of its own for where there is no configuration.
    config.execute.memory_bytes_max = Execute::default().memory_bytes_max;
    config.target.memory_budget_bytes = TargetConfig::default().memory_budget_bytes;
    assert_eq!(config.execute, Execute::default());
    assert_eq!(config.forecast, ForecastConfig::default());
    assert_eq!(config.target, TargetConfig::default());
    assert_eq!(config.limits, LimitsConfig::default());
    assert_eq!(config.function_logs, FunctionLogs::default());
}

#[test]
fn ceilings_and_shares_are_checked() {
    let text = "[limits]\nfloor-max = 9\nceiling-max = 8\nschedules-max = 17\n[target]\nfloor-share-max = 1.5\n";
    let fault = loaded(text, &[]).unwrap_err();
    for key in ["limits.floor-max", "limits.schedules-max", "target.floor-share-max"] {
        assert!(fault.faults.iter().any(|fault| fault.contains(key)), "{key}: {fault}");
    }
    assert_eq!(fault.faults.len(), 3, "{fault}");
}

#[test]
fn tenants_with_topics_of_their_own_are_kept_apart() {
    let named = |named: &str| loaded("", &[("FOREWARM__TENANTS__NAMED", named)]);
    let of = |tenant: &str, prefix: &str, topic: &str| {
        format!(
            r#"{{"tenant": "{tenant}", "prefix": "{prefix}", "functions-topic": "{topic}", "pre-triggers-topic": "{topic}.p"}}"#
        )
    };
    let two = |one: String, other: String| named(&format!("[{one}, {other}]"));
    let config = two(of("acme", "acme/", "a"), of("beta", "beta/", "b")).unwrap();
    let owner = |function: &str| config.tenants.owner_of(&function.parse().unwrap()).map(|owner| &*owner.tenant);
    assert_eq!((owner("acme/pay"), owner("beta/pay"), owner("acmepay")), (Some("acme"), Some("beta"), None));
    for (given, fault) in [
        (two(of("acme", "a", "a"), of("beta", "ab", "b")), "no prefix may begin with another one"),
        (two(of("acme", "acme/", "a"), of("beta", "beta/", "a")), "each needs a topic of its own"),
        (named(&format!("[{}]", of("acme", "acme/", "functions"))), "each needs a topic of its own"),
        (named(&format!("[{}]", of("../acme", "acme/", "a"))), "has a name of 1 to 64"),
        (named(r#"[{"tenant": "acme", "prefix": "acme/"}]"#), "needs all of prefix"),
    ] {
        let said = given.unwrap_err().to_string();
        assert!(said.contains(fault), "{fault:?} is missing in:\n{said}");
    }
}

#[test]
fn budgets_follow_the_machine_where_they_are_not_given() {
    let config = loaded("", &[]).unwrap();
    let machine = config.budgets.machine;
    assert_ne!(machine.source, MemorySource::Assumed);
    assert_eq!(config.execute.memory_bytes_max, machine.memory_bytes / 2);
    assert_eq!(config.target.memory_budget_bytes, machine.memory_bytes / 4);
    assert_eq!(config.ingest.in_flight_bytes_max, (machine.memory_bytes / 16).min(256 << 20));
    assert_eq!(config.budgets.warnings().count(), 0);

    let given = "[execute]\nmemory-bytes-max = 268435456\n[ingest]\nin-flight-bytes-max = 1152921504606846976\n";
    let config = loaded(given, &[]).unwrap();
    assert_eq!((config.execute.memory_bytes_max, config.target.memory_budget_bytes), (256 << 20, 256 << 20));
    assert_eq!(config.ingest.in_flight_bytes_max, 1 << 60);
    let warnings: Vec<_> = config.budgets.warnings().collect();
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("ingest.in-flight-bytes-max is 1152921504606846976"),
        "{warnings:?}"
    );
    let words: Vec<_> = config.budgets.words().collect();
    assert_eq!(words[0], "execute.memory-bytes-max = 268435456, as given");
    assert_eq!(words[1], "target.memory-budget-bytes = 268435456, by the machine");
}

#[test]
fn the_environment_stands_above_the_file_above_the_defaults() {
    let text = "[ingest]\ngroup-id = \"file\"\nin-flight-max = 7\n[control]\ntick = \"50ms\"\n";
    let environment = [
        ("FOREWARM__INGEST__GROUP_ID", "environment"),
        ("FOREWARM__EXECUTE__INSTANCES_MAX", "12"),
        ("FOREWARM__TOPICS__CREATE", "false"),
        ("FOREWARM__KAFKA__PROPERTIES__SASL_PASSWORD", "hush"),
        ("OTHER__INGEST__GROUP_ID", "no"),
    ];
    let config = loaded(text, &environment).unwrap();
    assert_eq!(config.ingest.group_id, "environment");
    assert_eq!(config.ingest.in_flight_max.get(), 7);
    assert_eq!(config.control.tick, Duration::from_millis(50));
    assert_eq!(config.execute.instances_max, 12);
    assert!(!config.topics.create);
    assert_eq!(config.kafka.properties["sasl.password"], "hush");
    assert_eq!(config.publish.retry_backoff, Duration::from_millis(100));
}

#[test]
fn librdkafka_properties_keep_their_dots_quoted_or_not() {
    let text = "[kafka.properties]\n\"security.protocol\" = \"ssl\"\nssl.ca.location = \"/ca.pem\"\n";
    let config = loaded(text, &[]).unwrap();
    assert_eq!(config.kafka.properties["security.protocol"], "ssl");
    assert_eq!(config.kafka.properties["ssl.ca.location"], "/ca.pem");
}

#[test]
fn every_fault_is_told_at_once_with_its_key() {
    let text = "[ingest]\ngroup-idd = \"x\"\nin-flight-max = 0\n[control]\ntick = 5\n[nonsense]\na = 1\n";
    let fault = loaded(text, &[("FOREWARM__EXECUTE__INSTANCES_MAX", "many")]).unwrap_err().to_string();
    for part in [
        "5 faults",
        "no key ingest.group-idd; did you mean group-id?",
        "ingest.in-flight-max:",
        "control.tick:",
        "no key nonsense",
        "variable FOREWARM__EXECUTE__INSTANCES_MAX: execute.instances-max:",
    ] {
        assert!(fault.contains(part), "{part:?} is missing in:\n{fault}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let text =
        "[ingest]\ndrain-timeout = \"1m\"\n[topics]\nresults = \"invocations\"\n[publish]\nformat = \"confluent\"\n";
    let fault = loaded(text, &[]).unwrap_err();
    assert_eq!(fault.faults.len(), 4, "{fault}");
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_told() {
    assert!(
        load(Some(&PathBuf::from("/nonexistent/forewarm.toml")), []).unwrap_err().to_string().contains("/nonexistent")
    );
    assert!(loaded("[ingest", &[]).is_err());
}

#[test]
fn secrets_are_not_shown() {
    let urls = "http://user:hush@registry:8081,http://user:h@hush@other:8081";
    let secrets = [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ];
    let secrets: String = secrets.iter().map(|name| format!("\"{name}\" = \"hush\"\n")).collect();
    let refused = loaded(&format!("[kafka]\nschema-registry-url = \"{urls}\"\n"), &[]).unwrap_err();
    assert_eq!(refused.faults.len(), 2, "{refused}");
    for (fault, host) in refused.faults.iter().zip(["registry:8081", "other:8081"]) {
        assert!(fault.contains(host) && fault.contains("schema-registry.password-file"), "{fault}");
        assert!(!fault.contains("hush"), "{fault}");
    }
    let registry = "[kafka]\nschema-registry-url = \"https://registry:8081\"\n";
    let text = format!("{registry}[kafka.properties]\n\"sasl.username\" = \"me\"\n{secrets}");
    let given = [
        ("FOREWARM__SCHEMA_REGISTRY__USER", "me"),
        ("FOREWARM__SCHEMA_REGISTRY__PASSWORD", "hush"),
        ("FOREWARM__TELEMETRY__OTLP_HEADERS__X_API_KEY", "hush"),
    ];
    let config = loaded(&text, &given).unwrap();
    assert_eq!(config.kafka.properties["sasl.password"], "hush");
    assert_eq!(config.schema_registry.password, "hush");
    assert_eq!(config.telemetry.otlp_headers["x-api-key"], "hush");
    for shown in [config.to_string(), format!("{config:?}"), format!("{:?}", config.redacted())] {
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("registry:8081") && shown.contains("x-api-key"), "{shown}");
    }
    assert!(config.to_string().contains("\"sasl.username\" = \"me\""), "{config}");
}

#[test]
fn properties_come_from_files_and_stay_hidden() {
    let (directory, secret) = file("hush\n");
    let path = secret.display();
    let text = format!("[kafka.property-files]\n\"sasl.password\" = \"{path}\"\nsasl.username = \"{path}\"\n");
    let config = loaded(&text, &[]).unwrap();
    let properties = &config.kafka.properties;
    assert_eq!((properties["sasl.password"].as_str(), properties["sasl.username"].as_str()), ("hush", "hush"));
    assert!(!config.to_string().contains("hush"), "{config}");
    let variable = ("FOREWARM__KAFKA__PROPERTY_FILES__SASL_PASSWORD", secret.to_str().unwrap());
    assert_eq!(loaded("", &[variable]).unwrap().kafka.properties["sasl.password"], "hush");
    // Whether the one or the other holds is not for us to guess; nor what a file that is not there would hold.
    let twice = loaded("[kafka.properties]\nsasl.password = \"hush\"\n", &[variable]).unwrap_err();
    assert_eq!(twice.faults.len(), 1, "{twice}");
    drop(directory);
    let gone = loaded("", &[variable]).unwrap_err().to_string();
    assert!(gone.contains("kafka.property-files.sasl.password") && !gone.contains("hush"), "{gone}");
}

#[test]
fn lists_come_from_the_environment_as_json_or_toml() {
    for text in [
        r#"[{"tenant": "acme", "calls-max": 16}, {"tenant": "other", "waiting-max": 3}]"#,
        r#"[{ tenant = "acme", calls-max = 16 }, { tenant = "other", waiting-max = 3 }]"#,
    ] {
        let tenants = loaded("[tenants]\ncalls-max = 5\n", &[("FOREWARM__TENANTS__NAMED", text)]).unwrap().tenants;
        let named: Vec<_> =
            tenants.named.iter().map(|named| (named.tenant.as_str(), named.calls_max, named.waiting_max)).collect();
        assert_eq!((tenants.calls_max, named), (5, vec![("acme", 16, 0), ("other", 0, 3)]));
    }
    // A list in a file goes below one in the environment, as any value does.
    let text = "[tenants]\nnamed = [{ tenant = \"file\" }]\n";
    assert!(loaded(text, &[("FOREWARM__TENANTS__NAMED", "[]")]).unwrap().tenants.named.is_empty());
    for (text, said) in [
        ("acme=16", "no list in JSON or TOML"),
        (r#"{"tenant": "acme"}"#, "table and not a list"),
        ("16", "integer and not a list"),
        (r#"[{"tenant": "acme", "calls": 16}]"#, "unknown field `calls`"),
        (r#"[{"tenant": "acme", "calls-max": "many"}]"#, "many"),
        (r#"[{"calls-max": 1}]"#, "tenant"),
    ] {
        let fault = loaded("", &[("FOREWARM__TENANTS__NAMED", text)]).unwrap_err().to_string();
        assert!(fault.contains("variable FOREWARM__TENANTS__NAMED: tenants.named: "), "{text}: {fault}");
        assert!(fault.contains(said), "{text}: {fault}");
    }
}

#[test]
fn replicas_are_the_brokers_default_or_a_number() {
    assert_eq!(loaded("", &[]).unwrap().topics.replication_factor, -1);
    let given = |number: &str| loaded("", &[("FOREWARM__TOPICS__REPLICATION_FACTOR", number)]);
    assert_eq!(given("3").unwrap().topics.replication_factor, 3);
    assert_eq!(given("-1").unwrap().topics.replication_factor, -1);
    for none in ["0", "-2", "32768", "three"] {
        assert!(given(none).unwrap_err().to_string().contains("topics.replication-factor"), "{none}");
    }
}

#[test]
fn every_key_that_is_a_list_can_be_given_by_the_environment() {
    let defaults: toml::Table = forewarm::config::DEFAULTS.parse().unwrap();
    let mut lists = 0;
    for (section, keys) in &defaults {
        for (key, value) in keys.as_table().into_iter().flatten() {
            let variable = format!("FOREWARM__{section}__{key}").to_uppercase().replace('-', "_");
            if value.is_array() {
                lists += 1;
                loaded("", &[(&variable, "[]")]).unwrap();
            }
            // Tables whose keys are not ours take their values one by one.
            assert!(value.as_table().is_none_or(toml::Table::is_empty), "{section}.{key}");
        }
    }
    assert!(lists > 0);
}

#[test]
fn a_word_of_a_few_is_refused_with_the_words_that_may_stand_there() {
    let fault = loaded("delivery = \"exactly-onc\"\n[publish]\nformat = \"avro\"", &[]).unwrap_err();
    let said = fault.to_string();
    for word in ["delivery", "exactly-onc", "at-least-once", "publish.format", "single-object", "confluent"] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    assert_eq!(fault.faults.len(), 2, "{said}");
}

#[test]
fn a_variable_with_one_underscore_is_named_and_a_foreign_one_is_not() {
    let said = |name: &str| loaded("", &[(name, "a:1")]).map_err(|fault| fault.to_string());
    for name in ["FOREWARM_KAFKA_BOOTSTRAP_SERVERS", "FOREWARM_KAFKA__BOOTSTRAP_SERVERS"] {
        assert!(said(name).unwrap_err().contains("FOREWARM__KAFKA__BOOTSTRAP_SERVERS"), "{name}");
    }
    // A cluster's own variables of a service of that name.
    for name in ["FOREWARM_SERVICE_HOST", "FOREWARM_ADMIN_PORT", "FOREWARM_CACHE", "FOREWARM_TEST_KAFKA"] {
        assert!(said(name).is_ok(), "{name}");
    }
}

#[test]
fn brokers_have_addresses() {
    let of = |servers: &str| loaded(&format!("kafka.bootstrap-servers = {servers:?}"), &[]);
    for good in ["a:1", "a:1,b:2", " a:1 , b ", "[::1]:9092", "SASL_SSL://a.b:9093", "::1"] {
        assert!(of(good).is_ok(), "{good}");
    }
    for bad in ["", "a:", "a:port", "a:99999", ":9092", "a:1,,b:2"] {
        let said = of(bad).unwrap_err().to_string();
        assert!(said.contains("kafka.bootstrap-servers"), "{bad}: {said}");
    }
}
