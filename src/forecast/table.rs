//! Functions by name and by a short number, so that lists and timers need no names.
//!
//! `control` keeps what it knows of functions in one, too. Must not: know what it holds, or grow past the bound that it was made with.

use std::collections::HashMap;

use super::agenda::Slot;
use crate::types::FunctionName;

#[derive(Debug)]
pub(crate) struct Table<T> {
    /// Only for look-ups: its order is random and must not reach an answer.
    slots: HashMap<FunctionName, Slot>,
    rows: Vec<Option<(FunctionName, T)>>,
    free: Vec<Slot>,
    rows_max: u32,
}

impl<T> Table<T> {
    pub(crate) fn new(rows_max: u32) -> Self {
        Self { slots: HashMap::new(), rows: Vec::new(), free: Vec::new(), rows_max }
    }

    /// All slots that were ever given are below this.
    pub(crate) fn slots(&self) -> Slot {
        // Never above `rows_max`.
        self.rows.len() as Slot
    }

    pub(crate) fn find(&self, name: &FunctionName) -> Option<(Slot, &T)> {
        let slot = *self.slots.get(name)?;
        Some((slot, &self.row(slot)?.1))
    }

    pub(crate) fn find_mut(&mut self, name: &FunctionName) -> Option<(Slot, &mut T)> {
        let slot = *self.slots.get(name)?;
        Some((slot, self.row_mut(slot)?))
    }

    pub(crate) fn row(&self, slot: Slot) -> Option<&(FunctionName, T)> {
        self.rows.get(slot as usize)?.as_ref()
    }

    pub(crate) fn row_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.named_row_mut(slot).map(|(_, row)| row)
    }

    pub(crate) fn named_row_mut(&mut self, slot: Slot) -> Option<(&FunctionName, &mut T)> {
        self.rows.get_mut(slot as usize)?.as_mut().map(|(name, row)| (&*name, row))
    }

    /// Every row, in the order of their slots.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Slot, &FunctionName, &T)> {
        (0..).zip(&self.rows).filter_map(|(slot, row)| row.as_ref().map(|(name, row)| (slot, name, row)))
    }

    /// Adds a name that is not there; `None` where the table is full.
    pub(crate) fn insert(&mut self, name: FunctionName, row: T) -> Option<Slot> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => Slot::try_from(self.rows.len()).ok().filter(|slot| *slot < self.rows_max)?,
        };
        if slot as usize == self.rows.len() {
            self.rows.push(None);
        }
        self.rows[slot as usize] = Some((name.clone(), row));
        self.slots.insert(name, slot);
        Some(slot)
    }

    pub(crate) fn remove(&mut self, name: &FunctionName) -> Option<(Slot, T)> {
        let slot = self.slots.remove(name)?;
        let (_, row) = self.rows.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some((slot, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_and_the_bound_holds() {
        let name = |text: &str| FunctionName::new(text).unwrap();
        let mut table = Table::new(2);
        assert_eq!(table.insert(name("a"), 1), Some(0));
        assert_eq!(table.insert(name("b"), 2), Some(1));
        assert_eq!(table.insert(name("c"), 3), None);
        assert_eq!(table.remove(&name("a")), Some((0, 1)));
        assert_eq!(table.remove(&name("a")), None);
        assert_eq!(table.insert(name("c"), 3), Some(0));
        assert_eq!(table.find(&name("c")), Some((0, &3)));
        assert_eq!(table.row(0), Some(&(name("c"), 3)));
    }
}
