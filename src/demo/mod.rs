//! The show: the whole service on an embedded broker, example functions, and one load with and without pre-triggers.
//!
//! Everything in the table is measured in the run that prints it. Must not: reach into the service; it is a client like any
//! other, but for starting and stopping it.

mod broker;
mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::broker::{EmbeddedBroker, LIMITS_OF_THE_EMBEDDED_BROKER};
pub use self::report::Report;
use crate::app::{self, Service, StartError, wall_clock};
use crate::artifacts::{ArtifactError, DirectoryStore};
use crate::client::{Client, RequestError, Results, Start};
use crate::codec::{Codec, WireFormat};
use crate::config::{self, Config, ConfigError};
use crate::loadgen::Tally;
use crate::telemetry::{self, TelemetryError};
use crate::types::{FunctionDefinition, FunctionKind, FunctionName, Invocation, Payload, PreTrigger};

const ECHO: &[u8] = include_bytes!("../../guests/rust-echo/rust-echo.wasm");
const RISK: &[u8] = include_bytes!("../../guests/rust-risk/rust-risk.wasm");
const WORDCOUNT: &[u8] = include_bytes!("../../guests/c-wordcount/c-wordcount.wasm");

/// Calls in one burst.
const BURST: u32 = 8;
/// From one burst to the next.
const ROUND: Duration = Duration::from_secs(2);
/// How long before its burst a pre-trigger is sent: a little more than it takes to initialise a burst's instances here.
const LEAD: Duration = Duration::from_millis(1_200);
/// How long a pre-trigger stays live.
const WINDOW: Duration = Duration::from_secs(4);
/// From one call of the small functions to the next.
const TRICKLE: Duration = Duration::from_millis(10);
/// How long the last results are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bursts on an init-heavy function that were announced by a pre-trigger.
pub(crate) const ANNOUNCED: &str = "risk, announced";
/// The same bursts, not announced.
pub(crate) const UNANNOUNCED: &str = "risk, not announced";
pub(crate) const STEADY: &str = "echo, steady";
pub(crate) const COMMAND: &str = "wordcount, steady";

