//! Rust source as tokens, and the paths in it written out in full.
//!
//! Comments and literals are gone after this, so a name in a sentence is no import. Must not: know any rule, or read a file.

/// A word, a `::`, or one other character; a literal is a lone `"`.
#[derive(Debug)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// One path as written, groups written out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
#[derive(Debug)]
pub struct Path {
    pub line: usize,
    /// At least one; a glob ends in `*`.
    pub segments: Vec<String>,
    /// The path is a whole import (`use`), so everything below its end is in reach too.
    pub imported: bool,
    /// The module it stands in, from the root of the crate.
    pub module: Vec<String>,
}

/// Source text without comments and literals.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut found, mut line, mut i) = (Vec::new(), 1, 0);
    while i < chars.len() {
        let start = i;
        let mut token = None;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => i = after_block_comment(&chars, i),
            '"' => {
                i = after_quoted(&chars, i, '"');
                token = Some("\"".to_owned());
            }
            // A lifetime has no closing quote right after its first character.
            '\'' if at(i + 1) != '\\' && at(i + 2) != '\'' => i += 1,
            '\'' => {
                i = after_quoted(&chars, i, '\'');
                token = Some("\"".to_owned());
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let hashes = (i..chars.len()).take_while(|&k| at(k) == '#').count();
                let raw = matches!(word.as_str(), "r" | "br" | "cr");
                if raw && at(i + hashes) == '"' {
                    i = after_raw_string(&chars, i + hashes + 1, hashes);
                    token = Some("\"".to_owned());
                } else if word == "r" && hashes == 1 {
                    i += 1; // a raw word: the word itself comes next
                } else {
                    token = Some(word);
                }
            }
            ':' if at(i + 1) == ':' => {
                i += 2;
                token = Some("::".to_owned());
            }
            c => {
                i += 1;
                token = (!c.is_whitespace()).then(|| c.to_string());
            }
        }
        found.extend(token.map(|text| Token { line, text }));
        line += chars[start..i].iter().filter(|&&c| c == '\n').count();
    }
    found
}

/// Block comments nest.
fn after_block_comment(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn after_quoted(chars: &[char], open: usize, quote: char) -> usize {
    let mut i = open + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn after_raw_string(chars: &[char], mut i: usize, hashes: usize) -> usize {
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take_while(|&&c| c == '#').count() >= hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

/// Every path of more than one word and every import, in a file that is the module `file`.
pub fn paths(tokens: &[Token], file: &[String]) -> Vec<Path> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let (mut found, mut module, mut depth, mut opened) = (Vec::new(), file.to_vec(), 0_usize, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        match text(i) {
            "mod" if text(i + 2) == "{" => {
                module.push(text(i + 1).to_owned());
                opened.push(depth);
                depth += 1;
                i += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if opened.last() == Some(&depth) {
                    opened.pop();
                    module.pop();
                }
            }
            _ => {}
        }
        // `::a` starts at `a`; `A<T>::a` and `<T as A>::a` start nowhere.
        let before = |back: usize| i.checked_sub(back).map_or("", text);
        let absolute = before(1) == "::" && starts_absolute(before(2));
        let keyword = if absolute { before(2) } else { before(1) };
        let imported = keyword == "use" || keyword == "crate" && before(2) == "extern";
        let first = tokens[i].is_word() && !KEYWORDS.contains(&text(i)) || imported && text(i) == "{";
        let starts = first && (absolute || before(1) != "::");
        if starts && (imported || text(i + 1) == "::") {
            let mut leaves = Vec::new();
            i = tree(tokens, i, &[], &mut leaves).max(i + 1);
            let path = |(line, segments)| Path { line, segments, imported, module: module.clone() };
            found.extend(leaves.into_iter().map(path));
            continue;
        }
        i += 1;
    }
    found
}

/// Words before a path that are no part of it.
const KEYWORDS: [&str; 14] =
    ["as", "break", "dyn", "else", "for", "if", "impl", "in", "match", "move", "mut", "return", "use", "while"];

/// Whether a `::` after this token begins a path from the list of crates, and does not go on with one.
fn starts_absolute(before: &str) -> bool {
    KEYWORDS.contains(&before) || before != ">" && !before.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Writes out the path or use tree at `i`; gives the index after it.
fn tree(tokens: &[Token], mut i: usize, prefix: &[String], leaves: &mut Vec<(usize, Vec<String>)>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut segments = prefix.to_vec();
    loop {
        let line = tokens.get(i).map_or(0, |token| token.line);
        match text(i) {
            "{" => {
                i += 1;
                while i < tokens.len() && text(i) != "}" {
                    // Past the tree stand `,` or `as name`.
                    i = tree(tokens, i, &segments, leaves).max(i + 1);
                    while i < tokens.len() && !matches!(text(i), "," | "}") {
                        i += 1;
                    }
                    i += usize::from(text(i) == ",");
                }
                return i + 1;
            }
            "::" if segments == prefix => i += 1,
            "*" => {
                segments.push("*".to_owned());
                leaves.push((line, segments));
                return i + 1;
            }
            _ if tokens.get(i).is_some_and(Token::is_word) => {
                segments.push(text(i).to_owned());
                let goes_on = text(i + 1) == "::"
                    && (matches!(text(i + 2), "{" | "*") || tokens.get(i + 2).is_some_and(Token::is_word));
                if !goes_on {
                    leaves.push((line, segments));
                    return i + 1;
                }
                i += 2;
            }
            _ => return i,
        }
    }
}
