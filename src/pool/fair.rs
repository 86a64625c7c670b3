//! Start-time fair queueing: keys that wait, in the order in which each has had its share.
//!
//! A key's tag is the cost that was charged to it. The key with the lowest tag is first; a key that comes anew starts at the
//! tag of the key that was chosen last, so that nobody saves up a share by staying away. Must not: know what is shared.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

#[derive(Clone, Copy, Debug)]
struct Place {
    tag: u64,
    /// Of equal tags, the key that came first is first.
    came: u64,
    waits: bool,
}

/// See the head of this file. It holds the keys that wait, and those that had more than their share a moment ago.
#[derive(Debug)]
pub(super) struct Fair<K> {
    /// The tag of the key that was chosen last.
    now: u64,
    came: u64,
    places: HashMap<K, Place>,
    waiting: BTreeMap<(u64, u64), K>,
    /// Keys that do not wait; forgotten once `now` has passed their tags.
    resting: BTreeMap<(u64, u64), K>,
}

impl<K: Clone + Eq + Hash> Fair<K> {
    pub(super) fn new() -> Self {
        Self { now: 0, came: 0, places: HashMap::new(), waiting: BTreeMap::new(), resting: BTreeMap::new() }
    }

    /// The key waits from now on; nothing changes where it waits already.
    pub(super) fn enter(&mut self, key: &K) {
        let known = self.places.get(key).copied();
        if known.is_some_and(|place| place.waits) {
            return;
        }
        self.came += 1;
        let tag = known.map_or(self.now, |place| place.tag.max(self.now));
        self.put(key, known, Place { tag, came: self.came, waits: true });
    }

    /// The key does not wait any more.
    pub(super) fn leave(&mut self, key: &K) {
        if let Some(place) = self.places.get(key).copied()
            && place.waits
        {
            self.put(key, Some(place), Place { waits: false, ..place });
        }
        self.forget();
    }

    /// The key is chosen: the keys that come later start at its tag.
    pub(super) fn chosen(&mut self, key: &K) {
        if let Some(place) = self.places.get(key) {
            self.now = self.now.max(place.tag);
        }
        self.forget();
    }

    /// Adds `cost` to the key's tag; a negative cost gives back what was charged before it was known.
    pub(super) fn charge(&mut self, key: &K, cost: i64) {
        let known = self.places.get(key).copied();
        self.came += u64::from(known.is_none());
        let place = known.unwrap_or(Place { tag: self.now, came: self.came, waits: false });
        self.put(key, known, Place { tag: place.tag.saturating_add_signed(cost), ..place });
        self.forget();
    }

    /// The keys that wait, the next one first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &K> {
        self.waiting.values()
    }

    /// Whether no key waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether anything is held of the key.
    pub(super) fn knows(&self, key: &K) -> bool {
        self.places.contains_key(key)
    }

    /// Keys of which anything is held.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn put(&mut self, key: &K, before: Option<Place>, after: Place) {
        if let Some(place) = before {
            self.line(place.waits).remove(&(place.tag, place.came));
        }
        self.line(after.waits).insert((after.tag, after.came), key.clone());
        self.places.insert(key.clone(), after);
    }

    fn line(&mut self, waits: bool) -> &mut BTreeMap<(u64, u64), K> {
        if waits { &mut self.waiting } else { &mut self.resting }
    }

    fn forget(&mut self) {
        while let Some(entry) = self.resting.first_entry()
            && entry.key().0 <= self.now
        {
            self.places.remove(&entry.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses `times` times; each choice costs what `cost` says of the key.
    fn choose(fair: &mut Fair<char>, times: usize, cost: impl Fn(char) -> i64) -> String {
        (0..times)
            .map(|_| {
                let key = *fair.in_order().next().unwrap();
                fair.chosen(&key);
                fair.charge(&key, cost(key));
                key
            })
            .collect()
    }

    #[test]
    fn each_key_has_the_same_cost_in_turn() {
        let mut fair = Fair::new();
        ['a', 'b'].iter().for_each(|key| fair.enter(key));
        assert_eq!(choose(&mut fair, 4, |_| 1), "abab");
        // One turn of a costs as much as three of b.
        assert_eq!(choose(&mut fair, 8, |key| if key == 'a' { 3 } else { 1 }), "abbbabbb");
    }

    #[test]
    fn a_key_that_comes_anew_is_next_and_has_saved_nothing_up() {
        let mut fair = Fair::new();
        fair.enter(&'a');
        choose(&mut fair, 100, |_| 10);
        fair.enter(&'b');
        assert_eq!(choose(&mut fair, 4, |_| 10), "baba");
    }

    #[test]
    fn a_key_does_not_lose_its_tag_by_leaving() {
        let mut fair = Fair::new();
        ['a', 'b'].iter().for_each(|key| fair.enter(key));
        assert_eq!(choose(&mut fair, 1, |_| 10), "a");
        fair.leave(&'a');
        fair.enter(&'a');
        assert_eq!(choose(&mut fair, 1, |_| 10), "b");
    }

    #[test]
    fn what_does_not_wait_is_forgotten_once_its_tag_is_passed() {
        let mut fair = Fair::new();
        ['a', 'b'].iter().for_each(|key| fair.enter(key));
        choose(&mut fair, 1, |_| 10);
        fair.leave(&'a');
        assert!(fair.knows(&'a'));
        choose(&mut fair, 2, |_| 20);
        assert!(!fair.knows(&'a'));
        fair.leave(&'b');
        assert!(fair.is_empty());
    }
}
