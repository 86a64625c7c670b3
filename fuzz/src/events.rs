//! Messages of every topic: any bytes as each kind of event, in each wire format.
//!
//! What is read must come back: written in any of the three formats and read again it is the same event, and the second
//! writing gives the same bytes. What is refused must be refused in few words.

use std::sync::{Arc, LazyLock};

use apache_avro::Schema;
use forewarm::codec::{
    CONTENT_TYPE_JSON, Codec, DecodeError, EncodeError, Event, EventKind, SchemaKey, SchemaLookup, WireFormat,
    WriterSchema, WriterSchemas,
};
use forewarm::types::{
    ForecastSnapshot, FunctionDefinition, FunctionLog, FunctionStatus, Invocation, InvocationResult, PreTrigger,
    PreTriggerOutcome,
};
use serde_json::Value;

/// Longest text of a refusal, in bytes: it becomes a log line and a header.
const REFUSAL_BYTES_MAX: usize = 1_024;

/// The schema ids of writers of other releases, as [`seeds`](super::seeds) use them.
pub const NEWER_RESULT_ID: u32 = EventKind::ALL.len() as u32;
/// See [`NEWER_RESULT_ID`].
pub const OLDER_INVOCATION_ID: u32 = NEWER_RESULT_ID + 1;
/// The id of a schema that cannot be had now.
const UNAVAILABLE_ID: u32 = NEWER_RESULT_ID + 2;
/// The id of a schema that is none.
const INVALID_ID: u32 = NEWER_RESULT_ID + 3;
/// The id of a JSON Schema.
const JSON_ID: u32 = NEWER_RESULT_ID + 4;

/// A result's schema of a later release: a field more, an enum symbol more.
pub const NEWER_RESULT: &str = include_str!("../../schemas/examples/invocation-result.newer.avsc");
/// An invocation's schema of an earlier release.
pub const OLDER_INVOCATION: &str = include_str!("../../schemas/examples/invocation.older.avsc");

/// The codec under test.
pub static CODEC: LazyLock<Codec> = LazyLock::new(|| {
    Codec::with_writers(&[(EventKind::Invocation, OLDER_INVOCATION)]).expect("an example of the repository")
});

/// The first ids are the kinds' own schemas; then come those of other releases.
pub struct Writers(Vec<Arc<Schema>>);

/// See [`Writers`].
pub static WRITERS: LazyLock<Writers> = LazyLock::new(|| {
    let own = EventKind::ALL.map(EventKind::schema_json);
    let all = own.into_iter().chain([NEWER_RESULT, OLDER_INVOCATION]);
    Writers(all.map(|json| Arc::new(Schema::parse_str(json).expect("a schema of the repository"))).collect())
});

impl WriterSchemas for Writers {
    fn find(&self, key: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        match key {
            SchemaKey::Id(UNAVAILABLE_ID) => Err(SchemaLookup::Unavailable("not now".repeat(100))),
            SchemaKey::Id(INVALID_ID) => Err(SchemaLookup::Invalid("not one".repeat(100))),
            SchemaKey::Id(JSON_ID) => Ok(WriterSchema::Json),
            SchemaKey::Id(id) => self.0.get(id as usize).cloned().map(WriterSchema::Avro).ok_or(SchemaLookup::Unknown),
            SchemaKey::Guid(_) => Err(SchemaLookup::Unknown),
        }
    }
}

/// Any bytes as every kind of event.
pub fn events(bytes: &[u8]) {
    decode::<PreTrigger>(bytes);
    decode::<Invocation>(bytes);
    decode::<InvocationResult>(bytes);
    decode::<FunctionDefinition>(bytes);
    decode::<PreTriggerOutcome>(bytes);
    decode::<ForecastSnapshot>(bytes);
    decode::<FunctionStatus>(bytes);
    decode::<FunctionLog>(bytes);
}

fn decode<E: Event>(bytes: &[u8]) {
    match CODEC.decode::<E>(bytes, Some(CONTENT_TYPE_JSON), &*WRITERS) {
        Ok(event) => comes_back(&event),
        Err(refusal) => is_short(&refusal),
    }
}

/// A refusal has a label that counters know, and few words.
pub fn is_short(refusal: &DecodeError) {
    assert!(DecodeError::REASONS.contains(&refusal.reason()), "{}", refusal.reason());
    let bytes = refusal.to_string().len();
    assert!(bytes <= REFUSAL_BYTES_MAX, "a refusal of {bytes} bytes: {refusal}");
}

/// An event that was read can be written, and is read as the same again.
///
/// Events are compared as JSON, which every field is part of: times come back to the millisecond, as they travel. The second
/// writing gives the same bytes, but where JSON rounds a fraction.
pub fn comes_back<E: Event>(event: &E) {
    let json = serde_json::to_vec(event).expect("an event has a form as JSON");
    let formats = [WireFormat::SingleObject, WireFormat::Confluent { schema_id: E::KIND as u32 }, WireFormat::Json];
    for format in formats {
        let bytes = match CODEC.encode(event, format) {
            Ok(bytes) => bytes,
            Err(EncodeError::Unrepresentable { .. }) if format != WireFormat::Json && is_beyond_avro(&value(&json)) => {
                continue;
            }
            Err(refusal) => panic!("read, and not written: {refusal}"),
        };
        let back: E = match CODEC.decode(&bytes, Some(CONTENT_TYPE_JSON), &*WRITERS) {
            Ok(back) => back,
            Err(refusal) => panic!("written as {format:?}, and not read: {refusal}"),
        };
        let written = serde_json::to_vec(&back).unwrap();
        if format == WireFormat::Json {
            assert!(is_near(&value(&written), &value(&json)), "{}", String::from_utf8_lossy(&written));
            continue;
        }
        assert_eq!(written, json, "{format:?}");
        assert_eq!(CODEC.encode(&back, format).unwrap(), bytes, "{format:?}");
    }
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("it was just written")
}

/// Whether a number in it is above Avro's largest.
fn is_beyond_avro(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| i64::try_from(number).is_err()),
        Value::Array(items) => items.iter().any(is_beyond_avro),
        Value::Object(fields) => fields.values().any(is_beyond_avro),
        _ => false,
    }
}

/// Whether two are the same, but for the last bits of fractions: reading a decimal fraction may round another way.
fn is_near(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            one == other || (one - other).abs() <= 4.0 * f64::EPSILON * one.abs()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_near(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| is_near(one, other)))
        }
        _ => one == other,
    }
}
