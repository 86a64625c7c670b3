//! Takes definitions in and out: gets the code, and puts the new version in place of the old one.
//!
//! Code that is in the cache is taken from there, and then the artifact is not fetched: a function loads although its artifact
//! is away. Must not: touch a running version before the new one is there. What cannot be loaded is refused with its reason.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::code::{self, CodeError};
use super::function::{Function, Phase, Version};
use super::{Executor, Node, Outcomes};
use crate::artifacts::ArtifactError;
use crate::pool::Breaker;
use crate::types::{FunctionDefinition, FunctionName};

/// Pause before an artifact is fetched again; doubles up to the maximum.
const FETCH_BACKOFF: Duration = Duration::from_millis(200);
const FETCH_BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Code(#[from] CodeError),
    #[error("loading was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl<O: Outcomes> Executor<O> {
    /// Registers a definition. Its code is loaded in the background; until then an older version keeps running, or calls
    /// wait.
    pub fn define(&self, definition: Arc<FunctionDefinition>) {
        let node = &self.0;
        let serial = node.serials.fetch_add(1, Ordering::Relaxed) + 1;
        let function = {
            let mut functions = node.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let entry = functions.entry(definition.name.clone());
            Arc::clone(entry.or_insert_with(|| Arc::new(Function::new(&definition))))
        };
        let mut state = function.state();
        state.wanted_serial = serial;
        if !definition.enabled {
            state.phase = Phase::Disabled;
            state.version = None;
            drop(state);
            return node.clear(&function, "disabled", "is disabled");
        }
        if state.version.is_none() {
            state.phase = Phase::Loading;
        }
        drop(state);
        node.handle.spawn(Arc::clone(node).load(function, definition, serial));
    }

    /// Registers that the newest definition of a name is none that can be used. Calls are rejected with the reason, unless
    /// an older version is there: that one stays.
    pub fn refuse(&self, name: &str, reason: &str) {
        let Ok(name) = FunctionName::new(name) else { return };
        let mut functions = self.0.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        functions.entry(name.clone()).or_insert_with(|| {
            let reason = format!("its definition was refused: {reason}");
            Arc::new(Function::refused(name, reason))
        });
    }

    /// Forgets a function: calls that wait are rejected, calls that run end as they may.
    pub fn remove(&self, name: &FunctionName) {
        let removed = self.0.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name.as_str());
        if let Some(function) = removed {
            let mut state = function.state();
            state.wanted_serial = 0;
            state.version = None;
            state.phase = Phase::Refused("it was removed".to_owned());
            drop(state);
            self.0.clear(&function, "unknown_function", "was removed");
        }
    }
}

impl<O: Outcomes> Node<O> {
    /// Retires what is ready and rejects what waits.
    fn clear(&self, function: &Function<O::Ticket>, code: &str, what: &str) {
        let ready = function.state().shelf.retire_all();
        function.replaced.notify_waiters();
        self.retire(ready);
        let waiting = function.state().shelf.abandon_if(|_| true);
        for pending in waiting {
            self.reject(pending, code, format!("function {} {what}", function.name));
        }
    }

    async fn load(
        self: Arc<Self>,
        function: Arc<Function<O::Ticket>>,
        definition: Arc<FunctionDefinition>,
        serial: u64,
    ) {
        let mut backoff = FETCH_BACKOFF;
        loop {
            let loaded = self.load_once(&definition).await;
            if function.state().wanted_serial != serial {
                return;
            }
            match loaded {
                Ok((code, origin)) => {
                    let version = Version { definition, code, origin, loaded_at: Instant::now(), serial };
                    return self.install(&function, version);
                }
                Err(LoadError::Artifact(fault)) if fault.retryable() => {
                    tracing::warn!(function = %function.name, %fault, retry_in = ?backoff, "the artifact cannot be fetched now");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(FETCH_BACKOFF_MAX);
                }
                Err(fault) => return self.refuse(&function, &definition, &fault.to_string()),
            }
        }
    }

    async fn load_once(
        self: &Arc<Self>,
        definition: &Arc<FunctionDefinition>,
    ) -> Result<(code::Code, code::Origin), LoadError> {
        let _permit = self.loading.acquire().await.ok();
        let (node, definition) = (Arc::clone(self), Arc::clone(definition));
        // Compiling takes seconds of a whole core: not on the threads that run guests.
        let loading = tokio::task::spawn_blocking(move || {
            if let Some(code) = code::cached(&node.engine, &node.cache, &definition)? {
                return Ok((code, code::Origin::Cached));
            }
            let wasm = node.artifacts.fetch(&definition.artifact)?;
            Ok((code::compile(&node.engine, &node.cache, &definition, &wasm)?, code::Origin::Compiled))
        });
        loading.await?
    }

    fn install(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>, version: Version) {
        let definition = Arc::clone(&version.definition);
        tracing::info!(
            function = %function.name, version = definition.version, sha256 = %definition.artifact.sha256,
            origin = ?version.origin, "the function is ready to run"
        );
        let mut state = function.state();
        state.phase = Phase::Running;
        state.version = Some(Arc::new(version));
        state.breaker = Breaker::default();
        state.shelf.set_concurrency(definition.limits.concurrency);
        let old = state.shelf.retire_all();
        let limit = definition.limits.payload_in_bytes;
        let too_large = state.shelf.abandon_if(|pending| pending.call.invocation.payload.0.len() as u64 > limit);
        drop(state);
        function.replaced.notify_waiters();
        self.retire(old);
        for pending in too_large {
            let message =
                format!("the payload is over limits.payload_in_bytes of function {} ({limit})", function.name);
            self.reject(pending, "payload_in", message);
        }
        self.reconcile(function);
    }

    fn refuse(&self, function: &Function<O::Ticket>, definition: &FunctionDefinition, reason: &str) {
        self.metrics.functions_refused.add(1);
        let mut state = function.state();
        let keeps = state.version.as_ref().map(|version| version.definition.version.clone());
        tracing::warn!(
            function = %function.name, version = definition.version, reason, running = keeps.as_deref(),
            "the version was refused"
        );
        if keeps.is_none() {
            state.phase = Phase::Refused(format!("version {} was refused: {reason}", definition.version));
            drop(state);
            self.clear(
                function,
                "refused",
                &format!("cannot run: version {} was refused: {reason}", definition.version),
            );
        }
    }
}
