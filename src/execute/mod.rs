//! Runs calls in ready guests, and keeps as many ready as the warm targets say.
//!
//! The way of a call: `submit` → the function's shelf → an instance → [`Outcomes::completed`]. A short call runs on the
//! very thread that submits it: a thread crossing costs more than a warm call. Must not: know Kafka, wire formats, or why
//! a target is what it is.

mod announce;
mod bindings;
mod check;
mod code;
mod compile;
mod dispatch;
mod engine;
mod fault;
mod function;
mod host;
mod inspect;
mod instance;
mod lines;
mod load;
mod loader;
mod log_rate;
mod logs;
mod memory;
mod pace;
mod prepare;
mod shelf;
mod slots;
mod status;
mod stdio;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

pub use self::announce::Announce;
pub use self::check::{Unfit, check};
pub use self::compile::{Worker, reap_orphans};
pub use self::dispatch::UNAVAILABLE;
pub use self::function::{Call, Cancelled};
use self::function::{Function, Phase};
use self::loader::Loader;
pub use self::logs::{Logs, Tell};
use self::pace::Line;
use self::slots::Slots;
use crate::artifacts::{ArtifactStore, CodeCache};
use crate::config::Execute;
use crate::pool::{Bounds, Capacity};
use crate::telemetry::Metrics;
use crate::types::{FunctionName, InvocationResult, PoolUsage, Timestamp, WarmTarget};

/// Why the executor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// Wasmtime refused its settings, or the address space is too small for the pool.
    #[error(
        "the Wasmtime engine could not be set up: {0:#}; fewer execute.instances-max or a smaller execute.instance-memory-bytes-max may help"
    )]
    Engine(#[source] wasmtime::Error),
    /// The system gave no thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The async runtime could not be set up.
    #[error("the runtime for guests could not be started: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Where outcomes go. Called on whichever thread ran the call: it must not block.
pub trait Outcomes: Send + Sync + 'static {
    /// What the caller wants back with the outcome.
    type Ticket: Send + 'static;

    /// A call has its outcome. Either this or [`given_back`](Self::given_back) is called exactly once for each submitted call.
    /// The call's own id has moved into the result; all else is as it was submitted, so that it can be submitted again.
    fn completed(&self, call: Call<Self::Ticket>, result: InvocationResult);

    /// A call did not begin, because [`Cancelled::begin_no_more`] or [`Cancelled::set`] was said of it: it has no outcome here.
    fn given_back(&self, call: Call<Self::Ticket>);
}

/// Runs functions. Cheap to clone; the guests' threads live in [`Runtime`].
pub struct Executor<O: Outcomes>(Arc<Node<O>>);

impl<O: Outcomes> Clone for Executor<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

type Functions<T> = HashMap<FunctionName, Arc<Function<T>>>;

/// What all parts of the executor share.
struct Node<O: Outcomes> {
    id: String,
    config: Execute,
    outcomes: O,
    announce: Announce,
    logs: Logs,
    functions: RwLock<Functions<O::Ticket>>,
    slots: Slots,
    capacity: Capacity,
    loader: Loader,
    metrics: Arc<Metrics>,
    handle: tokio::runtime::Handle,
    /// Preparations that compute at once: one a core. Fewer of them for work that no call waits for, so that warming one
    /// function does not slow another's call.
    line: Line<O>,
    /// Preparations of one function that may have been begun and not be done.
    begun_max: u32,
    serials: AtomicU64,
    started_at: Instant,
}

/// The threads that guests run on. Dropping it ends them; what still runs is abandoned.
pub struct Runtime {
    tokio: Option<tokio::runtime::Runtime>,
    _epoch: engine::EpochTicker,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(tokio) = self.tokio.take() {
            // Blocking threads read artifacts and wait for compilers; the process need not wait for them.
            tokio.shutdown_background();
        }
    }
}

