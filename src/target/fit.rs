//! The budget: which of the wanted instances fit, over all functions, in memory and in slots.
//!
//! Must not: change what a function asked for, or grant more than that.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::types::{WarmKind, WarmTarget};

/// What one function wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Its target, before the budget.
    pub target: &'a WarmTarget,
    /// Whose it is: any number below [`Budget::tenants`], the same for all functions of one tenant. Functions without a tenant
    /// are one tenant's.
    pub tenant: u32,
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

/// An amount of the two things that an instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Bytes of linear memory.
    pub bytes: u64,
    /// Slots of the pool: one an instance.
    pub slots: u32,
}

impl Amount {
    fn holds(&self, instance_bytes: u64) -> bool {
        self.slots >= 1 && self.bytes >= instance_bytes
    }

    fn take(&mut self, instance_bytes: u64) {
        self.slots -= 1;
        self.bytes -= instance_bytes;
    }
}

/// What there is to share.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In all.
    pub all: Amount,
    /// Of each tenant's functions together; at most [`all`](Self::all).
    pub of_tenant: Amount,
    /// The part of `all` that floors and schedules may take before what is announced and expected is served, 0.0 to 1.0
    /// (inclusive).
    pub floor_share: f64,
    /// How many tenants the wishes name: one above the largest number.
    pub tenants: u32,
}

/// Most instances that are granted (inclusive), whatever the budget says. More never live at once on one machine.
const SLOTS_MAX: u32 = 1 << 20;

/// How many instances of each wish fit, in the order of the wishes. Never more than the wish; Σ granted × instance bytes and
/// Σ granted are within the budget, over all and of each tenant.
///
/// **What goes first**: floors and schedules, since a user set them, within their share of the budget; then what pre-triggers
/// (and chains) announce, since somebody said so; then history; then what is left of floors and all others.
///
/// **Among tenants**, at each of these steps, dominant resource fairness (Ghodsi et al. 2011): the next instance goes to the
/// tenant whose larger share, of the bytes or of the slots that were granted by then, is the smallest. So no tenant goes
/// without because another one wants many, or has many functions.
///
/// **Among one tenant's functions** the next instance goes to the one with the fewest, of equal ones to the one whose instances
/// hold the fewest bytes, and then in the order of the wishes; of history to the one where it is worth most per byte, which is
/// how likely it is used by what it holds.
///
/// Costs O(log of wishes and tenants) for each instance that is granted, of which there are at most as many as slots.
pub fn fit(budget: &Budget, wishes: &[Wish<'_>]) -> Vec<u32> {
    let mut sharing = Sharing::new(budget, wishes);
    let all = sharing.left;
    let floors = Amount {
        bytes: (all.bytes as f64 * budget.floor_share) as u64,
        slots: (f64::from(all.slots) * budget.floor_share) as u32,
    };
    sharing.fill(Tier::Floor, Amount { bytes: floors.bytes.min(all.bytes), slots: floors.slots.min(all.slots) });
    for tier in [Tier::Announced, Tier::History, Tier::Rest] {
        sharing.fill(tier, sharing.left);
    }
    sharing.granted
}

/// The order in which the budget is spent.
#[derive(Clone, Copy, PartialEq)]
enum Tier {
    Floor,
    Announced,
    History,
    Rest,
}

impl Tier {
    /// Up to which ready instance this tier asks, at most the target.
    fn reaches(self, target: &WarmTarget) -> u32 {
        let belongs = |kind: WarmKind| match self {
            Self::Floor => matches!(kind, WarmKind::Floor | WarmKind::Schedule),
            Self::Announced => matches!(kind, WarmKind::PreTrigger | WarmKind::Chain),
            Self::History => matches!(kind, WarmKind::History),
            Self::Rest => true,
        };
        // Parts are sorted, so the last one that belongs reaches farthest.
        let part = target.parts.iter().rev().find(|part| belongs(part.reason.kind));
        part.map_or(0, |part| part.instances).min(target.ready)
    }
}

/// A function in its tenant's line; the greatest is next.
type Next = Reverse<(Reverse<u32>, u32, u64, usize)>;

/// The sharing of a budget while it is under way.
struct Sharing<'a> {
    wishes: &'a [Wish<'a>],
    /// What there was.
    all: Amount,
    left: Amount,
    /// By tenant.
    tenants_left: Vec<Amount>,
    of_tenant: Amount,
    granted: Vec<u32>,
}

