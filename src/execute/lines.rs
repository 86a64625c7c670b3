//! What a call writes, as lines of a log: cut, bounded, and what is left out counted.
//!
//! Of a call that writes more than it may, the first lines are kept and the last ones: what it says before it traps is at the end. A
//! call that writes nothing has no memory here. Must not: read a clock, or know whom the lines are for.

use std::collections::VecDeque;

use crate::config::FunctionLogs;
use crate::types::{LeftOut, LogLine, LogStream, Timestamp};

/// The part of a call's lines and bytes that is for the last ones.
const LAST_PART: usize = 4;

/// Lines of one call, or of one `init`.
#[derive(Debug)]
pub(super) struct Lines {
    bounds: FunctionLogs,
    /// The lines of both streams whose end has not come yet.
    open: [Option<Open>; 2],
    /// Those that are kept in any case, and were not taken yet.
    first: Vec<LogLine>,
    /// How many of them there were since the call began, and their bytes.
    first_lines: usize,
    first_bytes: usize,
    /// The newest of the others.
    last: VecDeque<LogLine>,
    last_bytes: usize,
    left_out: LeftOut,
}

/// A line that is being written.
#[derive(Debug)]
struct Open {
    text: Vec<u8>,
    written_at: Timestamp,
    /// Bytes past the longest line.
    cut: u64,
}

impl Lines {
    pub(super) fn new(bounds: FunctionLogs) -> Self {
        Self {
            bounds,
            open: [None, None],
            first: Vec::new(),
            first_lines: 0,
            first_bytes: 0,
            last: VecDeque::new(),
            last_bytes: 0,
            left_out: LeftOut::default(),
        }
    }

    /// Takes what was written to a stream, whole lines or parts of some.
    pub(super) fn push(&mut self, stream: LogStream, bytes: &[u8], at: Timestamp) {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let ends = pieces.peek().is_some();
            if !piece.is_empty() || ends {
                self.append(stream, piece, at);
            }
            if ends {
                self.end_line(stream);
            }
        }
    }

    fn append(&mut self, stream: LogStream, piece: &[u8], at: Timestamp) {
        let most = self.bounds.line_bytes_max.get() as usize;
        let open = self.open[place(stream)].get_or_insert_with(|| Open { text: Vec::new(), written_at: at, cut: 0 });
        let (kept, cut) = piece.split_at(piece.len().min(most - open.text.len()));
        open.text.extend_from_slice(kept);
        open.cut += cut.len() as u64;
    }

    fn end_line(&mut self, stream: LogStream) {
        let Some(Open { mut text, written_at, mut cut }) = self.open[place(stream)].take() else { return };
        if cut == 0 {
            text.pop_if(|last| *last == b'\r');
        } else {
            // A character that was cut through is left out.
            let broken = text.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
            text.truncate(text.len() - broken);
            cut += broken as u64;
        }
        let bytes = text.len();
        let (lines_max, bytes_max) =
            (self.bounds.call_lines_max.get() as usize, self.bounds.call_bytes_max.get() as usize);
        let (last_lines, last_bytes) = (lines_max / LAST_PART, bytes_max / LAST_PART);
        let left_out = LeftOut { lines: 0, bytes: cut };
        let line = |text: Vec<u8>| LogLine {
            stream,
            written_at,
            text: String::from_utf8(text)
                .unwrap_or_else(|fault| String::from_utf8_lossy(fault.as_bytes()).into_owned()),
            left_out,
        };
        let fits = self.first_lines < lines_max - last_lines && self.first_bytes + bytes <= bytes_max - last_bytes;
        // Once one did not fit, those that follow are among the last: the order stays.
        if fits && self.last.is_empty() && self.left_out.is_nothing() {
            self.first_lines += 1;
            self.first_bytes += bytes;
            self.first.push(line(text));
            return;
        }
        self.last_bytes += bytes;
        self.last.push_back(line(text));
        while self.last.len() > last_lines || self.last_bytes > last_bytes {
            let Some(oldest) = self.last.pop_front() else { break };
            self.last_bytes -= oldest.text.len();
            self.left_out.add(1, oldest.text.len() as u64 + oldest.left_out.bytes);
        }
    }

    /// When the oldest line was begun that is whole, and would be taken now.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.first.first().map(|line| line.written_at)
    }

    /// Takes the whole lines that are kept in any case, while the call goes on.
    pub(super) fn take_early(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.first)
    }

    /// Takes everything, with a last line of the node's own that says what was left out; what comes is another call's.
    pub(super) fn take(&mut self, at: Timestamp) -> Vec<LogLine> {
        self.end_line(LogStream::Stdout);
        self.end_line(LogStream::Stderr);
        let Self { mut first, last, left_out, .. } = std::mem::replace(self, Self::new(self.bounds));
        first.extend(last);
        if !left_out.is_nothing() {
            let FunctionLogs { call_lines_max, call_bytes_max, .. } = &self.bounds;
            let why = format!(
                "between the first and the last lines of this call (function-logs.call-lines-max = {call_lines_max}, \
                 call-bytes-max = {call_bytes_max})"
            );
            first.push(LogLine::about(left_out, &why, at));
        }
        first
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bounds);
    }
}

