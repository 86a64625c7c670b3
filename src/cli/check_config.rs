//! `check-config`: says every fault of a configuration, or what it comes to.

use std::process::ExitCode;

use super::ConfigArgument;

pub(super) fn run(arguments: &ConfigArgument) -> anyhow::Result<ExitCode> {
    let config = arguments.load_to_serve()?;
    // As comments: what is printed is TOML.
    println!("# This process may have {}.", config.budgets.machine);
    config.budgets.words().for_each(|words| println!("# {words}"));
    config.budgets.warnings().for_each(|warning| eprintln!("warning: {warning}"));
    // Secrets are redacted by its own Display.
    println!("{}", super::lines(&config.to_string()));
    Ok(ExitCode::SUCCESS)
}
