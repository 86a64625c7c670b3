//! The ready instances of one function, the calls that wait for one, and the counts between them.
//!
//! A plain state machine: it starts nothing and drops nothing by itself; it answers what to do. Instances and calls are
//! type parameters, so that its rules are tested without a guest. It is guarded by a lock that is held for pushes and
//! pops only.

use std::collections::VecDeque;

use crate::pool::{self, Change};
use crate::types::{PoolUsage, WarmTarget};

/// What to do with a call that was just handed in.
#[derive(Debug, PartialEq)]
pub(super) enum Submitted<I, C> {
    /// Run it now in this instance.
    Run(I, C),
    /// It waits for an instance; [`Shelf::lacks`] says whether one is to be prepared for it.
    Waits,
}

/// What to do with an instance that became free.
#[derive(Debug, PartialEq)]
pub(super) enum Offered<I, C> {
    /// Run this waiting call in it.
    Run(I, C),
    /// It was put on the shelf.
    Shelved,
}

/// See the head of this file. `I` is an instance, `C` a call.
#[derive(Debug)]
pub(super) struct Shelf<I, C> {
    /// Most recently used last: taking from the end finds the warmest memory.
    ready: VecDeque<I>,
    waiting: VecDeque<C>,
    busy: u32,
    preparing: u32,
    in_flight_peak: u32,
    concurrency: u32,
    target: WarmTarget,
}

