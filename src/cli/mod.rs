//! The commands: one file each. Arguments → configuration → what the command does → exit code.
//!
//! Must not: hold logic that the service needs; a command is a thin user of the other rooms.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

mod admin;
mod backtest;
mod chains;
mod check_config;
mod dead_letters;
mod demo;
mod deploy;
mod dev;
mod explain;
mod fit;
mod function;
mod health;
mod invoke;
mod logs;
mod newest;
mod pre_trigger;
mod pre_triggers;
mod recorded;
mod results;
mod schema;
mod serve;
mod status;
mod unread;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::client::Client;
use crate::codec::{Codec, WireFormat};
use crate::config::{self, Config, ConfigError};
use crate::kafka::Connection;
use crate::types::{Shown, ShownJson, Status};
use crate::{app, kafka, telemetry};

/// The exit code for a bad configuration or command line (`EX_USAGE` of BSD's sysexits).
const EX_USAGE: u8 = 64;
/// What `--help` says of exit codes.
const EXIT_CODES: &str = "Exit status: 0 where what was asked for was done; 1 where it was not, with the reason on stderr; \
    3 where it was done but for records that could not be read, which stderr names and counts; 64 for a bad command line or \
    configuration. `serve` besides: 75 where something in it hangs, 130 after a second signal.";
/// The longest line that is printed of a text with lines of its own, in bytes.
const LINE_MAX: usize = 16 << 10;

/// Runs WebAssembly functions for events on Kafka, and has them warm before the event comes.
#[derive(Parser)]
#[command(name = "forewarm", version = version::words(), about, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve: consume pre-triggers and invocations, run functions, publish results.
    Serve(ConfigArgument),
    /// Check a configuration, and print the one that would be used.
    CheckConfig(ConfigArgument),
    /// Show it: an embedded broker, example functions, and the same load with and without pre-triggers.
    Demo(demo::Arguments),
    /// Serve on an embedded broker that other clients can reach, to try functions out.
    Dev(dev::Arguments),
    /// Deploy, list, show and remove functions, and tell what they are doing on each node.
    #[command(subcommand)]
    Function(function::Command),
    /// Clean up after functions that are gone.
    #[command(subcommand)]
    Artifacts(function::Artifacts),
    /// Announce calls of a function.
    PreTrigger(pre_trigger::Arguments),
    /// List pre-triggers, and how they ended.
    #[command(subcommand)]
    PreTriggers(pre_triggers::Command),
    /// Call a function and wait for its result.
    Invoke(invoke::Arguments),
    /// Print results, one a line, as JSON or for people.
    Results(results::Arguments),
    /// Print what a function wrote to stdout and stderr, and how its calls ended badly.
    Logs(logs::Arguments),
    /// List dead letters, look into one, and put them back.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Ask a node why a function is held warm, or is not.
    Explain(explain::Arguments),
    /// Ask a node which chains of calls it has learned.
    Chains(chains::Arguments),
    /// Ask a node whether it takes calls: exit status 0 or 1, for health checks.
    Health(health::Arguments),
    /// Name the schemas of the events, and print the Avro schema of one.
    Schema(schema::Arguments),
    /// Replay recorded calls against warm policies, and say what each would have cost.
    Backtest(backtest::Arguments),
    /// Fit the model of the forecast to recorded calls of your own.
    Fit(fit::Arguments),
    /// Compile one artifact for the service that started this process.
    #[command(hide = true)]
    CompileWorker(crate::execute::Worker),
}

/// Where the configuration comes from.
#[derive(clap::Args)]
struct ConfigArgument {
    /// A TOML file; its keys are those of config/default.toml. FOREWARM__SECTION__KEY in the environment goes above it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    fn load(&self) -> Result<Config, ConfigError> {
        config::load(self.config.as_deref(), std::env::vars())
    }

    /// The configuration of a node, judged by everything for which its start would be refused before a broker is asked.
    fn load_to_serve(&self) -> Result<Config, ConfigError> {
        let config = self.load()?;
        let faults = app::faults(&config);
        if faults.is_empty() { Ok(config) } else { Err(ConfigError { faults }) }
    }
}

