//! The definitions as they are now, read once: for commands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Judge, Registry, RegistryError, RegistryEvent};
use crate::codec::{Codec, WriterSchemas};
use crate::kafka::Connection;
use crate::types::{FunctionDefinition, FunctionName};

/// What a topic of functions says now.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// Every function's newest definition that can be read.
    pub functions: BTreeMap<FunctionName, Arc<FunctionDefinition>>,
    /// The keys of records that are no definition that can be read here, as text, each with what is wrong.
    pub refused: BTreeMap<String, String>,
}

/// Reads `topic`, and those of tenants with their own, to their ends and answers with every function's definition.
///
/// # Errors
/// Where nothing is read of a topic for `patience`, before its end.
pub fn read_all(
    connection: &Connection,
    topic: &str,
    judge: Judge,
    writers: Arc<dyn WriterSchemas>,
    patience: Duration,
) -> Result<Definitions, RegistryError> {
    let found: Arc<Mutex<Definitions>> = Arc::default();
    let table = Arc::clone(&found);
    let say = move |event| {
        let mut found = table.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RegistryEvent::Defined(definition, _) => {
                found.refused.remove(definition.name.as_str());
                found.functions.insert(definition.name.clone(), definition);
            }
            RegistryEvent::Removed(function) => {
                found.refused.remove(function.as_str());
                found.functions.remove(&function);
            }
            RegistryEvent::Refused { function, reason } => {
                found.refused.insert(function, reason);
            }
            RegistryEvent::CaughtUp => {}
        }
    };
    let registry = Registry::start(connection, topic, judge, Arc::new(Codec::new()), writers, say)?;
    registry.catch_up(patience)?;
    registry.stop();
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(found)
}
