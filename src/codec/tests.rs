//! What is refused and why, and the fine points of resolution, each with its own bytes.

use std::sync::Arc;

use super::*;
use crate::types::{Attributes, FunctionDefinition, FunctionName, Invocation, InvocationResult, PreTrigger, Timestamp};

const JSON: Option<&str> = Some("application/json");
const JSON_GUID: [u8; 16] = [7; 16];

/// A registry with one schema under id 7; id 8 cannot be asked for, id 9 is no schema, and a GUID of sevens is that of a JSON Schema.
struct Registry(Arc<Schema>);

impl Registry {
    fn with(schema: &str) -> Self {
        Self(Arc::new(Schema::parse_str(schema).unwrap()))
    }
}

impl WriterSchemas for Registry {
    fn find(&self, key: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        match key {
            SchemaKey::Id(7) => Ok(WriterSchema::Avro(Arc::clone(&self.0))),
            SchemaKey::Id(8) => Err(SchemaLookup::Unavailable("connection refused".to_owned())),
            SchemaKey::Id(9) => Err(SchemaLookup::Invalid("expected value at line 1".to_owned())),
            SchemaKey::Guid(JSON_GUID) => Ok(WriterSchema::Json),
            SchemaKey::Id(_) | SchemaKey::Guid(_) => Err(SchemaLookup::Unknown),
        }
    }
}

fn notice() -> PreTrigger {
    PreTrigger {
        id: "n".to_owned(),
        source: "s".to_owned(),
        function: FunctionName::new("f").unwrap(),
        tenant: None,
        expected_invocations: 1,
        confidence: 1.0,
        not_before: None,
        window_ms: 30_000,
        emitted_at: Timestamp::from_millis(5),
        attributes: Attributes::new(),
    }
}

fn call() -> Invocation {
    let json = br#"{"id": "i", "function": "f", "invoked_at": 5}"#;
    Codec::new().decode(json, JSON, &NoSchemaRegistry).unwrap()
}

/// Decodes a datum that was written with `schema`.
fn read<E: Event>(schema: &str, datum: &[u8]) -> Result<E, DecodeError> {
    Codec::new().decode(&[&[0, 0, 0, 0, 7], datum].concat(), None, &Registry::with(schema))
}

/// A writer's schema of calls with these fields after `id` and `function`.
fn writer(fields: &str) -> String {
    let start = r#"{"type": "record", "name": "Invocation", "fields": [{"name": "id", "type": "string"}, {"name": "function", "type": "string"}"#;
    format!("{start}, {fields}]}}")
}

#[test]
fn each_kind_stands_at_its_own_place() {
    let codec = Codec::new();
    for kind in EventKind::ALL {
        assert_eq!(codec.kind(kind).kind, kind);
        assert_eq!(schema::described(codec.schema(kind)), kind.record_name());
    }
}

#[test]
fn bounds_are_inclusive_and_named() {
    let codec = Codec::new();
    let refused = |change: &dyn Fn(&mut PreTrigger)| {
        let mut event = notice();
        change(&mut event);
        codec.encode(&event, WireFormat::SingleObject).map(drop).map_err(|fault| fault.to_string())
    };
    for confidence in [0.0, 1.0] {
        assert_eq!(refused(&|event| event.confidence = confidence), Ok(()));
    }
    for confidence in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
        let fault = refused(&|event| event.confidence = confidence).unwrap_err();
        assert!(fault.contains("pre-trigger not written: confidence must be from 0.0 to 1.0 and is"), "{fault}");
    }
    for (window_ms, good) in [(0, false), (1, true), (86_400_000, true), (86_400_001, false), (u64::MAX, false)] {
        assert_eq!(refused(&|event| event.window_ms = window_ms).is_ok(), good, "{window_ms}");
    }
    for (bytes, good) in [(0, false), (1, true), (256, true), (257, false)] {
        let text = "x".repeat(bytes);
        assert_eq!(refused(&|event| event.id = text.clone()).is_ok(), good, "id of {bytes}");
        assert_eq!(refused(&|event| event.source = text.clone()).is_ok(), good, "source of {bytes}");
        assert_eq!(refused(&|event| event.tenant = Some(text.clone())).is_ok(), good, "tenant of {bytes}");
    }
    for (entries, good) in [(64, true), (65, false)] {
        let attributes: Attributes = (0..entries).map(|nth| (format!("{nth}"), String::new())).collect();
        assert_eq!(refused(&|event| event.attributes = attributes.clone()).is_ok(), good, "{entries} attributes");
    }
    for (bytes, good) in [(16_384, true), (16_385, false)] {
        let attributes = Attributes::from([("key".to_owned(), "x".repeat(bytes - 3))]);
        assert_eq!(refused(&|event| event.attributes = attributes.clone()).is_ok(), good, "{bytes} bytes");
    }
}

