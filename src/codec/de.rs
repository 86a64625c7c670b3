//! Reads an Avro datum straight into one of our events, as its writer's schema describes it.
//!
//! Duty: Avro's schema resolution (specification 1.12, "Schema Resolution"), with our types as the reader's side: fields
//! are matched by name, those that only the writer has are passed over, those that only the reader has get their default
//! (serde's, which the tests hold equal to the schema's), numbers and bytes are promoted, an enum symbol that the reader
//! does not know becomes the enum's default. One pass, one copy of each field, and no copy of what is passed over.
//! Must not: know of framing, nor judge what a value means.
//!
//! Why our own: `apache-avro` resolves schemas only by way of its `Value` tree, and its direct path wants a `fixed` for
//! every `u64`. It still parses the schemas, and the tests use it as the independent judge of this reader.

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, RecordSchema, UuidSchema};
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::fault::Fault;
use super::input::{Blocks, Input};
use super::schema::EnumDefaults;

/// The event in `datum`, and how many bytes are left after it.
pub(super) fn read_datum<'de, T: Deserialize<'de>>(
    datum: &'de [u8],
    writer: &Schema,
    defaults: &EnumDefaults,
) -> Result<(T, usize), Fault> {
    let mut input = Input::new(datum, writer);
    let event = T::deserialize(ValueReader { input: &mut input, schema: writer, defaults })?;
    Ok((event, input.left()))
}

/// One value, not read yet.
struct ValueReader<'r, 'a, 'de> {
    input: &'r mut Input<'a, 'de>,
    schema: &'a Schema,
    defaults: &'a EnumDefaults,
}

impl<'a> ValueReader<'_, 'a, '_> {
    /// Looks through references and takes the branch of a union.
    fn settle(&mut self) -> Result<&'a Schema, Fault> {
        let mut schema = self.input.resolve(self.schema)?;
        if let Schema::Union(union) = schema {
            schema = self.input.branch(union)?;
        }
        self.schema = schema;
        Ok(schema)
    }
}

/// A fault that says what the writer declares and the reader wants.
fn mismatch<T>(schema: &Schema, wanted: &str) -> Result<T, Fault> {
    let declared = match schema {
        Schema::Record(record) => format!("record {}", record.name.name()),
        Schema::Enum(schema) => format!("enum {}", schema.name.name()),
        Schema::Union(_) => "a union in a union".to_owned(),
        schema => format!("{:?}", apache_avro::schema::SchemaKind::from(schema)).to_lowercase(),
    };
    Err(Fault::new(format!("the writer's schema declares {declared}, and {wanted} is wanted")))
}

impl<'de> Deserializer<'de> for ValueReader<'_, '_, 'de> {
    type Error = Fault;

    /// Payloads are bytes, not text.
    fn is_human_readable(&self) -> bool {
        false
    }

    /// A scalar. What serde then makes of it is Avro's promotion: `int` to `long` and `double`, `float` to `double`,
    /// `string` to `bytes` and back.
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.settle()? {
            Schema::Null => visitor.visit_unit(),
            Schema::Boolean => visitor.visit_bool(self.input.boolean()?),
            Schema::Int => visitor.visit_i32(self.input.int()?),
            Schema::Long | Schema::TimestampMillis => visitor.visit_i64(self.input.long()?),
            Schema::Float => visitor.visit_f32(f32::from_le_bytes(self.input.array()?)),
            Schema::Double => visitor.visit_f64(f64::from_le_bytes(self.input.array()?)),
            Schema::Bytes
            | Schema::BigDecimal
            | Schema::Uuid(UuidSchema::Bytes)
            | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Bytes, .. }) => {
                visitor.visit_borrowed_bytes(self.input.bytes()?)
            }
            Schema::String | Schema::Uuid(UuidSchema::String) => visitor.visit_borrowed_str(self.input.text()?),
            // Days and other units of time are refused: read as milliseconds they would be wrong by factors of a thousand.
            schema => mismatch(schema, "a plain value of the reader's type (times: timestamp-millis)"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.settle()? {
            Schema::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.settle()? {
            Schema::Record(record) if record.name.name() == name => {
                visitor.visit_map(RecordReader { input: self.input, record, defaults: self.defaults, next: 0 })
            }
            schema => mismatch(schema, name),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.settle()? {
            Schema::Enum(schema) if schema.name.name() == name => {
                let mut symbol = self.input.symbol(&schema.symbols)?;
                if !known.contains(&symbol) {
                    symbol = self.defaults.get(name).unwrap_or(symbol);
                }
                visitor.visit_enum(StrDeserializer::new(symbol))
            }
            schema => mismatch(schema, name),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.settle()? {
            Schema::Array(array) => visitor.visit_seq(ItemReader {
                input: self.input,
                schema: &array.items,
                defaults: self.defaults,
                blocks: Blocks::default(),
            }),
            schema => mismatch(schema, "array"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.settle()? {
            Schema::Map(map) => visitor.visit_map(ItemReader {
                input: self.input,
                schema: &map.types,
                defaults: self.defaults,
                blocks: Blocks::default(),
            }),
            schema => mismatch(schema, "map"),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.input.skip(self.schema)?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct identifier
    }
}

/// The fields of a record, in the writer's order.
struct RecordReader<'r, 'a, 'de> {
    input: &'r mut Input<'a, 'de>,
    record: &'a RecordSchema,
    defaults: &'a EnumDefaults,
    next: usize,
}

impl<'de> MapAccess<'de> for RecordReader<'_, '_, 'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        match self.record.fields.get(self.next) {
            Some(field) => seed.deserialize(StrDeserializer::new(&field.name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(field) = self.record.fields.get(self.next) else {
            return Err(Fault::new("a value was asked for after the last field".to_owned()));
        };
        self.next += 1;
        let value = ValueReader { input: &mut *self.input, schema: &field.schema, defaults: self.defaults };
        seed.deserialize(value).map_err(|fault| fault.within(&field.name))
    }
}

/// The items of an array, or the entries of a map.
struct ItemReader<'r, 'a, 'de> {
    input: &'r mut Input<'a, 'de>,
    schema: &'a Schema,
    defaults: &'a EnumDefaults,
    blocks: Blocks,
}

impl<'de> SeqAccess<'de> for ItemReader<'_, '_, 'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if !self.blocks.next(self.input)? {
            return Ok(None);
        }
        let item = ValueReader { input: &mut *self.input, schema: self.schema, defaults: self.defaults };
        seed.deserialize(item).map(Some)
    }
}

impl<'de> MapAccess<'de> for ItemReader<'_, '_, 'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        if !self.blocks.next(self.input)? {
            return Ok(None);
        }
        seed.deserialize(BorrowedStrDeserializer::new(self.input.text()?)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        seed.deserialize(ValueReader { input: &mut *self.input, schema: self.schema, defaults: self.defaults })
    }
}
