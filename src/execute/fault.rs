//! Turns what Wasmtime reports of a guest's end into an outcome's status and error.
//!
//! A guest's failure is data: nothing here is an error of ours.

use std::fmt::Write;

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::host::TimedOut;
use super::stdio::AnswerTooLarge;
use crate::types::{InvocationError, Status};

/// Longest text of one field of an error, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// The code of a fault that says that Wasmtime's pool was full.
const FULL_POOL: &str = "pool";

const PAST_LIMIT: &str = "the call ran past its time limit";

/// How a guest ended that did not answer.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) status: Status,
    pub(super) error: InvocationError,
}

impl Fault {
    /// A fault without a backtrace.
    pub(super) fn new(status: Status, code: &str, message: impl Into<String>) -> Self {
        let message = cut(message.into());
        Self { status, error: InvocationError { message, code: Some(code.to_owned()), backtrace: None } }
    }

    /// Judges `error`. `memory_refused` holds the memory limit where the guest was refused memory during the call, `log`
    /// what it wrote to stderr.
    pub(super) fn judge(error: &wasmtime::Error, memory_refused: Option<u64>, log: &str) -> Self {
        let mut fault = Self::classify(error, memory_refused);
        if !log.is_empty() {
            let _ = write!(fault.error.message, "; stderr: {log}");
            fault.error.message = cut(std::mem::take(&mut fault.error.message));
        }
        fault.error.backtrace = error.downcast_ref::<WasmBacktrace>().and_then(backtrace);
        fault
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

    fn classify(error: &wasmtime::Error, memory_refused: Option<u64>) -> Self {
        if let Some(full) = error.downcast_ref::<PoolConcurrencyLimitError>() {
            return Self::new(Status::Limit, FULL_POOL, full.to_string());
        }
        if error.is::<TimedOut>() {
            return Self::new(Status::Timeout, "timeout", PAST_LIMIT);
        }
        if let Some(answer) = error.downcast_ref::<AnswerTooLarge>() {
            return Self::new(Status::Limit, "payload_out", answer.to_string());
        }
        if let Some(limit_bytes) = memory_refused {
            let message =
                format!("the guest needed more memory than its limit of {limit_bytes} bytes: {}", root(error));
            return Self::new(Status::Limit, "memory", message);
        }
        if error.is::<ResourceTableError>() {
            return Self::new(
                Status::Limit,
                "resources",
                format!("the guest holds too many host resources: {}", root(error)),
            );
        }
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            return Self::new(
                Status::FunctionError,
                &format!("exit_{code}"),
                format!("the guest exited with code {code}"),
            );
        }
        match error.downcast_ref::<Trap>() {
            Some(trap) => Self::new(Status::Trap, &format!("{trap:?}"), format!("the guest trapped: {trap}")),
            None => Self::new(
                Status::Trap,
                "host_error",
                format!("the guest was ended by a host function: {}", root(error)),
            ),
        }
    }
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
pub(super) fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_status() {
        let judged = |error: wasmtime::Error| Fault::judge(&error, None, "").status;
        assert_eq!(judged(TimedOut.into()), Status::Timeout);
        assert_eq!(judged(Trap::UnreachableCodeReached.into()), Status::Trap);
        assert_eq!(judged(I32Exit(3).into()), Status::FunctionError);
        assert_eq!(judged(ResourceTableError::Full.into()), Status::Limit);
        let refused = Fault::judge(&Trap::UnreachableCodeReached.into(), Some(65_536), "");
        assert_eq!(refused.status, Status::Limit);
        assert!(refused.error.message.contains("65536 bytes"), "{}", refused.error.message);
    }

    #[test]
    fn stderr_is_part_of_the_message() {
        let fault = Fault::judge(&I32Exit(3).into(), None, "no such word");
        assert_eq!(fault.error.code.as_deref(), Some("exit_3"));
        assert_eq!(fault.error.message, "the guest exited with code 3; stderr: no such word");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = cut("é".repeat(TEXT_BYTES_MAX));
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8());
        assert!(text.ends_with("é…"));
    }
}
