//! SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once. Before the service has started there is
//! nothing to bring in order, so the first one ends it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// The exit code after a second signal, as a shell gives it for SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Listens for signals.
pub struct Signals {
    came: Receiver<()>,
    started: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen, on a thread of its own.
    ///
    /// # Errors
    /// Where the system gives no thread or no signals.
    pub fn listen() -> std::io::Result<Self> {
        let (sender, came) = sync_channel(1);
        let started = Arc::new(AtomicBool::new(false));
        let has_started = Arc::clone(&started);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _context = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let body = move || {
            runtime.block_on(async {
                for signals in 0_u32.. {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    if signals > 0 {
                        tracing::warn!("a second signal: ending at once; calls in flight are read again");
                        std::process::exit(EXIT_AT_ONCE);
                    }
                    if !has_started.load(Ordering::Acquire) {
                        tracing::info!("a signal asks for the end before the service had started");
                        std::process::exit(0);
                    }
                    // Full only where the first is still to be looked at.
                    let _ = sender.try_send(());
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Self { came, started })
    }

    /// The service has started: from now on the first signal asks for an orderly end.
    pub fn service_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Waits up to `timeout`; answers whether a signal has come.
    pub fn wait(&self, timeout: Duration) -> bool {
        match self.came.recv_timeout(timeout) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(timeout);
                false
            }
        }
    }
}
