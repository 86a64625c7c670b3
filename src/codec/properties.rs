//! Properties of the codec: what goes in comes out, an independent Avro implementation agrees, and hostile bytes are
//! refused without a panic.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::types::*;

/// A registry with one schema, whatever the id.
struct Registry(Arc<Schema>);

impl WriterSchemas for Registry {
    fn find(&self, _: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        Ok(WriterSchema::Avro(Arc::clone(&self.0)))
    }
}

fn id() -> impl Strategy<Value = String> {
    "\\PC{1,40}"
}

fn name() -> impl Strategy<Value = FunctionName> {
    "[a-zA-Z0-9][a-zA-Z0-9._/-]{0,60}".prop_map(|name| FunctionName::new(&name).unwrap())
}

/// A time as an event can carry it: whole milliseconds.
fn time() -> impl Strategy<Value = Timestamp> {
    (-1_000_000_000_000_i64..10_000_000_000_000).prop_map(Timestamp::from_millis)
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![vec(any::<u8>(), 0..300).prop_map(Payload), "\\PC{0,40}".prop_map(|text| Payload(text.into_bytes()))]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    btree_map("\\PC{0,12}", "\\PC{0,40}", 0..8)
}

/// Thousandths, which JSON text carries exactly (serde_json may be off by the last bit for longer fractions).
fn share() -> impl Strategy<Value = f64> {
    (0..=1_000_u32).prop_map(|thousandths| f64::from(thousandths) / 1_000.0)
}

/// Every count that fits an Avro `long`, small ones more often.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..1_000, 0..=i64::MAX.unsigned_abs()]
}

fn pre_triggers() -> impl Strategy<Value = PreTrigger> {
    let numbers = (any::<u32>(), share(), option::of(time()), 1..=WINDOW_MS_MAX, time());
    (id(), id(), name(), option::of(id()), numbers, attributes()).prop_map(
        |(id, source, function, tenant, numbers, attributes)| {
            let (expected_invocations, confidence, not_before, window_ms, emitted_at) = numbers;
            PreTrigger {
                id,
                source,
                function,
                tenant,
                expected_invocations,
                confidence,
                not_before,
                window_ms,
                emitted_at,
                attributes,
            }
        },
    )
}

fn invocations() -> impl Strategy<Value = Invocation> {
    let texts = (id(), name(), option::of(id()), option::of(id()));
    (texts, payload(), option::of(time()), time(), attributes()).prop_map(
        |((id, function, tenant, content_type), payload, deadline, invoked_at, attributes)| Invocation {
            id,
            function,
            tenant,
            payload,
            content_type,
            deadline,
            invoked_at,
            attributes,
        },
    )
}

fn results() -> impl Strategy<Value = InvocationResult> {
    let kinds = [
        WarmKind::Floor,
        WarmKind::Schedule,
        WarmKind::PreTrigger,
        WarmKind::Chain,
        WarmKind::History,
        WarmKind::Invocation,
    ];
    let error = (id(), option::of(id()), option::of(id())).prop_map(|(message, code, backtrace)| InvocationError {
        message,
        code,
        backtrace,
    });
    let reason =
        (prop::sample::select(kinds.to_vec()), option::of(id())).prop_map(|(kind, detail)| WarmReason { kind, detail });
    let who = (id(), name(), option::of(id()), id());
    let start = (prop::sample::select(Status::ALL.to_vec()), option::of(prop::sample::select(StartKind::ALL.to_vec())));
    let numbers = (count(), count(), count(), any::<u32>(), time());
    (who, start, option::of(payload()), option::of(error), option::of(reason), numbers).prop_map(
        |(who, (status, start_kind), payload, error, warm_reason, numbers)| {
            let (invocation_id, function, function_version, node) = who;
            let (queued_us, prepare_us, execute_us, attempt, completed_at) = numbers;
            InvocationResult {
                invocation_id,
                function,
                function_version,
                status,
                payload,
                error,
                start_kind,
                warm_reason,
                queued_us,
                prepare_us,
                execute_us,
                attempt,
                node,
                completed_at,
            }
        },
    )
}

