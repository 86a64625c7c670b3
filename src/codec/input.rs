//! The bytes of a datum, taken from the front, with every length checked against what is left.
//!
//! Duty: Avro's primitive encodings, and the bounds that keep hostile bytes cheap: nothing is allocated here, and the
//! number of values is held against the number of bytes. Must not: know of serde or of our events.

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, Name, ResolvedSchema, UnionSchema, UuidSchema};

use super::fault::Fault;

/// How deep a skipped value may be nested (inclusive). Schemas may refer to themselves, so bytes alone can ask for more.
const DEPTH_MAX: u32 = 64;
/// Skipped values and items that a datum may hold for each of its bytes, and on top of that. Values of no bytes (nulls,
/// empty records) are the reason: a few bytes can claim any number of them.
const STEPS_PER_BYTE: usize = 16;
const STEPS_FLOOR: usize = 65_536;

/// What is left of a datum, and the writer's schema that describes it.
pub(super) struct Input<'a, 'de> {
    rest: &'de [u8],
    steps_left: usize,
    root: &'a Schema,
    /// The named types of `root`; looked up only where it refers to one by name, which our own schemas never do.
    names: Option<ResolvedSchema<'a>>,
}

impl<'a, 'de> Input<'a, 'de> {
    pub(super) fn new(datum: &'de [u8], root: &'a Schema) -> Self {
        let steps_left = datum.len().saturating_mul(STEPS_PER_BYTE).saturating_add(STEPS_FLOOR);
        Self { rest: datum, steps_left, root, names: None }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// `schema` itself, or the type that it refers to by name.
    pub(super) fn resolve(&mut self, schema: &'a Schema) -> Result<&'a Schema, Fault> {
        let Schema::Ref { name } = schema else { return Ok(schema) };
        self.named(name)
    }

    #[cold]
    fn named(&mut self, name: &Name) -> Result<&'a Schema, Fault> {
        let names = match self.names.take() {
            Some(names) => names,
            None => ResolvedSchema::new(self.root).map_err(|fault| Fault::new(fault.to_string()))?,
        };
        let found = names.get_names().get(name).copied();
        self.names = Some(names);
        match found {
            None | Some(Schema::Ref { .. }) => Err(Fault::new(format!("the writer's schema does not define {name}"))),
            Some(schema) => Ok(schema),
        }
    }

    /// Counts one value against the datum's bytes.
    pub(super) fn step(&mut self) -> Result<(), Fault> {
        match self.steps_left.checked_sub(1) {
            Some(left) => self.steps_left = left,
            None => return Err(Fault::new("more values are claimed than its bytes can hold".to_owned())),
        }
        Ok(())
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'de [u8], Fault> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Fault::new(format!("{count} bytes are needed and {} are left", self.rest.len())));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Fault::new(format!("{N} bytes are needed and {} are left", self.rest.len())));
        };
        self.rest = rest;
        Ok(*taken)
    }

