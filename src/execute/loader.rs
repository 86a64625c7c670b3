//! Gets the code of an artifact: shared with a function that has it, kept on disk, or compiled; once for all who ask.
//!
//! Each step has turns of its own, so that code that is kept and artifacts that are read never wait behind the compiler.
//! Compiling has two lanes: a quick one in which everything small begins, with little time and memory, and a long one for all
//! that is large or needed more. So a small artifact waits for small ones alone, however long others compile. Must not: know
//! functions, or try again by itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use wasmtime::Engine;

use super::code::{self, CodeError, Descriptors, Origin, Shared};
use super::compile::{CompileError, Compiler, Lane, Limit, Limits};
use super::function::Step;
use super::inspect::{self, Bounds};
use crate::artifacts::{ArtifactError, ArtifactStore, CodeCache};
use crate::config::Execute;
use crate::telemetry::Metrics;
use crate::types::{FunctionDefinition, FunctionKind, Sha256};

/// Artifacts of up to this many bytes begin in the quick lane.
const SMALL_BYTES_MAX: usize = 512 << 10;
/// What a compilation in the quick lane may take, where the settings do not allow less.
const QUICK: Limits =
    Limits { memory_bytes: 384 << 20, cpu_time: Duration::from_secs(3), wall_time: Duration::from_secs(30) };
/// How far the compiler stands back for the service: in the quick lane, where somebody may wait for a little work, and else.
const QUICK_NICE: i32 = 10;
const LONG_NICE: i32 = 19;
/// Artifacts that are read at once, and threads that may hang in a file system that does not answer.
const FETCHES: usize = 8;
const READERS: usize = 64;
/// What artifacts that wait for the compiler may hold of memory, in KiB; those beyond it are read again at their turn.
const WAITING_KIB_MAX: usize = 256 << 10;
/// Artifacts of which it is known that they cannot be compiled.
const REFUSALS_MAX: usize = 4_096;

/// Whether somebody still wants the code.
pub(super) type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why there is no code. What it displays names no digest and no path of this machine, as callers read it.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("the artifact cannot be a {kind}: {reason}")]
    Unfit { kind: &'static str, reason: String },
    #[error("the artifact is no {kind} that can be compiled: {reason}")]
    Compile { kind: &'static str, reason: String },
    #[error(transparent)]
    Code(#[from] CodeError),
    #[error("{0}")]
    Host(String),
    #[error("loading was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl LoadError {
    /// Whether another try may succeed without anything being registered anew.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Artifact(fault) => fault.retryable(),
            Self::Code(fault) => matches!(fault, CodeError::Exhausted(_)),
            Self::Host(_) => true,
            Self::Unfit { .. } | Self::Compile { .. } | Self::Interrupted(_) => false,
        }
    }

    /// For the log: with paths and digests.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Artifact(fault) => fault.detail(),
            other => other.to_string(),
        }
    }
}

/// A refusal as it is kept on disk: it holds for these limits alone.
#[derive(Serialize, Deserialize)]
struct Kept {
    memory_bytes: u64,
    cpu_time_s: u64,
    reason: String,
}

type Key = (Sha256, FunctionKind);

/// The code of one artifact, while somebody has it or gets it.
#[derive(Default)]
struct Entry {
    /// Whoever gets it holds this.
    gate: tokio::sync::Mutex<()>,
    code: Mutex<Weak<Shared>>,
}

impl Entry {
    fn has_code(&self) -> bool {
        self.code.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }
}

/// Reasons by artifact; the oldest goes for a new one.
#[derive(Default)]
struct Refusals {
    reasons: HashMap<Key, String>,
    order: VecDeque<Key>,
}

impl Refusals {
    fn add(&mut self, key: Key, reason: String) {
        if self.reasons.insert(key, reason).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REFUSALS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.reasons.remove(&oldest);
        }
    }
}