fn definitions() -> impl Strategy<Value = FunctionDefinition> {
    let artifact = (id(), any::<[u8; 32]>()).prop_map(|(uri, sha256)| Artifact { uri, sha256: Sha256(sha256) });
    let limits = (count(), count(), count(), count(), any::<u32>()).prop_map(
        |(memory_bytes, timeout_ms, payload_in_bytes, payload_out_bytes, concurrency)| Limits {
            memory_bytes,
            timeout_ms,
            payload_in_bytes,
            payload_out_bytes,
            concurrency,
        },
    );
    let reuse = prop::sample::select(vec![Reuse::Reuse, Reuse::Fresh]);
    let warm = (any::<u32>(), any::<u32>(), reuse, any::<u32>())
        .prop_map(|(floor, ceiling, reuse, max_invocations)| WarmPolicy { floor, ceiling, reuse, max_invocations });
    let criteria = (any::<u32>(), count(), share(), vec(id(), 0..5), any::<u32>()).prop_map(
        |(notices_min, within_ms, confidence_min, sources, instances_max)| Criteria {
            notices_min,
            within_ms,
            confidence_min,
            sources,
            instances_max,
        },
    );
    let kind = prop::sample::select(vec![FunctionKind::Component, FunctionKind::Command]);
    let overflow = prop::sample::select(vec![Overflow::Pause, Overflow::Reject, Overflow::DeadLetter]);
    let ordering = prop::sample::select(vec![Ordering::Unordered, Ordering::Key, Ordering::Partition]);
    let statuses = [RetryStatus::FunctionError, RetryStatus::Trap, RetryStatus::Timeout, RetryStatus::Unavailable];
    let statuses = vec(prop::sample::select(statuses.to_vec()), 0..4);
    let retry = (any::<u32>(), count(), count(), count(), statuses).prop_map(
        |(attempts_max, backoff_ms, backoff_max_ms, age_max_ms, statuses)| Retry {
            attempts_max,
            backoff_ms,
            backoff_max_ms,
            age_max_ms,
            statuses,
        },
    );
    let schedules = (id(), id(), count(), any::<u32>()).prop_map(|(cron, timezone, duration_ms, instances)| Schedule {
        cron,
        timezone,
        duration_ms,
        instances,
    });
    let rule = prop::sample::select(vec![ChainRuleKind::Pin, ChainRuleKind::Deny, ChainRuleKind::State]);
    let chains = (name(), rule, share(), count()).prop_map(|(to, rule, probability, lag_ms)| ChainRule {
        to,
        rule,
        probability,
        lag_ms,
    });
    let rules = (vec(schedules, 0..3), vec(chains, 0..3));
    let policies = ((ordering, overflow), retry, rules, prop::option::of(id()));
    ((name(), id(), artifact, kind, any::<bool>()), limits, attributes(), warm, criteria, policies).prop_map(
        |(
            (name, version, artifact, kind, enabled),
            limits,
            environment,
            warm,
            pre_trigger,
            ((ordering, overflow), retry, (schedules, chains), tenant),
        )| {
            FunctionDefinition {
                name,
                version,
                artifact,
                kind,
                enabled,
                limits,
                environment,
                warm,
                pre_trigger,
                ordering,
                retry,
                overflow,
                schedules,
                chains,
                tenant,
            }
        },
    )
}

fn outcomes() -> impl Strategy<Value = PreTriggerOutcome> {
    let who = (id(), id(), option::of(id()), name(), id());
    let how = (prop::sample::select(OutcomeKind::ALL.to_vec()), option::of(id()));
    let counts = (any::<u32>(), any::<u32>(), option::of(any::<i64>()), time());
    (who, how, counts).prop_map(|((pre_trigger_id, source, tenant, function, node), (kind, criterion), counts)| {
        let (announced, arrived, first_call_lag_us, ended_at) = counts;
        PreTriggerOutcome {
            pre_trigger_id,
            source,
            tenant,
            function,
            kind,
            criterion: criterion.map(Into::into),
            announced,
            arrived,
            first_call_lag_us,
            ended_at,
            node,
        }
    })
}

thread_local! {
    static CODEC: Codec = Codec::new();
}

