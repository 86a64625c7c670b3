//! Takes definitions in and out: gets the code, and puts the new version in place of the old one.
//!
//! How code is had is the business of `loader`. Must not: touch a running version before the new one is there. What cannot be loaded is refused with its reason.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::function::{Ending, Function, Gone, Phase, Step, Version};
use super::loader::Wanted;
use super::{Executor, Node, Outcomes, wall_clock};
use crate::pool::Breaker;
use crate::types::{FunctionDefinition, FunctionName};

/// Pause before loading is tried again; doubles up to the maximum.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

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
        state.story.defined(&definition, serial, wall_clock());
        if !definition.enabled {
            state.phase = Phase::Disabled;
            state.loading = None;
            state.unavailable = None;
            let version = state.version.take();
            drop(state);
            node.end_calls(version, Gone::Disabled);
            return node.clear(&function, "disabled", "is disabled");
        }
        if state.version.is_none() {
            state.phase = Phase::Loading;
            state.unavailable = None;
            state.cannot_run("its code is still being loaded");
        }
        state.loading = Some((Step::Waiting, Instant::now()));
        drop(state);
        node.handle.spawn(Arc::clone(node).load(function, definition, serial));
    }

    /// Registers that the newest definition of a name is none that can be used. Calls are rejected with the reason, unless
    /// an older version is there: that one stays.
    pub fn refuse(&self, name: &str, reason: &str) {
        let Ok(name) = FunctionName::new(name) else { return };
        let reason = format!("its definition was refused: {reason}");
        let mut functions = self.0.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match functions.entry(name.clone()) {
            Entry::Occupied(known) => known.get().state().story.unreadable(&reason, wall_clock()),
            Entry::Vacant(new) => drop(new.insert(Arc::new(Function::refused(name, reason)))),
        }
    }

    /// Forgets a function: calls that wait are rejected, calls that run end as they may within `execute.removal-grace`.
    pub fn remove(&self, name: &FunctionName) {
        let removed = self.0.functions.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name.as_str());
        if let Some(function) = removed {
            let mut state = function.state();
            state.wanted_serial = 0;
            state.loading = None;
            let version = state.version.take();
            state.phase = Phase::Refused("it was removed".to_owned());
            drop(state);
            self.0.end_calls(version, Gone::Removed);
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

    /// Ends the calls that run in a version that is no more, once their grace is over.
    fn end_calls(&self, version: Option<Arc<Version>>, why: Gone) {
        // Its code goes with the last call, not with the grace.
        let Some(version) = version.as_ref().map(Arc::downgrade) else { return };
        let grace = self.config.removal_grace;
        self.handle.spawn(async move {
            tokio::time::sleep(grace).await;
            if let Some(version) = version.upgrade() {
                version.ending.end(why);
            }
        });
    }

    async fn load(
        self: Arc<Self>,
        function: Arc<Function<O::Ticket>>,
        definition: Arc<FunctionDefinition>,
        serial: u64,
    ) {
        let mut backoff = BACKOFF;
        let wanted: Wanted = {
            let function = Arc::clone(&function);
            Arc::new(move || function.state().wanted_serial == serial)
        };
        let step = |step: Step| {
            let mut state = function.state();
            if state.wanted_serial == serial {
                state.loading = Some((step, Instant::now()));
                if state.story.is_about(serial) {
                    match step {
                        Step::Waiting => state.story.loads("waits for its turn to load", wall_clock()),
                        Step::Fetching => state.story.loads("is fetched", wall_clock()),
                        Step::Compiling => state.story.fetched("is compiled", wall_clock()),
                    }
                }
            }
        };
        loop {
            let loaded = self.loader.load(&definition, &wanted, &step).await;
            if !wanted() {
                return;
            }
            match loaded {
                Ok((code, origin)) => {
                    let ending = Ending::default();
                    let version = Version { definition, code, origin, loaded_at: Instant::now(), serial, ending };
                    return self.install(&function, version);
                }
                Err(fault) if fault.may_pass() => {
                    step(Step::Waiting);
                    function.state().cannot_run(&fault.to_string());
                    function.tell(serial, |story, now| story.unavailable(&fault.to_string(), now));
                    tracing::warn!(
                        function = %function.name, uri = definition.artifact.uri, fault = fault.detail(), retry_in = ?backoff,
                        "the function cannot be loaded now"
                    );
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(fault) => {
                    tracing::debug!(function = %function.name, uri = definition.artifact.uri, fault = fault.detail(), "refused");
                    function.tell(serial, |story, now| story.refused(&fault.to_string(), now));
                    return self.refuse(&function, &definition, &fault.to_string());
                }
            }
        }
    }

    fn install(self: &Arc<Self>, function: &Arc<Function<O::Ticket>>, version: Version) {
        let definition = Arc::clone(&version.definition);
        tracing::info!(
            function = %function.name, version = definition.version, sha256 = %definition.artifact.sha256,
            origin = ?version.origin, "the function is ready to run"
        );
        let mut state = function.state();
        if state.story.is_about(version.serial) {
            state.story.loaded(wall_clock());
        }
        state.phase = Phase::Running;
        state.loading = None;
        state.unavailable = None;
        let replaced = state.version.replace(Arc::new(version));
        state.breaker = Breaker::default();
        state.shelf.set_concurrency(definition.limits.concurrency);
        let old = state.shelf.retire_all();
        let limit = definition.limits.payload_in_bytes;
        let too_large = state.shelf.abandon_if(|pending| pending.call.invocation.payload.0.len() as u64 > limit);
        drop(state);
        self.end_calls(replaced, Gone::Replaced);
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
        state.loading = None;
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
