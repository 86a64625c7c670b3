//! A text file line by line, plain or gzip, with a bound on the line and its number for errors.
//!
//! Must not: know what a line means.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::super::Error;

/// The longest line, in bytes (inclusive).
const LINE_BYTES_MAX: usize = 4 << 20;

/// How gzip begins (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How a file in UTF-16 begins, in either order of bytes.
const UTF_16: [[u8; 2]; 2] = [[0xff, 0xfe], [0xfe, 0xff]];

/// The lines of one file.
pub(super) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    /// Opens a file; one that is gzip, as its first bytes say, is decompressed on the way.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|fault| Error::Read { path: path.to_owned(), fault })?;
        let mut file = BufReader::new(file);
        let begins = file.fill_buf().map_err(|fault| Error::Read { path: path.to_owned(), fault })?;
        let reader: Box<dyn BufRead> = if begins.starts_with(&GZIP) {
            Box::new(BufReader::new(MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { path: path.to_owned(), reader, line: Vec::new(), number: 0 })
    }

    /// The next line that is not blank, without its end.
    pub(super) fn next(&mut self) -> Result<Option<&str>, Error> {
        loop {
            self.line.clear();
            let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_until(b'\n', &mut self.line);
            let read = read.map_err(|fault| Error::Read { path: self.path.clone(), fault })?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read > LINE_BYTES_MAX {
                return Err(
                    self.fault(format!("the line is longer than {LINE_BYTES_MAX} bytes: is this the right file?"))
                );
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let text = std::str::from_utf8(&self.line).map_err(|_| {
            let is_utf_16 = self.number == 1 && UTF_16.iter().any(|mark| self.line.starts_with(mark));
            let what = if is_utf_16 {
                "the file is UTF-16: save it as UTF-8"
            } else {
                "the line is not UTF-8: is this the right file?"
            };
            self.fault(what.to_owned())
        })?;
        // Some programs put a byte order mark in front. A tab at an end is an empty field of a table.
        Ok(Some(text.trim_start_matches('\u{feff}').trim_matches([' ', '\r', '\n'])))
    }

    /// An error about the line that was read last.
    pub(super) fn fault(&self, what: String) -> Error {
        Error::Line { path: self.path.clone(), line: self.number, what }
    }
}

/// Reads one field, or says what it should have been.
pub(super) fn field<T: std::str::FromStr>(text: &str, name: &str, wanted: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} is {text:?}: it must be {wanted}"))
}
