//! Foreign text as people may see it: in a log line, on a terminal.
//!
//! Names, ids, headers, addresses, guests' output and others' error texts are foreign. Shown as they are, they can forge a
//! line, colour or clear a terminal, turn the direction of writing round, or fill a disk. Must not: be used where a program
//! reads on, as on topics; there the bytes stay as they are.

use std::fmt::{self, Write};

/// The longest text that is shown where no other bound is named, in bytes (inclusive).
const SHOWN_MAX: usize = 1_024;

/// Whether a character moves a terminal's cursor, ends a line or turns the direction of writing: C0 and C1 controls, DEL,
/// the separators of lines and paragraphs, bidirectional controls, and the byte order mark.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Shows a text on one line: controls are escaped as in Rust's literals (`\n`, `\u{1b}`), and the text is bounded. Text without
/// controls and within the bound stays as it is; so does text that was escaped already.
///
/// ```
/// use forewarm::types::Shown;
/// assert_eq!(Shown::of("\u{1b}[2Jbye\n").to_string(), r"\u{1b}[2Jbye\n");
/// assert_eq!(Shown::of("much to say").within(4).to_string(), "much… and 7 bytes more");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Shown<T> {
    text: T,
    bytes_max: usize,
}

impl<T: fmt::Display> Shown<T> {
    /// Shows at most 1,024 bytes (inclusive), and how many there are more.
    pub fn of(text: T) -> Self {
        Self { text, bytes_max: SHOWN_MAX }
    }

    /// Shows at most `bytes_max` (inclusive) instead.
    #[must_use]
    pub fn within(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }
}

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut escaping = Escaping::new(f, self.bytes_max);
        write!(escaping, "{}", self.text)?;
        escaping.finish()
    }
}

/// Passes text on as [`Shown`] does, as it comes: nothing that is left out is ever held.
pub struct Escaping<'a> {
    to: &'a mut dyn Write,
    left: usize,
    left_out: usize,
}

impl<'a> Escaping<'a> {
    /// At most `bytes_max` (inclusive) are passed on to `to`.
    pub fn new(to: &'a mut dyn Write, bytes_max: usize) -> Self {
        Self { to, left: bytes_max, left_out: 0 }
    }

    /// Says how many bytes were left out, where any were.
    ///
    /// # Errors
    /// Where the text below cannot be written.
    pub fn finish(self) -> fmt::Result {
        match self.left_out {
            0 => Ok(()),
            more => write!(self.to, "… and {more} bytes more"),
        }
    }

    fn pass(&mut self, text: &str, of: usize) -> fmt::Result {
        // Past the first part that does not fit nothing is shown, or the text would have a hole.
        if self.left_out > 0 || text.len() > self.left {
            self.left_out += of;
            return Ok(());
        }
        self.left -= text.len();
        self.to.write_str(text)
    }

    /// Text without controls, cut where the bound is.
    fn plain(&mut self, text: &str) -> fmt::Result {
        let fits = if self.left_out > 0 { 0 } else { text.floor_char_boundary(self.left) };
        let (shown, rest) = text.split_at(fits);
        if !shown.is_empty() {
            self.pass(shown, shown.len())?;
        }
        self.left_out += rest.len();
        Ok(())
    }
}

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_control) {
            let (before, from) = rest.split_at(at);
            self.plain(before)?;
            let Some(control) = from.chars().next() else { break };
            // As Rust escapes it: `\n`, `\u{1b}`.
            self.pass(&control.escape_default().to_string(), control.len_utf8())?;
            rest = &from[control.len_utf8()..];
        }
        self.plain(rest)
    }
}

/// JSON as people may see it: the controls that JSON allows in a text (DEL, C1, bidirectional ones) are escaped as JSON
/// escapes. It stays the same value.
#[derive(Clone, Copy, Debug)]
pub struct ShownJson<'a>(
    /// JSON, on one line.
    pub &'a str,
);

impl fmt::Display for ShownJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_control) {
            let (before, from) = rest.split_at(at);
            f.write_str(before)?;
            let Some(control) = from.chars().next() else { break };
            // None of them takes two units of UTF-16.
            write!(f, "\\u{:04x}", u32::from(control))?;
            rest = &from[control.len_utf8()..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_are_escaped_and_other_text_stays() {
        let rows = [
            ("plain – ümläut 漢字 🙂", "plain – ümläut 漢字 🙂"),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("\u{7f}\u{9b}2J", r"\u{7f}\u{9b}2J"),
            ("\u{202e}gpj.exe\u{2066}", r"\u{202e}gpj.exe\u{2066}"),
            ("one\u{2028}two\u{2029}", r"one\u{2028}two\u{2029}"),
            (r"C:\new", r"C:\new"),
        ];
        for (text, wanted) in rows {
            assert_eq!(Shown::of(text).to_string(), wanted);
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(Shown::of("abcdef").within(6).to_string(), "abcdef");
        assert_eq!(Shown::of("abcdef").within(5).to_string(), "abcde… and 1 bytes more");
        // No part of an escape, and no part of a character.
        assert_eq!(Shown::of("ab\ncd").within(3).to_string(), "ab… and 3 bytes more");
        assert_eq!(Shown::of("aü").within(2).to_string(), "a… and 2 bytes more");
        assert_eq!(Shown::of("x".repeat(5_000)).to_string().len(), 1_024 + "… and 3976 bytes more".len());
    }

    /// Any text, every other character of which is a control.
    fn text() -> impl Strategy<Value = String> {
        let controls = prop::sample::select(vec!['\n', '\0', '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{feff}']);
        let characters = prop::collection::vec(prop_oneof![any::<char>(), controls], 0..40);
        characters.prop_map(|characters| characters.into_iter().collect())
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_controls_a_terminal(text in text(), bytes_max in 0_usize..64) {
            let shown = Shown::of(&text).within(bytes_max).to_string();
            prop_assert!(!shown.contains(is_control), "{shown:?}");
            prop_assert!(shown.len() <= bytes_max + "… and 18446744073709551615 bytes more".len());
            let whole = Shown::of(&text).within(usize::MAX).to_string();
            prop_assert_eq!(Shown::of(&whole).within(usize::MAX).to_string(), whole);
        }

        #[test]
        fn json_stays_the_same_value(text in text()) {
            let json = serde_json::to_string(&text).unwrap();
            let shown = ShownJson(&json).to_string();
            prop_assert!(!shown.contains(is_control), "{shown:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
