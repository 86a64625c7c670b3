//! The whole service: puts the rooms together, and takes them apart again. The only place that knows all of them.
//!
//! Must not: hold logic of its own. The order of starting is the order of needing: what publishes before what runs, what
//! runs before what reads. The way down is the way up, backwards.

mod hung;
mod node;
mod settings;
mod shutdown;
mod signals;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use self::hung::EXIT_HUNG;
pub use self::settings::model;
use self::settings::{ingest_settings, quotas, transactions};
pub use self::shutdown::Ended;
pub use self::signals::Signals;
use crate::admin::{Admin, AdminError, Node};
use crate::artifacts::{CodeCache, DirectoryStore};
use crate::codec::{Codec, EventKind, NoSchemaRegistry, WireFormat, WriterSchemas};
use crate::config::{Config, PreTriggerStart, ResultFormat};
use crate::control::{Control, Event};
use crate::driver::{ControlPlane, Delivery, Failure, Intake, Observations, Outbox, OutboxSettings, Unknown};
pub use crate::execute::wall_clock;
use crate::execute::{ExecuteError, Executor, Parts, Runtime};
use crate::ingest::pre_triggers::{PreTriggerEvent, PreTriggers};
use crate::ingest::{self, IngestError, Invocations};
use crate::kafka::tail::Start;
use crate::kafka::{ClientError, Connection, TopicFinding, TopicSpec, Watch, Witness, WitnessThread, ensure_topics};
use crate::publish;
use crate::registry::{self, Registry, RegistryError, RegistryEvent, SchemaRegistry, SchemaRegistrySettings};
use crate::telemetry::{Metrics, Telemetry};

/// How long one request for topics may take at start.
const TOPICS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one request to the schema registry may take.
const SCHEMA_REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configured model.
    #[error("forecast.model: the file {path} cannot be used: {cause}")]
    Model {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A Kafka client or topic.
    #[error(transparent)]
    Kafka(#[from] ClientError),
    /// The guests' engine.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The consumer.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The admin interface.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The registry could not be read in time.
    #[error(
        "topic {topic} was not read to its end within {waited:?} (registry.catch-up-timeout){reason}; check that the brokers \
         answer"
    )]
    CatchUp {
        /// The topic.
        topic: String,
        /// How long it was waited for.
        waited: Duration,
        /// What the client said last, behind a colon; empty where it said nothing.
        reason: String,
    },
}

/// The service that runs.
pub struct Service {
    config: Config,
    metrics: Arc<Metrics>,
    failure: Failure,
    node: Arc<node::Answers>,
    // From here on in the order in which they end.
    admin: Option<Admin>,
    invocations: Invocations,
    delivery: Arc<Delivery>,
    pre_triggers: PreTriggers,
    registry: Registry,
    outbox: Arc<Outbox>,
    control: ControlPlane,
    executor: Executor<Arc<Outbox>>,
    _runtime: Runtime,
    _witness: WitnessThread,
}

/// What every Kafka client of a configuration needs.
pub fn connection(config: &Config) -> Connection {
    Connection {
        bootstrap_servers: config.kafka.bootstrap_servers.clone(),
        client_id: format!("forewarm-{}", config.node_id()),
        group_id: config.ingest.group_id.clone(),
        properties: config.kafka.properties.clone(),
        watch: Watch::default(),
        witness: Witness::default(),
    }
}

