//! The definitions as they are now, read once: for commands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Registry, RegistryError, RegistryEvent};
use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::Connection;
use crate::types::{FunctionDefinition, FunctionName};

/// Reads `topic` to its end and answers with every function's definition. Definitions in Confluent framing are left out.
///
/// # Errors
/// Where the topic cannot be read to its end within `timeout`.
pub fn read_all(
    connection: &Connection,
    topic: &str,
    timeout: Duration,
) -> Result<BTreeMap<FunctionName, Arc<FunctionDefinition>>, RegistryError> {
    let found: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
    let table = Arc::clone(&found);
    let say = move |event| {
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RegistryEvent::Defined(definition, _) => drop(table.insert(definition.name.clone(), definition)),
            RegistryEvent::Removed(function) => drop(table.remove(&function)),
            RegistryEvent::Refused { function, reason } => tracing::warn!(function, reason, "not a definition"),
            RegistryEvent::CaughtUp => {}
        }
    };
    let registry = Registry::start(connection, topic, Arc::new(Codec::new()), Arc::new(NoSchemaRegistry), say)?;
    if !registry.fences().wait(timeout) {
        return Err(RegistryError::NotRead { topic: topic.to_owned(), waited: timeout });
    }
    registry.stop();
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(found)
}
