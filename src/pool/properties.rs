//! The ledger against a plain list of who holds what, under any sequence of calls.

use proptest::prelude::*;

use super::{Bounds, Capacity, Full, Ledger, NoGrowth, Purpose, SlotId, StaleSlot};
use crate::types::FunctionName;

#[derive(Clone, Debug)]
enum Step {
    Reserve { function: usize, bytes: u64, purpose: Purpose },
    Resize { pick: prop::sample::Index, bytes: u64 },
    Grow { pick: prop::sample::Index, bytes: u64 },
    Release { pick: prop::sample::Index },
    ReleaseAgain { pick: prop::sample::Index },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![9 => 0..400_u64, 1 => any::<u64>()];
    let step = prop_oneof![
        4 => (0..3_usize, bytes.clone(), prop_oneof![Just(Purpose::Call), Just(Purpose::Warmth)])
            .prop_map(|(function, bytes, purpose)| Step::Reserve { function, bytes, purpose }),
        1 => (any::<prop::sample::Index>(), bytes.clone()).prop_map(|(pick, bytes)| Step::Resize { pick, bytes }),
        2 => (any::<prop::sample::Index>(), bytes).prop_map(|(pick, bytes)| Step::Grow { pick, bytes }),
        2 => any::<prop::sample::Index>().prop_map(|pick| Step::Release { pick }),
        1 => any::<prop::sample::Index>().prop_map(|pick| Step::ReleaseAgain { pick }),
    ];
    prop::collection::vec(step, 0..200)
}

/// Slots held: (slot, function, bytes).
type Held = Vec<(SlotId, usize, u64)>;

fn sum(held: &Held, function: Option<usize>) -> Capacity {
    let mine = || held.iter().filter(|(_, holder, _)| function.is_none_or(|function| function == *holder));
    let bytes: u128 = mine().map(|(_, _, bytes)| u128::from(*bytes)).sum();
    Capacity { instances: u32::try_from(mine().count()).unwrap(), bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_ledger_agrees_with_the_list(
        instances in 0..20_u32, bytes in prop_oneof![0..2_000_u64, Just(u64::MAX)], share in 0.01..1.0_f64, steps in steps(),
    ) {
        let capacity = Capacity { instances, bytes };
        let bounds = Bounds::of(capacity, share);
        let functions = ["a", "b", "c"].map(|name| FunctionName::new(name).unwrap());
        let mut ledger = Ledger::new(bounds);
        let mut held = Held::new();
        let mut released: Vec<SlotId> = Vec::new();
        for step in steps {
            match step {
                Step::Reserve { function, bytes, purpose } => {
                    let (before, own) = (sum(&held, None), sum(&held, Some(function)));
                    let room = if purpose == Purpose::Call { bounds.all } else { bounds.ahead };
                    let exact: u128 = held.iter().map(|(_, _, bytes)| u128::from(*bytes)).sum();
                    let fits = exact + u128::from(bytes) <= u128::from(room.bytes);
                    let in_share = own.instances == 0
                        || (own.instances < bounds.function.instances
                            && own.bytes.saturating_add(bytes) <= bounds.function.bytes);
                    match ledger.reserve(&functions[function], bytes, purpose) {
                        Ok(slot) => {
                            prop_assert!(before.instances < room.instances && fits && in_share);
                            prop_assert!(!held.iter().any(|(other, ..)| *other == slot));
                            prop_assert!(!released.contains(&slot));
                            held.push((slot, function, bytes));
                        }
                        Err(Full::Never { .. }) => prop_assert!(bytes > capacity.bytes),
                        Err(Full::Share { .. }) => prop_assert!(!in_share),
                        Err(Full::Instances { .. }) => prop_assert!(before.instances >= room.instances),
                        Err(Full::Bytes { .. }) => prop_assert!(!fits),
                    }
                }
                Step::Resize { pick, bytes } if !held.is_empty() => {
                    let nth = pick.index(held.len());
                    prop_assert_eq!(ledger.resized(held[nth].0, bytes), Ok(()));
                    held[nth].2 = bytes;
                }
                Step::Grow { pick, bytes } if !held.is_empty() => {
                    let nth = pick.index(held.len());
                    let exact: u128 = held.iter().map(|(_, _, bytes)| u128::from(*bytes)).sum();
                    let fits = exact + u128::from(bytes) <= u128::from(capacity.bytes);
                    match ledger.grow(held[nth].0, bytes) {
                        Ok(()) => {
                            prop_assert!(fits);
                            held[nth].2 += bytes;
                        }
                        Err(NoGrowth::Full(_)) => prop_assert!(!fits),
                        Err(NoGrowth::Stale(_)) => prop_assert!(false, "the slot is held"),
                    }
                }
                Step::Release { pick } if !held.is_empty() => {
                    let (slot, ..) = held.swap_remove(pick.index(held.len()));
                    prop_assert_eq!(ledger.release(slot), Ok(()));
                    released.push(slot);
                }
                Step::ReleaseAgain { pick } if !released.is_empty() => {
                    let slot = released[pick.index(released.len())];
                    prop_assert_eq!(ledger.release(slot), Err(StaleSlot { slot }));
                }
                Step::Resize { .. } | Step::Grow { .. } | Step::Release { .. } | Step::ReleaseAgain { .. } => {}
            }
            prop_assert_eq!(ledger.in_use(), sum(&held, None));
            for (nth, function) in functions.iter().enumerate() {
                prop_assert_eq!(ledger.of(function), sum(&held, Some(nth)));
            }
            prop_assert!(ledger.in_use().instances <= capacity.instances);
            let exact: u128 = held.iter().map(|(_, _, bytes)| u128::from(*bytes)).sum();
            let over = u64::try_from(exact.saturating_sub(u128::from(capacity.bytes))).unwrap_or(u64::MAX);
            prop_assert_eq!(ledger.over_budget(), over);
        }
    }
}
