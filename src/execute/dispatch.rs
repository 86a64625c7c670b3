//! From a call to its outcome: the data plane's part of the executor.
//!
//! Must not: wait for the control plane, or decide how many instances to hold.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::function::{Call, Function, Pending, Phase, Ready, Start};
use super::instance::Ended;
use super::logs::{at_the_end, of_call, overheard};
use super::shelf::{Offered, Submitted};
use super::{Executor, Node, Outcomes, wall_clock};
use crate::types::{
    FunctionDefinition, FunctionName, InvocationError, InvocationResult, LogBatch, Payload, StartKind, Status,
    Timestamp, WarmReason,
};

/// The code of the outcome of a call that waited in vain for its function to become able to run, which may be tried again.
pub const UNAVAILABLE: &str = "unavailable";

/// What is told of the start and the run, apart from the answer.
#[derive(Default)]
struct Ran {
    version: Option<String>,
    start_kind: Option<StartKind>,
    warm_reason: Option<WarmReason>,
    queued: Duration,
    prepare: Duration,
    execute: Duration,
}

/// A call that ran and is not answered yet.
struct Served<T> {
    pending: Pending<T>,
    answer: Result<Payload, Fault>,
    ran: Ran,
    /// What it wrote and was not said yet.
    wrote: Option<LogBatch>,
    /// Whether the instance may serve another call.
    keep: bool,
}

impl<O: Outcomes> Executor<O> {
    /// Takes a call. Its outcome comes through [`Outcomes::completed`], perhaps before this returns.
    ///
    /// # Errors
    /// Gives the call back where no such function is registered.
    pub fn submit(&self, call: Call<O::Ticket>) -> Result<(), Box<Call<O::Ticket>>> {
        let node = &self.0;
        let Some(function) = node.find(call.invocation.function.as_str()) else {
            return Err(Box::new(call));
        };
        node.dispatch(function, call);
        Ok(())
    }

    /// Answers a call without running it.
    pub fn reject(&self, call: Call<O::Ticket>, code: &str, message: String) {
        self.0.reject(Pending { call, dispatched_at: Instant::now() }, code, message);
    }
}

impl<O: Outcomes> Node<O> {
    fn dispatch(self: &Arc<Self>, function: Arc<Function<O::Ticket>>, call: Call<O::Ticket>) {
        let pending = Pending { call, dispatched_at: Instant::now() };
        if !may_begin(&pending, wall_clock) {
            return self.not_begun(pending);
        }
        let mut state = function.state();
        let no_more = state.wait_no_more(self.config.unavailable_after);
        match &state.phase {
            Phase::Running if no_more.is_none_or(|(tried, _)| tried == 0) => {}
            Phase::Loading if no_more.is_none() => return state.shelf.wait(pending),
            Phase::Running | Phase::Loading => {
                let message = no_more.map_or_else(String::new, |(_, why)| self.unavailable(&function.name, why));
                drop(state);
                return self.reject(pending, UNAVAILABLE, message);
            }
            Phase::Disabled => {
                drop(state);
                return self.reject(pending, "disabled", format!("function {} is disabled", function.name));
            }
            Phase::Refused(reason) => {
                let message = format!("function {} cannot run: {reason}", function.name);
                drop(state);
                return self.reject(pending, "refused", message);
            }
        }
        if let Some(version) = &state.version
            && let Err(message) = payload_fits(&version.definition, pending.call.invocation.payload.0.len())
        {
            drop(state);
            return self.reject(pending, "payload_in", message);
        }
        let submitted = state.shelf.submit(pending);
        drop(state);
        match submitted {
            Submitted::Run(ready, pending) => self.run(function, ready, pending),
            Submitted::Waits => self.seek_for_call(&function),
        }
    }

