//! Schemas of other writers, as a schema registry hands them out: any text as a schema, any bytes as its datum.
//!
//! The input is the schema's JSON text, a zero byte, the datum. A schema must not make an honest reader work, allocate or
//! recurse beyond what the datum's length allows.

use std::sync::Arc;

use apache_avro::Schema;
use forewarm::codec::{Event, SchemaKey, SchemaLookup, WriterSchema, WriterSchemas};
use forewarm::types::{
    ForecastSnapshot, FunctionDefinition, FunctionLog, FunctionStatus, Invocation, InvocationResult, PreTrigger,
    PreTriggerOutcome,
};

use super::events::{CODEC, comes_back, is_short};
use super::input::Input;

struct OneSchema(Arc<Schema>);

impl WriterSchemas for OneSchema {
    fn find(&self, _: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        Ok(WriterSchema::Avro(Arc::clone(&self.0)))
    }
}

/// Any schema and any datum, as every kind of event.
pub fn writers(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Ok(text) = std::str::from_utf8(input.until_zero()) else { return };
    let Ok(schema) = Schema::parse_str(text) else { return };
    let framed = [&[0; 5], input.0].concat();
    let writer = OneSchema(Arc::new(schema));
    decode::<PreTrigger>(&framed, &writer);
    decode::<Invocation>(&framed, &writer);
    decode::<InvocationResult>(&framed, &writer);
    decode::<FunctionDefinition>(&framed, &writer);
    decode::<PreTriggerOutcome>(&framed, &writer);
    decode::<ForecastSnapshot>(&framed, &writer);
    decode::<FunctionStatus>(&framed, &writer);
    decode::<FunctionLog>(&framed, &writer);
}

fn decode<E: Event>(framed: &[u8], writer: &OneSchema) {
    match CODEC.decode::<E>(framed, None, writer) {
        Ok(event) => comes_back(&event),
        Err(refusal) => is_short(&refusal),
    }
}
