//! Whether a pre-trigger for a known function counts: every reason why it may not, in a fixed order, and then its place
//! among the function's notices.
//!
//! Must not: say what is likely to come of it.

use std::time::Duration;

use super::Function;
use super::Share;
use super::notices::{Announcement, Ended, Entry, Held, NOTICES_MAX};
use super::sources::{Place, Sources, share_of};
use super::verdict::{Criterion, Verdict};
use crate::config::ForecastConfig;
use crate::types::{PreTrigger, Timestamp};

/// The longest id, source or tenant of a pre-trigger that is held, in bytes (inclusive).
const ID_BYTES_MAX: usize = 256;

/// Where a pre-trigger is judged.
pub(super) struct Case<'a> {
    pub(super) now: Timestamp,
    pub(super) config: &'a ForecastConfig,
    pub(super) share: Share,
    pub(super) function: &'a mut Function,
    pub(super) sources: &'a mut Sources,
    /// Takes notices that end by this.
    pub(super) ended: &'a mut Vec<Ended>,
}

/// Judges, and holds what counts.
pub(super) fn judge(mut case: Case<'_>, pre_trigger: &PreTrigger) -> Verdict {
    case.judge(pre_trigger).unwrap_or_else(Verdict::Refused)
}

impl Case<'_> {
    fn judge(&mut self, pre_trigger: &PreTrigger) -> Result<Verdict, Criterion> {
        let PreTrigger { id, source, tenant, expected_invocations, confidence, .. } = pre_trigger;
        let criteria = &self.function.definition.pre_trigger;
        ensure(self.function.definition.enabled, Criterion::FunctionDisabled)?;
        ensure((1..=ID_BYTES_MAX).contains(&id.len()), Criterion::IdLength)?;
        let names = [Some(source), tenant.as_ref()];
        ensure(names.into_iter().flatten().all(|name| name.len() <= ID_BYTES_MAX), Criterion::SourceLength)?;
        ensure(criteria.sources.is_empty() || criteria.sources.contains(source), Criterion::SourceNotAllowed)?;
        if *expected_invocations == 0 {
            return Ok(self.withdraw(pre_trigger));
        }
        // No number is below nothing, and above nothing.
        ensure(*confidence >= criteria.confidence_min, Criterion::ConfidenceTooLow)?;
        let Some(announcement) = self.announcement(pre_trigger)? else { return Ok(Verdict::Late) };
        let source = self.sources.meet(tenant.as_deref(), source).ok_or(Criterion::TooManySources)?;
        let pair = self.sources.meet_pair(source, self.function.serial).ok_or(Criterion::TooManySources)?;
        let mut held = Held::new(self.now, &announcement, pair, self.sources);
        let known = self.function.notices.find(source, id).map(Held::committed);
        if known.is_none() {
            self.make_room(source)?;
        }
        let wanted = held.wants(self.now, self.function.definition.warm.ceiling, self.sources.at_once(pair));
        held.limit(wanted, self.sources.affordable(source, known.unwrap_or(0), wanted.each_micros)?);
        if known.is_some() {
            self.function.notices.change(held, source, self.sources);
            return Ok(Verdict::Replaced);
        }
        let trust = self.sources.trust(source, pair, *confidence as f32);
        let Function { definition, notices, in_flight, .. } = &mut *self.function;
        let criteria = &definition.pre_trigger;
        let entry = Entry { source, pair, trust, in_flight: *in_flight, criteria, held };
        let acts = notices.hold(self.now, entry, self.sources);
        Ok(if acts { Verdict::Accepted } else { Verdict::Pending })
    }

    fn withdraw(&mut self, pre_trigger: &PreTrigger) -> Verdict {
        let PreTrigger { id, source, tenant, .. } = pre_trigger;
        let source = self.sources.find(tenant.as_deref(), source);
        let ended = source.and_then(|source| self.function.notices.withdraw(self.now, source, id, self.sources));
        let verdict = if ended.is_some() { Verdict::Withdrawn } else { Verdict::UnknownWithdrawal };
        self.ended.extend(ended);
        verdict
    }

    /// The pre-trigger in our time; `None` where its life has ended.
    fn announcement<'p>(&self, pre_trigger: &'p PreTrigger) -> Result<Option<Announcement<'p>>, Criterion> {
        let PreTrigger { id, expected_invocations, confidence, not_before, window_ms, emitted_at, .. } = pre_trigger;
        let (now, config) = (self.now, self.config);
        let window = Duration::from_millis(*window_ms);
        ensure(window <= config.window_max, Criterion::WindowTooLong)?;
        let horizon = now + config.window_max;
        let starts_at = not_before.unwrap_or_else(|| (*emitted_at).min(now));
        ensure(starts_at < horizon, Criterion::TooFarAhead)?;
        let expires_at = (starts_at + window).min(horizon);
        Ok((now < expires_at).then(|| Announcement {
            id,
            whole: *expected_invocations,
            expected: self.share.of(*expected_invocations),
            confidence: *confidence,
            starts_at,
            // Only an announced start gets a lead: without one the calls may come at any moment.
            live_from: not_before.map_or(starts_at, |at| at - config.lead),
            expires_at,
            lead: config.lead,
            called_before: self.function.last_arrival.is_some_and(|at| starts_at <= at),
        }))
    }

    /// Sees to it that one more notice of the source has a place. A spent notice is kept only to know its id again; a
    /// new one is worth more.
    fn make_room(&mut self, source: Place) -> Result<(), Criterion> {
        let share_max = self.config.notices_source_share_max;
        let lane_max = share_of(NOTICES_MAX as u32, share_max) as usize;
        let is_over = |case: &Self| {
            let full = case.function.notices.len_of(source) >= lane_max;
            if full { Err(Criterion::SourceOverShare) } else { case.sources.has_place(source) }
        };
        if let Err(criterion) = is_over(self) {
            return ensure(self.forget_spent(Some(source)), criterion);
        }
        let full = self.function.notices.len() >= NOTICES_MAX
            || self.sources.notices() >= self.config.notices_max.get() as usize;
        ensure(!full || self.forget_spent(None), Criterion::TooManyNotices)
    }

    fn forget_spent(&mut self, source: Option<Place>) -> bool {
        let Some(ended) = self.function.notices.forget_spent(source, self.sources) else { return false };
        self.ended.push(ended);
        true
    }
}

fn ensure(holds: bool, criterion: Criterion) -> Result<(), Criterion> {
    if holds { Ok(()) } else { Err(criterion) }
}
