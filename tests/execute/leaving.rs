//! Calls whose partition is on its way to another node, or has gone.

use super::*;

#[test]
fn calls_that_nobody_wants_any_more_are_ended_and_those_behind_them_do_not_run() {
    let bench = Bench::new();
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| {
        definition.limits.timeout_ms = 3_600_000;
        definition.limits.concurrency = 1;
    });
    bench.settle();
    let cancelled = Cancelled::not_yet();
    bench.submit_with(1, "hostile", b"loop", None, &cancelled);
    bench.submit_with(2, "hostile", b"trap", None, &cancelled);
    bench.submit_with(3, "hostile", b"behave", None, &Cancelled::default());
    wait_for("the first call to run", || bench.usage("hostile").busy == 1);
    assert!(bench.outcomes.try_recv().is_err());
    cancelled.set();
    assert_eq!(three_ends(&bench), [(1, Some(Status::Timeout)), (2, None), (3, Some(Status::Ok))]);
}

/// By ticket: how three calls ended; None where one was given back. Each thread tells its own.
fn three_ends(bench: &Bench) -> Vec<(u32, Option<Status>)> {
    let mut ends: Vec<_> = (0..3)
        .map(|_| match bench.ended() {
            Ended::With(ticket, result) => (ticket, Some(result.status)),
            Ended::GivenBack(ticket) => (ticket, None),
        })
        .collect();
    ends.sort_by_key(|(ticket, _)| *ticket);
    ends
}

#[test]
fn calls_that_are_to_begin_no_more_go_back_at_once_and_the_one_that_runs_goes_on() {
    let bench = Bench::new();
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| {
        definition.limits.timeout_ms = 1_000;
        definition.limits.concurrency = 1;
    });
    bench.settle();
    let leaving = Cancelled::not_yet();
    bench.submit_with(1, "hostile", b"loop", None, &leaving);
    wait_for("the first call to run", || bench.usage("hostile").busy == 1);
    bench.submit_with(2, "hostile", b"behave", None, &leaving);
    leaving.begin_no_more();
    bench.executor.give_back_waiting();
    bench.submit_with(3, "hostile", b"behave", None, &leaving);
    assert_eq!(three_ends(&bench), [(1, Some(Status::Timeout)), (2, None), (3, None)]);
}
