//! The signals of the process, each told in the log and carried out by the main loop.
//!
//! | signal | asks for |
//! |---|---|
//! | SIGTERM, SIGINT | the orderly end; the second one ends at once, and so does one before the service has started |
//! | SIGHUP | reading the configuration again |
//! | SIGQUIT | the node's state, in the log |
//! | SIGUSR1, SIGUSR2 | handing every partition back and staying; taking partitions again |
//!
//! As process 1, as in a container, it also takes the exit statuses of orphans, which nobody else does there. Must not: carry out
//! anything but the end at once; and must not wait for the log where a process is to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::hung::end_at_once;

/// The exit code after a second signal, as a shell gives it for SIGINT.
const EXIT_AT_ONCE: i32 = 130;
/// Signals that may wait to be carried out. The same one again, while it waits, asks for nothing more.
const WAITING_MAX: usize = 16;
/// How long the last line of a process that ends at once may take: the log may be the pipe of somebody who does not read.
const LAST_LINE: Duration = Duration::from_millis(200);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The orderly end.
    End,
    /// Reading the configuration again.
    Reload,
    /// The node's state, in the log.
    Dump,
    /// Handing every partition back, and staying.
    HandBack,
    /// Taking partitions again.
    TakeAgain,
}

/// Every signal that is listened for.
const SIGNALS: [(&str, Asked); 6] = [
    ("SIGTERM", Asked::End),
    ("SIGINT", Asked::End),
    ("SIGHUP", Asked::Reload),
    ("SIGQUIT", Asked::Dump),
    ("SIGUSR1", Asked::HandBack),
    ("SIGUSR2", Asked::TakeAgain),
];

fn kind(name: &str) -> SignalKind {
    match name {
        "SIGINT" => SignalKind::interrupt(),
        "SIGHUP" => SignalKind::hangup(),
        "SIGQUIT" => SignalKind::quit(),
        "SIGUSR1" => SignalKind::user_defined1(),
        "SIGUSR2" => SignalKind::user_defined2(),
        _ => SignalKind::terminate(),
    }
}

/// Listens for signals.
pub struct Signals {
    came: Receiver<Asked>,
    started: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen, on a thread of its own.
    ///
    /// # Errors
    /// Where the system gives no thread or no signals.
    pub fn listen() -> std::io::Result<Self> {
        let (sender, came) = sync_channel(WAITING_MAX);
        let started = Arc::new(AtomicBool::new(false));
        let has_started = Arc::clone(&started);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let mut listening = Vec::with_capacity(SIGNALS.len());
        for (name, asked) in SIGNALS {
            listening.push((name, asked, signal(kind(name))?));
        }
        // Elsewhere a process has only children that it started, and waits for each of them itself.
        let orphans = if std::process::id() == 1 { Some(signal(SignalKind::child())?) } else { None };
        drop(context);
        let body = move || {
            runtime.block_on(async {
                let tasks = tokio::task::LocalSet::new();
                if let Some(ended) = orphans {
                    tasks.spawn_local(reap(ended));
                }
                let ends = Arc::new(AtomicBool::new(false));
                for (name, asked, signal) in listening {
                    let (sender, started, ends) = (sender.clone(), Arc::clone(&has_started), Arc::clone(&ends));
                    tasks.spawn_local(pass_on(name, asked, signal, sender, started, ends));
                }
                drop(sender);
                tasks.await;
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Self { came, started })
    }

    /// The service has started: from now on the first signal asks for an orderly end.
    pub fn service_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Waits up to `timeout` for what a signal asks for; None where none came.
    pub fn wait(&self, timeout: Duration) -> Option<Asked> {
        match self.came.recv_timeout(timeout) {
            Ok(asked) => Some(asked),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(timeout);
                None
            }
        }
    }
}

/// Passes one kind of signal on, for as long as the process lives.
async fn pass_on(
    name: &'static str,
    asked: Asked,
    mut signal: Signal,
    sender: SyncSender<Asked>,
    started: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
) {
    while signal.recv().await.is_some() {
        let has_started = started.load(Ordering::Acquire);
        if asked == Asked::End {
            if ends.swap(true, Ordering::AcqRel) {
                tracing::warn!(signal = name, "a second signal: ending at once; calls in flight are read again");
                end_at_once(EXIT_AT_ONCE, LAST_LINE);
            }
            if !has_started {
                tracing::info!(signal = name, "a signal asks for the end before the service had started");
                end_at_once(0, LAST_LINE);
            }
        }
        // The main loop may be busy with the one before; a full queue holds this one already, or enough of others.
        let waits = sender.try_send(asked).is_ok();
        if ends.load(Ordering::Acquire) && asked != Asked::End {
            tracing::info!(signal = name, "this signal is not carried out: the service ends");
        } else if !has_started {
            tracing::info!(signal = name, "this signal is carried out once the service has started");
        } else if !waits {
            tracing::warn!(signal = name, "this signal is not carried out: too many others wait");
        }
    }
}

/// Takes the exit statuses of orphans, so that they do not stay as zombies.
async fn reap(mut ended: Signal) {
    loop {
        // One signal may stand for several; and some may have ended before it was listened for.
        crate::execute::reap_orphans();
        if ended.recv().await.is_none() {
            return;
        }
    }
}
