//! Calls that have to run one after another: lines by key, of each of which one call is out.
//!
//! Must not: know what a key stands for, run a call, or read a clock.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Lines of calls. A line is there while one of its calls is out.
///
/// It has no bound of its own: every call in it is one that ingest counts as in flight, and ingest has a bound.
#[derive(Debug)]
pub struct Lines<K, C> {
    /// Only for look-ups: its order is random and reaches no answer.
    waiting: HashMap<K, VecDeque<C>>,
}

impl<K, C> Default for Lines<K, C> {
    fn default() -> Self {
        Self { waiting: HashMap::new() }
    }
}

impl<K: Eq + Hash, C> Lines<K, C> {
    /// A call comes to a line. It is given back where it may go out at once; otherwise it waits for those before it.
    pub fn enter(&mut self, key: K, call: C) -> Option<C> {
        match self.waiting.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut line) => {
                line.get_mut().push_back(call);
                None
            }
            std::collections::hash_map::Entry::Vacant(line) => {
                line.insert(VecDeque::new());
                Some(call)
            }
        }
    }

    /// The call that was out has ended. Gives the next one of its line, which is out from now on.
    pub fn leave(&mut self, key: &K) -> Option<C> {
        let next = self.waiting.get_mut(key)?.pop_front();
        if next.is_none() {
            self.waiting.remove(key);
        }
        next
    }

    /// Takes out the waiting calls for which `gone` holds; those that are out stay.
    pub fn forget(&mut self, mut gone: impl FnMut(&C) -> bool) -> Vec<C> {
        let mut taken = Vec::new();
        for line in self.waiting.values_mut() {
            if line.iter().any(&mut gone) {
                let (out, stay) = std::mem::take(line).into_iter().partition(&mut gone);
                *line = stay;
                taken.extend::<VecDeque<C>>(out);
            }
        }
        taken
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// How many lines there are.
    pub fn lines(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_call_of_a_key_is_out_and_the_next_follows() {
        let mut lines = Lines::default();
        assert_eq!(lines.enter("a", 1), Some(1));
        assert_eq!(lines.enter("a", 2), None);
        assert_eq!(lines.enter("b", 3), Some(3));
        assert_eq!(lines.enter("a", 4), None);
        assert_eq!((lines.waiting(), lines.lines()), (2, 2));
        assert_eq!(lines.leave(&"a"), Some(2));
        assert_eq!(lines.forget(|call| *call == 4), [4]);
        assert_eq!(lines.leave(&"a"), None);
        assert_eq!(lines.leave(&"b"), None);
        assert_eq!((lines.waiting(), lines.lines()), (0, 0));
        assert_eq!(lines.leave(&"b"), None);
        assert_eq!(lines.enter("a", 5), Some(5));
    }

    proptest! {
        /// Against lists: of each key at most one call is out, they go out in the order in which they came, and none is lost.
        #[test]
        fn order_holds_and_none_is_lost(steps in prop::collection::vec((0_u8..4, 0_u8..5), 1..300)) {
            let mut lines = Lines::default();
            let mut out: BTreeMap<u8, u32> = BTreeMap::new();
            let mut last: BTreeMap<u8, u32> = BTreeMap::new();
            let (mut came, mut ended, mut gone) = (0_u32, 0_u32, 0_u32);
            let goes_out = |key: u8, call: u32, last: &mut BTreeMap<u8, u32>| last.insert(key, call).is_none_or(|before| before < call);
            for (what, key) in steps {
                match what {
                    0 | 1 => {
                        came += 1;
                        if let Some((key, call)) = lines.enter(key, (key, came)) {
                            prop_assert!(goes_out(key, call, &mut last));
                            prop_assert_eq!(out.insert(key, call), None);
                        }
                    }
                    2 => {
                        if out.remove(&key).is_some() {
                            ended += 1;
                            if let Some((key, call)) = lines.leave(&key) {
                                prop_assert!(goes_out(key, call, &mut last));
                                prop_assert_eq!(out.insert(key, call), None);
                            }
                        }
                    }
                    _ => gone += lines.forget(|(of, call)| *of == key && call % 2 == 0).len() as u32,
                }
                prop_assert_eq!(lines.waiting() as u32 + out.len() as u32 + ended + gone, came);
                prop_assert_eq!(lines.lines(), out.len());
            }
        }
    }
}
