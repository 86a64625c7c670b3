//! `demo`: the show, with its table.

use std::process::ExitCode;

use crate::demo;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How long the load runs, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(4..=3_600))]
    seconds: u32,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let say = |line: &str| {
        if arguments.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    };
    let report = demo::run(arguments.seconds, &say)?;
    if arguments.json {
        super::print_json(&report)?;
    } else {
        println!("{report}");
    }
    Ok(if report.every_call_had_one_result() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
