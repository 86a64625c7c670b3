//! Reads an event from JSON as people write it.
//!
//! Duty: faults that name the field, say what was seen and what is wanted; null for what may be absent; a whole number that is
//! written as a float; a payload that is any JSON value and not a text. Each value is looked at where it lies: no tree is made.
//! Must not: know of framing, nor judge what a value means.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StringDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use super::CONTENT_TYPE_JSON;
use super::fault::Fault;

/// How deep values may be nested (inclusive). None of our events needs more than three, and each step takes stack.
const DEPTH_MAX: u32 = 32;
/// Bytes of a value that a fault shows.
const SHOWN: usize = 40;
/// The largest whole number up to which a float holds every whole number exactly: 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The event in `text`. Where `payload` names a field, its value may be any JSON value: an array, a number, a truth value or an
/// object other than `{"base64": …}` stands for its own text, whose content type is JSON where none is given.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de [u8], payload: Option<&'static str>) -> Result<T, Fault> {
    let raw: &RawValue = serde_json::from_slice(text).map_err(|fault| Fault::new(fault.to_string()))?;
    T::deserialize(Value { seen: Seen::Json(raw), depth: 0, payload })
}

/// A value that was not read yet.
#[derive(Clone, Copy)]
enum Seen<'de> {
    Json(&'de RawValue),
    /// A text that stands for itself.
    Text(&'de str),
}

#[derive(Clone, Copy)]
struct Value<'de> {
    seen: Seen<'de>,
    depth: u32,
    payload: Option<&'static str>,
}

impl fmt::Display for Seen<'_> {
    /// As it is named in a fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, whole) = match self {
            Self::Json(raw) => (raw.get(), raw.get().len()),
            Self::Text(text) => (*text, text.len()),
        };
        let shown = &text[..text.floor_char_boundary(SHOWN)];
        let more = if shown.len() < whole { "…" } else { "" };
        match self.kind() {
            Kind::Null => f.write_str("null"),
            Kind::Boolean => write!(f, "the truth value {text}"),
            Kind::Number => write!(f, "the number {shown}{more}"),
            Kind::Text => write!(f, "the text {shown}{more}"),
            Kind::Array => f.write_str("an array"),
            Kind::Object => f.write_str("an object"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Number,
    Text,
    Array,
    Object,
}

impl<'de> Seen<'de> {
    fn kind(&self) -> Kind {
        let Self::Json(raw) = self else { return Kind::Text };
        // A raw value begins with its first byte that is no space.
        match raw.get().as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::Text,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    fn text(&self) -> Result<Cow<'de, str>, Fault> {
        match self {
            Self::Text(text) => Ok(Cow::Borrowed(text)),
            Self::Json(raw) => text(raw.get()),
        }
    }

    fn boolean(&self) -> Result<bool, Fault> {
        match self {
            Self::Json(raw) if self.kind() == Kind::Boolean => Ok(raw.get() == "true"),
            _ => Err(self.unwanted("true or false")),
        }
    }

    fn number(&self, wanted: &str) -> Result<Number, Fault> {
        let Self::Json(raw) = self else { return Err(self.unwanted(wanted)) };
        if self.kind() != Kind::Number {
            return Err(self.unwanted(wanted));
        }
        let digits = raw.get();
        if let Ok(number) = digits.parse() {
            return Ok(Number::Signed(number));
        }
        if let Ok(number) = digits.parse() {
            return Ok(Number::Unsigned(number));
        }
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Number::Float(number)),
            _ => Err(self.unwanted(wanted)),
        }
    }

    #[cold]
    fn unwanted(&self, wanted: &str) -> Fault {
        Fault::new(format!("{self} is seen, and {wanted} is wanted"))
    }
}

enum Number {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

/// The text of a JSON string.
fn text(json: &str) -> Result<Cow<'_, str>, Fault> {
    let inner = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let owned = serde_json::from_str::<String>(json).map_err(|fault| {
        let fault = fault.to_string();
        // Said of both halves of a pair, and of one that nothing follows.
        let is_half = fault.contains("surrogate") || fault.contains("hex escape");
        Fault::new(if is_half && has_half(inner) {
            "half a character is seen (a lone surrogate, \\ud800 to \\udfff, as a cut emoji leaves), and Unicode text is wanted"
                .to_owned()
        } else {
            fault
        })
    })?;
    Ok(Cow::Owned(owned))
}

/// Whether the text has an escape of a surrogate at all.
fn has_half(inner: &str) -> bool {
    let lower = inner.to_ascii_lowercase();
    ["\\ud8", "\\ud9", "\\uda", "\\udb", "\\udc", "\\udd", "\\ude", "\\udf"].iter().any(|half| lower.contains(half))
}