/// Where the brokers are, for the commands that are clients.
#[derive(clap::Args)]
struct ClientArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The brokers, instead of those of the configuration.
    #[arg(long, value_name = "HOST:PORT,…")]
    bootstrap: Option<String>,
}

impl ClientArguments {
    fn load(&self) -> Result<Config, ConfigError> {
        let mut config = self.config.load()?;
        if let Some(bootstrap) = &self.bootstrap {
            config.kafka.bootstrap_servers.clone_from(bootstrap);
        }
        Ok(config)
    }

    /// A client whose brokers answer. It reads every wire format, and says on stderr what it cannot read.
    fn connect(&self) -> anyhow::Result<Client> {
        let config = self.load()?;
        let connection = reached(&config)?;
        let (writers, codec) = (app::writer_schemas(&config)?, Arc::new(Codec::new()));
        let client = Client::new(connection, config.topics, config.tenants, codec, WireFormat::SingleObject)?;
        Ok(client.reading_with(writers, unread::tell()))
    }
}

/// What clients need, once a broker answers; where none does, the addresses and the reason within 5 s.
fn reached(config: &Config) -> anyhow::Result<Connection> {
    let connection = app::connection(config);
    kafka::reach(&connection, &config.topics.results, |reason| unread::say(reason))?;
    Ok(connection)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_status(text: &str) -> Result<Status, String> {
    let names = || Status::ALL.map(Status::as_str).join(", ");
    let found = Status::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| format!("there are {}", names()))
}

/// Runs the command that the process's arguments name.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are no faults; both are printed by clap to the right stream.
            let _ = told.print();
            return if told.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let ended = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Function(command) => function::run(&command),
        Command::Artifacts(command) => function::run_artifacts(&command),
        Command::PreTrigger(arguments) => pre_trigger::run(&arguments),
        Command::PreTriggers(command) => pre_triggers::run(&command),
        Command::Invoke(arguments) => invoke::run(&arguments),
        Command::Results(arguments) => results::run(&arguments),
        Command::Logs(arguments) => logs::run(&arguments),
        Command::DeadLetters(command) => dead_letters::run(&command),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Chains(arguments) => chains::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Backtest(arguments) => backtest::run(&arguments).map(unread::settle),
        Command::Fit(arguments) => fit::run(&arguments).map(unread::settle),
        Command::CompileWorker(worker) => Ok(worker.run()),
    };
    match ended {
        Ok(code) => code,
        Err(fault) => {
            let words = format!("forewarm: {}", told(&fault));
            if !telemetry::last_words(&words) {
                eprintln!("{words}");
            }
            if fault.is::<ConfigError>() { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// A fault with its causes, each line of it escaped. Errors of ours say their causes in their own sentence, with what to do behind it, and name them as
/// causes too, as others' do: a cause that was said is not said again.
fn told(fault: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in fault.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
    }
    lines(&said)
}

/// Lines, each escaped: for texts that have lines of their own.
fn lines(text: &str) -> String {
    text.lines().map(|line| Shown::of(line).within(LINE_MAX).to_string()).collect::<Vec<_>>().join("\n")
}

/// Prints a value as JSON on one line.
fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", ShownJson(&serde_json::to_string(value)?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::app::StartError;
    use crate::kafka::ClientError;

    #[test]
    fn a_cause_is_said_once() {
        let source = rdkafka::error::KafkaError::Global(rdkafka::error::RDKafkaErrorCode::TopicAuthorizationFailed);
        let error = StartError::from(ClientError::Subscribe { topic: "calls".to_owned(), source });
        let said = told(&anyhow::Error::new(error));
        assert_eq!(said.matches("authorization").count(), 1, "{said}");
        let read = std::fs::read("/nonexistent/file").context("the artifact cannot be read");
        let said = told(&read.unwrap_err());
        assert!(said.starts_with("the artifact cannot be read: No such file"), "{said}");
        let fault = anyhow::anyhow!("two faults:\n  - one\u{1b}[2J\r\n  - two\u{202e}");
        assert_eq!(told(&fault), "two faults:\n  - one\\u{1b}[2J\n  - two\\u{202e}");
    }
}
