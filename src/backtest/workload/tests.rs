//! Made workloads are what they say they are, and the same for the same seed.

use super::*;

/// Notices (when, calls, whether a lie) and calls (when, which function, whether announced), in seconds from the first.
type Notices = Vec<(f64, String, u32, bool)>;
type Calls = Vec<(f64, usize, bool)>;

fn taken_apart(workload: &Workload) -> (Notices, Calls) {
    let (mut notices, mut calls) = (Vec::new(), Vec::new());
    for (at, what) in &workload.happenings {
        let at_s = at.since(second(0.0)).as_secs_f64();
        match what {
            What::Announced { notice, is_lie } => {
                notices.push((at_s, notice.source.clone(), notice.expected_invocations, *is_lie));
            }
            What::Called { function, is_announced, .. } => calls.push((at_s, *function, *is_announced)),
        }
    }
    (notices, calls)
}

#[test]
fn bursts_have_their_misses_and_lies_and_come_when_announced() {
    let liar = Sender { name: "liar".to_owned(), episodes: 3_000, misses: 0.0, lies: 0.9 };
    let honest = Sender { name: "honest".to_owned(), episodes: 3_000, misses: 0.2, lies: 0.2 };
    let made = Bursts { senders: vec![honest, liar], ..Bursts::default() };
    let workload = made.make();
    assert_eq!(workload, made.make());
    assert_ne!(workload, Bursts { seed: 2, ..made.clone() }.make());
    assert!(workload.happenings.is_sorted_by_key(|(at, _)| *at));

    let (notices, calls) = taken_apart(&workload);
    let lies = |source: &str| {
        let of: Vec<bool> = notices.iter().filter(|notice| notice.1 == source).map(|notice| notice.3).collect();
        of.iter().filter(|is_lie| **is_lie).count() as f64 / of.len() as f64
    };
    assert!((lies("honest") - 0.2).abs() < 0.02, "{}", lies("honest"));
    assert!((lies("liar") - 0.9).abs() < 0.02, "{}", lies("liar"));

    // As many announced calls come as true notices announce; of the honest one's, a fifth more come unannounced.
    let announced = |source: &str| -> u32 {
        notices.iter().filter(|notice| notice.1 == source && !notice.3).map(|notice| notice.2).sum()
    };
    let came = calls.iter().filter(|call| call.2).count() as u32;
    assert_eq!(came, announced("honest") + announced("liar"));
    let missed = calls.iter().filter(|call| !call.2).count() as f64;
    let share = missed / (missed + f64::from(announced("honest")));
    assert!((share - 0.2).abs() < 0.03, "{share}");
}

#[test]
fn the_calls_of_a_burst_come_between_its_lead_and_its_end() {
    let honest = Sender { name: "honest".to_owned(), episodes: 1, misses: 0.0, lies: 0.0 };
    for seed in 0..20 {
        let made = Bursts { seed, senders: vec![honest.clone()], ..Bursts::default() };
        let (notices, calls) = taken_apart(&made.make());
        let [(announced_s, _, expected, false)] = notices[..] else { panic!("one notice, no lie") };
        assert!((4..=12).contains(&expected) && calls.len() == expected as usize);
        assert!(calls.iter().all(|call| (announced_s + 0.999..announced_s + 1.501).contains(&call.0) && call.2));
    }
}

#[test]
fn a_chain_follows_as_often_and_as_soon_as_it_should() {
    let made = Chains { occurrences: 2_000, unrelated: 5, ..Chains::default() };
    let workload = made.make();
    assert_eq!(workload, made.make());
    assert_eq!(workload.functions.len(), 8);
    let (_, calls) = taken_apart(&workload);
    let count = |function: usize| calls.iter().filter(|call| call.1 == function).count() as f64;
    assert_eq!(count(0), 2_000.0);
    assert!((count(1) / count(0) - 0.8).abs() < 0.03 && (count(2) / count(1) - 0.8).abs() < 0.03);
    // Each call of B has one of A 0.2 to 2 s before it.
    let of = |function: usize| calls.iter().filter(move |call| call.1 == function).map(|call| call.0);
    assert!(of(1).all(|b| of(0).any(|a| (0.199..2.001).contains(&(b - a)))));
    // Unrelated functions are called in steps of 10 to 1,000 s.
    let gap = |function: usize| of(0).next_back().unwrap() / count(function);
    assert!((3..8).all(|function| (9.0..1_500.0).contains(&gap(function))));
}

#[test]
fn recorded_calls_keep_their_times_and_names() {
    let call = |ms: i64, function: &str, run_ms: u64| Call {
        at: Timestamp::from_millis(ms),
        function: function.parse().unwrap(),
        run: Duration::from_millis(run_ms),
    };
    let workload = Workload::recorded(&[call(5, "b", 7), call(3, "a", 1), call(9, "b", 2)], Reuse::Fresh);
    let names: Vec<_> = workload.functions.iter().map(|definition| definition.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let seen = workload.happenings.iter().map(|(at, what)| match what {
        What::Called { function, run, is_announced: false } => (at.as_millis(), *function, run.as_millis()),
        _ => panic!("recorded calls are not announced"),
    });
    assert_eq!(seen.collect::<Vec<_>>(), [(3, 0, 1), (5, 1, 7), (9, 1, 2)]);
    assert!(workload.functions.iter().all(|definition| !definition.reuses_instances()));
}
