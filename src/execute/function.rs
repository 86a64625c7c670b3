//! One registered function on this node: its running version, its shelf, and what was measured of it.
//!
//! Must not: spawn or wait; `dispatch` and `prepare` carry out what is decided under its lock.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::code::{Origin, Shared};
use super::instance::Instance;
use super::log_rate::LogRate;
use super::shelf::Shelf;
use super::slots::Slot;
use super::status::Story;
use super::wall_clock;
use crate::pool::{Breaker, Purpose};
use crate::types::{FunctionDefinition, FunctionName, Headers, Invocation, StartKind, WarmReason};

/// A call as it is handed to the executor. `T` is the caller's own: it comes back with the outcome.
#[derive(Debug)]
pub struct Call<T> {
    /// What to call, and with what.
    pub invocation: Invocation,
    /// Headers of its message that the guest sees, as far as they are text.
    pub headers: Headers,
    /// Comes back with the outcome.
    pub ticket: T,
    /// When the node had the event in hand.
    pub received_at: Instant,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Keeps it from beginning, or ends the guest at its next epoch, once that is said.
    pub cancelled: Cancelled,
}

/// Whether calls may begin, and whether anybody wants what they come to. Shared by calls that end together; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Cancelled(Option<Arc<AtomicU8>>);

/// Calls that run may go on; none begins.
const NO_MORE: u8 = 1;
/// Calls that run are ended, too.
const SET: u8 = 2;

impl Cancelled {
    /// One that can be set; the default one cannot.
    pub fn not_yet() -> Self {
        Self(Some(Arc::default()))
    }

    /// Nobody wants them any more.
    pub fn set(&self) {
        if let Some(flag) = &self.0 {
            flag.store(SET, Ordering::Release);
        }
    }

    /// Whether that was said.
    pub fn is_set(&self) -> bool {
        self.state() == SET
    }

    /// None of them begins here any more; those that run may end.
    pub fn begin_no_more(&self) {
        if let Some(flag) = &self.0 {
            flag.fetch_max(NO_MORE, Ordering::AcqRel);
        }
    }

    /// Whether one may begin.
    pub fn may_begin(&self) -> bool {
        self.state() == 0
    }

    fn state(&self) -> u8 {
        self.0.as_ref().map_or(0, |flag| flag.load(Ordering::Acquire))
    }
}

/// A call that was given to its function.
pub(super) struct Pending<T> {
    pub(super) call: Call<T>,
    pub(super) dispatched_at: Instant,
}

/// Loaded code of one definition.
pub(super) struct Version {
    pub(super) definition: Arc<FunctionDefinition>,
    pub(super) code: Arc<Shared>,
    pub(super) origin: Origin,
    pub(super) loaded_at: Instant,
    /// Counts the definitions of the node; tells versions apart even where users give two the same name.
    pub(super) serial: u64,
    /// Ends the calls that run in it.
    pub(super) ending: Ending,
}

/// Why the calls of a version are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Removed,
    Disabled,
    Replaced,
}

impl Gone {
    /// The code of the outcome.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Disabled => "disabled",
            Self::Replaced => "replaced",
        }
    }
}

/// Whether the calls of a version are to end, which those that run wait for.
#[derive(Debug, Default)]
pub(super) struct Ending {
    why: OnceLock<Gone>,
    said: Notify,
}

impl Ending {
    /// From now on they end; the first reason stays.
    pub(super) fn end(&self, why: Gone) {
        let _ = self.why.set(why);
        self.said.notify_waiters();
    }

    /// Whether that was said.
    pub(super) fn has_ended(&self) -> bool {
        self.why.get().is_some()
    }

    /// Returns when they are to end.
    pub(super) async fn ended(&self) -> Gone {
        loop {
            // First, so that nothing that is said in between is missed.
            let said = self.said.notified();
            if let Some(why) = self.why.get() {
                return *why;
            }
            said.await;
        }
    }
}

/// Since when a function cannot run, and why: words that its callers may read, without a path or a digest of this host.
#[derive(Clone, Debug)]
pub(super) struct Unavailable {
    since: Instant,
    /// When that was seen last.
    seen_at: Instant,
    why: String,
}

/// An instance with its story.
pub(super) struct Ready {
    pub(super) instance: Instance,
    pub(super) version: Arc<Version>,
    /// Why it was prepared.
    pub(super) reason: WarmReason,
    /// When its preparation began.
    pub(super) asked_at: Instant,
    /// When it was ready.
    pub(super) ready_at: Instant,
    /// When it was last put on the shelf.
    pub(super) shelved_at: Instant,
    /// Calls it has served.
    pub(super) uses: u32,
    /// Its place in the pool; given back when the instance is dropped.
    pub(super) slot: Slot,
}

/// How a call came to its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) kind: StartKind,
    pub(super) queued: Duration,
    pub(super) prepare: Duration,
}

