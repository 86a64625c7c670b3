//! `health`: whether a node takes calls, as an exit status.
//!
//! Must not: judge; the node does.

use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Ask whether it lives, instead of whether it takes calls.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    admin: super::admin::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let asked = if arguments.live { "live" } else { "ready" };
    arguments.admin.ask(&["health", asked], &[])?;
    println!("ok");
    Ok(ExitCode::SUCCESS)
}
