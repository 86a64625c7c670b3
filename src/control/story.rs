//! The product's story, told by the control plane: who announces what, what is held ready for it, and why.

use super::*;
use crate::types::{Artifact, FunctionKind, Reuse, Schedule, Sha256, WarmKind, WarmPolicy};

/// A control plane with an executor that does what it is told and counts calls.
struct Stage {
    control: Control,
    now: Timestamp,
    in_flight: u32,
    peak: u32,
    said: Vec<String>,
}

fn name() -> FunctionName {
    FunctionName::new("resize").unwrap()
}

pub(super) fn definition(name: FunctionName, warm: WarmPolicy) -> FunctionDefinition {
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
    FunctionDefinition { warm, ..FunctionDefinition::new(name, "1", artifact, FunctionKind::Component) }
}

impl Stage {
    fn new(definition: FunctionDefinition) -> Self {
        let control = Control::new(
            // What the model expects would be held beside what these stories are about: no newcomers, and a price at which only
            // what is certain is held.
            ForecastConfig { newcomer_share: 0.0, ..ForecastConfig::default() },
            &ChainsConfig::default(),
            TargetConfig { price: Duration::from_secs(60), ..TargetConfig::default() },
            Model::shipped(),
        );
        let mut stage =
            Self { control, now: Timestamp::from_millis(1_000_000_000), in_flight: 0, peak: 0, said: vec![] };
        stage.send(Event::FunctionDefined { definition: Arc::new(definition), since: stage.now });
        stage
    }

    fn send(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.control.handle(self.now, event, &mut actions);
        self.said.extend(actions.into_iter().map(|action| match action {
            Action::SetTarget { target, .. } => {
                let reason = |nth| {
                    let reason = target.reason_for(nth).unwrap();
                    reason.detail.clone().unwrap_or_else(|| reason.kind.as_str().to_owned())
                };
                let reasons: Vec<_> = (1..=target.ready).map(reason).collect();
                format!("{} ready [{}]", target.ready, reasons.join(" "))
            }
            Action::JudgedPreTrigger { id, verdict, .. } => format!("{id} {}", verdict.as_str()),
            Action::PreTriggerEnded(outcome) => {
                let PreTriggerOutcome { pre_trigger_id, kind, announced, arrived, .. } = outcome;
                format!("{pre_trigger_id} {}: {arrived} of {announced}", kind.as_str())
            }
            Action::RefusedFunction { error } => error.to_string(),
            Action::KeepSnapshot(snapshot) => format!("keep {}", snapshot.function),
            Action::ForgetSnapshot(function) => format!("forget {function}"),
            Action::RestoredSnapshots(restored) => format!("{restored:?}"),
        }));
    }

    fn announce(&mut self, id: &str, calls: u32, confidence: f64, not_before: Option<Timestamp>, window_s: u64) {
        self.send(Event::PreTriggerReceived(PreTrigger {
            id: id.to_owned(),
            source: "checkout".to_owned(),
            function: name(),
            tenant: None,
            expected_invocations: calls,
            confidence,
            not_before,
            window_ms: window_s * 1_000,
            emitted_at: self.now,
            attributes: Default::default(),
        }));
    }

    fn calls_arrive(&mut self, calls: u32) {
        for _ in 0..calls {
            self.in_flight += 1;
            self.peak = self.peak.max(self.in_flight);
            self.send(Event::InvocationArrived { function: name(), evidence: Evidence::default() });
        }
    }

    fn calls_end(&mut self, calls: u32) {
        for _ in 0..calls {
            self.in_flight -= 1;
            let (status, start_kind) = (Status::Ok, Some(StartKind::Prewarmed));
            self.send(Event::InvocationEnded {
                function: name(),
                status,
                start_kind,
                execute: Duration::from_millis(5),
            });
        }
    }

    /// Lets time pass in ticks of a quarter of a second, and gives back what was said, with the seconds since this
    /// began.
    fn after(&mut self, seconds: f64) -> Vec<String> {
        let begin = self.now;
        let end = begin + Duration::from_secs_f64(seconds);
        let mut said = std::mem::take(&mut self.said);
        loop {
            let usage = PoolUsage { busy: self.in_flight, in_flight_peak: self.peak, ..PoolUsage::default() };
            let usage = if usage == PoolUsage::default() { vec![] } else { vec![(name(), usage)] };
            self.peak = self.in_flight;
            self.send(Event::Ticked { usage });
            let elapsed = self.now.since(begin).as_secs_f64();
            said.extend(self.said.drain(..).map(|said| format!("{elapsed}s: {said}")));
            assert_eq!(crate::invariant::violations(&self.control), []);
            if self.now >= end {
                return said;
            }
            self.now = self.now + Duration::from_millis(250);
        }
    }
}

