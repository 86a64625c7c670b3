//! The configuration, in the words of the rooms that it is for.
//!
//! Must not: start anything.

use std::sync::Arc;
use std::time::Duration;

use super::{Outbox, StartError};
use crate::backlog::{Quota, Quotas};
use crate::config::{Config, Delivery, ForecastConfig, TargetConfig, Tenants};
use crate::execute::{Executor, wall_clock};
use crate::forecast::history::Model;
use crate::kafka::Membership;
use crate::kafka::headers::Bounds;
use crate::{ingest, publish};

/// Completions after which a commit is made before its interval is over.
const COMMIT_COMPLETIONS: u64 = 10_000;

/// The model of the forecast: the configured file's, or the one that comes with the program.
///
/// # Errors
/// Where the file cannot be read or is no model for this program.
pub fn model(config: &ForecastConfig) -> Result<Model, StartError> {
    if config.model.as_os_str().is_empty() {
        return Ok(Model::shipped());
    }
    let fault = |cause: String| StartError::Model { path: config.model.clone(), cause };
    let bytes = std::fs::read(&config.model).map_err(|error| fault(error.to_string()))?;
    Model::read(&bytes).map_err(|error| fault(error.to_string()))
}

/// Says what of the machine's memory this node means to use.
pub(super) fn say_budgets(config: &Config) {
    let (machine, budgets) = (config.budgets.machine, config.budgets.words().collect::<Vec<_>>().join("; "));
    tracing::info!(%machine, budgets, "budgets of memory");
    config.budgets.warnings().for_each(|warning| tracing::warn!("{warning}"));
}

/// How the group knows this node, where the free properties leave that open (docs/decisions/0027).
pub(super) fn membership(config: &Config) -> Membership {
    let kafka = &config.kafka;
    if kafka.properties.contains_key("group.instance.id") || kafka.asks_for_newer_protocol() {
        Membership::AsGiven
    } else if config.node.is_named {
        Membership::Named(config.node_id())
    } else if kafka.leaves_group_protocol_open() {
        Membership::Newer
    } else {
        Membership::AsGiven
    }
}

/// The quotas of tenants.
pub(super) fn quotas(tenants: &Tenants) -> Quotas {
    let Tenants { calls_max, waiting_max, ref named, .. } = *tenants;
    let named = named.iter().map(|named| {
        let quota = Quota { calls_max: named.calls_max, waiting_max: named.waiting_max };
        (named.tenant.clone(), quota)
    });
    Quotas::new(Quota { calls_max, waiting_max }, named)
}

/// How warm targets are set on a node on which so many instances live at once.
pub(super) fn target(config: &TargetConfig, instances: u32) -> TargetConfig {
    let instances_max = if config.instances_max == 0 { instances } else { config.instances_max.min(instances) };
    TargetConfig { instances_max, ..config.clone() }
}

/// How outcomes and offsets are stored together, where they are.
pub(super) fn transactions(config: &Config) -> Option<publish::TransactionSettings> {
    (config.delivery == Delivery::ExactlyOnce).then(|| publish::TransactionSettings {
        // One for each node: a node that is started again ends what it had left open.
        id: format!("{}-{}", config.ingest.group_id, config.node_id()),
        interval: config.publish.transaction_interval,
    })
}

/// How forecast snapshots are read, when `executor` has every definition.
pub(super) fn snapshot_settings(config: &Config, executor: Executor<Arc<Outbox>>) -> ingest::snapshots::Settings {
    ingest::snapshots::Settings {
        node: config.node_id(),
        functions_max: config.forecast.functions_max.get() as usize,
        keep: config.forecast.snapshot_keep,
        now: wall_clock(),
        is_defined: Box::new(move |function| executor.knows(function)),
        timeout: config.registry.catch_up_timeout,
    }
}

/// A poll thread that did not run for so long asks the group whether this node is still in it. That costs one commit; the
/// session may be as short as the brokers like where `group.protocol` is `consumer`, which makes it theirs to set.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// How invocations are read.
pub(super) fn ingest_settings(config: &Config) -> ingest::Settings {
    let ingest = &config.ingest;
    ingest::Settings {
        topic: config.topics.invocations.clone(),
        in_flight_max: ingest.in_flight_max.get() as usize,
        message: ingest::MessageBounds {
            bytes_max: ingest.message_bytes_max.get() as usize,
            headers: Bounds { count_max: ingest.headers_max as usize, bytes_max: ingest.headers_bytes_max as usize },
        },
        pass_unreadable_after: ingest.pass_unreadable_after,
        in_flight_bytes_max: usize::try_from(ingest.in_flight_bytes_max).unwrap_or(usize::MAX),
        commit_interval: ingest.commit_interval,
        commit_completions: COMMIT_COMPLETIONS,
        drain_timeout: ingest.drain_timeout,
        doubt_after: DOUBT_AFTER.min(config.kafka.session_timeout() / 2),
        doubt_for: config.kafka.heartbeat_interval() * 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Membership {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("forewarm.toml");
        std::fs::write(&file, lines).expect("written");
        membership(&crate::config::load(Some(&file), []).expect("sound"))
    }

    #[test]
    fn a_node_with_a_name_keeps_its_membership_and_one_without_has_the_newer_protocol() {
        let named = Membership::Named("n1".to_owned());
        assert_eq!(of(""), Membership::Newer);
        assert_eq!(of("node.id = \"n1\""), named);
        assert_eq!(of("node.id = \"n1\"\n[kafka.properties]\n\"session.timeout.ms\" = \"20000\""), named);
        assert_eq!(of("[kafka.properties]\n\"session.timeout.ms\" = \"20000\""), Membership::AsGiven);
        for given in ["\"group.protocol\" = \"consumer\"", "\"group.instance.id\" = \"mine\""] {
            assert_eq!(of(&format!("node.id = \"n1\"\n[kafka.properties]\n{given}")), Membership::AsGiven);
        }
        assert_eq!(of("[kafka.properties]\n\"group.protocol\" = \"classic\""), Membership::AsGiven);
    }
}
