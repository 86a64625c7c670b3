//! `fit`: fits the fleet's model to recorded calls of one's own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::backtest::fit;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    recorded: super::recorded::Arguments,
    /// Where the model goes; name it in the configuration as forecast.model.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let trace = arguments.recorded.trace()?;
    let bytes = fit::fit(&trace, |_| true)?.write();
    std::fs::write(&arguments.out, &bytes)
        .with_context(|| format!("the model {} was not written", arguments.out.display()))?;
    println!("{}: {} bytes", arguments.out.display(), bytes.len());
    Ok(ExitCode::SUCCESS)
}
