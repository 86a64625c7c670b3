//! The processes that this one starts, beside orphans that process 1 takes over.
//!
//! A process 1 waits for whichever process ends, and would so take the exit status of a child of ours from the thread that
//! waits for it. So both take turns by a lock, and the status of a known child is kept for its thread. Must not: know what a
//! child is for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait};

/// Children that run, by process id, and the status of each that was taken by [`reap_orphans`].
static RUNNING: Mutex<BTreeMap<u32, Option<ExitStatus>>> = Mutex::new(BTreeMap::new());

/// How often it is looked whether a child has ended, on kernels that tell nobody.
const LOOK: Duration = Duration::from_millis(10);

/// A child that runs.
pub(super) struct Running {
    child: Child,
    /// Means this very process, whoever gets its number later; none where the kernel has no such descriptors.
    process: Option<OwnedFd>,
}

impl Running {
    /// Starts a child.
    ///
    /// # Errors
    /// Where the system starts none.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        running.insert(child.id(), None);
        let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process = process.and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
        Ok(Self { child, process })
    }

    /// Waits for the child's end for as long as `patience`; answers whether it has ended.
    pub(super) fn wait(&mut self, patience: Duration) -> bool {
        let Some(process) = &self.process else {
            std::thread::sleep(patience.min(LOOK));
            // An error says that process 1 has taken its status: it has ended.
            return !matches!(self.child.try_wait(), Ok(None));
        };
        let patience = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).is_ok_and(|ended| ended > 0)
    }

    /// Ends it at once. A child that has ended already is left alone.
    pub(super) fn kill(&mut self) {
        // Both fail only where it has ended.
        let _ = match &self.process {
            Some(process) => pidfd_send_signal(process, Signal::KILL).map_err(io::Error::from),
            None => self.child.kill(),
        };
    }

    /// Its exit status; waits for it.
    ///
    /// # Errors
    /// Where the system does not tell it.
    pub(super) fn status(mut self) -> io::Result<ExitStatus> {
        let waited = self.child.wait();
        let taken = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.child.id()).flatten();
        waited.or_else(|fault| taken.ok_or(fault))
    }
}

/// Takes the exit statuses of orphans, so that they do not stay as zombies. For process 1 alone.
pub fn reap_orphans() {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let status = ExitStatus::from_raw(status.as_raw());
        match running.get_mut(&pid.as_raw_nonzero().get().unsigned_abs()) {
            Some(kept @ None) => *kept = Some(status),
            _ => tracing::debug!(pid = pid.as_raw_nonzero().get(), %status, "an orphan has ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_status_that_process_1_took_reaches_whoever_waits_for_it() {
        let mut child = Running::start(Command::new("/bin/sh").args(["-c", "exit 7"])).unwrap();
        assert!(child.wait(PATIENCE));
        reap_orphans();
        assert_eq!(child.status().unwrap().code(), Some(7));
        let mut child = Running::start(Command::new("/bin/sh").args(["-c", "exec sleep 60"])).unwrap();
        assert!(!child.wait(Duration::ZERO));
        child.kill();
        assert!(child.wait(PATIENCE));
        assert_eq!(child.status().unwrap().signal(), Some(9));
        assert!(RUNNING.lock().unwrap().is_empty());
    }
}
