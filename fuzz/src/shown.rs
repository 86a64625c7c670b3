//! Foreign text on its way to a person: any bytes, shown in a log line or on a terminal.
//!
//! Nothing that is shown may move a terminal or end a line, and no more is shown than is allowed; JSON stays the same value.

use forewarm::types::{Shown, ShownJson};

/// The bytes that the words about omitted text may take.
const WORDS: usize = 64;

/// Any bytes as text, within a bound of 0 to 255 bytes that the first byte says.
pub fn shown(bytes: &[u8]) {
    let (within, text) = bytes.split_first().map_or((0, bytes), |(within, text)| (usize::from(*within), text));
    let text = String::from_utf8_lossy(text);
    let bounded = Shown::of(&text).within(within).to_string();
    assert!(bounded.len() <= within + WORDS, "{bounded:?}");
    let whole = Shown::of(&text).within(usize::MAX).to_string();
    for shown in [&bounded, &whole] {
        assert!(!shown.chars().any(moves), "{shown:?}");
    }
    assert_eq!(Shown::of(&whole).within(usize::MAX).to_string(), whole, "it is escaped once");
    let json = serde_json::to_string(&text).unwrap();
    let shown = ShownJson(&json).to_string();
    assert!(!shown.chars().any(moves), "{shown:?}");
    assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
}

/// A control of Unicode's general category Cc, a separator of lines or paragraphs, or one that turns the direction of writing.
fn moves(c: char) -> bool {
    c.is_control() || "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".contains(c)
}
