//! Inputs that claim the most memory for their length.
//!
//! Must not: be random; what is densest is known from the types.

use forewarm::codec::{CONTENT_TYPE_JSON, Codec, NoSchemaRegistry, WireFormat};
use forewarm::types::{ChainRule, ChainRuleKind, FunctionDefinition, FunctionName, RetryStatus, Schedule};

use crate::targets;

/// Items of each.
const ITEMS: usize = 8_193;

/// Definitions with many of whatever one can have many of, in Avro and in JSON.
pub fn dense_events() -> Vec<Vec<u8>> {
    let codec = Codec::new();
    let example = &targets::seeds("definitions")[0];
    let plain: FunctionDefinition = codec.decode(example, Some(CONTENT_TYPE_JSON), &NoSchemaRegistry).unwrap();
    let chain =
        ChainRule { to: FunctionName::new("g").unwrap(), rule: ChainRuleKind::Pin, probability: 1.0, lag_ms: 0 };
    let schedule = Schedule { cron: String::new(), timezone: String::new(), duration_ms: 0, instances: 0 };
    let changes: [&dyn Fn(&mut FunctionDefinition); 6] = [
        &|it| it.pre_trigger.sources = vec![String::new(); ITEMS],
        &|it| it.retry.statuses = vec![RetryStatus::Trap; ITEMS],
        &|it| it.schedules = vec![schedule.clone(); ITEMS],
        &|it| it.chains = vec![chain.clone(); ITEMS],
        &|it| it.environment = (0..ITEMS).map(|nth| (format!("{nth:x}"), String::new())).collect(),
        &|it| it.version = "\u{7f}".repeat(ITEMS),
    ];
    let mut events = Vec::new();
    for change in changes {
        let mut definition = plain.clone();
        change(&mut definition);
        events
            .extend([WireFormat::SingleObject, WireFormat::Json].map(|form| codec.encode(&definition, form).unwrap()));
    }
    events
}

/// The same for one target; none where its seeds are as dense as can be.
pub fn dense(target: &str) -> Vec<Vec<u8>> {
    let record = |fields: &str, datum: &[u8]| {
        let schema = format!(r#"{{"type": "record", "name": "PreTrigger", "fields": [{fields}]}}"#);
        [schema.as_bytes(), &[0], datum].concat()
    };
    match target {
        "events" | "definitions" => dense_events(),
        "writers" => {
            let field = |nth: usize| format!(r#"{{"name": "f{nth}", "type": "null"}}"#);
            let fields = (0..500).map(field).collect::<Vec<_>>().join(",");
            let nulls = r#"{"name": "x", "type": {"type": "array", "items": "null"}}"#;
            let empty =
                r#"{"name": "x", "type": {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}}"#;
            let huge = r#"{"name": "x", "type": {"type": "fixed", "name": "F", "size": 9007199254740991}}"#;
            let deep = format!("{}{}", r#"{"type": "array", "items": "#.repeat(120), "\"null\"}");
            let many = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
            vec![
                record(&fields, &[]),
                record(nulls, &many),
                record(empty, &many),
                record(huge, &many),
                deep.into_bytes(),
                b"[".repeat(5_000),
                [&b"["[..], &b"\"null\",".repeat(2_000)].concat(),
            ]
        }
        "metadata" => {
            let next = [&0_i64.to_le_bytes()[..], &[1]].concat();
            vec![[&next[..], &[1; 2_236]].concat(), [&next[..], &[1; 60_000]].concat()]
        }
        "snapshots" => {
            // No record, and then lists that claim as many items as there are bytes.
            let claimed = [&[1, 0, 0xff, 0xff, 0x01][..], &[0; 32_000]].concat();
            let chains = [&[1, 0, 0][..], &[0; 8], &[0xff, 0xff, 0x01], &[0; 32_000]].concat();
            let needs = [&[1, 1, 0, 0, 0][..], &[0; 40], &[0xff, 0xff, 0x01], &[0; 32_000]].concat();
            vec![claimed, chains, needs, vec![1; 100_000]]
        }
        _ => Vec::new(),
    }
}
