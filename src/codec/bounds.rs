//! What a field may mean beyond what its type allows.
//!
//! Must not: judge a function's definition, but for what has no form in every format; the registry does, with every fault at
//! once.

use super::error::OutOfBounds;
use crate::types::{Attributes, FunctionDefinition, Invocation, PreTrigger};

/// Longest id, source, tenant or content type, in bytes (inclusive). They become keys of tables and labels of traces.
pub const ID_BYTES_MAX: usize = 256;
/// Most attributes of one event (inclusive).
pub const ATTRIBUTES_MAX: usize = 64;
/// Most bytes of an event's attributes, keys and values together (inclusive).
pub const ATTRIBUTES_BYTES_MAX: usize = 16 << 10;
/// Longest window of a pre-trigger, in milliseconds (inclusive): one day.
pub const WINDOW_MS_MAX: u64 = PreTrigger::WINDOW_MS_MAX;

pub(super) fn pre_trigger(event: &PreTrigger) -> Result<(), OutOfBounds> {
    id("id", &event.id)?;
    id("source", &event.source)?;
    optional_id("tenant", event.tenant.as_deref())?;
    // Not a number is in no range.
    if !(0.0..=1.0).contains(&event.confidence) {
        return Err(refused("confidence", format!("must be from 0.0 to 1.0 and is {}", event.confidence)));
    }
    if !(1..=WINDOW_MS_MAX).contains(&event.window_ms) {
        return Err(refused("window_ms", format!("must be from 1 to {WINDOW_MS_MAX} and is {}", event.window_ms)));
    }
    attributes(&event.attributes)
}

pub(super) fn invocation(event: &Invocation) -> Result<(), OutOfBounds> {
    id("id", &event.id)?;
    optional_id("tenant", event.tenant.as_deref())?;
    optional_id("content_type", event.content_type.as_deref())?;
    attributes(&event.attributes)
}

/// Avro has a form for infinity and for what is not a number; JSON has none, and would not be read again.
pub(super) fn definition(event: &FunctionDefinition) -> Result<(), OutOfBounds> {
    let chains = event.chains.iter().map(|chain| ("chains.probability", chain.probability));
    let mut numbers = chains.chain([("pre_trigger.confidence_min", event.pre_trigger.confidence_min)]);
    match numbers.find(|(_, number)| !number.is_finite()) {
        Some((field, number)) => Err(refused(field, format!("must be a number and is {number}"))),
        None => Ok(()),
    }
}

pub(super) fn id(field: &'static str, text: &str) -> Result<(), OutOfBounds> {
    if (1..=ID_BYTES_MAX).contains(&text.len()) {
        return Ok(());
    }
    Err(refused(field, format!("must have 1 to {ID_BYTES_MAX} bytes and has {}", text.len())))
}

fn optional_id(field: &'static str, text: Option<&str>) -> Result<(), OutOfBounds> {
    text.map_or(Ok(()), |text| id(field, text))
}

fn attributes(attributes: &Attributes) -> Result<(), OutOfBounds> {
    if attributes.len() > ATTRIBUTES_MAX {
        let fault = format!("must have at most {ATTRIBUTES_MAX} entries and has {}", attributes.len());
        return Err(refused("attributes", fault));
    }
    let bytes: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ATTRIBUTES_BYTES_MAX {
        let fault = format!("must have at most {ATTRIBUTES_BYTES_MAX} bytes of keys and values and has {bytes}");
        return Err(refused("attributes", fault));
    }
    Ok(())
}

fn refused(field: &'static str, fault: String) -> OutOfBounds {
    OutOfBounds { field, fault }
}
