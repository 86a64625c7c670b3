//! `serve`: the service itself, until a signal ends it.

use std::process::ExitCode;

use super::ConfigArgument;
use crate::app::Service;
use crate::{app, telemetry};

pub(super) fn run(arguments: &ConfigArgument) -> anyhow::Result<ExitCode> {
    // First: a signal that nobody listens for ends the process without a word, or is lost where it is process 1.
    let signals = app::Signals::listen()?;
    let config = arguments.load_to_serve()?;
    let deadline = config.shutdown.deadline;
    let telemetry = telemetry::start(&config.telemetry, &config.node_id())?;
    telemetry::take_panics();
    let service = Service::start(config, &telemetry)?;
    signals.service_started();
    let ended = service.run_until(&signals, Some(&|| arguments.load()));
    telemetry.finish(deadline.saturating_sub(ended.took));
    Ok(if ended.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
