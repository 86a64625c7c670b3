//! What is wrong in a datum, and in which field.
//!
//! Must not: name the kind of event or the topic; `DecodeError` does.

use std::fmt;

use serde::de;

/// A fault in a datum. Boxed, because every step of the decoder hands it on and few ever make one.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// Fields, from the innermost outwards.
    path: Vec<String>,
    text: String,
}

impl Fault {
    #[cold]
    pub(super) fn new(text: String) -> Self {
        Self(Box::new(Inner { path: Vec::new(), text }))
    }

    /// The same fault, seen from the record that has `field`.
    #[cold]
    pub(super) fn within(mut self, field: &str) -> Self {
        self.0.path.push(field.to_owned());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.path.is_empty() {
            f.write_str("field ")?;
            for (nth, field) in self.0.path.iter().rev().enumerate() {
                f.write_str(if nth == 0 { "" } else { "." })?;
                f.write_str(field)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(text.to_string())
    }

    fn invalid_type(seen: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        match seen {
            de::Unexpected::Unit => Self::new(format!("null is seen, and {wanted} is wanted")),
            seen => Self::new(format!("{seen} is seen, and {wanted} is wanted")),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("it must be there".to_owned()).within(field)
    }
}
