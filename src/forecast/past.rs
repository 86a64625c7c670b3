//! One function's place between live events and its record: the minute that is under way, and what the record says of it.
//!
//! Minutes end ten seconds before those of the clock. Schedules fire at the full minute, and their calls must fall well
//! inside the minute that was foreseen, not on its edge.
//!
//! Must not: know the function's name, its notices, or what an outlook is worth.

use std::time::Duration;

use super::history::{History, Model, Saved};
use crate::types::Timestamp;

const MINUTE_MICROS: i64 = 60_000_000;
/// How long before the clock's minutes these end.
const AHEAD: Duration = Duration::from_secs(10);
/// Probabilities below this are left out: at a price of a day they would not pay.
const LEAST: f32 = 0.000_5;
/// Minutes after its definition in which a function that was never called is asked about.
const NEWCOMER_MINUTES: usize = 61;

/// The number of the minute that this moment is in.
pub(super) fn minute_of(now: Timestamp) -> i64 {
    (now + AHEAD).as_micros().div_euclid(MINUTE_MICROS)
}

/// What is said of functions that were never called. All of one age have the same empty record, so each age is asked about
/// once: 100,000 new functions cost no more than one.
#[derive(Debug)]
pub(super) struct Newcomers {
    /// The share of functions that are called at all.
    share: f32,
    /// By age in minutes: how likely one is called in the next one.
    ages: Vec<Option<f32>>,
}

impl Newcomers {
    /// `share`, 0.0 to 1.0: the share of functions that are called at all.
    pub(super) fn new(share: f32) -> Self {
        Self { share, ages: vec![None; NEWCOMER_MINUTES] }
    }

    /// Nothing for one that is older than the newest hour.
    fn outlook(&mut self, model: &Model, age_minutes: i64) -> Option<(u32, f32)> {
        let age = self.ages.get_mut(usize::try_from(age_minutes).ok()?)?;
        let probability = *age.get_or_insert_with(|| {
            let mut record = History::new(0);
            record.pass(age_minutes);
            let mut outlook = Vec::new();
            record.outlook(model, self.share, LEAST, 1, &mut outlook);
            outlook.first().map_or(0.0, |&(_, probability)| probability)
        });
        (probability > 0.0).then_some((1, probability))
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Past {
    /// Made when the function is first used: most functions that are known are not.
    record: Option<Box<History>>,
    /// The minute that is known of since.
    first: i64,
    /// The minute that is under way.
    minute: i64,
    /// Most instances in use at once in it.
    need: u32,
    /// Run time of calls that ended in it.
    run: Duration,
    outlook: Vec<(u32, f32)>,
}

impl Past {
    /// A function that is known from now on.
    pub(super) fn new(now: Timestamp) -> Self {
        let minute = minute_of(now);
        Self { record: None, first: minute, minute, need: 0, run: Duration::ZERO, outlook: Vec::new() }
    }

    /// So many instances are in use at once, of which `in_flight` go on to be.
    pub(super) fn uses(&mut self, now: Timestamp, peak: u32, in_flight: u32) {
        self.pass(now, in_flight);
        self.need = self.need.max(peak);
    }

    /// A call ended that ran for `run`.
    pub(super) fn ran(&mut self, now: Timestamp, run: Duration, in_flight: u32) {
        self.pass(now, in_flight);
        self.run = self.run.saturating_add(run);
    }

    /// Puts the minute into the record if it is over.
    fn pass(&mut self, now: Timestamp, in_flight: u32) {
        let minute = minute_of(now);
        if minute <= self.minute {
            return;
        }
        if self.need > 0 {
            let load = self.load();
            let record = self.record.get_or_insert_with(|| Box::new(History::new(self.first)));
            record.saw(self.minute, self.need, load);
        }
        // What is in use goes on being so, in each minute that was passed over too, but the record is bounded anyway.
        (self.minute, self.need, self.run) = (minute, in_flight, Duration::ZERO);
    }

    /// Of the minute that is under way.
    fn load(&self) -> f32 {
        self.run.as_secs_f32() / 60.0
    }

    /// Asks the model about the minute that is under way. Answers whether the outlook is another one now.
    pub(super) fn look_ahead(
        &mut self,
        now: Timestamp,
        in_flight: u32,
        model: &Model,
        newcomers: &mut Newcomers,
    ) -> bool {
        self.pass(now, in_flight);
        let before = std::mem::take(&mut self.outlook);
        match &mut self.record {
            Some(record) => {
                record.pass(self.minute);
                record.outlook(model, newcomers.share, LEAST, u32::MAX, &mut self.outlook);
            }
            None => self.outlook.extend(newcomers.outlook(model, self.minute - self.first)),
        }
        self.outlook != before
    }

    /// Whether it was ever in use.
    pub(super) fn has_record(&self) -> bool {
        self.record.is_some()
    }

    /// The record as it is kept while the service is away, with the minute that is under way; `None` before any use.
    pub(super) fn save(&self) -> Option<Saved> {
        if self.need == 0 {
            return self.record.as_deref().map(History::save);
        }
        let mut record = self.record.as_deref().cloned().unwrap_or_else(|| History::new(self.first));
        record.saw(self.minute, self.need, self.load());
        Some(record.save())
    }

    /// Takes over a record of earlier minutes.
    pub(super) fn restore(&mut self, record: History) {
        self.first = record.first();
        self.record = Some(Box::new(record));
    }

    /// What was said last: levels and how likely each is reached in the minute that is under way.
    pub(super) fn outlook(&self) -> &[(u32, f32)] {
        &self.outlook
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_minute_ends_ten_seconds_before_the_clocks() {
        assert_eq!([0, 49, 50, 60, 109, 110].map(|second| minute_of(at(second))), [0, 0, 1, 1, 1, 2]);
    }

    #[test]
    fn what_comes_every_ten_minutes_is_expected_then_and_not_between() {
        let model = Model::shipped();
        let mut past = Past::new(at(0));
        for nth in 0..12 {
            past.uses(at(nth * 600), 1, 1);
            past.ran(at(nth * 600 + 1), Duration::from_secs(1), 0);
        }
        let mut likely = |second: i64| {
            past.look_ahead(at(second), 0, &model, &mut Newcomers::new(1.0));
            past.outlook().first().map_or(0.0, |(_, probability)| *probability)
        };
        assert!(likely(11 * 600 + 300) < 0.1);
        assert!(likely(12 * 600 - 10) > 0.6);
    }

    #[test]
    fn a_function_that_was_never_used_has_no_record_and_is_asked_about_for_an_hour() {
        let model = Model::shipped();
        let mut past = Past::new(at(0));
        let mut newcomers = Newcomers::new(1.0);
        assert!(past.look_ahead(at(0), 0, &model, &mut newcomers));
        assert!(past.record.is_none() && past.outlook()[0].0 == 1);
        past.look_ahead(at(2 * 3_600), 0, &model, &mut newcomers);
        assert!(past.outlook().is_empty());
        // Whenever a function came, its age alone counts.
        for (first, minute) in [(0, 7), (29_000_001, 29_000_008), (1_439, 1_446)] {
            let mut record = History::new(first);
            record.pass(minute);
            let mut outlook = Vec::new();
            record.outlook(&model, 1.0, LEAST, 1, &mut outlook);
            assert_eq!(outlook.first().copied(), newcomers.outlook(&model, 7), "{first}");
        }
    }
}
