//! Log lines on stderr, for people or as JSON: filtered, limited by cause, escaped, and written by a thread of their own.
//!
//! Must not: make anybody wait for whoever reads them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::TelemetryError;
use super::limiter::{Alike, Limiter};
use super::line::{Form, Said};
use super::sink::{Own, Sink};
use crate::config;

/// The target of lines of the log's own.
const TARGET: &str = "forewarm::telemetry";
/// How the exporter's own lines are called, in place of which `export` says the same with the address, at a rate.
const SAID_BY_EXPORT: [&str; 2] = ["BatchSpanProcessor.ExportError", "PeriodicReader.ExportError"];
/// How long the last line of a process may take to be written.
const LAST_LINE: Duration = Duration::from_secs(1);

/// The filter of the lines of this process, to be changed.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
/// Where the lines of this process go.
static LOG: OnceLock<Log> = OnceLock::new();

/// Why a line is said: what is limited together.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Cause {
    /// A place in a program.
    Place(Identifier),
    Panic,
}

/// Cheap to clone.
#[derive(Clone)]
struct Log {
    form: Form,
    limiter: Arc<Mutex<Limiter<Cause>>>,
    /// Set as soon as there is one.
    sink: Arc<OnceLock<Arc<Sink>>>,
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let fault = |cause: String| TelemetryError::Filter { filter: text.to_owned(), cause };
    EnvFilter::try_new(text).map_err(|error| fault(error.to_string()))
}

/// Whether this is a filter.
pub(super) fn check(text: &str) -> Result<(), TelemetryError> {
    filter(text).map(drop)
}

/// Lines are filtered by this from now on.
pub(super) fn set_filter(text: &str) -> Result<(), TelemetryError> {
    let filter = filter(text)?;
    let fault = |error: reload::Error| TelemetryError::Filter { filter: text.to_owned(), cause: error.to_string() };
    FILTER.get().map_or(Ok(()), |handle| handle.reload(filter)).map_err(fault)
}

pub(super) fn start(config: &config::Telemetry) -> Result<(), TelemetryError> {
    let filter = filter(&config.log_filter)?;
    if LOG.get().is_some() {
        // See `telemetry::start`.
        return Ok(());
    }
    let log = Log {
        form: Form { format: config.log_format, ansi: io::stderr().is_terminal() },
        limiter: Arc::default(),
        sink: Arc::default(),
    };
    let (filter, handle) = reload::Layer::new(filter);
    // An error means that there is a subscriber already, which is somebody else's.
    if tracing_subscriber::registry().with(filter).with(log.clone()).try_init().is_err() {
        return Ok(());
    }
    // A descriptor of its own: the lock of `io::stderr` would be held for as long as nobody reads.
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(TelemetryError::Log)?;
    let sink = Sink::start(File::from(stderr), log.clone()).map_err(TelemetryError::Log)?;
    let _ = (log.sink.set(sink), FILTER.set(handle), LOG.set(log));
    Ok(())
}

/// Waits until every line is written, up to `limit`; whether it is.
pub(super) fn flush(limit: Duration) -> bool {
    LOG.get().and_then(|log| log.sink.get()).is_none_or(|sink| sink.flush(limit))
}

/// Lines that were left out since the start: those that nobody read, and those that were like others.
pub(super) fn left_out() -> (u64, u64) {
    let Some(log) = LOG.get() else { return (0, 0) };
    (log.sink.get().map_or(0, |sink| sink.left_out()), log.limiter().left_out())
}

/// The last words of a process, as they are, on stderr; false where they are to be printed, as nothing logs.
pub(super) fn last_words(words: &str) -> bool {
    let Some(sink) = LOG.get().and_then(|log| log.sink.get()) else { return false };
    sink.push_last(format!("{words}\n"));
    sink.flush(LAST_LINE);
    true
}

/// From now on a panic is a line of the log.
pub(super) fn take_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if let Some(log) = LOG.get() {
            log.panicked(panic);
        }
    }));
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if SAID_BY_EXPORT.contains(&meta.name()) {
            return;
        }
        // Nothing is locked while values are written: they may panic, and a panic is a line too.
        let mut said = Said::default();
        event.record(&mut said);
        // Who asks for more than INFO wants all of it.
        if *meta.level() <= Level::INFO && !self.admits(Cause::Place(meta.callsite()), &said) {
            return;
        }
        self.push(&said, *meta.level(), meta.target());
    }
}

impl Log {
    fn panicked(&self, panic: &PanicHookInfo<'_>) {
        let reason = panic.payload_as_str().unwrap_or("a value that is no text");
        let mut said = Said::new("a thread panicked")
            .with("thread", std::thread::current().name().unwrap_or("without a name"))
            .with("reason", reason);
        if let Some(place) = panic.location() {
            said = said.with("place", place);
        }
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            said = said.with("backtrace", backtrace);
        }
        if self.admits(Cause::Panic, &said) {
            self.push(&said, Level::ERROR, "forewarm::panic");
        }
    }

    fn admits(&self, cause: Cause, said: &Said) -> bool {
        let words = said.message();
        self.limiter().admits(cause, Instant::now(), &words[..words.floor_char_boundary(100)])
    }

    fn push(&self, said: &Said, level: Level, target: &str) {
        // Before there is a sink nothing logs but this function's caller itself.
        if let Some(sink) = self.sink.get() {
            sink.push(said.line(self.form, SystemTime::now(), level, target));
        }
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter<Cause>> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Own for Log {
    fn left_out(&self, lines: u64) -> String {
        let said =
            Said::new(format_args!("{lines} log lines were left out, because nobody read the lines before them"));
        said.line(self.form, SystemTime::now(), Level::WARN, TARGET)
    }

    fn due(&self) -> Vec<String> {
        let alike = self.limiter().take_alike(Instant::now());
        let line = |Alike { words, lines }: Alike| {
            let said = Said::new(format_args!("{lines} more lines like this were left out")).with("like", words);
            said.line(self.form, SystemTime::now(), Level::WARN, TARGET)
        };
        alike.into_iter().map(line).collect()
    }
}
