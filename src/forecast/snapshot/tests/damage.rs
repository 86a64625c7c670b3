//! Every single fault that a record may come to, and not some of them: each cut, each bit, each end of time.

use super::*;

/// Goes on after a restore, and says nothing out of bounds.
fn assert_usable(mut forecaster: Forecaster, what: &str) {
    for second in [30_000, 30_060] {
        for function in ["a", "b"] {
            forecaster.arrived(at(second), &name(function), Evidence::default());
            forecaster.ended(at(second), &name(function), Duration::from_secs(1));
        }
        let pre_trigger = PreTrigger { function: name("a"), emitted_at: at(second), ..notice("x") };
        forecaster.pre_trigger(at(second), &pre_trigger);
        forecaster.take_changed(at(second + 30));
        for function in ["a", "b"] {
            let demand = forecaster.demand(at(second), &name(function));
            let is_chance = |chance: &f32| (0.0..=1.0).contains(chance);
            assert!(demand.outlook.iter().all(|(_, chance)| is_chance(chance)), "{what}: {:?}", demand.outlook);
            assert!(
                demand.notices.iter().all(|notice| notice.calls.is_finite() && notice.yields.iter().all(is_chance)),
                "{what}: {:?}",
                demand.notices
            );
        }
    }
    // What it learned on top of that is sound, too: a later start takes it.
    let kept = forecaster.take_all_snapshots(at(30_100));
    assert_eq!(fresh(&["a", "b"]).restore(at(30_100), &kept).refused, [], "{what}");
}

fn restored(kept: &[ForecastSnapshot]) -> (Forecaster, Restored) {
    let mut forecaster = fresh(&["a", "b"]);
    let restored = forecaster.restore(at(30_000), kept);
    (forecaster, restored)
}

#[test]
fn every_cut_is_refused() {
    let kept = taught().take_all_snapshots(at(30_000));
    for snapshot in kept {
        for len in 0..snapshot.state.0.len() {
            let cut = ForecastSnapshot { state: Payload(snapshot.state.0[..len].to_vec()), ..snapshot.clone() };
            let (_, restored) = restored(&[cut]);
            assert_eq!((restored.restored, restored.refused.len()), (0, 1), "{} at {len}", snapshot.function);
        }
    }
}

#[test]
fn every_flipped_bit_is_survived() {
    let kept = taught().take_all_snapshots(at(30_000));
    for snapshot in kept {
        for bit in 0..snapshot.state.0.len() * 8 {
            let mut flipped = snapshot.clone();
            flipped.state.0[bit / 8] ^= 1 << (bit % 8);
            let (forecaster, _) = restored(&[flipped]);
            assert_usable(forecaster, &format!("{}, bit {bit}", snapshot.function));
        }
    }
}

#[test]
fn a_snapshot_of_any_time_before_is_survived() {
    let kept = taught().take_all_snapshots(at(30_000));
    for micros in [i64::MIN, i64::MIN + 1, i64::MIN / 2, -1, 0] {
        let old: Vec<_> = kept
            .iter()
            .map(|snapshot| ForecastSnapshot { taken_at: Timestamp::from_micros(micros), ..snapshot.clone() })
            .collect();
        let (forecaster, restored) = restored(&old);
        assert_eq!(restored.restored, 2);
        assert_usable(forecaster, &format!("{micros} µs"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_survived(mut state in prop::collection::vec(any::<u8>(), 0..2_000), has_form in any::<bool>()) {
        if has_form && !state.is_empty() {
            state[0] = FORMAT;
        }
        let kept = taught_one();
        let (forecaster, _) = restored(&[ForecastSnapshot { state: Payload(state), ..kept }]);
        assert_usable(forecaster, "garbage");
    }
}

fn taught_one() -> ForecastSnapshot {
    ForecastSnapshot { function: name("a"), node: String::new(), taken_at: at(30_000), state: Payload(Vec::new()) }
}
