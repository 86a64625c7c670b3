//! Events to bytes and back: the wire formats, the schemas, and what a field may mean.
//!
//! Duty: whatever bytes come, answer with an event or with a [`DecodeError`] that says what was seen and what is accepted.
//! Hostile bytes cost what honest bytes of their length cost: nothing is allocated on the word of a length prefix, nothing
//! recurses on theirs, nothing panics. Must not: do I/O, ask a registry (the shell implements [`WriterSchemas`]), or judge
//! whether a function exists.
//!
//! On the way: `ingest` → **codec** → `control`, and back out through **codec** → `publish`.
//! The reader takes one pass over the bytes and copies each field once, the payload included (see `de`); the writer makes
//! one buffer (see `ser`). `benches/codec.rs` holds both against `apache-avro`'s own ways.

mod bounds;
mod de;
mod error;
mod fault;
mod fingerprint;
mod input;
mod json;
#[cfg(test)]
mod properties;
mod schema;
mod ser;
#[cfg(test)]
mod tests;
mod wire;

pub use bounds::{ATTRIBUTES_BYTES_MAX, ATTRIBUTES_MAX, ID_BYTES_MAX, WINDOW_MS_MAX};
pub use error::{DecodeError, EncodeError, InvalidSchema, OutOfBounds};
pub use schema::{Event, EventKind, NoSchemaRegistry, SchemaKey, SchemaLookup, WriterSchema, WriterSchemas};
pub use wire::{HEADER_CONTENT_TYPE, HEADER_SCHEMA_ID, ValueHeaders, WireFormat};

use apache_avro::Schema;

use error::cut;
use schema::{EnumDefaults, Known};
use wire::Frame;

use crate::types::Timestamp;

/// The media type of Avro in either framing, for the content-type header of messages that are written.
pub const CONTENT_TYPE_AVRO: &str = "application/avro";
/// The media type of JSON events; a message without it is not read as JSON.
pub const CONTENT_TYPE_JSON: &str = "application/json";

/// Bytes of an event's buffer at the start: more than most events without their payload.
const BUFFER_LEN: usize = 512;

/// The schemas of every event, parsed once. Cheap to share: it never changes.
#[derive(Debug)]
pub struct Codec {
    kinds: [Kind; EventKind::ALL.len()],
}

/// What is known about one kind of event.
#[derive(Debug)]
struct Kind {
    kind: EventKind,
    /// What this build writes.
    current: Known,
    /// What else is read by fingerprint.
    older: Vec<Known>,
    defaults: EnumDefaults,
}

impl Codec {
    /// With the embedded schemas: the current ones and those of earlier releases.
    #[expect(clippy::expect_used, reason = "the schemas are part of the build, and tests/schemas.rs parses every one")]
    pub fn new() -> Self {
        Self::with_writers(&[]).expect("embedded schemas parse")
    }

    /// Like [`Codec::new`], and reads single-object messages of these writers too, each the text of a schema of its kind.
    ///
    /// # Errors
    /// Where one is no Avro schema, or does not describe a record of the kind's name.
    pub fn with_writers(writers: &[(EventKind, &str)]) -> Result<Self, InvalidSchema> {
        let kind = |kind: EventKind| {
            let added = writers.iter().filter(|(of, _)| *of == kind).map(|(_, json)| *json);
            let older = kind.older_schemas_json().iter().copied().chain(added);
            let older = older.map(|json| Known::parse(kind, json)).collect::<Result<_, _>>()?;
            let current = Known::parse(kind, kind.schema_json())?;
            let defaults = EnumDefaults::of(&current.schema);
            Ok(Kind { kind, current, older, defaults })
        };
        let [first, second, third, fourth, fifth, sixth, seventh, eighth] = EventKind::ALL;
        let (first, second, third) = (kind(first)?, kind(second)?, kind(third)?);
        let kinds = [first, second, third, kind(fourth)?, kind(fifth)?, kind(sixth)?, kind(seventh)?, kind(eighth)?];
        Ok(Self { kinds })
    }

    fn kind(&self, kind: EventKind) -> &Kind {
        &self.kinds[kind as usize]
    }

    /// The current schema of `kind`.
    pub fn schema(&self, kind: EventKind) -> &Schema {
        &self.kind(kind).current.schema
    }

    /// The CRC-64-AVRO fingerprint of the current schema of `kind`. On the wire its bytes stand in little-endian order.
    pub fn fingerprint(&self, kind: EventKind) -> u64 {
        self.kind(kind).current.fingerprint
    }

