//! The outcomes of pre-triggers, as they are told.
//!
//! Must not: decide on one; `judge` and `notices` do.

use super::notices::Ended;
use super::sources::Sources;
use super::verdict::Verdict;
use crate::types::{FunctionName, OutcomeKind, PreTrigger, PreTriggerOutcome, Timestamp};

/// The end of a pre-trigger that is not held; `None` where it is, and for a message that withdraws.
pub(super) fn at_once(now: Timestamp, pre_trigger: &PreTrigger, verdict: Verdict) -> Option<PreTriggerOutcome> {
    let (kind, criterion) = match verdict {
        Verdict::Refused(criterion) => (OutcomeKind::Refused, Some(criterion.as_str().into())),
        Verdict::Late => (OutcomeKind::Late, None),
        _ => return None,
    };
    let PreTrigger { id, source, tenant, function, expected_invocations, .. } = pre_trigger.clone();
    Some(PreTriggerOutcome {
        pre_trigger_id: id,
        source,
        tenant,
        function,
        kind,
        criterion,
        announced: expected_invocations,
        arrived: 0,
        first_call_lag_us: None,
        ended_at: now,
        node: String::new(),
    })
}

/// Gives back what notices that are over held, and says what became of them.
pub(super) fn settle(
    now: Timestamp,
    function: &FunctionName,
    ended: Vec<Ended>,
    sources: &mut Sources,
    outcomes: &mut Vec<PreTriggerOutcome>,
) {
    for Ended { source, held, kind } in ended {
        sources.commit(source, held.committed(), 0);
        if !held.is_ours() {
            // Whose it was says what became of it.
            sources.release(source);
            continue;
        }
        let (name, tenant) = sources.names(source);
        outcomes.push(PreTriggerOutcome {
            source: name.to_owned(),
            tenant: tenant.map(str::to_owned),
            function: function.clone(),
            kind,
            criterion: None,
            announced: held.announced,
            arrived: held.came,
            first_call_lag_us: held.first_call_lag_us(),
            ended_at: now,
            node: String::new(),
            pre_trigger_id: held.id.into(),
        });
        sources.release(source);
    }
}
