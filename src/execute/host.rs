//! What a guest sees of the host: WASI without network and files, its limits, and the clock that ends it.
//!
//! Must not: give a guest anything that belongs to the node or to another function.

use std::time::Instant;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::announce::{Announce, Announcer};
use super::function::Cancelled;
use super::stdio::{CallInput, CallOutput};
use crate::types::FunctionDefinition;

/// Most handles (streams, pollables, clocks) that one guest may hold at once.
const RESOURCES_MAX: usize = 4_096;
/// Most bytes that a guest may hand to the host in one call of a host function.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// Most random bytes that a guest gets in one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Most elements of one table: function pointers of large guests are well below it.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// What is kept of a guest's stderr (and of a component's stdout) per call.
const LOG_BYTES_MAX: usize = 16 << 10;

/// The guest ran past its time limit.
#[derive(Debug, thiserror::Error)]
#[error("the call ran past its time limit")]
pub(super) struct TimedOut;

/// The state of one store. `W` is the WASI context of the guest's kind.
pub(super) struct Host<W> {
    pub(super) wasi: W,
    pub(super) memory: MemoryLimit,
    pub(super) stdin: CallInput,
    pub(super) stdout: CallOutput,
    pub(super) stderr: CallOutput,
    /// Past this moment the guest is ended at its next epoch.
    pub(super) deadline: Instant,
    /// Once it is set, the guest is ended at its next epoch too.
    pub(super) cancelled: Cancelled,
    pub(super) announcer: Announcer,
}

/// WASI 0.2, for components.
pub(super) struct Preview2 {
    context: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Host<Preview2> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi.context, table: &mut self.wasi.table }
    }
}

impl Host<Preview2> {
    /// The world of a component: what it prints is a log.
    pub(super) fn component(definition: &FunctionDefinition, announce: &Announce, deadline: Instant) -> Self {
        let stdout = CallOutput::log(LOG_BYTES_MAX);
        Self::new(definition, stdout, announce, deadline, |builder| {
            let mut table = ResourceTable::new();
            table.set_max_capacity(RESOURCES_MAX);
            Preview2 { context: builder.build(), table }
        })
    }
}

impl Host<WasiP1Ctx> {
    /// The world of a command: its stdout is the answer.
    pub(super) fn command(definition: &FunctionDefinition, announce: &Announce, deadline: Instant) -> Self {
        let limit = usize::try_from(definition.limits.payload_out_bytes).unwrap_or(usize::MAX);
        Self::new(definition, CallOutput::answer(limit), announce, deadline, WasiCtxBuilder::build_p1)
    }
}

impl<W> Host<W> {
    fn new(
        definition: &FunctionDefinition,
        stdout: CallOutput,
        announce: &Announce,
        deadline: Instant,
        build: impl FnOnce(&mut WasiCtxBuilder) -> W,
    ) -> Self {
        let stdin = CallInput::default();
        let stderr = CallOutput::log(LOG_BYTES_MAX);
        let mut builder = WasiCtxBuilder::new();
        builder.stdin(stdin.clone()).stdout(stdout.clone()).stderr(stderr.clone()).arg(definition.name.as_str());
        builder.max_random_size(RANDOM_BYTES_MAX);
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        for (key, value) in &definition.environment {
            builder.env(key, value);
        }
        let memory = MemoryLimit::new(definition.limits.memory_bytes);
        let announcer = Announcer::new(definition.name.clone(), announce.clone());
        Self {
            wasi: build(&mut builder),
            memory,
            stdin,
            stdout,
            stderr,
            deadline,
            cancelled: Cancelled::default(),
            announcer,
        }
    }
}

/// Sets up a store so that the guest in it yields at every epoch, and ends past `Host::deadline` or once it is cancelled.
pub(super) fn guard<W: Send + 'static>(store: &mut Store<Host<W>>) {
    store.limiter(|host| &mut host.memory);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| {
        let host = context.data();
        if Instant::now() >= host.deadline || host.cancelled.is_set() {
            // What a cancelled call came to is not published, so it needs no name of its own.
            return Err(TimedOut.into());
        }
        Ok(UpdateDeadline::Yield(1))
    });
}

/// Counts the linear memory of one guest, over all its memories, against the function's limit.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    limit_bytes: u64,
    bytes: u64,
    refused: bool,
}

impl MemoryLimit {
    fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, bytes: 0, refused: false }
    }

    /// Linear memory that the guest holds, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the guest was refused memory since the last time this was asked.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// The limit, in bytes (inclusive).
    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.bytes.saturating_add(desired.saturating_sub(current) as u64);
        if grown > self.limit_bytes {
            self.refused = true;
            return Ok(false);
        }
        self.bytes = grown;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // The growth was granted above and then failed below us (the pool's slot is smaller): the guest sees -1 too.
        self.refused = true;
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_adds_up_over_several_memories_and_stops_at_the_limit() {
        let mut limit = MemoryLimit::new(3 * 65_536);
        assert!(limit.memory_growing(0, 65_536, None).unwrap());
        assert!(limit.memory_growing(0, 131_072, None).unwrap());
        assert_eq!(limit.bytes(), 3 * 65_536);
        assert!(!limit.take_refused());
        assert!(!limit.memory_growing(65_536, 131_072, None).unwrap());
        assert_eq!(limit.bytes(), 3 * 65_536);
        assert!(limit.take_refused());
        assert!(!limit.take_refused());
    }
}
