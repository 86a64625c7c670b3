//! What one event costs to read and to write, beside `apache-avro`'s own ways and JSON.
//!
//! Run: `cargo bench --no-default-features --bench codec`. The ratios are the claim; the figures are the machine's.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot decode its own event has nothing to measure")]

use std::hint::black_box;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use criterion::{Criterion, criterion_group, criterion_main};
use forewarm::codec::{Codec, Event, EventKind, NoSchemaRegistry, WireFormat};
use forewarm::types::{Invocation, InvocationResult, Payload, PreTrigger};

const INVOCATION: &str = include_str!("../schemas/examples/invocation.json");
const RESULT: &str = include_str!("../schemas/examples/invocation-result.json");
const PRE_TRIGGER: &str = include_str!("../schemas/examples/pre-trigger.json");
/// Bytes before the datum in single-object encoding.
const HEADER: usize = 10;

fn example<E: Event>(codec: &Codec, json: &str) -> E {
    codec.decode(json.as_bytes(), Some("application/json"), &NoSchemaRegistry).unwrap()
}

fn decode(c: &mut Criterion) {
    let codec = Codec::new();
    let mut event: Invocation = example(&codec, INVOCATION);
    for (size, name) in [(1 << 10, "1 KiB"), (64 << 10, "64 KiB")] {
        event.payload = Payload(vec![0xa5; size]);
        let bytes = codec.encode(&event, WireFormat::SingleObject).unwrap();
        let schema = codec.schema(EventKind::Invocation);
        let reader = GenericDatumReader::builder(schema).build().unwrap();
        let resolving = GenericDatumReader::builder(schema).reader_schema(schema).build().unwrap();

        let mut group = c.benchmark_group(format!("decode invocation, {name}"));
        group.bench_function("codec", |b| {
            b.iter(|| codec.decode::<Invocation>(black_box(&bytes), None, &NoSchemaRegistry).unwrap());
        });
        group.bench_function("apache-avro direct (no resolution)", |b| {
            b.iter(|| reader.read_deser::<Invocation>(&mut &black_box(&bytes)[HEADER..]).unwrap());
        });
        group.bench_function("apache-avro by Value (no resolution)", |b| {
            b.iter(|| {
                let value = reader.read_value(&mut &black_box(&bytes)[HEADER..]).unwrap();
                apache_avro::from_value::<Invocation>(&value).unwrap()
            });
        });
        group.bench_function("apache-avro by Value with resolution", |b| {
            b.iter(|| {
                let value = resolving.read_value(&mut &black_box(&bytes)[HEADER..]).unwrap();
                apache_avro::from_value::<Invocation>(&value).unwrap()
            });
        });
        // What cannot be saved: one copy of the payload.
        group.bench_function("copy of the message", |b| b.iter(|| black_box(&bytes).clone()));
        group.finish();
    }

    let mut group = c.benchmark_group("decode pre-trigger");
    let event: PreTrigger = example(&codec, PRE_TRIGGER);
    for (format, name, content_type) in
        [(WireFormat::SingleObject, "codec", None), (WireFormat::Json, "JSON", Some("application/json"))]
    {
        let bytes = codec.encode(&event, format).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| codec.decode::<PreTrigger>(black_box(&bytes), content_type, &NoSchemaRegistry).unwrap());
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let codec = Codec::new();
    let mut event: InvocationResult = example(&codec, RESULT);
    event.error = None;
    event.payload = Some(Payload(vec![0xa5; 1 << 10]));
    let schema = codec.schema(EventKind::InvocationResult);
    let bytes = codec.encode(&event, WireFormat::SingleObject).unwrap();
    let value = GenericDatumReader::builder(schema).build().unwrap().read_value(&mut &bytes[HEADER..]).unwrap();
    let writer = GenericDatumWriter::builder(schema).build().unwrap();

    let mut group = c.benchmark_group("encode result, 1 KiB");
    group.bench_function("codec", |b| b.iter(|| codec.encode(black_box(&event), WireFormat::SingleObject).unwrap()));
    // Its direct way refuses the u64 fields, so the Value is built outside the measurement, in its favour.
    group.bench_function("apache-avro by a ready Value", |b| {
        b.iter(|| {
            let mut out = Vec::with_capacity(512);
            writer.write_value_ref(&mut out, black_box(&value)).unwrap();
            out
        });
    });
    group.bench_function("JSON", |b| b.iter(|| codec.encode(black_box(&event), WireFormat::Json).unwrap()));
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