/// Every format gives the event back, and the independent implementation reads our bytes as the same event and writes
/// bytes that we read as the same event.
fn holds<E: Event + PartialEq + std::fmt::Debug>(event: &E) -> Result<(), TestCaseError> {
    CODEC.with(|codec| {
        let schema = codec.schema(E::KIND);
        let registry = Registry(Arc::new(schema.clone()));

        let single = codec.encode(event, WireFormat::SingleObject).unwrap();
        prop_assert_eq!(&codec.decode::<E>(&single, None, &NoSchemaRegistry).unwrap(), event);
        let framed = codec.encode(event, WireFormat::Confluent { schema_id: 7 }).unwrap();
        prop_assert_eq!(&codec.decode::<E>(&framed, None, &registry).unwrap(), event);
        let json = codec.encode(event, WireFormat::Json).unwrap();
        prop_assert_eq!(&codec.decode::<E>(&json, Some("application/json"), &NoSchemaRegistry).unwrap(), event);

        let judge = GenericDatumReader::builder(schema).build().unwrap();
        let mut datum = &single[wire::SINGLE_OBJECT_LEN..];
        let value = judge.read_value(&mut datum).unwrap();
        prop_assert!(datum.is_empty(), "the judge left {} bytes", datum.len());
        prop_assert_eq!(&apache_avro::from_value::<E>(&value).unwrap(), event);

        let judge = GenericDatumWriter::builder(schema).build().unwrap();
        let theirs = [&framed[..wire::CONFLUENT_LEN], &judge.write_value_to_vec(value).unwrap()].concat();
        prop_assert_eq!(&codec.decode::<E>(&theirs, None, &registry).unwrap(), event);
        Ok(())
    })
}

