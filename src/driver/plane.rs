//! The control plane's thread: collects what was observed, ticks, and carries out the warm targets.
//!
//! Must not: be waited for by the data plane. Observations that find the queue full are dropped and counted: they are
//! statistics, and no call depends on them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::asked::Asked;
use super::outbox::Outbox;
use crate::control::{Action, Control, Event};
use crate::execute::{Executor, Outcomes, wall_clock};
use crate::forecast::{Restored, Share, Verdict};
use crate::telemetry::Metrics;
use crate::types::{FunctionName, PoolUsage, Timestamp};

/// The bounded way from the data plane to the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Observations {
    clock: Clock,
    /// What was seen, and when. The tick's time would not do: a call would seem to come after a notice that it came before.
    queue: Arc<ArrayQueue<(Timestamp, Event)>>,
    /// The newest one counts, and must not be lost in a full queue.
    share: Arc<Mutex<Option<Share>>>,
    metrics: Arc<Metrics>,
}

impl Observations {
    /// A way for at most `capacity` events between two ticks.
    pub fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        Self { clock: Clock::start(), queue: Arc::new(ArrayQueue::new(capacity)), share: Arc::default(), metrics }
    }

    /// Hands in what was seen. Never blocks; where the queue is full the event is dropped, counted, and the answer is false.
    pub fn see(&self, event: Event) -> bool {
        let taken = self.queue.push((self.clock.now(), event)).is_ok();
        if !taken {
            self.metrics.control_events_dropped.add(1);
        }
        taken
    }

    /// The node's share of the calls is this from now on.
    pub fn shares(&self, share: Share) {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
    }

    /// Hands in what must not be lost (a definition): waits for room, which the next tick makes. Not for the data plane.
    pub fn tell(&self, event: Event) {
        let mut seen = (self.clock.now(), event);
        while let Err(returned) = self.queue.push(seen) {
            seen = returned;
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The running control plane.
pub struct ControlPlane {
    stop: Arc<AtomicBool>,
    asked: Asked,
    thread: Option<thread::JoinHandle<()>>,
}

impl ControlPlane {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start<O: Outcomes>(
        control: Control,
        tick: Duration,
        observations: Observations,
        executor: Executor<O>,
        outbox: Arc<Outbox>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, facts) = (Arc::new(Mutex::new(control)), Arc::new(executor.clone()));
        let asked = Asked { control: Arc::clone(&shared), facts, clock: observations.clock };
        let (stopped, clock) = (Arc::clone(&stop), asked.clock);
        let body = move || {
            let mut actions = Vec::new();
            let mut time = clock.now();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                step(&shared, &mut time, &observations, &executor, &outbox, &mut actions);
                thread::sleep(tick.saturating_sub(began.elapsed()));
            }
        };
        let thread = thread::Builder::new().name("control".into()).spawn(body)?;
        Ok(Self { stop, asked, thread: Some(thread) })
    }

    /// Publishes what is known of every function of which something was learned since its last snapshot.
    pub fn keep_all(&self, outbox: &Outbox) {
        let now = self.asked.clock.now();
        let snapshots = self.asked.control.lock().unwrap_or_else(PoisonError::into_inner).take_all_snapshots(now);
        for snapshot in snapshots {
            outbox.keep_snapshot(snapshot);
        }
    }

    /// Who answers questions about it.
    pub fn asked(&self) -> Asked {
        self.asked.clone()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One turn: everything that was observed, then the tick, then the actions. `time` is how far the control plane's has come.
fn step<O: Outcomes>(
    control: &Mutex<Control>,
    time: &mut Timestamp,
    observations: &Observations,
    executor: &Executor<O>,
    outbox: &Outbox,
    actions: &mut Vec<Action>,
) {
    let usage = executor.look();
    show(&observations.metrics, executor, &usage);
    {
        let mut control = control.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded by what is there now: what comes meanwhile belongs to the next turn.
        for _ in 0..observations.queue.len() {
            match observations.queue.pop() {
                Some((at, event)) => {
                    // Those who see events do not wait for one another: two may stand the wrong way round.
                    *time = at.max(*time);
                    control.handle(*time, event, actions);
                }
                None => break,
            }
        }
        let now = observations.clock.now().max(*time);
        *time = now;
        if let Some(share) = observations.share.lock().unwrap_or_else(PoisonError::into_inner).take() {
            control.handle(now, Event::ShareChanged(share), actions);
        }
        control.handle(now, Event::Ticked { usage }, actions);
    }
    for action in actions.drain(..) {
        match action {
            Action::SetTarget { function, target } => executor.set_target(&function, target),
            Action::JudgedPreTrigger { id, source, function, verdict } => {
                let criterion = match verdict {
                    Verdict::Refused(criterion) => Some(criterion.as_str()),
                    _ => None,
                };
                tracing::debug!(id, source, %function, verdict = verdict.as_str(), criterion, "pre-trigger judged");
                observations.metrics.pre_trigger_judged(verdict.as_str());
            }
            Action::PreTriggerEnded(outcome) => {
                observations.metrics.pre_trigger_ended(outcome.kind);
                outbox.pre_trigger_ended(outcome);
            }
            Action::KeepSnapshot(snapshot) => outbox.keep_snapshot(snapshot),
            Action::ForgetSnapshot(function) => outbox.forget_snapshot(&function),
            Action::RestoredSnapshots(Restored { restored, passed_over, refused }) => {
                tracing::info!(functions = restored, passed_over, "what was learned before is known again");
                for error in refused {
                    tracing::warn!(%error, "a forecast snapshot is dropped");
                }
            }
            Action::RefusedFunction { error } => tracing::warn!(%error, "a function gets no forecast"),
        }
    }
    executor.reconcile();
}

/// Sets the gauges of the pool.
fn show<O: Outcomes>(metrics: &Metrics, executor: &Executor<O>, usage: &[(FunctionName, PoolUsage)]) {
    let sum = |count: fn(&PoolUsage) -> u32| usage.iter().map(|(_, usage)| u64::from(count(usage))).sum();
    metrics.instances_ready.set(sum(|usage| usage.ready));
    metrics.instances_busy.set(sum(|usage| usage.busy));
    metrics.instances_preparing.set(sum(|usage| usage.preparing));
    metrics.calls_waiting.set(sum(|usage| usage.waiting));
    let (by_state, wanted) = executor.totals();
    metrics.instances_wanted.set(wanted);
    metrics.functions_now(by_state);
    metrics.instance_bytes.set(executor.in_use().bytes);
}

/// A clock that starts at the wall's time and then never jumps: the control plane must not see time run backwards.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { wall: wall_clock(), started: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.wall + self.started.elapsed()
    }
}
