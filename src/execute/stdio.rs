//! A guest's stdin, stdout and stderr: in memory, bounded, and set anew for each call.
//!
//! Must not: touch the process's own streams. A guest that prints too much is cut or trapped, never buffered without end.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError};

/// The guest wrote more than its answer may have.
#[derive(Debug, thiserror::Error)]
#[error("the answer on stdout is larger than payload_out_bytes ({limit_bytes} bytes)")]
pub(super) struct AnswerTooLarge {
    limit_bytes: usize,
}

/// Stdin whose content is set when the call comes, which may be long after the guest was instantiated.
#[derive(Clone, Default)]
pub(super) struct CallInput(Arc<Mutex<Bytes>>);

impl CallInput {
    /// Sets what the guest will read; what was left of the last content is gone.
    pub(super) fn set(&self, bytes: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    fn take(&self, size: usize) -> Bytes {
        let mut rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = size.min(rest.len());
        rest.split_to(size)
    }
}

impl IsTerminal for CallInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for CallInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        // Only WASI 0.3 asks for this one; it is not offered to guests yet. An empty stream is truthful: no input there.
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl InputStream for CallInput {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        let bytes = self.take(size);
        if bytes.is_empty() && size > 0 { Err(StreamError::Closed) } else { Ok(bytes) }
    }
}

#[async_trait]
impl Pollable for CallInput {
    async fn ready(&mut self) {}
}

/// What happens to bytes past the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    /// The guest traps with [`AnswerTooLarge`].
    Trap,
    /// They are dropped; [`CallOutput::take`] says so at the end of the text.
    Cut,
}

/// Stdout or stderr, kept in memory up to a limit.
#[derive(Clone)]
pub(super) struct CallOutput {
    buffer: Arc<Mutex<Buffer>>,
    limit_bytes: usize,
    overflow: Overflow,
}

#[derive(Default)]
struct Buffer {
    bytes: BytesMut,
    dropped: u64,
}

impl CallOutput {
    /// An answer: more than `limit_bytes` (inclusive) ends the call.
    pub(super) fn answer(limit_bytes: usize) -> Self {
        Self { buffer: Arc::default(), limit_bytes, overflow: Overflow::Trap }
    }

    /// A log: what is past `limit_bytes` is dropped.
    pub(super) fn log(limit_bytes: usize) -> Self {
        Self { buffer: Arc::default(), limit_bytes, overflow: Overflow::Cut }
    }

    /// Takes what was written and starts anew.
    pub(super) fn take(&self) -> Bytes {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = std::mem::take(&mut buffer.dropped);
        let mut bytes = std::mem::take(&mut buffer.bytes);
        if dropped > 0 {
            bytes.extend_from_slice(format!("… ({dropped} more bytes dropped)").as_bytes());
        }
        bytes.freeze()
    }

    /// What was written as text, with bytes that are no UTF-8 replaced.
    pub(super) fn take_text(&self) -> String {
        String::from_utf8_lossy(&self.take()).trim_end().to_owned()
    }
}

impl IsTerminal for CallOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for CallOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this one; it is not offered to guests yet.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl OutputStream for CallOutput {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.limit_bytes - buffer.bytes.len();
        if bytes.len() <= room {
            buffer.bytes.extend_from_slice(&bytes);
            return Ok(());
        }
        if self.overflow == Overflow::Trap {
            return Err(StreamError::Trap(AnswerTooLarge { limit_bytes: self.limit_bytes }.into()));
        }
        buffer.bytes.extend_from_slice(&bytes[..room]);
        buffer.dropped += (bytes.len() - room) as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        // Always some room, so that the write past the limit happens and is judged; 64 KiB bounds one host copy.
        Ok(64 << 10)
    }
}

#[async_trait]
impl Pollable for CallOutput {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_read_in_pieces_and_then_closed() {
        let mut input = CallInput::default();
        input.set(Bytes::from_static(b"hello"));
        assert_eq!(input.read(2).unwrap(), "he");
        assert_eq!(input.read(64).unwrap(), "llo");
        assert!(matches!(input.read(1), Err(StreamError::Closed)));
        input.set(Bytes::from_static(b"again"));
        assert_eq!(input.read(64).unwrap(), "again");
    }

    #[test]
    fn an_answer_may_reach_its_limit_but_not_pass_it() {
        let mut answer = CallOutput::answer(4);
        answer.write(Bytes::from_static(b"1234")).unwrap();
        assert!(matches!(answer.write(Bytes::from_static(b"5")), Err(StreamError::Trap(_))));
        assert_eq!(answer.take(), "1234");
    }

    #[test]
    fn a_log_is_cut_and_says_by_how_much() {
        let mut log = CallOutput::log(4);
        log.write(Bytes::from_static(b"123")).unwrap();
        log.write(Bytes::from_static(b"4567")).unwrap();
        assert_eq!(log.take_text(), "1234… (3 more bytes dropped)");
        assert_eq!(log.take_text(), "");
    }
}
