//! Makes a schema known to a Confluent schema registry, for what this node writes in its framing.
//!
//! Must not: be asked from a thread that runs asynchronous code.

use std::time::{Duration, Instant};

use schema_registry_converter::blocking::schema_registry::post_schema;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};

use super::schemas::Fault;
use super::{RegistryError, SchemaRegistrySettings};
use crate::codec::EventKind;

/// Waits between attempts: this at first, doubling up to the next.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Registers the schema of `kind` as the value of `topic` (the registry's usual TopicNameStrategy) and answers its id.
/// Registering the same schema again answers the same id. A registry that does not answer, or has a fault of its own, is asked again
/// for as long as `patience`. Blocks; not for a thread that runs asynchronous code.
///
/// # Errors
/// Where the registry cannot be asked or refuses the schema.
pub fn register(
    settings: &SchemaRegistrySettings,
    topic: &str,
    kind: EventKind,
    patience: Duration,
) -> Result<u32, RegistryError> {
    let subject = format!("{topic}-value");
    let (by, mut backoff, mut is_said) = (Instant::now() + patience, BACKOFF_MIN, false);
    loop {
        let fault = match attempt(settings, &subject, kind) {
            Ok(id) => return Ok(id),
            Err(fault) => fault,
        };
        let may_pass = fault.status.is_none_or(|status| status == 429 || status >= 500);
        let left = by.saturating_duration_since(Instant::now());
        if !may_pass || left < backoff {
            let advice = fault.advice();
            return Err(RegistryError::NotRegistered { subject, cause: fault.cause, advice });
        }
        if !is_said {
            tracing::warn!(subject, cause = fault.cause, ?left, "the start waits for the schema registry");
            is_said = true;
        }
        std::thread::sleep(backoff);
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

fn attempt(settings: &SchemaRegistrySettings, subject: &str, kind: EventKind) -> Result<u32, Fault> {
    // A file that is wrong stays so for as long as a start waits.
    let client = settings.client().map_err(|error| Fault { status: Some(0), cause: error.to_string() })?;
    let schema =
        SuppliedSchema::new(Some(kind.record_name().to_owned()), SchemaType::Avro, kind.schema_json().to_owned());
    let registered = post_schema(&client, subject.to_owned(), schema).map_err(|error| Fault::of(&error))?;
    Ok(registered.id)
}
