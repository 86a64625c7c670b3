//! Turns what Wasmtime reports of a guest's end into an outcome's status and error.
//!
//! A guest's failure is data: nothing here is an error of ours.

use std::fmt::Write;
use std::str::Utf8Error;
use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::host::{RANDOM_BYTES_MAX, TimedOut};
use super::memory::NodeMemory;
use super::stdio::AnswerTooLarge;
use crate::types::{InvocationError, Status};

/// Longest text of one field of an error, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Longest of that for a cause: what the guest printed stands behind it and has room.
const CAUSE_BYTES_MAX: usize = 768;
/// Longest code of an error, in bytes.
const CODE_BYTES_MAX: usize = 128;

/// The code of a fault that says that Wasmtime's pool was full.
const FULL_POOL: &str = "pool";

/// Stands between the cause of an end and what the guest printed.
const PRINTED: &str = "; printed: ";

const PAST_LIMIT: &str = "the call ran past its time limit";

/// Wasmtime's own words where more was handed over than it may be; their type is not public.
const HANDED_TOO_MUCH: &str = "too much data is being copied between the host and the guest";
/// WASI's own words for more random bytes than it gives at once.
const RANDOM_TOO_MUCH: &str = "requested len ";

/// How a guest ended that did not answer.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) status: Status,
    pub(super) error: InvocationError,
    /// Where it ended only because others hold the node's memory at present: the bytes that the instance needed.
    pub(super) needs_bytes: Option<u64>,
}

/// What is known of a guest's end beside Wasmtime's error.
#[derive(Default)]
pub(super) struct Circumstances {
    /// The function's memory limit, where it refused the guest memory and the guest got none since.
    pub(super) memory_refused: Option<u64>,
    /// Most bytes that the guest may hand to the host at once.
    pub(super) handed_bytes_max: u64,
    /// `limits.payload_out_bytes`.
    pub(super) answer_bytes_max: u64,
    /// What the call printed.
    pub(super) log: Option<String>,
}

impl Fault {
    /// A fault without a backtrace.
    pub(super) fn new(status: Status, code: &str, message: impl Into<String>) -> Self {
        let message = cut(message.into());
        let code = Some(cut_at(code.to_owned(), CODE_BYTES_MAX));
        Self { status, error: InvocationError { message, code, backtrace: None }, needs_bytes: None }
    }

    /// Judges `error`.
    pub(super) fn judge(error: &wasmtime::Error, circumstances: &Circumstances) -> Self {
        let mut fault = Self::classify(error, circumstances);
        fault.error.message = cut_at(std::mem::take(&mut fault.error.message), CAUSE_BYTES_MAX);
        fault.printed(circumstances.log.as_deref());
        fault.error.backtrace = error.downcast_ref::<WasmBacktrace>().and_then(backtrace);
        fault
    }

    /// Adds what the guest printed.
    pub(super) fn printed(&mut self, log: Option<&str>) {
        if let Some(log) = log {
            let _ = write!(self.error.message, "{PRINTED}{log}");
            self.error.message = cut(std::mem::take(&mut self.error.message));
        }
    }

    /// Why it ended, without what the guest printed.
    pub(super) fn cause(&self) -> &str {
        self.error.message.split(PRINTED).next().unwrap_or_default()
    }

    /// The time limit that a guest ran past was its call's deadline.
    pub(super) fn was_the_deadline(&mut self) {
        if self.status == Status::Timeout {
            self.error.code = Some("deadline".to_owned());
            self.error.message = self.error.message.replacen(PAST_LIMIT, "the call ran past its deadline", 1);
        }
    }

    /// Whether the pool had no room for the guest: that is not the guest's fault, and passes.
    pub(super) fn is_full_pool(&self) -> bool {
        self.status == Status::Limit && self.error.code.as_deref() == Some(FULL_POOL)
    }

    /// The guest ended before its first call: in `init`, or while it was instantiated. The code says so, except where the
    /// node had no memory or no room for it, which is not the guest's doing.
    pub(super) fn in_init(mut self, timeout: Duration) -> Self {
        if self.error.code.as_deref() == Some(NODE_MEMORY) || self.is_full_pool() {
            return self;
        }
        let code = match self.status {
            Status::Timeout => "init_timeout".to_owned(),
            Status::Trap => "init_trap".to_owned(),
            _ => format!("init_{}", self.error.code.as_deref().unwrap_or_default()),
        };
        let message = match self.status {
            Status::Timeout => self.error.message.replacen(PAST_LIMIT, &past_init_timeout(timeout), 1),
            _ => format!("init failed: {}", self.error.message),
        };
        self.error.code = Some(code);
        self.error.message = cut(message);
        self
    }

