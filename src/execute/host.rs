//! What a guest sees of the host: WASI without network and files, its limits, and the clock that ends it.
//!
//! Must not: give a guest anything that belongs to the node or to another function.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::announce::{Announce, Announcer};
use super::function::Cancelled;
use super::memory::{Account, GuestMemory};
use super::stdio::{CallAnswer, CallInput, CallLog};
use crate::types::{FunctionDefinition, LogStream};

/// Most handles (streams, pollables, clocks) that one guest may hold at once, and wait for in one call of a host function.
const RESOURCES_MAX: usize = 1_024;
/// Most bytes that a guest may hand to the host in one call of a host function.
pub(super) const HOSTCALL_BYTES_MAX: u64 = 16 << 20;
/// What an answer may have beside its bytes: the two texts of an error.
const ANSWER_EXTRA_BYTES: u64 = 64 << 10;
/// Most random bytes that a guest gets in one call.
pub(super) const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// The guest ran past its time limit.
#[derive(Debug, thiserror::Error)]
#[error("the call ran past its time limit")]
pub(super) struct TimedOut;

/// Time that does not count against a deadline; shared by whoever gives it and the guest that has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Grace(Arc<AtomicU64>);

impl Grace {
    /// Adds to it.
    pub(super) fn add(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// The deadline with it.
    pub(super) fn after(&self, deadline: Instant) -> Instant {
        deadline + Duration::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// The state of one store. `W` is the WASI context of the guest's kind.
pub(super) struct Host<W> {
    pub(super) wasi: W,
    pub(super) memory: GuestMemory,
    pub(super) stdin: CallInput,
    /// A command's stdout; a component answers otherwise.
    pub(super) answer: CallAnswer,
    /// What the guest prints: its stderr, and a component's stdout.
    pub(super) log: CallLog,
    /// Most bytes that the guest hands to the host at once, its answer among them.
    pub(super) handed_bytes_max: u64,
    /// Most bytes of its answer.
    pub(super) answer_bytes_max: u64,
    /// Past this moment the guest is ended at its next epoch.
    pub(super) deadline: Instant,
    /// What does not count against the deadline, while the guest is prepared.
    pub(super) grace: Option<Grace>,
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
    /// The world of a component.
    pub(super) fn component(
        definition: &FunctionDefinition,
        account: Account,
        announce: &Announce,
        (log, deadline): (CallLog, Instant),
    ) -> Self {
        // The functions of its modules cannot be seen from outside.
        let memory = GuestMemory::new(definition, 0, account);
        Self::new(definition, memory, announce, (log, deadline), |builder, log, _| {
            builder.stdout(log.pipe(LogStream::Stdout));
            let mut table = ResourceTable::new();
            table.set_max_capacity(RESOURCES_MAX);
            Preview2 { context: builder.build(), table }
        })
    }
}

impl Host<WasiP1Ctx> {
    /// The world of a command.
    pub(super) fn command(
        definition: &FunctionDefinition,
        functions: usize,
        account: Account,
        announce: &Announce,
        (log, deadline): (CallLog, Instant),
    ) -> Self {
        let memory = GuestMemory::new(definition, functions, account);
        Self::new(definition, memory, announce, (log, deadline), |builder, _, answer| {
            builder.stdout(answer.clone());
            let mut wasi = builder.build_p1();
            wasi.ctx().table.set_max_capacity(RESOURCES_MAX);
            wasi
        })
    }
}

impl<W> Host<W> {
    fn new(
        definition: &FunctionDefinition,
        memory: GuestMemory,
        announce: &Announce,
        (log, deadline): (CallLog, Instant),
        build: impl FnOnce(&mut WasiCtxBuilder, &CallLog, &CallAnswer) -> W,
    ) -> Self {
        let answer_bytes_max = definition.limits.payload_out_bytes;
        let stdin = CallInput::default();
        let answer = CallAnswer::new(usize::try_from(answer_bytes_max).unwrap_or(usize::MAX));
        let mut builder = WasiCtxBuilder::new();
        builder.stdin(stdin.clone()).stderr(log.pipe(LogStream::Stderr)).arg(definition.name.as_str());
        builder.max_random_size(RANDOM_BYTES_MAX);
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        // All at once: room is made for as many as there are.
        builder.envs(&definition.environment.iter().collect::<Vec<_>>());
        Self {
            wasi: build(&mut builder, &log, &answer),
            memory,
            stdin,
            answer,
            log,
            handed_bytes_max: HOSTCALL_BYTES_MAX.max(answer_bytes_max.saturating_add(ANSWER_EXTRA_BYTES)),
            answer_bytes_max,
            deadline,
            grace: None,
            cancelled: Cancelled::default(),
            announcer: Announcer::new(definition, announce.clone()),
        }
    }
}

/// Sets up a store so that the guest in it yields at every epoch, and ends past `Host::deadline` or once it is cancelled.
pub(super) fn guard<W: Send + 'static>(store: &mut Store<Host<W>>) {
    store.limiter_async(|host| &mut host.memory);
    let handed_bytes_max = store.data().handed_bytes_max;
    store.set_hostcall_fuel(usize::try_from(handed_bytes_max).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| {
        let host = context.data();
        let deadline = host.grace.as_ref().map_or(host.deadline, |grace| grace.after(host.deadline));
        if Instant::now() >= deadline || host.cancelled.is_set() {
            // What a cancelled call came to is not published, so it needs no name of its own.
            return Err(TimedOut.into());
        }
        Ok(UpdateDeadline::Yield(1))
    });
}
