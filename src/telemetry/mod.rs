//! What the service says of itself: counters, log lines, traces.
//!
//! Duty: give the other rooms plain counters and cheap spans, and bring them to a collector where one is configured. Must
//! not: decide anything, or cost a call more than some atomic additions while nothing is exported.

mod export;
mod logs;
mod metrics;
mod trace;

use std::sync::Arc;

pub use metrics::{Counter, Gauge, Metrics};
pub use trace::{CallSpan, Tracing};

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
    /// The exporter could not be made.
    #[error("no export to telemetry.otlp-endpoint {endpoint:?}: {cause}")]
    Export {
        /// The address.
        endpoint: String,
        /// What is wrong.
        cause: String,
    },
}

/// Telemetry that runs. Dropping it sends what is still to be sent, within some seconds.
pub struct Telemetry {
    metrics: Arc<Metrics>,
    tracing: Tracing,
    export: Option<Export>,
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
    Ok(Telemetry { metrics, tracing, export })
}

/// Log lines of this process are filtered by this from now on, in the syntax of `EnvFilter`.
///
/// # Errors
/// Where the filter is not understood; the one of before stays.
pub fn set_log_filter(filter: &str) -> Result<(), TelemetryError> {
    logs::set_filter(filter)
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

impl Drop for Telemetry {
    fn drop(&mut self) {
        let summary = self.metrics.summary();
        if !summary.is_empty() {
            tracing::info!(summary, "counted since the start");
        }
        if let Some(export) = self.export.take() {
            export.finish();
        }
    }
}
