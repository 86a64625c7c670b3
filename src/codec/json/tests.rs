//! JSON as people write it, field by field.

use super::*;
use crate::types::{FunctionDefinition, Invocation, InvocationResult, Payload, PreTrigger, Timestamp};

const MILLISECONDS: &str = "a whole number of milliseconds since 1970-01-01 UTC";

fn call(json: &str) -> Result<Invocation, String> {
    read(json.as_bytes(), Some("payload")).map_err(|fault| fault.to_string())
}

fn with(field: &str) -> Result<Invocation, String> {
    call(&format!(r#"{{"id": "i", "function": "f", "invoked_at": 5, {field}}}"#))
}

#[test]
fn null_is_as_if_it_were_absent() {
    let event = with(r#""payload": null, "tenant": null, "attributes": null, "content_type": null"#).unwrap();
    assert_eq!((event.payload, event.content_type), (Payload::default(), None));
    assert_eq!(call(r#"{"id": null, "function": "f"}"#).unwrap_err(), "field id: it must be there");
    assert_eq!(
        with(r#""attributes": {"a": null}"#).unwrap_err(),
        "field attributes.a: null is seen, and a text is wanted"
    );
}

#[test]
fn whole_numbers_may_be_written_as_floats() {
    for (json, wanted) in [("1.7e12", 1_700_000_000_000), ("5.0", 5), ("-3", -3), ("9007199254740992.0", 1 << 53)] {
        assert_eq!(
            with(&format!(r#""deadline": {json}"#)).unwrap().deadline,
            Some(Timestamp::from_millis(wanted)),
            "{json}"
        );
    }
    for json in ["1.5", "1e300", "18446744073709551616", "9223372036854775808", "1754300000000.25"] {
        let fault = with(&format!(r#""deadline": {json}"#)).unwrap_err();
        assert_eq!(fault, format!("field deadline: the number {json} is seen, and {MILLISECONDS} is wanted"));
    }
    assert_eq!(
        with(r#""deadline": "5""#).unwrap_err(),
        format!(r#"field deadline: the text "5" is seen, and {MILLISECONDS} is wanted"#)
    );
    let notice = |confidence: &str| {
        let json =
            format!(r#"{{"id": "n", "source": "s", "function": "f", "emitted_at": 5, "confidence": {confidence}}}"#);
        read::<PreTrigger>(json.as_bytes(), None).map(|event| event.confidence).map_err(|fault| fault.to_string())
    };
    assert_eq!(notice("1"), Ok(1.0));
    assert_eq!(
        notice("true"),
        Err("field confidence: the truth value true is seen, and a number is wanted".to_owned())
    );
}

#[test]
fn a_payload_may_be_any_value() {
    for json in [r#"{"name": "Ann", "base64": "AA=="}"#, "[1, 2]", "5", "true", "{}", r#"{"base64": 5}"#] {
        let event = with(&format!(r#""payload": {json}"#)).unwrap();
        assert_eq!(event.payload, Payload(json.as_bytes().to_vec()));
        assert_eq!(event.content_type.as_deref(), Some("application/json"), "{json}");
    }
    let event = with(r#""content_type": "application/vnd.acme+json", "payload": [1]"#).unwrap();
    assert_eq!(event.content_type.as_deref(), Some("application/vnd.acme+json"));
    assert_eq!(with(r#""payload": {"base64": "/wA="}"#).unwrap().payload, Payload(vec![0xff, 0]));
    assert_eq!(with(r#""payload": "text""#).unwrap().content_type, None);
    assert!(with(r#""payload": {"base64": "?"}"#).unwrap_err().starts_with("field payload: payload.base64:"));
}

#[test]
fn half_a_character_is_named() {
    for half in [r"\ud83d", r"a\uDE00b", r"\ud83d\ud83d", r"\ud83dx"] {
        let fault = with(&format!(r#""payload": "{half}""#)).unwrap_err();
        assert!(fault.starts_with("field payload: half a character is seen"), "{half}: {fault}");
    }
    let event = with(r#""payload": "\ud83d\ude00\n""#).unwrap();
    assert_eq!(event.payload, Payload("😀\n".as_bytes().to_vec()));
}

#[test]
fn the_event_itself_is_an_object_and_no_deeper_than_it_need_be() {
    assert_eq!(call("[]").unwrap_err(), "an array is seen, and an object is wanted");
    assert!(call("{").unwrap_err().contains("EOF"), "{}", call("{").unwrap_err());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(with(&format!(r#""payload": {deep}"#)).is_ok() || with(&format!(r#""payload": {deep}"#)).is_err());
    assert!(with(&format!(r#""other": {}"#, "[".repeat(50) + &"]".repeat(50))).is_ok(), "passed over where it lies");
}

/// What is said of an event that lacks nothing, where `field` is put in place of the field of that name, or beside them.
fn said<T: for<'de> Deserialize<'de>>(whole: &[(&str, &str)], field: &str, value: &str) -> String {
    let others = whole.iter().filter(|(name, _)| *name != field);
    let fields: Vec<_> = others.chain([&(field, value)]).map(|(name, value)| format!("\"{name}\": {value}")).collect();
    let read = read::<T>(format!("{{{}}}", fields.join(", ")).as_bytes(), Some("payload"));
    read.map_or_else(|fault| fault.to_string(), |_| "taken".to_owned())
}

#[test]
fn each_field_of_a_pre_trigger_says_what_is_wanted() {
    let whole = [("id", r#""n""#), ("source", r#""shop""#), ("function", r#""f""#)];
    let u32s = "a whole number from 0 to 4294967295";
    for (field, value, expected) in [
        ("id", "7", "the number 7 is seen, and a text is wanted"),
        ("source", "null", "it must be there"),
        ("tenant", "[1]", "an array is seen, and a text is wanted"),
        ("expected_invocations", "-1", &format!("the number -1 is seen, and {u32s} is wanted")),
        ("expected_invocations", "2.5", &format!("the number 2.5 is seen, and {u32s} is wanted")),
        ("expected_invocations", "4294967296", &format!("the number 4294967296 is seen, and {u32s} is wanted")),
        ("expected_invocations", r#""2""#, &format!("the text \"2\" is seen, and {u32s} is wanted")),
        ("confidence", r#""high""#, r#"the text "high" is seen, and a number is wanted"#),
        (
            "window_ms",
            r#""30s""#,
            r#"the text "30s" is seen, and a whole number from 0 to 18446744073709551615 is wanted"#,
        ),
        (
            "emitted_at",
            r#""2026-03-01T08:00:00Z""#,
            &format!("the text \"2026-03-01T08:00:00Z\" is seen, and {MILLISECONDS} is wanted"),
        ),
        ("not_before", "1793800000000.5", &format!("the number 1793800000000.5 is seen, and {MILLISECONDS} is wanted")),
    ] {
        assert_eq!(said::<PreTrigger>(&whole, field, value), format!("field {field}: {expected}"));
    }
    for (field, value) in [
        ("expected_invocations", "3.0"),
        ("expected_invocations", "null"),
        ("confidence", "1"),
        ("confidence", "null"),
        ("window_ms", "6e4"),
        ("window_ms", "null"),
        ("emitted_at", "1.7938e12"),
        ("emitted_at", "null"),
        ("not_before", "null"),
        ("attributes", "null"),
        ("tenant", "null"),
        ("unknown", r#"{"deep": [null, 1.5, "\ud800"]}"#),
    ] {
        assert_eq!(said::<PreTrigger>(&whole, field, value), "taken", "{field}: {value}");
    }
}

#[test]
fn each_field_of_a_definition_says_what_is_wanted() {
    let artifact = format!(r#"{{"uri": "store:", "sha256": "{}"}}"#, "ab".repeat(32));
    let whole =
        [("name", r#""f""#), ("version", r#""1""#), ("artifact", artifact.as_str()), ("kind", r#""component""#)];
    for (field, value, expected) in [
        ("name", "null", "field name: it must be there"),
        ("kind", r#""wasm""#, "field kind: unknown variant `wasm`, expected `component` or `command`"),
        ("kind", "1", "field kind: the number 1 is seen, and a text is wanted"),
        ("enabled", r#""yes""#, r#"field enabled: the text "yes" is seen, and true or false is wanted"#),
        ("limits", "[]", "field limits: an array is seen, and an object is wanted"),
        ("environment", r#"{"A": 1}"#, "field environment.A: the number 1 is seen, and a text is wanted"),
        ("schedules", "{}", "field schedules: an object is seen, and an array is wanted"),
        ("artifact", r#"{"uri": "store:"}"#, "field artifact.sha256: it must be there"),
    ] {
        assert_eq!(said::<FunctionDefinition>(&whole, field, value), expected);
    }
    let nested = said::<FunctionDefinition>(&whole, "limits", r#"{"timeout_ms": 1.5}"#);
    assert!(nested.starts_with("field limits.timeout_ms: the number 1.5 is seen, and a whole number"), "{nested}");
    let nested =
        said::<FunctionDefinition>(&whole, "chains", r#"[{"to": "g", "rule": "pin"}, {"to": "h", "rule": 5}]"#);
    assert_eq!(nested, "field chains.1.rule: the number 5 is seen, and a text is wanted");
    for (field, value) in [
        ("limits", r#"{"timeout_ms": 3e4, "memory_bytes": null}"#),
        ("limits", "null"),
        ("warm", r#"{"floor": 2.0, "reuse": null}"#),
        ("pre_trigger", r#"{"confidence_min": 1, "sources": null}"#),
        ("schedules", r#"[{"cron": "0 9 * * *", "timezone": null, "duration_ms": 1e3, "instances": 1.0}]"#),
        ("retry", "null"),
        ("tenant", "null"),
    ] {
        assert_eq!(said::<FunctionDefinition>(&whole, field, value), "taken", "{field}: {value}");
    }
}

#[test]
fn a_payload_of_a_result_is_read_as_it_is_written() {
    let of = |payload: &str| {
        let json = format!(
            r#"{{"invocation_id": "i", "function": "f", "status": "ok", "node": "n", "completed_at": 5, "payload": {payload}}}"#
        );
        read::<InvocationResult>(json.as_bytes(), None).map(|result| result.payload).map_err(|fault| fault.to_string())
    };
    assert_eq!(of("null"), Ok(None));
    assert_eq!(of(r#""text""#), Ok(Some(Payload(b"text".to_vec()))));
    assert_eq!(of(r#"{"base64": "/w=="}"#), Ok(Some(Payload(vec![0xff]))));
    assert!(of("5").unwrap_err().starts_with("field payload: "));
}

#[test]
fn half_a_character_is_named_wherever_it_is() {
    let whole = [("id", r#""i""#), ("function", r#""f""#)];
    for (field, value, path) in [
        ("id", r#""\uD800""#, "id"),
        ("tenant", r#""x\udfff""#, "tenant"),
        ("attributes", r#"{"a": "\udbff!"}"#, "attributes.a"),
        ("attributes", r#"{"\udbff": "a"}"#, "attributes"),
    ] {
        let fault = said::<Invocation>(&whole, field, value);
        assert!(fault.starts_with(&format!("field {path}: half a character is seen")), "{fault}");
    }
}

#[test]
fn text_that_is_not_utf8_is_named_and_a_byte_order_mark_is_nothing() {
    let of = |bytes: &[u8]| {
        read::<Invocation>(bytes, Some("payload")).map(|event| event.payload.0).map_err(|fault| fault.to_string())
    };
    let latin1 = of(b"{\"id\": \"i\", \"function\": \"f\", \"payload\": \"caf\xe9\"}").unwrap_err();
    assert_eq!(
        latin1,
        r#"the byte e9 is seen at 44, behind "\": \"i\", \"function\": \"f\", \"payload\": \"caf", and text in UTF-8 is wanted"#
    );
    let marked = "\u{feff}{\"id\": \"i\", \"function\": \"f\", \"payload\": \"café\"}";
    assert_eq!(of(marked.as_bytes()), Ok("café".into()));
    assert!(of(b"\xff\xfe{\0}\0").unwrap_err().starts_with("the byte ff is seen at 0, behind \"\", and"));
}
