//! Every counter of the service, once: name, unit, help.
//!
//! Counting is one relaxed atomic addition. Label sets are closed: a label that is not in its set counts as "other".

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

use crate::codec::DecodeError;
use crate::types::{ConditionKind, OutcomeKind, StartKind, Status, StatusKind};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes over a total that is counted elsewhere.
    pub fn mirror(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number as it is now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a number is called where it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    pub(super) grows: bool,
}

macro_rules! table {
    ($($kind:ident $field:ident $name:literal $unit:literal $help:literal;)*) => {
        /// The counters. Rooms count; `export` and `summary` read.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)*
            results: Results,
            dead_letters: Labelled,
            pre_triggers: Labelled,
            outcomes: Labelled,
            conditions: [AtomicU64; ConditionKind::ALL.len()],
            functions: [AtomicU64; StatusKind::FUNCTIONS.len()],
            durations: OnceLock<Durations>,
        }

        impl Metrics {
            /// Every plain number with its spec.
            pub(super) fn numbers(&self) -> Vec<(Spec, u64)> {
                vec![$((
                    Spec { name: $name, unit: $unit, help: $help, grows: table!(@grows $kind) },
                    self.$field.get(),
                ),)*]
            }
        }
    };
    (@grows Counter) => { true };
    (@grows Gauge) => { false };
}

