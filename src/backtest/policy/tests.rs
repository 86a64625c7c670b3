//! Policies against what they are said to do, step by step, and against a model that is too simple to be wrong.

use proptest::prelude::*;

use super::*;

/// What the policy holds in each minute, given the needs.
fn held(policy: &mut dyn Policy, needs: &[u32]) -> Vec<u32> {
    let step = |(minute, need): (u32, &u32)| {
        let warm = policy.warm(minute);
        policy.saw(minute, &Minute { count: *need, load: 0.0, need: *need });
        warm
    };
    (0..).zip(needs).map(step).collect()
}

/// Needs of one in these minutes.
fn used_in(minutes: &[usize], until: usize) -> Vec<u32> {
    (0..until).map(|minute| u32::from(minutes.contains(&minute))).collect()
}

/// The minutes in which something is held.
fn held_in(policy: &mut dyn Policy, needs: &[u32]) -> Vec<usize> {
    held(policy, needs).iter().enumerate().filter(|(_, held)| **held > 0).map(|(minute, _)| minute).collect()
}

#[test]
fn fixed_keeps_each_instance_after_its_own_last_use() {
    assert_eq!(held(&mut Fixed::new(2), &[0, 3, 1, 2, 0, 0, 0, 1]), [0, 0, 3, 3, 2, 2, 0, 0]);
}

#[test]
fn the_oracle_holds_a_minute_ahead() {
    let needs = [0, 3, 0, 1, 1, 0];
    assert_eq!(held(&mut Oracle::new(needs.to_vec()), &needs), [3, 3, 1, 1, 1, 0]);
    assert_eq!(held(&mut Nothing, &needs), [0; 6]);
}

#[test]
fn the_hybrid_prepares_a_regular_function_shortly_before_its_next_use() {
    // Gaps of 20: the window opens at 20 less 10 % and closes at 21 and 10 %, so 18 to 23 minutes after a use.
    let needs = used_in(&[0, 20, 40], 100);
    let before_any_gap = 1..=20;
    let then = (38..=40).chain(58..=63);
    assert_eq!(held_in(&mut HybridHistogram::default(), &needs), before_any_gap.chain(then).collect::<Vec<_>>());
}

#[test]
fn the_hybrid_keeps_a_function_with_a_flat_histogram_for_the_whole_range() {
    // Gaps of 1 to 60, one each: a quarter of the bins, so the variation is √3, below 2.
    let uses: Vec<usize> = (0..=60).map(|n| n * (n + 1) / 2).collect();
    let last = 60 * 61 / 2;
    let held = held_in(&mut HybridHistogram::default(), &used_in(&uses, last + 300));
    assert_eq!(
        held.iter().filter(|minute| **minute > last).copied().collect::<Vec<_>>(),
        Vec::from_iter(last + 1..=last + 240)
    );
}

#[test]
fn the_hybrid_takes_the_mean_of_the_last_gaps_where_most_are_out_of_bounds() {
    // Gaps of 100, 300 and 500: the mean is 300, so 255 to 345 minutes after the last use.
    let needs = used_in(&[0, 100, 400, 900], 1_500);
    let held = held_in(&mut HybridHistogram::default(), &needs);
    assert_eq!(held.into_iter().filter(|minute| *minute > 900).collect::<Vec<_>>(), Vec::from_iter(1_155..=1_245));
}

#[test]
fn the_hybrid_keeps_further_instances_for_ten_minutes_and_the_first_with_them() {
    // Gaps of 30: the first alone would be unloaded until 27 minutes after its use.
    let mut needs = used_in(&[0, 30, 60], 100);
    needs[60] = 3;
    let held = held(&mut HybridHistogram::default(), &needs);
    assert_eq!(held[60..=71], [1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0]);
    assert_eq!(held[86..=88], [0, 1, 1]);
}

#[test]
fn policies_are_read_as_they_are_written() {
    for text in ["fixed:10m", "fixed:1h30m", "hybrid-histogram", "oracle", "none", "ours"] {
        assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
    }
    assert_eq!("fixed:90m".parse(), Ok(Kind::Fixed { minutes: 90 }));
    assert_eq!("ours".parse(), Ok(Kind::Priced("ours".to_owned())));
    for bad in ["fixed:", "fixed:10", "fixed:0m", "fixed:90s", "fixed:61days", "fixed:-5m"] {
        let fault = bad.parse::<Kind>().unwrap_err();
        assert_eq!(fault, format!("{bad} is no policy: give whole minutes from 1m to 60days, like fixed:10m"));
    }
}

proptest! {
    /// Held of the nth instance in minute m, exactly where one of the last `keep` minutes needed n or more.
    #[test]
    fn fixed_is_the_highest_need_of_the_last_minutes(
        keep in 1_usize..12,
        needs in prop::collection::vec(prop_oneof![3 => Just(0_u32), 1 => 1_u32..6], 0..80),
    ) {
        let model: Vec<u32> = (0..needs.len())
            .map(|minute| needs[minute.saturating_sub(keep)..minute].iter().copied().max().unwrap_or(0))
            .collect();
        prop_assert_eq!(held(&mut Fixed::new(keep as u32), &needs), model);
    }
}
