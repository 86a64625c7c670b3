//! Sends calls and keeps account of what came of them: a client of the service that counts.
//!
//! Must not: know anything of the service but its topics.

mod latency;
mod tally;

pub use latency::Latencies;
pub use tally::{Group, Tally};
