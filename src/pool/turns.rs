//! Turns to prepare an instance: start-time fair queueing by time used, over what the instances are for, then tenants, then
//! functions.
//!
//! A turn is the right to compute. It lasts one [`SLICE`] where others wait: then a preparation gives its turn back and stands
//! in line again with a ticket. A function that waits stands in line once, however many instances it wants; it says how many
//! are left when its turn has come. Must not: begin a preparation, or know a clock.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::Purpose;
use super::fair::Fair;

/// How long a preparation computes before others have their turn: a few epochs, so that giving a turn back costs next to
/// nothing beside it.
pub const SLICE: Duration = Duration::from_millis(8);
/// What the time of work ahead costs, where that of work that a call waits for costs 1: it gets a fifth beside it.
const AHEAD_COST: i64 = 4;

/// The place in line of a preparation that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// A turn: whose, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn<T, F> {
    /// Whose function it is.
    pub tenant: T,
    /// Which function.
    pub function: F,
    /// What the instance is for.
    pub purpose: Purpose,
    /// The preparation that goes on; where it is `None`, the function may begin one.
    pub ticket: Option<Ticket>,
}

/// Where a function stands in line.
#[derive(Debug)]
struct Wish<T> {
    tenant: T,
    purpose: Purpose,
    /// It wants to begin a preparation.
    begins: bool,
    /// Preparations that were begun and want to go on. They come first.
    goes_on: VecDeque<Ticket>,
}

/// Who waits for one purpose.
#[derive(Debug)]
struct Line<T, F> {
    tenants: Fair<T>,
    functions: HashMap<T, Fair<F>>,
}

impl<T: Clone + Eq + Hash, F: Clone + Eq + Hash> Line<T, F> {
    fn new() -> Self {
        Self { tenants: Fair::new(), functions: HashMap::new() }
    }

    fn enter(&mut self, tenant: &T, function: &F) {
        self.tenants.enter(tenant);
        self.functions.entry(tenant.clone()).or_insert_with(Fair::new).enter(function);
    }

    fn leave(&mut self, tenant: &T, function: &F) {
        if let Some(functions) = self.functions.get_mut(tenant) {
            functions.leave(function);
            if functions.is_empty() {
                self.tenants.leave(tenant);
            }
        }
        if self.functions.len() > 2 * self.tenants.len() + 64 {
            let tenants = &self.tenants;
            self.functions.retain(|tenant, functions| !functions.is_empty() || tenants.knows(tenant));
        }
    }

    fn first(&self) -> Option<(T, F)> {
        let tenant = self.tenants.in_order().next()?;
        let function = self.functions.get(tenant)?.in_order().next()?;
        Some((tenant.clone(), function.clone()))
    }

    fn chosen(&mut self, tenant: &T, function: &F) {
        self.tenants.chosen(tenant);
        if let Some(functions) = self.functions.get_mut(tenant) {
            functions.chosen(function);
        }
    }

    fn charge(&mut self, tenant: &T, function: &F, cost: i64) {
        self.tenants.charge(tenant, cost);
        if let Some(functions) = self.functions.get_mut(tenant) {
            functions.charge(function, cost);
        }
    }
}

/// See the head of this file. `T` names a tenant, `F` a function.
///
/// It is bounded by the functions that wait and the preparations that were begun.
#[derive(Debug)]
pub struct Turns<T, F> {
    turns: u32,
    turns_ahead: u32,
    held: u32,
    held_ahead: u32,
    tickets: u64,
    purposes: Fair<Purpose>,
    calls: Line<T, F>,
    ahead: Line<T, F>,
    wishes: HashMap<F, Wish<T>>,
}

impl<T: Clone + Eq + Hash, F: Clone + Eq + Hash> Turns<T, F> {
    /// At most `turns` at once, and at most `turns_ahead` of them for work that no call waits for. 0 is taken as 1.
    pub fn new(turns: u32, turns_ahead: u32) -> Self {
        Self {
            turns: turns.max(1),
            turns_ahead: turns_ahead.max(1),
            held: 0,
            held_ahead: 0,
            tickets: 0,
            purposes: Fair::new(),
            calls: Line::new(),
            ahead: Line::new(),
            wishes: HashMap::new(),
        }
    }

    /// The function wants to begin a preparation. Where it waits already, it stands in the line of calls from now on if one
    /// of the two wishes is for a call.
    pub fn begin(&mut self, tenant: &T, function: &F, purpose: Purpose) {
        self.wish(tenant, function, purpose).begins = true;
    }