/// What the executor is made of.
pub struct Parts<O> {
    /// The node's name, as it stands on every result.
    pub node: String,
    /// The settings.
    pub config: Execute,
    /// Where outcomes go.
    pub outcomes: O,
    /// Where pre-triggers of guests go.
    pub announce: Announce,
    /// Where what guests write goes.
    pub logs: Logs,
    /// Where artifacts come from.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// Where machine code is kept.
    pub cache: CodeCache,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

impl<O: Outcomes> Executor<O> {
    /// Sets up the engine, its pool and its threads.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub fn start(parts: Parts<O>) -> Result<(Self, Runtime), ExecuteError> {
        let Parts { node: id, config, outcomes, announce, logs, artifacts, cache, metrics } = parts;
        let instances = engine::instances_cap(config.instances_max);
        let engine = engine::build(&config, instances)?;
        let epoch = engine::EpochTicker::start(&engine, config.epoch_interval)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let or_else = |setting: usize, default: usize| if setting == 0 { default } else { setting };
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(or_else(config.worker_threads, cores))
            .thread_name("guest")
            .enable_time()
            .build()
            .map_err(ExecuteError::Runtime)?;
        let capacity = Capacity { instances, bytes: config.memory_bytes_max };
        let node = Node {
            id,
            outcomes,
            announce,
            logs,
            functions: RwLock::default(),
            slots: Slots::new(Bounds::of(capacity, config.function_instances_share_max)),
            capacity,
            loader: Loader::new(&config, engine, artifacts, cache, Arc::clone(&metrics)),
            metrics,
            handle: tokio.handle().clone(),
            line: Line::new(cores, or_else(config.prepare_concurrency, cores.div_ceil(2))),
            begun_max: prepare::begun_max(cores),
            serials: AtomicU64::new(0),
            started_at: Instant::now(),
            config,
        };
        Ok((Self(Arc::new(node)), Runtime { tokio: Some(tokio), _epoch: epoch }))
    }

    /// How many instances and bytes this node may hold.
    pub fn capacity(&self) -> Capacity {
        self.0.capacity
    }

    /// Instances and bytes that are in use.
    pub fn in_use(&self) -> Capacity {
        self.0.slots.in_use()
    }

    /// Whether a function is registered here.
    pub fn knows(&self, function: &FunctionName) -> bool {
        self.0.find(function.as_str()).is_some()
    }

    /// Functions whose code is loaded.
    pub fn running(&self) -> usize {
        self.0.all().iter().filter(|function| function.state().phase == Phase::Running).count()
    }

    /// Whether every known function has its code or a reason why not.
    pub fn is_settled(&self) -> bool {
        self.0.all().iter().all(|function| function.state().phase != Phase::Loading)
    }

    /// Sets how many instances of a function are to be ready, and makes or retires some accordingly.
    pub fn set_target(&self, function: &FunctionName, target: WarmTarget) {
        if let Some(function) = self.0.find(function.as_str()) {
            function.state().shelf.set_target(target);
            self.0.reconcile(&function);
        }
    }

    /// Answers calls past their deadline, and tells what is there. To be called at every control tick; functions of which
    /// nothing is known are left out.
    pub fn look(&self) -> Vec<(FunctionName, PoolUsage)> {
        let now = wall_clock();
        let mut usage = Vec::new();
        for function in self.0.all() {
            self.0.write_what_is_owed(&function);
            if function.state().shelf.is_idle() && function.state().shelf.target().ready == 0 {
                continue;
            }
            self.0.abandon_expired(&function, now);
            usage.push((function.name.clone(), function.state().shelf.look(function.instance_bytes())));
        }
        usage
    }

    /// Gives every waiting call back that may not begin any more, without waiting for the next tick.
    pub fn give_back_waiting(&self) {
        let now = wall_clock();
        for function in self.0.all() {
            self.0.abandon_expired(&function, now);
        }
    }

    /// Brings every shelf to its target, and sees to it that no waiting call is forgotten. To be called at every control
    /// tick, when the targets are set: before that, what a notice asked for would be prepared again although its calls came.
    pub fn reconcile(&self) {
        for function in self.0.all() {
            self.0.reconcile(&function);
        }
    }

    /// What the pool holds of one function; `None` where it is not known.
    pub fn usage(&self, function: &FunctionName) -> Option<PoolUsage> {
        let function = self.0.find(function.as_str())?;
        let usage = function.state().shelf.usage(function.instance_bytes());
        Some(usage)
    }
}

impl<O: Outcomes> Node<O> {
    fn find(&self, name: &str) -> Option<Arc<Function<O::Ticket>>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<Function<O::Ticket>>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The wall clock, for deadlines and time stamps that others read.
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
