//! How many instances to hold ready: a function's demand becomes its warm target, with the reasons for it.
//!
//! Three steps, each by itself: [`Hold`] keeps history's part from falling too soon, [`decide`] makes the target of one
//! function, [`fit`] cuts the targets of all functions to the memory budget.
//!
//! Must not: forecast, read a clock, or know what the pool does with a target.

mod fit;
mod hold;
mod rule;
mod timetable;

pub use fit::{Amount, Budget, Wish, fit};
pub use hold::Hold;

pub use rule::Rule;
pub use timetable::{Scheduled, Timetable};

use crate::types::{Demand, FunctionDefinition, TargetPart, Timestamp, WarmKind, WarmReason, WarmTarget};

/// The warm target of one function, before the budget.
///
/// Where an instance that serves a call can serve another one afterwards, the busy instances are part of what floor,
/// schedule and history ask for, and only the rest must be ready. Where it cannot, a busy instance never comes back, so
/// nothing is taken off. What notices announce is still to come and is always on top of the busy ones; together they ask
/// for no more than the definition's `pre_trigger.instances_max`.
///
/// `ready` is the **largest** of the parts, not their sum: a call that was announced is mostly one that history expects
/// too, so a sum would prepare for it twice. It is at most the ceiling less the calls in flight.
///
/// The parts are sorted by size, equal ones as floor, schedule, history, notices; the parts of notices are cumulative, oldest
/// first, so that the part that first reaches the k-th instance names who wants it. A part that asks for nothing is
/// left out.
pub fn decide(
    rule: &Rule,
    now: Timestamp,
    definition: &FunctionDefinition,
    scheduled: Option<Scheduled<'_>>,
    demand: &Demand,
) -> WarmTarget {
    let policy = &definition.warm;
    let in_use = if definition.reuses_instances() { demand.in_flight } else { 0 };
    let mut parts = Vec::with_capacity(3 + demand.notices.len());
    let mut ask = |kind: WarmKind, detail: Option<&str>, instances: u32| {
        if instances > 0 {
            let reason = WarmReason { kind, detail: detail.map(str::to_owned) };
            parts.push(TargetPart { reason, instances });
        }
    };
    ask(WarmKind::Floor, None, policy.floor.saturating_sub(in_use));
    if let Some(Scheduled { instances, cron }) = scheduled {
        ask(WarmKind::Schedule, Some(cron), instances.saturating_sub(in_use));
    }
    ask(WarmKind::History, None, whole(demand.history).saturating_sub(in_use));
    for (index, reaches) in asking(rule, now, definition, demand) {
        let notice = &demand.notices[index];
        ask(notice.kind, Some(&notice.id), reaches);
    }
    parts.sort_by_key(|part| part.instances);
    let asked = parts.last().map_or(0, |part| part.instances);
    WarmTarget { ready: asked.min(policy.ceiling.saturating_sub(demand.in_flight)), parts }
}

/// The notices for which [`decide`] asks: the place of each in `demand.notices`, and how many instances it and those before it
/// ask for together. In the order of the line.
pub fn asking(
    rule: &Rule,
    now: Timestamp,
    definition: &FunctionDefinition,
    demand: &Demand,
) -> impl Iterator<Item = (usize, u32)> {
    let (mut calls, mut covered) = (0.0, 0);
    demand.notices.iter().enumerate().filter_map(move |(index, notice)| {
        calls += notice.calls.max(0.0) * rule.share(now, notice);
        let reaches = whole(calls).min(definition.pre_trigger.instances_max);
        // A notice whose share fits into what earlier ones round up to prepares nothing more.
        (reaches > covered).then(|| {
            covered = reaches;
            (index, reaches)
        })
    })
}

