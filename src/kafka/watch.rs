//! A watchdog over calls that may never return, and over threads that may stand still.
//!
//! librdkafka does not keep every time limit that it is given: `send_offsets_to_transaction` waits for ever where the group's
//! coordinator went away while it was asked (librdkafka issues 5456 and 5511). A thread inside such a call cannot be freed, so
//! the process has to end: its partitions and its transaction would wait for it otherwise. The room that starts the watch says
//! how ([`Watch::start`]).
//!
//! It also knows how often the wall clock was set back, because librdkafka waits by the wall clock.
//!
//! Time counts only while the process runs: a process that was stopped, or a machine that slept, was not late. Must not: end
//! the process, or log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the watch looks.
const TICK: Duration = Duration::from_millis(250);
/// The wall clock was set back where it fell behind the time that passed by so much within one look.
const SET_BACK_MIN: Duration = Duration::from_secs(2);
/// A longer gap between two looks counts as so much: the process did not run in between.
const TICK_MAX: Duration = Duration::from_millis(1_000);

/// A call or a thread that is over its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// The call, or the thread that does not go on.
    pub what: String,
    /// How long it has taken, in time that the process ran.
    pub lasted: Duration,
    /// Its limit (inclusive).
    pub limit: Duration,
}

/// See the head of this file. Cheap to clone. [`Default`] watches nothing, for commands and tests that end by themselves.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Shared>>);

#[derive(Default)]
struct Shared {
    /// Milliseconds that the process ran since the watch began.
    ran_ms: AtomicU64,
    /// Times that the wall clock was set back.
    set_back: AtomicU64,
    calls: Mutex<Calls>,
    ended: AtomicBool,
}

#[derive(Default)]
struct Calls {
    next: u64,
    under_way: BTreeMap<u64, Call>,
    pulses: Vec<Arc<Beats>>,
}

struct Call {
    what: &'static str,
    since_ms: u64,
    limit: Duration,
}

struct Beats {
    thread: &'static str,
    limit: Duration,
    /// In the watch's time.
    beat_ms: AtomicU64,
    ended: AtomicBool,
}

impl Watch {
    /// Starts the thread `watch`, which tells `overdue` of the first call or thread that is over its limit, and ends then. It
    /// also ends when the last clone is gone.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(overdue: impl FnOnce(Overdue) + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let watched = Arc::downgrade(&shared);
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let (mut looked_at, mut wall_at) = (Instant::now(), SystemTime::now());
            loop {
                std::thread::sleep(TICK);
                let (now, wall) = (Instant::now(), SystemTime::now());
                let Some(shared) = watched.upgrade() else { return };
                let passed = now.duration_since(std::mem::replace(&mut looked_at, now));
                if was_set_back(passed, std::mem::replace(&mut wall_at, wall), wall) {
                    shared.set_back.fetch_add(1, Ordering::AcqRel);
                }
                if let Some(found) = shared.look(passed) {
                    return overdue(found);
                }
                if shared.ended.load(Ordering::Acquire) {
                    return;
                }
            }
        })?;
        Ok(Self(Some(shared)))
    }

    /// Makes a call of which it is not sure that it returns within `limit`.
    pub fn call<T>(&self, what: &'static str, limit: Duration, call: impl FnOnce() -> T) -> T {
        let _watched = self.begin(what, limit);
        call()
    }

    /// Watches what happens until the answer is dropped.
    pub fn begin(&self, what: &'static str, limit: Duration) -> Watched {
        let Some(shared) = &self.0 else { return Watched(None) };
        let since_ms = shared.ran_ms.load(Ordering::Acquire);
        let mut calls = shared.calls();
        let id = calls.next;
        calls.next += 1;
        calls.under_way.insert(id, Call { what, since_ms, limit });
        drop(calls);
        Watched(Some((Arc::clone(shared), id)))
    }

    /// Watches a thread that says at least every `limit` that it goes on, until the answer is dropped.
    pub fn thread(&self, thread: &'static str, limit: Duration) -> Pulse {
        let Some(shared) = &self.0 else { return Pulse(None) };
        let beat_ms = AtomicU64::new(shared.ran_ms.load(Ordering::Acquire));
        let beats = Arc::new(Beats { thread, limit, beat_ms, ended: AtomicBool::new(false) });
        let mut calls = shared.calls();
        calls.pulses.retain(|pulse| !pulse.ended.load(Ordering::Acquire));
        calls.pulses.push(Arc::clone(&beats));
        Pulse(Some((Arc::clone(shared), beats)))
    }

    /// The thread that has not gone on for longest, where that is at least `after`: its name, and for how long. For readiness,
    /// which is to know long before the limit.
    pub fn late(&self, after: Duration) -> Option<(&'static str, Duration)> {
        let shared = self.0.as_ref()?;
        let now_ms = shared.ran_ms.load(Ordering::Acquire);
        let calls = shared.calls();
        let pulses = calls.pulses.iter().filter(|pulse| !pulse.ended.load(Ordering::Acquire));
        let late = pulses.map(|pulse| (pulse.thread, pulse.late(now_ms))).max_by_key(|(_, late)| *late);
        late.filter(|(_, late)| *late >= after)
    }

    /// How often the wall clock was set back, by two seconds or more, since the watch began.
    pub fn set_back(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.set_back.load(Ordering::Acquire))
    }

    /// Nothing is overdue from now on.
    pub fn end(&self) {
        if let Some(shared) = &self.0 {
            shared.ended.store(true, Ordering::Release);
        }
    }
}

