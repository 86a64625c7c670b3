//! What the service says of itself: counters, log lines, traces.
//!
//! Duty: give the other rooms plain counters and cheap spans, and bring them to a collector where one is configured. Must
//! not: decide anything, cost a call more than some atomic additions while nothing is exported, or have anybody wait for
//! whoever reads the log or collects: what they do not take in time is left out and counted (docs/decisions/0035).

mod collector;
mod export;
mod limiter;
mod line;
mod logs;
mod metrics;
mod sink;
mod trace;

use std::sync::Arc;
use std::time::Duration;

pub use metrics::{Counter, Gauge, Metrics};
pub use trace::{CallSpan, Tracing, is_traceparent};

use crate::config;
use export::Export;

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of log lines is not understood.
    #[error("telemetry.log-filter {filter:?} is not understood: {cause}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The log could not be started.
    #[error("log lines cannot be written: {0}")]
    Log(std::io::Error),
    /// The exporter could not be made.
    #[error("no export to telemetry.otlp-endpoint {endpoint:?}: {cause}")]
    Export {
        /// The address.
        endpoint: String,
        /// What is wrong.
        cause: String,
    },
}

/// How long what is left may take to be exported at the end, where the way down leaves so much.
const EXPORT_END: Duration = Duration::from_secs(2);
/// How long the last log lines may take to be written at the end.
const LOG_END: Duration = Duration::from_millis(500);

/// Telemetry that runs. Dropping it does what [`Telemetry::finish`] does, with all its time.
pub struct Telemetry {
    metrics: Arc<Metrics>,
    tracing: Tracing,
    export: Option<Export>,
    has_ended: bool,
}

/// Starts log lines and, where an endpoint is configured, the export of traces and metrics. In one process the first log
/// settings stay: later calls are for tests and for the demo.
///
/// # Errors
/// Where a setting is not usable.
pub fn start(config: &config::Telemetry, node: &str) -> Result<Telemetry, TelemetryError> {
    logs::start(config)?;
    let metrics = Arc::new(Metrics::default());
    let export = if config.otlp_endpoint.is_empty() { None } else { Some(Export::start(config, node, &metrics)?) };
    let tracing = export.as_ref().map_or_else(Tracing::default, Export::tracing);
    Ok(Telemetry { metrics, tracing, export, has_ended: false })
}

/// Whether [`start`] would take these settings; nothing is started.
///
/// # Errors
/// Where a setting is not usable.
pub fn check(config: &config::Telemetry) -> Result<(), TelemetryError> {
    logs::check(&config.log_filter)?;
    if config.otlp_endpoint.is_empty() { Ok(()) } else { Export::check(config) }
}

/// Log lines of this process are filtered by this from now on, in the syntax of `EnvFilter`.
///
/// # Errors
/// Where the filter is not understood; the one of before stays.
pub fn set_log_filter(filter: &str) -> Result<(), TelemetryError> {
    logs::set_filter(filter)
}

/// Waits until every log line is written, up to `limit`, for a process that ends at once; whether they are.
pub fn flush_log(limit: Duration) -> bool {
    logs::flush(limit)
}

/// Log lines that were left out since the start: those that nobody read or took, and those past the rate of their like.
pub fn log_lines_left_out() -> (u64, u64) {
    logs::left_out()
}

/// The last words of a process, as they are, where its log is; false where nothing logs and they are to be printed.
pub fn last_words(words: &str) -> bool {
    logs::last_words(words)
}

/// From now on a panic is a line of the log, and not one on stderr that waits for whoever reads it. For processes that serve.
pub fn take_panics() {
    logs::take_panics();
}

impl Telemetry {
    /// The counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// What makes spans.
    pub fn tracing(&self) -> Tracing {
        self.tracing.clone()
    }
}

impl Telemetry {
    /// Exports and writes what is left: 2 s at most for the collector, and no more than `left` of the way down; half a second for
    /// the log. Neither is waited for any longer.
    pub fn finish(mut self, left: Duration) {
        self.end(left);
    }

    fn end(&mut self, left: Duration) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        let summary = self.metrics.summary();
        if !summary.is_empty() {
            tracing::info!(summary, "counted since the start");
        }
        if let Some(export) = self.export.take() {
            export.finish(EXPORT_END.min(left));
        }
        logs::flush(LOG_END);
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.end(EXPORT_END);
    }
}
