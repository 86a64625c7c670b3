//! What clouds do: keep an instance for a fixed time after its last use.
//!
//! Must not: look at anything but the last use.

use super::super::trace::Minute;
use super::Policy;

/// Keeps each instance for `keep` minutes after its last use.
///
/// Of several instances the first is used first, so the level of concurrency says which one: the second is used in the
/// minutes that need two or more. An instance that was last used in minute m is held up to and including m + `keep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    keep: u32,
    /// The minute of the last use of each level, from the first; never rising.
    last_used: Vec<u32>,
}

impl Fixed {
    /// Nothing is held yet.
    pub fn new(keep: u32) -> Self {
        Self { keep, last_used: Vec::new() }
    }
}

impl Policy for Fixed {
    fn warm(&mut self, minute: u32) -> u32 {
        while self.last_used.pop_if(|last| minute - *last > self.keep).is_some() {}
        u32::try_from(self.last_used.len()).unwrap_or(u32::MAX)
    }

    fn saw(&mut self, minute: u32, seen: &Minute) {
        let need = seen.need as usize;
        self.last_used.iter_mut().take(need).for_each(|last| *last = minute);
        if need > self.last_used.len() {
            self.last_used.resize(need, minute);
        }
    }
}
