//! `backtest`: what warm policies would have cost on recorded calls.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::backtest::events::Settings;
use crate::backtest::policy::{OURS, Ours};
use crate::backtest::trace::{Function, Trace};
use crate::backtest::workload::{Bursts, Chains, Sender, Workload};
use crate::backtest::{Kind, MeasureFrom, Options, Policy, Priced, Setup, ablation, findings, fit, prices, replay};
use crate::forecast::history::Model;
use crate::types::Reuse;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    recorded: super::recorded::Arguments,
    /// A made workload with a known truth instead, through the whole control plane in virtual time.
    #[arg(long, conflicts_with_all = ["trace", "topic", "policies", "prices", "single", "cross_validate", "timelines", "html", "sets", "measure_from"])]
    made: Option<Made>,
    /// With single calls (a CSV, or --topic): replay them through the whole control plane, ticks and all.
    #[arg(long, conflicts_with_all = ["made", "policies", "prices", "single", "cross_validate", "timelines", "html", "sets", "measure_from"])]
    events: bool,
    /// With --made or --events: replay it once more without each mechanism of the control plane, and print a row for each.
    #[arg(long)]
    ablate: bool,
    /// The policies: ours, fixed:TIME, hybrid-histogram, oracle, none.
    #[arg(long = "policy", value_name = "POLICY", value_delimiter = ',', default_values = ["ours", "fixed:10m", "hybrid-histogram", "oracle"])]
    policies: Vec<Kind>,
    /// How much idle time a cold start is worth; several make a sweep.
    #[arg(long = "price", value_name = "TIME", value_delimiter = ',', value_parser = humantime::parse_duration)]
    prices: Vec<Duration>,
    /// Judge the first instance of each function only.
    #[arg(long)]
    single: bool,
    /// Fit a model to each part's complement, so that no owner's functions are judged by a model that has seen them.
    #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u32).range(2..=20))]
    cross_validate: Option<u32>,
    /// Measure each set from there to its end alone: a share of its minutes, or a time. 50% shows the steady state.
    #[arg(long, value_name = "SHARE%|TIME", default_value = "0%")]
    measure_from: MeasureFrom,
    /// Show these functions over time in the page.
    #[arg(long = "timeline", value_name = "FUNCTION")]
    timelines: Vec<String>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write the report as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A workload that is made up.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Made {
    /// Bursts of calls that are announced, with misses and lies.
    Bursts,
    /// The same, with a second source of which 90 % are lies.
    Liar,
    /// A chain of three functions among 1,000 that have nothing to do with it.
    Chains,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = arguments.recorded.client.load()?;
    let settings = Settings {
        forecast: config.forecast.clone(),
        chains: config.chains.clone(),
        target: config.target.clone(),
        tick: config.control.tick,
        model: crate::app::model(&config.forecast)?,
        ..Settings::default()
    };
    if let Some(made) = arguments.made {
        return replay_made(made, &settings, arguments);
    }
    if arguments.events {
        let calls = arguments.recorded.calls()?;
        if arguments.ablate {
            return ablate(&Workload::recorded(&calls, Reuse::Reuse), &settings, arguments.json);
        }
        let report = findings::recorded(&calls, Reuse::Reuse, &settings);
        return show(&report, &report.table(), arguments.json);
    }
    anyhow::ensure!(!arguments.ablate, "--ablate replays single calls: give --made or --events with it");
    let trace = arguments.recorded.trace()?;
    let models = match arguments.cross_validate {
        None => vec![crate::app::model(&config.forecast)?],
        Some(parts) => fitted(&trace, parts)?,
    };
    let parts = u32::try_from(models.len()).unwrap_or(u32::MAX);
    let make = |function: &Function, setups: &[Setup]| -> Vec<Box<dyn Policy>> {
        let model = &models[fit::fold(function, parts) as usize];
        Ours::make(model, config.forecast.newcomer_share as f32, &config.target, setups)
    };
    let options = Options {
        path: arguments.recorded.trace.clone().unwrap_or_default(),
        sets: arguments.recorded.sets.clone(),
        policies: arguments.policies.clone(),
        measure_from: arguments.measure_from,
        prices: if arguments.prices.is_empty() { prices() } else { arguments.prices.clone() },
        single: arguments.single,
        timelines: arguments.timelines.clone(),
    };
    let report = replay(&trace, &options, &[Priced { name: OURS, make: &make }])?;
    if let Some(path) = &arguments.html {
        std::fs::write(path, report.html()?).with_context(|| format!("the page {} was not written", path.display()))?;
    }
    show(&report, &report.table(), arguments.json)
}

fn replay_made(
    made: Made,
    settings: &Settings,
    Arguments { json, ablate: is_ablation, .. }: &Arguments,
) -> anyhow::Result<ExitCode> {
    let liar = Sender { name: "liar".to_owned(), episodes: 200, misses: 0.2, lies: 0.9 };
    let mut bursts = Bursts::default();
    match made {
        Made::Chains => {
            if *is_ablation {
                return ablate(&Chains::default().make(), settings, *json);
            }
            let report = findings::chains(&Chains::default(), settings);
            return show(&report, &report.table(), *json);
        }
        Made::Liar => bursts.senders.push(liar),
        Made::Bursts => {}
    }
    if *is_ablation {
        return ablate(&bursts.make(), settings, *json);
    }
    let report = findings::bursts(&bursts, settings);
    show(&report, &report.table(), *json)
}

fn ablate(workload: &Workload, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let study = ablation::run(workload, settings);
    show(&study, &study.table(), json)
}

fn show(report: &impl serde::Serialize, table: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{table}");
    }
    Ok(ExitCode::SUCCESS)
}

/// For each part the model of all others.
fn fitted(trace: &Trace, parts: u32) -> anyhow::Result<Vec<Model>> {
    let one = |part| {
        eprintln!("fitting to all parts but {} of {parts}", part + 1);
        Ok(fit::fit(trace, |function| fit::fold(function, parts) != part)?.model)
    };
    (0..parts).map(one).collect()
}
