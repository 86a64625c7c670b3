//! What can be wrong with the bytes of an event, sorted by what the caller does about it.
//!
//! Duty: the room's errors, their texts and the closed set of labels that counters use. Must not: decide what becomes of
//! a refused event; `ingest` does.

use super::{EventKind, SchemaKey};

/// Why bytes are no event. Only [`DecodeError::SchemaUnavailable`] may pass when the same bytes are tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message has no value (a tombstone), or an empty one.
    #[error("an event of kind {kind} was expected and the message is empty")]
    Empty {
        /// What was expected.
        kind: EventKind,
    },
    /// None of the three wire formats.
    #[error(
        "not an event of kind {kind}: it begins with {begins} and its content-type is {content_type}; send Avro \
         single-object (c3 01 and a fingerprint), Confluent framing (00 and a schema id, or the header \
         __value_schema_id), or JSON with the header content-type: application/json"
    )]
    UnknownFormat {
        /// What was expected.
        kind: EventKind,
        /// The first bytes, at most 8, in hexadecimal.
        begins: String,
        /// The header, cut, or `absent`.
        content_type: String,
    },
    /// The message ends within its own framing.
    #[error("an event of kind {kind} in {format} needs at least {needed} bytes and has {found}")]
    Truncated {
        /// What was expected.
        kind: EventKind,
        /// Which framing it began.
        format: &'static str,
        /// Bytes of the framing.
        needed: usize,
        /// Bytes of the message.
        found: usize,
    },
    /// A single-object fingerprint that no embedded schema has.
    #[error(
        "no schema of kind {kind} with fingerprint {:016x} is known here (the current one has {:016x}); \
         update this node, or send with Confluent framing and a schema registry",
        // As it stands in the message, where the lowest byte comes first.
        fingerprint.swap_bytes(), current.swap_bytes()
    )]
    UnknownFingerprint {
        /// What was expected.
        kind: EventKind,
        /// CRC-64-AVRO in the message.
        fingerprint: u64,
        /// CRC-64-AVRO of the schema that this node writes.
        current: u64,
    },
    /// The header that names the writer's schema has no form that is known.
    #[error(
        "the header __value_schema_id of an event of kind {kind} names no schema: it has {bytes} bytes and begins with {begins}; it \
         should be 00 and an id of 4 bytes, or 01 and a GUID of 16 bytes"
    )]
    SchemaHeader {
        /// What was expected.
        kind: EventKind,
        /// Bytes of the header.
        bytes: usize,
        /// The first of them, at most 8, in hexadecimal.
        begins: String,
    },
    /// The schema registry does not know the schema.
    #[error(
        "an event of kind {kind} names {schema}, which the schema registry does not know; or no registry is configured \
         (kafka.schema-registry-url)"
    )]
    UnknownSchema {
        /// What was expected.
        kind: EventKind,
        /// What the message names.
        schema: SchemaKey,
    },
    /// The schema registry cannot be asked now.
    #[error("{schema} of an event of kind {kind} cannot be looked up now: {cause}")]
    SchemaUnavailable {
        /// What was expected.
        kind: EventKind,
        /// What the message names.
        schema: SchemaKey,
        /// What the registry's client says.
        cause: String,
    },
    /// The schema registry's answer is no schema that is read here.
    #[error("{schema} of an event of kind {kind} is not usable: {cause}")]
    InvalidSchema {
        /// What was expected.
        kind: EventKind,
        /// What the message names.
        schema: SchemaKey,
        /// What is wrong with it.
        cause: String,
    },
    /// The writer's schema describes something else: the event was sent to the wrong topic.
    #[error(
        "an event of kind {kind} was expected and the message's schema describes {found}; send it to its own topic"
    )]
    OtherEvent {
        /// What was expected.
        kind: EventKind,
        /// The record's name in the writer's schema.
        found: String,
    },
    /// The datum does not hold what the writer's schema says, or that cannot be read as the reader's schema.
    #[error("malformed event of kind {kind}: {fault}")]
    Malformed {
        /// What was expected.
        kind: EventKind,
        /// Where and what.
        fault: String,
    },
    /// Bytes are left after the datum.
    #[error("{count} bytes are left after an event of kind {kind}; one message holds one event")]
    TrailingBytes {
        /// What was expected.
        kind: EventKind,
        /// How many.
        count: usize,
    },
    /// The JSON text is no such event.
    #[error("malformed JSON event of kind {kind}: {fault}")]
    MalformedJson {
        /// What was expected.
        kind: EventKind,
        /// Where and what.
        fault: String,
    },
    /// A field holds a value that its type allows and its meaning does not.
    #[error("event of kind {kind} refused: {fault}")]
    OutOfBounds {
        /// What was expected.
        kind: EventKind,
        /// Which field, and its bounds.
        fault: OutOfBounds,
    },
    /// The message is larger than one may be; it was not looked at.
    #[error("the message has {bytes} bytes of key and value, and may have {bytes_max} (ingest.message-bytes-max)")]
    TooLarge {
        /// Bytes of key and value.
        bytes: usize,
        /// The bound (inclusive).
        bytes_max: usize,
    },
    /// The message has more headers, or larger ones, than it may; it was not looked at.
    #[error(
        "{seen}, and the message may have {count_max} (ingest.headers-max) of {bytes_max} bytes in all (ingest.headers-bytes-max)"
    )]
    TooManyHeaders {
        /// How many there are, and of how many bytes, as far as they were looked at.
        seen: String,
        /// Most headers (inclusive).
        count_max: usize,
        /// Most bytes of names and values (inclusive).
        bytes_max: usize,
    },
    /// A batch that cannot be read, and was passed over because it is too large or the configuration says so.
    #[error("offsets {first} to {last} could not be read for {waited_s} s, and were passed over: {cause}")]
    Unreadable {
        /// The first offset that is lost.
        first: i64,
        /// The last (inclusive).
        last: i64,
        /// How long they were tried, in seconds.
        waited_s: u64,
        /// The words of the client.
        cause: String,
    },
}

