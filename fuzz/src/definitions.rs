//! Definitions of functions, as they stand on their topic: any bytes.
//!
//! One that is read is judged, whatever is in it; and one that is found sound is handed to the control plane, which must go
//! on with it and hold its invariants, whatever it asks for.

use std::sync::Arc;
use std::time::Duration;

use forewarm::codec::CONTENT_TYPE_JSON;
use forewarm::control::Event;
use forewarm::types::{FunctionDefinition, PoolUsage};

use super::events::{CODEC, WRITERS};
use super::plane::{Plane, name, plain};

/// Most faults of one definition, and bytes of one fault: they become one log line.
const FAULTS_MAX: usize = 100;
const FAULT_BYTES_MAX: usize = 1_024;

/// Any bytes as a definition.
pub fn definitions(bytes: &[u8]) {
    let decoded = CODEC.decode::<FunctionDefinition>(bytes, Some(CONTENT_TYPE_JSON), &*WRITERS);
    let Ok(definition) = decoded else { return };
    let faults = definition.faults();
    assert!(faults.len() <= FAULTS_MAX, "{} faults", faults.len());
    assert!(faults.iter().all(|fault| fault.len() <= FAULT_BYTES_MAX), "{faults:?}");
    if faults.is_empty() {
        is_lived_with(Arc::new(definition));
    }
}

/// It is defined, announced, called, looked at over two days, defined anew and removed.
fn is_lived_with(definition: Arc<FunctionDefinition>) {
    let (function, other) = (definition.name.clone(), name("other"));
    let mut plane = Plane::new();
    plane.define(Arc::new(plain("other")));
    plane.define(Arc::clone(&definition));
    let busy = PoolUsage { busy: 3, waiting: 2, in_flight_peak: 9, instance_bytes: 1 << 20, ..PoolUsage::default() };
    for round in 0..4_u32 {
        plane.announce(&function, &round.to_string(), 5);
        plane.announce(&function, "second", u32::MAX);
        plane.tick(Duration::from_millis(100), vec![]);
        plane.call(&function, Duration::from_millis(50));
        plane.call(&other, Duration::from_millis(50));
        plane.tick(Duration::from_secs(1), vec![(function.clone(), busy)]);
        plane.tick(Duration::from_mins(1), vec![]);
        plane.tick(Duration::from_hours(11), vec![]);
    }
    plane.define(Arc::new(FunctionDefinition { enabled: false, ..(*definition).clone() }));
    plane.tick(Duration::from_secs(1), vec![]);
    plane.define(definition);
    plane.tick(Duration::from_secs(1), vec![]);
    plane.handle(Event::FunctionRemoved(function));
    plane.tick(Duration::from_secs(1), vec![]);
}
