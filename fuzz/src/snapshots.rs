//! What a node kept of a function, as it stands on its topic: any bytes as the forecaster's state.
//!
//! Whatever is taken over, the control plane goes on, says what is in bounds, and what it keeps in turn is taken over by the
//! next start.

use std::sync::Arc;
use std::time::Duration;

use forewarm::control::{Action, Event};
use forewarm::types::{ForecastSnapshot, Payload, PoolUsage};

use super::plane::{BEGIN, Plane, name, plain};

/// Longest state that is kept, in bytes: what is longer is not read.
const STATE_BYTES_MAX: usize = 32 << 10;

/// Any bytes as the state of a function that the functions `a` and `b` know of.
pub fn snapshots(bytes: &[u8]) {
    let state = Payload(bytes.to_vec());
    let snapshot = |function: &str| ForecastSnapshot {
        function: name(function),
        node: "node".to_owned(),
        taken_at: BEGIN,
        state: state.clone(),
    };
    let mut plane = start();
    plane.handle(Event::SnapshotsRead(vec![snapshot("a"), snapshot("b"), snapshot("unknown")]));
    let busy = PoolUsage { busy: 3, waiting: 2, in_flight_peak: 9, instance_bytes: 1 << 20, ..PoolUsage::default() };
    plane.tick(Duration::from_millis(100), vec![]);
    for minutes in [1, 59, 3_000] {
        plane.announce(&name("a"), "first", 5);
        plane.announce(&name("b"), "second", u32::MAX);
        for function in ["a", "b"] {
            plane.call(&name(function), Duration::from_millis(200));
        }
        plane.tick(Duration::from_millis(100), vec![(name("a"), busy)]);
        plane.tick(Duration::from_mins(minutes), vec![]);
        plane.tick(Duration::from_millis(100), vec![]);
    }
    is_taken_over(plane);
}

fn start() -> Plane {
    let mut plane = Plane::new();
    plane.define(Arc::new(plain("a")));
    plane.define(Arc::new(plain("b")));
    plane
}

/// The next start takes over everything that this one keeps.
fn is_taken_over(mut before: Plane) {
    let kept = before.control.take_all_snapshots(before.now);
    assert_eq!(kept.len(), 2, "both were called");
    assert!(kept.iter().all(|snapshot| snapshot.state.0.len() <= STATE_BYTES_MAX));
    let mut after = start();
    after.now = before.now;
    after.handle(Event::SnapshotsRead(kept));
    let restored = after.actions.iter().find_map(|action| match action {
        Action::RestoredSnapshots(restored) => Some(restored),
        _ => None,
    });
    let restored = restored.expect("it is said what became of them");
    assert_eq!((restored.restored, restored.passed_over, &restored.refused[..]), (2, 0, &[][..]));
    after.tick(Duration::from_millis(100), vec![]);
}