    /// Seven bits a byte, the lowest first, then zigzag. At most ten bytes, the last of which holds one bit.
    pub(super) fn long(&mut self) -> Result<i64, Fault> {
        let mut bits = 0_u64;
        for (nth, &byte) in self.rest.iter().take(10).enumerate() {
            bits |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                if nth == 9 && byte > 1 {
                    break;
                }
                self.rest = &self.rest[nth + 1..];
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        if self.rest.len() < 10 {
            return Err(Fault::new(format!("an integer is cut off; {} bytes are left", self.rest.len())));
        }
        Err(Fault::new("an integer has more than 64 bits".to_owned()))
    }

    pub(super) fn int(&mut self) -> Result<i32, Fault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| Fault::new(format!("{value} is no 32-bit int")))
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(Fault::new(format!("a boolean is 00 or 01, not {byte:02x}"))),
        }
    }

    /// Length-prefixed bytes, where they are.
    pub(super) fn bytes(&mut self) -> Result<&'de [u8], Fault> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| Fault::new(format!("{length} is no length")))?;
        self.take(length)
    }

    /// Length-prefixed UTF-8, where it is.
    pub(super) fn text(&mut self) -> Result<&'de str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|fault| Fault::new(format!("a string is not UTF-8: {fault}")))
    }

    /// The branch that the next value of a union takes.
    pub(super) fn branch(&mut self, union: &'a UnionSchema) -> Result<&'a Schema, Fault> {
        let index = self.long()?;
        let branches = union.variants();
        let branch = usize::try_from(index).ok().and_then(|index| branches.get(index));
        let branch = branch.ok_or_else(|| Fault::new(format!("union branch {index} of {}", branches.len())))?;
        self.resolve(branch)
    }

    /// The symbol of an enum's value.
    pub(super) fn symbol(&mut self, symbols: &'a [String]) -> Result<&'a str, Fault> {
        let index = self.long()?;
        let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
        symbol.map(String::as_str).ok_or_else(|| Fault::new(format!("enum symbol {index} of {}", symbols.len())))
    }

    /// Passes over a value that the reader does not want.
    pub(super) fn skip(&mut self, schema: &'a Schema) -> Result<(), Fault> {
        self.skip_at(schema, 0)
    }

    fn skip_at(&mut self, schema: &'a Schema, depth: u32) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::new(format!("nested deeper than {DEPTH_MAX}")));
        }
        self.step()?;
        match self.resolve(schema)? {
            Schema::Null => {}
            Schema::Boolean => drop(self.boolean()?),
            Schema::Float => drop(self.array::<4>()?),
            Schema::Double => drop(self.array::<8>()?),
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => drop(self.bytes()?),
            Schema::String | Schema::Uuid(UuidSchema::String) => drop(self.text()?),
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                self.take(fixed.size)?;
            }
            Schema::Decimal(DecimalSchema { inner, .. }) => match inner {
                InnerDecimalSchema::Bytes => drop(self.bytes()?),
                InnerDecimalSchema::Fixed(fixed) => drop(self.take(fixed.size)?),
            },
            Schema::Enum(schema) => drop(self.symbol(&schema.symbols)?),
            Schema::Union(union) => {
                let branch = self.branch(union)?;
                self.skip_at(branch, depth + 1)?;
            }
            Schema::Record(record) => {
                for field in &record.fields {
                    self.skip_at(&field.schema, depth + 1).map_err(|fault| fault.within(&field.name))?;
                }
            }
            Schema::Array(array) => {
                let mut blocks = Blocks::default();
                while blocks.next(self)? {
                    self.skip_at(&array.items, depth + 1)?;
                }
            }
            Schema::Map(map) => {
                let mut blocks = Blocks::default();
                while blocks.next(self)? {
                    self.text()?;
                    self.skip_at(&map.types, depth + 1)?;
                }
            }
            Schema::Int | Schema::Date | Schema::TimeMillis => drop(self.int()?),
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => drop(self.long()?),
            // `resolve` answers with no reference.
            Schema::Ref { name } => return Err(Fault::new(format!("the writer's schema does not define {name}"))),
        }
        Ok(())
    }
}

/// Where a reader stands in the blocks of an array or map.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    left: u64,
    ended: bool,
}

impl Blocks {
    /// Whether another item follows.
    pub(super) fn next(&mut self, input: &mut Input<'_, '_>) -> Result<bool, Fault> {
        if self.left == 0 && !self.ended {
            let count = input.long()?;
            if count < 0 {
                // A negative count is followed by the block's size in bytes, for readers that jump over it.
                input.long()?;
            }
            self.left = count.unsigned_abs();
            self.ended = count == 0;
        }
        if self.ended {
            return Ok(false);
        }
        input.step()?;
        self.left -= 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Result<(i64, usize), Fault> {
        let mut input = Input::new(bytes, &Schema::Long);
        Ok((input.long()?, input.left()))
    }

    #[test]
    fn longs_are_zigzag_varints() {
        // Avro specification 1.12, "Primitive types, encoding".
        for (value, bytes) in [(0, &[0x00][..]), (-1, &[0x01]), (1, &[0x02]), (-64, &[0x7f]), (64, &[0x80, 0x01])] {
            assert_eq!(long(bytes).unwrap(), (value, 0));
        }
        let max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(long(&max).unwrap(), (i64::MAX, 0));
        let min = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x07];
        assert_eq!(long(&min).unwrap(), (i64::MIN, 1));
    }

    #[test]
    fn integers_that_are_cut_off_or_too_long_are_refused() {
        assert!(long(&[]).unwrap_err().to_string().contains("cut off"));
        assert!(long(&[0x80; 9]).unwrap_err().to_string().contains("cut off"));
        assert!(long(&[0x80; 11]).unwrap_err().to_string().contains("more than 64 bits"));
        let mut overlong = [0xff; 10];
        overlong[9] = 0x02;
        assert!(long(&overlong).unwrap_err().to_string().contains("more than 64 bits"));
    }

    #[test]
    fn a_few_bytes_cannot_ask_for_much_work() {
        let nulls = Schema::parse_str(r#"{"type": "array", "items": "null"}"#).unwrap();
        let bytes = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00];
        let fault = Input::new(&bytes, &nulls).skip(&nulls).unwrap_err();
        assert!(fault.to_string().contains("more values"), "{fault}");
    }

    #[test]
    fn a_schema_that_refers_to_itself_cannot_ask_for_much_stack() {
        let list = r#"{"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}"#;
        let list = Schema::parse_str(list).unwrap();
        let mut input = Input::new(&[2, 2, 2, 0, 9], &list);
        input.skip(&list).unwrap();
        assert_eq!(input.left(), 1);
        let deep = vec![2; 1_000_000];
        assert!(Input::new(&deep, &list).skip(&list).unwrap_err().to_string().contains("nested deeper than 64"));
    }
}