    /// A preparation that was begun wants to go on.
    pub fn go_on(&mut self, tenant: &T, function: &F, purpose: Purpose) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.wish(tenant, function, purpose).goes_on.push_back(ticket);
        ticket
    }

    /// A call waits for what the function stands in line for, if it does.
    pub fn hurry(&mut self, function: &F) {
        if let Some(wish) = self.wishes.get(function)
            && wish.purpose == Purpose::Warmth
        {
            let tenant = wish.tenant.clone();
            self.wish(&tenant, function, Purpose::Call);
        }
    }

    /// The next turn, where there is one to give and anybody waits for it. To be given back by [`release`](Self::release).
    pub fn grant(&mut self) -> Option<Turn<T, F>> {
        let purpose = self.next_purpose()?;
        let (tenant, function) = self.line(purpose).first()?;
        let wish = self.wishes.get_mut(&function)?;
        let ticket = wish.goes_on.pop_front();
        if ticket.is_none() {
            wish.begins = false;
        }
        let is_served = !wish.begins && wish.goes_on.is_empty();
        self.purposes.chosen(&purpose);
        self.line(purpose).chosen(&tenant, &function);
        self.held += 1;
        self.held_ahead += u32::from(purpose == Purpose::Warmth);
        self.charge(purpose, &tenant, &function, nanos(SLICE));
        if is_served {
            self.wishes.remove(&function);
            self.leave(&tenant, &function, purpose);
        }
        Some(Turn { tenant, function, purpose, ticket })
    }

    /// Whether somebody waits who could have a turn if this one were given back.
    pub fn is_wanted(&self, turn: &Turn<T, F>) -> bool {
        let held_ahead = self.held_ahead - u32::from(turn.purpose == Purpose::Warmth);
        self.purposes.in_order().any(|purpose| self.may(*purpose, held_ahead))
    }

    /// The turn goes on after `used`, as nobody else waits.
    pub fn renew(&mut self, turn: &Turn<T, F>, used: Duration) {
        self.charge(turn.purpose, &turn.tenant, &turn.function, nanos(used));
    }

    /// The turn is given back after `used` since it was given or last renewed.
    pub fn release(&mut self, turn: &Turn<T, F>, used: Duration) {
        self.held = self.held.saturating_sub(1);
        self.held_ahead = self.held_ahead.saturating_sub(u32::from(turn.purpose == Purpose::Warmth));
        self.charge(turn.purpose, &turn.tenant, &turn.function, nanos(used) - nanos(SLICE));
    }

    /// Functions that wait.
    pub fn waiting(&self) -> usize {
        self.wishes.len()
    }

    fn wish(&mut self, tenant: &T, function: &F, purpose: Purpose) -> &mut Wish<T> {
        let (wish, purpose) = match self.wishes.remove(function) {
            Some(wish) => {
                // A call's wish stays one; a function that was given to another tenant stands with the new one.
                let purpose = if wish.purpose == Purpose::Call { Purpose::Call } else { purpose };
                self.leave(&wish.tenant, function, wish.purpose);
                (Wish { tenant: tenant.clone(), purpose, ..wish }, purpose)
            }
            None => {
                let wish = Wish { tenant: tenant.clone(), purpose, begins: false, goes_on: VecDeque::new() };
                (wish, purpose)
            }
        };
        self.purposes.enter(&purpose);
        self.line(purpose).enter(tenant, function);
        self.wishes.entry(function.clone()).or_insert(wish)
    }

    fn leave(&mut self, tenant: &T, function: &F, purpose: Purpose) {
        self.line(purpose).leave(tenant, function);
        if self.line(purpose).tenants.is_empty() {
            self.purposes.leave(&purpose);
        }
    }

    fn next_purpose(&self) -> Option<Purpose> {
        let is_free = self.held < self.turns;
        self.purposes.in_order().copied().find(|purpose| is_free && self.may(*purpose, self.held_ahead))
    }

    fn may(&self, purpose: Purpose, held_ahead: u32) -> bool {
        purpose == Purpose::Call || held_ahead < self.turns_ahead
    }

    fn charge(&mut self, purpose: Purpose, tenant: &T, function: &F, cost: i64) {
        let weight = if purpose == Purpose::Call { 1 } else { AHEAD_COST };
        self.purposes.charge(&purpose, cost.saturating_mul(weight));
        self.line(purpose).charge(tenant, function, cost);
    }

    fn line(&mut self, purpose: Purpose) -> &mut Line<T, F> {
        match purpose {
            Purpose::Call => &mut self.calls,
            Purpose::Warmth => &mut self.ahead,
        }
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX / 8)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    type Plain = Turns<u8, u8>;

    /// Gives one turn after the other, each for the time that `used` says, and tells whose they were. Functions go on wanting.
    fn run(turns: &mut Plain, times: usize, used: impl Fn(u8) -> Duration) -> Vec<u8> {
        (0..times)
            .map(|_| {
                let turn = turns.grant().expect("somebody waits");
                turns.begin(&turn.tenant, &turn.function, turn.purpose);
                turns.release(&turn, used(turn.function));
                turn.function
            })
            .collect()
    }

    fn count(served: &[u8], function: u8) -> usize {
        served.iter().filter(|other| **other == function).count()
    }

    #[test]
    fn functions_share_by_time_and_not_by_turns() {
        let mut turns = Plain::new(1, 1);
        turns.begin(&0, &1, Purpose::Call);
        turns.begin(&0, &2, Purpose::Call);
        let served = run(&mut turns, 90, |function| if function == 1 { SLICE } else { SLICE / 8 });
        assert_eq!((count(&served, 1), count(&served, 2)), (10, 80));
    }

    #[test]
    fn a_tenant_of_many_functions_has_no_more_than_a_tenant_of_one() {
        let mut turns = Plain::new(1, 1);
        (1..=9).for_each(|function| turns.begin(&0, &function, Purpose::Call));
        turns.begin(&1, &10, Purpose::Call);
        assert_eq!(count(&run(&mut turns, 100, |_| SLICE), 10), 50);
    }

    #[test]
    fn a_function_that_comes_anew_is_next() {
        let mut turns = Plain::new(1, 1);
        (1..=9).for_each(|function| turns.begin(&function, &function, Purpose::Call));
        run(&mut turns, 1_000, |_| SLICE);
        turns.begin(&77, &77, Purpose::Call);
        let served = run(&mut turns, 11, |_| SLICE);
        assert!(served.iter().position(|function| *function == 77).unwrap() <= 9, "{served:?}");
    }

    #[test]
    fn work_ahead_gets_a_fifth_beside_calls_and_never_more_turns_than_its_own() {
        let mut turns = Plain::new(1, 1);
        turns.begin(&0, &1, Purpose::Call);
        turns.begin(&0, &2, Purpose::Warmth);
        let served = run(&mut turns, 100, |_| SLICE);
        assert!((19..=21).contains(&count(&served, 2)), "{served:?}");

        let mut turns = Plain::new(3, 1);
        (1..=3).for_each(|function| turns.begin(&0, &function, Purpose::Warmth));
        let first = turns.grant().unwrap();
        assert_eq!(turns.grant(), None);
        assert!(turns.is_wanted(&first));
        turns.begin(&0, &9, Purpose::Call);
        assert_eq!(turns.grant().map(|turn| turn.function), Some(9));
        turns.release(&first, SLICE);
        assert_eq!(turns.grant().map(|turn| turn.function), Some(2));
    }

    #[test]
    fn what_was_begun_goes_on_before_the_function_begins_more() {
        let mut turns = Plain::new(1, 1);
        turns.begin(&0, &1, Purpose::Call);
        let first = turns.grant().unwrap();
        turns.begin(&0, &1, Purpose::Call);
        assert!(turns.is_wanted(&first));
        let ticket = turns.go_on(&0, &1, Purpose::Call);
        turns.release(&first, SLICE);
        assert_eq!(turns.grant().unwrap().ticket, Some(ticket));
        assert_eq!(turns.grant(), None);
    }

    #[test]
    fn a_call_that_waits_moves_its_function_to_the_line_of_calls() {
        let mut turns = Plain::new(2, 1);
        (1..=2).for_each(|function| turns.begin(&0, &function, Purpose::Warmth));
        let ahead = turns.grant().unwrap();
        assert_eq!((ahead.function, turns.grant()), (1, None));
        turns.hurry(&2);
        turns.hurry(&3);
        let call = turns.grant().unwrap();
        assert_eq!((call.function, call.purpose), (2, Purpose::Call));
        assert_eq!(turns.waiting(), 0);
    }

    #[test]
    fn a_turn_that_was_not_used_costs_nothing() {
        let mut turns = Plain::new(1, 1);
        turns.begin(&0, &1, Purpose::Call);
        turns.begin(&0, &2, Purpose::Call);
        let served = run(&mut turns, 50, |function| if function == 1 { Duration::ZERO } else { SLICE });
        assert_eq!(count(&served, 2), 1, "{served:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u8, u8, bool),
        Next,
        Release(prop::sample::Index, u16),
        GoOn(prop::sample::Index, u16),
        Hurry(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..4_u8, 0..6_u8, any::<bool>()).prop_map(|(tenant, function, call)| Step::Begin(tenant, function, call)),
            4 => Just(Step::Next),
            2 => (any::<prop::sample::Index>(), 0..40_000_u16).prop_map(|(pick, used)| Step::Release(pick, used)),
            2 => (any::<prop::sample::Index>(), 0..40_000_u16).prop_map(|(pick, used)| Step::GoOn(pick, used)),
            1 => (0..6_u8).prop_map(Step::Hurry),
        ]
    }

    proptest! {
        /// Bounds hold; every wish and every ticket is served exactly once; nothing is left when all is served.
        #[test]
        fn every_wish_is_served_once_and_the_bounds_hold(
            most in 1..4_u32, ahead in 1..3_u32, steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut turns = Plain::new(most, ahead);
            let (mut held, mut begins): (Vec<Turn<u8, u8>>, HashMap<u8, bool>) = Default::default();
            let mut tickets: Vec<Ticket> = Vec::new();
            let serve = |turn: &Turn<u8, u8>, begins: &mut HashMap<u8, bool>, tickets: &mut Vec<Ticket>| match turn.ticket {
                Some(ticket) => tickets.iter().position(|other| *other == ticket).map(|at| {
                    tickets.remove(at);
                }),
                None => begins.remove(&turn.function).map(drop),
            };
            for step in steps {
                match step {
                    Step::Begin(tenant, function, call) => {
                        turns.begin(&tenant, &function, if call { Purpose::Call } else { Purpose::Warmth });
                        begins.insert(function, true);
                    }
                    Step::Next => if let Some(turn) = turns.grant() {
                        prop_assert!(serve(&turn, &mut begins, &mut tickets).is_some());
                        held.push(turn);
                    },
                    Step::Release(pick, used) if !held.is_empty() => {
                        let turn = held.swap_remove(pick.index(held.len()));
                        turns.release(&turn, Duration::from_micros(used.into()));
                    }
                    Step::GoOn(pick, used) if !held.is_empty() => {
                        let turn = held.swap_remove(pick.index(held.len()));
                        tickets.push(turns.go_on(&turn.tenant, &turn.function, turn.purpose));
                        turns.release(&turn, Duration::from_micros(used.into()));
                    }
                    Step::Hurry(function) => turns.hurry(&function),
                    Step::Release(..) | Step::GoOn(..) => {}
                }
                prop_assert!(held.len() <= most as usize);
                let held_ahead = held.iter().filter(|turn| turn.purpose == Purpose::Warmth).count();
                prop_assert!(held_ahead <= ahead as usize);
                prop_assert!(turns.waiting() <= 6);
            }
            held.drain(..).for_each(|turn| turns.release(&turn, SLICE));
            while let Some(turn) = turns.grant() {
                prop_assert!(serve(&turn, &mut begins, &mut tickets).is_some());
                turns.release(&turn, SLICE);
            }
            prop_assert!(begins.is_empty() && tickets.is_empty());
            prop_assert_eq!(turns.waiting(), 0);
        }

        /// However long each function's turns are, of those that always wait none gets less than its share of the time, but
        /// for one turn's length.
        #[test]
        fn nobody_that_waits_gets_less_than_its_share(lengths in prop::collection::vec(1..30_u64, 2..6)) {
            let mut turns = Plain::new(1, 1);
            (0..lengths.len()).for_each(|function| turns.begin(&0, &(function as u8), Purpose::Call));
            let used = |function: u8| Duration::from_millis(lengths[usize::from(function)]);
            let served = run(&mut turns, 2_000, used);
            let whole: Duration = served.iter().map(|function| used(*function)).sum();
            for function in 0..lengths.len() as u8 {
                let had = used(function) * u32::try_from(count(&served, function)).unwrap();
                prop_assert!(had + Duration::from_millis(60) >= whole / lengths.len() as u32, "{had:?} of {whole:?}");
            }
        }
    }
}