#[test]
fn an_announced_burst_is_ready_before_it_comes_and_given_back_when_it_stays_away() {
    let mut stage = Stage::new(definition(name(), WarmPolicy::default()));
    assert_eq!(stage.after(1.0), [""; 0]);

    stage.announce("order-17", 8, 1.0, None, 10);
    let eight = format!("8 ready [{}]", ["order-17"; 8].join(" "));
    assert_eq!(stage.after(0.0), ["order-17 accepted".to_owned(), format!("0s: {eight}")]);

    stage.calls_arrive(3);
    let five = format!("0s: 5 ready [{}]", ["order-17"; 5].join(" "));
    assert_eq!(stage.after(2.0), [five]);

    // Three came at once and the others have stayed away for 8.192 s of a window of 10 s: they are not worth waiting for.
    // Three calls are still running, and three is what history expects.
    assert_eq!(stage.after(20.0), ["6.25s: 0 ready []", "8s: order-17 hit: 3 of 8"]);

    // The calls end: history holds their instances for its window and the hold, and says so.
    stage.calls_end(3);
    let said = stage.after(80.0);
    assert_eq!(said[0], "0s: 3 ready [history history history]");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].ends_with(": 0 ready []"), "{said:?}");
    let seconds: f64 = said[1].split('s').next().unwrap().parse().unwrap();
    assert!((65.0..=70.0).contains(&seconds), "{said:?}");
}

#[test]
fn a_scheduled_burst_is_prepared_the_lead_ahead_of_its_start() {
    let mut stage = Stage::new(definition(name(), WarmPolicy { floor: 1, ..WarmPolicy::default() }));
    assert_eq!(stage.after(1.0), ["0s: 1 ready [floor]"]);
    stage.announce("nine-o-clock", 4, 0.5, Some(stage.now + Duration::from_secs(30)), 5);
    // All four or none, says its sender, and is as sure of the one as of the other. That is worth it until most of the
    // window is over; 10 s after its end no call can make it late any more.
    let nine = "nine-o-clock";
    assert_eq!(
        stage.after(60.0),
        [
            "nine-o-clock accepted".to_owned(),
            format!("28s: 4 ready [floor {nine} {nine} {nine}]"),
            "34.25s: 1 ready [floor]".to_owned(),
            "45s: nine-o-clock wasted: 0 of 4".to_owned(),
        ]
    );
}

#[test]
fn a_node_prepares_its_share_of_what_is_announced_and_the_rest_when_it_takes_over() {
    let mut stage = Stage::new(definition(name(), WarmPolicy { ceiling: 64, ..WarmPolicy::default() }));
    stage.send(Event::ShareChanged(Share { owned: 2, all: 6 }));
    stage.announce("a", 12, 1.0, None, 30);
    assert_eq!(stage.after(0.0), ["a accepted", "0s: 4 ready [a a a a]"]);
    stage.send(Event::ShareChanged(Share { owned: 3, all: 6 }));
    assert_eq!(stage.after(0.0), ["0s: 6 ready [a a a a a a]"]);
    // All its calls come, and that is a notice that was kept, whoever else had a part of it.
    stage.calls_arrive(6);
    let said = stage.after(1.0);
    assert!(said.iter().all(|said| !said.contains("a a")), "{said:?}");
    stage.send(Event::ShareChanged(Share { owned: 0, all: 6 }));
    stage.announce("b", 12, 1.0, None, 5);
    let said = stage.after(0.0);
    assert!(said.contains(&"b accepted".to_owned()) && said.iter().all(|said| !said.contains("[b")), "{said:?}");
    // Another node that runs these calls says what became of it.
    assert!(stage.after(20.0).iter().all(|said| !said.starts_with("b ")));
}

#[test]
fn a_withdrawn_notice_gives_its_instances_back_at_the_tick_and_a_repeat_changes_nothing() {
    let mut stage = Stage::new(definition(name(), WarmPolicy::default()));
    stage.announce("a", 2, 1.0, None, 30);
    stage.announce("b", 1, 1.0, None, 30);
    stage.announce("b", 1, 1.0, None, 30);
    let mut said = stage.after(0.0);
    stage.announce("a", 0, 1.0, None, 30);
    stage.announce("a", 0, 1.0, None, 30);
    said.extend(stage.after(0.0));
    assert_eq!(
        said,
        [
            "a accepted",
            "b accepted",
            "b replaced",
            "0s: 3 ready [a a b]",
            "a withdrawn",
            "a withdrawn: 0 of 2",
            "a unknown_withdrawal",
            "0s: 1 ready [b]",
        ]
    );
}

#[test]
fn a_function_that_starts_fresh_each_time_is_prepared_for_the_next_calls_while_it_runs() {
    let warm = WarmPolicy { floor: 2, ceiling: 6, reuse: Reuse::Fresh, ..WarmPolicy::default() };
    let mut stage = Stage::new(definition(name(), warm));
    assert_eq!(stage.after(0.0), ["0s: 2 ready [floor floor]"]);
    stage.calls_arrive(3);
    assert_eq!(stage.after(1.0), ["0s: 3 ready [floor floor history]"]);
    // Ready and busy together stay within the ceiling.
    stage.calls_arrive(2);
    assert_eq!(stage.after(1.0), ["0s: 1 ready [floor]"]);
}

