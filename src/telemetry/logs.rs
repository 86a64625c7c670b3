//! Log lines on stderr, for people or as JSON.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::TelemetryError;
use crate::config::{self, LogFormat};

/// The filter of the lines of this process, to be changed.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let fault = |cause: String| TelemetryError::Filter { filter: text.to_owned(), cause };
    EnvFilter::try_new(text).map_err(|error| fault(error.to_string()))
}

/// Lines are filtered by this from now on.
pub(super) fn set_filter(text: &str) -> Result<(), TelemetryError> {
    let filter = filter(text)?;
    let fault = |error: reload::Error| TelemetryError::Filter { filter: text.to_owned(), cause: error.to_string() };
    FILTER.get().map_or(Ok(()), |handle| handle.reload(filter)).map_err(fault)
}

pub(super) fn start(config: &config::Telemetry) -> Result<(), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&config.log_filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    // An error means that a subscriber is there already, with a filter of its own: see `telemetry::start`.
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
    Ok(())
}
