//! Reads an event from JSON as people write it.
//!
//! Duty: faults that name the field, say what was seen and what is wanted; null for what may be absent; a whole number that is
//! written as a float; a payload that is any JSON value and not a text. Each value is looked at where it lies: no tree is made.
//! Must not: know of framing, nor judge what a value means.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use serde::de::value::{BorrowedStrDeserializer, StringDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use super::CONTENT_TYPE_JSON;
use super::fault::Fault;
use crate::types::Timestamp;

/// How deep values may be nested (inclusive). None of our events needs more than three, and each step takes stack.
const DEPTH_MAX: u32 = 32;
/// Bytes of a value that a fault shows.
const SHOWN: usize = 40;
/// The largest whole number up to which a float holds every whole number exactly: 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// What some editors put before a text in UTF-8. It says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The event in `text`. Where `payload` names a field, its value may be any JSON value: an array, a number, a truth value or an
/// object other than `{"base64": …}` stands for its own text, whose content type is JSON where none is given.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de [u8], payload: Option<&'static str>) -> Result<T, Fault> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|fault| not_utf8(text, fault))?;
    let raw: &RawValue = serde_json::from_str(text).map_err(|fault| Fault::new(fault.to_string()))?;
    T::deserialize(Value { seen: Seen::Json(raw), depth: 0, payload, wanted: None })
}

/// JSON is UTF-8 (RFC 8259); Latin-1 and texts that were cut through a character are not.
#[cold]
fn not_utf8(text: &[u8], fault: Utf8Error) -> Fault {
    let at = fault.valid_up_to();
    let before = String::from_utf8_lossy(&text[at.saturating_sub(SHOWN)..at]);
    let seen = text.get(at).copied().unwrap_or_default();
    Fault::new(format!("the byte {seen:02x} is seen at {at}, behind {before:?}, and text in UTF-8 is wanted"))
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
    /// What the value is wanted to be, where its type does not say it all.
    wanted: Option<&'static str>,
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
        Ok(Self { seen, depth: self.depth + 1, payload: None, wanted: None })
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

/// Methods that read a whole number within the range of its type.
macro_rules! whole {
    ($($method:ident $type:ty)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let unwanted = || match self.wanted {
                Some(wanted) => self.seen.unwanted(wanted),
                None => self.seen.unwanted(&format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX)),
            };
            let number = match self.seen.number("a whole number") {
                Ok(Number::Signed(number)) => i128::from(number),
                Ok(Number::Unsigned(number)) => i128::from(number),
                #[expect(clippy::cast_possible_truncation, reason = "whole, and within the exact range")]
                Ok(Number::Float(number)) if number.fract() == 0.0 && number.abs() <= EXACT_MAX => number as i128,
                Ok(Number::Float(_)) | Err(_) => return Err(unwanted()),
            };
            let number = <$type>::try_from(number).map_err(|_| unwanted())?;
            number.into_deserializer().$method(visitor)
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

    whole! {
        deserialize_i8 i8 deserialize_i16 i16 deserialize_i32 i32 deserialize_i64 i64
        deserialize_u8 u8 deserialize_u16 u16 deserialize_u32 u32 deserialize_u64 u64
    }

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

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let wanted = (name == Timestamp::WIRE_NAME).then_some("a whole number of milliseconds since 1970-01-01 UTC");
        visitor.visit_newtype_struct(Self { wanted, ..self })
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
