//! The whole service: puts the rooms together, and takes them apart again. The only place that knows all of them.
//!
//! Must not: hold logic of its own. The order of starting is the order of needing: what publishes before what runs, what
//! runs before what reads. The way down is the way up, backwards.

mod announced;
mod hung;
mod limits;
mod logs;
mod manager;
mod node;
mod operator;
mod preflight;
mod settings;
mod shutdown;
mod signals;
mod statuses;
mod topics;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::announced::{Announced, origins};
pub use self::hung::EXIT_HUNG;
pub use self::limits::forbid_core_dumps;
use self::manager::Manager;
pub use self::operator::Reload;
pub use self::preflight::faults;
pub use self::settings::model;
use self::settings::{ingest_settings, membership, quotas, snapshot_settings, target, transactions};
pub use self::shutdown::Ended;
pub use self::signals::{Asked, Signals};
use self::statuses::Teller;
pub use self::topics::artifacts as artifacts_topic;
use crate::admin::{Admin, AdminError, Node};
use crate::artifacts::{CodeCache, Stores};
use crate::codec::{Codec, EventKind, NoSchemaRegistry, WireFormat, WriterSchemas};
use crate::config::{Config, PreTriggerStart, ResultFormat};
use crate::control::{Control, Event};
use crate::driver::{ControlPlane, Delivery, Failure, Intake, Observations, Outbox, OutboxSettings, Unknown};
pub use crate::execute::wall_clock;
use crate::execute::{ExecuteError, Executor, Parts, Runtime};
use crate::http;
use crate::ingest::pre_triggers::PreTriggers;
use crate::ingest::{self, IngestError, Invocations};
use crate::kafka::tail::Passed;
use crate::kafka::{ClientError, Connection, Watch, Witness, WitnessThread, set_batch_bytes_max};
use crate::publish::{self, FunctionLogs};
use crate::registry::{self, Judge, Registry, RegistryError, RegistryEvent, SchemaRegistry, SchemaRegistrySettings};
use crate::telemetry::{Metrics, Telemetry};
use crate::types::ConditionKind;

/// How long the way down may take beyond its deadline before the process ends at once.
const SHUTDOWN_OVERDUE: Duration = Duration::from_secs(20);
/// How long lines of functions may take to be stored at the end, where the way down leaves so much.
const LOGS_END: Duration = Duration::from_secs(2);

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
    /// A neighbour that is asked over HTTP, by its files.
    #[error("{}", .0.join("; "))]
    Http(Vec<String>),
    /// A thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The service that runs.
pub struct Service {
    config: Config,
    metrics: Arc<Metrics>,
    failure: Failure,
    watch: Watch,
    node: Arc<node::Answers>,
    teller: Teller,
    // From here on in the order in which they end.
    admin: Option<Admin>,
    invocations: Invocations,
    delivery: Arc<Delivery>,
    pre_triggers: Vec<PreTriggers>,
    registry: Registry,
    outbox: Arc<Outbox>,
    function_logs: Option<FunctionLogs>,
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
        membership: membership(config),
        ..Connection::default()
    }
}

