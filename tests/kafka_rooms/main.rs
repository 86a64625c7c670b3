//! The rooms that talk to Kafka, against brokers: librdkafka's mock cluster in this process, and where `FOREWARM_TEST_KAFKA`
//! names one (`host:port`), a real broker. What only a real broker does is left out without it, with a line that says so.

#![cfg(feature = "service")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail where they stand, and a test that is left out says so"
)]

mod brokers;
mod invocations;
mod publish;
mod shares;
mod tail;
mod together;