const fn place(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Timestamp = Timestamp::from_millis(7);

    fn lines(call_lines_max: u32, call_bytes_max: u32, line_bytes_max: u32) -> Lines {
        let number = |number: u32| number.try_into().unwrap();
        Lines::new(FunctionLogs {
            call_lines_max: number(call_lines_max),
            call_bytes_max: number(call_bytes_max),
            line_bytes_max: number(line_bytes_max),
            ..FunctionLogs::default()
        })
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn writes_of_both_streams_come_out_as_lines() {
        let mut lines = lines(100, 10_000, 100);
        lines.push(LogStream::Stderr, b"one\r\n\ntw", AT);
        lines.push(LogStream::Stdout, b"of stdout", AT);
        lines.push(LogStream::Stderr, b"o\n\xff!", Timestamp::from_millis(9));
        let taken = lines.take(AT);
        assert_eq!(texts(&taken), ["one", "", "two", "of stdout", "\u{fffd}!"]);
        let streams: Vec<_> = taken.iter().map(|line| line.stream).collect();
        assert_eq!(streams[2..], [LogStream::Stderr, LogStream::Stdout, LogStream::Stderr]);
        assert_eq!((taken[2].written_at, taken[4].written_at), (AT, Timestamp::from_millis(9)));
        assert!(taken.iter().all(|line| line.left_out.is_nothing()));
        assert!(lines.take(AT).is_empty());
    }

    #[test]
    fn a_long_line_is_cut_at_a_character_and_says_how_much() {
        let mut lines = lines(100, 10_000, 5);
        lines.push(LogStream::Stderr, "abcdef\nabcdéf".as_bytes(), AT);
        lines.push(LogStream::Stderr, b"ghi", AT);
        let taken = lines.take(AT);
        assert_eq!(texts(&taken), ["abcde", "abcd"]);
        assert_eq!((taken[0].left_out.bytes, taken[1].left_out.bytes), (1, 6));
        assert_eq!(taken[1].left_out.lines, 0);
    }

    #[test]
    fn of_too_many_lines_the_first_and_the_last_are_kept_and_the_others_counted() {
        let mut lines = lines(8, 10_000, 100);
        for number in 0..100 {
            lines.push(LogStream::Stderr, format!("{number:02}\n").as_bytes(), AT);
        }
        let taken = lines.take(AT);
        let said = "92 lines and 184 bytes in all were left out: between the first and the last lines of this call \
                    (function-logs.call-lines-max = 8, call-bytes-max = 10000)";
        assert_eq!(texts(&taken), ["00", "01", "02", "03", "04", "05", "98", "99", said]);
        assert_eq!((taken[8].stream, taken[8].left_out), (LogStream::Node, LeftOut { lines: 92, bytes: 184 }));
        // The next call has all its room again.
        lines.push(LogStream::Stderr, b"next", AT);
        assert_eq!(texts(&lines.take(AT)), ["next"]);
    }

    #[test]
    fn lines_that_are_taken_early_count_and_the_open_one_stays() {
        let mut lines = lines(4, 10_000, 100);
        assert_eq!(lines.oldest(), None);
        lines.push(LogStream::Stderr, b"one\ntwo\nthr", AT);
        assert_eq!(lines.oldest(), Some(AT));
        assert_eq!(texts(&lines.take_early()), ["one", "two"]);
        lines.push(LogStream::Stderr, b"ee\nfour\nfive\n", AT);
        assert_eq!(texts(&lines.take_early()), ["three"]);
        assert_eq!(texts(&lines.take(AT))[0], "five");
    }

    proptest! {
        /// However it is cut into writes: nothing is there that was not written, nothing is lost that is not counted, and bounds hold.
        #[test]
        fn every_byte_is_kept_or_counted(
            words in prop::collection::vec("[a-z]{0,12}", 0..60),
            cuts in prop::collection::vec(0..20_usize, 1..40),
        ) {
            let text = words.iter().map(|word| format!("{word}\n")).collect::<String>();
            let (mut lines, mut at, mut cuts) = (lines(16, 64, 8), 0, cuts.iter().cycle());
            let mut early = Vec::new();
            while at < text.len() {
                let to = (at + cuts.next().unwrap() + 1).min(text.len());
                lines.push(LogStream::Stderr, &text.as_bytes()[at..to], AT);
                if to % 3 == 0 {
                    early.extend(lines.take_early());
                }
                at = to;
            }
            early.extend(lines.take(AT));
            let (own, said): (Vec<_>, Vec<_>) = early.iter().partition(|line| line.stream == LogStream::Stderr);
            prop_assert!(own.len() <= 16 && said.len() <= 1);
            let kept: usize = own.iter().map(|line| line.text.len()).sum();
            prop_assert!(kept <= 64);
            let left_out: u64 = early.iter().map(|line| line.left_out.bytes).sum();
            let written: usize = words.iter().map(String::len).sum();
            prop_assert_eq!(kept as u64 + left_out, written as u64);
            let lines_left_out: u64 = early.iter().map(|line| line.left_out.lines).sum();
            prop_assert_eq!(own.len() as u64 + lines_left_out, words.len() as u64);
        }
    }
}