table! {
    Counter invocations_received "messaging.client.consumed.messages" "{message}" "Calls read from the invocations topic.";
    Gauge in_flight "forewarm.in_flight" "{call}" "Calls whose outcome the brokers have not stored yet.";
    Counter redelivered "forewarm.redelivered" "{message}" "Calls read again that were done already, and not run again.";
    Counter headers_left_out "forewarm.headers_left_out" "{header}" "Headers whose names are not UTF-8.";
    Counter call_headers_left_out "forewarm.call_headers_left_out" "{header}" "Headers of calls that had no room to go along to the function and the result.";
    Counter call_headers_not_text "forewarm.call_headers_not_text" "{header}" "Headers of calls that functions do not see, because their values are not UTF-8.";
    Counter commits "forewarm.commits" "{commit}" "Commits of progress.";
    Counter commit_failures "forewarm.commit_failures" "{commit}" "Commits that failed and are made again.";
    Counter completions_fenced "forewarm.completions_fenced" "{call}" "Outcomes that came after their partition had gone.";
    Counter outcomes_dropped "forewarm.outcomes_dropped" "{call}" "Outcomes of calls whose partition had gone before they ended; they run elsewhere.";
    Counter retries "forewarm.retries" "{attempt}" "Attempts that failed and are followed by another one.";
    Counter transactions "forewarm.transactions" "{transaction}" "Transactions that were committed.";
    Counter transactions_aborted "forewarm.transactions_aborted" "{transaction}" "Transactions that were not committed; what they held went into later ones, or is read again.";
    Counter consumers_renewed "forewarm.consumers_renewed" "{consumer}" "Consumers of invocations that were made anew because the brokers answered others and not them, or the clock was set back.";
    Counter rejoined "forewarm.group.rejoined" "{rejoin}" "Times that this node left its group to join it anew, because a heartbeat was answered too late.";
    Counter handed_back "forewarm.handed_back" "{message}" "Calls that went back to the group without having begun, because their partition or the node was on its way out.";
    Counter partition_errors "forewarm.partition_errors" "{error}" "Attempts in vain to read one partition of the calls, whose record cannot be read.";
    Counter batches_passed "forewarm.batches_passed" "{batch}" "Batches that cannot be read and were passed over, of any topic.";
    Counter offsets_passed "forewarm.offsets_passed" "{offset}" "Offsets passed that hold no call: control records of transactions, and records of aborted ones.";
    Counter producers_renewed "forewarm.producers_renewed" "{producer}" "Producers that were made anew because the brokers answered others and not them, or the clock was set back.";
    Counter publish_retries "forewarm.publish_retries" "{record}" "Records that were sent again.";
    Counter publish_dropped "forewarm.publish_dropped" "{record}" "Dead letters of pre-triggers for which there was no room.";
    Counter pre_triggers_dropped "forewarm.pre_triggers_dropped" "{message}" "Pre-triggers for which there was no room.";
    Counter pre_triggers_unreadable "forewarm.pre_triggers_unreadable" "{message}" "Pre-triggers whose schema the registry did not give.";
    Counter schema_registry_failures "forewarm.schema_registry.failures" "{request}" "Questions that the schema registry did not answer, or refused; each is asked again.";
    Counter control_events_dropped "forewarm.control_events_dropped" "{event}" "Observations that found the queue full.";
    Counter functions_defined "forewarm.functions_defined" "{definition}" "Definitions taken.";
    Counter functions_removed "forewarm.functions_removed" "{function}" "Functions removed.";
    Counter functions_refused "forewarm.functions_refused" "{definition}" "Definitions refused.";
    Counter compilations "forewarm.compilations" "{process}" "Processes started to compile an artifact.";
    Counter compile_refusals "forewarm.compile_refusals" "{artifact}" "Artifacts that could not be compiled, or not within the limits.";
    Counter instances_prepared "forewarm.instances_prepared" "{instance}" "Instances made.";
    Counter instances_retired "forewarm.instances_retired" "{instance}" "Instances dropped.";
    Counter instances_evicted "forewarm.instances_evicted" "{instance}" "Instances dropped to make room for another.";
    Counter prepare_failures "forewarm.prepare_failures" "{instance}" "Instances that could not be made.";
    Gauge aside "forewarm.calls.aside" "{call}" "Calls that wait on their topic, as their function or tenant holds its share of what is in flight.";
    Counter put_aside "forewarm.calls.put_aside" "{call}" "Times that a call was put aside for that; each comes again.";
    Counter overflowed "forewarm.calls.overflowed" "{call}" "Calls that were rejected for that, as their definition says.";
    Counter slots_missing "forewarm.slots_missing" "{instance}" "Instances for which there was no room.";
    Counter memory_refused "forewarm.memory_refused" "{growth}" "Growths for which the node had no memory.";
    Counter snapshots_removed "forewarm.snapshots_removed" "{snapshot}" "Forecast snapshots of nodes and functions that are gone, which this node removed.";
    Counter log_lines_left_out "forewarm.log_lines_left_out" "{line}" "Log lines that nobody read in time, or that could not be written.";
    Counter log_lines_alike "forewarm.log_lines_alike" "{line}" "Log lines left out because too many like them had been said.";
    Counter function_log_lines "forewarm.function_logs.lines" "{line}" "Lines that functions wrote and that were said, to topics.function-logs where there is one.";
    Counter function_logs_left_out "forewarm.function_logs.left_out" "{line}" "Lines that functions wrote past the bounds of [function-logs]; a line says how many.";
    Counter function_logs_dropped "forewarm.function_logs.dropped" "{line}" "Lines of functions that the brokers did not take, or not as fast as they came.";
    Gauge instances_ready "forewarm.instances_ready" "{instance}" "Instances on the shelves.";
    Gauge instances_busy "forewarm.instances_busy" "{instance}" "Instances that serve a call.";
    Gauge instances_preparing "forewarm.instances_preparing" "{instance}" "Instances being prepared.";
    Gauge instance_bytes "forewarm.instance_memory" "By" "Memory that all instances hold.";
    Gauge instances_wanted "forewarm.instances_wanted" "{instance}" "Ready instances that the warm targets ask for; instances_ready says how many there are.";
    Gauge calls_waiting "forewarm.calls_waiting" "{call}" "Calls that wait for an instance.";
}

/// Why messages become dead letters: those of `DecodeError::REASONS`, and calls that failed as often as they may.
const DEAD_LETTER_REASONS: [&str; DecodeError::REASONS.len() + 2] = {
    let mut reasons = ["attempts_used_up"; DecodeError::REASONS.len() + 2];
    let mut at = 0;
    while at < DecodeError::REASONS.len() {
        reasons[at] = DecodeError::REASONS[at];
        at += 1;
    }
    reasons[at] = "overflow";
    reasons
};

