//! The wire formats, told apart by a header that names a schema, and else by their first bytes.
//!
//! Must not: look into the datum.

use super::error::{DecodeError, cut};
use super::{EventKind, SchemaKey};

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFormat {
    /// Avro single-object encoding: `c3 01`, the schema's CRC-64-AVRO in 8 bytes little-endian, the datum.
    SingleObject,
    /// Confluent framing: `00`, the schema's id in 4 bytes big-endian, the datum.
    Confluent {
        /// The id under which the registry has the current schema of the event's kind.
        schema_id: u32,
    },
    /// JSON of the same shape; the message needs the header `content-type: application/json`.
    Json,
}

/// The marker of single-object encoding, version 1.
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
/// The "magic byte" of Confluent framing.
pub(super) const CONFLUENT: u8 = 0;

/// Bytes of a single-object header.
pub(super) const SINGLE_OBJECT_LEN: usize = 10;
/// Bytes of a Confluent header.
pub(super) const CONFLUENT_LEN: usize = 5;

/// The header in which Confluent's serializers from 8.0 on put a value's schema. The one of a key (`__key_schema_id`) says nothing
/// of the value: keys are bytes here, and are handed on as they are.
pub const HEADER_SCHEMA_ID: &str = "__value_schema_id";
/// The header that says that a value is JSON.
pub const HEADER_CONTENT_TYPE: &str = "content-type";

/// The first byte of [`HEADER_SCHEMA_ID`] where an id follows (4 bytes, big-endian), and where a GUID does (16 bytes).
const HEADER_ID: u8 = 0;
const HEADER_GUID: u8 = 1;

/// The headers of a message that say something of its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ValueHeaders<'h> {
    /// Its media type. It matters only where nothing else says how the value is written.
    pub content_type: Option<&'h str>,
    /// The writer's schema, in the form of [`HEADER_SCHEMA_ID`]; an empty one is none.
    pub schema_id: Option<&'h [u8]>,
}

impl<'h> ValueHeaders<'h> {
    /// Takes them from wherever `header` finds the value of a header by its name.
    pub fn of(header: impl Fn(&str) -> Option<&'h [u8]>) -> Self {
        let content_type = header(HEADER_CONTENT_TYPE).and_then(|value| std::str::from_utf8(value).ok());
        Self { content_type, schema_id: header(HEADER_SCHEMA_ID) }
    }
}

impl<'h> From<Option<&'h str>> for ValueHeaders<'h> {
    /// A content-type alone.
    fn from(content_type: Option<&'h str>) -> Self {
        Self { content_type, schema_id: None }
    }
}

/// The schema that [`HEADER_SCHEMA_ID`] names, and how many bytes follow it: Protobuf's serializer puts some there.
fn named(kind: EventKind, value: &[u8]) -> Result<(SchemaKey, usize), DecodeError> {
    let (key, rest) = match value.split_first() {
        Some((&HEADER_ID, rest)) => match rest.split_first_chunk::<4>() {
            Some((id, rest)) => (SchemaKey::Id(u32::from_be_bytes(*id)), rest),
            None => return Err(no_schema_id(kind, value)),
        },
        Some((&HEADER_GUID, rest)) => match rest.split_first_chunk::<16>() {
            Some((guid, rest)) => (SchemaKey::Guid(*guid), rest),
            None => return Err(no_schema_id(kind, value)),
        },
        _ => return Err(no_schema_id(kind, value)),
    };
    Ok((key, rest.len()))
}

/// The refusal of a header that names no schema in a form that is known.
pub(super) fn no_schema_id(kind: EventKind, value: &[u8]) -> DecodeError {
    DecodeError::SchemaHeader { kind, bytes: value.len(), begins: begins(value) }
}

/// The first bytes, at most 8, in hexadecimal.
fn begins(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// A message's value, taken out of its framing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'b> {
    SingleObject {
        fingerprint: u64,
        datum: &'b [u8],
    },
    /// `left` is how many bytes the header that names the schema has behind it.
    Registered {
        schema: SchemaKey,
        left: usize,
        datum: &'b [u8],
    },
    Json(&'b [u8]),
}

impl<'b> Frame<'b> {
    /// A header that names a schema comes first: the value then has no framing, and may begin with any bytes. Then Avro's markers:
    /// no JSON text begins with either, so a wrong content-type does no harm to them.
    pub(super) fn of(kind: EventKind, bytes: &'b [u8], headers: ValueHeaders<'_>) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty { kind });
        }
        if let Some(header) = headers.schema_id.filter(|header| !header.is_empty()) {
            let (schema, left) = named(kind, header)?;
            return Ok(Self::Registered { schema, left, datum: bytes });
        }
        if bytes.starts_with(&SINGLE_OBJECT) {
            let Some((header, datum)) = bytes[2..].split_first_chunk::<8>() else {
                let format = "Avro single-object encoding";
                return Err(DecodeError::Truncated { kind, format, needed: SINGLE_OBJECT_LEN, found: bytes.len() });
            };
            return Ok(Self::SingleObject { fingerprint: u64::from_le_bytes(*header), datum });
        }
        if bytes[0] == CONFLUENT {
            let Some((header, datum)) = bytes[1..].split_first_chunk::<4>() else {
                let format = "Confluent framing";
                return Err(DecodeError::Truncated { kind, format, needed: CONFLUENT_LEN, found: bytes.len() });
            };
            return Ok(Self::Registered { schema: SchemaKey::Id(u32::from_be_bytes(*header)), left: 0, datum });
        }
        if headers.content_type.is_some_and(is_json) {
            return Ok(Self::Json(bytes));
        }
        Err(DecodeError::UnknownFormat {
            kind,
            begins: begins(bytes),
            content_type: headers.content_type.map_or_else(|| "absent".to_owned(), |header| cut(format!("{header:?}"))),
        })
    }
}

