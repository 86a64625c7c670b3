//! A guest's stdin, stdout and stderr: in memory, bounded, and set anew for each call.
//!
//! Must not: touch the process's own streams, or keep anything of one call for the next. A guest that prints too much is cut
//! or trapped, never buffered without end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError};

use super::lines::Lines;
use super::wall_clock;
use crate::config::FunctionLogs;
use crate::types::{LogLine, LogStream};

/// Bytes of what a call prints that are kept from its beginning, and from its end. Both, and the words around them, fit into
/// an error's message.
const HEAD_BYTES: usize = 1 << 10;
const TAIL_BYTES: usize = 2 << 10;
/// One write. There is always some room, so that a write past a limit happens and is judged; this bounds one host copy.
const WRITE_BYTES_MAX: usize = 64 << 10;

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

/// A command's stdout: its answer. More than the limit (inclusive) ends the call.
#[derive(Clone)]
pub(super) struct CallAnswer {
    buffer: Arc<Mutex<BytesMut>>,
    limit_bytes: usize,
}

impl CallAnswer {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { buffer: Arc::default(), limit_bytes }
    }

    /// Takes what was written and starts anew.
    pub(super) fn take(&self) -> Bytes {
        std::mem::take(&mut *self.buffer.lock().unwrap_or_else(PoisonError::into_inner)).freeze()
    }
}