impl<'de> Value<'de> {
    fn within(self, seen: Seen<'de>) -> Result<Self, Fault> {
        if self.depth >= DEPTH_MAX {
            return Err(Fault::new(format!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(Self { seen, depth: self.depth + 1, payload: None })
    }

    fn entries(&self) -> Result<Vec<(Cow<'de, str>, Seen<'de>)>, Fault> {
        let Seen::Json(raw) = self.seen else { return Err(self.seen.unwanted("an object")) };
        if self.seen.kind() != Kind::Object {
            return Err(self.seen.unwanted("an object"));
        }
        let Entries(entries) = serde_json::from_str(raw.get()).map_err(|fault| Fault::new(fault.to_string()))?;
        Ok(entries)
    }

    fn items(&self) -> Result<Vec<&'de RawValue>, Fault> {
        match self.seen {
            Seen::Json(raw) if self.seen.kind() == Kind::Array => {
                serde_json::from_str(raw.get()).map_err(|fault| Fault::new(fault.to_string()))
            }
            seen => Err(seen.unwanted("an array")),
        }
    }

    /// Has a payload that is no text stand for its own text.
    fn free_payload(&self, entries: &mut Vec<(Cow<'de, str>, Seen<'de>)>) {
        let Some(field) = self.payload else { return };
        let Some((_, value)) = entries.iter_mut().find(|(name, _)| name == field) else { return };
        let Seen::Json(raw) = *value else { return };
        let is_free = match value.kind() {
            Kind::Array | Kind::Number | Kind::Boolean => true,
            Kind::Object => !is_base64(raw),
            Kind::Null | Kind::Text => false,
        };
        if is_free {
            *value = Seen::Text(raw.get());
            // The last entry counts where a name is there twice; this is the first.
            let is_said =
                |(name, value): &(Cow<'de, str>, Seen<'de>)| name == "content_type" && value.kind() != Kind::Null;
            if !entries.iter().any(is_said) {
                entries.retain(|(name, _)| name != "content_type");
                entries.push((Cow::Borrowed("content_type"), Seen::Text(CONTENT_TYPE_JSON)));
            }
        }
    }
}

/// Whether an object is the form of bytes that are no text.
fn is_base64(object: &RawValue) -> bool {
    serde_json::from_str::<Entries<'_>>(object.get())
        .is_ok_and(|Entries(entries)| matches!(entries.as_slice(), [(name, value)] if name == "base64" && value.kind() == Kind::Text))
}

/// The entries of an object, in their order.
struct Entries<'de>(Vec<(Cow<'de, str>, Seen<'de>)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<&'de RawValue>()? {
                    let key = text(key.get()).map_err(A::Error::custom)?;
                    entries.push((key, Seen::Json(map.next_value()?)));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// Methods that read one kind of plain value.
macro_rules! plain {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.seen.number("a whole number")? {
                Number::Signed(number) => visitor.visit_i64(number),
                Number::Unsigned(number) => visitor.visit_u64(number),
                Number::Float(number) if number.fract() == 0.0 && number.abs() <= EXACT_MAX => {
                    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the exact range")]
                    visitor.visit_i64(number as i64)
                }
                Number::Float(_) => Err(self.seen.unwanted("a whole number")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.seen.kind() {
            Kind::Null => visitor.visit_unit(),
            Kind::Boolean => visitor.visit_bool(self.seen.boolean()?),
            Kind::Number => match self.seen.number("a number")? {
                Number::Signed(number) => visitor.visit_i64(number),
                Number::Unsigned(number) => visitor.visit_u64(number),
                Number::Float(number) => visitor.visit_f64(number),
            },
            Kind::Text => self.deserialize_str(visitor),
            Kind::Array => self.deserialize_seq(visitor),
            Kind::Object => self.deserialize_map(visitor),
        }
    }

    plain! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.seen.number("a number")? {
            Number::Signed(number) => visitor.visit_i64(number),
            Number::Unsigned(number) => visitor.visit_u64(number),
            Number::Float(number) => visitor.visit_f64(number),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_bool(self.seen.boolean()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.seen.kind() != Kind::Text {
            return Err(self.seen.unwanted("a text"));
        }
        match self.seen.text()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.seen.kind() {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items = self.items()?;
        visitor.visit_seq(Items { value: self, items: items.into_iter().enumerate() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries = self.entries()?;
        visitor.visit_map(Fields { value: self, entries: entries.into_iter(), next: None })
    }

    /// What is null is as if it were absent.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let mut entries = self.entries()?;
        self.free_payload(&mut entries);
        entries.retain(|(_, value)| value.kind() != Kind::Null);
        visitor.visit_map(Fields { value: self, entries: entries.into_iter(), next: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.seen.kind() != Kind::Text {
            return Err(self.seen.unwanted("a text"));
        }
        visitor.visit_enum(StringDeserializer::new(self.seen.text()?.into_owned()))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The items of an array.
struct Items<'de> {
    value: Value<'de>,
    items: std::iter::Enumerate<std::vec::IntoIter<&'de RawValue>>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((nth, raw)) = self.items.next() else { return Ok(None) };
        let item = self.value.within(Seen::Json(raw))?;
        seed.deserialize(item).map(Some).map_err(|fault| fault.within(&nth.to_string()))
    }
}

/// The entries of an object.
struct Fields<'de> {
    value: Value<'de>,
    entries: std::vec::IntoIter<(Cow<'de, str>, Seen<'de>)>,
    next: Option<(Cow<'de, str>, Seen<'de>)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.next = self.entries.next();
        match &self.next {
            None => Ok(None),
            Some((Cow::Borrowed(name), _)) => seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some),
            Some((Cow::Owned(name), _)) => seed.deserialize(StringDeserializer::new(name.clone())).map(Some),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, seen)) = self.next.take() else {
            return Err(Fault::new("a value was asked for after the last field".to_owned()));
        };
        let value = self.value.within(seen)?;
        seed.deserialize(value).map_err(|fault| fault.within(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Invocation, Payload, PreTrigger, Timestamp};

    fn call(json: &str) -> Result<Invocation, String> {
        read(json.as_bytes(), Some("payload")).map_err(|fault| fault.to_string())
    }

    fn with(field: &str) -> Result<Invocation, String> {
        call(&format!(r#"{{"id": "i", "function": "f", "invoked_at": 5, {field}}}"#))
    }

    #[test]
    fn null_is_as_if_it_were_absent() {
        let event = with(r#""payload": null, "tenant": null, "attributes": null, "content_type": null"#).unwrap();
        assert_eq!((event.payload, event.content_type), (Payload::default(), None));
        assert_eq!(call(r#"{"id": null, "function": "f"}"#).unwrap_err(), "field id: it must be there");
        assert_eq!(
            with(r#""attributes": {"a": null}"#).unwrap_err(),
            "field attributes.a: null is seen, and a text is wanted"
        );
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        for (json, wanted) in [("1.7e12", 1_700_000_000_000), ("5.0", 5), ("-3", -3), ("9007199254740992.0", 1 << 53)] {
            assert_eq!(
                with(&format!(r#""deadline": {json}"#)).unwrap().deadline,
                Some(Timestamp::from_millis(wanted)),
                "{json}"
            );
        }
        for json in ["1.5", "1e300", "18446744073709551616"] {
            let fault = with(&format!(r#""deadline": {json}"#)).unwrap_err();
            assert_eq!(fault, format!("field deadline: the number {json} is seen, and a whole number is wanted"));
        }
        assert_eq!(
            with(r#""deadline": "5""#).unwrap_err(),
            r#"field deadline: the text "5" is seen, and a whole number is wanted"#
        );
        let notice = |confidence: &str| {
            let json = format!(
                r#"{{"id": "n", "source": "s", "function": "f", "emitted_at": 5, "confidence": {confidence}}}"#
            );
            read::<PreTrigger>(json.as_bytes(), None).map(|event| event.confidence).map_err(|fault| fault.to_string())
        };
        assert_eq!(notice("1"), Ok(1.0));
        assert_eq!(
            notice("true"),
            Err("field confidence: the truth value true is seen, and a number is wanted".to_owned())
        );
    }

    #[test]
    fn a_payload_may_be_any_value() {
        for json in [r#"{"name": "Ann", "base64": "AA=="}"#, "[1, 2]", "5", "true", "{}", r#"{"base64": 5}"#] {
            let event = with(&format!(r#""payload": {json}"#)).unwrap();
            assert_eq!(event.payload, Payload(json.as_bytes().to_vec()));
            assert_eq!(event.content_type.as_deref(), Some("application/json"), "{json}");
        }
        let event = with(r#""content_type": "application/vnd.acme+json", "payload": [1]"#).unwrap();
        assert_eq!(event.content_type.as_deref(), Some("application/vnd.acme+json"));
        assert_eq!(with(r#""payload": {"base64": "/wA="}"#).unwrap().payload, Payload(vec![0xff, 0]));
        assert_eq!(with(r#""payload": "text""#).unwrap().content_type, None);
        assert!(with(r#""payload": {"base64": "?"}"#).unwrap_err().starts_with("field payload: payload.base64:"));
    }

    #[test]
    fn half_a_character_is_named() {
        for half in [r"\ud83d", r"a\uDE00b", r"\ud83d\ud83d", r"\ud83dx"] {
            let fault = with(&format!(r#""payload": "{half}""#)).unwrap_err();
            assert!(fault.starts_with("field payload: half a character is seen"), "{half}: {fault}");
        }
        let event = with(r#""payload": "\ud83d\ude00\n""#).unwrap();
        assert_eq!(event.payload, Payload("😀\n".as_bytes().to_vec()));
    }

    #[test]
    fn the_event_itself_is_an_object_and_no_deeper_than_it_need_be() {
        assert_eq!(call("[]").unwrap_err(), "an array is seen, and an object is wanted");
        assert!(call("{").unwrap_err().contains("EOF"), "{}", call("{").unwrap_err());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(with(&format!(r#""payload": {deep}"#)).is_ok() || with(&format!(r#""payload": {deep}"#)).is_err());
        assert!(
            with(&format!(r#""other": {}"#, "[".repeat(50) + &"]".repeat(50))).is_ok(),
            "passed over where it lies"
        );
    }
}
