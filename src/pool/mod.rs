//! Who may have how many instances on this node: slots and bytes, whom to take from, and what the warm target asks for.
//!
//! Duty: exact accounting of every instance from the moment it is begun until it is dropped, and pure choices over those
//! numbers. Must not: make, hold or drop an instance (`execute` does), forecast, or stand on the way of a warm call: taking
//! a ready instance from its shelf touches nothing here.
//!
//! The rooms around it: `target` says how many ready instances a function should have, [`plan`] turns that into what to
//! prepare and what to retire, [`on_demand`] adds what waiting calls need at once, [`Ledger`] says whether there is room,
//! and [`victim`] who gives an instance back where there is none. [`Turns`] says whose preparation computes now, and
//! [`Breaker`] when a function is prepared again after that failed.

mod breaker;
mod fair;
mod ledger;
mod limits;
mod plan;
#[cfg(test)]
mod properties;
mod turns;
mod victim;

pub use breaker::Breaker;
pub use ledger::{Bounds, Capacity, Full, Ledger, NoGrowth, SlotId, StaleSlot};
pub use limits::{MAPS_PER_INSTANCE, instances_cap};
pub use plan::{Change, on_demand, plan};
pub use turns::{SLICE, Ticket, Turn, Turns};
pub use victim::{Candidate, Purpose, victim};