impl<I, C> Shelf<I, C> {
    /// An empty shelf for a function that runs at most `concurrency` calls at once.
    pub(super) fn new(concurrency: u32) -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            busy: 0,
            preparing: 0,
            in_flight_peak: 0,
            concurrency,
            target: WarmTarget::default(),
        }
    }

    /// Takes a call: it runs at once where an instance is ready and the concurrency limit allows, else it waits in line.
    pub(super) fn submit(&mut self, call: C) -> Submitted<I, C> {
        let submitted = if self.waiting.is_empty() && self.busy < self.concurrency && !self.ready.is_empty() {
            match self.ready.pop_back() {
                Some(instance) => {
                    self.busy += 1;
                    Submitted::Run(instance, call)
                }
                None => unreachable!("the shelf was just seen not to be empty"),
            }
        } else {
            self.waiting.push_back(call);
            Submitted::Waits
        };
        self.in_flight_peak = self.in_flight_peak.max(self.in_flight());
        submitted
    }

    /// Puts a call in line without asking for an instance: the code is not there yet.
    pub(super) fn wait(&mut self, call: C) {
        self.waiting.push_back(call);
        self.in_flight_peak = self.in_flight_peak.max(self.in_flight());
    }

    /// Whether a call waits that no instance is in sight of, and that may run once there is one.
    pub(super) fn lacks(&self) -> bool {
        pool::on_demand(&self.usage(0), self.concurrency) > 0
    }

    /// What to do about the target, by what is here.
    pub(super) fn plan(&self) -> Change {
        pool::plan(&self.usage(0), &self.target, self.concurrency)
    }

    /// A preparation begins.
    pub(super) fn begin(&mut self) {
        self.preparing += 1;
    }

    /// A preparation ended with an instance.
    pub(super) fn prepared(&mut self, instance: I) -> Offered<I, C> {
        self.preparing -= 1;
        self.offer(instance)
    }

    /// A preparation ended without one.
    pub(super) fn not_prepared(&mut self) {
        self.preparing -= 1;
    }

    /// A call ended and its instance may serve again.
    pub(super) fn freed(&mut self, instance: I) -> Offered<I, C> {
        self.busy -= 1;
        self.offer(instance)
    }

    /// A call ended and its instance is gone.
    pub(super) fn lost(&mut self) {
        self.busy -= 1;
    }

    fn offer(&mut self, instance: I) -> Offered<I, C> {
        if self.busy < self.concurrency
            && let Some(call) = self.waiting.pop_front()
        {
            self.busy += 1;
            return Offered::Run(instance, call);
        }
        self.ready.push_back(instance);
        Offered::Shelved
    }

    /// A call and an instance that can be brought together now: where a limit kept them apart until a call ended.
    pub(super) fn pair(&mut self) -> Option<(I, C)> {
        if self.busy >= self.concurrency || self.waiting.is_empty() {
            return None;
        }
        let instance = self.ready.pop_back()?;
        let call = self.waiting.pop_front()?;
        self.busy += 1;
        Some((instance, call))
    }

    /// Takes the longest idle instance off the shelf, to be retired.
    pub(super) fn retire(&mut self) -> Option<I> {
        self.ready.pop_front()
    }

    /// The instance that [`retire`](Self::retire) would take.
    pub(super) fn longest_idle(&self) -> Option<&I> {
        self.ready.front()
    }

    /// Takes every ready instance off the shelf.
    pub(super) fn retire_all(&mut self) -> Vec<I> {
        self.ready.drain(..).collect()
    }

    /// Takes the call that has waited longest, to be answered without running.
    pub(super) fn abandon(&mut self) -> Option<C> {
        self.waiting.pop_front()
    }

    /// Takes every waiting call for which `expired` holds, to be answered without running.
    pub(super) fn abandon_if(&mut self, mut expired: impl FnMut(&C) -> bool) -> Vec<C> {
        if !self.waiting.iter().any(&mut expired) {
            return Vec::new();
        }
        let (gone, stay) = self.waiting.drain(..).partition(expired);
        self.waiting = stay;
        Vec::from(gone)
    }

    /// Sets what is wanted; the caller then reconciles.
    pub(super) fn set_target(&mut self, target: WarmTarget) {
        self.target = target;
    }

    /// What is wanted.
    pub(super) fn target(&self) -> &WarmTarget {
        &self.target
    }

    /// A new version may allow another number of calls at once.
    pub(super) fn set_concurrency(&mut self, concurrency: u32) {
        self.concurrency = concurrency;
    }

    /// How many instances are ready.
    pub(super) fn ready(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }

    /// Calls running and waiting.
    pub(super) fn in_flight(&self) -> u32 {
        self.busy.saturating_add(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX))
    }

    /// Whether nothing is here, wanted, or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.in_flight() == 0 && self.preparing == 0 && self.in_flight_peak == 0
    }

    /// The counts; does not end the peak's period.
    pub(super) fn usage(&self, instance_bytes: u64) -> PoolUsage {
        PoolUsage {
            ready: self.ready(),
            preparing: self.preparing,
            busy: self.busy,
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            in_flight_peak: self.in_flight_peak,
            instance_bytes,
        }
    }

    /// The counts; starts a new period for the peak.
    pub(super) fn look(&mut self, instance_bytes: u64) -> PoolUsage {
        let usage = self.usage(instance_bytes);
        self.in_flight_peak = self.in_flight();
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_instance_is_taken_warmest_first() {
        let mut shelf = Shelf::<u8, char>::new(8);
        shelf.begin();
        shelf.begin();
        assert_eq!(shelf.prepared(1), Offered::Shelved);
        assert_eq!(shelf.prepared(2), Offered::Shelved);
        assert_eq!(shelf.submit('a'), Submitted::Run(2, 'a'));
        assert_eq!(shelf.usage(0), PoolUsage { ready: 1, busy: 1, in_flight_peak: 1, ..PoolUsage::default() });
    }

    #[test]
    fn a_waiting_call_gets_whichever_instance_comes_first() {
        let mut shelf = Shelf::<u8, char>::new(8);
        assert_eq!(shelf.submit('a'), Submitted::Waits);
        assert_eq!(shelf.submit('b'), Submitted::Waits);
        for _ in 0..2 {
            assert!(shelf.lacks());
            shelf.begin();
        }
        assert!(!shelf.lacks());
        assert_eq!(shelf.prepared(1), Offered::Run(1, 'a'));
        // The first call ends before the second instance is ready: the second call runs in the used one.
        assert_eq!(shelf.freed(1), Offered::Run(1, 'b'));
        assert_eq!(shelf.prepared(2), Offered::Shelved);
    }

    #[test]
    fn an_instance_on_its_way_serves_the_call_that_came_meanwhile() {
        let mut shelf = Shelf::<u8, char>::new(8);
        shelf.begin();
        assert_eq!(shelf.submit('a'), Submitted::Waits);
        assert!(!shelf.lacks());
        assert_eq!(shelf.prepared(1), Offered::Run(1, 'a'));
    }

    #[test]
    fn concurrency_holds_and_the_next_call_follows() {
        let mut shelf = Shelf::<u8, char>::new(1);
        shelf.begin();
        shelf.begin();
        shelf.prepared(1);
        shelf.prepared(2);
        assert_eq!(shelf.submit('a'), Submitted::Run(2, 'a'));
        assert_eq!(shelf.submit('b'), Submitted::Waits);
        assert!(!shelf.lacks());
        assert_eq!(shelf.pair(), None);
        assert_eq!(shelf.freed(2), Offered::Run(2, 'b'));
        assert_eq!(shelf.usage(0).busy, 1);
    }

    #[test]
    fn a_lost_instance_is_replaced_for_those_who_wait() {
        let mut shelf = Shelf::<u8, char>::new(1);
        assert_eq!((shelf.submit('a'), shelf.lacks()), (Submitted::Waits, true));
        shelf.begin();
        assert_eq!((shelf.submit('b'), shelf.lacks()), (Submitted::Waits, false));
        assert_eq!(shelf.prepared(1), Offered::Run(1, 'a'));
        assert!(!shelf.lacks());
        shelf.lost();
        assert!(shelf.lacks());
        shelf.begin();
        assert_eq!(shelf.prepared(2), Offered::Run(2, 'b'));
    }

    #[test]
    fn the_peak_lasts_until_it_was_looked_at() {
        let mut shelf = Shelf::<u8, char>::new(8);
        shelf.submit('a');
        shelf.submit('b');
        shelf.begin();
        assert_eq!(shelf.prepared(1), Offered::Run(1, 'a'));
        shelf.freed(1);
        assert_eq!(shelf.look(0).in_flight_peak, 2);
        assert_eq!(shelf.look(0).in_flight_peak, 1);
    }

    #[test]
    fn only_expired_calls_are_abandoned_and_order_stays() {
        let mut shelf = Shelf::<u8, u32>::new(8);
        for call in 1..=4 {
            shelf.submit(call);
        }
        shelf.begin();
        assert_eq!(shelf.abandon_if(|call| call % 2 == 0), vec![2, 4]);
        assert_eq!(shelf.prepared(9), Offered::Run(9, 1));
        assert_eq!(shelf.abandon(), Some(3));
    }
}
