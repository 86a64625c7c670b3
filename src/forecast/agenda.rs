//! Which functions' demand may have changed: a list of what events touched, and one timer a function for what time
//! alone changes.
//!
//! This is what keeps a tick from walking every known function. One look costs O(touched + due × log n). A function has
//! at most one entry in the list and one timer, so both are bounded by the number of functions.
//!
//! Must not: know what a demand is.

use std::collections::BTreeSet;

use crate::types::Timestamp;

/// The short name of a function within the forecaster; used again after a removal.
pub(crate) type Slot = u32;

#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    touched: bool,
    timer: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct Agenda {
    marks: Vec<Marks>,
    touched: Vec<Slot>,
    timers: BTreeSet<(Timestamp, Slot)>,
}

impl Agenda {
    /// Puts the function on the list.
    pub(super) fn touch(&mut self, slot: Slot) {
        let marks = mark(&mut self.marks, slot);
        if !marks.touched {
            marks.touched = true;
            self.touched.push(slot);
        }
    }

    /// Asks for a look at `at` or before. A timer that is set for earlier stays: a look too many is cheaper than moving
    /// it.
    pub(super) fn wake_at(&mut self, slot: Slot, at: Timestamp) {
        let marks = mark(&mut self.marks, slot);
        if marks.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        if let Some(later) = marks.timer.replace(at) {
            self.timers.remove(&(later, slot));
        }
        self.timers.insert((at, slot));
    }

    /// Takes one function whose timer is due. Its timer is gone; set the next one.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Slot> {
        let &(at, slot) = self.timers.first().filter(|(at, _)| *at <= now)?;
        self.timers.remove(&(at, slot));
        mark(&mut self.marks, slot).timer = None;
        Some(slot)
    }

    /// Takes the list of what was touched since the last time, each function once, in the order in which it was.
    pub(super) fn take_touched(&mut self) -> Vec<Slot> {
        for &slot in &self.touched {
            mark(&mut self.marks, slot).touched = false;
        }
        std::mem::take(&mut self.touched)
    }

    /// Drops the function's timer and its place in the list.
    pub(super) fn forget(&mut self, slot: Slot) {
        let marks = std::mem::take(mark(&mut self.marks, slot));
        if let Some(timer) = marks.timer {
            self.timers.remove(&(timer, slot));
        }
        if marks.touched {
            self.touched.retain(|&touched| touched != slot);
        }
    }
}

fn mark(marks: &mut Vec<Marks>, slot: Slot) -> &mut Marks {
    let place = slot as usize;
    if marks.len() <= place {
        marks.resize(place + 1, Marks::default());
    }
    &mut marks[place]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_touched_function_is_listed_once_and_in_order() {
        let mut agenda = Agenda::default();
        [3, 1, 3, 1].into_iter().for_each(|slot| agenda.touch(slot));
        assert_eq!(agenda.take_touched(), [3, 1]);
        assert!(agenda.take_touched().is_empty());
        agenda.touch(1);
        agenda.forget(1);
        assert!(agenda.take_touched().is_empty());
    }

    #[test]
    fn the_earliest_timer_of_a_function_is_the_one_that_counts() {
        let mut agenda = Agenda::default();
        agenda.wake_at(0, at(10));
        agenda.wake_at(0, at(20));
        agenda.wake_at(1, at(9));
        agenda.wake_at(0, at(5));
        assert_eq!(agenda.timers.len(), 2);
        assert_eq!(agenda.take_due(at(4)), None);
        assert_eq!(agenda.take_due(at(9)), Some(0));
        assert_eq!(agenda.take_due(at(9)), Some(1));
        assert_eq!(agenda.take_due(at(99)), None);
        agenda.wake_at(2, at(1));
        agenda.forget(2);
        assert_eq!(agenda.take_due(at(99)), None);
    }
}
