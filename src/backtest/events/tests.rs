//! Replays of a few calls, followed to the last instance; and what holds for any.

use proptest::prelude::*;

use super::super::ledger::{Account, Cause, Starts};
use super::super::trace::Call;
use super::super::workload::{Bursts, Chains, Sender};
use super::*;
use crate::types::{PreTrigger, Reuse, TargetPart, WarmTarget};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + ms)
}

/// A workload of calls of one function: when, for how long, whether announced; and notices: when, of what, whether lies.
fn workload(reuse: Reuse, notices: &[(PreTrigger, bool)], calls: &[(i64, u64, bool)]) -> Workload {
    let one = Call { at: at(0), function: "f".parse().unwrap(), run: Duration::ZERO };
    let mut workload = Workload::recorded(&[one], reuse);
    workload.happenings.clear();
    for (notice, is_lie) in notices {
        let what = What::Announced { notice: notice.clone(), is_lie: *is_lie };
        workload.happenings.push((notice.emitted_at, what));
    }
    for &(ms, run_ms, is_announced) in calls {
        let what = What::Called { function: 0, run: Duration::from_millis(run_ms), is_announced };
        workload.happenings.push((at(ms), what));
    }
    workload.happenings.sort_by_key(|(at, _)| *at);
    workload
}

/// A notice of calls from 1 s after it was sent, for 2 s.
fn notice(id: &str, source: &str, emitted_ms: i64, calls: u32) -> PreTrigger {
    PreTrigger {
        id: id.to_owned(),
        source: source.to_owned(),
        function: "f".parse().unwrap(),
        tenant: None,
        expected_invocations: calls,
        confidence: 1.0,
        not_before: Some(at(emitted_ms + 1_000)),
        window_ms: 2_000,
        emitted_at: at(emitted_ms),
        attributes: Default::default(),
    }
}

/// History is forgotten at once, so that only notices act.
fn settings() -> Settings {
    // Nothing is held for what the model expects, and nothing for what was: what is counted is what notices brought.
    let forecast =
        ForecastConfig { history_window: Duration::from_micros(12), newcomer_share: 0.0, ..ForecastConfig::default() };
    let target =
        TargetConfig { shrink_after: Duration::ZERO, price: Duration::from_secs(60), ..TargetConfig::default() };
    Settings { forecast, target, ..Settings::default() }
}

fn starts(warm: u64, prewarmed: u64, linked: u64, waited_ms: u64) -> Starts {
    Starts { warm, prewarmed, linked, waited_s: Duration::from_millis(waited_ms).as_secs_f64() }
}

fn source(name: &str) -> Cause {
    Cause::Source(name.to_owned())
}

#[test]
fn announced_calls_find_an_instance_each_and_others_wait_for_theirs() {
    let notices = [(notice("n", "s", 0, 2), false)];
    let calls = [(1_010, 500, true), (1_020, 500, true), (1_030, 10, false)];
    let outcome = run(&workload(Reuse::Fresh, &notices, &calls), &settings());
    assert_eq!(outcome.announced, starts(0, 2, 0, 0));
    // The third came 10 ms after the two: it had an instance made, which took 400 ms.
    assert_eq!(outcome.unannounced, starts(0, 0, 1, 400));
    assert_eq!(outcome.by_function, [Starts { prewarmed: 2, ..outcome.unannounced }]);
    let account = &outcome.accounts[&Cause::Call];
    assert_eq!((account.prepared, account.used), (1, 1));
    assert_eq!(outcome.sources["s"].verdicts, BTreeMap::from([("accepted", 1)]));
}

#[test]
fn a_call_that_waits_takes_what_comes_first() {
    // The first runs from 400 to 1,400 ms, when the second one's own instance is ready, too.
    let calls = [(0, 1_000, false), (1_000, 10, false)];
    let outcome = run(&workload(Reuse::Reuse, &[], &calls), &settings());
    assert_eq!(outcome.unannounced, starts(1, 0, 1, 800));
    assert_eq!((outcome.accounts[&Cause::Call].prepared, outcome.accounts[&Cause::Call].used), (2, 1));
    // Where an instance serves once, one is held for the next call while the first one runs.
    let outcome = run(&workload(Reuse::Fresh, &[], &calls), &settings());
    assert_eq!(outcome.unannounced, starts(0, 1, 1, 400));
    assert_eq!(outcome.accounts[&Cause::Call], Account { prepared: 1, used: 1, held_s: 0.0 });
    assert_eq!(outcome.accounts[&Cause::History].used, 1);
}

#[test]
fn what_is_held_for_a_lie_is_held_to_its_end() {
    let notices = [(notice("n", "liar", 0, 3), true)];
    // A call much later, so that time goes on.
    let outcome = run(&workload(Reuse::Reuse, &notices, &[(5_000, 1, false)]), &settings());
    let liar = &outcome.sources["liar"];
    let account = outcome.accounts[&source("liar")];
    assert_eq!((liar.notices, liar.lies, account.prepared, account.used), (1, 1, 3, 0));
    // Three instances are ready 400 ms after the tick at 100 ms, which heard of the notice, until its end at 3,000 ms.
    assert!((account.held_s - 3.0 * 2.5).abs() < 1e-9, "{account:?}");
    assert_eq!(liar.lies_held_s, account.held_s);
    // It was no source's 50th notice yet.
    assert_eq!((liar.lies_held_late_s, liar.late_s), (0.0, 0.0));
}

