//! What a schema registry that does not answer is asked, and when; and what is said of it.
//!
//! The rule: a schema that could not be had is asked for again after a wait that doubles from half a second to ten. Where there was no
//! answer at all, no other schema is asked for until then either: they would all wait for the same. An answer that is a refusal or a
//! fault of the registry's may be of that one schema, and holds up no other. Must not: ask, or know a clock; the thread in `schemas` does.

use std::time::{Duration, Instant};

use super::asking::Fault;
use crate::codec::SchemaKey;
use crate::types::{Condition, ConditionKind, Shown};

/// Waits between attempts: the one, doubled each time, up to the other.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A schema that nobody has asked for since its wait was over for so long is nobody's trouble any more: messages that wait for one
/// ask every two seconds.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// How often a schema that cannot be had is spoken of in the log.
const SAID_EVERY: Duration = Duration::from_secs(600);

/// One schema that could not be had.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) since: Instant,
    pub(super) attempts: u64,
    /// It is not asked for again before.
    pub(super) until: Instant,
    said_at: Instant,
    backoff: Duration,
}

impl Failure {
    /// One more attempt failed. The answer says whether that is to be said in the log: the first time, and every ten minutes.
    pub(super) fn after(before: Option<Self>, fault: Fault, now: Instant) -> (Self, bool) {
        let Some(before) = before else {
            let until = now + BACKOFF_MIN;
            return (Self { fault, since: now, attempts: 1, until, said_at: now, backoff: BACKOFF_MIN }, true);
        };
        let is_due = now.duration_since(before.said_at) >= SAID_EVERY;
        let said_at = if is_due { now } else { before.said_at };
        let backoff = (before.backoff * 2).min(BACKOFF_MAX);
        (Self { fault, attempts: before.attempts + 1, until: now + backoff, backoff, said_at, ..before }, is_due)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.until) >= FORGOTTEN_AFTER
    }
}

/// A registry that gave no answer at all.
#[derive(Debug)]
pub(super) struct Away {
    /// Nothing is asked before.
    pub(super) until: Instant,
    /// The schema whose question is under way, by which it is seen whether the registry is back.
    pub(super) probe: Option<SchemaKey>,
    /// In words.
    pub(super) cause: String,
}

impl Away {
    /// Whether a question for `key` may go out; it is then the one by which the registry is tried.
    pub(super) fn lets_out(&mut self, key: SchemaKey, now: Instant) -> bool {
        let may = self.probe.is_none() && now >= self.until;
        if may {
            self.probe = Some(key);
        }
        may
    }
}

/// What is to be said of the schemas that cannot be had: one condition for the registry, by the one that has failed for longest.
pub(super) fn condition<'f>(
    failures: impl Iterator<Item = (SchemaKey, &'f Failure)>,
    registry: &str,
    now: Instant,
) -> Option<Condition> {
    let (mut count, mut oldest) = (0_usize, None::<(SchemaKey, &Failure)>);
    for (key, failure) in failures.filter(|(_, failure)| !failure.is_forgotten(now)) {
        count += 1;
        if oldest.is_none_or(|(_, other)| failure.since < other.since) {
            oldest = Some((key, failure));
        }
    }
    let (key, Failure { fault, since, attempts, .. }) = oldest?;
    let lasts = now.duration_since(*since).as_secs();
    let more = if count > 1 { format!(", and {} more schemas", count - 1) } else { String::new() };
    let cause = Shown::of(&fault.cause).within(400).to_string();
    let detail = format!(
        "{key}{more} cannot be had for {lasts} s, after {attempts} attempts: {cause}; {}; messages that need it wait, with those \
         behind them in their partitions",
        fault.advice()
    );
    Some(Condition { kind: ConditionKind::SchemaRegistry, subject: Shown::of(registry).to_string(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: Option<u16>) -> Fault {
        Fault { status, cause: "some\nwords".to_owned() }
    }

    #[test]
    fn a_schema_is_asked_for_less_and_less_often_and_spoken_of_every_ten_minutes() {
        let start = Instant::now();
        let (mut failure, said) = Failure::after(None, fault(Some(500)), start);
        assert!(said);
        let mut waits = vec![(failure.until - start).as_millis()];
        for _ in 0..6 {
            let at = failure.until;
            let (next, said) = Failure::after(Some(failure), fault(Some(500)), at);
            assert!(!said);
            waits.push((next.until - at).as_millis());
            failure = next;
        }
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!((failure.attempts, failure.since), (7, start));
        assert!(Failure::after(Some(failure), fault(None), start + SAID_EVERY).1);
    }

    #[test]
    fn a_registry_that_is_away_is_tried_by_one_question_at_a_time() {
        let now = Instant::now();
        let (one, two) = (SchemaKey::Id(1), SchemaKey::Id(2));
        let mut away = Away { until: now + BACKOFF_MIN, probe: None, cause: String::new() };
        assert!(!away.lets_out(one, now));
        assert!(away.lets_out(two, now + BACKOFF_MIN));
        assert!(!away.lets_out(one, now + BACKOFF_MIN) && !away.lets_out(two, now + BACKOFF_MAX));
    }

    #[test]
    fn a_condition_names_the_registry_the_oldest_schema_the_reason_and_what_helps() {
        let start = Instant::now();
        let (first, _) = Failure::after(None, fault(Some(401)), start);
        let (second, _) = Failure::after(None, fault(None), start + BACKOFF_MIN);
        let failures = [(SchemaKey::Id(6), &second), (SchemaKey::Id(5), &first)];
        let at = start + Duration::from_secs(7);
        let said = condition(failures.into_iter(), "https://registry:8081", at).unwrap();
        assert_eq!((said.kind, said.subject.as_str()), (ConditionKind::SchemaRegistry, "https://registry:8081"));
        let begins = "schema id 5, and 1 more schemas cannot be had for 7 s, after 1 attempts: some\\nwords; check schema-registry.user";
        assert!(said.detail.starts_with(begins), "{}", said.detail);
        assert_eq!(condition(failures.into_iter(), "", start + BACKOFF_MIN * 2 + FORGOTTEN_AFTER), None);
        assert_eq!(condition(std::iter::empty(), "", start), None);
    }
}
