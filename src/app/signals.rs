//! SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// The exit code after a second signal, as a shell gives it for SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Listens for signals.
pub struct Signals(Receiver<()>);

impl Signals {
    /// Starts to listen, on a thread of its own.
    ///
    /// # Errors
    /// Where the system gives no thread or no signals.
    pub fn listen() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(1);
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
                        std::process::exit(EXIT_AT_ONCE);
                    }
                    // Full only where the first is still to be looked at.
                    let _ = sender.try_send(());
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Self(receiver))
    }

    /// Waits up to `timeout`; answers whether a signal has come.
    pub fn wait(&self, timeout: Duration) -> bool {
        match self.0.recv_timeout(timeout) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(timeout);
                false
            }
        }
    }
}
