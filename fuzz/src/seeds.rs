//! Inputs to begin with: the examples of the schemas, and what this service itself would write.
//!
//! Must not: hold what `schemas/examples` has.

use std::sync::Arc;
use std::time::Duration;

use super::events::{NEWER_RESULT, NEWER_RESULT_ID, OLDER_INVOCATION, OLDER_INVOCATION_ID};
use super::plane::{BEGIN, Plane, name, plain};

/// An example in each form: JSON, and single-object as hexadecimal digits.
macro_rules! example {
    ($name:literal) => {
        (
            include_str!(concat!("../../schemas/examples/", $name, ".json")),
            include_str!(concat!("../../schemas/examples/", $name, ".single-object.hex")),
        )
    };
}

/// Examples of the kinds, in the order of `EventKind::ALL`.
const EXAMPLES: [(&str, &str); 8] = [
    example!("pre-trigger"),
    example!("invocation"),
    example!("invocation-result"),
    example!("function-definition"),
    example!("pre-trigger-outcome"),
    example!("forecast-snapshot"),
    example!("function-status"),
    example!("function-log"),
];
const NEWER: (&str, &str) = example!("invocation-result.newer");
const OLDER: (&str, &str) = example!("invocation.older");

/// The schemas of [`EXAMPLES`].
const SCHEMAS: [&str; 8] = [
    include_str!("../../schemas/pre-trigger.avsc"),
    include_str!("../../schemas/invocation.avsc"),
    include_str!("../../schemas/invocation-result.avsc"),
    include_str!("../../schemas/function-definition.avsc"),
    include_str!("../../schemas/pre-trigger-outcome.avsc"),
    include_str!("../../schemas/forecast-snapshot.avsc"),
    include_str!("../../schemas/function-status.avsc"),
    include_str!("../../schemas/function-log.avsc"),
];

/// A writer with fields that no reader wants, of every type there is, one of which refers to itself.
const STRANGER: &str = r#"{"type": "record", "name": "PreTrigger", "fields": [
    {"name": "tree", "type": {"type": "record", "name": "Tree", "fields": [
        {"name": "left", "type": ["null", "Tree"]}, {"name": "nothing", "type": {"type": "array", "items": "null"}}]}},
    {"name": "fixed", "type": {"type": "fixed", "name": "Four", "size": 4}},
    {"name": "many", "type": {"type": "map", "values": ["int", "float", "double", "bytes", "boolean", "Four"]}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "suit", "type": {"type": "enum", "name": "Suit", "symbols": ["A", "B"], "default": "A"}},
    {"name": "id", "type": "bytes"}, {"name": "source", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "function", "type": "string"}, {"name": "confidence", "type": "float"},
    {"name": "emitted_at", "type": "int"}]}"#;

/// Inputs of one target to begin with; none where there is no such target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "events" => events(),
        "writers" => writers(),
        "metadata" => metadata(),
        "tracker" => tracker(),
        "definitions" => definitions(),
        "snapshots" => snapshots(),
        "schedules" => schedules(),
        "shown" => shown(),
        _ => Vec::new(),
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// In Confluent framing: a single-object message without its header of ten bytes, behind this schema id.
fn framed(id: u32, hex: &str) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), &unhex(hex)[10..]].concat()
}

fn events() -> Vec<Vec<u8>> {
    let kinds = (0..).zip(EXAMPLES).flat_map(|(id, (json, hex))| [json.into(), unhex(hex), framed(id, hex)]);
    let others = [framed(NEWER_RESULT_ID, NEWER.1), framed(OLDER_INVOCATION_ID, OLDER.1), unhex(OLDER.1)];
    kinds.chain(others).chain([NEWER.0.into(), OLDER.0.into(), not_a_number()]).collect()
}

/// A definition that wants a confidence which is no number: Avro can hold one, and JSON cannot.
fn not_a_number() -> Vec<u8> {
    let mut bytes = unhex(EXAMPLES[3].1);
    let quarter = 0.25_f64.to_le_bytes();
    if let Some(at) = bytes.windows(8).position(|window| window == quarter) {
        bytes[at..at + 8].copy_from_slice(&f64::NAN.to_le_bytes());
    }
    bytes
}

fn writers() -> Vec<Vec<u8>> {
    let of = |schema: &str, datum: &[u8]| [schema.as_bytes(), &[0], datum].concat();
    let kinds = SCHEMAS.into_iter().zip(EXAMPLES).map(|(schema, (_, hex))| of(schema, &unhex(hex)[10..]));
    let others = [
        of(NEWER_RESULT, &unhex(NEWER.1)[10..]),
        of(OLDER_INVOCATION, &unhex(OLDER.1)[10..]),
        of(
            STRANGER,
            &[&[2, 0, 0, 4, 0, 0, 1, 2, 3, 4, 2, 2, b'k', 0, 8, 0, 6, 4, 1, 2, 2][..], b"\x02i\x02s\x02f"].concat(),
        ),
    ];
    kinds.chain(others).collect()
}

