//! One prepared guest: a Wasmtime store with an instance in it, made ready ahead and called once or many times.
//!
//! Ready means: instantiated, initialised, and its memory touched, so that the first call meets no page fault that could
//! have been had before. Must not: choose which call runs where; `dispatch` does.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::Sleep;
use wasmtime::{Memory, Store, TypedFunc};
use wasmtime_wasi::p1::WasiP1Ctx;

use super::announce::Announce;
use super::bindings::{Function as Guest, Invocation as GuestInvocation};
use super::code::Code;
use super::fault::{Circumstances, Fault};
use super::function::Cancelled;
use super::host::{self, Grace, Host, Preview2, TimedOut};
use super::memory::Account;
use super::stdio::CallLog;
use crate::types::headers::attributes;
use crate::types::{FunctionDefinition, Headers, Invocation, Payload, Status};

/// The pages that the kernel gives at once.
const PAGE_BYTES: usize = 4_096;

/// A guest that is ready to serve.
pub(super) enum Instance {
    /// A component; serves many calls, one at a time.
    Component(Box<Store<Host<Preview2>>>, Guest),
    /// A command; serves one call.
    Command(Box<Store<Host<WasiP1Ctx>>>, TypedFunc<(), ()>),
}

/// How one call in an instance went.
pub(super) struct Ended {
    pub(super) answer: Result<Payload, Fault>,
    /// Whether the instance may serve another call.
    pub(super) usable: bool,
}

impl Instance {
    /// Instantiates, initialises and touches a guest.
    ///
    /// # Errors
    /// The guest's own failure in `init`, its limits, or the pool's end, as the fault that its callers would see.
    pub(super) async fn prepare(
        code: &Code,
        definition: &FunctionDefinition,
        account: Account,
        announce: &Announce,
        log: CallLog,
        (init_timeout, grace): (Duration, &Grace),
        touch_bytes_max: u64,
    ) -> Result<Self, Fault> {
        let deadline = Instant::now() + init_timeout;
        match code {
            Code::Component(pre) => {
                let host = Host::component(definition, account, announce, (log, deadline));
                let mut store = Box::new(Store::new(pre.engine(), host));
                host::guard(&mut store);
                store.data_mut().grace = Some(grace.clone());
                let started = async {
                    let guest = pre.instantiate_async(&mut *store).await?;
                    let initialised = guest.call_init(&mut *store).await?;
                    Ok::<_, wasmtime::Error>((guest, initialised))
                };
                let started = before(deadline, pin!(started)).with(grace).await;
                match started.map_err(|error| judge(&error, &store).in_init(init_timeout))? {
                    (guest, Ok(())) => Ok(Self::Component(store, guest)),
                    (_, Err(message)) => {
                        let mut fault = Fault::new(Status::FunctionError, "init", format!("init failed: {message}"));
                        fault.printed(store.data().log.text().as_deref());
                        Err(fault)
                    }
                }
            }
            Code::Command(pre) => {
                let functions = pre.module().functions().len();
                let host = Host::command(definition, functions, account, announce, (log, deadline));
                let mut store = Box::new(Store::new(pre.module().engine(), host));
                host::guard(&mut store);
                store.data_mut().grace = Some(grace.clone());
                let instantiated = before(deadline, pin!(pre.instantiate_async(&mut *store))).with(grace).await;
                let instance = instantiated.map_err(|error| judge(&error, &store).in_init(init_timeout))?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start");
                let start = start.map_err(|error| judge(&error, &store).in_init(init_timeout))?;
                if let Some(memory) = instance.get_memory(&mut *store, "memory") {
                    touch(&mut store, memory, touch_bytes_max);
                }
                // What a start function printed is no answer.
                drop(store.data().answer.take());
                Ok(Self::Command(store, start))
            }
        }
    }

    /// What the guest writes, in the call that runs or ran last.
    pub(super) fn log(&self) -> &CallLog {
        match self {
            Self::Component(store, _) => &store.data().log,
            Self::Command(store, _) => &store.data().log,
        }
    }

    /// All memory that the guest holds, in bytes: see `memory`.
    pub(super) fn memory_bytes(&self) -> u64 {
        match self {
            Self::Component(store, _) => store.data().memory.bytes(),
            Self::Command(store, _) => store.data().memory.bytes(),
        }
    }