#[test]
fn a_removed_function_is_given_back_at_once_and_a_disabled_one_at_the_tick() {
    let warm = WarmPolicy { floor: 2, ..WarmPolicy::default() };
    let mut stage = Stage::new(definition(name(), warm.clone()));
    assert_eq!(stage.after(0.0), ["0s: 2 ready [floor floor]"]);
    stage.send(Event::FunctionDefined {
        definition: Arc::new(FunctionDefinition { enabled: false, ..definition(name(), warm.clone()) }),
        since: stage.now,
    });
    stage.announce("a", 1, 1.0, None, 30);
    assert_eq!(stage.after(0.0), ["a refused", "a refused: 0 of 1", "0s: 0 ready []"]);
    stage.send(Event::FunctionDefined { definition: Arc::new(definition(name(), warm)), since: stage.now });
    assert_eq!(stage.after(0.0), ["0s: 2 ready [floor floor]"]);
    stage.send(Event::FunctionRemoved(name()));
    assert_eq!(stage.after(0.0), ["forget resize", "0 ready []"]);
    assert!(stage.control.explain(&name()).is_none());
}

#[test]
fn when_memory_is_short_a_pre_trigger_goes_before_history_and_gives_back_when_its_window_ends() {
    let mut stage = Stage::new(definition(name(), WarmPolicy { floor: 2, ..WarmPolicy::default() }));
    // Room for 10 instances of 8 MiB, of which another function's history holds 7 and the floor 2.
    stage.control.config.memory_budget_bytes = 80 << 20;
    let other = FunctionName::new("other").unwrap();
    stage.send(Event::FunctionDefined {
        definition: Arc::new(definition(other.clone(), WarmPolicy::default())),
        since: stage.now,
    });
    let usage = PoolUsage { in_flight_peak: 7, ..PoolUsage::default() };
    stage.send(Event::Ticked { usage: vec![(other.clone(), usage)] });
    stage.said.clear();
    stage.announce("a", 6, 1.0, None, 5);
    assert_eq!(
        stage.after(0.0),
        ["a accepted", "0s: 4 ready [history history history history]", "0s: 6 ready [floor floor a a a a]"]
    );
    // The window ends, and history gets its instances back.
    let said = stage.after(5.0);
    assert_eq!(
        said,
        ["5s: 2 ready [floor floor]", "5s: 7 ready [history history history history history history history]"]
    );
    assert_eq!(stage.control.explain(&other).map(|function| function.wanted.ready), Some(7));
}

#[test]
fn a_schedule_holds_instances_within_its_windows() {
    let cron = "47 13 * * *".to_owned();
    let schedule = Schedule { cron, timezone: "UTC".to_owned(), duration_ms: 30_000, instances: 2 };
    let scheduled = FunctionDefinition {
        schedules: vec![schedule],
        ..definition(name(), WarmPolicy { floor: 1, ..WarmPolicy::default() })
    };
    // The stage begins at 13:46:40.
    let mut stage = Stage::new(scheduled.clone());
    assert_eq!(stage.after(19.75), ["0s: 1 ready [floor]"]);
    assert_eq!(stage.after(30.0), ["0.25s: 2 ready [floor 47 13 * * *]"]);
    assert_eq!(stage.after(1.0), ["0.25s: 1 ready [floor]"]);
    // A new definition's windows count from the next tick, and take the timer of the old ones along.
    let cron = "* * * * *".to_owned();
    let always = Schedule { cron, duration_ms: 60_000, ..scheduled.schedules[0].clone() };
    stage.send(Event::FunctionDefined {
        definition: Arc::new(FunctionDefinition { schedules: vec![always], ..scheduled }),
        since: stage.now,
    });
    assert_eq!(stage.after(100.0), ["0s: 2 ready [floor * * * * *]"]);
    assert_eq!(stage.control.windows.len(), 1);
    stage.send(Event::FunctionRemoved(name()));
    assert!(stage.control.windows.is_empty());
}

#[test]
fn it_explains_itself() {
    let mut stage = Stage::new(definition(name(), WarmPolicy { floor: 1, ..WarmPolicy::default() }));
    stage.announce("order-17", 3, 1.0, None, 10);
    stage.after(0.0);
    let explanation = stage.control.explain(&name()).unwrap();
    assert_eq!(explanation.target.ready, 3);
    assert_eq!(explanation.target.parts.len(), 2);
    assert_eq!(explanation.target.parts[0].reason.kind, WarmKind::Floor);
    assert_eq!(explanation.demand.notices[0].calls, 3.0);
    assert_eq!(explanation.instance_bytes, 8 << 20);
}