/// See the head of this file.
pub(super) struct Loader {
    engine: Engine,
    artifacts: Arc<dyn ArtifactStore>,
    cache: Arc<CodeCache>,
    compiler: Arc<Compiler>,
    limits: Limits,
    memory_bytes_max: u64,
    descriptors: Descriptors,
    preview1: Arc<HashSet<String>>,
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
    refusals: Mutex<Refusals>,
    loading: Semaphore,
    fetching: Semaphore,
    readers: Arc<Semaphore>,
    waiting_kib: Arc<Semaphore>,
    quick: Lane,
    long: Lane,
    metrics: Arc<Metrics>,
}

impl Loader {
    /// Nothing is loaded yet.
    pub(super) fn new(
        config: &Execute,
        engine: Engine,
        artifacts: Arc<dyn ArtifactStore>,
        cache: CodeCache,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let preview1 = code::preview1_names().unwrap_or_else(|fault| {
            // The linker finds the same later, after a compilation.
            tracing::error!(%fault, "the functions that commands are given are not known");
            HashSet::new()
        });
        Self {
            compiler: Arc::new(Compiler::new(config, code::engine_hash(&engine))),
            engine,
            artifacts,
            cache: Arc::new(cache),
            limits: Limits {
                memory_bytes: config.compile_memory_bytes_max,
                cpu_time: config.compile_cpu_time_max,
                wall_time: config.compile_timeout,
            },
            memory_bytes_max: config.instance_memory_bytes_max,
            descriptors: Descriptors::default(),
            preview1: Arc::new(preview1),
            entries: Mutex::default(),
            refusals: Mutex::default(),
            loading: Semaphore::new(cores),
            fetching: Semaphore::new(FETCHES),
            readers: Arc::new(Semaphore::new(READERS)),
            waiting_kib: Arc::new(Semaphore::new(WAITING_KIB_MAX)),
            quick: Lane::new(cores),
            long: Lane::new(cores.div_ceil(4)),
            metrics,
        }
    }