impl Service {
    /// Starts everything; calls are read when this returns, or a moment before.
    ///
    /// # Errors
    /// Where any part cannot start; those that had started are ended.
    pub fn start(config: Config, telemetry: &Telemetry) -> Result<Self, StartError> {
        let (metrics, failure, started_at) = (telemetry.metrics(), Failure::default(), wall_clock());
        let faults = http::faults(&config);
        if !faults.is_empty() {
            return Err(StartError::Http(faults));
        }
        limits::settle(&config);
        settings::say_budgets(&config);
        // First: an address that cannot be had ends the start before anything else is done, and probes get an answer from now on.
        let answers = Arc::new(node::Starting::default());
        let admin = match (config.admin.listen.as_str(), config.admin.health_listen.as_str()) {
            ("", "") => None,
            _ => Some(Admin::start(&config.admin, Arc::clone(&answers) as Arc<dyn Node>)?),
        };
        let watch = Watch::start(|overdue| hung::end(&overdue))?;
        let connection = Connection { watch, ..connection(&config) };
        set_batch_bytes_max(config.ingest.batch_bytes_max.get());
        let looked_at = [&config.topics.invocations, &config.topics.results].map(String::clone).to_vec();
        let (witness, witness_thread) = Witness::start(&connection, looked_at)?;
        let connection = Connection { witness, ..connection };
        if config.topics.create {
            topics::create(&connection, &config)?;
        }
        let codec = Arc::new(Codec::new());
        let schemas = SchemaRegistrySettings::of(&config);
        let [format, outcome_format, log_format] = formats(&config, schemas.as_ref())?;
        let schemas = schemas.map(SchemaRegistry::start).transpose()?.map(Arc::new);
        let writers: Arc<dyn WriterSchemas> = match &schemas {
            Some(registry) => Arc::clone(registry) as Arc<dyn WriterSchemas>,
            None => Arc::new(NoSchemaRegistry),
        };
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
                    guest_notices: config.topics.guest_notices.clone(),
                    function_status: config.topics.function_status.clone(),
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
        let (function_logs, logs) = logs::start(&connection, &config, log_format, &codec, &metrics)?;
        let (executor, runtime) = Executor::start(Parts {
            node: config.node_id(),
            config: config.execute.clone(),
            outcomes: Arc::clone(&outbox),
            announce: Arc::new({
                let outbox = Arc::clone(&outbox);
                move |pre_trigger| outbox.announce(&pre_trigger)
            }),
            logs,
            artifacts: Arc::new(Stores::open(&config, connection.clone())),
            cache: CodeCache::open(&config.execute.cache_directory, config.execute.cache_bytes_max),
            metrics: Arc::clone(&metrics),
        })?;
        limits::close(&config);
        let target = target(&config.target, executor.capacity().instances);
        let control = Control::new(config.forecast.clone(), &config.chains, target, model(&config.forecast)?);
        let control = ControlPlane::start(
            control,
            config.control.tick,
            observations.clone(),
            executor.clone(),
            Arc::clone(&outbox),
        )?;
        let say = tell(executor.clone(), Arc::clone(&delivery), observations.clone(), Arc::clone(&metrics));
        let (judge, topic) = (Judge::new(&config), &config.topics.functions);
        let registry = Registry::start(&connection, topic, judge, Arc::clone(&codec), Arc::clone(&writers), say)?;
        delivery.connect(executor.clone(), Unknown::new(registry.fences()))?;
        registry.catch_up(config.registry.catch_up_timeout)?;
        let settings = snapshot_settings(&config, executor.clone());
        let found =
            ingest::snapshots::read(&connection, &config.topics.forecast_snapshots, Arc::clone(&codec), settings);
        outbox.forget_stale_snapshots(found.stale, found.more_stale);
        observations.tell(Event::SnapshotsRead(found.snapshots));
        let window_max = match config.pre_triggers.start {
            PreTriggerStart::Earliest => None,
            PreTriggerStart::Window => Some(config.forecast.window_max),
        };
        let announced = Announced {
            tenants: Arc::new(config.tenants.clone()),
            outbox: Arc::clone(&outbox),
            observations: observations.clone(),
            fences: registry.fences(),
            executor: executor.clone(),
            metrics: Arc::clone(&metrics),
        };
        let pre_triggers = origins(&config)
            .map(|(topic, origin)| {
                let (codec, writers, mut announced) = (Arc::clone(&codec), Arc::clone(&writers), announced.clone());
                let sink = move |event| announced.take(&origin, event);
                let bounds = ingest_settings(&config).message;
                PreTriggers::start(&connection, topic, (wall_clock(), window_max), codec, writers, bounds, sink)
            })
            .collect::<Result<Vec<_>, _>>()?;
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
        let is_there = statuses::clean(&connection, &config, &codec, executor.clone(), Arc::clone(&outbox))?;
        let invocations = Invocations::start(&connection, ingest_settings(&config), codec, writers, intake)?;
        outbox.listen(invocations.acknowledger())?;
        let node = Arc::new(node::Answers {
            invocations: invocations.readiness(),
            outbox: Arc::clone(&outbox),
            failure: failure.clone(),
            asked: control.asked(),
            watch: connection.watch.clone(),
            definitions_passed: registry.passed(),
            schemas,
        });
        answers.has_started(Arc::clone(&node));
        let teller = Teller::new(&control.asked(), started_at, is_there);
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
            watch: connection.watch,
            node,
            teller,
            admin,
            invocations,
            delivery,
            pre_triggers,
            registry,
            outbox,
            function_logs,
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
        self.admin.as_ref().and_then(Admin::address)
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

    /// Serves until a signal asks for the end or a part fails for good, and then shuts down. `reload` reads the configuration
    /// again, where there is one to be read.
    pub fn run_until(mut self, signals: &Signals, reload: Option<&Reload<'_>>) -> Ended {
        let (mut manager, mut handed_back) = (Manager::from_environment(), false);
        loop {
            match signals.wait(Duration::from_millis(250)) {
                Some(Asked::End) => {
                    tracing::info!("a signal asks for the end: no new calls are taken");
                    break;
                }
                Some(asked) => self.carry_out(asked, reload),
                None => {}
            }
            if let Some(reason) = self.why_not() {
                tracing::error!(reason, "the service cannot go on");
                break;
            }
            self.mirror_counters();
            self.teller
                .look(&self.outbox, || self.failure.reason().map(str::to_owned).or_else(|| self.node.not_ready()));
            if handed_back != self.invocations.is_handed_back() {
                handed_back = !handed_back;
                tracing::info!(handed_back, "every partition was handed back, or is taken again");
            }
            let rounds = self.invocations.counters().rounds.load(Ordering::Relaxed);
            manager.look(Instant::now(), &self.stands_by(), rounds);
        }
        Manager::ends();
        self.shutdown()
    }

    /// Why the process must end, where it must.
    fn why_not(&self) -> Option<String> {
        let fatal = || self.invocations.health().fatal().or(self.outbox.publisher().health().fatal());
        let ended = || {
            let finished = self.registry.is_finished() || self.pre_triggers.iter().any(PreTriggers::is_finished);
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
        metrics.aside.set(ingest.aside.load(Ordering::Relaxed) as u64);
        metrics.put_aside.mirror(read(&ingest.put_aside));
        metrics.overflowed.mirror(read(&ingest.overflowed));
        metrics.redelivered.mirror(read(&ingest.already_done));
        metrics.commits.mirror(read(&ingest.commits));
        metrics.commit_failures.mirror(read(&ingest.commit_failures));
        metrics.completions_fenced.mirror(read(&ingest.fenced) + read(&published.fenced));
        metrics.headers_left_out.mirror(read(&ingest.headers_left_out));
        metrics.consumers_renewed.mirror(read(&ingest.consumers_renewed));
        metrics.rejoined.mirror(read(&ingest.rejoined));
        metrics.handed_back.mirror(read(&ingest.handed_back));
        metrics.partition_errors.mirror(read(&ingest.partition_errors));
        let of_definitions: u64 = self.registry.passed().iter().map(Passed::batches).sum();
        let of_notices: u64 = self.pre_triggers.iter().map(|one| one.passed().batches()).sum();
        metrics.batches_passed.mirror(read(&ingest.batches_passed) + of_definitions + of_notices);
        metrics.offsets_passed.mirror(read(&ingest.passed));
        metrics.producers_renewed.mirror(read(&published.renewed));
        metrics.publish_retries.mirror(read(&published.resent));
        metrics.publish_dropped.mirror(read(&published.dropped));
        metrics.transactions.mirror(read(&published.transactions));
        metrics.transactions_aborted.mirror(read(&published.transactions_aborted));
        let (unread, alike) = crate::telemetry::log_lines_left_out();
        metrics.log_lines_left_out.mirror(unread);
        metrics.log_lines_alike.mirror(alike);
        metrics.schema_registry_failures.mirror(self.node.schemas.as_ref().map_or(0, |schemas| schemas.failures()));
        let conditions = self.node.conditions();
        for kind in ConditionKind::ALL {
            metrics.conditions_now(kind, conditions.iter().filter(|condition| condition.kind == kind).count() as u64);
        }
        let notices: Vec<_> = self.pre_triggers.iter().map(PreTriggers::counters).collect();
        metrics.pre_triggers_dropped.mirror(notices.iter().map(|one| read(&one.dropped)).sum());
        metrics.pre_triggers_unreadable.mirror(notices.iter().map(|one| read(&one.schema_unavailable)).sum());
    }

    /// Stops reading, finishes what runs, commits, leaves the group.
    pub fn shutdown(self) -> Ended {
        let began = Instant::now();
        let deadline = self.config.shutdown.deadline;
        let left = || deadline.saturating_sub(began.elapsed());
        // Whatever hangs on the way down, the process ends.
        let _watched = self.watch.begin("shutdown", deadline + SHUTDOWN_OVERDUE);
        self.mirror_counters();
        let failure = self.why_not();
        let Self { metrics, teller, admin, invocations, delivery, .. } = self;
        let Self { pre_triggers, registry, outbox, function_logs, control, executor, .. } = self;
        drop(admin);
        let ingest = invocations.counters();
        // With a producer that failed for good nothing more is stored: waiting would be in vain.
        let drain = if failure.is_some() { Duration::ZERO } else { left() };
        let unfinished = invocations.shutdown(drain);
        delivery.stop();
        pre_triggers.into_iter().for_each(PreTriggers::stop);
        registry.stop();
        if failure.is_none() {
            control.keep_all(&outbox);
            teller.stopped(&outbox);
        }
        drop((control, executor));
        let unpublished = if failure.is_some() { 0 } else { outbox.flush(left()) };
        if let Some(function_logs) = function_logs {
            function_logs.finish(left().min(LOGS_END));
        }
        metrics.commits.mirror(ingest.commits.load(Ordering::Relaxed));
        let ended = Ended { failure, unfinished, unpublished, took: began.elapsed() };
        ended.log();
        ended
    }
}

/// The schemas of other writers: of the registry, where one is configured.
///
/// # Errors
/// Where its client cannot be started.
pub fn writer_schemas(config: &Config) -> Result<Arc<dyn WriterSchemas>, RegistryError> {
    Ok(match SchemaRegistrySettings::of(config) {
        Some(settings) => Arc::new(SchemaRegistry::start(settings)?),
        None => Arc::new(NoSchemaRegistry),
    })
}

/// The form of the results, outcomes and lines of functions that this node writes.
fn formats(config: &Config, schemas: Option<&SchemaRegistrySettings>) -> Result<[WireFormat; 3], RegistryError> {
    let format = |topic: &str, kind| {
        Ok::<_, RegistryError>(match config.publish.format {
            ResultFormat::SingleObject => WireFormat::SingleObject,
            ResultFormat::Json => WireFormat::Json,
            ResultFormat::Confluent => {
                let schemas = schemas.ok_or(RegistryError::NoSchemaRegistryUrl)?;
                let schema_id = registry::register(schemas, topic, kind, config.registry.catch_up_timeout)?;
                WireFormat::Confluent { schema_id }
            }
        })
    };
    Ok([
        format(&config.topics.results, EventKind::InvocationResult)?,
        format(&config.topics.pre_trigger_outcomes, EventKind::PreTriggerOutcome)?,
        match config.topics.function_logs.as_str() {
            "" => WireFormat::SingleObject,
            topic => format(topic, EventKind::FunctionLog)?,
        },
    ])
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
