//! Turns at the compiler: so many at once, shared fairly over tenants.
//!
//! Round robin over those who have somebody waiting, and first come, first served among their own. A pure queue, and the
//! turn that a task waits for around it. Must not: know what a turn is used for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The waiting of one lane. `T` is whoever waits.
#[derive(Debug)]
struct Queue<T> {
    free: usize,
    /// In the order of their next turn; nobody is in it without somebody waiting.
    tenants: VecDeque<(String, VecDeque<T>)>,
}

impl<T> Queue<T> {
    /// Takes a free turn, or stands in line.
    fn ask(&mut self, tenant: &str, waiter: T) -> Option<T> {
        if self.free > 0 {
            self.free -= 1;
            return Some(waiter);
        }
        match self.tenants.iter_mut().find(|(name, _)| name == tenant) {
            Some((_, waiting)) => waiting.push_back(waiter),
            None => self.tenants.push_back((tenant.to_owned(), VecDeque::from([waiter]))),
        }
        None
    }

    /// A turn is given back: answers who has it next, or keeps it free.
    fn next(&mut self) -> Option<T> {
        let Some((tenant, mut waiting)) = self.tenants.pop_front() else {
            self.free += 1;
            return None;
        };
        let next = waiting.pop_front();
        if !waiting.is_empty() {
            self.tenants.push_back((tenant, waiting));
        }
        next
    }
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(in crate::execute) struct Lane(Arc<Mutex<Queue<oneshot::Sender<Turn>>>>);

/// A turn; it is given back when it is dropped.
#[derive(Debug)]
pub(in crate::execute) struct Turn(Lane);

impl Lane {
    /// A lane of so many turns at once, at least one.
    pub(in crate::execute) fn new(turns: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { free: turns.max(1), tenants: VecDeque::new() })))
    }

    /// Waits for a turn.
    pub(in crate::execute) async fn turn(&self, tenant: &str) -> Turn {
        let (sender, turn) = oneshot::channel();
        let at_once = self.0.lock().unwrap_or_else(PoisonError::into_inner).ask(tenant, sender).is_some();
        if at_once {
            return Turn(self.clone());
        }
        // A sender is dropped only when it was used: the queue lives as long as this lane.
        turn.await.unwrap_or_else(|_| Turn(self.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).next();
        if let Some(next) = next {
            // Whoever does not wait any more drops the turn that comes back here, and so gives it to the next.
            drop(next.send(Turn(self.0.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_take_turns_and_each_is_served_in_order() {
        let mut queue = Queue { free: 1, tenants: VecDeque::new() };
        assert_eq!(queue.ask("a", 1), Some(1));
        for (tenant, waiter) in [("a", 2), ("a", 3), ("a", 4), ("b", 5), ("c", 6), ("b", 7)] {
            assert_eq!(queue.ask(tenant, waiter), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [2, 5, 6, 3, 7, 4]);
        assert_eq!((queue.free, queue.tenants.len()), (1, 0));
    }

    #[test]
    fn a_turn_that_nobody_waits_for_any_more_goes_to_the_next() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let lane = Lane::new(1);
            let first = lane.turn("a").await;
            let (gone, waits) = (lane.clone(), lane.clone());
            let gone = tokio::spawn(async move { gone.turn("a").await });
            let waits = tokio::spawn(async move { waits.turn("b").await });
            while lane.0.lock().unwrap().tenants.len() < 2 {
                tokio::task::yield_now().await;
            }
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
            drop(first);
            drop(waits.await.unwrap());
            assert_eq!(lane.0.lock().unwrap().free, 1);
        });
    }
}