    /// Runs one call until it answers, fails, or `deadline` has passed.
    pub(super) async fn call(
        &mut self,
        (invocation, headers): (&Invocation, &Headers),
        attempt: u32,
        cancelled: &Cancelled,
        deadline: Instant,
        payload_out_bytes_max: u64,
    ) -> Ended {
        match self {
            Self::Component(store, guest) => {
                begin(store, cancelled, deadline);
                store.data_mut().announcer.begin(invocation);
                let attributes = attributes(&invocation.attributes, headers);
                let call = GuestInvocation {
                    id: &invocation.id,
                    function: invocation.function.as_str(),
                    tenant: invocation.tenant.as_deref(),
                    content_type: invocation.content_type.as_deref(),
                    payload: &invocation.payload.0,
                    deadline_ms: invocation.deadline.map(|deadline| deadline.as_millis()),
                    attempt,
                    attributes: &attributes,
                };
                let ended = before(deadline, pin!(guest.call_handle(&mut **store, call))).await;
                match ended {
                    Ok(Ok(bytes)) if bytes.len() as u64 > payload_out_bytes_max => {
                        let message = format!(
                            "the answer has {} bytes, payload_out_bytes allows {payload_out_bytes_max}",
                            bytes.len()
                        );
                        Ended { answer: Err(Fault::new(Status::Limit, "payload_out", message)), usable: false }
                    }
                    Ok(Ok(bytes)) => Ended { answer: Ok(Payload(bytes)), usable: true },
                    Ok(Err(error)) => {
                        let fault = Fault::new(Status::FunctionError, &error.code, error.message);
                        Ended { answer: Err(fault), usable: true }
                    }
                    Err(error) => Ended { answer: Err(judge(&error, store)), usable: false },
                }
            }
            Self::Command(store, start) => {
                begin(store, cancelled, deadline);
                store.data().stdin.set(Bytes::copy_from_slice(&invocation.payload.0));
                let ended = before(deadline, pin!(start.call_async(&mut **store, ()))).await;
                let exited_well = |error: &wasmtime::Error| {
                    error.downcast_ref::<wasmtime_wasi::I32Exit>().is_some_and(|exit| exit.0 == 0)
                };
                let answer = match ended {
                    Err(error) if !exited_well(&error) => Err(judge(&error, store)),
                    _ => Ok(Payload(store.data().answer.take().into())),
                };
                Ended { answer, usable: false }
            }
        }
    }
}

/// Makes a store ready for a call. Nothing is there of the call before, or of `init`: both were taken as they ended, and a
/// guest cannot write in between.
fn begin<W: 'static>(store: &mut Store<Host<W>>, cancelled: &Cancelled, deadline: Instant) {
    let host = store.data_mut();
    host.deadline = deadline;
    host.grace = None;
    host.cancelled.clone_from(cancelled);
    host.memory.call_begins();
    host.log.clear();
    store.set_epoch_deadline(1);
}

/// Judges a guest's end; what it printed is in the fault.
fn judge<W>(error: &wasmtime::Error, store: &Store<Host<W>>) -> Fault {
    let host = store.data();
    let circumstances = Circumstances {
        memory_refused: host.memory.refused(),
        handed_bytes_max: host.handed_bytes_max,
        answer_bytes_max: host.answer_bytes_max,
        log: host.log.text(),
    };
    Fault::judge(error, &circumstances)
}

/// Writes back one byte of every page, so that the guest's first call does not meet the kernel.
///
/// Commands only: the memory of a component cannot be reached from outside; there `init` has run, and the pool keeps
/// the pages of a slot resident.
fn touch(store: &mut Store<Host<WasiP1Ctx>>, memory: Memory, bytes_max: u64) {
    let bytes = memory.data_mut(store);
    let end = bytes.len().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
    for page in bytes[..end].chunks_mut(PAGE_BYTES) {
        let first = page[0];
        page[0] = std::hint::black_box(first);
    }
}

/// Runs `future` until `deadline`. The timer is made only when the future has to wait: a call that answers in its first
/// poll pays nothing for it. A guest that computes is ended by its epoch; this ends one that waits in the host.
fn before<'a, T, F>(deadline: Instant, future: Pin<&'a mut F>) -> Before<'a, F>
where
    F: Future<Output = wasmtime::Result<T>>,
{
    Before { future, deadline, grace: None, timer: None }
}

struct Before<'a, F> {
    future: Pin<&'a mut F>,
    deadline: Instant,
    grace: Option<&'a Grace>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a, F> Before<'a, F> {
    /// Until `deadline` and what `grace` adds to it.
    fn with(self, grace: &'a Grace) -> Self {
        Self { grace: Some(grace), ..self }
    }
}

impl<T, F: Future<Output = wasmtime::Result<T>>> Future for Before<'_, F> {
    type Output = wasmtime::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(ended) = self.future.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        let until = self.grace.map_or(self.deadline, |grace| grace.after(self.deadline)).into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context).map(|()| Err(TimedOut.into()))
    }
}
