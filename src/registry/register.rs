//! Makes a schema known to a Confluent schema registry, for what this node writes in its framing.

use schema_registry_converter::blocking::schema_registry::post_schema;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};

use super::schemas::client;
use super::{RegistryError, SchemaRegistrySettings};
use crate::codec::EventKind;

/// Registers the schema of `kind` as the value of `topic` (the registry's usual TopicNameStrategy) and answers its id.
/// Registering the same schema again answers the same id. Blocks; not for a thread that runs asynchronous code.
///
/// # Errors
/// Where the registry cannot be asked or refuses the schema.
pub fn register(settings: &SchemaRegistrySettings, topic: &str, kind: EventKind) -> Result<u32, RegistryError> {
    let subject = format!("{topic}-value");
    let fault = |cause: String| RegistryError::NotRegistered { subject: subject.clone(), cause };
    let client = client(settings).map_err(fault)?;
    let schema =
        SuppliedSchema::new(Some(kind.record_name().to_owned()), SchemaType::Avro, kind.schema_json().to_owned());
    post_schema(&client, subject.clone(), schema)
        .map(|registered| registered.id)
        .map_err(|error| fault(error.to_string()))
}