    /// The event in a message's value.
    ///
    /// `headers` are those of the message that say something of its value; a content-type alone may stand for them. `writers` is
    /// asked where a header or Confluent framing names a schema.
    ///
    /// # Errors
    /// Where the bytes are no event of this kind. Only a [`DecodeError::retryable`] error may pass with time.
    pub fn decode<'h, E: Event>(
        &self,
        bytes: &[u8],
        headers: impl Into<ValueHeaders<'h>>,
        writers: &dyn WriterSchemas,
    ) -> Result<E, DecodeError> {
        let kind = E::KIND;
        let headers = headers.into();
        let event: E = match Frame::of(kind, bytes, headers)? {
            Frame::SingleObject { fingerprint, datum } => {
                let writer = self.writer(kind, fingerprint)?;
                self.read(datum, writer)?
            }
            Frame::Registered { schema, left, datum } => {
                let writer = writers.find(schema).map_err(|lookup| match lookup {
                    SchemaLookup::Unknown => DecodeError::UnknownSchema { kind, schema },
                    SchemaLookup::Unavailable(cause) => {
                        DecodeError::SchemaUnavailable { kind, schema, cause: cut(cause) }
                    }
                    SchemaLookup::Invalid(cause) => DecodeError::InvalidSchema { kind, schema, cause: cut(cause) },
                })?;
                if left > 0 {
                    return Err(wire::no_schema_id(kind, headers.schema_id.unwrap_or_default()));
                }
                self.registered(datum, &writer)?
            }
            Frame::Json(text) => Self::json(text)?,
        };
        event.check().map_err(|fault| DecodeError::OutOfBounds { kind, fault })?;
        Ok(event)
    }

    /// Like [`Codec::decode`], for a message that was recorded at `recorded_at`: what the event leaves open of its own time is that
    /// time.
    ///
    /// # Errors
    /// As of [`Codec::decode`].
    pub fn decode_recorded<'h, E: Event>(
        &self,
        bytes: &[u8],
        headers: impl Into<ValueHeaders<'h>>,
        writers: &dyn WriterSchemas,
        recorded_at: Timestamp,
    ) -> Result<E, DecodeError> {
        let mut event: E = self.decode(bytes, headers, writers)?;
        event.recorded(recorded_at);
        Ok(event)
    }

    /// The bytes of an event.
    ///
    /// # Errors
    /// Where a reader would refuse it, or it has no form in the format.
    pub fn encode<E: Event>(&self, event: &E, format: WireFormat) -> Result<Vec<u8>, EncodeError> {
        let kind = E::KIND;
        event.check().map_err(|fault| EncodeError::OutOfBounds { kind, fault })?;
        let mut bytes = Vec::with_capacity(BUFFER_LEN);
        match format {
            WireFormat::SingleObject => {
                bytes.extend_from_slice(&wire::SINGLE_OBJECT);
                bytes.extend_from_slice(&self.fingerprint(kind).to_le_bytes());
            }
            WireFormat::Confluent { schema_id } => {
                bytes.push(wire::CONFLUENT);
                bytes.extend_from_slice(&schema_id.to_be_bytes());
            }
            WireFormat::Json => {
                serde_json::to_writer(&mut bytes, event)
                    .map_err(|fault| EncodeError::Unrepresentable { kind, fault: cut(fault.to_string()) })?;
                return Ok(bytes);
            }
        }
        ser::write_datum(event, &mut bytes)
            .map_err(|fault| EncodeError::Unrepresentable { kind, fault: cut(fault.to_string()) })?;
        Ok(bytes)
    }

    /// The writer's schema with this fingerprint.
    fn writer(&self, kind: EventKind, fingerprint: u64) -> Result<&Schema, DecodeError> {
        let mine = self.kind(kind);
        let mut known = std::iter::once(&mine.current).chain(&mine.older);
        if let Some(known) = known.find(|known| known.wrote(fingerprint)) {
            return Ok(&known.schema);
        }
        let other = self.kinds.iter().find(|other| other.current.wrote(fingerprint));
        Err(match other {
            Some(other) => DecodeError::OtherEvent { kind, found: other.kind.record_name().to_owned() },
            None => DecodeError::UnknownFingerprint { kind, fingerprint, current: mine.current.fingerprint },
        })
    }

    /// The event in what a registered schema of its writer describes.
    fn registered<E: Event>(&self, datum: &[u8], writer: &WriterSchema) -> Result<E, DecodeError> {
        let WriterSchema::Avro(writer) = writer else { return Self::json(datum) };
        let (kind, found) = (E::KIND, schema::written(writer, datum));
        if found != kind.record_name() {
            return Err(DecodeError::OtherEvent { kind, found: cut(found.to_owned()) });
        }
        self.read(datum, writer)
    }

    fn json<E: Event>(text: &[u8]) -> Result<E, DecodeError> {
        let kind = E::KIND;
        json::read(text, kind.free_payload())
            .map_err(|fault| DecodeError::MalformedJson { kind, fault: cut(fault.to_string()) })
    }

    fn read<E: Event>(&self, datum: &[u8], writer: &Schema) -> Result<E, DecodeError> {
        let kind = E::KIND;
        let (event, left) = de::read_datum(datum, writer, &self.kind(kind).defaults)
            .map_err(|fault| DecodeError::Malformed { kind, fault: cut(fault.to_string()) })?;
        match left {
            0 => Ok(event),
            count => Err(DecodeError::TrailingBytes { kind, count }),
        }
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self::new()
    }
}
