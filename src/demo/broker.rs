//! librdkafka's mock cluster as an embedded broker: no installation, in this process, reachable for other clients.

use std::path::Path;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::config::{Config, Topics};

/// What `dev` says of its broker.
pub const LIMITS_OF_THE_EMBEDDED_BROKER: &str = "\
The embedded broker is librdkafka's mock cluster, made to try things out:
  - it keeps everything in memory, the last 100,000 messages or 5 MiB of each partition; older ones are gone, silently;
  - it has no transactions, no compaction, no access control, and answers no admin requests;
  - it proves nothing about delivery. Run a real Apache Kafka for that (docker-compose.yml, or scripts/kafka).";

/// Partitions of the topics that events are spread over.
const PARTITIONS: i32 = 8;

/// A running mock cluster; it ends when this is dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Starts one broker with the service's topics.
    ///
    /// # Errors
    /// Where librdkafka cannot start it.
    pub fn start(topics: &Topics) -> Result<Self, KafkaError> {
        let cluster = MockCluster::new(1)?;
        let events = [&topics.invocations, &topics.results, &topics.dead_letters];
        for topic in
            events.into_iter().chain([&topics.pre_triggers, &topics.pre_trigger_outcomes, &topics.guest_notices])
        {
            cluster.create_topic(topic, PARTITIONS, 1)?;
        }
        for topic in [&topics.functions, &topics.artifacts, &topics.forecast_snapshots, &topics.function_status] {
            cluster.create_topic(topic, 1, 1)?;
        }
        cluster.create_topic(topics.function_logs_or_usual(), PARTITIONS, 1)?;
        Ok(Self { cluster })
    }

    /// Where clients find it.
    pub fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Points a configuration at this broker, and at a directory of its own.
    pub fn apply(&self, config: &mut Config, directory: &Path) {
        config.kafka.bootstrap_servers = self.bootstrap_servers();
        config.topics.create = false;
        config.topics.function_logs = config.topics.function_logs_or_usual().to_owned();
        // The mock cluster answers a fetch only when this time is over, even where messages came meanwhile.
        config.kafka.properties.entry("fetch.wait.max.ms".to_owned()).or_insert_with(|| "10".to_owned());
        // The mock cluster's group protocol of Kafka 4 has no assignor of its own.
        config.kafka.properties.entry("group.protocol".to_owned()).or_insert_with(|| "classic".to_owned());
        config.pre_triggers.start = crate::config::PreTriggerStart::Earliest;
        // What a partition keeps here is too little for artifacts.
        config.artifacts.store = crate::config::Store::Directory;
        config.artifacts.directory = directory.join("artifacts");
        config.artifacts.file_roots.extend(std::path::absolute(directory));
        config.execute.cache_directory = directory.join("code");
    }
}
