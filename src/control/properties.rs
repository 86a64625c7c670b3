//! What holds for any sequence of events: the invariants, and that the work list forgets nobody.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};

use proptest::prelude::*;

use super::story::definition;
use super::*;
use crate::invariant::{targets_within_budget, violations};
use crate::types::{Criteria, Reuse, WarmPolicy};

const FUNCTIONS: usize = 5;
const BUDGET_BYTES: u64 = 100;

#[derive(Clone, Debug)]
enum Step {
    Define {
        function: usize,
        floor: u32,
        ceiling: u32,
        fresh: bool,
        enabled: bool,
        notices_min: u32,
    },
    Remove {
        function: usize,
    },
    Announce {
        function: usize,
        source: u8,
        id: u8,
        calls: u32,
        confidence: f64,
        ahead_ms: Option<i64>,
        window_ms: u64,
        skew_ms: i64,
    },
    Arrive {
        function: usize,
    },
    End {
        function: usize,
    },
    Tick {
        after_ms: u64,
        bytes: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let function = 0..FUNCTIONS;
    let policy = (function.clone(), 0_u32..4, 4_u32..12, any::<bool>(), prop::bool::weighted(0.9), 1_u32..3);
    let ahead = prop::option::of(-2_000_i64..20_000);
    let notice =
        (function.clone(), 0_u8..3, 0_u8..12, 0_u32..9, 0.0_f64..=1.0, ahead, 0_u64..15_000, -5_000_i64..5_000);
    prop_oneof![
        1 => policy.prop_map(|(function, floor, ceiling, fresh, enabled, notices_min)| {
            Step::Define { function, floor, ceiling, fresh, enabled, notices_min }
        }),
        1 => function.clone().prop_map(|function| Step::Remove { function }),
        6 => notice.prop_map(|(function, source, id, calls, confidence, ahead_ms, window_ms, skew_ms)| {
            Step::Announce { function, source, id, calls, confidence, ahead_ms, window_ms, skew_ms }
        }),
        6 => function.clone().prop_map(|function| Step::Arrive { function }),
        5 => function.prop_map(|function| Step::End { function }),
        6 => (0_u64..4_000, 0_u64..30).prop_map(|(after_ms, bytes)| Step::Tick { after_ms, bytes }),
    ]
}

fn name(function: usize) -> FunctionName {
    FunctionName::new(&format!("f{function}")).unwrap()
}

/// Calls in flight as the pool would know them, and the targets as the executor was told them.
#[derive(Default)]
struct World {
    now: Timestamp,
    calls: BTreeMap<FunctionName, (u32, u32)>,
    targets: BTreeMap<FunctionName, u32>,
}

impl World {
    fn event(&mut self, step: Step) -> Event {
        match step {
            Step::Define { function, floor, ceiling, fresh, enabled, notices_min } => {
                let reuse = if fresh { Reuse::Fresh } else { Reuse::Reuse };
                let mut definition =
                    definition(name(function), WarmPolicy { floor, ceiling, reuse, ..WarmPolicy::default() });
                definition.pre_trigger = Criteria { notices_min, within_ms: 5_000, ..Criteria::default() };
                definition.enabled = enabled;
                // A definition that comes anew may belong to another tenant, or to none.
                definition.tenant = (floor > 0).then(|| format!("t{}", ceiling % 2));
                Event::FunctionDefined { definition: Arc::new(definition), since: self.now }
            }
            Step::Remove { function } => Event::FunctionRemoved(name(function)),
            Step::Announce { function, source, id, calls, confidence, ahead_ms, window_ms, skew_ms } => {
                let shifted = |ms: i64| Timestamp::from_micros(self.now.as_micros() + ms * 1_000);
                Event::PreTriggerReceived(PreTrigger {
                    id: id.to_string(),
                    source: source.to_string(),
                    function: name(function),
                    tenant: None,
                    expected_invocations: calls,
                    confidence,
                    not_before: ahead_ms.map(shifted),
                    window_ms,
                    emitted_at: shifted(skew_ms),
                    attributes: Default::default(),
                })
            }
            Step::Arrive { function } => {
                let (calls, peak) = self.calls.entry(name(function)).or_default();
                *calls += 1;
                *peak = (*peak).max(*calls);
                Event::InvocationArrived { function: name(function), evidence: Evidence::default() }
            }
            Step::End { function } => {
                let (calls, _) = self.calls.entry(name(function)).or_default();
                *calls = calls.saturating_sub(1);
                let function = name(function);
                Event::InvocationEnded { function, status: Status::Ok, start_kind: None, execute: Duration::ZERO }
            }
            Step::Tick { after_ms, bytes } => {
                self.now = self.now + Duration::from_millis(after_ms);
                let usage = self.calls.iter_mut().map(|(function, (busy, peak))| {
                    let in_flight_peak = std::mem::replace(peak, *busy);
                    (
                        function.clone(),
                        PoolUsage { busy: *busy, in_flight_peak, instance_bytes: bytes, ..PoolUsage::default() },
                    )
                });
                let usage = usage.filter(|(_, usage)| usage.in_flight_peak > 0).collect();
                Event::Ticked { usage }
            }
        }
    }
}

/// With no hold, the demand that was decided on must be the demand of this moment, for every function: had the work
/// list passed one over, they would differ.
fn nobody_is_forgotten(control: &Control, now: Timestamp) -> Result<(), TestCaseError> {
    for (_, function, entry) in control.functions.rows() {
        let mut demand = control.forecaster.demand(now, function);
        // What the outlook is worth is decided on top, and depends on what is held.
        demand.history = entry.demand.history.max(demand.history);
        prop_assert_eq!(&entry.demand, &demand, "{}", function);
    }
    let mut wanted = Wanted::default();
    for (_, _, entry) in control.functions.rows() {
        wanted.change(Wanted::default(), entry.wants());
    }
    prop_assert_eq!(control.wanted, wanted);
    if !wanted.is_above(control.budget()) && !control.tenants.any_over() {
        let mut rows = control.functions.rows();
        prop_assert!(
            rows.all(|(_, _, entry)| entry.target.ready == entry.wanted.ready),
            "there is room, and one is cut short"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_invariants_hold_after_every_tick_and_the_executor_is_told_everything(
        steps in prop::collection::vec(step(), 1..120),
        hold in any::<bool>(),
        tenant_memory_budget_bytes in prop::sample::select(vec![0, 20, 60]),
        (instances_max, tenant_instances_max) in prop::sample::select(vec![(0, 0), (6, 0), (8, 3), (0, 5)]),
    ) {
        let forecast = ForecastConfig {
            functions_max: NonZeroU32::new(4).unwrap(),
            notices_max: NonZeroU32::new(20).unwrap(),
            history_window: Duration::from_secs(6),
            window_max: Duration::from_secs(14),
            ..ForecastConfig::default()
        };
        let target = TargetConfig {
            memory_budget_bytes: BUDGET_BYTES,
            tenant_memory_budget_bytes,
            instances_max,
            tenant_instances_max,
            instance_bytes_assumed: NonZeroU64::new(10).unwrap(),
            shrink_after: if hold { Duration::from_secs(3) } else { Duration::ZERO },
            ..TargetConfig::default()
        };
        let mut control = Control::new(forecast, &ChainsConfig::default(), target, Model::shipped());
        let mut world = World::default();
        let mut actions = Vec::new();
        for step in steps {
            let event = world.event(step);
            let ticked = matches!(event, Event::Ticked { .. });
            control.handle(world.now, event, &mut actions);
            for action in actions.drain(..) {
                if let Action::SetTarget { function, target } = action {
                    world.targets.insert(function, target.ready);
                }
            }
            prop_assert!(control.forecaster.notices_held() <= 20);
            let told: BTreeMap<_, _> = world.targets.iter().filter(|(_, ready)| **ready > 0).collect();
            let set: BTreeMap<_, _> =
                control.functions.rows().map(|(_, f, entry)| (f, &entry.target.ready)).filter(|(_, ready)| **ready > 0).collect();
            prop_assert_eq!(told, set);
            // The budget holds between ticks as well.
            prop_assert_eq!(targets_within_budget(control.explanations(), control.budget()), Ok(()));
            if ticked {
                prop_assert_eq!(violations(&control), vec![]);
                if !hold {
                    nobody_is_forgotten(&control, world.now)?;
                }
            }
        }
    }
}
