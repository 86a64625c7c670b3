//! `schema [NAME]`: names the schemas of the events, and prints the Avro schema of each as it is published.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;

use crate::codec::EventKind;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The event; without it, the names are printed, one a line.
    #[arg(value_parser = PossibleValuesParser::new(EventKind::ALL.map(EventKind::name)))]
    name: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for kind in EventKind::ALL {
        match &arguments.name {
            None => println!("{}", kind.name()),
            Some(name) if name == kind.name() => print!("{}", kind.schema_json()),
            Some(_) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
