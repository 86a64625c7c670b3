//! One log line, for people or as JSON, with everything in it escaped and bounded.
//!
//! Any value may be foreign text: so all of them pass through [`Escaping`], and no place that logs has to think of it. Must
//! not: know where lines go, or how often they may be said.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::SystemTime;

use tracing::Level;
use tracing::field::{Field, Visit};

use crate::config::LogFormat;
use crate::types::Escaping;

/// The longest value (inclusive), in bytes.
const VALUE_MAX: usize = 4_096;
/// What all values of a line may take together (inclusive), in bytes; fields past it are left out and counted.
const VALUES_MAX: usize = 16 << 10;
/// Names that JSON's own keys have.
const KEYS: [&str; 5] = ["timestamp", "level", "message", "fields_left_out", "target"];

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) format: LogFormat,
    /// Colours, for a terminal.
    pub(super) ansi: bool,
}

#[derive(Debug)]
enum Value {
    /// In quotes.
    Quoted(String),
    /// As it is for people, and a text in JSON.
    Plain(String),
    /// A number or a boolean.
    Bare(String),
}

/// What a line says.
#[derive(Debug, Default)]
pub(super) struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
    bytes: usize,
    left_out: u32,
}

impl Said {
    /// A line with a message and no fields yet.
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self { message: escaped(format_args!("{message}")), ..Self::default() }
    }

    /// With a field more.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.put(name, Value::Quoted(escaped(format_args!("{value}"))));
        self
    }

    /// Its message.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    fn put(&mut self, name: &'static str, value: Value) {
        let (Value::Quoted(text) | Value::Plain(text) | Value::Bare(text)) = &value;
        if self.bytes + text.len() > VALUES_MAX {
            self.left_out += 1;
            return;
        }
        self.bytes += text.len();
        self.fields.push((name, value));
    }

    /// The whole line, with its line break.
    pub(super) fn line(&self, form: Form, at: SystemTime, level: Level, target: &str) -> String {
        // Writing to a string does not fail.
        let mut line = String::with_capacity(128 + self.message.len() + self.bytes);
        let _ = match form.format {
            LogFormat::Text => self.text(&mut line, form.ansi, at, level, target),
            LogFormat::Json => self.json(&mut line, at, level, target),
        };
        line.push('\n');
        line
    }

    fn text(&self, to: &mut String, ansi: bool, at: SystemTime, level: Level, target: &str) -> fmt::Result {
        let colour = match level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG => "34",
            Level::TRACE => "35",
        };
        let [dim, colour, plain] = if ansi {
            ["\u{1b}[2m".to_owned(), format!("\u{1b}[{colour}m"), "\u{1b}[0m".to_owned()]
        } else {
            Default::default()
        };
        let at = humantime::format_rfc3339_micros(at);
        write!(to, "{dim}{at}{plain} {colour}{level:>5}{plain} {dim}{target}:{plain} {}", self.message)?;
        for (name, value) in &self.fields {
            match value {
                Value::Quoted(text) => write!(to, " {name}=\"{}\"", text.replace('"', "\\\""))?,
                Value::Plain(text) | Value::Bare(text) => write!(to, " {name}={text}")?,
            }
        }
        if self.left_out > 0 { write!(to, " and {} fields more", self.left_out) } else { Ok(()) }
    }

    fn json(&self, to: &mut String, at: SystemTime, level: Level, target: &str) -> fmt::Result {
        let text = |text: &str| serde_json::Value::from(text);
        // A key that is there twice is another value for each parser: the second one gets a number.
        let mut used: Vec<Cow<'_, str>> = KEYS.map(Cow::Borrowed).to_vec();
        let at = humantime::format_rfc3339_micros(at);
        write!(to, "{{\"timestamp\":\"{at}\",\"level\":\"{level}\",\"message\":{}", text(&self.message))?;
        for (name, value) in &self.fields {
            let name = if KEYS.contains(name) { Cow::Owned(format!("field_{name}")) } else { Cow::Borrowed(*name) };
            let again = (2..).map(|nth| Cow::Owned(format!("{name}_{nth}")));
            let unused = std::iter::once(name.clone()).chain(again).find(|key| !used.contains(key));
            let Some(key) = unused else { continue };
            match value {
                Value::Quoted(value) | Value::Plain(value) => write!(to, ",{}:{}", text(&key), text(value))?,
                Value::Bare(value) => write!(to, ",{}:{value}", text(&key))?,
            }
            used.push(key);
        }
        if self.left_out > 0 {
            write!(to, ",\"fields_left_out\":{}", self.left_out)?;
        }
        write!(to, ",\"target\":{}}}", text(target))
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = escaped(format_args!("{value:?}"));
        if field.name() == "message" && self.message.is_empty() {
            self.message = text;
        } else {
            self.put(name(field), Value::Plain(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" && self.message.is_empty() {
            self.message = escaped(format_args!("{value}"));
        } else {
            self.put(name(field), Value::Quoted(escaped(format_args!("{value}"))));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(name(field), Value::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(name(field), Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(name(field), Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        let text = value.to_string();
        self.put(name(field), if value.is_finite() { Value::Bare(text) } else { Value::Plain(text) });
    }
}

/// The field's name without the mark of Rust's raw identifiers.
fn name(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or_else(|| field.name())
}

fn escaped(text: fmt::Arguments<'_>) -> String {
    let mut shown = String::new();
    let mut escaping = Escaping::new(&mut shown, VALUE_MAX);
    // A value that cannot be written is shown as far as it goes.
    let _ = escaping.write_fmt(text);
    let _ = escaping.finish();
    shown
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// The line that `log` makes, in both forms.
    fn lines(log: impl FnOnce()) -> [String; 2] {
        struct Taken(Arc<Mutex<Vec<[String; 2]>>>);
        impl<S: tracing::Subscriber> Layer<S> for Taken {
            fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
                let (mut said, meta) = (Said::default(), event.metadata());
                event.record(&mut said);
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_250);
                let line = |format| said.line(Form { format, ansi: false }, at, *meta.level(), "forewarm::x");
                self.0.lock().unwrap().push([line(LogFormat::Text), line(LogFormat::Json)]);
            }
        }
        let taken = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Taken(Arc::clone(&taken)));
        tracing::subscriber::with_default(subscriber, log);
        taken.lock().unwrap().pop().unwrap()
    }

    #[test]
    fn a_line_has_its_message_and_its_fields() {
        let [text, json] = lines(|| {
            tracing::warn!(function = %"shop/echo", reason = "no \"such\"", number = 7, is = true, part = 0.5, list = ?[1], "said");
        });
        assert_eq!(
            text,
            "2026-01-01T00:00:00.250000Z  WARN forewarm::x: said function=shop/echo reason=\"no \\\"such\\\"\" number=7 is=true \
             part=0.5 list=[1]\n"
        );
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let wanted = serde_json::json!({
            "timestamp": "2026-01-01T00:00:00.250000Z", "level": "WARN", "target": "forewarm::x", "message": "said",
            "function": "shop/echo", "reason": "no \"such\"", "number": 7, "is": true, "part": 0.5, "list": "[1]",
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn foreign_text_forges_no_line_and_no_colour_and_no_key() {
        let foreign = "\n2026-01-01T00:00:00Z  INFO forewarm: forged\u{1b}[2J\u{9b}\u{202e}\", \"level\":\"ERROR";
        let [text, json] = lines(|| tracing::info!(uri = %foreign, quoted = foreign, debug = ?foreign, "{foreign}"));
        for line in [&text, &json] {
            let line = line.strip_suffix('\n').unwrap();
            let controls = line.chars().filter(|c| c.is_control() || matches!(c, '\u{202e}')).count();
            assert_eq!(controls, 0, "{line:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["level"].as_str(), json.as_object().unwrap().len()), (Some("INFO"), 7));
    }

    #[test]
    fn a_line_is_bounded() {
        let long = "x".repeat(1 << 20);
        let [text, json] = lines(|| tracing::info!(a = long, b = %long, c = %long, d = %long, e = 1, "{long}"));
        for line in [&text, &json] {
            assert!(line.len() < VALUES_MAX + VALUE_MAX + 1_024, "{}", line.len());
        }
        assert!(text.ends_with(" e=1 and 1 fields more\n"), "{}", &text[text.len() - 100..]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["fields_left_out"].as_u64(), json["e"].as_u64()), (Some(1), Some(1)));
    }

    #[test]
    fn each_key_of_json_is_there_once() {
        let said = Said::new("said").with("a", "1").with("a", "2").with("a_2", "3").with("field_level", "4");
        let said = said.with("level", "5").with("message", "6").with("fields_left_out", "7");
        let line = said.line(Form { format: LogFormat::Json, ansi: false }, SystemTime::UNIX_EPOCH, Level::INFO, "t");
        let wanted = concat!(
            r#"{"timestamp":"1970-01-01T00:00:00.000000Z","level":"INFO","message":"said","a":"1","a_2":"2","a_2_2":"3","#,
            r#""field_level":"4","field_level_2":"5","field_message":"6","field_fields_left_out":"7","target":"t"}"#,
        );
        assert_eq!(line.trim_end(), wanted);
    }

    #[test]
    fn a_field_does_not_take_a_key_of_jsons_own() {
        let said = Said::new("said").with("message", "other").with("level", "high");
        let form = Form { format: LogFormat::Json, ansi: false };
        let line = said.line(form, SystemTime::UNIX_EPOCH, Level::INFO, "t");
        assert_eq!(line.matches("\"message\"").count(), 1, "{line}");
        assert!(line.contains("\"field_message\":\"other\",\"field_level\":\"high\""), "{line}");
    }
}