    /// The code of a definition's artifact, and where it came from. `step` is told how far it is.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(super) async fn load(
        &self,
        definition: &FunctionDefinition,
        wanted: &Wanted,
        step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<(Arc<Shared>, Origin), LoadError> {
        let key = (definition.artifact.code_key(), definition.kind);
        let entry = self.entry(key);
        let _gate = entry.gate.lock().await;
        let shared = entry.code.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(code) = shared {
            return Ok((code, Origin::Cached));
        }
        let (code, origin) = self.get(key, definition, wanted, step).await?;
        let code = Arc::new(code);
        *entry.code.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&code);
        Ok((code, origin))
    }

    fn entry(&self, key: Key) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Entries of which nobody has anything any more go when the table would have to grow.
        if entries.len() == entries.capacity() {
            entries.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.has_code());
        }
        Arc::clone(entries.entry(key).or_default())
    }

    async fn get(
        &self,
        key: Key,
        definition: &FunctionDefinition,
        wanted: &Wanted,
        step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<(Shared, Origin), LoadError> {
        step(Step::Fetching);
        if let Some(code) = self.kept(key).await? {
            return Ok((code, Origin::Cached));
        }
        let kind = name(definition.kind);
        if let Some(reason) = self.refusal(key) {
            return Err(LoadError::Compile { kind, reason });
        }
        let wasm = self.fetch(definition).await?;
        self.inspect(definition.kind, &wasm).await?;
        match self.compile(definition, wasm, wanted, step).await? {
            Ok(code) => {
                let code = self.keep(key, code).await?;
                Ok((code, Origin::Compiled))
            }
            Err(CompileError::Host(fault)) => Err(LoadError::Host(format!("nothing can be compiled here: {fault}"))),
            Err(CompileError::Unwanted) => Err(LoadError::Host(CompileError::Unwanted.to_string())),
            Err(fault) => {
                self.metrics.compile_refusals.add(1);
                let reason = fault.to_string();
                self.remember(key, &fault);
                Err(LoadError::Compile { kind, reason })
            }
        }
    }

    /// Code that is on disk. Nobody waits here but for others of the same.
    async fn kept(&self, (digest, kind): Key) -> Result<Option<Shared>, LoadError> {
        let _turn = self.loading.acquire().await.ok();
        let (engine, cache, descriptors) = (self.engine.clone(), Arc::clone(&self.cache), self.descriptors.clone());
        let load = move || code::kept(&engine, &cache, kind, digest, &descriptors);
        Ok(tokio::task::spawn_blocking(load).await??)
    }

    async fn keep(&self, (digest, kind): Key, code: Vec<u8>) -> Result<Shared, LoadError> {
        let (engine, cache, descriptors) = (self.engine.clone(), Arc::clone(&self.cache), self.descriptors.clone());
        let keep = move || code::keep(&engine, &cache, kind, digest, &code, &descriptors);
        Ok(tokio::task::spawn_blocking(keep).await??)
    }

    /// Reads the artifact. A file system that does not answer keeps its thread, and not the turn of others.
    async fn fetch(&self, definition: &FunctionDefinition) -> Result<Arc<Vec<u8>>, LoadError> {
        let _turn = self.fetching.acquire().await.ok();
        let Ok(reader) = Arc::clone(&self.readers).try_acquire_owned() else {
            return Err(ArtifactError::Busy { readers: READERS }.into());
        };
        let (artifacts, artifact) = (Arc::clone(&self.artifacts), definition.artifact.clone());
        let fetch = move || {
            let _reader = reader;
            artifacts.fetch(&artifact)
        };
        let patience = self.artifacts.patience();
        match tokio::time::timeout(patience, tokio::task::spawn_blocking(fetch)).await {
            Ok(fetched) => Ok(Arc::new(fetched??)),
            Err(_) => Err(ArtifactError::Late { patience }.into()),
        }
    }

    async fn inspect(&self, kind: FunctionKind, wasm: &Arc<Vec<u8>>) -> Result<(), LoadError> {
        let (wasm, preview1, memory_bytes_max) = (Arc::clone(wasm), Arc::clone(&self.preview1), self.memory_bytes_max);
        let look = move || inspect::inspect(kind, &wasm, &Bounds { memory_bytes_max, preview1: &preview1 });
        let looked = tokio::task::spawn_blocking(look).await?;
        looked.map(drop).map_err(|reason| LoadError::Unfit { kind: name(kind), reason })
    }

    /// Compiles in the quick lane where the artifact is small, and in the long one where that is not enough.
    async fn compile(
        &self,
        definition: &FunctionDefinition,
        wasm: Arc<Vec<u8>>,
        wanted: &Wanted,
        step: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<Result<Vec<u8>, CompileError>, LoadError> {
        let tenant = definition.tenant.as_deref().unwrap_or_default();
        let is_small = wasm.len() <= SMALL_BYTES_MAX;
        let kib = u32::try_from(wasm.len() >> 10).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.waiting_kib).try_acquire_many_owned(kib).ok();
        let held = room.as_ref().map(|_| wasm);
        if is_small {
            let limits = quick(&self.limits);
            step(Step::Waiting);
            let _turn = self.quick.turn(tenant).await;
            step(Step::Compiling);
            let wasm = self.at_its_turn(held.as_ref(), definition).await?;
            let compiled = self.compile_within(definition.kind, wasm, limits, QUICK_NICE, wanted).await?;
            match &compiled {
                Err(CompileError::Over(limit, _)) if !is_final(*limit, &limits, &self.limits) => {}
                Err(CompileError::Killed) => {}
                _ => return Ok(compiled),
            }
            tracing::info!(
                function = %definition.name, sha256 = %definition.artifact.sha256,
                "compiling needs more than a moment: it begins anew in the lane for that"
            );
        }
        step(Step::Waiting);
        let _turn = self.long.turn(tenant).await;
        step(Step::Compiling);
        let wasm = self.at_its_turn(held.as_ref(), definition).await?;
        self.compile_within(definition.kind, wasm, self.limits, LONG_NICE, wanted).await
    }

    /// The artifact, when its turn to be compiled has come.
    async fn at_its_turn(
        &self,
        held: Option<&Arc<Vec<u8>>>,
        definition: &FunctionDefinition,
    ) -> Result<Arc<Vec<u8>>, LoadError> {
        match held {
            Some(wasm) => Ok(Arc::clone(wasm)),
            None => self.fetch(definition).await,
        }
    }

    async fn compile_within(
        &self,
        kind: FunctionKind,
        wasm: Arc<Vec<u8>>,
        limits: Limits,
        nice: i32,
        wanted: &Wanted,
    ) -> Result<Result<Vec<u8>, CompileError>, LoadError> {
        let (compiler, wanted) = (Arc::clone(&self.compiler), Arc::clone(wanted));
        self.metrics.compilations.add(1);
        // Its turn came late, perhaps: nothing is begun for nobody.
        let compile = move || {
            if wanted() { compiler.compile(kind, &wasm, &limits, nice, &*wanted) } else { Err(CompileError::Unwanted) }
        };
        Ok(tokio::task::spawn_blocking(compile).await?)
    }

    /// Why an artifact is not compiled again, where that is known.
    fn refusal(&self, key: Key) -> Option<String> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = refusals.reasons.get(&key) {
            return Some(reason.clone());
        }
        let kept = self.cache.refusal(key.0, code::engine_hash(&self.engine))?;
        let kept: Kept = serde_json::from_str(&kept).ok()?;
        let limits = (self.limits.memory_bytes, self.limits.cpu_time.as_secs());
        if (kept.memory_bytes, kept.cpu_time_s) != limits {
            return None;
        }
        refusals.add(key, kept.reason.clone());
        Some(kept.reason)
    }

    /// An artifact that broke its limits, or the compiler, is not compiled again: at all until the next start, and after it
    /// where it does not depend on how busy this machine is.
    fn remember(&self, key: Key, fault: &CompileError) {
        let reason = fault.to_string();
        if matches!(fault, CompileError::Over(Limit::Memory | Limit::CpuTime, _) | CompileError::Broke(_)) {
            let (memory_bytes, cpu_time_s) = (self.limits.memory_bytes, self.limits.cpu_time.as_secs());
            let kept = Kept { memory_bytes, cpu_time_s, reason: reason.clone() };
            if let Ok(kept) = serde_json::to_string(&kept) {
                self.cache.keep_refusal(key.0, code::engine_hash(&self.engine), &kept);
            }
        }
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).add(key, reason);
    }
}