    fn classify(error: &wasmtime::Error, circumstances: &Circumstances) -> Self {
        if let Some(full) = error.downcast_ref::<PoolConcurrencyLimitError>() {
            return Self::new(Status::Limit, FULL_POOL, full.to_string());
        }
        if error.is::<TimedOut>() {
            return Self::new(Status::Timeout, "timeout", PAST_LIMIT);
        }
        if let Some(answer) = error.downcast_ref::<AnswerTooLarge>() {
            return Self::new(Status::Limit, "payload_out", answer.to_string());
        }
        if let Some(memory) = error.downcast_ref::<NodeMemory>() {
            let fault =
                Self::new(Status::Limit, NODE_MEMORY, format!("the node has no memory for the guest: {memory}"));
            return Self { needs_bytes: memory.needs_bytes(), ..fault };
        }
        if error.is::<ResourceTableError>() {
            return Self::new(
                Status::Limit,
                "resources",
                format!("the guest holds too many host resources: {}", root(error)),
            );
        }
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            let message = format!("the guest exited with code {code}{}", also_refused(circumstances));
            return Self::new(Status::FunctionError, &format!("exit_{code}"), message);
        }
        match error.downcast_ref::<Trap>() {
            Some(trap) => Self::trapped(*trap, circumstances),
            None => Self::by_the_host(error, circumstances),
        }
    }

    /// A guest that gets no memory aborts, or writes to where it would be: then the end follows from the refusal. Any other
    /// trap keeps its name.
    fn trapped(trap: Trap, circumstances: &Circumstances) -> Self {
        match (trap, circumstances.memory_refused) {
            (Trap::UnreachableCodeReached | Trap::MemoryOutOfBounds, Some(limit_bytes)) => Self::new(
                Status::Limit,
                "memory",
                format!("the guest needed more memory than its limit of {limit_bytes} bytes: {trap}"),
            ),
            _ => {
                let message = format!("the guest trapped: {trap}{}", also_refused(circumstances));
                Self::new(Status::Trap, &format!("{trap:?}"), message)
            }
        }
    }

    fn by_the_host(error: &wasmtime::Error, circumstances: &Circumstances) -> Self {
        let cause = root(error);
        if let Some(limit_bytes) = circumstances.memory_refused {
            // The guest was not instantiated: its memory begins above the limit.
            let message = format!("the guest needed more memory than its limit of {limit_bytes} bytes: {cause}");
            return Self::new(Status::Limit, "memory", message);
        }
        if cause.starts_with(HANDED_TOO_MUCH) {
            let Circumstances { handed_bytes_max, answer_bytes_max, .. } = circumstances;
            // An answer is read when the guest's code has ended, so that none of it is in the backtrace.
            return if error.is::<WasmBacktrace>() {
                let message =
                    format!("the guest handed more than {handed_bytes_max} bytes to one host function at once");
                Self::new(Status::Limit, "hostcall_bytes", message)
            } else {
                let message = format!(
                    "the answer (or its error) has more than {handed_bytes_max} bytes, payload_out_bytes allows {answer_bytes_max}"
                );
                Self::new(Status::Limit, "payload_out", message)
            };
        }
        if cause.starts_with(RANDOM_TOO_MUCH) {
            let message = format!("the guest asked for more than {RANDOM_BYTES_MAX} random bytes at once");
            return Self::new(Status::Limit, "random", message);
        }
        if error.is::<Utf8Error>() {
            let message = format!("the guest handed over a text that is not UTF-8: {cause}");
            return Self::new(Status::Trap, "invalid_utf8", message);
        }
        Self::new(Status::Trap, "host_error", format!("the guest was ended by a host function: {cause}"))
    }
}

fn past_init_timeout(timeout: Duration) -> String {
    format!("init ran past execute.init-timeout ({})", humantime::format_duration(timeout))
}

/// The code of an end for which the node's memory is the reason.
pub(super) const NODE_MEMORY: &str = "node_memory";

fn also_refused(circumstances: &Circumstances) -> String {
    let say = |limit_bytes| format!(" (it had been refused memory past its limit of {limit_bytes} bytes)");
    circumstances.memory_refused.map(say).unwrap_or_default()
}

