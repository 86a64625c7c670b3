//! `fit`: fits the fleet's model to recorded calls of one's own, and says how it does on calls that it has not seen.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::backtest::fit::{self, Fitted};
use crate::backtest::held_back;
use crate::backtest::trace::Trace;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    recorded: super::recorded::Arguments,
    /// Where the model goes; name it in the configuration as forecast.model.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the model although it is worse than the shipped one, or than fixed:10m, on the functions that were held back.
    #[arg(long)]
    even_if_worse: bool,
    /// Fit to all functions and hold none back: the model is written without a judgement.
    #[arg(long, conflicts_with = "even_if_worse")]
    unjudged: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let trace = arguments.recorded.trace()?;
    let fitted = if arguments.unjudged { fit::fit(&trace, |_| true)? } else { judged(arguments, &trace)? };
    say_what_is_shipped(&fitted);
    let bytes = fitted.model.write();
    std::fs::write(&arguments.out, &bytes)
        .with_context(|| format!("the model {} was not written", arguments.out.display()))?;
    println!("{}: {} bytes", arguments.out.display(), bytes.len());
    Ok(ExitCode::SUCCESS)
}

/// A model that is fitted to four fifths of the functions and judged on the last one. The model that was judged is the model
/// that is written.
fn judged(arguments: &Arguments, trace: &Trace) -> anyhow::Result<Fitted> {
    let config = arguments.recorded.client.load()?;
    let held = held_back::held_back(trace).context(
        "the model was not fitted: record calls of more functions, or give --unjudged to fit it to all of them and write it \
         without a judgement",
    )?;
    let fitted = fit::fit(trace, |function| !held_back::is_held_back(function))?;
    let judgement = held_back::judge(&held, &fitted.model, config.forecast.newcomer_share, &config.target)?;
    print!("{}", judgement.report.policies_table());
    println!("{}", judgement.sentence());
    if let Some(worse_than) = judgement.worse_than() {
        let out = arguments.out.display();
        anyhow::ensure!(
            arguments.even_if_worse,
            "the model {out} was not written: it is worse than {worse_than}; --even-if-worse writes it all the same"
        );
        eprintln!("the model is worse than {worse_than}, and is written all the same, as --even-if-worse says");
    }
    Ok(fitted)
}

fn say_what_is_shipped(fitted: &Fitted) {
    if let Some(why) = &fitted.further_is_shipped {
        eprintln!("the part for a second and further instances is that of the shipped model: {why}");
    }
}
