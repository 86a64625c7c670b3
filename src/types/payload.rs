//! Opaque bytes, and how they look in formats that people read.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Opaque bytes of a call or of its answer.
///
/// In Avro: `bytes`. In JSON: a string holds UTF-8 text as it is; anything else is `{"base64": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Payload(pub Vec<u8>);

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(&self.0);
        }
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(PayloadVisitor)
        } else {
            deserializer.deserialize_byte_buf(PayloadVisitor)
        }
    }
}

struct PayloadVisitor;

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes: a string of UTF-8 text, or {\"base64\": \"…\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Payload, E> {
        Ok(Payload(text.as_bytes().to_vec()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Payload, E> {
        Ok(Payload(text.into_bytes()))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Payload, E> {
        Ok(Payload(bytes.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Payload, E> {
        Ok(Payload(bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
        let (key, text) = map
            .next_entry::<String, String>()?
            .ok_or_else(|| de::Error::custom("an empty object is no payload: give {\"base64\": \"…\"}"))?;
        if key != "base64" {
            return Err(de::Error::unknown_field(&key, &["base64"]));
        }
        if map.next_key::<String>()?.is_some() {
            return Err(de::Error::custom("a payload object has the one field base64"));
        }
        STANDARD.decode(&text).map(Payload).map_err(|fault| de::Error::custom(format!("payload.base64: {fault}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_bytes_become_base64() {
        assert_eq!(serde_json::to_string(&Payload(b"hi".to_vec())).unwrap(), r#""hi""#);
        assert_eq!(serde_json::to_string(&Payload(vec![0xff, 0])).unwrap(), r#"{"base64":"/wA="}"#);
        assert_eq!(serde_json::from_str::<Payload>(r#"{"base64":"/wA="}"#).unwrap(), Payload(vec![0xff, 0]));
        assert_eq!(serde_json::from_str::<Payload>(r#""hi""#).unwrap(), Payload(b"hi".to_vec()));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_do() {
        for bad in ["{}", "5", "[1]", r#"{"base65":"AA=="}"#, r#"{"base64":"?"}"#, r#"{"base64":"AA==","x":"y"}"#] {
            assert!(serde_json::from_str::<Payload>(bad).is_err(), "{bad}");
        }
    }
}
