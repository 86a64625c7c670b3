//! What every room that talks to Kafka needs: client settings, log lines, topics, headers, and a reader of whole topics.
//!
//! Duty: keep librdkafka's ways in one place. Must not: know what an event means, or keep offsets; `ingest` does.
//!
//! Traps of rdkafka 0.39 (librdkafka 2.12) that the code in `kafka`, `ingest` and `publish` is built around:
//! - An asynchronous commit never reports back: the crate asks for commit events, and librdkafka sends them only where a
//!   commit callback is set, which the crate no longer does. A commit whose failure matters is a synchronous one, on a
//!   thread that may wait.
//! - While a rebalance waits for `assign` or `unassign`, librdkafka pauses every partition of the client.
//! - Pausing throws away what was fetched ahead; resuming fetches it again.
//! - A header whose name is not UTF-8 makes the crate panic, and an error of one partition comes without its number (see
//!   [`headers`] and [`queue`]).
//! - The end-of-partition event does not say where the end is (see [`tail`]).

pub mod batch_end;
mod client;
mod error;
mod fence;
mod guard;
pub mod headers;
mod health;
mod listener;
pub mod queue;
mod reach;
mod refusal;
mod renewal;
mod retire;
pub mod tail;
mod topics;
mod transaction;
mod unpack;
mod watch;
mod witness;

pub use client::{Connection, Membership, Quiet, log};
pub use error::{ClientError, is_of_a_batch, is_of_one_broker};
pub use guard::PanicGuard;
pub use health::Health;
pub use listener::Listener;
pub use reach::reach;
pub use refusal::{Refusal, fatal, is_of_the_name};
pub use renewal::{Renew, Renewal};
pub use retire::retire;
pub use topics::{TopicFinding, TopicSpec, ensure_topics, partition_ids};
pub use transaction::{Consumed, Prepared, Settled, Unprepared};
pub use unpack::set_batch_bytes_max;
pub use watch::{Overdue, Pulse, Watch, Watched};
pub use witness::{Look, PartitionSeen, Witness, WitnessThread};