/// A kind, as it is called in words.
pub(super) fn name(kind: FunctionKind) -> &'static str {
    match kind {
        FunctionKind::Component => "component",
        FunctionKind::Command => "command module",
    }
}

/// The limits of the quick lane.
fn quick(most: &Limits) -> Limits {
    Limits {
        memory_bytes: QUICK.memory_bytes.min(most.memory_bytes),
        cpu_time: QUICK.cpu_time.min(most.cpu_time),
        wall_time: QUICK.wall_time.min(most.wall_time),
    }
}

/// Whether the long lane allows no more of what a compilation had too little of.
fn is_final(limit: Limit, had: &Limits, most: &Limits) -> bool {
    match limit {
        Limit::Memory => had.memory_bytes >= most.memory_bytes,
        Limit::CpuTime => had.cpu_time >= most.cpu_time,
        Limit::WallTime => had.wall_time >= most.wall_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_lane_never_allows_more_than_the_settings() {
        let most = Limits { memory_bytes: 128 << 20, ..QUICK };
        assert_eq!(quick(&most), most);
        assert!(is_final(Limit::Memory, &quick(&most), &most) && is_final(Limit::CpuTime, &quick(&most), &most));
        let most = Limits { cpu_time: Duration::from_secs(120), ..QUICK };
        assert_eq!(quick(&most), QUICK);
        assert!(!is_final(Limit::CpuTime, &QUICK, &most) && is_final(Limit::WallTime, &QUICK, &most));
    }

    #[test]
    fn the_oldest_refusal_goes_for_a_new_one() {
        let mut refusals = Refusals::default();
        let key = |nth: usize| (Sha256::of(&nth.to_le_bytes()), FunctionKind::Command);
        for nth in 0..=REFUSALS_MAX {
            refusals.add(key(nth), "no".to_owned());
            refusals.add(key(nth), "no".to_owned());
        }
        assert_eq!((refusals.reasons.len(), refusals.order.len()), (REFUSALS_MAX, REFUSALS_MAX));
        assert!(!refusals.reasons.contains_key(&key(0)) && refusals.reasons.contains_key(&key(REFUSALS_MAX)));
    }
}