#[test]
fn a_source_is_judged_after_its_fiftieth_notice() {
    let notices: Vec<_> = (0..51).map(|n| (notice(&n.to_string(), "s", n * 10_000, 1), n % 2 == 0)).collect();
    let calls: Vec<_> = (0..51).filter(|n| n % 2 == 1).map(|n| (n * 10_000 + 1_000, 1, true)).collect();
    let outcome = run(&workload(Reuse::Fresh, &notices, &calls), &settings());
    let source = &outcome.sources["s"];
    assert_eq!((source.notices, source.lies, outcome.announced), (51, 26, starts(0, 25, 0, 0)));
    // Held to their ends the 25 lies that had time left would have cost 2.5 + 24 × 2.6 s. The calls of the others came a second
    // after their notices, so that a lie is known for one soon after.
    assert!((source.lies_held_s - 15.1).abs() < 1e-6, "{}", source.lies_held_s);
    assert!(source.lies_held_late_s.abs() < 1e-6);
    let (lie, call) = ((notice("late lie", "s", 510_000, 1), true), (520_000, 1, false));
    let (notices, calls) = ([notices, vec![lie]].concat(), [calls, vec![call]].concat());
    let outcome = run(&workload(Reuse::Fresh, &notices, &calls), &settings());
    // Both lies after the fiftieth notice, which came at 490 s.
    let lies_held_late_s = outcome.sources["s"].lies_held_late_s;
    assert!(lies_held_late_s < 2.0 * 2.6 / 4.0, "{lies_held_late_s}");
    let late_s = outcome.sources["s"].late_s;
    assert!((late_s - 30.2).abs() < 1e-6, "{late_s}");
}

#[test]
fn chains_that_act_are_seen_in_the_targets() {
    let workload = Chains { occurrences: 2, unrelated: 0, ..Chains::default() }.make();
    let mut ledger = Ledger::new(&workload, &Settings::default(), at(0));
    let target = |from: &[&str]| WarmTarget {
        ready: 1,
        parts: from
            .iter()
            .map(|from| TargetPart {
                reason: WarmReason { kind: WarmKind::Chain, detail: Some((*from).to_owned()) },
                instances: 1,
            })
            .collect(),
    };
    ledger.called(0);
    ledger.targeted(1, &target(&[]), &target(&["nobody"]));
    ledger.called(0);
    ledger.targeted(1, &target(&[]), &target(&["chain-0"]));
    ledger.targeted(1, &target(&["chain-0"]), &target(&["chain-2", "chain-0"]));
    ledger.called(0);
    ledger.targeted(1, &target(&["chain-2"]), &target(&["chain-0"]));
    let edges: Vec<_> = ledger.finish(at(1)).edges.into_iter().collect();
    let seen: Vec<_> =
        edges.iter().map(|((from, to), edge)| (from.as_str(), to.as_str(), edge.first_acted_at, edge.acted)).collect();
    assert_eq!(seen, [("chain-0", "chain-1", 2, 2), ("chain-2", "chain-1", 0, 1)]);
}

#[test]
fn nothing_happens_where_nothing_does() {
    assert_eq!(run(&Workload::recorded(&[], Reuse::Reuse), &Settings::default()), Outcome::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every call begins once, nothing serves that was not prepared, and the same workload gives the same outcome.
    #[test]
    fn calls_and_instances_are_conserved(
        seed in any::<u64>(),
        lies in 0.0_f64..0.9,
        misses in 0.0_f64..0.9,
        fresh in any::<bool>(),
        prepare_ms in 1_u64..3_000,
    ) {
        let sender = |name: &str| Sender { name: name.to_owned(), episodes: 12, misses, lies };
        let made = Bursts {
            seed,
            functions: 3,
            lasts: Duration::from_secs(60),
            senders: vec![sender("a"), sender("b")],
            reuse: if fresh { Reuse::Fresh } else { Reuse::Reuse },
            ..Bursts::default()
        };
        let workload = made.make();
        let settings = Settings { prepare: Duration::from_millis(prepare_ms), ..Settings::default() };
        let outcome = run(&workload, &settings);
        let count = |announced: bool| workload.happenings.iter().filter(|(_, what)| {
            matches!(what, What::Called { is_announced, .. } if *is_announced == announced)
        }).count() as u64;
        prop_assert_eq!(outcome.announced.calls(), count(true));
        prop_assert_eq!(outcome.unannounced.calls(), count(false));
        let by_function: u64 = outcome.by_function.iter().map(Starts::calls).sum();
        prop_assert_eq!(by_function, count(true) + count(false));
        prop_assert!(outcome.accounts.values().all(|account: &Account| account.used <= account.prepared));
        let first_uses: u64 = outcome.accounts.values().map(|account| account.used).sum();
        let both = [outcome.announced, outcome.unannounced];
        prop_assert_eq!(first_uses, both.iter().map(|starts| starts.prewarmed + starts.linked).sum::<u64>());
        if fresh {
            prop_assert!(both.iter().all(|starts| starts.warm == 0));
        }
        let lies_held_s: f64 = outcome.sources.values().map(|source| source.lies_held_s).sum();
        let held_s: f64 = outcome.accounts.values().map(|account| account.held_s).sum();
        prop_assert!(lies_held_s <= held_s + 1e-6);
        prop_assert_eq!(run(&workload, &settings), outcome);
    }
}
