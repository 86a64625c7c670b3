//! The schemas are a promise to everyone who writes or reads a topic: documented, evolvable, and the same bytes tomorrow.
//!
//! The golden bytes in `schemas/examples` were written by another Avro implementation (fastavro 1.x), so they hold this
//! codec to the specification and not to itself.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apache_avro::Schema;
use forewarm::codec::{
    Codec, DecodeError, Event, EventKind, NoSchemaRegistry, SchemaKey, SchemaLookup, WireFormat, WriterSchema,
    WriterSchemas,
};
use forewarm::types::{
    ForecastSnapshot, FunctionDefinition, FunctionLog, FunctionStatus, Invocation, InvocationResult, PreTrigger,
    PreTriggerOutcome, StartKind,
};
use serde_json::Value;

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn text(path: &str) -> String {
    let path = schemas().join(path);
    fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

fn example_json(name: &str) -> String {
    text(&format!("examples/{name}.json"))
}

fn example_bytes(name: &str) -> Vec<u8> {
    let hex: String = text(&format!("examples/{name}.single-object.hex")).split_whitespace().collect();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn from_json<E: Event>(json: &str) -> E {
    Codec::new().decode(json.as_bytes(), Some("application/json"), &NoSchemaRegistry).unwrap()
}

/// Calls `see` with every record, enum and field of a schema, as JSON, and where it stands.
fn walk(schema: &Value, at: &str, see: &mut dyn FnMut(&Value, &str)) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| walk(branch, at, see)),
        Value::Object(object) => {
            let kind = &object["type"];
            if kind == "record" || kind == "enum" {
                see(schema, at);
            }
            for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                let at = format!("{at}.{}", field["name"].as_str().unwrap());
                see(field, &at);
                walk(&field["type"], &at, see);
            }
            walk(object.get("items").unwrap_or(&Value::Null), &format!("{at}.0"), see);
            walk(object.get("values").unwrap_or(&Value::Null), at, see);
            if kind.is_object() {
                walk(kind, at, see);
            }
        }
        _ => {}
    }
}

fn golden<E: Event + PartialEq + Debug>() {
    let (codec, name) = (Codec::new(), E::KIND.name());
    let (json, bytes) = (example_json(name), example_bytes(name));
    let event: E = from_json(&json);
    assert_eq!(codec.encode(&event, WireFormat::SingleObject).unwrap(), bytes, "{name}: the bytes changed");
    assert_eq!(codec.decode::<E>(&bytes, None, &NoSchemaRegistry).unwrap(), event, "{name}");
    let framed = codec.encode(&event, WireFormat::Confluent { schema_id: 0x0102_0304 }).unwrap();
    assert_eq!(framed, [&[0, 1, 2, 3, 4], &bytes[10..]].concat(), "{name}");
    let written: Value = serde_json::from_slice(&codec.encode(&event, WireFormat::Json).unwrap()).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(&json).unwrap(), "{name}: the JSON form changed");
}

#[test]
fn golden_examples_hold_byte_for_byte() {
    golden::<PreTrigger>();
    golden::<Invocation>();
    golden::<InvocationResult>();
    golden::<FunctionDefinition>();
    golden::<PreTriggerOutcome>();
    golden::<ForecastSnapshot>();
    golden::<FunctionStatus>();
    golden::<FunctionLog>();
}

#[test]
fn every_record_enum_and_field_is_documented() {
    let mut fields = 0;
    for kind in EventKind::ALL {
        let schema: Value = serde_json::from_str(kind.schema_json()).unwrap();
        walk(&schema, kind.record_name(), &mut |part, at| {
            let doc = part.get("doc").and_then(Value::as_str).unwrap_or_default();
            assert!(!doc.trim().is_empty(), "{at} has no doc");
            fields += usize::from(part.get("fields").is_none() && part.get("symbols").is_none());
        });
    }
    assert_eq!(fields, 117, "fields seen; change the number with the schemas");
}