/// Whether a content-type header says `application/json`, in any case and with any parameters.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: EventKind = EventKind::Invocation;

    fn of<'b>(bytes: &'b [u8], content_type: Option<&str>) -> Result<Frame<'b>, DecodeError> {
        Frame::of(KIND, bytes, content_type.into())
    }

    #[test]
    fn formats_are_told_apart_by_their_first_bytes() {
        let single = [0xc3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let expected = Frame::SingleObject { fingerprint: 0x0807_0605_0403_0201, datum: &[9] };
        assert_eq!(of(&single, None), Ok(expected));
        let confluent = [0, 0, 0, 1, 2, 9];
        assert_eq!(of(&confluent, None), Ok(Frame::Registered { schema: SchemaKey::Id(258), left: 0, datum: &[9] }));
        for json in ["application/json", "Application/JSON; charset=utf-8", " application/json ;x"] {
            assert_eq!(of(b"{}", Some(json)), Ok(Frame::Json(b"{}")), "{json}");
            assert_eq!(of(&confluent, Some(json)).unwrap(), of(&confluent, None).unwrap());
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_was_seen() {
        assert_eq!(of(&[], None), Err(DecodeError::Empty { kind: KIND }));
        for json in [None, Some("application/jsonp"), Some("text/plain")] {
            assert_eq!(of(b"{}", json).unwrap_err().reason(), "unknown_format");
        }
        assert_eq!(of(&[0xc3, 1, 0, 0, 0, 0, 0, 0, 0], None).unwrap_err().reason(), "truncated");
        assert_eq!(of(&[0, 0, 0, 1], None).unwrap_err().reason(), "truncated");
        let text = of(b"{\"id\": 1, \"x\": 2}", None).unwrap_err().to_string();
        assert!(text.contains("7b 22 69 64 22 3a 20 31 and its content-type is absent"), "{text}");
        let long = "x".repeat(10_000);
        assert!(of(b"{}", Some(&long)).unwrap_err().to_string().len() < 1_000);
    }

    #[test]
    fn a_header_that_names_a_schema_says_how_all_of_the_value_is_to_be_read() {
        let with = |value: &'static [u8], header: &[u8]| {
            let header = header.to_vec();
            let headers = |name: &str| (name == HEADER_SCHEMA_ID).then_some(header.as_slice());
            Frame::of(KIND, value, ValueHeaders::of(headers))
        };
        let guid: [u8; 16] = std::array::from_fn(|index| index as u8);
        let with_guid = [&[1], guid.as_slice()].concat();
        for value in [b"datum".as_slice(), &[0xc3, 0x01, 9], &[0, 0, 0, 0, 7, 9], b"{}"] {
            let named = |schema, left| Ok(Frame::Registered { schema, left, datum: value });
            assert_eq!(with(value, &[0, 0, 0, 1, 2]), named(SchemaKey::Id(258), 0));
            assert_eq!(with(value, &with_guid), named(SchemaKey::Guid(guid), 0));
            // Protobuf's indexes of messages.
            assert_eq!(with(value, &[&with_guid[..], &[2, 0]].concat()), named(SchemaKey::Guid(guid), 2));
        }
        assert_eq!(SchemaKey::Guid(guid).to_string(), "schema GUID 00010203-0405-0607-0809-0a0b0c0d0e0f");
        for header in [&[0, 0, 0, 1][..], &with_guid[..16], &[2, 0, 0, 0, 7], b"7"] {
            let refused = with(b"datum", header).unwrap_err();
            assert_eq!(refused.reason(), "unknown_format");
            assert!(refused.to_string().contains("__value_schema_id"), "{refused}");
        }
        // Without a value the header is as if it were not there.
        assert_eq!(with(b"datum", &[]).unwrap_err().reason(), "unknown_format");
        assert_eq!(with(&[0, 0, 0, 1, 2, 9], &[]), of(&[0, 0, 0, 1, 2, 9], None));
    }
}
