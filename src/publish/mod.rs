//! Sends outcomes and dead letters, and says when the brokers have stored them.
//!
//! Duty: hand a record to librdkafka without waiting; send it again until it is stored; tell whoever waits for it. Must not:
//! know what an outcome means, encode one, or know who waits: positions are acknowledged through [`Deliveries`].
//!
//! On the way of an event: execute → **publish** → (the brokers' word) → ingest, which lets the offset move.
//!
//! Bounds: a record that waits to be sent again is one whose call is in flight still, and `ingest` bounds those. Records
//! that no position waits for have a bound of their own, above which they are dropped and counted.

mod counters;
mod dead_letter;
mod publisher;
mod record;
mod resend;

pub use counters::Counters;
pub use dead_letter::{
    DeadLetter, HEADER_AT, HEADER_DETAIL, HEADER_NODE, HEADER_OFFSET, HEADER_OMITTED, HEADER_PARTITION, HEADER_PREFIX,
    HEADER_REASON, HEADER_TIMESTAMP, HEADER_TOPIC,
};
pub use publisher::{PublishError, Publisher, Topics};
pub use record::{Deliveries, Destination, Record, Refusal, Refused};
pub use resend::{Backoff, LOOSE_MAX};