/// Verdicts on pre-triggers, besides "other": those of `forecast::Verdict`, and what was no event.
const VERDICTS: [&str; 8] =
    ["accepted", "replaced", "withdrawn", "unknown_withdrawal", "late", "refused", "pending", "malformed"];

/// Counts by a label of a closed set; the last place is for others.
#[derive(Debug, Default)]
struct Labelled([AtomicU64; 16]);

impl Labelled {
    fn count(&self, set: &[&str], label: &str) {
        self.0[Self::place(set, label)].fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self, set: &[&str], label: &str) -> u64 {
        self.0[Self::place(set, label)].load(Ordering::Relaxed)
    }

    fn place(set: &[&str], label: &str) -> usize {
        set.iter().take(15).position(|known| *known == label).unwrap_or(15)
    }

    fn all<'a>(&'a self, set: &'a [&'static str]) -> impl Iterator<Item = (&'static str, u64)> + 'a {
        let others = std::iter::once(("other", self.0[15].load(Ordering::Relaxed)));
        set.iter().copied().take(15).zip(self.0.iter().map(|count| count.load(Ordering::Relaxed))).chain(others)
    }
}

/// Counts by status and start kind; the last place of a row is for calls that did not start.
#[derive(Debug, Default)]
struct Results([[AtomicU64; StartKind::ALL.len() + 1]; Status::ALL.len()]);

impl Results {
    fn cell(&self, status: Status, kind: Option<StartKind>) -> &AtomicU64 {
        &self.0[status as usize][kind.map_or(StartKind::ALL.len(), |kind| kind as usize)]
    }
}

/// Histograms, which only the exporter needs.
#[derive(Debug)]
pub(super) struct Durations {
    pub(super) prepare: Histogram<f64>,
    pub(super) execute: Histogram<f64>,
}

impl Metrics {
    /// A call has its outcome.
    pub fn result(&self, status: Status, kind: Option<StartKind>, prepare_us: u64, execute_us: u64) {
        self.results.cell(status, kind).fetch_add(1, Ordering::Relaxed);
        if let (Some(durations), Some(kind)) = (self.durations.get(), kind) {
            let labels = [KeyValue::new("forewarm.start_kind", kind.as_str()), KeyValue::new("faas.trigger", "pubsub")];
            durations.prepare.record(prepare_us as f64 / 1e6, &labels);
            durations.execute.record(execute_us as f64 / 1e6, &labels);
        }
    }

    /// A message became a dead letter, for a reason of `DecodeError::REASONS`, as `attempts_used_up` or as `overflow`.
    pub fn dead_letter(&self, reason: &str) {
        self.dead_letters.count(&DEAD_LETTER_REASONS, reason);
    }

    /// A pre-trigger was judged.
    pub fn pre_trigger_judged(&self, verdict: &str) {
        self.pre_triggers.count(&VERDICTS, verdict);
    }

    /// A pre-trigger ended.
    pub fn pre_trigger_ended(&self, kind: OutcomeKind) {
        self.outcomes.count(&OutcomeKind::ALL.map(OutcomeKind::as_str), kind.as_str());
    }

    /// How many conditions of a kind there are now.
    pub fn conditions_now(&self, kind: ConditionKind, count: u64) {
        self.conditions[kind as usize].store(count, Ordering::Relaxed);
    }

    /// Conditions by kind.
    pub(super) fn conditions_by_kind(&self) -> Vec<(&'static str, u64)> {
        ConditionKind::ALL
            .into_iter()
            .map(|kind| (kind.as_str(), self.conditions[kind as usize].load(Ordering::Relaxed)))
            .collect()
    }

    /// How many functions are in each state now, in the order of [`StatusKind::FUNCTIONS`].
    pub fn functions_now(&self, counts: [u64; StatusKind::FUNCTIONS.len()]) {
        self.functions.iter().zip(counts).for_each(|(place, count)| place.store(count, Ordering::Relaxed));
    }

    /// Functions by state.
    pub(super) fn functions_by_state(&self) -> Vec<(&'static str, u64)> {
        let counts = self.functions.iter().map(|count| count.load(Ordering::Relaxed));
        StatusKind::FUNCTIONS.iter().map(|state| state.as_str()).zip(counts).collect()
    }

