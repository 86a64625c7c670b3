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
    let fitted = fit::fit(&trace, |_| true)?;
    if let Some(why) = &fitted.further_is_shipped {
        eprintln!("the part for a second and further instances is that of the shipped model: {why}");
    }
    let bytes = fitted.model.write();
    std::fs::write(&arguments.out, &bytes)
        .with_context(|| format!("the model {} was not written", arguments.out.display()))?;
    println!("{}: {} bytes", arguments.out.display(), bytes.len());
    Ok(ExitCode::SUCCESS)
}