/// Why there is no show.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The embedded broker did not start.
    #[error("the embedded broker did not start: {0}")]
    Broker(#[from] rdkafka::error::KafkaError),
    /// The service did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The load's client failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The default configuration is not usable here.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Telemetry did not start.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// An example function could not be stored.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// No scratch space.
    #[error("no scratch space: {0}")]
    Scratch(#[from] std::io::Error),
    /// The functions were not ready in time.
    #[error("the example functions were not ready within {0:?}")]
    NotReady(Duration),
}

/// Runs the show for `seconds` and answers with what was measured. `say` gets a line at each step.
///
/// # Errors
/// Where the show could not be held; a missing result is no error but stands in the report.
pub fn run(seconds: u32, say: &dyn Fn(&str)) -> Result<Report, DemoError> {
    let scratch = tempfile::tempdir()?;
    let mut config = config::load(None, quiet_environment())?;
    tune(&mut config);
    let telemetry = telemetry::start(&config.telemetry, &config.node_id())?;
    let broker = EmbeddedBroker::start(&config.topics)?;
    broker.apply(&mut config, scratch.path());
    say(&format!("embedded broker on {}; starting the service", broker.bootstrap_servers()));
    let service = Service::start(config.clone(), &telemetry)?;
    let client = Client::new(
        app::connection(&config),
        config.topics.clone(),
        config.tenants.clone(),
        Arc::new(Codec::new()),
        WireFormat::SingleObject,
    )?;
    let rounds = (seconds / u32::try_from(ROUND.as_secs()).unwrap_or(1)).max(1);
    say(&format!("deploying {} functions from three WebAssembly files, compiling each file once", 2 * rounds + 2));
    deploy(&client, &config, rounds)?;
    await_ready(&service, 2 * rounds as usize + 2)?;
    say(&format!(
        "{rounds} bursts of {BURST} calls on init-heavy functions, each burst on a function nobody called before; \
         half of the bursts are announced {LEAD:?} ahead"
    ));
    let mut load = Load::new(&client)?;
    load.run(rounds)?;
    load.drain()?;
    let report = Report::new(&load.tally, service.metrics());
    drop(service.shutdown());
    drop(telemetry);
    Ok(report)
}

/// The environment as it is, with a quieter log unless the user asked for another.
fn quiet_environment() -> impl Iterator<Item = (String, String)> {
    let default = [("FOREWARM__TELEMETRY__LOG_FILTER".to_owned(), "warn".to_owned())];
    default.into_iter().chain(std::env::vars())
}

/// Short memories, and a price at which history holds only what is certain, so that a burst's instances are gone when the
/// next function's burst comes, and what is shown is what pre-triggers bring.
fn tune(config: &mut Config) {
    config.forecast.history_window = Duration::from_secs(2);
    config.forecast.newcomer_share = 0.0;
    // Another node on this host may have the port.
    config.admin.listen = String::new();
    config.target.price = Duration::from_secs(60);
    config.target.shrink_after = Duration::from_secs(1);
}

fn deploy(client: &Client, config: &Config, rounds: u32) -> Result<(), DemoError> {
    let store = DirectoryStore::open(&config.artifacts);
    let define = |name: String, kind: FunctionKind, wasm: &[u8]| -> Result<(), DemoError> {
        let artifact = store.put(wasm)?;
        let definition = FunctionDefinition::new(function(&name), "1", artifact, kind);
        Ok(client.define(&definition)?)
    };
    define("echo".to_owned(), FunctionKind::Component, ECHO)?;
    define("wordcount".to_owned(), FunctionKind::Command, WORDCOUNT)?;
    for round in 0..rounds {
        define(risk(true, round), FunctionKind::Component, RISK)?;
        define(risk(false, round), FunctionKind::Component, RISK)?;
    }
    client.flush(PATIENCE)?;
    Ok(())
}

/// Waits until calls are taken and every function's code is loaded.
fn await_ready(service: &Service, functions: usize) -> Result<(), DemoError> {
    let deadline = Instant::now() + PATIENCE;
    while !service.is_ready() || service.functions_running() < functions {
        if Instant::now() > deadline {
            return Err(DemoError::NotReady(PATIENCE));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn risk(announced: bool, round: u32) -> String {
    format!("risk/{}-{round:03}", if announced { "announced" } else { "unannounced" })
}

#[expect(clippy::expect_used, reason = "the demo's own names, of letters, digits and dashes")]
fn function(name: &str) -> FunctionName {
    FunctionName::new(name).expect("a valid name")
}

/// The load: what was sent, and what has come.
struct Load<'a> {
    client: &'a Client,
    results: Results,
    tally: Tally,
}

impl<'a> Load<'a> {
    fn new(client: &'a Client) -> Result<Self, RequestError> {
        Ok(Self { client, results: client.results(Start::Now)?, tally: Tally::default() })
    }

    fn run(&mut self, rounds: u32) -> Result<(), RequestError> {
        let begin = Instant::now() + Duration::from_millis(200);
        let end = begin + ROUND * rounds;
        let (mut announced, mut called) = (0, 0);
        let mut trickle = begin;
        while Instant::now() < end || called < rounds {
            let now = Instant::now();
            if announced < rounds && now >= begin + ROUND * announced {
                self.announce(announced)?;
                announced += 1;
            }
            if called < rounds && now >= begin + ROUND * called + LEAD {
                self.burst(called)?;
                called += 1;
            }
            if now >= trickle {
                self.send(STEADY, "echo", b"hello")?;
                self.send(COMMAND, "wordcount", b"the quick brown fox jumps over the lazy dog")?;
                trickle += TRICKLE;
            }
            self.read(Duration::from_millis(1))?;
        }
        Ok(())
    }

    fn announce(&self, round: u32) -> Result<(), RequestError> {
        self.client.pre_trigger(&PreTrigger {
            id: format!("burst-{round:03}"),
            source: "demo".to_owned(),
            function: function(&risk(true, round)),
            tenant: None,
            expected_invocations: BURST,
            confidence: 1.0,
            not_before: None,
            window_ms: u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX),
            emitted_at: wall_clock(),
            attributes: Default::default(),
        })
    }

    fn burst(&mut self, round: u32) -> Result<(), RequestError> {
        for call in 0..BURST {
            let payload = format!(r#"{{"account": {}}}"#, round * BURST + call);
            self.send(ANNOUNCED, &risk(true, round), payload.as_bytes())?;
        }
        for call in 0..BURST {
            let payload = format!(r#"{{"account": {}}}"#, round * BURST + call);
            self.send(UNANNOUNCED, &risk(false, round), payload.as_bytes())?;
        }
        Ok(())
    }

    fn send(&mut self, group: &'static str, name: &str, payload: &[u8]) -> Result<(), RequestError> {
        let invocation = Invocation {
            id: uuid::Uuid::now_v7().to_string(),
            function: function(name),
            tenant: None,
            payload: Payload(payload.to_vec()),
            content_type: None,
            deadline: None,
            invoked_at: wall_clock(),
            attributes: Default::default(),
        };
        self.tally.sending(group, invocation.id.clone(), Instant::now());
        self.client.invoke(&invocation, None, &[])
    }

    /// Reads what has come; waits for the first at most `wait`.
    fn read(&mut self, wait: Duration) -> Result<(), RequestError> {
        let mut wait = wait;
        while let Some(came) = self.results.next(wait)? {
            self.tally.came(&came.event, Instant::now());
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Reads until every call has a result, and a little longer: a second result would come now.
    fn drain(&mut self) -> Result<(), RequestError> {
        self.client.flush(PATIENCE)?;
        let deadline = Instant::now() + PATIENCE;
        while self.tally.outstanding() > 0 && Instant::now() < deadline {
            self.read(Duration::from_millis(100))?;
        }
        let quiet = Instant::now() + Duration::from_millis(500);
        while Instant::now() < quiet {
            self.read(Duration::from_millis(100))?;
        }
        Ok(())
    }
}