impl IsTerminal for CallAnswer {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for CallAnswer {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this one; it is not offered to guests yet.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl OutputStream for CallAnswer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > self.limit_bytes - buffer.len() {
            return Err(StreamError::Trap(AnswerTooLarge { limit_bytes: self.limit_bytes }.into()));
        }
        buffer.extend_from_slice(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for CallAnswer {
    async fn ready(&mut self) {}
}

/// What one call (or one `init`) prints: its stderr, and a component's stdout, in the order in which they were written.
///
/// For an error's message the first [`HEAD_BYTES`] and the last [`TAIL_BYTES`] are kept: a message about the end is at the end. For
/// the function's log, lines within their own bounds.
#[derive(Clone)]
pub(super) struct CallLog(Arc<Printed>);

struct Printed {
    /// Whether anything was written since the log was empty: a call that prints nothing pays one load for its log.
    any: AtomicBool,
    kept: Mutex<Kept>,
}

struct Kept {
    text: Text,
    lines: Lines,
}

/// One of the streams that are logs.
#[derive(Clone)]
pub(super) struct LogPipe {
    log: CallLog,
    stream: LogStream,
}

#[derive(Default)]
struct Text {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes between the two that were dropped.
    dropped: u64,
}

impl Text {
    fn push(&mut self, mut bytes: &[u8]) {
        if self.head.len() < HEAD_BYTES {
            let (first, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
            self.head.extend_from_slice(first);
            bytes = rest;
        }
        let skipped = bytes.len().saturating_sub(TAIL_BYTES);
        let over = (self.tail.len() + bytes.len() - skipped).saturating_sub(TAIL_BYTES);
        self.tail.drain(..over);
        self.tail.extend_from_slice(&bytes[skipped..]);
        self.dropped += (skipped + over) as u64;
    }

    fn read(self) -> String {
        let Self { mut head, tail, dropped } = self;
        if dropped == 0 {
            head.extend_from_slice(&tail);
            return String::from_utf8_lossy(&head).into_owned();
        }
        // A character that was cut through is left out.
        let broken = head.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        let head = String::from_utf8_lossy(&head[..head.len() - broken]).into_owned();
        let tail: Vec<u8> = tail.into_iter().skip_while(|byte| byte & 0b1100_0000 == 0b1000_0000).collect();
        format!("{head}… ({dropped} bytes left out) …{}", String::from_utf8_lossy(&tail))
    }
}

impl CallLog {
    pub(super) fn new(bounds: FunctionLogs) -> Self {
        let kept = Kept { text: Text::default(), lines: Lines::new(bounds) };
        Self(Arc::new(Printed { any: AtomicBool::new(false), kept: Mutex::new(kept) }))
    }

    /// Where a guest writes to one of its streams.
    pub(super) fn pipe(&self, stream: LogStream) -> LogPipe {
        LogPipe { log: self.clone(), stream }
    }

    /// Forgets what was written.
    pub(super) fn clear(&self) {
        if self.0.any.load(Ordering::Acquire) {
            self.0.any.store(false, Ordering::Release);
            let mut kept = self.kept();
            kept.text = Text::default();
            kept.lines.clear();
        }
    }

    /// What was written as text, with bytes that are no UTF-8 replaced; `None` where there is nothing.
    pub(super) fn text(&self) -> Option<String> {
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        let text = std::mem::take(&mut self.kept().text);
        Some(text.read().trim_end().to_owned()).filter(|text| !text.is_empty())
    }

    /// Takes what was written as lines, and starts anew.
    pub(super) fn take_lines(&self) -> Vec<LogLine> {
        if !self.0.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.0.any.store(false, Ordering::Release);
        let mut kept = self.kept();
        kept.text = Text::default();
        kept.lines.take(wall_clock())
    }

    /// Takes lines of a call that goes on, where the oldest of them has waited for `age`.
    pub(super) fn take_early(&self, age: Duration) -> Vec<LogLine> {
        if !self.0.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut kept = self.kept();
        match kept.lines.oldest() {
            Some(oldest) if wall_clock().since(oldest) >= age => kept.lines.take_early(),
            _ => Vec::new(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for LogPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogPipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this one; it is not offered to guests yet.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl OutputStream for LogPipe {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut kept = self.log.kept();
        kept.text.push(&bytes);
        kept.lines.push(self.stream, &bytes, wall_clock());
        drop(kept);
        self.log.0.any.store(true, Ordering::Release);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for LogPipe {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let mut answer = CallAnswer::new(4);
        answer.write(Bytes::from_static(b"1234")).unwrap();
        assert!(matches!(answer.write(Bytes::from_static(b"5")), Err(StreamError::Trap(_))));
        assert_eq!(answer.take(), "1234");
        assert_eq!(answer.take(), "");
    }

    fn written(writes: &[&[u8]]) -> CallLog {
        let log = CallLog::new(FunctionLogs::default());
        let mut pipe = log.pipe(LogStream::Stderr);
        writes.iter().for_each(|bytes| pipe.write(Bytes::copy_from_slice(bytes)).unwrap());
        log
    }

    #[test]
    fn a_log_keeps_its_beginning_and_its_end() {
        let log = written(&[b"first line\n", &[b'x'; 100_000], b"\nthe panic's message\n"]);
        let text = log.text().unwrap();
        assert!(text.starts_with("first line\nxxx"), "{text}");
        assert!(text.ends_with("xxx\nthe panic's message"), "{text}");
        let left_out = 11 + 100_000 + 21 - HEAD_BYTES - TAIL_BYTES;
        assert!(text.contains(&format!("… ({left_out} bytes left out) …")), "{text}");
        assert_eq!(written(&[b"\n"]).text(), None, "white space is nothing to show");
        assert_eq!(written(&[]).text(), None);
    }

    #[test]
    fn the_text_for_an_error_leaves_the_lines_and_these_are_taken_once() {
        let log = written(&[b"one\ntw", b"o\n"]);
        assert_eq!(log.text().as_deref(), Some("one\ntwo"));
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert!(log.take_early(Duration::from_hours(1)).is_empty());
        assert_eq!(texts(log.take_early(Duration::ZERO)), ["one", "two"]);
        log.pipe(LogStream::Stdout).write(Bytes::from_static(b"three")).unwrap();
        assert_eq!(texts(log.take_lines()), ["three"]);
        assert!(log.take_lines().is_empty());
        assert_eq!(log.text(), None);
        log.pipe(LogStream::Stdout).write(Bytes::from_static(b"of another call")).unwrap();
        log.clear();
        assert!(log.take_lines().is_empty());
    }

    #[test]
    fn a_character_that_was_cut_through_is_left_out() {
        let text = written(&[format!("x{}", "é".repeat(4_000)).as_bytes()]).text().unwrap();
        assert!(!text.contains('\u{fffd}'), "{text}");
        assert!(text.starts_with("xéé") && text.ends_with("éé"), "{text}");
    }

    proptest! {
        /// However it is cut into writes: the head, the tail, and the count of what is between.
        #[test]
        fn writes_of_any_length_come_to_the_same(
            lengths in prop::collection::vec(0..2 * TAIL_BYTES, 0..12),
        ) {
            let all: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|nth| b'a' + (nth % 26) as u8).collect();
            let (mut text, mut at) = (Text::default(), 0);
            for length in lengths {
                text.push(&all[at..at + length]);
                at += length;
            }
            let head = all.len().min(HEAD_BYTES);
            let tail = (all.len() - head).min(TAIL_BYTES);
            prop_assert_eq!(&text.head[..], &all[..head]);
            prop_assert_eq!(&text.tail[..], &all[all.len() - tail..]);
            prop_assert_eq!(text.dropped, (all.len() - head - tail) as u64);
        }
    }
}
