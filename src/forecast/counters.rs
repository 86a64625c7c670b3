//! What the forecaster passes over, in numbers.
//!
//! Must not: know how they are shown.

/// What the forecaster passed over since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Arrivals, ends and looks of functions that are not defined.
    pub unknown_function_events: u64,
    /// Spent notices that were forgotten before their end, to make room: if one is read again, it counts as new.
    pub ids_forgotten: u64,
    /// Sources, tenants, and pairs of source and function, that were forgotten to make room for others.
    pub sources_forgotten: u64,
}