impl Service {
    /// Starts everything; calls are read when this returns, or a moment before.
    ///
    /// # Errors
    /// Where any part cannot start; those that had started are ended.
    pub fn start(config: Config, telemetry: &Telemetry) -> Result<Self, StartError> {
        let (metrics, failure) = (telemetry.metrics(), Failure::default());
        let watch = Watch::start(|overdue| hung::end(&overdue))?;
        let connection = Connection { watch, ..connection(&config) };
        let looked_at = [&config.topics.invocations, &config.topics.results].map(String::clone).to_vec();
        let (witness, witness_thread) = Witness::start(&connection, looked_at)?;
        let connection = Connection { witness, ..connection };
        if config.topics.create {
            create_topics(&connection, &config)?;
        }
        let codec = Arc::new(Codec::new());
        let (writers, [format, outcome_format]) = schema_registry(&config)?;
        let observations = Observations::new(config.control.queue.get(), Arc::clone(&metrics));
        let delivery = Delivery::new(quotas(&config.tenants), Arc::clone(&metrics));
        let outbox = Outbox::start(
            &connection,
            OutboxSettings {
                node: config.node_id(),
                format,
                outcome_format,
                topics: publish::Topics {
                    results: config.topics.results.clone(),
                    dead_letters: config.topics.dead_letters.clone(),
                    pre_trigger_outcomes: config.topics.pre_trigger_outcomes.clone(),
                    forecast_snapshots: config.topics.forecast_snapshots.clone(),
                    pre_triggers: config.topics.pre_triggers.clone(),
                },
                invocations_topic: config.topics.invocations.clone(),
                transactions: transactions(&config),
                backoff: publish::Backoff {
                    first: config.publish.retry_backoff,
                    max: config.publish.retry_backoff_max,
                },
                codec: Arc::clone(&codec),
                delivery: Arc::downgrade(&delivery),
                observations: observations.clone(),
                metrics: Arc::clone(&metrics),
                failure: failure.clone(),
            },
        )?;
        let (executor, runtime) = Executor::start(Parts {
            node: config.node_id(),
            config: config.execute.clone(),
            outcomes: Arc::clone(&outbox),
            announce: Arc::new({
                let outbox = Arc::clone(&outbox);
                move |pre_trigger| outbox.announce(&pre_trigger)
            }),
            artifacts: Arc::new(DirectoryStore::new(&config.artifacts)),
            cache: CodeCache::open(&config.execute.cache_directory, config.execute.cache_bytes_max),
            metrics: Arc::clone(&metrics),
        })?;
        let control =
            Control::new(config.forecast.clone(), &config.chains, config.target.clone(), model(&config.forecast)?);
        let control = ControlPlane::start(
            control,
            config.control.tick,
            observations.clone(),
            executor.clone(),
            Arc::clone(&outbox),
        )?;
        let say = tell(executor.clone(), Arc::clone(&delivery), observations.clone(), Arc::clone(&metrics));
        let registry =
            Registry::start(&connection, &config.topics.functions, Arc::clone(&codec), Arc::clone(&writers), say)?;
        delivery.connect(executor.clone(), Unknown::new(registry.fences()))?;
        catch_up(&registry, &config)?;
        let snapshots = ingest::snapshots::read(
            &connection,
            &config.topics.forecast_snapshots,
            &config.node_id(),
            Arc::clone(&codec),
            config.forecast.functions_max.get() as usize,
            config.registry.catch_up_timeout,
        );
        observations.tell(Event::SnapshotsRead(snapshots));
        let start = match config.pre_triggers.start {
            PreTriggerStart::Earliest => Start::Beginning,
            PreTriggerStart::Window => Start::Since(wall_clock() - config.forecast.window_max),
        };
        let pre_triggers = PreTriggers::start(
            &connection,
            &config.topics.pre_triggers,
            start,
            Arc::clone(&codec),
            Arc::clone(&writers),
            announce(
                Arc::clone(&outbox),
                observations.clone(),
                registry.fences(),
                executor.clone(),
                Arc::clone(&metrics),
            ),
        )?;
        let intake = Intake {
            topic: config.topics.invocations.clone(),
            delivery: Arc::clone(&delivery),
            outbox: Arc::clone(&outbox),
            observations,
            tracing: telemetry.tracing(),
            metrics: Arc::clone(&metrics),
            failure: failure.clone(),
            partitions: HashMap::new(),
        };
        let invocations = Invocations::start(&connection, ingest_settings(&config), codec, writers, intake)?;
        outbox.listen(invocations.acknowledger())?;
        let node = Arc::new(node::Answers {
            invocations: invocations.readiness(),
            outbox: Arc::clone(&outbox),
            failure: failure.clone(),
            asked: control.asked(),
        });
        let admin = match config.admin.listen.as_str() {
            "" => None,
            address => Some(Admin::start(address, Arc::clone(&node) as Arc<dyn Node>)?),
        };
        tracing::info!(
            node = config.node_id(),
            bootstrap_servers = config.kafka.bootstrap_servers,
            instances_max = executor.capacity().instances,
            "forewarm serves"
        );
        Ok(Self {
            config,
            metrics,
            failure,
            node,
            admin,
            invocations,
            delivery,
            pre_triggers,
            registry,
            outbox,
            control,
            executor,
            _runtime: runtime,
            _witness: witness_thread,
        })
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where the admin interface listens, where it does.
    pub fn admin_address(&self) -> Option<std::net::SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Functions whose code is loaded.
    pub fn functions_running(&self) -> usize {
        self.executor.running()
    }

    /// Whether calls are taken: the group has let this node in and the brokers answer. A producer that has had nothing to
    /// send yet is no reason to wait.
    pub fn is_ready(&self) -> bool {
        self.node.not_ready().is_none() && self.failure.reason().is_none()
    }

    /// Serves until a signal comes or a part fails for good, and then shuts down.
    pub fn run_until(self, signals: &Signals) -> Ended {
        loop {
            if signals.wait(Duration::from_millis(250)) {
                tracing::info!("a signal asks for the end: no new calls are taken");
                break;
            }
            if let Some(reason) = self.why_not() {
                tracing::error!(reason, "the service cannot go on");
                break;
            }
            self.mirror_counters();
        }
        self.shutdown()
    }

    /// Why the process must end, where it must.
    fn why_not(&self) -> Option<String> {
        let fatal = || self.invocations.health().fatal().or(self.outbox.publisher().health().fatal());
        let ended = || {
            let finished = self.registry.is_finished() || self.pre_triggers.is_finished();
            finished.then_some("a thread that reads a topic has ended")
        };
        self.failure.reason().or_else(fatal).or_else(ended).map(str::to_owned)
    }

    /// Takes the rooms' own totals over into the metrics.
    fn mirror_counters(&self) {
        let read = |total: &std::sync::atomic::AtomicU64| total.load(Ordering::Relaxed);
        let (metrics, ingest, published) =
            (&self.metrics, self.invocations.counters(), self.outbox.publisher().counters());
        metrics.in_flight.set(self.invocations.in_flight() as u64);
        metrics.redelivered.mirror(read(&ingest.already_done));
        metrics.commits.mirror(read(&ingest.commits));
        metrics.commit_failures.mirror(read(&ingest.commit_failures));
        metrics.completions_fenced.mirror(read(&ingest.fenced) + read(&published.fenced));
        metrics.headers_left_out.mirror(read(&ingest.headers_left_out));
        metrics.producers_renewed.mirror(read(&published.renewed));
        metrics.publish_retries.mirror(read(&published.resent));
        metrics.publish_dropped.mirror(read(&published.dropped));
        metrics.transactions.mirror(read(&published.transactions));
        metrics.transactions_aborted.mirror(read(&published.transactions_aborted));
        let notices = self.pre_triggers.counters();
        metrics.pre_triggers_dropped.mirror(read(&notices.dropped));
        metrics.pre_triggers_unreadable.mirror(read(&notices.schema_unavailable));
    }

    /// Stops reading, finishes what runs, commits, leaves the group.
    pub fn shutdown(self) -> Ended {
        let began = Instant::now();
        let deadline = self.config.shutdown.deadline;
        let left = || deadline.saturating_sub(began.elapsed());
        self.mirror_counters();
        let failure = self.why_not();
        let Self { metrics, admin, invocations, delivery, pre_triggers, registry, outbox, control, executor, .. } =
            self;
        drop(admin);
        let ingest = invocations.counters();
        // With a producer that failed for good nothing more is stored: waiting would be in vain.
        let drain = if failure.is_some() { Duration::ZERO } else { left() };
        let unfinished = invocations.shutdown(drain);
        delivery.stop();
        pre_triggers.stop();
        registry.stop();
        if failure.is_none() {
            control.keep_all(&outbox);
        }
        drop((control, executor));
        let unpublished = if failure.is_some() { 0 } else { outbox.flush(left()) };
        metrics.commits.mirror(ingest.commits.load(Ordering::Relaxed));
        let ended = Ended { failure, unfinished, unpublished, took: began.elapsed() };
        ended.log();
        ended
    }
}

fn create_topics(connection: &Connection, config: &Config) -> Result<(), ClientError> {
    let topics = &config.topics;
    let number = |number: std::num::NonZeroU32| i32::try_from(number.get()).unwrap_or(i32::MAX);
    let spec = |name: &str, partitions: i32, compacted: bool| TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: number(topics.replication_factor),
        compacted,
    };
    let events = [&topics.invocations, &topics.results, &topics.dead_letters];
    let events = events.into_iter().chain([&topics.pre_triggers, &topics.pre_trigger_outcomes]);
    let mut specs: Vec<_> = events.map(|name| spec(name, number(topics.partitions), false)).collect();
    // One partition: what has one name is in order in any case, and a start reads them all.
    specs.extend([&topics.functions, &topics.forecast_snapshots].map(|name| spec(name, 1, true)));
    for finding in ensure_topics(connection, &specs, true, TOPICS_TIMEOUT)? {
        match finding {
            TopicFinding::Created { topic } => tracing::info!(topic, "topic created"),
            TopicFinding::NotCompacted { topic, policy } => {
                tracing::warn!(topic, policy, "this topic should be compacted, or definitions will be lost");
            }
        }
    }
    Ok(())
}