/// The innermost cause: the layers above it repeat the backtrace.
fn root(error: &wasmtime::Error) -> String {
    error.chain().last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn backtrace(trace: &WasmBacktrace) -> Option<String> {
    let mut text = String::new();
    for (depth, frame) in trace.frames().iter().enumerate() {
        let _ = match frame.func_name() {
            Some(name) => writeln!(text, "{depth}: {:#}", rustc_demangle::demangle(name)),
            None => writeln!(text, "{depth}: <wasm function {}>", frame.func_index()),
        };
    }
    let text = cut(text.trim_end().to_owned());
    (!text.is_empty()).then_some(text)
}

/// Cuts a text at [`TEXT_BYTES_MAX`] and says so.
pub(super) fn cut(text: String) -> String {
    cut_at(text, TEXT_BYTES_MAX)
}

fn cut_at(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(error: impl Into<wasmtime::Error>, memory_refused: Option<u64>) -> (Status, String, String) {
        let circumstances =
            Circumstances { memory_refused, handed_bytes_max: 1_000, answer_bytes_max: 10, ..Circumstances::default() };
        let Fault { status, error, .. } = Fault::judge(&error.into(), &circumstances);
        (status, error.code.unwrap(), error.message)
    }

    #[test]
    fn each_cause_has_its_status_and_code() {
        let not_text = String::from_utf8(vec![b'a', 0xff]).unwrap_err().utf8_error();
        let handed = || wasmtime::Error::msg(format!("{HANDED_TOO_MUCH}: fuel"));
        let random =
            wasmtime::Error::msg("requested len 9 exceeds limit 8").context("failed to call `get-random-bytes`");
        let cases: [(wasmtime::Error, Status, &str); 9] = [
            (TimedOut.into(), Status::Timeout, "timeout"),
            (Trap::UnreachableCodeReached.into(), Status::Trap, "UnreachableCodeReached"),
            (I32Exit(3).into(), Status::FunctionError, "exit_3"),
            (I32Exit(255).into(), Status::FunctionError, "exit_255"),
            (ResourceTableError::Full.into(), Status::Limit, "resources"),
            (NodeMemory::UsedUp { asked_bytes: 1, bytes: 2 }.into(), Status::Limit, "node_memory"),
            (not_text.into(), Status::Trap, "invalid_utf8"),
            (handed(), Status::Limit, "payload_out"),
            (random, Status::Limit, "random"),
        ];
        for (error, status, code) in cases {
            let said = judged(error, None);
            assert_eq!((said.0, said.1.as_str()), (status, code), "{said:?}");
        }
    }

    #[test]
    fn refused_memory_is_the_reason_only_of_what_follows_from_it() {
        let follows = |error: wasmtime::Error| judged(error, Some(65_536));
        for trap in [Trap::UnreachableCodeReached, Trap::MemoryOutOfBounds] {
            let (status, code, message) = follows(trap.into());
            assert_eq!((status, code.as_str()), (Status::Limit, "memory"));
            assert!(message.contains("limit of 65536 bytes"), "{message}");
        }
        let (status, code, message) = follows(Trap::IntegerDivisionByZero.into());
        assert_eq!((status, code.as_str()), (Status::Trap, "IntegerDivisionByZero"));
        assert_eq!(
            message,
            "the guest trapped: wasm trap: integer divide by zero (it had been refused memory past its limit of 65536 bytes)"
        );
        assert_eq!(follows(I32Exit(1).into()).1, "exit_1");
        assert_eq!(follows(ResourceTableError::Full.into()).1, "resources");
    }

    #[test]
    fn the_end_of_init_says_so_with_its_own_limit() {
        let limit = Duration::from_secs(10);
        let end = |error: wasmtime::Error| {
            let Fault { status, error, .. } = Fault::judge(&error, &Circumstances::default()).in_init(limit);
            (status, error.code.unwrap(), error.message)
        };
        let timeout =
            (Status::Timeout, "init_timeout".to_owned(), "init ran past execute.init-timeout (10s)".to_owned());
        assert_eq!(end(TimedOut.into()), timeout);
        let (status, code, message) = end(Trap::UnreachableCodeReached.into());
        assert_eq!((status, code.as_str()), (Status::Trap, "init_trap"));
        assert!(message.starts_with("init failed: the guest trapped: "), "{message}");
        assert_eq!(end(I32Exit(3).into()).1, "init_exit_3");
        assert_eq!(end(NodeMemory::UsedUp { asked_bytes: 1, bytes: 2 }.into()).1, "node_memory");
        let never = NodeMemory::Never { bytes: 2, budget_bytes: 1 };
        let needs = |memory: NodeMemory| Fault::judge(&memory.into(), &Circumstances::default()).needs_bytes;
        assert_eq!((needs(NodeMemory::UsedUp { asked_bytes: 1, bytes: 2 }), needs(never)), (Some(2), None));
    }

    #[test]
    fn what_was_printed_stands_behind_the_cause_and_keeps_its_end() {
        let printed = |log: &str| {
            let circumstances = Circumstances { log: Some(log.to_owned()), ..Circumstances::default() };
            Fault::judge(&I32Exit(3).into(), &circumstances).error.message
        };
        assert_eq!(printed("no such word"), "the guest exited with code 3; printed: no such word");
        assert!(printed(&format!("{} the end", "x".repeat(3_100))).ends_with("x the end"));
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = cut("é".repeat(TEXT_BYTES_MAX));
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8());
        assert!(text.ends_with("é…"));
        let code = Fault::new(Status::FunctionError, &"c".repeat(1_000), "").error.code.unwrap();
        assert_eq!(code.len(), CODE_BYTES_MAX + '…'.len_utf8());
    }
}
