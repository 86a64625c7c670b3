//! When the model is asked about which function: each once a minute, some at each look, so that no look takes long.
//!
//! Must not: know what the answer is worth.

use super::Forecaster;
use super::agenda::Slot;
use super::past::minute_of;
use crate::types::Timestamp;

/// Records that the model is asked about at each look, at least; and the looks in which all of a minute are to have been.
/// They have ten seconds (see `past`). A record costs some 40 µs.
const OUTLOOKS_MIN: u32 = 128;
const OUTLOOK_LOOKS: u32 = 80;
/// Functions without a record that are passed over for one with a record: they cost next to nothing.
const NEWCOMERS_PER_OUTLOOK: u32 = 32;

/// How far the minute's round has come.
#[derive(Debug)]
pub(super) struct Asking {
    /// The minute that outlooks are about.
    minute: i64,
    /// The first function that is not asked about yet.
    next: Slot,
    /// What was spent in this minute, and in the last one, in records.
    spent: [u32; 2],
}

impl Default for Asking {
    fn default() -> Self {
        Self { minute: i64::MIN, next: 0, spent: [0; 2] }
    }
}

impl Forecaster {
    /// Asks the model about each function once a minute, some at each look, so that no look takes long.
    pub(super) fn look_ahead(&mut self, now: Timestamp) {
        let minute = minute_of(now);
        if minute != self.asking.minute {
            let has_begun = self.asking.minute > i64::MIN;
            (self.asking.minute, self.asking.next) = (minute, 0);
            self.asking.spent = [0, self.asking.spent[0]];
            // The first look of a minute has the minute that is over to put into the records of all that are in use.
            if has_begun {
                return;
            }
        }
        let allowance = OUTLOOKS_MIN.max(self.asking.spent[1].div_ceil(OUTLOOK_LOOKS)) * NEWCOMERS_PER_OUTLOOK;
        let mut spent = 0;
        while spent < allowance && self.asking.next < self.functions.slots() {
            let slot = self.asking.next;
            self.asking.next += 1;
            let Some(function) = self.functions.row_mut(slot) else { continue };
            spent += if function.past.has_record() { NEWCOMERS_PER_OUTLOOK } else { 1 };
            if function.past.look_ahead(now, function.in_flight, &self.model, &mut self.newcomers) {
                self.agenda.touch(slot);
            }
        }
        self.asking.spent[0] += spent / NEWCOMERS_PER_OUTLOOK;
    }
}
