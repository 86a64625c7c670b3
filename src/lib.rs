//! forewarm: runs WebAssembly functions for events on Kafka, and has them warm before the event comes.
//!
//! ARCHITECTURE.md says which room does what and who may import whom. Rings 0 and 1 build without the `service` feature.

// Ring 0: words.
pub mod config;
pub mod types;

// Ring 1: pure. No clock, no I/O, no threads, no logs.
pub mod backlog;
pub mod codec;
pub mod control;
pub mod forecast;
pub mod invariant;
pub mod order;
pub mod pool;
pub mod progress;
pub mod retry;
pub mod target;

// Beside: the pure core with files.
#[cfg(feature = "backtest")]
pub mod backtest;

// Ring 2: the shell.
#[cfg(feature = "service")]
pub mod admin;
#[cfg(feature = "service")]
pub mod app;
#[cfg(feature = "service")]
pub mod artifacts;
#[cfg(feature = "service")]
pub mod cli;
#[cfg(feature = "service")]
pub mod client;
#[cfg(feature = "service")]
pub mod demo;
#[cfg(feature = "service")]
pub mod driver;
#[cfg(feature = "service")]
pub mod execute;
#[cfg(feature = "service")]
pub mod http;
#[cfg(feature = "service")]
pub mod ingest;
#[cfg(feature = "service")]
pub mod kafka;
#[cfg(feature = "service")]
pub mod loadgen;
#[cfg(feature = "service")]
pub mod publish;
#[cfg(feature = "service")]
pub mod registry;
#[cfg(feature = "service")]
pub mod telemetry;