#[test]
fn bounds_hold_for_what_comes_in_as_well() {
    let json = br#"{"id": "n", "source": "s", "function": "f", "emitted_at": 5, "confidence": 1.5}"#;
    let fault = Codec::new().decode::<PreTrigger>(json, JSON, &NoSchemaRegistry).unwrap_err();
    assert_eq!(fault.reason(), "out_of_bounds");
    assert_eq!(fault.to_string(), "event of kind pre-trigger refused: confidence must be from 0.0 to 1.0 and is 1.5");
    let json = br#"{"id": "", "function": "f", "invoked_at": 5}"#;
    let fault = Codec::new().decode::<Invocation>(json, JSON, &NoSchemaRegistry).unwrap_err();
    assert_eq!(fault.to_string(), "event of kind invocation refused: id must have 1 to 256 bytes and has 0");
}

#[test]
fn faults_of_a_definition_are_left_to_the_registry() {
    let json = br#"{"name": "f", "version": "", "artifact": {"uri": "store:", "sha256":
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}, "kind": "command", "limits": {"timeout_ms": 0}}"#;
    let event: FunctionDefinition = Codec::new().decode(json, JSON, &NoSchemaRegistry).unwrap();
    assert_eq!(event.faults().len(), 2);
    assert_eq!(event.limits.memory_bytes, 134_217_728, "a field that is left out has its default");
}

#[test]
fn what_json_cannot_hold_is_refused_in_avro_too() {
    let json = br#"{"name": "f", "version": "1", "artifact": {"uri": "store:", "sha256":
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}, "kind": "command",
        "pre_trigger": {"confidence_min": 0.25}, "chains": [{"to": "g", "rule": "state", "probability": 0.75}]}"#;
    let codec = Codec::new();
    let event: FunctionDefinition = codec.decode(json, JSON, &NoSchemaRegistry).unwrap();
    let written = codec.encode(&event, WireFormat::SingleObject).unwrap();
    for (number, field) in [(0.25_f64, "pre_trigger.confidence_min"), (0.75, "chains.probability")] {
        for (bad, shown) in [(f64::NAN, "NaN"), (f64::NEG_INFINITY, "-inf")] {
            let mut bytes = written.clone();
            let at = bytes.windows(8).position(|window| window == number.to_le_bytes()).unwrap();
            bytes[at..at + 8].copy_from_slice(&bad.to_le_bytes());
            let fault = codec.decode::<FunctionDefinition>(&bytes, None, &NoSchemaRegistry).unwrap_err().to_string();
            let wanted = format!("event of kind function-definition refused: {field} must be a number and is {shown}");
            assert_eq!(fault, wanted);
        }
    }
}

