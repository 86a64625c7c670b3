//! `dev`: the service on librdkafka's mock cluster, which other clients can reach.

use std::path::PathBuf;
use std::process::ExitCode;

use super::ConfigArgument;
use crate::app::{Service, Signals};
use crate::demo::{EmbeddedBroker, LIMITS_OF_THE_EMBEDDED_BROKER};
use crate::telemetry;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Where artifacts and machine code are kept; a temporary folder where it is not given.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut config = arguments.config.load_to_serve()?;
    let telemetry = telemetry::start(&config.telemetry, &config.node_id())?;
    let signals = Signals::listen()?;
    let broker = EmbeddedBroker::start(&config.topics)?;
    let scratch = tempfile::tempdir()?;
    let directory = arguments.directory.clone().unwrap_or_else(|| scratch.path().to_owned());
    broker.apply(&mut config, &directory);
    let service = Service::start(config.clone(), &telemetry)?;
    signals.service_started();
    println!("{LIMITS_OF_THE_EMBEDDED_BROKER}");
    println!();
    println!("bootstrap servers: {}", broker.bootstrap_servers());
    if let Some(address) = service.admin_address() {
        println!("admin interface:   http://{address}");
    }
    println!("artifacts:         {}", config.artifacts.directory.display());
    println!();
    println!("In another terminal:");
    println!("  export FOREWARM__KAFKA__BOOTSTRAP_SERVERS={}", broker.bootstrap_servers());
    println!("  export FOREWARM__ARTIFACTS__STORE=directory");
    println!("  export FOREWARM__ARTIFACTS__DIRECTORY={}", config.artifacts.directory.display());
    println!("  forewarm function deploy hello guests/rust-greet/rust-greet.wasm");
    println!("  forewarm invoke hello --payload '\"world\"'");
    let ended = service.run_until(&signals, None);
    drop(telemetry);
    Ok(if ended.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