/// The least whole number of instances that covers `instances`; 0 for what is negative or no number.
///
/// A millionth is forgiven, so that a sum of fractions that should be 7 and is 7.000000000000001 does not ask for 8.
fn whole(instances: f64) -> u32 {
    // The cast saturates at both ends and makes 0 of NaN.
    (instances - 1e-6).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, Criteria, FunctionKind, Notice, Reuse, Sha256, WarmPolicy, YIELD_STEPS};

    fn notice(id: &str, calls: f64) -> Notice {
        let yields = [1.0; YIELD_STEPS];
        Notice { kind: WarmKind::PreTrigger, id: id.to_owned(), calls, yields, expires_at: Timestamp::from_millis(1) }
    }

    fn policy(floor: u32, ceiling: u32) -> WarmPolicy {
        WarmPolicy { floor, ceiling, ..WarmPolicy::default() }
    }

    fn decide(policy: &WarmPolicy, reuses_instances: bool, demand: &Demand) -> WarmTarget {
        decide_for(&definition(policy, reuses_instances), None, demand)
    }

    fn definition(policy: &WarmPolicy, reuses_instances: bool) -> FunctionDefinition {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let reuse = if reuses_instances { Reuse::Reuse } else { Reuse::Fresh };
        FunctionDefinition {
            warm: WarmPolicy { reuse, ..policy.clone() },
            ..FunctionDefinition::new("f".parse().unwrap(), "1", artifact, FunctionKind::Component)
        }
    }

    fn decide_for(definition: &FunctionDefinition, scheduled: Option<Scheduled<'_>>, demand: &Demand) -> WarmTarget {
        super::decide(&Rule::new(&Default::default()), Timestamp::from_millis(0), definition, scheduled, demand)
    }

    type Part<'a> = (WarmKind, Option<&'a str>, u32);

    fn shape(target: &WarmTarget) -> (u32, Vec<Part<'_>>) {
        let parts = target.parts.iter();
        (target.ready, parts.map(|part| (part.reason.kind, part.reason.detail.as_deref(), part.instances)).collect())
    }

    #[test]
    fn nobody_asks_for_nothing() {
        assert_eq!(decide(&policy(0, 64), true, &Demand::default()), WarmTarget::default());
    }

    #[test]
    fn the_largest_part_is_the_target_and_the_parts_are_sorted() {
        let demand = Demand {
            history: 5.0,
            notices: vec![notice("a", 1.5), notice("b", 1.5)],
            in_flight: 0,
            ..Demand::default()
        };
        assert_eq!(
            shape(&decide(&policy(2, 64), true, &demand)),
            (
                5,
                vec![
                    (WarmKind::Floor, None, 2),
                    (WarmKind::PreTrigger, Some("a"), 2),
                    (WarmKind::PreTrigger, Some("b"), 3),
                    (WarmKind::History, None, 5),
                ]
            )
        );
    }

    #[test]
    fn the_reason_of_each_instance_is_the_first_that_reaches_it() {
        let demand = Demand {
            history: 0.0,
            notices: vec![notice("a", 2.0), notice("b", 3.0)],
            in_flight: 0,
            ..Demand::default()
        };
        let target = decide(&policy(1, 64), true, &demand);
        let reasons: Vec<_> =
            (1..=6).map(|nth| target.reason_for(nth).map(|r| (r.kind, r.detail.as_deref()))).collect();
        let (a, b) = (Some((WarmKind::PreTrigger, Some("a"))), Some((WarmKind::PreTrigger, Some("b"))));
        assert_eq!(reasons, [Some((WarmKind::Floor, None)), a, b, b, b, None]);
    }

    #[test]
    fn busy_instances_count_for_floor_and_history_only_where_they_come_back() {
        let demand = Demand { history: 4.0, notices: vec![notice("a", 2.0)], in_flight: 3, ..Demand::default() };
        assert_eq!(
            shape(&decide(&policy(2, 64), true, &demand)),
            (2, vec![(WarmKind::History, None, 1), (WarmKind::PreTrigger, Some("a"), 2)])
        );
        assert_eq!(
            shape(&decide(&policy(2, 64), false, &demand)),
            (4, vec![(WarmKind::Floor, None, 2), (WarmKind::PreTrigger, Some("a"), 2), (WarmKind::History, None, 4)])
        );
    }

    #[test]
    fn a_schedule_counts_busy_instances_and_notices_have_a_bound_of_their_own() {
        let demand = Demand { notices: vec![notice("a", 2.0), notice("b", 9.0)], in_flight: 1, ..Demand::default() };
        let definition = FunctionDefinition {
            pre_trigger: Criteria { instances_max: 3, ..Criteria::default() },
            ..definition(&policy(0, 64), true)
        };
        let scheduled = Some(Scheduled { instances: 5, cron: "0 9 * * *" });
        let a_and_b = [(WarmKind::PreTrigger, Some("a"), 2), (WarmKind::PreTrigger, Some("b"), 3)];
        assert_eq!(shape(&decide_for(&definition, None, &demand)), (3, a_and_b.to_vec()));
        let parts = [a_and_b.as_slice(), &[(WarmKind::Schedule, Some("0 9 * * *"), 4)]].concat();
        assert_eq!(shape(&decide_for(&definition, scheduled, &demand)), (4, parts));
    }

    #[test]
    fn the_ceiling_counts_busy_instances_whether_they_come_back_or_not() {
        let demand = Demand { history: 0.0, notices: vec![notice("a", 100.0)], in_flight: 3, ..Demand::default() };
        for reuses_instances in [true, false] {
            let target = decide(&policy(0, 10), reuses_instances, &demand);
            assert_eq!((target.ready, target.parts[0].instances), (7, 100));
        }
        assert_eq!(decide(&policy(0, 2), true, &demand).ready, 0);
    }

    #[test]
    fn fractions_round_up_but_rounding_errors_do_not() {
        let rows =
            [(0.0, 0), (1e-9, 0), (0.01, 1), (1.0, 1), (7.000000000000001, 7), (7.1, 8), (-3.0, 0), (f64::NAN, 0)];
        for (calls, instances) in rows {
            assert_eq!(whole(calls), instances, "{calls}");
        }
        assert_eq!(whole(f64::INFINITY), u32::MAX);
        let demand =
            Demand { notices: vec![notice("a", 0.2), notice("b", 0.3), notice("c", 0.6)], ..Demand::default() };
        assert_eq!(
            shape(&decide(&policy(0, 64), true, &demand)),
            (2, vec![(WarmKind::PreTrigger, Some("a"), 1), (WarmKind::PreTrigger, Some("c"), 2)])
        );
    }
}