    /// Outcomes of one status and start kind.
    pub fn results_by(&self, status: Status, kind: Option<StartKind>) -> u64 {
        self.results.cell(status, kind).load(Ordering::Relaxed)
    }

    /// Dead letters, all reasons together.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.all(&DEAD_LETTER_REASONS).map(|(_, count)| count).sum()
    }

    /// Pre-triggers with one verdict.
    pub fn pre_triggers(&self, verdict: &str) -> u64 {
        self.pre_triggers.get(&VERDICTS, verdict)
    }

    /// Dead letters by reason.
    pub(super) fn dead_letters_by_reason(&self) -> Vec<(&'static str, u64)> {
        self.dead_letters.all(&DEAD_LETTER_REASONS).collect()
    }

    /// Pre-triggers by verdict.
    pub(super) fn pre_triggers_by_verdict(&self) -> Vec<(&'static str, u64)> {
        self.pre_triggers.all(&VERDICTS).collect()
    }

    /// Pre-triggers by how they ended.
    pub(super) fn pre_triggers_by_outcome(&self) -> Vec<(&'static str, u64)> {
        self.outcomes.all(&OutcomeKind::ALL.map(OutcomeKind::as_str)).collect()
    }

    /// Outcomes by status and start kind.
    pub(super) fn results_by_both(&self) -> Vec<(Status, &'static str, u64)> {
        let kinds = || StartKind::ALL.into_iter().map(Some).chain([None]);
        let cells = Status::ALL.into_iter().flat_map(|status| kinds().map(move |kind| (status, kind)));
        cells
            .map(|(status, kind)| (status, kind.map_or("none", StartKind::as_str), self.results_by(status, kind)))
            .collect()
    }

    /// Where durations go from now on.
    pub(super) fn record_into(&self, durations: Durations) {
        // One exporter a process: a second would count everything twice.
        let _ = self.durations.set(durations);
    }

    /// Every number that is not zero, on one line.
    pub fn summary(&self) -> String {
        let mut line = String::new();
        let mut add = |name: &str, labels: &str, count: u64| {
            if count > 0 {
                let _ = write!(line, "{}{name}{labels}={count}", if line.is_empty() { "" } else { " " });
            }
        };
        for (spec, number) in self.numbers() {
            if spec.grows {
                add(spec.name.trim_start_matches("forewarm."), "", number);
            }
        }
        for (status, kind, count) in self.results_by_both() {
            add("results", &format!("{{{},{kind}}}", status.as_str()), count);
        }
        for (reason, count) in self.dead_letters_by_reason() {
            add("dead_letters", &format!("{{{reason}}}"), count);
        }
        for (verdict, count) in self.pre_triggers_by_verdict() {
            add("pre_triggers", &format!("{{{verdict}}}"), count);
        }
        for (kind, count) in self.pre_triggers_by_outcome() {
            add("pre_trigger_outcomes", &format!("{{{kind}}}"), count);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_place() {
        let metrics = Metrics::default();
        metrics.result(Status::Rejected, None, 0, 0);
        metrics.result(Status::Ok, Some(StartKind::Cold), 5, 6);
        metrics.result(Status::Ok, Some(StartKind::Cold), 5, 6);
        assert_eq!(metrics.results_by(Status::Ok, Some(StartKind::Cold)), 2);
        assert_eq!(metrics.results_by(Status::Rejected, None), 1);
        assert_eq!(metrics.results_by(Status::Ok, None), 0);
        assert_eq!(metrics.summary(), "results{ok,cold}=2 results{rejected,none}=1");
    }

    #[test]
    fn label_sets_are_closed() {
        let metrics = Metrics::default();
        metrics.pre_trigger_judged("accepted");
        metrics.pre_trigger_judged("made up");
        metrics.dead_letter("made up");
        assert_eq!((metrics.pre_triggers("accepted"), metrics.pre_triggers("made up")), (1, 1));
        assert_eq!(metrics.dead_letters(), 1);
        assert!(DEAD_LETTER_REASONS.len() <= 15 && VERDICTS.len() <= 15, "every label has a place");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Metrics::default().numbers().into_iter().map(|(spec, _)| spec.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