/// The schemas of other writers, and the form of the results and outcomes that this node writes.
fn schema_registry(config: &Config) -> Result<(Arc<dyn WriterSchemas>, [WireFormat; 2]), RegistryError> {
    let url = &config.kafka.schema_registry_url;
    let settings = SchemaRegistrySettings {
        urls: url.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect(),
        timeout: SCHEMA_REGISTRY_TIMEOUT,
    };
    let format = |topic: &str, kind| {
        Ok::<_, RegistryError>(match config.publish.format {
            ResultFormat::SingleObject => WireFormat::SingleObject,
            ResultFormat::Json => WireFormat::Json,
            ResultFormat::Confluent => WireFormat::Confluent { schema_id: registry::register(&settings, topic, kind)? },
        })
    };
    let formats = [
        format(&config.topics.results, EventKind::InvocationResult)?,
        format(&config.topics.pre_trigger_outcomes, EventKind::PreTriggerOutcome)?,
    ];
    let writers: Arc<dyn WriterSchemas> =
        if url.is_empty() { Arc::new(NoSchemaRegistry) } else { Arc::new(SchemaRegistry::start(settings)?) };
    Ok((writers, formats))
}

/// What is done with the registry's word: the executor loads, the control plane learns.
fn tell(
    executor: Executor<Arc<Outbox>>,
    delivery: Arc<Delivery>,
    observations: Observations,
    metrics: Arc<Metrics>,
) -> impl FnMut(RegistryEvent) + Send + 'static {
    move |event| match event {
        RegistryEvent::Defined(definition, at) => {
            metrics.functions_defined.add(1);
            // Its policies first: a call that comes right after must not pass without them.
            delivery.define(&definition);
            executor.define(Arc::clone(&definition));
            observations.tell(Event::FunctionDefined { definition, since: at.unwrap_or_else(wall_clock) });
        }
        RegistryEvent::Removed(function) => {
            metrics.functions_removed.add(1);
            tracing::info!(%function, "function removed");
            executor.remove(&function);
            delivery.remove(&function);
            observations.tell(Event::FunctionRemoved(function));
        }
        RegistryEvent::Refused { function, reason } => {
            metrics.functions_refused.add(1);
            tracing::warn!(function, reason, "definition refused");
            executor.refuse(&function, &reason);
        }
        RegistryEvent::CaughtUp => tracing::debug!("every definition has been read"),
    }
}