impl Start {
    /// Tells how a call that was received, dispatched, and brought to its instance at these moments began.
    ///
    /// Waiting in line for a turn and a slot is `queued`; waiting for this instance to become ready is `prepare`.
    pub(super) fn of<T>(pending: &Pending<T>, ready: &Ready, taken_at: Instant) -> Self {
        let version = (ready.version.loaded_at, ready.version.origin.start_kind());
        let times = (pending.call.received_at, pending.dispatched_at, taken_at);
        Self::judge(times, ready.uses, ready.asked_at, ready.ready_at, version)
    }

    fn judge(
        (received_at, dispatched_at, taken_at): (Instant, Instant, Instant),
        uses: u32,
        asked_at: Instant,
        ready_at: Instant,
        (loaded_at, load_kind): (Instant, StartKind),
    ) -> Self {
        let whole = taken_at.saturating_duration_since(received_at);
        let (kind, prepare_from) = if uses > 0 {
            (StartKind::Warm, taken_at)
        } else if ready_at <= dispatched_at {
            (StartKind::Prewarmed, taken_at)
        } else if loaded_at > dispatched_at {
            (load_kind, dispatched_at)
        } else {
            (StartKind::Linked, dispatched_at.max(asked_at))
        };
        // Where the instance was there, what is left is the time to take it, unless the call stood in line before.
        let prepare = taken_at.saturating_duration_since(prepare_from);
        Self { kind, queued: whole.saturating_sub(prepare), prepare }
    }
}

/// Whether calls of a function can run.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// The first version is on its way: calls wait.
    Loading,
    /// A version is there.
    Running,
    /// The user disabled it: calls are rejected.
    Disabled,
    /// No version could be loaded: calls are rejected with this reason.
    Refused(String),
}

/// How far the loading of a version has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It waits: for code that another function's loading makes, for a turn, or for its next try.
    Waiting,
    /// Its code or artifact is read.
    Fetching,
    /// Its code is compiled.
    Compiling,
}

pub(super) struct State<T> {
    pub(super) shelf: Shelf<Box<Ready>, Pending<T>>,
    pub(super) phase: Phase,
    /// What is told of it.
    pub(super) story: Story,
    pub(super) version: Option<Arc<Version>>,
    /// Where a version is being loaded: how far that is, and since when.
    pub(super) loading: Option<(Step, Instant)>,
    /// The newest definition's serial; a load of an older one is abandoned.
    pub(super) wanted_serial: u64,
    /// Instances to prepare ahead, of those that the target asks for.
    pub(super) planned: u32,
    /// What the function stands in line for, to begin a preparation.
    pub(super) asked: Option<Purpose>,
    /// There was no slot for an instance for this; not to be tried again before the next look. None for a call means none ahead.
    pub(super) full: Option<Purpose>,
    /// Whether preparing may be tried, after it failed.
    pub(super) breaker: Breaker,
    /// No call can run, for now.
    pub(super) unavailable: Option<Unavailable>,
}

impl<T> State<T> {
    /// It cannot run, from now on where it could until now.
    pub(super) fn cannot_run(&mut self, why: &str) {
        let now = Instant::now();
        let since = self.unavailable.as_ref().map_or(now, |unavailable| unavailable.since);
        self.unavailable = Some(Unavailable { since, seen_at: now, why: why.to_owned() });
    }

    /// Why it cannot run, where nothing is there that could.
    pub(super) fn why_not(&self) -> Option<&str> {
        let Unavailable { why, .. } = self.unavailable.as_ref().filter(|_| self.phase != Phase::Disabled)?;
        let usage = self.shelf.usage(0);
        (usage.ready == 0 && usage.busy == 0).then_some(why)
    }

    /// How many of its calls may wait where it could not run for `after`, and why. Where instances are being tried, as many may as
    /// that are: one of them may work.
    pub(super) fn wait_no_more(&self, after: Duration) -> Option<(u32, &str)> {
        let why = self.why_not()?;
        let Unavailable { since, seen_at, .. } = self.unavailable.as_ref()?;
        // That an instance could not be made once says nothing of now.
        let lasted = if self.phase == Phase::Loading { since.elapsed() } else { seen_at.duration_since(*since) };
        (lasted >= after).then(|| (self.shelf.usage(0).preparing, why))
    }

    /// Whether `version` is the one that runs.
    pub(super) fn runs(&self, version: &Version) -> bool {
        self.version.as_ref().is_some_and(|running| running.serial == version.serial)
    }
}

/// See the head of this file.
pub(super) struct Function<T> {
    pub(super) name: FunctionName,
    state: Mutex<State<T>>,
    /// Moving mean of the run time, in ns; `u64::MAX` while unknown.
    mean_execute_ns: AtomicU64,
    /// Moving mean of the time to prepare an instance, in ns; `u64::MAX` while unknown.
    mean_prepare_ns: AtomicU64,
    /// Linear memory of the newest instance, in bytes; 0 while unknown.
    instance_bytes: AtomicU64,
    /// How many lines it may write; made with the first one.
    pub(super) logs: OnceLock<Mutex<LogRate>>,
    /// The version that ran was replaced or taken away: nobody wants what is being prepared of it.
    pub(super) replaced: Notify,
}