#[test]
fn json_takes_unknown_fields_and_refuses_deep_nesting() {
    let codec = Codec::new();
    let json = br#"{"id": "i", "function": "f", "invoked_at": 5, "later": {"x": [1]}, "attributes": {"k": "v"}}"#;
    let event: Invocation = codec.decode(json, JSON, &NoSchemaRegistry).unwrap();
    assert_eq!(event.attributes["k"], "v");
    let deep = format!(r#"{{"id": "i", "payload": {}"#, r#"{"base64": "#.repeat(100_000));
    assert_eq!(codec.decode::<Invocation>(deep.as_bytes(), JSON, &NoSchemaRegistry).unwrap_err().reason(), "malformed");
    let two = br#"{"id": "i", "function": "f", "invoked_at": 5} {}"#;
    assert_eq!(codec.decode::<Invocation>(two, JSON, &NoSchemaRegistry).unwrap_err().reason(), "malformed");
    let fault = codec.decode::<Invocation>(br#"{"id": "i", "invoked_at": 5}"#, JSON, &NoSchemaRegistry).unwrap_err();
    assert!(
        fault.to_string().starts_with("malformed JSON event of kind invocation: field function: it must be there"),
        "{fault}"
    );
}

#[test]
fn the_registry_s_answers_become_errors_of_their_own() {
    let registry = Registry::with(EventKind::Invocation.schema_json());
    let answer = |id| Codec::new().decode::<Invocation>(&[0, 0, 0, 0, id, 0], None, &registry).unwrap_err();
    assert_eq!((answer(8).reason(), answer(8).retryable()), ("schema_unavailable", true));
    assert_eq!((answer(9).reason(), answer(9).retryable()), ("invalid_schema", false));
    assert_eq!((answer(6).reason(), answer(6).retryable()), ("unknown_schema", false));
    let none = Codec::new().decode::<Invocation>(&[0, 0, 0, 0, 7, 0], None, &NoSchemaRegistry).unwrap_err();
    assert!(none.to_string().contains("names schema id 7"), "{none}");
}

#[test]
fn an_event_on_another_topic_is_named() {
    let codec = Codec::new();
    let bytes = codec.encode(&notice(), WireFormat::SingleObject).unwrap();
    let fault = codec.decode::<Invocation>(&bytes, None, &NoSchemaRegistry).unwrap_err();
    assert_eq!(fault, DecodeError::OtherEvent { kind: EventKind::Invocation, found: "PreTrigger".to_owned() });
    let fault = read::<Invocation>(EventKind::PreTrigger.schema_json(), &bytes[10..]).unwrap_err();
    assert_eq!(fault, DecodeError::OtherEvent { kind: EventKind::Invocation, found: "PreTrigger".to_owned() });
    assert_eq!(read::<Invocation>(r#""string""#, &[0]).unwrap_err().reason(), "other_event");
}

#[test]
fn one_message_holds_one_event() {
    let codec = Codec::new();
    let mut bytes = codec.encode(&call(), WireFormat::SingleObject).unwrap();
    bytes.extend([1, 2, 3]);
    let fault = codec.decode::<Invocation>(&bytes, None, &NoSchemaRegistry).unwrap_err();
    assert_eq!(fault, DecodeError::TrailingBytes { kind: EventKind::Invocation, count: 3 });
}

#[test]
fn both_fingerprints_of_a_schema_with_times_are_read() {
    let codec = Codec::new();
    let mut bytes = codec.encode(&call(), WireFormat::SingleObject).unwrap();
    let apache = fingerprint::as_apache_avro(codec.schema(EventKind::Invocation));
    assert_ne!(apache, codec.fingerprint(EventKind::Invocation));
    bytes[2..10].copy_from_slice(&apache.to_le_bytes());
    assert_eq!(codec.decode::<Invocation>(&bytes, None, &NoSchemaRegistry).unwrap(), call());
}

#[test]
fn a_length_prefix_is_not_believed() {
    // An id of 2^40 bytes, and a payload of -1 bytes.
    let fault = read::<Invocation>(EventKind::Invocation.schema_json(), &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    let fault = fault.unwrap_err().to_string();
    assert!(fault.ends_with("field id: 2199023255552 bytes are needed and 0 are left"), "{fault}");
    let fault = read::<Invocation>(EventKind::Invocation.schema_json(), &[2, b'i', 2, b'f', 0, 1]).unwrap_err();
    assert!(fault.to_string().ends_with("field payload: -1 is no length"), "{fault}");
}

#[test]
fn integers_stay_within_their_types() {
    let schema = r#"{"type": "record", "name": "InvocationResult", "fields": [{"name": "attempt", "type": "long"}]}"#;
    let fault = read::<InvocationResult>(schema, &[0x01]).unwrap_err().to_string();
    assert!(fault.contains("field attempt: invalid value: integer `-1`, expected u32"), "{fault}");
    let mut event = notice();
    event.window_ms = 1;
    event.expected_invocations = u32::MAX;
    let bytes = Codec::new().encode(&event, WireFormat::SingleObject).unwrap();
    assert_eq!(Codec::new().decode::<PreTrigger>(&bytes, None, &NoSchemaRegistry).unwrap(), event);
}

#[test]
fn a_count_above_avro_s_long_is_not_written() {
    let json = br#"{"invocation_id": "i", "function": "f", "status": "ok", "node": "n", "completed_at": 5,
        "queued_us": 18446744073709551615}"#;
    let event: InvocationResult = Codec::new().decode(json, JSON, &NoSchemaRegistry).unwrap();
    let fault = Codec::new().encode(&event, WireFormat::SingleObject).unwrap_err();
    assert!(fault.to_string().contains("18446744073709551615 is above 9223372036854775807"), "{fault}");
}

#[test]
fn unions_and_plain_types_become_each_other() {
    // A tenant that is always there, a time that may be absent and is not.
    let fields = r#"{"name": "tenant", "type": "string"}, {"name": "invoked_at", "type": ["null", "string", "int"]}"#;
    let event: Invocation = read(&writer(fields), &[2, b'i', 2, b'f', 2, b't', 4, 10]).unwrap();
    assert_eq!((event.tenant.as_deref(), event.invoked_at), (Some("t"), Timestamp::from_millis(5)));
    for (branch, seen) in [(0, "null is seen"), (2, "string \"\" is seen")] {
        let fault = read::<Invocation>(&writer(fields), &[2, b'i', 2, b'f', 2, b't', branch, 0]).unwrap_err();
        assert!(fault.to_string().contains(&format!("field invoked_at: {seen}")), "{fault}");
    }
    let fault = read::<Invocation>(&writer(fields), &[2, b'i', 2, b'f', 2, b't', 6, 0]).unwrap_err();
    assert!(fault.to_string().ends_with("field invoked_at: union branch 3 of 3"), "{fault}");
}

#[test]
fn times_in_other_units_are_refused() {
    let times = ["timestamp-micros", "timestamp-nanos", "local-timestamp-millis", "time-micros"];
    for unit in times {
        let fields = format!(r#"{{"name": "invoked_at", "type": {{"type": "long", "logicalType": "{unit}"}}}}"#);
        let fault = read::<Invocation>(&writer(&fields), &[2, b'i', 2, b'f', 10]).unwrap_err().to_string();
        assert!(
            fault.contains("field invoked_at: the writer's schema declares") && fault.contains("timestamp-millis"),
            "{fault}"
        );
    }
}

#[test]
fn what_avro_does_not_promote_is_refused() {
    for (ty, value) in [("boolean", &[1][..]), ("double", &[0; 8]), ("string", &[2, b'5']), (r#"null"#, &[])] {
        let fields = format!(r#"{{"name": "invoked_at", "type": "{ty}"}}"#);
        let datum = [&[2, b'i', 2, b'f'], value].concat();
        let fault = read::<Invocation>(&writer(&fields), &datum).unwrap_err();
        assert!(fault.to_string().contains("is seen, and i64 is wanted"), "{ty}: {fault}");
    }
    let fields = r#"{"name": "payload", "type": {"type": "fixed", "name": "Four", "size": 4}}"#;
    let fault = read::<Invocation>(&writer(fields), &[2, b'i', 2, b'f', 1, 2, 3, 4]).unwrap_err();
    assert!(fault.to_string().contains("field payload: the writer's schema declares fixed"), "{fault}");
}

#[test]
fn blocks_with_their_size_are_read() {
    // Two blocks of attributes, the first with its size in bytes: -1 entry of 4 bytes, then 1 entry, then the end.
    let fields = r#"{"name": "invoked_at", "type": "long"}, {"name": "attributes", "type": {"type": "map", "values": "string"}}"#;
    let datum = [2, b'i', 2, b'f', 10, 1, 8, 2, b'a', 2, b'1', 2, 2, b'b', 2, b'2', 0];
    let event: Invocation = read(&writer(fields), &datum).unwrap();
    let expected = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(event.attributes, Attributes::from(expected));
}

#[test]
fn text_from_outside_is_cut_in_errors() {
    let json = format!(r#"{{"id": "i", "function": "f", "invoked_at": "{}"}}"#, "é".repeat(1_000_000));
    let fault = Codec::new().decode::<Invocation>(json.as_bytes(), JSON, &NoSchemaRegistry).unwrap_err();
    assert!(fault.to_string().len() < 400, "{}", fault.to_string().len());
}

#[test]
fn a_schema_of_another_kind_is_no_writer() {
    let fault = Codec::with_writers(&[(EventKind::Invocation, EventKind::PreTrigger.schema_json())]).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "schema of kind invocation is not usable: it describes PreTrigger and should describe the record Invocation"
    );
    assert!(Codec::with_writers(&[(EventKind::Invocation, "{")]).is_err());
}

#[test]
fn a_union_at_the_top_is_read_by_the_branch_that_was_written() {
    let other = r#"{"type": "record", "name": "Refund", "fields": [{"name": "id", "type": "string"}]}"#;
    let fields = r#"{"name": "invoked_at", "type": "long"}"#;
    let union = format!("[\"null\", {other}, {}]", writer(fields));
    let datum = [2, b'i', 2, b'f', 10];
    let event: Invocation = read(&union, &[&[4], &datum[..]].concat()).unwrap();
    assert_eq!((event.id.as_str(), event.invoked_at), ("i", Timestamp::from_millis(5)));
    for (branch, found) in [(0, "no record"), (2, "Refund"), (6, "a union without that branch"), (1, "a union without")]
    {
        let fault = read::<Invocation>(&union, &[&[branch], &datum[..]].concat()).unwrap_err();
        assert_eq!(fault.reason(), "other_event");
        assert!(fault.to_string().contains(found), "{branch}: {fault}");
    }
    assert_eq!(read::<Invocation>(&union, &[]).unwrap_err().reason(), "other_event");
    // Another kind, in another namespace, behind a branch that is no record and beside a type that both records use.
    let text = |name: &str| format!(r#"{{"name": "{name}", "type": "string"}}"#);
    let kind = r#"{"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}}"#;
    let record = |name: &str, fields: &[String]| {
        format!(r#"{{"type": "record", "name": "{name}", "namespace": "org.shop", "fields": [{}]}}"#, fields.join(", "))
    };
    let tick = record("Tick", &[kind.to_owned()]);
    let of_kind = r#"{"name": "sort", "type": "org.shop.Kind"}"#.to_owned();
    let notice = record("PreTrigger", &[text("id"), of_kind, text("source"), text("function")]);
    let union = format!(r#"["string", {tick}, {notice}]"#);
    let event: PreTrigger = read(&union, &[4, 2, b'n', 2, 2, b's', 2, b'f']).unwrap();
    assert_eq!((event.id.as_str(), event.source.as_str(), event.function.as_str()), ("n", "s", "f"));
    let fault = read::<PreTrigger>(&union, &[2, 2]).unwrap_err();
    assert!(fault.to_string().contains("Tick"), "{fault}");
}

#[test]
fn an_event_without_a_time_of_its_own_has_its_record_s() {
    let codec = Codec::new();
    let recorded_at = Timestamp::from_millis(77);
    for (json, at) in [(r#"{"id": "i", "function": "f"}"#, 77), (r#"{"id": "i", "function": "f", "invoked_at": 5}"#, 5)]
    {
        let event: Invocation = codec.decode_recorded(json.as_bytes(), JSON, &NoSchemaRegistry, recorded_at).unwrap();
        assert_eq!(event.invoked_at, Timestamp::from_millis(at));
    }
    let json = br#"{"id": "n", "source": "s", "function": "f", "emitted_at": 0}"#;
    let event: PreTrigger = codec.decode_recorded(json, JSON, &NoSchemaRegistry, recorded_at).unwrap();
    assert_eq!((event.emitted_at, event.expires_at()), (recorded_at, Timestamp::from_millis(30_077)));
}

#[test]
fn fingerprints_are_told_as_they_stand_in_the_message() {
    let codec = Codec::new();
    let message = [0xc3, 0x01, 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0x00];
    let fault = codec.decode::<Invocation>(&message, None, &NoSchemaRegistry).unwrap_err().to_string();
    let current: String =
        codec.fingerprint(EventKind::Invocation).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for told in ["fingerprint 1032547698badcfe is", &format!("current one has {current})")] {
        assert!(fault.contains(told), "{told}: {fault}");
    }
    let table = include_str!("../../schemas/README.md");
    assert!(table.contains(&format!("| `invocation.avsc` | `{current}` |")), "{current}");
}

#[test]
fn a_value_is_read_by_the_schema_that_its_header_names() {
    let codec = Codec::new();
    let registry = Registry::with(EventKind::Invocation.schema_json());
    let read = |value: &[u8], header: &[u8]| {
        let headers = ValueHeaders { content_type: None, schema_id: Some(header) };
        codec.decode::<Invocation>(value, headers, &registry)
    };
    let framed = codec.encode(&call(), WireFormat::Confluent { schema_id: 7 }).unwrap();
    assert_eq!(read(&framed[5..], &[0, 0, 0, 0, 7]), Ok(call()));
    let json = br#"{"id": "i", "function": "f", "invoked_at": 5}"#;
    let guid = [&[1], JSON_GUID.as_slice()].concat();
    assert_eq!(read(json, &guid), Ok(call()));
    let refused = |value: &[u8], header: &[u8]| read(value, header).unwrap_err();
    assert_eq!(refused(&framed[5..], &guid).reason(), "malformed");
    assert_eq!(refused(&framed, &[0, 0, 0, 0, 7]).reason(), "malformed", "there is no framing beside the header");
    let unknown = refused(json, &[&[1], [9; 16].as_slice()].concat());
    assert_eq!(unknown.reason(), "unknown_schema");
    assert!(unknown.to_string().contains("schema GUID 09090909-0909-0909-0909-090909090909"), "{unknown}");
    assert!(refused(json, &[0, 0, 0, 0, 8]).retryable());
    // An Avro or a JSON value has nothing behind its schema.
    assert_eq!(refused(json, &[&guid[..], &[0]].concat()).reason(), "unknown_format");
}
