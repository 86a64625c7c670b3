//! The memory budget: which of the wanted instances fit, over all functions.
//!
//! Must not: change what a function asked for, or grant more than that.

use std::cmp::Reverse;

use crate::types::{WarmKind, WarmTarget};

/// What one function wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Its target, before the budget.
    pub target: &'a WarmTarget,
    /// No more than this is granted, whatever the target.
    pub most: u32,
    /// Bytes of linear memory that one instance holds; 0 counts as 1, since nothing is free.
    pub instance_bytes: u64,
    /// Levels of instances in use at once, and how likely each is reached, as in `Demand::outlook`.
    pub outlook: &'a [(u32, f32)],
    /// Instances in use at once that are as good as certain: those of the last moments.
    pub certain: u32,
    /// Instances in use now that will be ready again: the first ready one is the next after these.
    pub in_use: u32,
}

impl Wish<'_> {
    /// How likely the `nth` ready instance (from 1) is used within the minute: what it is worth.
    fn likely(&self, nth: u32) -> f32 {
        let level = self.in_use.saturating_add(nth);
        if level <= self.certain {
            return 1.0;
        }
        // The next level that is known stands for those below it.
        let at = self.outlook.partition_point(|&(known, _)| known < level);
        self.outlook.get(at).map_or(0.0, |&(_, probability)| probability)
    }
}

