//! A table of at most so many rows, which forgets what is used least to make room.
//!
//! A hand goes round the rows. For a new row it moves on by one that nobody holds on to, and takes a life of it; of the
//! next few rows the one with the fewest lives gives way. A row that is used gets lives, the more the more it knows, so
//! that a flood of new names pushes out itself before it pushes out what is well known.
//!
//! Must not: forget a row that is pinned, or let the order of its hash map reach an answer.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The place of a row; used again for another row after it was forgotten.
pub(in super::super) type Place = u32;

/// Rows among which the one that gives way is chosen.
const CANDIDATES: usize = 64;

#[derive(Debug)]
struct Row<K, V> {
    key: K,
    value: V,
    pins: u32,
    lives: u8,
}

#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    places: HashMap<K, Place>,
    rows: Vec<Row<K, V>>,
    hand: usize,
    rows_max: u32,
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    pub(super) fn new(rows_max: u32) -> Self {
        Self { places: HashMap::new(), rows: Vec::new(), hand: 0, rows_max }
    }

    pub(super) fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Place>
    where
        K: Borrow<Q>,
    {
        self.places.get(key).copied()
    }

    /// The row at a place that [`Self::find`] or [`Self::insert`] gave and that is pinned since.
    pub(super) fn at(&self, place: Place) -> &V {
        &self.rows[place as usize].value
    }

    pub(super) fn at_mut(&mut self, place: Place) -> &mut V {
        &mut self.rows[place as usize].value
    }

    /// Whose place it is now.
    pub(super) fn key_at(&self, place: Place) -> &K {
        &self.rows[place as usize].key
    }

    /// The keys of the rows from `first` on, with their places.
    pub(super) fn keys(&self, first: Place) -> impl Iterator<Item = (Place, &K)> {
        (first..).zip(self.rows.get(first as usize..).unwrap_or_default().iter().map(|row| &row.key))
    }

    /// Adds a key that is not there. Gives back its place and what was forgotten for it; `None` where every row is
    /// pinned.
    ///
    /// Costs O(1) on average while not nearly all rows are pinned.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<(Place, Option<V>)> {
        let row = Row { key: key.clone(), value, pins: 0, lives: 0 };
        let (place, forgotten) = if self.rows.len() < self.rows_max as usize {
            self.rows.push(row);
            (self.rows.len() - 1, None)
        } else {
            let place = self.choose()?;
            let forgotten = std::mem::replace(&mut self.rows[place], row);
            self.places.remove(&forgotten.key);
            (place, Some(forgotten.value))
        };
        // Below `rows_max`, which is a u32.
        let place = place as Place;
        self.places.insert(key, place);
        Some((place, forgotten))
    }

    fn choose(&mut self) -> Option<usize> {
        let rows = &mut self.rows;
        let count = rows.len();
        let from = |place: usize, steps: usize| (place + steps) % count;
        let first = (0..count).map(|steps| from(self.hand, steps)).find(|&place| rows[place].pins == 0)?;
        self.hand = from(first, 1);
        let candidates = (0..CANDIDATES.min(count)).map(|steps| from(first, steps));
        let chosen = candidates.filter(|&place| rows[place].pins == 0).min_by_key(|&place| rows[place].lives);
        rows[first].lives = rows[first].lives.saturating_sub(1);
        chosen
    }

    /// Keeps the row until [`Self::unpin`] was called as often.
    pub(super) fn pin(&mut self, place: Place) {
        self.rows[place as usize].pins += 1;
    }

    pub(super) fn unpin(&mut self, place: Place) {
        self.rows[place as usize].pins -= 1;
    }

    /// Says that the row was of use, and how much it knows, in notices.
    pub(super) fn used(&mut self, place: Place, known: f32) {
        let row = &mut self.rows[place as usize];
        // The cast saturates, and makes 0 of what is no number.
        row.lives = row.lives.max((1.0 + known / 2.0) as u8);
    }

    #[cfg(test)]
    pub(super) fn pins(&self) -> u32 {
        self.rows.iter().map(|row| row.pins).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_is_pinned_stays() {
        let mut table = Bounded::new(2);
        assert_eq!(table.insert("a", 1), Some((0, None)));
        assert_eq!(table.insert("b", 2), Some((1, None)));
        table.pin(0);
        assert_eq!(table.insert("c", 3), Some((1, Some(2))));
        assert_eq!((table.find("b"), table.find("c")), (None, Some(1)));
        table.pin(1);
        assert_eq!(table.insert("d", 4), None);
        table.unpin(0);
        assert_eq!(table.insert("d", 4), Some((0, Some(1))));
        assert_eq!((*table.at(0), *table.at(1)), (4, 3));
    }

    #[test]
    fn a_flood_of_names_pushes_itself_out_and_not_what_is_known() {
        let mut table = Bounded::new(100);
        for known in 0..20 {
            let (place, _) = table.insert(known, ()).unwrap();
            table.used(place, 30.0);
        }
        assert!((1_000..1_400).all(|name| table.insert(name, ()).is_some()));
        assert!((0..20).all(|known| table.find(&known).is_some()));
        // Known is not for ever: without use, lives run out.
        assert!((2_000..9_000).all(|name| table.insert(name, ()).is_some()));
        assert!((0..20).all(|known| table.find(&known).is_none()));
    }
}
