//! Where log lines go: a bounded queue, and one thread that writes.
//!
//! Whoever has something to say never waits for whoever reads it. What does not fit is left out and counted, and the count is
//! told once lines can be written again. Must not: format lines, or be waited for without a limit.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that may wait to be written (inclusive).
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Lines that may wait to be written (inclusive).
const WAITING_LINES_MAX: usize = 4_096;
/// How often the writer looks for something to say by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lines that are left out while others are written, as where more come than a reader takes, are told so often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Before a reader that takes nothing now is tried again, where the pipe does not block.
const TRY_AGAIN: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    bytes: usize,
    /// Left out, and not told yet.
    left_out: u64,
    /// A line is being written.
    is_writing: bool,
}

/// The queue.
#[derive(Default)]
pub(super) struct Sink {
    waiting: Mutex<Waiting>,
    came: Condvar,
    is_idle: Condvar,
    left_out: AtomicU64,
}

/// What the writer says by itself.
pub(super) trait Own: Send + 'static {
    /// The line that tells of lines that were left out.
    fn left_out(&self, lines: u64) -> String;

    /// Lines whose time has come; asked once a second or so.
    fn due(&self) -> Vec<String>;
}

impl Sink {
    /// Starts the thread that writes to `to`, for as long as the process lives.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn start(to: impl Write + Send + 'static, own: impl Own) -> io::Result<Arc<Self>> {
        let sink = Arc::new(Self::default());
        let shared = Arc::clone(&sink);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(to, &own))?;
        Ok(sink)
    }

    /// Takes a line, with its line break; where there is no room it is counted instead.
    pub(super) fn push(&self, line: String) {
        let mut waiting = self.waiting();
        if waiting.lines.len() < WAITING_LINES_MAX && waiting.bytes + line.len() <= WAITING_BYTES_MAX {
            waiting.put(line);
            self.came.notify_one();
        } else {
            waiting.left_out += 1;
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the last line of a process, room or not.
    pub(super) fn push_last(&self, line: String) {
        self.waiting().put(line);
        self.came.notify_one();
    }

    /// Waits until everything is written, up to `limit`; whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut waiting = self.waiting();
        while !waiting.lines.is_empty() || waiting.is_writing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            waiting = self.is_idle.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lines that were left out since the start, because nobody read the ones before or they could not be written.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut to: impl Write, own: &impl Own) {
        let (mut looked_at, mut told_at) = (Instant::now(), Instant::now());
        loop {
            if let Some(line) = self.next() {
                // The lock is not held: this may take for ever.
                let written = write_whole(&mut to, line.as_bytes());
                let mut waiting = self.waiting();
                waiting.is_writing = false;
                if written.is_err() {
                    waiting.left_out += 1;
                    self.left_out.fetch_add(1, Ordering::Relaxed);
                } else if waiting.left_out > 0 && (waiting.lines.is_empty() || told_at.elapsed() >= TELL_EVERY) {
                    // It works, or works again.
                    told_at = Instant::now();
                    let left_out = std::mem::take(&mut waiting.left_out);
                    waiting.put(own.left_out(left_out));
                }
                if waiting.lines.is_empty() {
                    self.is_idle.notify_all();
                }
            }
            if looked_at.elapsed() >= LOOK_EVERY {
                looked_at = Instant::now();
                own.due().into_iter().for_each(|line| self.push(line));
            }
        }
    }

    /// The next line, if one comes within [`LOOK_EVERY`].
    fn next(&self) -> Option<String> {
        let mut waiting = self.waiting();
        if waiting.lines.is_empty() {
            waiting = self.came.wait_timeout(waiting, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        let line = waiting.lines.pop_front()?;
        waiting.bytes -= line.len();
        waiting.is_writing = true;
        Some(line)
    }
}

impl Waiting {
    fn put(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }
}

/// Writes all of it, waiting where the other end takes nothing now.
fn write_whole(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody else who has the pipe may have made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, PipeWriter};

    use super::*;

    struct Words;

    impl Own for Words {
        fn left_out(&self, lines: u64) -> String {
            format!("left out: {lines}\n")
        }

        fn due(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn piped() -> (Arc<Sink>, PipeReader) {
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe().unwrap();
        (Sink::start(writer, Words).unwrap(), reader)
    }

    #[test]
    fn lines_come_out_in_their_order() {
        let (sink, reader) = piped();
        for number in 0..50 {
            sink.push(format!("line {number}\n"));
        }
        let lines = BufReader::new(reader).lines().take(50).map(Result::unwrap);
        assert!(lines.eq((0..50).map(|number| format!("line {number}"))));
        assert!(sink.flush(Duration::from_secs(60)));
        assert_eq!(sink.left_out(), 0);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_every_line_is_accounted_for() {
        let (sink, reader) = piped();
        let line = format!("{}\n", "x".repeat(999));
        // A pipe takes 64 KiB, the queue 1 MiB; this returns, or the test hangs.
        for _ in 0..3_000 {
            sink.push(line.clone());
        }
        let left_out = sink.left_out();
        assert!((1_800..=2_000).contains(&left_out), "{left_out}");
        assert!(!sink.flush(Duration::from_millis(10)));
        sink.push_last("last words\n".to_owned());
        // The reader is back.
        let (mut read, mut told) = (0, 0);
        for line in BufReader::new(reader).lines().map(Result::unwrap) {
            match line.strip_prefix("left out: ") {
                Some(lines) => told += lines.parse::<u64>().unwrap(),
                None => read += u64::from(line != "last words"),
            }
            if (read, told) == (3_000 - left_out, left_out) {
                return;
            }
        }
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let (sink, reader) = piped();
        drop(reader);
        sink.push("nobody reads this\n".to_owned());
        assert!(sink.flush(Duration::from_secs(60)));
        assert_eq!(sink.left_out(), 1);
    }

    #[test]
    fn what_is_left_out_is_told_when_lines_can_be_written_again() {
        let (sink, reader) = piped();
        for _ in 0..WAITING_LINES_MAX + 1_000 {
            // Longer than a pipe takes altogether, so that the writer stands.
            sink.push(format!("{}\n", "x".repeat(200)));
        }
        let left_out = sink.left_out();
        assert!(left_out > 0);
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        let mut told = lines.filter_map(|line| line.strip_prefix("left out: ")?.parse::<u64>().ok());
        let mut sum = 0;
        while sum < left_out {
            sum += told.next().unwrap();
        }
        assert_eq!(sum, left_out);
    }
}