/// Decodes as every kind, in every way; whatever comes is an answer.
fn survives(bytes: &[u8]) {
    CODEC.with(|codec| {
        for schema in EventKind::ALL.map(|kind| codec.schema(kind).clone()) {
            let registry = Registry(Arc::new(schema));
            for content_type in [None, Some("application/json")] {
                drop(codec.decode::<PreTrigger>(bytes, content_type, &registry));
                drop(codec.decode::<Invocation>(bytes, content_type, &registry));
                drop(codec.decode::<InvocationResult>(bytes, content_type, &registry));
                drop(codec.decode::<FunctionDefinition>(bytes, content_type, &registry));
                drop(codec.decode::<PreTriggerOutcome>(bytes, content_type, &registry));
                drop(codec.decode::<ForecastSnapshot>(bytes, content_type, &registry));
                drop(codec.decode::<FunctionStatus>(bytes, content_type, &registry));
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pre_triggers_round_trip(event in pre_triggers()) {
        holds(&event)?;
    }

    #[test]
    fn invocations_round_trip(event in invocations()) {
        holds(&event)?;
    }

    #[test]
    fn results_round_trip(event in results()) {
        holds(&event)?;
    }

    #[test]
    fn definitions_round_trip(event in definitions()) {
        holds(&event)?;
    }

    #[test]
    fn outcomes_round_trip(event in outcomes()) {
        holds(&event)?;
    }

    #[test]
    fn snapshots_round_trip(function in name(), node in id(), taken_at in time(), state in payload()) {
        holds(&ForecastSnapshot { function, node, taken_at, state })?;
    }

    #[test]
    fn statuses_round_trip(
        node in id(), function in option::of(name()), reason in option::of(".{0,40}"), since in time(), said_at in time(),
        version in option::of(".{1,20}"), state in prop::sample::select(StatusKind::FUNCTIONS.to_vec()),
    ) {
        let (running_version, definition) = (version.clone(), None);
        let node_started_at = since;
        holds(&FunctionStatus {
            node, function, state, reason, since, version, running_version, definition, node_started_at, said_at,
        })?;
    }

    #[test]
    fn random_bytes_are_answered(frame in 0_usize..9, rest in vec(any::<u8>(), 0..400)) {
        let header = CODEC.with(|codec| match frame {
            0 => Vec::new(),
            1 => vec![0, 0, 0, 0, 7],
            kind => [&wire::SINGLE_OBJECT[..], &codec.fingerprint(EventKind::ALL[kind - 2]).to_le_bytes()].concat(),
        });
        survives(&[header, rest].concat());
    }

    #[test]
    fn damaged_events_are_answered(event in results(), cut in any::<prop::sample::Index>(), bits in vec(any::<prop::sample::Index>(), 0..4)) {
        for format in [WireFormat::SingleObject, WireFormat::Confluent { schema_id: 7 }, WireFormat::Json] {
            let mut bytes = CODEC.with(|codec| codec.encode(&event, format)).unwrap();
            for bit in &bits {
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            survives(&bytes);
            survives(&bytes[..cut.index(bytes.len())]);
        }
    }

    /// A datum that ends early is never an event: every byte of it counts.
    #[test]
    fn a_shortened_event_is_refused(event in invocations(), cut in any::<prop::sample::Index>()) {
        let bytes = CODEC.with(|codec| codec.encode(&event, WireFormat::SingleObject)).unwrap();
        let short = &bytes[..cut.index(bytes.len())];
        let refused = CODEC.with(|codec| codec.decode::<Invocation>(short, None, &NoSchemaRegistry)).unwrap_err();
        prop_assert!(!refused.retryable());
        prop_assert!(DecodeError::REASONS.contains(&refused.reason()));
    }

    /// Any writer that left out fields with defaults, shuffled the rest and added fields of its own is read as the
    /// independent implementation reads it, defaults included.
    #[test]
    fn resolution_agrees_with_the_judge(
        event in definitions(),
        dropped in vec(any::<bool>(), 15),
        turn in 0_usize..15,
        extra in vec((0_usize..6, 0_usize..15), 0..4),
    ) {
        let schema: serde_json::Value = serde_json::from_str(EventKind::FunctionDefinition.schema_json()).unwrap();
        let mut fields = schema["fields"].as_array().unwrap().clone();
        let mut dropped = dropped.into_iter();
        fields.retain(|field| !(dropped.next().unwrap() && field.get("default").is_some()));
        let turn = turn % fields.len();
        fields.rotate_left(turn);
        for (nth, (kind, place)) in extra.iter().enumerate() {
            let types = [r#""string""#, r#"["null","long"]"#, r#"{"type":"array","items":"double"}"#,
                r#"{"type":"map","values":{"type":"array","items":"bytes"}}"#, r#"{"type":"fixed","name":"FIXED","size":5}"#,
                r#"{"type":"enum","name":"ENUM","symbols":["a","b"]}"#];
            let text = types[*kind].replace("FIXED", &format!("Fixed{nth}")).replace("ENUM", &format!("Enum{nth}"));
            let field = serde_json::json!({"name": format!("extra_{nth}"), "type": serde_json::from_str::<serde_json::Value>(&text).unwrap()});
            fields.insert(place % (fields.len() + 1), field);
        }
        let mut writer = schema.clone();
        writer["fields"] = fields.into();
        let writer = Schema::parse(&writer).unwrap();
        let Schema::Record(record) = &writer else { unreachable!() };

        let all = CODEC.with(|codec| {
            let bytes = codec.encode(&event, WireFormat::SingleObject).unwrap();
            let schema = codec.schema(EventKind::FunctionDefinition);
            let judge = GenericDatumReader::builder(schema).build().unwrap();
            judge.read_value(&mut &bytes[wire::SINGLE_OBJECT_LEN..]).unwrap()
        });
        let Value::Record(all) = all else { unreachable!() };
        let added = |field: &str, schema: &Schema| -> Value {
            match all.iter().find(|(name, _)| name == field) {
                Some((_, value)) => value.clone(),
                None => match schema {
                    Schema::String => Value::String("new".to_owned()),
                    Schema::Union(_) => Value::Union(1, Box::new(Value::Long(-5))),
                    Schema::Array(_) => Value::Array(vec![Value::Double(1.5), Value::Double(-0.0)]),
                    Schema::Map(_) => Value::Map([("k".to_owned(), Value::Array(vec![Value::Bytes(vec![1])]))].into()),
                    Schema::Fixed(_) => Value::Fixed(5, vec![9; 5]),
                    _ => Value::Enum(1, "b".to_owned()),
                },
            }
        };
        let value: Vec<_> = record.fields.iter().map(|f| (f.name.clone(), added(&f.name, &f.schema))).collect();
        let value = Value::Record(value).resolve(&writer).unwrap();
        let datum = GenericDatumWriter::builder(&writer).build().unwrap().write_value_to_vec(value).unwrap();

        let (mine, theirs) = CODEC.with(|codec| {
            let reader = codec.schema(EventKind::FunctionDefinition);
            let judge = GenericDatumReader::builder(&writer).reader_schema(reader).build().unwrap();
            let theirs = apache_avro::from_value(&judge.read_value(&mut &datum[..]).unwrap()).unwrap();
            let framed = [&[0, 0, 0, 0, 7], &datum[..]].concat();
            let mine = codec.decode::<FunctionDefinition>(&framed, None, &Registry(Arc::new(writer.clone()))).unwrap();
            (mine, theirs)
        });
        prop_assert_eq!(&mine, &theirs);
    }
}
