//! The topics of the service, found or made at the start.
//!
//! Must not: know how topics are made; `kafka` does.

use crate::config::Config;
use crate::kafka::{ClientError, Connection, TopicFinding, TopicSpec, ensure_topics};

/// Finds every topic, makes those that are missing, and says what somebody should know of them. Brokers that are away or not whole
/// are waited for, up to `registry.catch-up-timeout`.
pub(super) fn create(connection: &Connection, config: &Config) -> Result<(), ClientError> {
    let topics = &config.topics;
    let number = |number: std::num::NonZeroU32| i32::try_from(number.get()).unwrap_or(i32::MAX);
    let spec = |name: &str, partitions: i32, compacted: bool| TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: topics.replication_factor,
        compacted,
        retention: None,
    };
    let events = [&topics.invocations, &topics.results, &topics.dead_letters];
    let events = events.into_iter().chain([&topics.pre_triggers, &topics.pre_trigger_outcomes]);
    let own = || config.tenants.with_topics();
    let events = events.chain([&topics.guest_notices]).chain(own().map(|tenant| &tenant.pre_triggers_topic));
    let mut specs: Vec<_> = events.map(|name| spec(name, number(topics.partitions), false)).collect();
    // One partition: what has one name is in order in any case, and a start reads them all.
    let compacted = [&topics.functions, &topics.artifacts, &topics.forecast_snapshots, &topics.function_status];
    let compacted = compacted.into_iter().chain(own().map(|tenant| &tenant.functions_topic)).map(String::as_str);
    specs.extend(compacted.chain(config.tenants.artifact_topics()).map(|name| spec(name, 1, true)));
    if !topics.function_logs.is_empty() {
        let retention = Some(config.function_logs.retention);
        specs.push(TopicSpec { retention, ..spec(&topics.function_logs, number(topics.partitions), false) });
    }
    for finding in ensure_topics(connection, &specs, true, config.registry.catch_up_timeout)? {
        match finding {
            TopicFinding::Created { topic, partitions, replicas } => {
                tracing::info!(topic, partitions, replicas, "topic created");
            }
            TopicFinding::OneReplica { topic, brokers } => tracing::warn!(
                topic,
                brokers,
                "this topic has one replica: while its broker is away, nothing of it can be read or written"
            ),
            TopicFinding::NotCompacted { topic, policy } => {
                tracing::warn!(topic, policy, "this topic should be compacted, or what is written to it will be lost");
            }
        }
    }
    Ok(())
}

/// Finds a topic of artifacts, or makes it where the configuration has topics made: a producer would have brokers make it as they make
/// any, and after a week all would be gone. Answers the `cleanup.policy` where it is not the one that keeps artifacts.
///
/// # Errors
/// Where it is missing, or nobody can say.
pub fn artifacts(connection: &Connection, config: &Config, topic: &str) -> Result<Option<String>, ClientError> {
    let spec = TopicSpec {
        name: topic.to_owned(),
        partitions: 1,
        replication: config.topics.replication_factor,
        compacted: true,
        retention: None,
    };
    let found = ensure_topics(connection, &[spec], config.topics.create, config.registry.catch_up_timeout)?;
    Ok(found.into_iter().find_map(|finding| match finding {
        TopicFinding::NotCompacted { policy, .. } => Some(policy),
        _ => None,
    }))
}