fn shown() -> Vec<Vec<u8>> {
    let texts = [
        "plain",
        "\u{1b}]0;title\u{7}\u{1b}[2J",
        "a\n2026-01-01T00:00:00Z  INFO forged",
        "\u{202e}gpj.exe\u{2066}",
        "\u{9b}2J\u{7f}é🙂",
    ];
    texts.into_iter().flat_map(|text| [4, 255].map(|within| [&[within], text.as_bytes()].concat())).collect()
}

fn metadata() -> Vec<Vec<u8>> {
    let of = |next: i64, is_sealed: u8, rest: &[u8]| [&next.to_le_bytes()[..], &[is_sealed], rest].concat();
    let comb: Vec<u8> = (0..600).map(|nth| (1 + nth % 7) as u8).collect();
    vec![
        of(0, 1, &[]),
        of(0, 0, &[]),
        of(100, 1, &[5, 5, 0xa2, 0x02, 1]),
        of(100, 0, b"forewarm1:hYHLpAUFogIB"),
        of(100, 0, b"forewarm2:hYHLpAUFogIB"),
        of(100, 0, b"host-7"),
        of(1 << 40, 1, &comb),
        of(0, 1, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]),
    ]
}

fn tracker() -> Vec<Vec<u8>> {
    let of = |next: i64, runs: &[u8], operations: &[u8]| {
        [&next.to_le_bytes()[..], &[runs.len() as u8], runs, operations].concat()
    };
    let mixed: Vec<u8> = (0..400_u32).map(|nth| (nth * nth / 7 + nth) as u8).collect();
    vec![
        of(0, &[], &[0, 0, 0, 3, 1, 2, 6, 2, 7, 0, 2]),
        of(100, &[5, 5, 0xa2, 0x02, 1], &[1, 3, 0, 0, 2, 7, 1, 9, 5, 2, 6, 4, 1, 7, 0]),
        of(7, &[1, 1, 1, 1, 1, 1], &[0, 1, 0, 2, 0, 0, 2, 5, 9, 7, 7, 1, 200, 2, 7]),
        of(i64::MAX - 9, &[2, 3], &[0, 0, 0, 2, 2, 0, 0, 0, 0, 3, 1, 7, 1, 9, 1, 9]),
        of(1 << 40, &[], &mixed),
    ]
}

fn definitions() -> Vec<Vec<u8>> {
    let (json, hex) = EXAMPLES[3];
    let small = r#"{"name": "f", "version": "1", "artifact": {"uri": "store:", "sha256": "SHA"}, "kind": "command"}"#;
    let small = small.replace("SHA", &"0".repeat(64));
    let greedy = json.replace("\"floor\": 1, \"ceiling\": 16", "\"floor\": 4294967295, \"ceiling\": 4294967295");
    let busy = json.replace("55 8 * * 1-5", "*/7 * * * *").replace("\"rule\": \"deny\"", "\"rule\": \"pin\"");
    vec![json.into(), unhex(hex), framed(3, hex), small.into(), greedy.into(), busy.into(), not_a_number()]
}

/// What a control plane keeps of two functions, the second of which follows the first, with a source's notices.
fn snapshots() -> Vec<Vec<u8>> {
    let mut plane = Plane::new();
    plane.now = BEGIN - Duration::from_hours(12);
    plane.define(Arc::new(plain("a")));
    plane.define(Arc::new(plain("b")));
    for nth in 0..60 {
        if nth % 4 == 0 {
            plane.announce(&name("a"), &nth.to_string(), 2);
        }
        plane.call(&name("a"), Duration::from_millis(50));
        plane.call(&name("b"), Duration::from_millis(50));
        plane.tick(Duration::from_mins(1), vec![]);
        plane.tick(Duration::from_mins(9), vec![]);
    }
    let kept = plane.control.take_all_snapshots(plane.now);
    kept.into_iter().map(|snapshot| snapshot.state.0).chain([vec![], vec![1], vec![2, 0]]).collect()
}

fn schedules() -> Vec<Vec<u8>> {
    let at =
        |cron: &str, zone: &str, now: i64| [cron.as_bytes(), &[0], zone.as_bytes(), &[0], &now.to_le_bytes()].concat();
    let now = BEGIN.as_micros();
    vec![
        at("55 8 * * 1-5", "Europe/Berlin", now),
        at("*/10 * * * *", "UTC", now + 1),
        at("0 0 29 2 *", "America/New_York", now),
        at("30 2 * * SUN", "Australia/Lord_Howe", now),
        at("0 0 L * *", "UTC", now),
        at("0 0 * * FRI#L", "Asia/Kathmandu", i64::MAX),
        at("@daily", "", i64::MIN),
        at("0 0 30 2 *", "UTC", 0),
        at("1,2,5-9/2 0-23/3 1W JAN-MAR ?", "UTC", now),
    ]
}