/// What is done with pre-triggers. One for a function that is not known waits until the registry was read to its end.
fn announce(
    outbox: Arc<Outbox>,
    observations: Observations,
    fences: crate::kafka::tail::Fences,
    executor: Executor<Arc<Outbox>>,
    metrics: Arc<Metrics>,
) -> impl FnMut(PreTriggerEvent) -> bool + Send + 'static {
    move |event| match event {
        PreTriggerEvent::Received(pre_trigger) => {
            if executor.knows(&pre_trigger.function) {
                return observations.see(Event::PreTriggerReceived(pre_trigger));
            }
            let observations = observations.clone();
            // Read or not, the control plane judges it: it says which function is unknown.
            fences.fence(move |_| {
                observations.see(Event::PreTriggerReceived(pre_trigger));
            })
        }
        PreTriggerEvent::Malformed { poison, partition, offset, key, headers } => {
            metrics.pre_trigger_judged("malformed");
            outbox.dead_letter(poison, (partition, offset), key, headers, None);
            true
        }
    }
}

fn catch_up(registry: &Registry, config: &Config) -> Result<(), StartError> {
    let waited = config.registry.catch_up_timeout;
    if registry.fences().wait(waited) {
        return Ok(());
    }
    let mut reason = registry.health().reason();
    if !reason.is_empty() {
        reason.insert_str(0, ": ");
    }
    Err(StartError::CatchUp { topic: config.topics.functions.clone(), waited, reason })
}