/// How many instances of each wish fit, in the order of the wishes. Never more than the wish, and Σ granted × instance
/// bytes is at most `budget_bytes`.
///
/// What goes first: floors and schedules, since a user set them; then what pre-triggers (and chains) announce, since
/// somebody said so; then history. Of the first two instances are granted in rounds, one a function, so that no function
/// goes without because another one wants many. Where the last round does not fit, those with the fewest bytes go first,
/// and equal ones in the order of the wishes. Of history those go first that are worth most per byte, which is how
/// likely they are used by what they hold. What is left is used by whatever still fits, also of a later kind.
///
/// Costs O(n log n) a round of leftovers; what is left at least halves in any two of them, so there are at most 128. For
/// history O(m log m) of the m instances that it asks for, as far as so many fit.
pub fn fit(budget_bytes: u64, wishes: &[Wish<'_>]) -> Vec<u32> {
    let mut left = u128::from(budget_bytes);
    let mut granted = vec![0; wishes.len()];
    let mut reached_before = vec![0; wishes.len()];
    for tier in [Tier::Floor, Tier::Announced, Tier::Everything] {
        let mut open = Vec::new();
        for (index, wish) in wishes.iter().enumerate() {
            let reaches = tier.reaches(wish.target).min(wish.most).max(reached_before[index]);
            // A function that was cut short in an earlier tier gets nothing in a later one.
            if granted[index] == reached_before[index] && reaches > granted[index] {
                let missing = reaches - granted[index];
                open.push(Open { bytes: wish.instance_bytes.max(1), index, missing });
            }
            reached_before[index] = reaches;
        }
        match tier {
            Tier::Everything => {
                fill_by_value(&mut left, &mut open, wishes, &mut granted);
                fill(&mut left, open, &mut granted);
            }
            _ => fill(&mut left, open, &mut granted),
        }
    }
    granted
}

/// The order in which the budget is spent.
#[derive(Clone, Copy)]
enum Tier {
    Floor,
    Announced,
    Everything,
}

impl Tier {
    /// Up to which ready instance this tier asks, at most the target.
    fn reaches(self, target: &WarmTarget) -> u32 {
        let belongs = |kind: WarmKind| match self {
            Self::Floor => matches!(kind, WarmKind::Floor | WarmKind::Schedule),
            Self::Announced => matches!(kind, WarmKind::PreTrigger | WarmKind::Chain),
            Self::Everything => true,
        };
        // Parts are sorted, so the last one that belongs reaches farthest.
        let part = target.parts.iter().rev().find(|part| belongs(part.reason.kind));
        match self {
            Self::Everything => target.ready,
            _ => part.map_or(0, |part| part.instances).min(target.ready),
        }
    }
}

/// A function that wants more.
struct Open {
    bytes: u64,
    index: usize,
    missing: u32,
}

impl Open {
    fn bytes_of(&self, instances: u32) -> u128 {
        u128::from(self.bytes) * u128::from(self.missing.min(instances))
    }
}

/// Grants rounds of one instance a function while whole rounds fit, then part of one more; again without those that did
/// not fit.
fn fill(left: &mut u128, mut open: Vec<Open>, granted: &mut [u32]) {
    open.sort_unstable_by_key(|open| (open.bytes, open.index));
    let mut give = |left: &mut u128, open: &mut Open, instances: u32| {
        *left -= open.bytes_of(instances);
        let instances = instances.min(open.missing);
        open.missing -= instances;
        granted[open.index] += instances;
    };
    loop {
        open.retain(|open| open.missing > 0 && u128::from(open.bytes) <= *left);
        let Some(most) = open.iter().map(|open| open.missing).max() else { return };
        let rounds = rounds_that_fit(*left, &open, most);
        for one in &mut open {
            give(left, one, rounds);
        }
        for one in open.iter_mut().filter(|one| one.missing > 0) {
            if u128::from(one.bytes) > *left {
                break;
            }
            give(left, one, 1);
        }
    }
}

/// Instances of one function that are weighed one by one (inclusive); what is beyond is granted in rounds, with what is left.
const BY_VALUE_MAX: u32 = 4_096;

/// Grants what is worth most per byte first; of equal ones those of functions that have fewest, those with the fewest bytes,
/// and then in the order of the wishes.
fn fill_by_value(left: &mut u128, open: &mut [Open], wishes: &[Wish<'_>], granted: &mut [u32]) {
    let mut items = Vec::with_capacity(open.len());
    for (place, one) in open.iter().enumerate() {
        let most = one.missing.min(BY_VALUE_MAX);
        let (wish, has) = (&wishes[one.index], granted[one.index]);
        for nth in 1..=most {
            // f32's bits are in the order of the numbers, as these are not negative.
            let value = (f64::from(wish.likely(has + nth)) / one.bytes as f64) as f32;
            items.push((Reverse(value.to_bits()), has + nth, one.bytes, place as u32));
        }
    }
    items.sort_unstable();
    for (_, _, bytes, place) in items {
        if u128::from(bytes) <= *left {
            *left -= u128::from(bytes);
            let one = &mut open[place as usize];
            one.missing -= 1;
            granted[one.index] += 1;
        }
    }
}

/// The largest number of whole rounds, at most `most`, that fits into `left`.
fn rounds_that_fit(left: u128, open: &[Open], most: u32) -> u32 {
    let fits = |rounds: u32| open.iter().map(|open| open.bytes_of(rounds)).sum::<u128>() <= left;
    let (mut fitting, mut above) = (0, u64::from(most) + 1);
    while above - u64::from(fitting) > 1 {
        let middle = u64::from(fitting).midpoint(above);
        // `middle` is below `above`, which is at most `most` + 1.
        match u32::try_from(middle) {
            Ok(rounds) if fits(rounds) => fitting = rounds,
            _ => above = middle,
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{TargetPart, WarmReason};

    fn target(parts: &[(WarmKind, u32)]) -> WarmTarget {
        let part = |&(kind, instances)| TargetPart { reason: WarmReason { kind, detail: None }, instances };
        let mut parts: Vec<TargetPart> = parts.iter().map(part).collect();
        parts.sort_by_key(|part| part.instances);
        WarmTarget { ready: parts.last().map_or(0, |part| part.instances), parts }
    }

    /// One whose instances are all as good as certain.
    fn wish(target: &WarmTarget, instance_bytes: u64) -> Wish<'_> {
        Wish { target, most: u32::MAX, instance_bytes, outlook: &[], certain: u32::MAX, in_use: 0 }
    }

    fn granted(budget_bytes: u64, wishes: &[(&[(WarmKind, u32)], u64)]) -> Vec<u32> {
        let targets: Vec<_> = wishes.iter().map(|(parts, bytes)| (target(parts), *bytes)).collect();
        let wishes: Vec<_> = targets.iter().map(|(target, bytes)| wish(target, *bytes)).collect();
        fit(budget_bytes, &wishes)
    }

    use WarmKind::{Floor, History, PreTrigger, Schedule};

    #[test]
    fn what_fits_is_granted_in_full() {
        assert_eq!(granted(70, &[(&[(Floor, 1), (PreTrigger, 4)], 10), (&[(History, 3)], 10)]), [4, 3]);
        assert_eq!(granted(0, &[(&[(Floor, 1)], 10)]), [0]);
        assert!(granted(5, &[]).is_empty());
        assert_eq!(granted(30, &[(&[(PreTrigger, 3)], 10), (&[(Schedule, 3)], 10)]), [0, 3]);
    }

    #[test]
    fn no_more_than_most_is_granted_and_the_rest_goes_to_others() {
        let targets = [target(&[(Floor, 2), (History, 9)]), target(&[(History, 9)])];
        let capped = Wish { most: 3, ..wish(&targets[0], 10) };
        assert_eq!(fit(120, &[capped, wish(&targets[1], 10)]), [3, 9]);
        assert_eq!(fit(120, &[Wish { most: 0, ..capped }, wish(&targets[1], 10)]), [0, 9]);
    }

    #[test]
    fn floors_go_before_pre_triggers_and_those_before_history() {
        let wishes: &[(&[(WarmKind, u32)], u64)] =
            &[(&[(History, 4)], 10), (&[(PreTrigger, 4)], 10), (&[(Floor, 2), (History, 4)], 10)];
        assert_eq!(granted(20, wishes), [0, 0, 2]);
        assert_eq!(granted(60, wishes), [0, 4, 2]);
        assert_eq!(granted(90, wishes), [3, 4, 2]);
        assert_eq!(granted(120, wishes), [4, 4, 4]);
    }

    #[test]
    fn the_cheap_go_first_in_the_round_that_does_not_fit() {
        let wishes: &[(&[(WarmKind, u32)], u64)] = &[(&[(Floor, 9)], 30), (&[(Floor, 9)], 10), (&[(Floor, 9)], 20)];
        assert_eq!(granted(59, wishes), [0, 3, 1]);
        assert_eq!(granted(60, wishes), [1, 1, 1]);
        assert_eq!(granted(160, wishes), [2, 4, 3]);
    }

    #[test]
    fn of_history_what_is_worth_most_per_byte_goes_first() {
        let wanted = target(&[(History, 4)]);
        let wish = |instance_bytes, outlook, certain, in_use| Wish {
            target: &wanted,
            most: u32::MAX,
            instance_bytes,
            outlook,
            certain,
            in_use,
        };
        let (likely, unlikely) = ([(1, 0.9), (2, 0.8), (4, 0.3)], [(1, 0.5), (2, 0.2), (4, 0.1)]);
        let alike = [wish(10, &likely, 0, 0), wish(10, &unlikely, 0, 0)];
        // 0.9, 0.8, 0.5, 0.3, 0.3, 0.2, 0.1, 0.1
        assert_eq!((1..=8).map(|n| fit(n * 10, &alike)[0]).collect::<Vec<_>>(), [1, 2, 2, 3, 4, 4, 4, 4]);
        // The likely one holds four times the bytes: 0.225, 0.2 and 0.075 for each ten bytes.
        let heavy = [wish(40, &likely, 0, 0), wish(10, &unlikely, 0, 0)];
        assert_eq!([10, 50, 60, 100, 110].map(|budget| fit(budget, &heavy)), [[0, 1], [1, 1], [1, 2], [2, 2], [2, 3]]);
        // What was in use a moment ago is certain, and what is in use now counts before the ready ones.
        let recent = [wish(10, &likely, 0, 2), wish(10, &unlikely, 2, 1)];
        assert_eq!([10, 20, 50].map(|budget| fit(budget, &recent)), [[0, 1], [1, 1], [2, 3]]);
    }

    #[test]
    fn what_can_never_fit_does_not_hold_up_the_others() {
        assert_eq!(granted(100, &[(&[(Floor, 1)], 1_000), (&[(History, 12)], 10)]), [0, 10]);
        let huge: &[(WarmKind, u32)] = &[(Floor, u32::MAX)];
        assert_eq!(granted(u64::MAX, &[(huge, u64::MAX), (huge, 1)]), [0, u32::MAX]);
        assert_eq!(granted(7, &[(huge, 0)]), [7]);
    }

    fn any_wish() -> impl Strategy<Value = (Vec<(WarmKind, u32)>, u64)> {
        let kinds = prop::sample::select(vec![Floor, History, PreTrigger]);
        (prop::collection::vec((kinds, 1_u32..40), 0..4), 0_u64..60)
    }

    proptest! {
        #[test]
        fn the_budget_holds_nobody_gets_too_much_and_nothing_is_left_that_fits(
            wishes in prop::collection::vec(any_wish(), 0..30),
            budget_bytes in 0_u64..20_000,
        ) {
            let targets: Vec<_> = wishes.iter().map(|(parts, bytes)| (target(parts), *bytes)).collect();
            let wishes: Vec<_> =
                targets.iter().map(|(target, bytes)| wish(target, *bytes)).collect();
            let granted = fit(budget_bytes, &wishes);
            let spent: u64 = granted.iter().zip(&wishes).map(|(n, wish)| u64::from(*n) * wish.instance_bytes.max(1)).sum();
            prop_assert!(spent <= budget_bytes);
            for (n, wish) in granted.iter().zip(&wishes) {
                prop_assert!(*n <= wish.target.ready);
                let floor = Tier::Floor.reaches(wish.target);
                let floors_cost: u64 = wishes
                    .iter()
                    .map(|wish| u64::from(Tier::Floor.reaches(wish.target)) * wish.instance_bytes.max(1))
                    .sum();
                prop_assert!(floors_cost > budget_bytes || *n >= floor);
                // Cut short means that one more would not have fitted.
                prop_assert!(*n == wish.target.ready || wish.instance_bytes.max(1) > budget_bytes - spent);
            }
        }
    }
}