impl DecodeError {
    /// Every label that [`DecodeError::reason`] answers with.
    pub const REASONS: [&'static str; 13] = [
        "empty",
        "unknown_format",
        "truncated",
        "unknown_schema",
        "schema_unavailable",
        "invalid_schema",
        "other_event",
        "malformed",
        "trailing_bytes",
        "out_of_bounds",
        "too_large",
        "too_many_headers",
        "unreadable",
    ];

    /// Whether the same bytes may be decoded later. All others are dead letters.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::SchemaUnavailable { .. })
    }

    /// A short label for counters and dead-letter headers, one of [`DecodeError::REASONS`].
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "empty",
            Self::UnknownFormat { .. } | Self::SchemaHeader { .. } => "unknown_format",
            Self::Truncated { .. } => "truncated",
            Self::UnknownFingerprint { .. } | Self::UnknownSchema { .. } => "unknown_schema",
            Self::SchemaUnavailable { .. } => "schema_unavailable",
            Self::InvalidSchema { .. } => "invalid_schema",
            Self::OtherEvent { .. } => "other_event",
            Self::Malformed { .. } | Self::MalformedJson { .. } => "malformed",
            Self::TrailingBytes { .. } => "trailing_bytes",
            Self::OutOfBounds { .. } => "out_of_bounds",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyHeaders { .. } => "too_many_headers",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// Why an event cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A reader would refuse it.
    #[error("event of kind {kind} not written: {fault}")]
    OutOfBounds {
        /// What was to be written.
        kind: EventKind,
        /// Which field, and its bounds.
        fault: OutOfBounds,
    },
    /// It has no form in the format, such as an integer above Avro's `long`.
    #[error("event of kind {kind} not written: {fault}")]
    Unrepresentable {
        /// What was to be written.
        kind: EventKind,
        /// What is wrong.
        fault: String,
    },
}

/// A field whose value is outside what it may mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {fault}")]
pub struct OutOfBounds {
    /// The field, as in the schema.
    pub field: &'static str,
    /// What it must be, and what it is.
    pub fault: String,
}

/// An Avro schema that cannot be the writer's schema of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema of kind {kind} is not usable: {cause}")]
pub struct InvalidSchema {
    /// What it should describe.
    pub kind: EventKind,
    /// What is wrong with it.
    pub cause: String,
}

/// Longest text from outside that an error carries on, in bytes: a message of a megabyte must not become a log line of one.
const TEXT_MAX: usize = 256;

/// `text`, cut at [`TEXT_MAX`].
pub(super) fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
    }
    text
}
