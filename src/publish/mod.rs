//! Sends outcomes and dead letters, and says when the brokers have stored them.
//!
//! Duty: hand a record to librdkafka without waiting; send it again until it is stored; tell whoever waits for it. Must not:
//! know what an outcome means, encode one, or know who waits: positions are acknowledged through [`Deliveries`].
//!
//! On the way of an event: execute → **publish** → (the brokers' word) → ingest, which lets the offset move.
//!
//! With transactions, an outcome and its offset are stored together or not at all (see [`transactions`]); everything else
//! goes the plain way beside them. Lines of functions' logs have a producer of their own (see [`logs`]): they may be lost.
//!
//! Bounds: a record that waits, for those before it in its partition (see [`lanes`]) or to be sent again, is one whose call is in
//! flight still, and `ingest` bounds those. Records that no position waits for have a bound of their own, above which they are
//! dropped and counted.

mod counters;
mod dead_letter;
mod ending;
mod gather;
mod lanes;
mod logs;
mod partition;
mod producers;
mod publisher;
mod record;
mod reports;
mod resend;
mod sent;
mod shared;
mod stall;
mod transactions;

pub use counters::Counters;
pub use dead_letter::{
    DeadLetter, FailedCall, HEADER_AT, HEADER_ATTEMPTS, HEADER_BACKTRACE, HEADER_DETAIL, HEADER_FUNCTION,
    HEADER_INVOCATION_ID, HEADER_NODE, HEADER_OFFSET, HEADER_OMITTED, HEADER_PARTITION, HEADER_PREFIX, HEADER_REASON,
    HEADER_STATUS, HEADER_TIMESTAMP, HEADER_TOPIC,
};
pub use logs::{FunctionLogs, LogQueue, LogSettings};
pub use publisher::{PublishError, Publisher};
pub use record::{Deliveries, Destination, Outcome, Record, Refusal, Topics};
pub use resend::{Backoff, LOOSE_MAX};
pub use stall::{Place, Stall};
pub use transactions::TransactionSettings;
