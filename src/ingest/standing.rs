//! Partitions that stand, because a record of theirs cannot be read: when each is tried again, when its batch is passed over,
//! and what is said of it.
//!
//! The rule: the partition is paused, and tried again after a wait that doubles from one second to thirty. Where the
//! configuration names a time, a batch that is still unreadable after it is passed over, as a dead letter that names its
//! offsets; otherwise it waits until somebody acts. A batch that unpacks to more than is taken is passed over at once: nobody
//! else's calls are in it, and waiting would help its sender to stop the partition. Must not: pause, seek, or read; the poll thread does.
//!
//! librdkafka goes on behind some batches that it cannot read (a checksum that is wrong, a format that it does not know), and
//! the calls of such a batch would be lost without a word. Behind a checksum that is wrong it even loses its place: it takes
//! bytes of a payload for the next offset, and begins anew where that offset is not there (librdkafka 2.12.1,
//! `rd_kafka_msgset_reader_v2` skips to a length as if the length were a place). So whatever comes of a partition that stands
//! is dropped, records and errors, and the partition is read again from where it stands.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::kafka::is_of_a_batch;
use crate::kafka::queue::PartitionError;
use crate::types::{Condition, ConditionKind};

/// Waits between attempts: the one, doubled each time, up to the other.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A partition that is tried, and of which neither a record nor an error has come for so long, has nothing unreadable any more:
/// librdkafka tries, and reports, every half second.
const QUIET: Duration = Duration::from_secs(10);
/// How long somebody may look where a batch ends; three times what a search is given.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// How often it is said again in the log.
const SAID_EVERY: Duration = Duration::from_secs(600);
/// Partitions that are named as conditions; more are counted in the last one.
const CONDITIONS_MAX: usize = 32;

/// A batch that is to be passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) partition: i32,
    /// An offset in the batch.
    pub(super) offset: i64,
    pub(super) reason: String,
    pub(super) waited: Duration,
    /// Whether it unpacks to more than is taken.
    pub(super) is_oversized: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Paused until then.
    Waits(Instant),
    /// Read again since then.
    Tries(Instant),
    /// Paused, while somebody looks where its batch ends; until then at most, whatever became of them.
    Looks(Instant),
}

struct Stand {
    error: PartitionError,
    since: Instant,
    said_at: Instant,
    backoff: Duration,
    failures: u64,
    step: Step,
    /// A look for its end that found none is not repeated before.
    look_at: Instant,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Standing {
    partitions: BTreeMap<i32, Stand>,
    /// Counts up with every change of what is to be said.
    changes: u64,
}

impl Standing {
    /// A partition was not read. True where that is to be said in the log: the first time, and every ten minutes.
    pub(super) fn failed(&mut self, now: Instant, error: PartitionError) -> bool {
        self.changes += 1;
        let stand = self.partitions.get_mut(&error.partition);
        if stand
            .as_ref()
            .is_some_and(|stand| stand.error.offset != error.offset && !matches!(stand.step, Step::Tries(_)))
        {
            // librdkafka went on, and met something else.
            return false;
        }
        let Some(stand) = stand.filter(|stand| stand.error.offset == error.offset) else {
            let step = Step::Waits(now + BACKOFF_MIN);
            let stand =
                Stand { since: now, said_at: now, backoff: BACKOFF_MIN, failures: 1, step, look_at: now, error };
            self.partitions.insert(stand.error.partition, stand);
            return true;
        };
        stand.failures += 1;
        // Behind a batch that was passed over lies another one.
        let is_first = stand.failures == 1;
        if matches!(stand.step, Step::Tries(_)) {
            stand.backoff = (stand.backoff * 2).min(BACKOFF_MAX);
            stand.step = Step::Waits(now + stand.backoff);
        }
        stand.error = error;
        let is_due = is_first || now.duration_since(stand.said_at) >= SAID_EVERY;
        if is_due {
            stand.said_at = now;
        }
        is_due
    }

