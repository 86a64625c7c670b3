//! Which events there are, their embedded schemas, and how schemas of other writers are asked for.
//!
//! Must not: fetch a schema. The registry's client in the shell implements [`WriterSchemas`].

use std::fmt;
use std::sync::Arc;

use apache_avro::Schema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bounds;
use super::error::{InvalidSchema, OutOfBounds};
use super::fingerprint;
use crate::types::{
    ForecastSnapshot, FunctionDefinition, FunctionLog, FunctionStatus, Invocation, InvocationResult, PreTrigger,
    PreTriggerOutcome, Timestamp,
};

/// The kinds of events, one schema each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A notice that calls are likely soon.
    PreTrigger,
    /// One call.
    Invocation,
    /// The outcome of one call.
    InvocationResult,
    /// One version of a function.
    FunctionDefinition,
    /// How one pre-trigger ended.
    PreTriggerOutcome,
    /// What a node has learned of a function.
    ForecastSnapshot,
    /// What a function, or a node, is doing.
    FunctionStatus,
    /// One line of a function's log.
    FunctionLog,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::PreTrigger,
        Self::Invocation,
        Self::InvocationResult,
        Self::FunctionDefinition,
        Self::PreTriggerOutcome,
        Self::ForecastSnapshot,
        Self::FunctionStatus,
        Self::FunctionLog,
    ];

    /// The schema's file name without its ending, as in `schemas/`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreTrigger => "pre-trigger",
            Self::Invocation => "invocation",
            Self::InvocationResult => "invocation-result",
            Self::FunctionDefinition => "function-definition",
            Self::PreTriggerOutcome => "pre-trigger-outcome",
            Self::ForecastSnapshot => "forecast-snapshot",
            Self::FunctionStatus => "function-status",
            Self::FunctionLog => "function-log",
        }
    }

    /// The name of the record in the schema, without its namespace.
    pub const fn record_name(self) -> &'static str {
        match self {
            Self::PreTrigger => "PreTrigger",
            Self::Invocation => "Invocation",
            Self::InvocationResult => "InvocationResult",
            Self::FunctionDefinition => "FunctionDefinition",
            Self::PreTriggerOutcome => "PreTriggerOutcome",
            Self::ForecastSnapshot => "ForecastSnapshot",
            Self::FunctionStatus => "FunctionStatus",
            Self::FunctionLog => "FunctionLog",
        }
    }

    /// The field whose value may be any JSON value in an event that is JSON.
    pub(super) const fn free_payload(self) -> Option<&'static str> {
        match self {
            Self::Invocation => Some("payload"),
            _ => None,
        }
    }

    /// The current schema: what this build writes, and what it reads everything as.
    pub const fn schema_json(self) -> &'static str {
        match self {
            Self::PreTrigger => include_str!("../../schemas/pre-trigger.avsc"),
            Self::Invocation => include_str!("../../schemas/invocation.avsc"),
            Self::InvocationResult => include_str!("../../schemas/invocation-result.avsc"),
            Self::FunctionDefinition => include_str!("../../schemas/function-definition.avsc"),
            Self::PreTriggerOutcome => include_str!("../../schemas/pre-trigger-outcome.avsc"),
            Self::ForecastSnapshot => include_str!("../../schemas/forecast-snapshot.avsc"),
            Self::FunctionStatus => include_str!("../../schemas/function-status.avsc"),
            Self::FunctionLog => include_str!("../../schemas/function-log.avsc"),
        }
    }

    /// Schemas that earlier releases wrote, oldest first. A released schema that changes is moved here before it does.
    pub const fn older_schemas_json(self) -> &'static [&'static str] {
        match self {
            Self::FunctionDefinition => {
                &[include_str!("../../schemas/older/function-definition.93864c143ebb197c.avsc")]
            }
            Self::PreTrigger
            | Self::Invocation
            | Self::InvocationResult
            | Self::PreTriggerOutcome
            | Self::ForecastSnapshot
            | Self::FunctionStatus
            | Self::FunctionLog => &[],
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A type that travels as an event of its own.
pub trait Event: Serialize + DeserializeOwned {
    /// Which one.
    const KIND: EventKind;

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first field that is outside its bounds.
    fn check(&self) -> Result<(), OutOfBounds>;

    /// The message of this event was recorded at `at`: an event that does not say when it was sent was sent then.
    fn recorded(&mut self, at: Timestamp) {
        let _ = at;
    }
}

impl Event for PreTrigger {
    const KIND: EventKind = EventKind::PreTrigger;

    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::pre_trigger(self)
    }

    fn recorded(&mut self, at: Timestamp) {
        if self.emitted_at == Timestamp::ZERO {
            self.emitted_at = at;
        }
    }
}

impl Event for Invocation {
    const KIND: EventKind = EventKind::Invocation;

    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::invocation(self)
    }

    fn recorded(&mut self, at: Timestamp) {
        if self.invoked_at == Timestamp::ZERO {
            self.invoked_at = at;
        }
    }
}

impl Event for InvocationResult {
    const KIND: EventKind = EventKind::InvocationResult;

    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::id("invocation_id", &self.invocation_id)
    }
}

impl Event for FunctionDefinition {
    const KIND: EventKind = EventKind::FunctionDefinition;

    /// Only what has no form in every format: the registry judges a definition as a whole, with every fault at once.
    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::definition(self)
    }
}

impl Event for PreTriggerOutcome {
    const KIND: EventKind = EventKind::PreTriggerOutcome;

    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::id("pre_trigger_id", &self.pre_trigger_id)
    }
}