    /// Runs a call on the calling thread where it will be short, else on a guest thread.
    fn run(self: &Arc<Self>, function: Arc<Function<O::Ticket>>, ready: Box<Ready>, pending: Pending<O::Ticket>) {
        let quick = function.is_quick(self.config.inline_max);
        let mut serving = Box::pin(Arc::clone(self).serve(function, ready, pending));
        if quick {
            // One poll is a whole short call. What has to wait, or outlives its epoch, goes on elsewhere: being polled
            // again by its new task, it registers its real waker then.
            let _timers = self.handle.enter();
            if serving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return;
            }
        }
        self.handle.spawn(serving);
    }

    /// Serves calls in one instance until none waits for it.
    pub(super) async fn serve(
        self: Arc<Self>,
        function: Arc<Function<O::Ticket>>,
        mut ready: Box<Ready>,
        mut pending: Pending<O::Ticket>,
    ) {
        loop {
            // The instance goes back before the outcome goes out: who calls again on seeing the outcome finds it there.
            let next = if !may_begin(&pending, wall_clock) {
                let next = self.after(&function, ready, true);
                self.not_begun(pending);
                next
            } else {
                let ended = self.serve_one(&function, &mut ready, pending).await;
                let next = self.after(&function, ready, ended.keep);
                self.complete(ended.pending, ended.answer, ended.ran);
                // Behind the outcome, which nothing of this keeps waiting.
                if let Some(wrote) = ended.wrote {
                    self.write_out(&function, wrote);
                }
                next
            };
            match next {
                Some(next) => (ready, pending) = next,
                None => return,
            }
            // The thread that received the first call must go on receiving.
            tokio::task::yield_now().await;
        }
    }

    /// Runs one call.
    async fn serve_one(
        &self,
        function: &Function<O::Ticket>,
        ready: &mut Ready,
        pending: Pending<O::Ticket>,
    ) -> Served<O::Ticket> {
        let taken_at = Instant::now();
        let start = Start::of(&pending, ready, taken_at);
        let version = Arc::clone(&ready.version);
        let limits = &version.definition.limits;
        let limit = Duration::from_millis(limits.timeout_ms);
        let Call { invocation, headers, attempt, cancelled, .. } = &pending.call;
        let left = invocation.deadline.map_or(limit, |deadline| deadline.since(wall_clock()));
        let until = taken_at + left.min(limit);
        let log = ready.instance.log().clone();
        let say = |lines| self.write_out(function, of_call(&version.definition, invocation, *attempt, lines));
        let call = ready.instance.call((invocation, headers), *attempt, cancelled, until, limits.payload_out_bytes);
        let mut ended = tokio::select! {
            biased;
            ended = overheard(call, &log, say) => ended,
            // A guest that computes comes by here at each epoch; one that waits in the host is woken.
            gone = version.ending.ended() => {
                let (name, grace, code) = (&function.name, self.config.removal_grace, gone.code());
                let message = format!(
                    "function {name} was {code}, and this call did not end within {grace:?} after that (execute.removal-grace)"
                );
                Ended { answer: Err(Fault::new(Status::Timeout, code, message)), usable: false }
            }
        };
        let was_ended = version.ending.has_ended();
        if let Err(fault) = &mut ended.answer
            && left < limit
            && !was_ended
        {
            fault.was_the_deadline();
        }
        let execute = taken_at.elapsed();
        let fault = ended.answer.as_ref().err().filter(|_| !cancelled.is_set());
        let wrote = at_the_end(&version, (invocation, *attempt), &log, fault);
        function.executed(execute);
        ready.uses = ready.uses.saturating_add(1);
        let there_before = matches!(start.kind, StartKind::Warm | StartKind::Prewarmed);
        let ran = Ran {
            version: Some(version.definition.version.clone()),
            start_kind: Some(start.kind),
            warm_reason: there_before.then(|| ready.reason.clone()),
            queued: start.queued,
            prepare: start.prepare,
            execute,
        };
        let bytes = ready.instance.memory_bytes();
        ready.slot.resize(bytes);
        if bytes != function.instance_bytes() {
            function.set_instance_bytes(bytes);
        }
        let reusable = version.definition.reuses_instances() && ready.uses < version.definition.warm.max_invocations;
        Served { pending, answer: ended.answer, ran, wrote, keep: ended.usable && reusable }
    }

    /// Puts the instance back or retires it, and finds the next call to serve.
    fn after(
        self: &Arc<Self>,
        function: &Arc<Function<O::Ticket>>,
        mut ready: Box<Ready>,
        keep: bool,
    ) -> Option<(Box<Ready>, Pending<O::Ticket>)> {
        ready.shelved_at = Instant::now();
        let mut state = function.state();
        if keep && state.runs(&ready.version) {
            return match state.shelf.freed(ready) {
                Offered::Run(ready, pending) => Some((ready, pending)),
                Offered::Shelved => {
                    self.slots.changed();
                    None
                }
            };
        }
        state.shelf.lost();
        let next = state.shelf.pair();
        drop(state);
        self.retire_used(function, ready);
        self.replenish(function);
        next
    }

    /// Takes every waiting call out that may not begin any more.
    pub(super) fn abandon_expired(&self, function: &Function<O::Ticket>, now: Timestamp) {
        let expired = function.state().shelf.abandon_if(|pending| !may_begin(pending, || now));
        for pending in expired {
            self.not_begun(pending);
        }
        self.abandon_unavailable(function);
    }

    /// Answers calls that have waited long enough for a function that cannot run.
    fn abandon_unavailable(&self, function: &Function<O::Ticket>) {
        let after = self.config.unavailable_after;
        let (abandoned, message) = {
            let mut state = function.state();
            let Some(message) = state.why_not().map(|why| self.unavailable(&function.name, why)) else { return };
            let too_many = state.wait_no_more(after).map(|(tried, _)| tried..state.shelf.usage(0).waiting);
            let mut abandoned = state.shelf.abandon_if(|pending| pending.dispatched_at.elapsed() >= after);
            // Those that have waited longest.
            let too_many = too_many.into_iter().flatten().skip(abandoned.len());
            abandoned.extend(too_many.map_while(|_| state.shelf.abandon()));
            (abandoned, message)
        };
        for pending in abandoned {
            self.reject(pending, UNAVAILABLE, message.clone());
        }
    }

    fn unavailable(&self, function: &FunctionName, why: &str) -> String {
        let after = self.config.unavailable_after;
        format!("function {function} could not run for {after:?} or longer (execute.unavailable-after): {why}")
    }

    /// A call that may not begin goes back where its partition is on its way to another node, and is answered otherwise.
    fn not_begun(&self, pending: Pending<O::Ticket>) {
        if pending.call.cancelled.may_begin() {
            self.reject(pending, "deadline", "its deadline had passed before it could run".to_owned());
        } else {
            self.outcomes.given_back(pending.call);
        }
    }

    /// Answers a call that was not run.
    pub(super) fn reject(&self, pending: Pending<O::Ticket>, code: &str, message: String) {
        self.fail(pending, Fault::new(Status::Rejected, code, message), None);
    }

    /// Answers a call for which no instance could be made.
    pub(super) fn fail(&self, pending: Pending<O::Ticket>, fault: Fault, version: Option<String>) {
        let queued = pending.call.received_at.elapsed();
        self.complete(pending, Err(fault), Ran { version, queued, ..Ran::default() });
    }

    fn complete(&self, pending: Pending<O::Ticket>, answer: Result<Payload, Fault>, ran: Ran) {
        let mut call = pending.call;
        let (status, payload, error): (_, _, Option<InvocationError>) = match answer {
            Ok(payload) => (Status::Ok, Some(payload), None),
            Err(fault) => (fault.status, None, Some(fault.error)),
        };
        let result = InvocationResult {
            invocation_id: std::mem::take(&mut call.invocation.id),
            function: call.invocation.function.clone(),
            function_version: ran.version,
            status,
            payload,
            error,
            start_kind: ran.start_kind,
            warm_reason: ran.warm_reason,
            queued_us: micros(ran.queued),
            prepare_us: micros(ran.prepare),
            execute_us: micros(ran.execute),
            attempt: call.attempt,
            node: self.id.clone(),
            completed_at: wall_clock(),
        };
        self.outcomes.completed(call, result);
    }
}

/// Whether its partition is still here, and its deadline to come. The clock is asked only where there is a deadline.
fn may_begin<T>(pending: &Pending<T>, now: impl FnOnce() -> Timestamp) -> bool {
    let Call { cancelled, invocation, .. } = &pending.call;
    cancelled.may_begin() && invocation.deadline.is_none_or(|deadline| deadline > now())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn payload_fits(definition: &FunctionDefinition, bytes: usize) -> Result<(), String> {
    let limit = definition.limits.payload_in_bytes;
    if bytes as u64 <= limit {
        return Ok(());
    }
    Err(format!(
        "the payload has {bytes} bytes, limits.payload_in_bytes of function {} allows {limit}",
        definition.name
    ))
}