    /// Whether the partition stands, or is being tried.
    pub(super) fn has(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Whether the partition should be paused.
    pub(super) fn pauses(&self, partition: i32, now: Instant) -> bool {
        self.partitions.get(&partition).is_some_and(|stand| match stand.step {
            Step::Waits(until) | Step::Looks(until) => now < until,
            Step::Tries(_) => false,
        })
    }

    /// Whether the record at `offset` is to be dropped, because the partition will be read again from where it stands. A
    /// record from before that place says that librdkafka has begun anew: the partition is moved back once more.
    pub(super) fn drops(&mut self, partition: i32, offset: i64, now: Instant) -> bool {
        let Some(stand) = self.partitions.get_mut(&partition) else { return false };
        if matches!(stand.step, Step::Tries(_)) && offset < stand.error.offset {
            stand.step = Step::Waits(now);
        }
        !matches!(stand.step, Step::Tries(_))
    }

    /// Partitions whose wait is over.
    pub(super) fn due(&self, now: Instant) -> Vec<i32> {
        let is_over = |stand: &Stand| matches!(stand.step, Step::Waits(until) | Step::Looks(until) if now >= until);
        self.partitions.iter().filter(|(_, stand)| is_over(stand)).map(|(&partition, _)| partition).collect()
    }

    /// The partition is read again: from where, where it stands.
    pub(super) fn resumed(&mut self, partition: i32, now: Instant) -> Option<i64> {
        let stand = self.partitions.get_mut(&partition)?;
        if let Step::Waits(until) | Step::Looks(until) = stand.step
            && now >= until
        {
            stand.step = Step::Tries(now);
        }
        Some(stand.error.offset).filter(|_| matches!(stand.step, Step::Tries(_)))
    }

    /// The partition could not be read again.
    pub(super) fn wait_again(&mut self, partition: i32, now: Instant) {
        if let Some(stand) = self.partitions.get_mut(&partition) {
            stand.step = Step::Waits(now + stand.backoff);
        }
    }

    /// A record came: the partition goes on. True where it stood.
    pub(super) fn goes_on(&mut self, partition: i32) -> bool {
        self.forget(partition)
    }

    /// The partition is not this node's any more, or is read from elsewhere. True where it stood.
    pub(super) fn forget(&mut self, partition: i32) -> bool {
        let stood = self.partitions.remove(&partition).is_some();
        self.changes += u64::from(stood);
        stood
    }

    /// Partitions of which neither a record nor an error has come since they were tried: they go on.
    pub(super) fn settled(&mut self, now: Instant) -> Vec<i32> {
        let is_quiet = |stand: &Stand| matches!(stand.step, Step::Tries(at) if now.duration_since(at) >= QUIET);
        // A right that is missing is reported once, however often it is asked for.
        let settled = self.partitions.iter().filter(|(_, stand)| is_quiet(stand) && !is_of_rights(stand.error.code));
        let settled: Vec<i32> = settled.map(|(&partition, _)| partition).collect();
        for &partition in &settled {
            self.forget(partition);
        }
        settled
    }

    /// A batch that unpacks to more than is taken, or whose time is over, where `after` is not zero: somebody looks where it ends, until [`found`](Self::found).
    pub(super) fn take_due(&mut self, now: Instant, after: Duration) -> Option<Unreadable> {
        let is_due = |stand: &Stand| {
            // Once may have been a broker's bad moment; what is too large stays so.
            let is_over = !after.is_zero() && now.duration_since(stand.since) >= after && stand.failures > 1;
            let is_waiting = matches!(stand.step, Step::Waits(_)) && stand.failures > 0;
            let may_be_passed = is_of_a_batch(stand.error.code) && stand.error.offset >= 0;
            is_waiting && now >= stand.look_at && may_be_passed && (is_over || stand.error.is_oversized)
        };
        let (&partition, stand) = self.partitions.iter_mut().find(|(_, stand)| is_due(stand))?;
        stand.step = Step::Looks(now + LOOK_MAX);
        Some(Unreadable {
            partition,
            offset: stand.error.offset,
            reason: stand.error.reason.clone(),
            waited: now.duration_since(stand.since),
            is_oversized: stand.error.is_oversized,
        })
    }

    /// The batch ends before `end`, or was not found to end. True where the partition still stands there, and goes on from `end`.
    pub(super) fn found(&mut self, now: Instant, partition: i32, offset: i64, end: Option<i64>) -> bool {
        let Some(stand) = self.partitions.get_mut(&partition) else { return false };
        if !matches!(stand.step, Step::Looks(_)) || stand.error.offset != offset {
            return false;
        }
        let Some(end) = end else {
            stand.look_at = now + stand.backoff;
            stand.step = Step::Waits(stand.look_at);
            return false;
        };
        stand.error.offset = end;
        (stand.since, stand.failures, stand.backoff) = (now, 0, BACKOFF_MIN);
        stand.step = Step::Waits(now);
        self.changes += 1;
        true
    }

    /// How many stand.
    pub(super) fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Changes with everything that [`conditions`](Self::conditions) would say otherwise, but for the time that has passed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// What is to be said of them.
    pub(super) fn conditions(&self, now: Instant, topic: &str, after: Duration) -> Vec<Condition> {
        let mut conditions: Vec<Condition> = self
            .partitions
            .iter()
            .take(CONDITIONS_MAX)
            .map(|(partition, stand)| Condition {
                kind: ConditionKind::PartitionStands,
                subject: format!("{topic}/{partition}"),
                detail: stand.detail(now, after),
            })
            .collect();
        let more = self.partitions.len().saturating_sub(CONDITIONS_MAX);
        if more > 0
            && let Some(last) = conditions.last_mut()
        {
            last.detail.push_str(&format!("; {more} more partitions stand"));
        }
        conditions
    }
}

impl Stand {
    fn detail(&self, now: Instant, after: Duration) -> String {
        let PartitionError { offset, code, reason, .. } = &self.error;
        let lasts = now.duration_since(self.since).as_secs();
        let then = if self.error.is_oversized {
            "it is being passed over".to_owned()
        } else if is_of_rights(*code) {
            "give this client the right to read it".to_owned()
        } else if !is_of_a_batch(*code) {
            "it is tried again".to_owned()
        } else if after.is_zero() {
            "it is tried again; ingest.pass-unreadable-after says when such a batch is passed over, now never"
                .to_owned()
        } else {
            format!("it is tried again, and passed over after {} s (ingest.pass-unreadable-after)", after.as_secs())
        };
        let place = if *offset < 0 { String::new() } else { format!(" at offset {offset}") };
        // librdkafka's words may hold a topic's name, and nothing of a message.
        format!("stands for {lasts} s{place}, after {} attempts: {reason:?}; {then}", self.failures)
    }
}

fn is_of_rights(code: Code) -> bool {
    matches!(code, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn error(partition: i32, offset: i64, code: Code) -> PartitionError {
        PartitionError { partition, offset, code, reason: "does not unpack".to_owned(), is_oversized: false }
    }

    fn bad(partition: i32, offset: i64) -> PartitionError {
        error(partition, offset, Code::BadCompression)
    }

    #[test]
    fn one_partition_waits_longer_each_time_and_no_other_does() {
        let start = Instant::now();
        let mut standing = Standing::default();
        assert!(standing.failed(start, bad(3, 17)));
        assert!(standing.pauses(3, start) && standing.drops(3, 18, start));
        assert!(!standing.pauses(4, start) && !standing.drops(4, 0, start));
        assert_eq!((standing.resumed(3, start), standing.resumed(4, start)), (None, None));
        let (mut now, mut waits) = (start, Vec::new());
        for _ in 0..7 {
            let before = now;
            while standing.pauses(3, now) {
                now += S;
            }
            waits.push((now - before).as_secs());
            assert_eq!(standing.resumed(3, now), Some(17));
            assert!(!standing.drops(3, 17, now));
            assert!(!standing.failed(now, bad(3, 17)), "said once");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        now += SAID_EVERY;
        assert!(standing.failed(now, bad(3, 17)), "and again after ten minutes");
        assert!(standing.goes_on(3) && !standing.goes_on(3));
        assert_eq!(standing.len(), 0);
    }

    #[test]
    fn whatever_comes_from_elsewhere_does_not_move_a_partition_that_stands() {
        let start = Instant::now();
        let mut standing = Standing::default();
        standing.failed(start, bad(0, 5));
        assert!(!standing.failed(start, error(0, 1 << 60, Code::NotImplemented)), "librdkafka lost its place");
        assert_eq!(standing.resumed(0, start + S), Some(5));
        assert!(standing.drops(0, 0, start + S), "librdkafka began anew");
        assert_eq!(standing.due(start + S), [0]);
        assert_eq!(standing.resumed(0, start + S), Some(5));
        assert!(!standing.drops(0, 5, start + S));
    }

    #[test]
    fn a_partition_that_is_quiet_goes_on_unless_a_right_is_missing() {
        let start = Instant::now();
        let mut standing = Standing::default();
        standing.failed(start, bad(0, 5));
        standing.failed(start, error(1, 5, Code::TopicAuthorizationFailed));
        assert_eq!((standing.resumed(0, start + S), standing.resumed(1, start + S)), (Some(5), Some(5)));
        assert!(standing.settled(start + S + QUIET - S).is_empty());
        assert_eq!(standing.settled(start + S + QUIET), [0]);
        assert_eq!(standing.len(), 1);
    }

    #[test]
    fn a_batch_is_passed_over_after_its_time_and_never_where_none_is_named() {
        let start = Instant::now();
        let mut standing = Standing::default();
        standing.failed(start, bad(2, 9));
        standing.failed(start, error(5, 1, Code::TopicAuthorizationFailed));
        for partition in [2, 5] {
            standing.resumed(partition, start + S);
        }
        standing.failed(start + S, bad(2, 9));
        standing.failed(start + S, error(5, 1, Code::TopicAuthorizationFailed));
        assert_eq!(standing.take_due(start + S * 999, Duration::ZERO), None);
        assert_eq!(standing.take_due(start + S * 59, S * 60), None);
        let due = standing.take_due(start + S * 60, S * 60).expect("it is due");
        assert_eq!((due.partition, due.offset, due.waited), (2, 9, S * 60));
        assert_eq!(
            standing.take_due(start + S * 60, S * 60),
            None,
            "once; and no right comes by passing a record over"
        );
        assert!(standing.pauses(2, start + S * 119) && standing.drops(2, 9, start + S * 119));
        assert!(!standing.pauses(2, start + S * 120), "nobody came back");
        assert!(!standing.found(start + S * 61, 2, 8, Some(12)), "of another batch");
        assert!(!standing.found(start + S * 60, 2, 9, None), "not found: tried again later");
        assert_eq!(standing.take_due(start + S * 60, S * 60), None, "later, and not at once");
        assert_eq!(standing.take_due(start + S * 62, S * 60).map(|due| due.offset), Some(9));
        assert!(standing.found(start + S * 62, 2, 9, Some(12)));
        assert_eq!(standing.due(start + S * 62), [2, 5]);
        assert_eq!(standing.resumed(2, start + S * 62), Some(12));
        assert!(standing.failed(start + S * 63, bad(2, 12)), "another batch is said, and has its own time");
        standing.resumed(2, start + S * 65);
        standing.failed(start + S * 65, bad(2, 12));
        assert_eq!(standing.take_due(start + S * 121, S * 60), None);
        assert_eq!(standing.take_due(start + S * 122, S * 60).map(|due| due.offset), Some(12));
    }

    #[test]
    fn a_batch_that_is_too_large_is_passed_over_at_once() {
        let now = Instant::now();
        let mut standing = Standing::default();
        standing.failed(now, PartitionError { is_oversized: true, ..bad(4, 9) });
        let due = standing.take_due(now, Duration::ZERO).expect("it is due");
        assert_eq!((due.partition, due.offset, due.is_oversized), (4, 9, true));
        assert!(standing.found(now, 4, 9, Some(10)));
        assert_eq!(standing.take_due(now, Duration::ZERO), None, "it stands at the next one, which nobody has read");
    }

    #[test]
    fn what_is_said_names_partition_offset_reason_and_remedy() {
        let start = Instant::now();
        let mut standing = Standing::default();
        standing.failed(start, bad(7, 42));
        let said = standing.conditions(start + S * 5, "calls", Duration::ZERO);
        assert_eq!((said.len(), said[0].subject.as_str()), (1, "calls/7"));
        for word in ["for 5 s", "offset 42", "does not unpack", "ingest.pass-unreadable-after", "never"] {
            assert!(said[0].detail.contains(word), "{word}: {}", said[0].detail);
        }
        for partition in 100..200 {
            standing.failed(start, bad(partition, 0));
        }
        let said = standing.conditions(start, "calls", S);
        assert_eq!(said.len(), CONDITIONS_MAX);
        assert!(said[CONDITIONS_MAX - 1].detail.ends_with("69 more partitions stand"));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Fails(i64),
        Resumes,
        Record(i64),
        Passes(u64),
        Found(Option<i64>),
    }

    proptest! {
        /// Whatever happens in whatever order: a record is taken only of a partition that does not stand, or that is being
        /// read again from where it stands.
        #[test]
        fn no_record_passes_a_batch_that_is_not_read(acts in proptest::collection::vec(prop_oneof![
            (0_i64..4).prop_map(Act::Fails),
            Just(Act::Resumes),
            (0_i64..9).prop_map(Act::Record),
            (0_u64..40).prop_map(Act::Passes),
            proptest::option::of(4_i64..8).prop_map(Act::Found),
        ], 1..60)) {
            let (mut standing, mut now) = (Standing::default(), Instant::now());
            // Where the partition would have to be read on: None where it does not stand.
            let (mut must_read_from, mut reads_from) = (None, None);
            let mut looked_at = None;
            for act in acts {
                match act {
                    Act::Fails(offset) => {
                        standing.failed(now, bad(0, offset));
                        // An error while the partition waits is not of where it stands.
                        if must_read_from.is_none() || reads_from.is_some() {
                            (must_read_from, reads_from) = (Some(offset), None);
                        }
                    }
                    Act::Resumes if !standing.pauses(0, now) => reads_from = standing.resumed(0, now).or(reads_from),
                    Act::Resumes => {}
                    Act::Record(offset) if standing.drops(0, offset, now) => {
                        reads_from = reads_from.filter(|&from| offset >= from);
                    }
                    Act::Record(offset) => {
                        prop_assert!(must_read_from.is_none() || reads_from == must_read_from);
                        prop_assert!(must_read_from.is_none_or(|from| offset >= from));
                        standing.goes_on(0);
                        (must_read_from, reads_from) = (None, None);
                    }
                    Act::Passes(seconds) => {
                        now += S * u32::try_from(seconds).unwrap();
                        looked_at = standing.take_due(now, S * 20).map(|due| due.offset).or(looked_at);
                    }
                    Act::Found(end) => {
                        if let Some(offset) = looked_at.take()
                            && standing.found(now, 0, offset, end)
                        {
                            (must_read_from, reads_from) = (end, None);
                        }
                    }
                }
            }
        }
    }
}
