//! What was called lately: a log of calls, and what calls belong to which trace or key.
//!
//! Must not: grow past its bounds, or judge.

use std::collections::{HashMap, VecDeque};

use super::{Evidence, MINED};
use crate::forecast::agenda::Slot;

/// Calls in the log.
const LOG_MAX: usize = 65_536;
/// Causes that are remembered.
const CAUSES_MAX: usize = 16_384;
/// What a forgotten function's calls are renamed to.
const NOBODY: Slot = Slot::MAX;

/// The latest calls in order; each has a number that grows.
#[derive(Debug, Default)]
pub(super) struct Log {
    calls: VecDeque<(i64, Slot)>,
    /// The number of the first call that is there.
    first: u64,
    /// Used by one look after another, by function.
    scratch: Vec<Seen>,
    looks: u32,
}

/// What one look saw of a function: in which span last, in how many, and the largest of its first lags.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    look: u32,
    span: u8,
    spans: u8,
    latest: i64,
}

impl Log {
    /// Adds a call and answers with the number of the next one.
    pub(super) fn push(&mut self, at: i64, slot: Slot) -> u64 {
        if self.calls.len() >= LOG_MAX {
            self.calls.pop_front();
            self.first += 1;
        }
        self.calls.push_back((at, slot));
        self.end()
    }

    /// The number of the next call.
    pub(super) fn end(&self) -> u64 {
        self.first + self.calls.len() as u64
    }

    /// How many calls lie within the horizon behind each of these, together; `None` where one is no longer there.
    pub(super) fn spans(&self, from: &[u64], horizon: i64) -> Option<u64> {
        let mut entries = 0;
        for &number in from {
            entries += self.span(number, horizon)?.len() as u64;
        }
        Some(entries)
    }

    fn span(&self, number: u64, horizon: i64) -> Option<std::ops::Range<usize>> {
        let begin = usize::try_from(number.checked_sub(self.first)?).ok()?;
        // The call itself is before its number, unless it was not logged.
        let (at, _) = *self.calls.get(begin.checked_sub(1)?)?;
        let end = self.calls.partition_point(|(later, _)| later - at <= horizon);
        Some(begin..end.max(begin))
    }

    /// Every function that was called within the horizon behind one of these calls, with behind how many, and the largest of
    /// its first lags; `but` left out. In the order of the functions' numbers.
    pub(super) fn followers(&mut self, from: &[u64], horizon: i64, but: Slot) -> Vec<(Slot, u8, i64)> {
        self.looks = self.looks.wrapping_add(1);
        let (look, mut seen_now) = (self.looks, Vec::new());
        let mut scratch = std::mem::take(&mut self.scratch);
        for (nth, &number) in (1..).zip(from.iter().take(MINED)) {
            let Some(span) = self.span(number, horizon) else { continue };
            let at = self.calls[span.start - 1].0;
            for &(later, slot) in self.calls.range(span) {
                if slot == but || slot == NOBODY {
                    continue;
                }
                let place = slot as usize;
                if scratch.len() <= place {
                    scratch.resize(place + 1, Seen::default());
                }
                let seen = &mut scratch[place];
                if seen.look != look {
                    *seen = Seen { look, ..Seen::default() };
                    seen_now.push(slot);
                }
                if seen.span != nth {
                    (seen.span, seen.spans, seen.latest) = (nth, seen.spans + 1, seen.latest.max(later - at));
                }
            }
        }
        seen_now.sort_unstable();
        let followers = seen_now.into_iter().map(|slot| {
            let seen = scratch[slot as usize];
            (slot, seen.spans, seen.latest)
        });
        let followers = followers.collect();
        self.scratch = scratch;
        followers
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.calls.iter_mut().filter(|(_, called)| *called == slot).for_each(|(_, called)| *called = NOBODY);
    }
}

/// Which function was called last with a trace or a key.
#[derive(Debug, Default)]
pub(super) struct Causes {
    last: HashMap<(bool, u64), (i64, Slot)>,
    /// In the order in which they came; one that was called again is in it more than once.
    order: VecDeque<((bool, u64), i64)>,
}

impl Causes {
    /// The functions whose calls led to this one, by trace and by key, within the horizon; takes this call in.
    pub(super) fn of(&mut self, now: i64, horizon: i64, slot: Slot, evidence: Evidence) -> [Option<Slot>; 2] {
        let names = [evidence.trace.map(|hash| (true, hash)), evidence.key.map(|hash| (false, hash))];
        let mut causes = names.map(|name| {
            let name = name?;
            let before = self.last.insert(name, (now, slot));
            self.order.push_back((name, now));
            before.filter(|(at, cause)| now - at <= horizon && *cause != slot).map(|(_, cause)| cause)
        });
        if causes[0] == causes[1] {
            causes[1] = None;
        }
        while self.order.len() > CAUSES_MAX {
            if let Some((name, at)) = self.order.pop_front()
                && self.last.get(&name).is_some_and(|(last, _)| *last <= at)
            {
                self.last.remove(&name);
            }
        }
        causes
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.last.retain(|_, (_, cause)| *cause != slot);
    }
}
