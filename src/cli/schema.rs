//! `schema NAME`: prints the Avro schema of an event, as it is published.

use std::process::ExitCode;

use crate::codec::EventKind;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// pre-trigger, invocation, invocation-result or function-definition.
    name: String,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.name() == arguments.name) else {
        let names: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        anyhow::bail!("no event is called {:?}; there are {}", arguments.name, names.join(", "));
    };
    print!("{}", kind.schema_json());
    Ok(ExitCode::SUCCESS)
}
