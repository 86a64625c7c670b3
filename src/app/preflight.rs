//! Everything for which a start is refused before a broker is asked, found at once: by the start itself, and by `check-config`.
//!
//! Faults that depend on the moment are left to the start: ports that are taken, brokers, the schema registry. Must not: connect to
//! anything, or judge by rules of its own: each part of the service judges its settings with the code that it starts with.

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::BaseProducer;

use super::settings::{model, transactions};
use crate::config::Config;
use crate::http;
use crate::kafka::{ClientError, Connection, Quiet};
use crate::telemetry;

/// One sentence for each fault, with its key; empty where a start goes on to the brokers.
pub fn faults(config: &Config) -> Vec<String> {
    let mut faults = of_properties(config);
    if faults.is_empty() {
        faults.extend(of_clients(config));
    }
    faults.extend(model(&config.forecast).err().map(|fault| fault.to_string()));
    let of_files = http::faults(config);
    if of_files.is_empty() {
        faults.extend(telemetry::check(&config.telemetry).err().map(|fault| fault.to_string()));
    }
    faults.extend(of_files);
    faults
}

/// Properties that librdkafka refuses each for itself.
fn of_properties(config: &Config) -> Vec<String> {
    let fault = |(key, value): (&String, &String)| {
        let error = ClientConfig::new().set(key, value).create_native_config().err()?;
        Some(ClientError::create("all roles", &error).to_string())
    };
    config.kafka.properties.iter().filter_map(fault).collect()
}

/// The first client that cannot be made: properties that do not go together, files that are not there. None of them has the address
/// of a broker.
fn of_clients(config: &Config) -> Option<String> {
    // Tokens would be asked for at once.
    if config.kafka.properties.get("sasl.oauthbearer.method").is_some_and(|method| method.eq_ignore_ascii_case("oidc"))
    {
        return None;
    }
    let connection = Connection { bootstrap_servers: String::new(), ..super::connection(config) };
    let alone = |mut config: ClientConfig| {
        config.remove("bootstrap.servers");
        config.remove("metadata.broker.list");
        config
    };
    let (member, reader) = (alone(connection.group_member()), alone(connection.reader()));
    let producer = match transactions(config) {
        Some(transactions) => alone(connection.transactional(&transactions.id)),
        None => alone(connection.producer()),
    };
    let quiet = |role| Quiet { role };
    let (invocations, readers, publish) = ("invocations", "readers", "publish");
    let consumer = |config: &ClientConfig, role| {
        let made = config.create_with_context::<_, BaseConsumer<Quiet>>(quiet(role));
        made.err().map(|error| ClientError::create(role, &error).to_string())
    };
    consumer(&member, invocations).or_else(|| consumer(&reader, readers)).or_else(|| {
        let made = producer.create::<BaseProducer>();
        made.err().map(|error| ClientError::create(publish, &error).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("forewarm.toml");
        std::fs::write(&file, text).expect("written");
        faults(&crate::config::load(Some(&file), []).expect("sound by itself"))
    }

    #[test]
    fn what_a_start_would_refuse_is_found_without_a_broker_and_all_at_once() {
        assert_eq!(of(""), Vec::<String>::new());
        assert_eq!(
            of("delivery = \"exactly-once\"\n[kafka.properties]\n\"group.protocol\" = \"consumer\""),
            Vec::<String>::new()
        );
        let said = of("[kafka.properties]\n\"security.protcol\" = \"ssl\"\n\"linger.ms\" = \"soon\"\n\
             [telemetry]\nlog-filter = \"info=info=info\"\n\
             [forecast]\nmodel = \"/nonexistent/model\"");
        for key in ["security.protcol", "linger.ms", "telemetry.log-filter", "forecast.model"] {
            assert_eq!(said.iter().filter(|fault| fault.contains(key)).count(), 1, "{key}: {said:#?}");
        }
        assert!(!format!("{said:?}").contains("soon"), "a value may be a secret: {said:#?}");
    }

    #[test]
    fn properties_that_do_not_go_together_are_found() {
        // The two settings stand against each other in librdkafka's own rules.
        let said =
            of("[kafka.properties]\n\"group.protocol\" = \"consumer\"\n\"partition.assignment.strategy\" = \"range\"");
        assert!(said.len() == 1 && said[0].contains("partition.assignment.strategy"), "{said:#?}");
        #[cfg(feature = "tls")]
        {
            let sasl = "[kafka.properties]\n\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"";
            let said = of(sasl);
            assert!(said.len() == 1 && said[0].contains("sasl.username"), "{said:#?}");
            let said =
                of("[kafka.properties]\n\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = \"/nonexistent/ca\"");
            assert!(said.len() == 1 && said[0].contains("ssl.ca.location"), "{said:#?}");
        }
    }
}
