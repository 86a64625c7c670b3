//! What is known of functions, kept while the service is away: taken in rounds, and restored at the start.
//!
//! A snapshot holds one function's record, what its sources' notices brought, and the chains that begin with it. Of the
//! time between, minutes without calls are taken in as such; trust and chains fade by notices and calls, and so not at
//! all. What was learned since the start is never overwritten.
//!
//! Bounds: 16 sources and as many chains as are learned of a function, so a state is below [`STATE_LEN_MAX`]; a look at
//! the functions whose turn it is takes [`SLOTS_A_LOOK`] of them, after some looks that find out who announces what.
//!
//! Must not: trust what it reads, or keep it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agenda::Slot;
use super::history::History;
use super::past::minute_of;
use super::sources::Index;
use super::{Forecaster, chains, history, sources};
use crate::types::{ForecastSnapshot, FunctionName, Payload, Timestamp};

/// The form of the state; another one is not read.
const FORMAT: u8 = 1;
/// The longest state that is read, in bytes (inclusive): 16 sources with names of 2 × 256 bytes and 16 chains with names of
/// 128 come to 21 KiB.
const STATE_LEN_MAX: usize = 32 << 10;
/// Functions that are looked at in one go.
const SLOTS_A_LOOK: Slot = 512;
/// How far ahead of our clock a snapshot may be: nodes' clocks differ.
const AHEAD_MAX: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct State {
    record: Option<history::Saved>,
    sources: Vec<sources::Saved>,
    /// The decayed count of its calls.
    weight: f64,
    chains: Vec<(FunctionName, chains::Saved)>,
}

/// Why a snapshot is not restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the forecast snapshot of function {function} is dropped: {why}; what it knew will be learned again")]
pub struct RestoreError {
    /// The function.
    pub function: FunctionName,
    /// Why.
    pub why: &'static str,
}

/// What became of snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Restored {
    /// Functions that know what they knew.
    pub restored: u32,
    /// Snapshots of functions that are not known (any more), or that have been called or announced since the start.
    pub passed_over: u32,
    /// Snapshots that cannot be.
    pub refused: Vec<RestoreError>,
}

/// A round in which every function has its turn.
#[derive(Debug, Default)]
pub(super) struct Round {
    began: Option<Timestamp>,
    /// Of what was learned before this the last round has a snapshot.
    since: Option<Timestamp>,
    next: Slot,
    index: Index,
}

impl Forecaster {
    /// Snapshots of functions of which something may have been learned since their last one. A round begins every
    /// `snapshot-interval`; each call takes the next few functions of it, and so has to come often.
    pub fn take_snapshots(&mut self, now: Timestamp) -> Vec<ForecastSnapshot> {
        let interval = self.config.snapshot_interval;
        let round = &mut self.round;
        // The first round begins an interval after the first look; a clock that was set back begins one. None begins
        // before the one under way is over, or its last functions would never have their turn.
        let began = *round.began.get_or_insert(now);
        let is_over = round.since.is_none() || round.next >= self.functions.slots();
        if is_over && (now.since(began) >= interval || now < began) {
            *round = Round { began: Some(now), since: Some(began), next: 0, index: Index::default() };
        }
        if round.since.is_none() || !self.sources.index(&mut round.index) {
            return Vec::new();
        }
        let end = self.functions.slots();
        let upto = round.next.saturating_add(SLOTS_A_LOOK).min(end);
        let slots = std::mem::replace(&mut round.next, upto)..upto;
        slots.filter_map(|slot| self.snapshot(now, slot)).collect()
    }

    /// Snapshots of all functions of which something may have been learned since their last one: for the end.
    pub fn take_all_snapshots(&mut self, now: Timestamp) -> Vec<ForecastSnapshot> {
        // Also what the round that is under way has taken: that may be as old as the round.
        let mut index = Index::default();
        while !self.sources.index(&mut index) {}
        self.round = Round { index, next: 0, ..std::mem::take(&mut self.round) };
        (0..self.functions.slots()).filter_map(|slot| self.snapshot(now, slot)).collect()
    }

    fn snapshot(&self, now: Timestamp, slot: Slot) -> Option<ForecastSnapshot> {
        let (name, function) = self.functions.row(slot)?;
        if function.learned_at < self.round.since || function.learned_at.is_none() {
            return None;
        }
        let chains = self.chains.as_ref();
        let edges = chains.map(|chains| chains.save(slot)).unwrap_or_default().into_iter();
        let named = edges.filter_map(|(to, saved)| Some((self.functions.row(to)?.0.clone(), saved)));
        let state = State {
            record: function.past.save(),
            sources: self.sources.save(function.serial, &self.round.index),
            weight: chains.map_or(0.0, |chains| chains.weight(now, slot)),
            chains: named.collect(),
        };
        // Plain numbers and names into memory: there is nothing that could fail.
        let bytes = postcard::to_extend(&state, vec![FORMAT]).ok()?;
        Some(ForecastSnapshot { function: name.clone(), node: String::new(), taken_at: now, state: Payload(bytes) })
    }

    /// Takes over what earlier lives have learned, at most one snapshot a function. To be called once, when the
    /// functions are defined and before the first call.
    pub fn restore(&mut self, now: Timestamp, snapshots: &[ForecastSnapshot]) -> Restored {
        let mut restored = Restored::default();
        for snapshot in snapshots {
            match self.restore_one(now, snapshot) {
                Ok(true) => restored.restored += 1,
                Ok(false) => restored.passed_over += 1,
                Err(why) => restored.refused.push(RestoreError { function: snapshot.function.clone(), why }),
            }
        }
        restored
    }

    fn restore_one(&mut self, now: Timestamp, snapshot: &ForecastSnapshot) -> Result<bool, &'static str> {
        const UNSOUND: &str = "its numbers cannot be";
        let state = read(&snapshot.state.0)?;
        if snapshot.taken_at > now + AHEAD_MAX {
            return Err("it is from the future");
        }
        let record = match state.record {
            Some(saved) => Some(History::restore(saved, minute_of(now + AHEAD_MAX)).ok_or(UNSOUND)?),
            None => None,
        };
        let rate_is_sound = chains::is_weight(state.weight);
        if !rate_is_sound || !state.chains.iter().all(|(to, saved)| saved.is_sound() && *to != snapshot.function) {
            return Err(UNSOUND);
        }
        let Some((slot, function)) = self.functions.find_mut(&snapshot.function) else { return Ok(false) };
        if function.learned_at.is_some() {
            return Ok(false);
        }
        if !self.sources.restore(function.serial, &state.sources) {
            return Err(UNSOUND);
        }
        if let Some(record) = record {
            function.past.restore(record);
            function.past.look_ahead(now, function.in_flight, &self.model, &mut self.newcomers);
        }
        self.agenda.touch(slot);
        let Some(chains) = &mut self.chains else { return Ok(true) };
        chains.restore_weight(snapshot.taken_at, slot, state.weight);
        for (to, saved) in &state.chains {
            if let Some((to, _)) = self.functions.find(to) {
                chains.restore(slot, to, saved);
            }
        }
        Ok(true)
    }
}

fn read(state: &[u8]) -> Result<State, &'static str> {
    if state.len() > STATE_LEN_MAX {
        return Err("it is too long");
    }
    match state.split_first() {
        Some((&FORMAT, state)) => match postcard::take_from_bytes(state) {
            Ok((state, [])) => Ok(state),
            _ => Err("it is damaged"),
        },
        _ => Err("it has a form that this version does not read"),
    }
}

#[cfg(test)]
mod tests;