impl<T> Function<T> {
    /// A function whose first version is on its way.
    pub(super) fn new(definition: &FunctionDefinition) -> Self {
        Self::in_phase(definition.name.clone(), definition.limits.concurrency, Phase::Loading)
    }

    /// A function that has a name and nothing that could run.
    pub(super) fn refused(name: FunctionName, reason: String) -> Self {
        let function = Self::in_phase(name, 1, Phase::Refused(reason.clone()));
        function.state().story.unreadable(&reason, wall_clock());
        function
    }

    fn in_phase(name: FunctionName, concurrency: u32, phase: Phase) -> Self {
        Self {
            name,
            state: Mutex::new(State {
                shelf: Shelf::new(concurrency),
                phase,
                story: Story::new(wall_clock()),
                version: None,
                loading: None,
                wanted_serial: 0,
                unavailable: None,
                planned: 0,
                asked: None,
                full: None,
                breaker: Breaker::default(),
            }),
            mean_execute_ns: AtomicU64::new(u64::MAX),
            mean_prepare_ns: AtomicU64::new(u64::MAX),
            instance_bytes: AtomicU64::new(0),
            logs: OnceLock::new(),
            replaced: Notify::new(),
        }
    }

    /// The state, for a push or a pop; nobody waits, computes or drops a guest while holding it.
    pub(super) fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a run time into the mean (weight 1/8, as TCP's smoothed round-trip time in RFC 6298).
    pub(super) fn executed(&self, took: Duration) {
        observe(&self.mean_execute_ns, took);
    }

    /// Takes the time that a preparation took, once it was begun, into its mean.
    pub(super) fn prepared(&self, took: Duration) {
        observe(&self.mean_prepare_ns, took);
    }

    /// Whether an instance is prepared within `limit`, as far as is known.
    pub(super) fn prepares_quickly(&self, limit: Duration) -> bool {
        u128::from(self.mean_prepare_ns.load(Ordering::Relaxed)) <= limit.as_nanos()
    }

    /// Whether its calls are short enough, as far as is known, to run on the thread that received them.
    pub(super) fn is_quick(&self, limit: Duration) -> bool {
        u128::from(self.mean_execute_ns.load(Ordering::Relaxed)) <= limit.as_nanos()
    }

    pub(super) fn instance_bytes(&self) -> u64 {
        self.instance_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_instance_bytes(&self, bytes: u64) {
        self.instance_bytes.store(bytes, Ordering::Relaxed);
    }
}

fn observe(mean: &AtomicU64, took: Duration) {
    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX - 1);
    mean.store(smooth(mean.load(Ordering::Relaxed), took), Ordering::Relaxed);
}

/// The next mean, in ns; `u64::MAX` stands for "none yet".
fn smooth(mean: u64, took: u64) -> u64 {
    if mean == u64::MAX { took } else { mean - mean / 8 + took / 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Received at 0 ms and dispatched at 1 ms; the rest is given in ms from the start.
    fn start(taken: u64, uses: u32, asked: u64, ready: u64, loaded: u64) -> (StartKind, u64, u64) {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let start = Start::judge((at(0), at(1), at(taken)), uses, at(asked), at(ready), (at(loaded), StartKind::Cold));
        (start.kind, start.queued.as_millis() as u64, start.prepare.as_millis() as u64)
    }

    #[test]
    fn an_instance_that_was_there_costs_no_preparation() {
        assert_eq!(start(1, 3, 0, 0, 0), (StartKind::Warm, 1, 0));
        assert_eq!(start(1, 0, 0, 1, 0), (StartKind::Prewarmed, 1, 0));
        // It stood in line for the concurrency limit: that is queueing, not preparation.
        assert_eq!(start(9, 3, 0, 0, 0), (StartKind::Warm, 9, 0));
    }

    #[test]
    fn an_instance_made_meanwhile_is_linked_from_when_it_was_asked_for() {
        assert_eq!(start(51, 0, 1, 51, 0), (StartKind::Linked, 1, 50));
        // Asked for before the call came: only the rest was waited for.
        assert_eq!(start(21, 0, 0, 21, 0), (StartKind::Linked, 1, 20));
        // Asked for only when a slot was free again.
        assert_eq!(start(60, 0, 40, 60, 0), (StartKind::Linked, 40, 20));
    }

    #[test]
    fn waiting_for_code_is_cold_or_loaded() {
        assert_eq!(start(31, 0, 25, 31, 25), (StartKind::Cold, 1, 30));
    }

    #[test]
    fn the_mean_starts_with_the_first_and_then_moves_by_an_eighth() {
        assert_eq!(smooth(u64::MAX, 800), 800);
        assert_eq!(smooth(800, 1_600), 900);
        assert_eq!(smooth(900, 0), 788);
    }
}
