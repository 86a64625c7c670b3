//! Who may have how many instances on this node: slots and bytes, whom to take from, and what the warm target asks for.
//!
//! Duty: exact accounting of every instance from the moment it is begun until it is dropped, and pure choices over those
//! numbers. Must not: make, hold or drop an instance (`execute` does), forecast, or stand on the way of a warm call: taking
//! a ready instance from its shelf touches nothing here.
//!
//! The rooms around it: `target` says how many ready instances a function should have, [`plan`] turns that into what to
//! prepare and what to retire, [`on_demand`] adds what waiting calls need at once, [`Ledger`] says whether there is room,
//! and [`victim`] who gives an instance back where there is none.

mod ledger;
mod limits;
mod plan;
#[cfg(test)]
mod properties;
mod victim;

pub use ledger::{Capacity, Full, Ledger, NoGrowth, SlotId, StaleSlot};
pub use limits::{MAPS_PER_INSTANCE, instances_cap};
pub use plan::{Change, on_demand, plan};
pub use victim::{Candidate, Purpose, victim};