impl PartialEq for Watch {
    /// Whether both are the same watch.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }
}

impl Eq for Watch {}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `passed` has gone by since the last look. Answers what is over its limit.
    fn look(&self, passed: Duration) -> Option<Overdue> {
        let passed_ms = millis(passed.min(TICK_MAX));
        let now_ms = self.ran_ms.fetch_add(passed_ms, Ordering::AcqRel) + passed_ms;
        let calls = self.calls();
        let of_calls = calls.under_way.values().map(|call| {
            (format!("call {}", call.what), Duration::from_millis(now_ms.saturating_sub(call.since_ms)), call.limit)
        });
        let pulses = calls.pulses.iter().filter(|pulse| !pulse.ended.load(Ordering::Acquire));
        let of_threads = pulses.map(|pulse| (format!("thread {}", pulse.thread), pulse.late(now_ms), pulse.limit));
        let mut all = of_calls.chain(of_threads);
        let (what, lasted, limit) = all.find(|(_, lasted, limit)| lasted > limit)?;
        (!self.ended.load(Ordering::Acquire)).then_some(Overdue { what, lasted, limit })
    }
}

impl Beats {
    fn late(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.beat_ms.load(Ordering::Acquire)))
    }
}

/// Whether the wall clock went from `before` to `now` while much more time than that passed.
fn was_set_back(passed: Duration, before: SystemTime, now: SystemTime) -> bool {
    now + SET_BACK_MIN <= before + passed
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A call that is under way; it is over when this is dropped.
#[must_use = "what is dropped is not watched"]
pub struct Watched(Option<(Arc<Shared>, u64)>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((shared, id)) = &self.0 {
            shared.calls().under_way.remove(id);
        }
    }
}

/// A thread that is watched; it is over when this is dropped.
#[must_use = "what is dropped is not watched"]
pub struct Pulse(Option<(Arc<Shared>, Arc<Beats>)>);

impl Pulse {
    /// The thread goes on. Costs two loads and a store.
    pub fn beat(&self) {
        if let Some((shared, beats)) = &self.0 {
            beats.beat_ms.store(shared.ran_ms.load(Ordering::Acquire), Ordering::Release);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some((_, beats)) = &self.0 {
            beats.ended.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch() -> (Watch, Arc<Shared>) {
        let shared = Arc::<Shared>::default();
        (Watch(Some(Arc::clone(&shared))), shared)
    }

    #[test]
    fn a_call_is_overdue_past_its_limit_and_not_once_it_has_returned() {
        let (watch, shared) = watch();
        let held = watch.begin("commit", SECOND * 2);
        assert_eq!(watch.call("quick", SECOND, || 7), 7);
        assert_eq!((shared.look(SECOND), shared.look(SECOND)), (None, None));
        let overdue = Overdue { what: "call commit".to_owned(), lasted: SECOND * 3, limit: SECOND * 2 };
        assert_eq!(shared.look(SECOND), Some(overdue));
        drop(held);
        assert_eq!(shared.look(SECOND), None);
    }

    #[test]
    fn time_in_which_the_process_did_not_run_does_not_count() {
        let (watch, shared) = watch();
        let _held = watch.begin("commit", SECOND * 2);
        // It was stopped for an hour.
        assert_eq!(shared.look(SECOND * 3_600), None);
        assert_eq!(shared.look(SECOND), None);
        assert!(shared.look(SECOND).is_some());
    }

    #[test]
    fn a_clock_that_falls_behind_was_set_back_and_one_that_leaps_was_not() {
        let before = SystemTime::UNIX_EPOCH + SECOND * 1_000;
        assert!(!was_set_back(SECOND / 4, before, before + SECOND / 4));
        assert!(!was_set_back(SECOND / 4, before, before + SECOND * 3_600));
        assert!(!was_set_back(SECOND, before, before - SECOND / 2));
        assert!(was_set_back(SECOND, before, before - SECOND));
        // A machine that slept: both clocks went on, or the one did that is set at waking.
        assert!(!was_set_back(SECOND * 3_600, before, before + SECOND * 3_600));
    }

    #[test]
    fn a_thread_that_does_not_go_on_is_late_first_and_overdue_later() {
        let (watch, shared) = watch();
        let pulse = watch.thread("invocations", SECOND * 3);
        let _other = watch.thread("publish", SECOND * 9);
        for _ in 0..2 {
            assert_eq!(shared.look(SECOND), None);
            pulse.beat();
        }
        assert_eq!(watch.late(SECOND), Some(("publish", SECOND * 2)));
        for _ in 0..3 {
            assert_eq!(shared.look(SECOND), None);
        }
        assert_eq!(shared.look(SECOND).map(|overdue| overdue.what), Some("thread invocations".to_owned()));
        drop(pulse);
        assert_eq!(shared.look(SECOND), None);
        assert_eq!(watch.late(SECOND * 99), None);
    }

    #[test]
    fn what_is_overdue_is_told_by_the_thread_and_after_the_end_nothing_is() {
        let (tell, told) = std::sync::mpsc::channel();
        let watch = Watch::start(move |overdue| tell.send(overdue.what).expect("heard")).expect("a thread");
        let _held = watch.begin("flush", Duration::ZERO);
        assert_eq!(told.recv().as_deref(), Ok("call flush"));
        let (watch, shared) = self::watch();
        let _held = watch.begin("flush", Duration::ZERO);
        watch.end();
        assert_eq!(shared.look(SECOND), None);
    }
}