impl Event for ForecastSnapshot {
    const KIND: EventKind = EventKind::ForecastSnapshot;

    /// Nothing here: the forecaster judges a state.
    fn check(&self) -> Result<(), OutOfBounds> {
        Ok(())
    }
}

impl Event for FunctionStatus {
    const KIND: EventKind = EventKind::FunctionStatus;

    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::id("node", &self.node)
    }
}

impl Event for FunctionLog {
    const KIND: EventKind = EventKind::FunctionLog;

    fn check(&self) -> Result<(), OutOfBounds> {
        bounds::id("node", &self.node)
    }
}

/// How a message names its writer's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaKey {
    /// The id that a registry has given it.
    Id(u32),
    /// The GUID that it has in every registry (Confluent 8), as its 16 bytes stand in the message.
    Guid([u8; 16]),
}

impl fmt::Display for SchemaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "schema id {id}"),
            Self::Guid(guid) => write!(f, "schema GUID {}", uuid::Uuid::from_bytes(*guid)),
        }
    }
}

/// What a writer's schema says of the bytes that follow.
#[derive(Debug, Clone, PartialEq)]
pub enum WriterSchema {
    /// A datum of this Avro schema, which is complete: every name that it uses is defined in it.
    Avro(Arc<Schema>),
    /// JSON: its schema is a JSON Schema, which is not looked at. Whether the text is an event shows when it is read.
    Json,
}

/// Schemas of writers, by the id or the GUID that a message carries.
///
/// It is asked once for every message that names a schema, so an implementation answers from memory where it can.
pub trait WriterSchemas: Send + Sync {
    /// The writer's schema.
    ///
    /// # Errors
    /// Where there is no such schema, or it cannot be had now.
    fn find(&self, key: SchemaKey) -> Result<WriterSchema, SchemaLookup>;
}

/// Why there is no writer's schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaLookup {
    /// The registry has no such schema, now or ever.
    #[error("unknown schema")]
    Unknown,
    /// The registry cannot be asked now; later it may.
    #[error("schema registry unavailable: {0}")]
    Unavailable(String),
    /// The registry's answer is no schema that is read here.
    #[error("not usable: {0}")]
    Invalid(String),
}

/// Where no schema registry is configured: every schema is unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSchemaRegistry;

impl WriterSchemas for NoSchemaRegistry {
    fn find(&self, _: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        Err(SchemaLookup::Unknown)
    }
}

/// The default symbols of the reader's enums, by the enum's name: what an unknown symbol of a newer writer is read as.
#[derive(Debug, Default)]
pub(super) struct EnumDefaults(Vec<(String, String)>);

impl EnumDefaults {
    /// The default symbols in `schema`, which must not refer to itself.
    pub(super) fn of(schema: &Schema) -> Self {
        let mut defaults = Self::default();
        defaults.collect(schema);
        defaults
    }

    fn collect(&mut self, schema: &Schema) {
        match schema {
            Schema::Enum(schema) => {
                if let Some(symbol) = &schema.default {
                    self.0.push((schema.name.name().to_owned(), symbol.clone()));
                }
            }
            Schema::Record(record) => record.fields.iter().for_each(|field| self.collect(&field.schema)),
            Schema::Union(union) => union.variants().iter().for_each(|branch| self.collect(branch)),
            Schema::Array(array) => self.collect(&array.items),
            Schema::Map(map) => self.collect(&map.types),
            _ => {}
        }
    }

    /// The default symbol of the enum `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, symbol)| symbol.as_str())
    }
}

/// A schema of one kind, parsed, with its fingerprints.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) schema: Schema,
    /// By the specification: what is written.
    pub(super) fingerprint: u64,
    /// As writers that use `apache-avro` compute it: read as well.
    fingerprint_apache: u64,
}

impl Known {
    pub(super) fn parse(kind: EventKind, json: &str) -> Result<Self, InvalidSchema> {
        let schema = Schema::parse_str(json)
            .map_err(|fault| InvalidSchema { kind, cause: super::error::cut(fault.to_string()) })?;
        let found = described(&schema);
        if found != kind.record_name() {
            return Err(InvalidSchema {
                kind,
                cause: format!("it describes {found} and should describe the record {}", kind.record_name()),
            });
        }
        let fingerprint = fingerprint::of(&schema);
        let fingerprint_apache = fingerprint::as_apache_avro(&schema);
        Ok(Self { schema, fingerprint, fingerprint_apache })
    }

    /// Whether a message with this fingerprint was written with this schema.
    pub(super) fn wrote(&self, fingerprint: u64) -> bool {
        fingerprint == self.fingerprint || fingerprint == self.fingerprint_apache
    }
}

/// The record that a datum of the writer's schema holds: where the schema is a union, as of several event types in one topic, that
/// of the branch with which the datum begins.
pub(super) fn written<'a>(schema: &'a Schema, datum: &[u8]) -> &'a str {
    let Schema::Union(union) = schema else { return described(schema) };
    let branch = super::input::Input::new(datum, schema).long().ok().and_then(|index| usize::try_from(index).ok());
    branch.and_then(|index| union.variants().get(index)).map_or("a union without that branch", described)
}

/// What a schema describes: the name of its record, without the namespace, or that it is none.
pub(super) fn described(schema: &Schema) -> &str {
    match schema {
        Schema::Record(record) => record.name.name(),
        // A name that is defined elsewhere in the schema.
        Schema::Ref { name } => name.name(),
        _ => "no record",
    }
}
