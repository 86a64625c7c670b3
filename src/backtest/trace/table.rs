//! Tables as text: which column is which, and the fields of a line with their quotes taken off (RFC 4180).
//!
//! Must not: know what a column means.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

/// What may stand between two fields.
const DELIMITERS: [char; 3] = [',', ';', '\t'];
/// Most fields of a line (inclusive).
const FIELDS_MAX: usize = 256;

/// Takes lines apart. The delimiter is that of the first line, whichever of comma, semicolon and tab is in it most often.
pub(super) struct Table {
    delimiter: u8,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    fields: usize,
}

impl Table {
    /// For a file that begins with this line.
    ///
    /// Some spreadsheets name the delimiter in a line of its own, `sep=;`.
    pub(super) fn beginning_with(line: &str) -> Self {
        let outside_quotes =
            |delimiter: char| line.split('"').step_by(2).flat_map(|part| part.matches(delimiter)).count();
        let named = line.strip_prefix("sep=").and_then(|named| named.parse().ok());
        let named = named.filter(|delimiter| DELIMITERS.contains(delimiter));
        // The first of equals is the comma.
        let most_often = DELIMITERS.into_iter().rev().max_by_key(|delimiter| outside_quotes(*delimiter));
        let delimiter = u8::try_from(named.or(most_often).unwrap_or(',')).unwrap_or(b',');
        Self { delimiter, reader: reader(delimiter), text: Vec::new(), ends: vec![0; FIELDS_MAX], fields: 0 }
    }

    /// Takes a line apart; [`field`](Self::field) answers for it then.
    ///
    /// # Errors
    /// What is wrong, where a quote is not closed or there are too many fields.
    pub(super) fn split(&mut self, line: &str) -> Result<(), String> {
        // What is taken out of quotes is no longer than the line.
        self.text.resize((line.len() + 1).max(self.text.len()), 0);
        self.reader.reset();
        let (result, read, written, fields) = self.reader.read_record(line.as_bytes(), &mut self.text, &mut self.ends);
        self.fields = fields;
        match result {
            ReadRecordResult::OutputEndsFull => Err(format!("more than {FIELDS_MAX} fields")),
            ReadRecordResult::InputEmpty if read == line.len() => {
                // The end of the line is the end of the record.
                let (text, ends) = (&mut self.text[written..], &mut self.ends[fields..]);
                let (result, _, _, last) = self.reader.read_record(&[], text, ends);
                self.fields += last;
                match result {
                    ReadRecordResult::OutputEndsFull => Err(format!("more than {FIELDS_MAX} fields")),
                    _ if is_open(line) => Err("a quote is not closed".to_owned()),
                    _ => Ok(()),
                }
            }
            _ => Err("the line is no record of a CSV".to_owned()),
        }
    }

    /// How many fields the line has.
    pub(super) fn len(&self) -> usize {
        self.fields
    }

    /// A field of the line that was taken apart last, without space around it; empty where there is none.
    pub(super) fn field(&self, nth: usize) -> &str {
        if nth >= self.fields {
            return "";
        }
        let begin = if nth == 0 { 0 } else { self.ends[nth - 1] };
        let bytes = self.text.get(begin..self.ends[nth]).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default().trim()
    }

    /// All of them.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        (0..self.fields).map(|nth| self.field(nth))
    }

    /// Whether the line that was taken apart last says nothing but which delimiter the table has.
    pub(super) fn is_delimiter_line(&self) -> bool {
        self.len() <= 2
            && self.field(0).strip_prefix("sep=").is_some_and(|named| named.len() <= 1)
            && self.field(1).is_empty()
    }

    /// What stands between two fields.
    pub(super) fn delimiter(&self) -> char {
        char::from(self.delimiter)
    }
}

fn reader(delimiter: u8) -> Reader {
    ReaderBuilder::new().delimiter(delimiter).build()
}

/// Whether the line ends within quotes.
fn is_open(line: &str) -> bool {
    line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Vec<String>, String> {
        let mut table = Table::beginning_with(line);
        table.split(line)?;
        Ok(table.fields().map(str::to_owned).collect())
    }

    #[test]
    fn fields_are_taken_out_of_their_quotes() {
        assert_eq!(split("\"a\",\"b c\",\"d\"\"e\",\"\"").unwrap(), ["a", "b c", "d\"e", ""]);
        assert_eq!(split("a").unwrap(), ["a"]);
        assert_eq!(split("a; b ;c,d").unwrap(), ["a", "b", "c,d"]);
        assert_eq!(split("a\tb,c\td").unwrap(), ["a", "b,c", "d"]);
        assert_eq!(split("\"x;y;z\",1").unwrap(), ["x;y;z", "1"]);
        assert_eq!(split("\"a,b").unwrap_err(), "a quote is not closed");
        assert_eq!(split(&",".repeat(300)).unwrap_err(), "more than 256 fields");
    }

    #[test]
    fn a_table_goes_on_from_line_to_line() {
        let mut table = Table::beginning_with("a,b");
        for (line, fields) in
            [("a,b", vec!["a", "b"]), ("\"longer, much\",x,y", vec!["longer, much", "x", "y"]), ("c", vec!["c"])]
        {
            table.split(line).unwrap();
            assert_eq!(table.fields().collect::<Vec<_>>(), fields);
            assert_eq!((table.len(), table.field(9)), (fields.len(), ""));
        }
    }
}