impl<'a> Sharing<'a> {
    fn new(budget: &Budget, wishes: &'a [Wish<'a>]) -> Self {
        let all = Amount { slots: budget.all.slots.min(SLOTS_MAX), ..budget.all };
        Self {
            wishes,
            all,
            left: all,
            tenants_left: vec![budget.of_tenant; budget.tenants as usize],
            of_tenant: budget.of_tenant,
            granted: vec![0; wishes.len()],
        }
    }

    /// Grants what this tier asks for beyond what was granted before, while it fits into `within`.
    fn fill(&mut self, tier: Tier, mut within: Amount) {
        // Each tenant's functions that want more.
        let mut lines: Vec<BinaryHeap<Next>> = Vec::new();
        lines.resize_with(self.tenants_left.len(), BinaryHeap::new);
        for (index, wish) in self.wishes.iter().enumerate() {
            if tier.reaches(wish.target) > self.granted[index] {
                lines[wish.tenant as usize].push(self.next(tier, index));
            }
        }
        // The tenants that have such a function, by what they have already.
        let open = (0..lines.len()).filter(|&tenant| !lines[tenant].is_empty());
        let mut turns: BinaryHeap<_> = open.map(|tenant| Reverse((self.dominant(tenant), tenant))).collect();
        while within.slots > 0
            && let Some(Reverse((_, tenant))) = turns.pop()
        {
            // What does not fit now never will: what is left only falls.
            while let Some(Reverse((.., bytes, index))) = lines[tenant].pop() {
                if !within.holds(bytes) || !self.tenants_left[tenant].holds(bytes) {
                    continue;
                }
                within.take(bytes);
                self.left.take(bytes);
                self.tenants_left[tenant].take(bytes);
                self.granted[index] += 1;
                if tier.reaches(self.wishes[index].target) > self.granted[index] {
                    let next = self.next(tier, index);
                    lines[tenant].push(next);
                }
                turns.push(Reverse((self.dominant(tenant), tenant)));
                break;
            }
        }
    }

    /// The function's place in its tenant's line for its next instance.
    fn next(&self, tier: Tier, index: usize) -> Next {
        let (wish, has) = (&self.wishes[index], self.granted[index]);
        let bytes = wish.instance_bytes.max(1);
        // f32's bits are in the order of the numbers, as these are not negative.
        let value = if tier == Tier::History { (f64::from(wish.likely(has + 1)) / bytes as f64) as f32 } else { 0.0 };
        Reverse((Reverse(value.to_bits()), has, bytes, index))
    }

    /// The larger one of the tenant's shares of bytes and slots, in millionths of a millionth.
    fn dominant(&self, tenant: usize) -> u64 {
        let left = self.tenants_left[tenant];
        let share = |taken: u64, all: u64| u128::from(taken) * 1_000_000_000_000 / u128::from(all.max(1));
        let bytes = share(self.of_tenant.bytes - left.bytes, self.all.bytes);
        let slots = share(u64::from(self.of_tenant.slots - left.slots), u64::from(self.all.slots));
        u64::try_from(bytes.max(slots)).unwrap_or(u64::MAX)
    }
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
        Wish { target, tenant: 0, instance_bytes, outlook: &[], certain: u32::MAX, in_use: 0 }
    }

    /// So many bytes, and slots enough, for anybody and for any kind.
    fn bytes(bytes: u64) -> Budget {
        let all = Amount { bytes, slots: 5_000 };
        Budget { all, of_tenant: all, floor_share: 1.0, tenants: 4 }
    }

    fn slots(slots: u32, floor_share: f64) -> Budget {
        let all = Amount { bytes: u64::MAX, slots };
        Budget { all, of_tenant: all, floor_share, tenants: 4 }
    }

    fn granted(budget_bytes: u64, wishes: &[(&[(WarmKind, u32)], u64)]) -> Vec<u32> {
        let targets: Vec<_> = wishes.iter().map(|(parts, bytes)| (target(parts), *bytes)).collect();
        let wishes: Vec<_> = targets.iter().map(|(target, bytes)| wish(target, *bytes)).collect();
        fit(&bytes(budget_bytes), &wishes)
    }

    /// A function: its tenant, what it wants, and an instance's bytes.
    type Wanting<'a> = (u32, &'a [(WarmKind, u32)], u64);

    fn shared(budget: &Budget, wishes: &[Wanting<'_>]) -> Vec<u32> {
        let targets: Vec<_> = wishes.iter().map(|(_, parts, _)| target(parts)).collect();
        let wishes: Vec<_> = targets
            .iter()
            .zip(wishes)
            .map(|(target, &(tenant, _, bytes))| Wish { tenant, ..wish(target, bytes) })
            .collect();
        fit(budget, &wishes)
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
    fn a_floor_without_end_leaves_others_their_floors_and_their_notices() {
        let endless: &[(WarmKind, u32)] = &[(Floor, u32::MAX)];
        let wishes: &[Wanting<'_>] = &[(0, endless, 1), (1, &[(Floor, 3)], 1), (1, &[(PreTrigger, 20)], 1)];
        // Three quarters are for floors, in turns; what the others leave goes to whoever wants it.
        assert_eq!(shared(&slots(100, 0.75), wishes), [77, 3, 20]);
        assert_eq!(shared(&slots(40, 0.75), wishes), [27, 3, 10]);
        assert_eq!(shared(&slots(4, 0.75), wishes), [2, 1, 1]);
        // With all of it for floors nothing is left for notices.
        assert_eq!(shared(&slots(40, 1.0), wishes), [37, 3, 0]);
    }

    #[test]
    fn tenants_take_turns_however_many_functions_they_have() {
        let one: &[(WarmKind, u32)] = &[(Floor, 9)];
        let crowd = [(0, one, 10); 30];
        let wishes = [crowd.as_slice(), &[(1, one, 10), (2, one, 10)]].concat();
        let granted = shared(&bytes(150), &wishes);
        // Five each: of the thirty the first five have one, and the others none.
        assert_eq!(granted[..30].iter().sum::<u32>(), 5);
        assert_eq!(&granted[30..], [5, 5]);
        // Instances of four times the size: a fourth of the instances is the same share.
        assert_eq!(shared(&bytes(160), &[(0, one, 40), (1, one, 10)]), [2, 8]);
        // The same kind by kind.
        let (notice, history): (&[_], &[_]) = (&[(PreTrigger, 9)], &[(History, 9)]);
        for kind in [notice, history] {
            assert_eq!(shared(&bytes(60), &[(0, kind, 10), (0, kind, 10), (1, kind, 10)]).last(), Some(&3));
        }
    }

    #[test]
    fn a_tenant_has_no_more_than_its_own_and_the_rest_goes_to_others() {
        let wishes: &[Wanting<'_>] = &[(0, &[(Floor, 9)], 10), (0, &[(History, 9)], 10), (1, &[(History, 9)], 10)];
        let of_tenant = Amount { bytes: 50, slots: 100 };
        assert_eq!(shared(&Budget { of_tenant, ..bytes(1_000) }, wishes), [5, 0, 5]);
        let of_tenant = Amount { bytes: 1_000, slots: 10 };
        assert_eq!(shared(&Budget { of_tenant, ..bytes(1_000) }, wishes), [9, 1, 9]);
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
            tenant: 0,
            instance_bytes,
            outlook,
            certain,
            in_use,
        };
        let (likely, unlikely) = ([(1, 0.9), (2, 0.8), (4, 0.3)], [(1, 0.5), (2, 0.2), (4, 0.1)]);
        let alike = [wish(10, &likely, 0, 0), wish(10, &unlikely, 0, 0)];
        // 0.9, 0.8, 0.5, 0.3, 0.3, 0.2, 0.1, 0.1
        assert_eq!((1..=8).map(|n| fit(&bytes(n * 10), &alike)[0]).collect::<Vec<_>>(), [1, 2, 2, 3, 4, 4, 4, 4]);
        // The likely one holds four times the bytes: 0.225, 0.2 and 0.075 for each ten bytes.
        let heavy = [wish(40, &likely, 0, 0), wish(10, &unlikely, 0, 0)];
        assert_eq!(
            [10, 50, 60, 100, 110].map(|budget| fit(&bytes(budget), &heavy)),
            [[0, 1], [1, 1], [1, 2], [2, 2], [2, 3]]
        );
        // What was in use a moment ago is certain, and what is in use now counts before the ready ones.
        let recent = [wish(10, &likely, 0, 2), wish(10, &unlikely, 2, 1)];
        assert_eq!([10, 20, 50].map(|budget| fit(&bytes(budget), &recent)), [[0, 1], [1, 1], [2, 3]]);
    }

    #[test]
    fn what_can_never_fit_does_not_hold_up_the_others() {
        assert_eq!(granted(100, &[(&[(Floor, 1)], 1_000), (&[(History, 12)], 10)]), [0, 10]);
        let huge: &[(WarmKind, u32)] = &[(Floor, u32::MAX)];
        assert_eq!(granted(u64::MAX, &[(huge, u64::MAX), (huge, 1)]), [0, 5_000]);
        assert_eq!(granted(7, &[(huge, 0)]), [7]);
    }

    fn any_wish() -> impl Strategy<Value = (Vec<(WarmKind, u32)>, u64)> {
        let kinds = prop::sample::select(vec![Floor, History, PreTrigger]);
        (prop::collection::vec((kinds, 1_u32..40), 0..4), 0_u64..60)
    }

    proptest! {
        #[test]
        fn the_budgets_hold_and_nothing_is_left_that_fits(
            wishes in prop::collection::vec((0_u32..3, any_wish()), 0..30),
            bytes in 0_u64..20_000,
            slots in 0_u32..400,
            tenant_bytes in 0_u64..20_000,
            tenant_slots in 0_u32..400,
            floor_share in 0.0_f64..=1.0,
        ) {
            let targets: Vec<_> = wishes.iter().map(|(_, (parts, _))| target(parts)).collect();
            let wishes: Vec<_> = targets
                .iter()
                .zip(&wishes)
                .map(|(target, &(tenant, (_, bytes)))| Wish { tenant, ..wish(target, bytes) })
                .collect();
            let all = Amount { bytes, slots };
            let of_tenant = Amount { bytes: tenant_bytes.min(bytes), slots: tenant_slots.min(slots) };
            let granted = fit(&Budget { all, of_tenant, floor_share, tenants: 3 }, &wishes);
            let spent = |tenants: std::ops::Range<u32>| {
                let theirs = granted.iter().zip(&wishes).filter(|(_, wish)| tenants.contains(&wish.tenant));
                let (mut bytes, mut slots) = (0, 0);
                for (n, wish) in theirs {
                    bytes += u64::from(*n) * wish.instance_bytes.max(1);
                    slots += n;
                }
                Amount { bytes, slots }
            };
            let left = |of: Amount, spent: Amount| {
                Amount { bytes: of.bytes.checked_sub(spent.bytes).unwrap(), slots: of.slots.checked_sub(spent.slots).unwrap() }
            };
            let left_in_all = left(all, spent(0..3));
            for (n, wish) in granted.iter().zip(&wishes) {
                prop_assert!(*n <= wish.target.ready);
                let left_of_tenant = left(of_tenant, spent(wish.tenant..wish.tenant + 1));
                let bytes = wish.instance_bytes.max(1);
                // Cut short means that one more would not have fitted.
                prop_assert!(*n == wish.target.ready || !left_in_all.holds(bytes) || !left_of_tenant.holds(bytes));
            }
        }

        #[test]
        fn of_two_tenants_that_go_short_neither_has_more_than_one_instance_more(
            sizes in prop::collection::vec((0_u32..3, 1_u32..40), 1..20),
            slots in 0_u32..200,
            kind in prop::sample::select(vec![Floor, History, PreTrigger]),
        ) {
            let targets: Vec<_> = sizes.iter().map(|&(_, n)| target(&[(kind, n)])).collect();
            let wishes: Vec<_> =
                targets.iter().zip(&sizes).map(|(target, &(tenant, _))| Wish { tenant, ..wish(target, 7) }).collect();
            let granted = fit(&self::slots(slots, 0.5), &wishes);
            let sum = |tenant: u32, of: &dyn Fn(usize) -> u32| {
                (0..sizes.len()).filter(|&index| sizes[index].0 == tenant).map(of).sum::<u32>()
            };
            for one in 0..3 {
                for other in 0..3 {
                    let has = |tenant| sum(tenant, &|index| granted[index]);
                    let is_short = |tenant| has(tenant) < sum(tenant, &|index| sizes[index].1);
                    prop_assert!(!is_short(one) || has(other) <= has(one) + 1, "{granted:?}");
                }
            }
        }
    }
}
