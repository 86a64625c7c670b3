//! Brings out what guests write: at a rate by function, to whoever keeps it, and to the node's own log.
//!
//! In the node's own log a guest's lines are DEBUG lines of the target `function`, so that they flood nobody who did not ask for them;
//! that a call ended badly is a WARN line there. Must not: know where lines go, or wait for whoever takes them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::function::{Function, Version};
use super::log_rate::LogRate;
use super::stdio::CallLog;
use super::{Node, Outcomes, wall_clock};
use crate::config::FunctionLogs;
use crate::types::{FunctionDefinition, Invocation, LeftOut, LogBatch, LogLine, LogStream, Status};

/// Lines of a call that runs on come out when the oldest of them is so old, the next time that the guest yields.
const EARLY: Duration = Duration::from_secs(1);

/// Takes lines. Called on the guest's thread: it must not block.
pub type Tell = Arc<dyn Fn(LogBatch) + Send + Sync>;

/// Where what guests write goes, and how much of it.
#[derive(Clone)]
pub struct Logs {
    /// How much.
    pub bounds: FunctionLogs,
    /// Where to.
    pub tell: Tell,
}

impl Default for Logs {
    /// Within the usual bounds, to the node's own log alone.
    fn default() -> Self {
        Self { bounds: FunctionLogs::default(), tell: Arc::new(|_| {}) }
    }
}

/// Runs a call to its end, and says what it wrote for as long as it runs.
pub(super) async fn overheard<T>(call: impl Future<Output = T>, log: &CallLog, mut say: impl FnMut(Vec<LogLine>)) -> T {
    let mut call = pin!(call);
    poll_fn(|context| {
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            let lines = log.take_early(EARLY);
            if !lines.is_empty() {
                say(lines);
            }
        }
        polled
    })
    .await
}

/// Lines of one call.
pub(super) fn of_call(
    definition: &Arc<FunctionDefinition>,
    invocation: &Invocation,
    attempt: u32,
    lines: Vec<LogLine>,
) -> LogBatch {
    LogBatch { definition: Arc::clone(definition), invocation_id: Some(invocation.id.clone()), attempt, lines }
}

/// What a call that ran has written and was not said yet, with a line about its end where that was bad; `None` where there is nothing.
/// A call that nobody wants any more did not end badly: it was ended.
pub(super) fn at_the_end(
    version: &Version,
    (invocation, attempt): (&Invocation, u32),
    log: &CallLog,
    fault: Option<&Fault>,
) -> Option<LogBatch> {
    let mut lines = log.take_lines();
    // An error of the function's own is its answer.
    if let Some(fault) = fault.filter(|fault| matches!(fault.status, Status::Trap | Status::Timeout | Status::Limit)) {
        let (status, code) = (fault.status.as_str(), fault.error.code.as_deref().unwrap_or_default());
        tracing::warn!(
            target: "function", function = %invocation.function, version = version.definition.version,
            invocation = invocation.id, attempt, status, code, error = fault.error.message, "a call ended badly"
        );
        lines.push(about(&format!("the call ended with {status} ({code}): {}", fault.cause())));
    }
    (!lines.is_empty()).then(|| of_call(&version.definition, invocation, attempt, lines))
}

fn about(text: &str) -> LogLine {
    let (written_at, left_out) = (wall_clock(), LeftOut::default());
    LogLine { stream: LogStream::Node, written_at, text: text.to_owned(), left_out }
}

impl<O: Outcomes> Node<O> {
    /// What an instance wrote as it began, and why it could not begin.
    pub(super) fn prepared_wrote(
        &self,
        function: &Function<O::Ticket>,
        version: &Version,
        log: &CallLog,
        fault: Option<&Fault>,
    ) {
        let mut lines = log.take_lines();
        // Where the node has no room for it, that is not the function's.
        if let Some(fault) = fault.filter(|fault| !fault.is_full_pool() && fault.needs_bytes.is_none()) {
            lines.push(about(&format!("an instance could not be prepared: {}", fault.cause())));
        }
        let definition = Arc::clone(&version.definition);
        self.write_out(function, LogBatch { definition, invocation_id: None, attempt: 0, lines });
    }

    /// Says lines of a function, as many of them as may go now.
    pub(super) fn write_out(&self, function: &Function<O::Ticket>, mut batch: LogBatch) {
        if batch.lines.is_empty() {
            return;
        }
        let (now, all) = (Instant::now(), batch.lines.len());
        let of_the_call: u64 = batch.lines.iter().map(|line| line.left_out.lines).sum();
        let told = {
            let mut rate = self.rate(function, now);
            rate.admit(&mut batch.lines, now);
            rate.tell(now)
        };
        self.metrics.function_log_lines.add(batch.lines.len() as u64);
        self.metrics.function_logs_left_out.add(of_the_call + (all - batch.lines.len()) as u64);
        let definition = Arc::clone(&batch.definition);
        if !batch.lines.is_empty() {
            self.say(batch);
        }
        self.say_left_out(definition, told);
    }

    /// Says what lines of a function were left out, where that is due although it writes nothing more.
    pub(super) fn write_what_is_owed(&self, function: &Function<O::Ticket>) {
        let Some(rate) = function.logs.get() else { return };
        let told = rate.lock().unwrap_or_else(PoisonError::into_inner).tell(Instant::now());
        if told.is_some()
            && let Some(version) = function.state().version.clone()
        {
            self.say_left_out(Arc::clone(&version.definition), told);
        }
    }

    fn rate<'a>(&self, function: &'a Function<O::Ticket>, now: Instant) -> MutexGuard<'a, LogRate> {
        let rate = function.logs.get_or_init(|| LogRate::new(&self.logs.bounds, now).into());
        rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_left_out(&self, definition: Arc<FunctionDefinition>, left_out: Option<LeftOut>) {
        let Some(left_out) = left_out else { return };
        let FunctionLogs { lines_per_second, bytes_per_second, .. } = self.logs.bounds;
        let why = format!(
            "the function wrote more than function-logs.lines-per-second = {lines_per_second} and bytes-per-second = \
             {bytes_per_second} allow"
        );
        let lines = vec![LogLine::about(left_out, &why, wall_clock())];
        self.say(LogBatch { definition, invocation_id: None, attempt: 0, lines });
    }

    fn say(&self, batch: LogBatch) {
        if tracing::enabled!(target: "function", tracing::Level::DEBUG) {
            let LogBatch { definition, invocation_id, attempt, lines } = &batch;
            for LogLine { stream, text, .. } in lines {
                tracing::debug!(
                    target: "function", function = %definition.name, version = definition.version,
                    invocation = invocation_id, attempt, stream = stream.as_str(), "{text}"
                );
            }
        }
        (self.logs.tell)(batch);
    }
}
