//! Writes one of our events as an Avro datum, straight into a buffer.
//!
//! Duty: the serde shape of `types`, in the schema's encoding: a struct is its fields in order, an `Option` is the union
//! `["null", T]`, every integer is a `long` (or the same bytes as an `int`), an enum is its index. It needs no schema at
//! run time, because the schemas mirror the types; the tests hold them together with an independent reader.
//! Must not: know of framing, or of types that no event has: those are errors.

use serde::ser::{self, Impossible, Serialize, Serializer};

/// A value that has no form as a datum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unrepresentable(String);

impl ser::Error for Unrepresentable {
    fn custom<T: std::fmt::Display>(fault: T) -> Self {
        Self(fault.to_string())
    }
}

/// Appends `event` to `out`.
pub(super) fn write_datum<T: Serialize>(event: &T, out: &mut Vec<u8>) -> Result<(), Unrepresentable> {
    event.serialize(DatumWriter { out })
}

struct DatumWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl DatumWriter<'_> {
    /// Zigzag, then seven bits a byte, the lowest first.
    fn long(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest > 0x7f {
            self.out.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }

    fn length(&mut self, length: usize) -> Result<(), Unrepresentable> {
        let length = i64::try_from(length).map_err(|_| Unrepresentable(format!("{length} is too long")))?;
        self.long(length);
        Ok(())
    }

    /// The start of an array or map: one block of `length` items, or none where it is empty.
    fn block(mut self, length: Option<usize>) -> Result<Self, Unrepresentable> {
        let length = length.ok_or_else(|| Unrepresentable("a collection must know its length".to_owned()))?;
        if length > 0 {
            self.length(length)?;
        }
        Ok(self)
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unrepresentable> {
        value.serialize(DatumWriter { out: self.out })
    }
}

fn no_such<T>(what: &str) -> Result<T, Unrepresentable> {
    Err(Unrepresentable(format!("no event has a field of type {what}")))
}

impl<'o> Serializer for DatumWriter<'o> {
    type Ok = ();
    type Error = Unrepresentable;
    type SerializeSeq = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeTuple = Impossible<(), Unrepresentable>;
    type SerializeTupleStruct = Impossible<(), Unrepresentable>;
    type SerializeTupleVariant = Impossible<(), Unrepresentable>;
    type SerializeStructVariant = Impossible<(), Unrepresentable>;

    /// Payloads are bytes, not text.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), Unrepresentable> {
        self.out.push(u8::from(value));
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Unrepresentable> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Unrepresentable> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Unrepresentable> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(mut self, value: i64) -> Result<(), Unrepresentable> {
        self.long(value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Unrepresentable> {
        self.serialize_i64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Unrepresentable> {
        self.serialize_i64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Unrepresentable> {
        self.serialize_i64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Unrepresentable> {
        let value = i64::try_from(value)
            .map_err(|_| Unrepresentable(format!("{value} is above {}, the largest Avro long", i64::MAX)))?;
        self.serialize_i64(value)
    }

    fn serialize_f32(self, _: f32) -> Result<(), Unrepresentable> {
        no_such("f32")
    }

    fn serialize_f64(self, value: f64) -> Result<(), Unrepresentable> {
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, _: char) -> Result<(), Unrepresentable> {
        no_such("char")
    }

    fn serialize_str(self, text: &str) -> Result<(), Unrepresentable> {
        self.serialize_bytes(text.as_bytes())
    }

    fn serialize_bytes(mut self, bytes: &[u8]) -> Result<(), Unrepresentable> {
        self.length(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn serialize_none(mut self) -> Result<(), Unrepresentable> {
        self.long(0);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), Unrepresentable> {
        self.long(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unrepresentable> {
        no_such("()")
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Unrepresentable> {
        no_such(name)
    }

    fn serialize_unit_variant(mut self, _: &'static str, index: u32, _: &'static str) -> Result<(), Unrepresentable> {
        self.long(index.into());
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unrepresentable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unrepresentable> {
        no_such(name)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self, Unrepresentable> {
        self.block(length)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unrepresentable> {
        no_such("tuple")
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unrepresentable> {
        no_such(name)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unrepresentable> {
        no_such(name)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self, Unrepresentable> {
        self.block(length)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Unrepresentable> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unrepresentable> {
        no_such(name)
    }
}

impl ser::SerializeSeq for DatumWriter<'_> {
    type Ok = ();
    type Error = Unrepresentable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unrepresentable> {
        self.item(value)
    }

    fn end(mut self) -> Result<(), Unrepresentable> {
        self.long(0);
        Ok(())
    }
}

impl ser::SerializeMap for DatumWriter<'_> {
    type Ok = ();
    type Error = Unrepresentable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unrepresentable> {
        self.item(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unrepresentable> {
        self.item(value)
    }

    fn end(mut self) -> Result<(), Unrepresentable> {
        self.long(0);
        Ok(())
    }
}

impl ser::SerializeStruct for DatumWriter<'_> {
    type Ok = ();
    type Error = Unrepresentable;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Unrepresentable> {
        self.item(value)
    }

    /// A datum has no names, so a field that is left out would shift every one after it.
    fn skip_field(&mut self, name: &'static str) -> Result<(), Unrepresentable> {
        Err(Unrepresentable(format!("field {name} must not be skipped")))
    }

    fn end(self) -> Result<(), Unrepresentable> {
        Ok(())
    }
}
