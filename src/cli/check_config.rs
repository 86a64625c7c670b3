//! `check-config`: says every fault of a configuration, or what it comes to.

use std::process::ExitCode;

use super::ConfigArgument;

pub(super) fn run(arguments: &ConfigArgument) -> anyhow::Result<ExitCode> {
    let config = arguments.load()?;
    // Secrets are redacted by its own Display.
    println!("{config}");
    Ok(ExitCode::SUCCESS)
}
