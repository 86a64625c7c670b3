//! The Wasmtime engine: its settings, the pool's size, and the thread that moves the epoch.
//!
//! Must not: know functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::ExecuteError;
use crate::config::Execute;
use crate::pool;

/// The pool's cap where the kernel does not tell its own: the default of `vm.max_map_count`.
const MAX_MAP_COUNT_DEFAULT: u64 = 65_530;
/// Slots where the user set no number: enough for one node, and cheap to set up.
const INSTANCES_DEFAULT: u32 = 1_000;
/// Core instances of one component (JavaScript and Python guests are made of several, of up to 14). Every guest may have as
/// many: the pool only counts them. Memories, tables and stacks take address space, so that there are fewer of those than guests
/// may ask for; where they end before the slots do, a slot is missing, and the call waits.
const CORE_INSTANCES_PER_COMPONENT: u32 = 32;
/// Tables of one guest.
pub(super) const TABLES_PER_GUEST: u32 = 8;
/// Elements with which a table may begin (inclusive).
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// Memories of one module: the pool's own default.
pub(super) const MEMORIES_PER_MODULE: u32 = 1;
/// Wasm frames in a backtrace.
const BACKTRACE_FRAMES_MAX: usize = 32;
/// Bytes of a slot that are reset by copying rather than given back to the kernel: what makes the next first call quick.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// How many instances this process may hold, from the setting and from `vm.max_map_count`.
///
/// Past that limit of the kernel the process does not get an error, it aborts; so it is read at start.
pub(super) fn instances_cap(setting: u32) -> u32 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let max = read("/proc/sys/vm/max_map_count").and_then(|text| text.trim().parse().ok());
    let in_use = read("/proc/self/maps").map_or(1_000, |maps| maps.lines().count() as u64);
    let cap = pool::instances_cap(max.unwrap_or(MAX_MAP_COUNT_DEFAULT), in_use, pool::MAPS_PER_INSTANCE);
    let wanted = if setting == 0 { INSTANCES_DEFAULT } else { setting };
    if wanted > cap {
        tracing::warn!(wanted, cap, "fewer instances than configured: raise vm.max_map_count to allow more");
    }
    wanted.min(cap).max(1)
}

/// Builds the engine for at most `instances` live guests.
///
/// # Errors
/// Where Wasmtime refuses the settings or the address space is too small for the pool.
pub(super) fn build(config: &Execute, instances: u32) -> Result<Engine, ExecuteError> {
    let memory_bytes = usize::try_from(config.instance_memory_bytes_max).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances.saturating_mul(2))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(4)
        .max_tables_per_component(TABLES_PER_GUEST)
        .max_tables_per_module(TABLES_PER_GUEST)
        .max_memories_per_module(MEMORIES_PER_MODULE)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(memory_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut engine = settings();
    engine.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&engine).map_err(ExecuteError::Engine)
}

/// Builds an engine that makes the same machine code as [`build`]'s, and has no pool: it runs no guest.
///
/// # Errors
/// Where Wasmtime refuses the settings.
pub(super) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&settings())
}

/// All that the machine code depends on. Where guests live (the pool) is no part of it.
fn settings() -> Config {
    let mut engine = Config::new();
    engine
        .epoch_interruption(true)
        .wasm_component_model(true)
        .memory_init_cow(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES_MAX));
    engine
}

/// Moves the engine's epoch until it is dropped.
pub(super) struct EpochTicker {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl EpochTicker {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn start(engine: &Engine, interval: Duration) -> Result<Self, ExecuteError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped) = (engine.weak(), Arc::clone(&stop));
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(interval);
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        };
        let thread = thread::Builder::new().name("epoch".into()).spawn(tick).map_err(ExecuteError::Thread)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread holds nothing that could be poisoned; a panic in it would already have been printed.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::code::engine_hash;

    #[test]
    fn code_of_the_compilers_process_is_code_of_the_engine_that_runs_it() {
        let pooled = build(&Execute::default(), 2).unwrap();
        assert_eq!(engine_hash(&pooled), engine_hash(&compiler().unwrap()));
    }
}