#[test]
fn only_what_nobody_can_guess_has_no_default() {
    let mut required = BTreeSet::new();
    for kind in EventKind::ALL {
        let schema: Value = serde_json::from_str(kind.schema_json()).unwrap();
        walk(&schema, kind.record_name(), &mut |part, at| {
            let is_field = part.get("fields").is_none() && part.get("symbols").is_none();
            if is_field && part.get("default").is_none() {
                required.insert(at.to_owned());
            }
        });
    }
    let expected = [
        "ForecastSnapshot.function",
        "ForecastSnapshot.node",
        "ForecastSnapshot.state",
        "ForecastSnapshot.taken_at",
        "FunctionDefinition.artifact",
        "FunctionDefinition.artifact.sha256",
        "FunctionDefinition.artifact.uri",
        "FunctionDefinition.chains.0.rule",
        "FunctionDefinition.chains.0.to",
        "FunctionDefinition.kind",
        "FunctionDefinition.name",
        "FunctionDefinition.schedules.0.cron",
        "FunctionDefinition.schedules.0.duration_ms",
        "FunctionDefinition.schedules.0.instances",
        "FunctionDefinition.version",
        "FunctionLog.function",
        "FunctionLog.node",
        "FunctionLog.stream",
        "FunctionLog.written_at",
        "FunctionStatus.node",
        "FunctionStatus.node_started_at",
        "FunctionStatus.said_at",
        "FunctionStatus.since",
        "FunctionStatus.state",
        "Invocation.function",
        "Invocation.id",
        "InvocationResult.completed_at",
        "InvocationResult.error.message",
        "InvocationResult.function",
        "InvocationResult.invocation_id",
        "InvocationResult.node",
        "InvocationResult.status",
        "InvocationResult.warm_reason.kind",
        "PreTrigger.function",
        "PreTrigger.id",
        "PreTrigger.source",
        "PreTriggerOutcome.announced",
        "PreTriggerOutcome.ended_at",
        "PreTriggerOutcome.function",
        "PreTriggerOutcome.kind",
        "PreTriggerOutcome.node",
        "PreTriggerOutcome.pre_trigger_id",
        "PreTriggerOutcome.source",
    ];
    assert_eq!(required.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// Holds the defaults in code against those in the schema: `minimal` gives the fields without one.
fn defaults<E: Event>(minimal: &str) {
    let event = Codec::new().encode(&from_json::<E>(minimal), WireFormat::Json).unwrap();
    let event: Value = serde_json::from_slice(&event).unwrap();
    let given: Value = serde_json::from_str(minimal).unwrap();
    let schema: Value = serde_json::from_str(E::KIND.schema_json()).unwrap();
    walk(&schema, "", &mut |part, at| {
        let Some(default) = part.get("default").filter(|_| part.get("symbols").is_none()) else { return };
        let pointer = at.replace('.', "/");
        if given.pointer(&pointer).is_some() {
            return;
        }
        assert_eq!(event.pointer(&pointer), Some(default), "{}{at}", E::KIND);
    });
}

#[test]
fn defaults_in_code_are_those_of_the_schemas() {
    defaults::<PreTrigger>(r#"{"id": "i", "source": "s", "function": "f", "emitted_at": 5}"#);
    defaults::<Invocation>(r#"{"id": "i", "function": "f", "invoked_at": 5}"#);
    defaults::<InvocationResult>(
        r#"{"invocation_id": "i", "function": "f", "status": "ok", "node": "n", "completed_at": 5,
            "error": {"message": "m"}, "warm_reason": {"kind": "floor"}}"#,
    );
    defaults::<FunctionLog>(r#"{"function": "f", "node": "n", "stream": "stdout", "written_at": 5}"#);
    let definition = r#"{"name": "f", "version": "1", "artifact": {"uri": "store:", "sha256": "SHA"}, "kind": "command",
            "schedules": [{"cron": "* * * * *", "duration_ms": 1, "instances": 1}], "chains": [{"to": "g", "rule": "pin"}]}"#;
    defaults::<FunctionDefinition>(&definition.replace("SHA", &"0".repeat(64)));
}

#[test]
fn optional_fields_are_null_first_and_times_say_their_unit() {
    for kind in EventKind::ALL {
        let schema: Value = serde_json::from_str(kind.schema_json()).unwrap();
        walk(&schema, kind.record_name(), &mut |part, at| {
            if let Some(branches) = part["type"].as_array() {
                assert_eq!((branches.len(), &branches[0]), (2, &Value::from("null")), "{at}");
                assert_eq!(part["default"], Value::Null, "{at}");
            }
            let is_time = ["_at", "deadline", "not_before", ".since"].iter().any(|end| at.ends_with(end));
            assert_eq!(
                part["type"].to_string().contains("timestamp-millis"),
                is_time && part["type"] != "record",
                "{at}"
            );
        });
    }
}

#[test]
fn the_readme_lists_the_fingerprints() {
    let (codec, readme) = (Codec::new(), text("README.md"));
    for kind in EventKind::ALL {
        let hex: String = codec.fingerprint(kind).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let line = format!("| `{}.avsc` | `{hex}` |", kind.name());
        assert!(readme.contains(&line), "schemas/README.md lacks: {line}");
        assert_eq!(example_bytes(kind.name())[2..10], codec.fingerprint(kind).to_le_bytes());
    }
}

#[test]
fn every_schema_file_is_embedded_or_an_example() {
    let files = fs::read_dir(schemas()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<_> = files.filter(|name| name.ends_with(".avsc")).collect();
    let embedded: BTreeSet<_> = EventKind::ALL.iter().map(|kind| format!("{}.avsc", kind.name())).collect();
    assert_eq!(found, embedded);
    for kind in EventKind::ALL {
        assert_eq!(text(&format!("{}.avsc", kind.name())), kind.schema_json());
        for older in kind.older_schemas_json() {
            Codec::with_writers(&[(kind, older)]).unwrap();
        }
    }
}

#[test]
fn a_reader_takes_what_an_older_writer_wrote() {
    let bytes = example_bytes("invocation.older");
    let refused = Codec::new().decode::<Invocation>(&bytes, None, &NoSchemaRegistry).unwrap_err();
    assert!(matches!(refused, DecodeError::UnknownFingerprint { .. }), "{refused}");
    // Both as they stand in a message, and in the table of schemas/README.md.
    let in_message: String = bytes[2..10].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(refused.to_string().contains(&format!("fingerprint {in_message}")), "{refused}");
    assert!(refused.to_string().contains("099391590b72eb6b"), "{refused}");

    let codec = Codec::with_writers(&[(EventKind::Invocation, &text("examples/invocation.older.avsc"))]).unwrap();
    let event = codec.decode::<Invocation>(&bytes, None, &NoSchemaRegistry).unwrap();
    assert_eq!(event, from_json::<Invocation>(&example_json("invocation.older")));
    assert_eq!(event.payload.0, b"hello");
    // What is current is still read, and still written.
    let current = example_bytes("invocation");
    let event = codec.decode::<Invocation>(&current, None, &NoSchemaRegistry).unwrap();
    assert_eq!(codec.encode(&event, WireFormat::SingleObject).unwrap(), current);
}

struct OneSchema(Arc<Schema>);

impl WriterSchemas for OneSchema {
    fn find(&self, key: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        if key == SchemaKey::Id(7) { Ok(WriterSchema::Avro(Arc::clone(&self.0))) } else { Err(SchemaLookup::Unknown) }
    }
}

#[test]
fn a_reader_takes_what_a_newer_writer_wrote() {
    let bytes = example_bytes("invocation-result.newer");
    let framed = [&[0, 0, 0, 0, 7], &bytes[10..]].concat();
    let newer = OneSchema(Arc::new(Schema::parse_str(&text("examples/invocation-result.newer.avsc")).unwrap()));
    let event = Codec::new().decode::<InvocationResult>(&framed, None, &newer).unwrap();
    assert_eq!(event, from_json::<InvocationResult>(&example_json("invocation-result.newer")));
    assert_eq!(event.start_kind, Some(StartKind::Cold), "an unknown start kind is the default symbol");
}

#[test]
fn a_status_that_is_not_known_is_refused_and_named() {
    let newer = OneSchema(Arc::new(Schema::parse_str(&text("examples/invocation-result.newer.avsc")).unwrap()));
    let bytes = example_bytes("invocation-result.newer");
    let mut framed = [&[0, 0, 0, 0, 7], &bytes[10..]].concat();
    // The status stands between the function's name and the start kind.
    let name = b"shop/thumbnail";
    let at = framed.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    assert_eq!(framed[at], 2, "ok is the second symbol of the newer writer");
    framed[at] = 0;
    let refused = Codec::new().decode::<InvocationResult>(&framed, None, &newer).unwrap_err();
    assert_eq!(refused.reason(), "malformed");
    assert!(refused.to_string().contains("field status: unknown variant `cancelled`"), "{refused}");
}
