//! The same single calls with keep-alive: each instance is kept for a fixed time after its last use, and none is made ahead.
//!
//! It is that to which the control plane's replay is held; calls and instances are brought together by the same shelf.
//!
//! Must not: expire an instance earlier or later than at its time, however seldom the function is called.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::ledger::Starts;
use super::super::shelf::{Instance, Shelf, Waiting};
use super::super::workload::{What, Workload};
use super::{Coming, start_kind};
use crate::types::{StartKind, Timestamp, WarmKind, WarmReason};

/// What keep-alive came to.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct KeptAlive {
    /// How calls began.
    pub starts: Starts,
    /// Instances that were prepared, all of them for calls that waited.
    pub prepared: u64,
    /// Those of them that served no call.
    pub never_used: u64,
    /// Ready instance-seconds held.
    pub held_s: f64,
}

/// Replays the workload's calls to the end of the last one; notices say nothing here. `prepare` is how long the preparation of
/// an instance takes.
pub fn run(workload: &Workload, keep: Duration, prepare: Duration) -> KeptAlive {
    let mut replay = Replay {
        keep,
        prepare,
        shelves: workload.functions.iter().map(Shelf::new).collect(),
        due: BTreeMap::new(),
        begun: 0,
        found: KeptAlive::default(),
    };
    let mut now = Timestamp::ZERO;
    for (at, what) in &workload.happenings {
        let What::Called { function, run, is_announced } = what else { continue };
        now = replay.pass_until(*at).max(*at);
        replay.called(*at, *function, Coming { run: *run, is_announced: *is_announced });
    }
    now = replay.pass_until(Timestamp::from_micros(i64::MAX)).max(now);
    replay.finish(now)
}

enum Due {
    Ready { function: usize },
    Ended { function: usize, instance: Instance },
}

struct Replay {
    keep: Duration,
    prepare: Duration,
    shelves: Vec<Shelf<Coming>>,
    /// By time, and then in the order in which it was begun.
    due: BTreeMap<(Timestamp, u64), Due>,
    begun: u64,
    found: KeptAlive,
}

impl Replay {
    /// Lets all that was begun happen before `until` (exclusive); answers when the last of it did.
    fn pass_until(&mut self, until: Timestamp) -> Timestamp {
        let mut last = Timestamp::ZERO;
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 < until
        {
            let ((now, _), due) = entry.remove_entry();
            last = now;
            match due {
                Due::Ready { function } => {
                    let reason = WarmReason { kind: WarmKind::Invocation, detail: None };
                    let instance = Instance { reason, ready_at: now, idle_since: now, uses: 0 };
                    let pair = self.shelves[function].prepared(instance);
                    self.starts(now, function, pair);
                }
                Due::Ended { function, mut instance } => {
                    instance.idle_since = now;
                    let (pair, changes) = self.shelves[function].ended(instance);
                    self.starts(now, function, pair);
                    self.make(now, function, changes.map_or(0, |changes| changes.on_demand));
                }
            }
        }
        last
    }

    fn called(&mut self, now: Timestamp, function: usize, call: Coming) {
        self.expire(now, function);
        match self.shelves[function].submit(Waiting { since: now, call }) {
            Ok(pair) => self.starts(now, function, Some(pair)),
            Err(on_demand) => self.make(now, function, on_demand),
        }
    }

    /// Drops the instances that were kept for their time.
    fn expire(&mut self, now: Timestamp, function: usize) {
        for instance in self.shelves[function].expire(now - self.keep) {
            self.found.held_s += self.keep.as_secs_f64();
            self.found.never_used += u64::from(instance.uses == 0);
        }
    }

    fn starts(&mut self, now: Timestamp, function: usize, pair: Option<(Instance, Waiting<Coming>)>) {
        let Some((instance, waiting)) = pair else { return };
        self.found.held_s += now.since(instance.idle_since).as_secs_f64();
        let kind: StartKind = start_kind(&instance, waiting.since);
        self.found.starts.add(kind, now.since(waiting.since));
        self.begin(now + waiting.call.run, Due::Ended { function, instance });
    }

    fn make(&mut self, now: Timestamp, function: usize, instances: u32) {
        for _ in 0..instances {
            self.found.prepared += 1;
            self.begin(now + self.prepare, Due::Ready { function });
        }
    }

    fn begin(&mut self, ends_at: Timestamp, due: Due) {
        self.due.insert((ends_at, self.begun), due);
        self.begun += 1;
    }

    /// Instances that are idle at the end were held until then.
    fn finish(mut self, now: Timestamp) -> KeptAlive {
        for function in 0..self.shelves.len() {
            self.expire(now, function);
            for instance in self.shelves[function].expire(now) {
                self.found.held_s += now.since(instance.idle_since).as_secs_f64();
                self.found.never_used += u64::from(instance.uses == 0);
            }
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::trace::Call;
    use super::*;
    use crate::types::Reuse;

    const KEEP: Duration = Duration::from_secs(600);
    const PREPARE: Duration = Duration::from_millis(400);

    /// One function's calls: when, and for how long, in ms.
    fn kept(calls: &[(i64, u64)]) -> KeptAlive {
        let call = |&(ms, run_ms): &(i64, u64)| Call {
            at: Timestamp::from_millis(1_000_000 + ms),
            function: "f".parse().unwrap(),
            run: Duration::from_millis(run_ms),
        };
        run(&Workload::recorded(&calls.iter().map(call).collect::<Vec<_>>(), Reuse::Reuse), KEEP, PREPARE)
    }

    #[test]
    fn an_instance_is_there_for_ten_minutes_after_its_last_use() {
        // Ready at 400 ms, done at 500 ms: kept until 600,500 ms (exclusive).
        let found = kept(&[(0, 100), (600_499, 1)]);
        assert_eq!((found.starts.warm, found.starts.linked, found.prepared), (1, 1, 1));
        assert!((found.held_s - 599.999).abs() < 1e-6, "{found:?}");
        let found = kept(&[(0, 100), (600_500, 1)]);
        assert_eq!((found.starts.warm, found.starts.linked, found.prepared), (0, 2, 2));
        assert!((found.held_s - 600.0).abs() < 1e-6, "{found:?}");
        assert!((found.starts.waited_s - 0.8).abs() < 1e-9);
    }

    #[test]
    fn a_call_that_waits_takes_the_instance_that_is_free_first() {
        // The second call takes the first one's instance at 1,100 ms; its own, ready at 1,450 ms, serves nobody.
        let found = kept(&[(0, 700), (1_050, 500)]);
        assert_eq!((found.starts.warm, found.starts.linked), (1, 1));
        assert_eq!((found.prepared, found.never_used), (2, 1));
        assert!((found.held_s - 0.15).abs() < 1e-9, "{found:?}");
        assert_eq!(kept(&[]), KeptAlive::default());
    }
}
