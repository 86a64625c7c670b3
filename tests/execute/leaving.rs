//! Calls whose partition is on its way to another node, or has gone.

use super::*;

/// A function whose next call begins on the thread that submits it, before `submit` returns; one call runs at once.
fn begins_at_once(timeout_ms: u64) -> Bench {
    let bench = Bench::with(|config| config.inline_max = Duration::from_secs(3_600));
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| {
        definition.limits.timeout_ms = timeout_ms;
        definition.limits.concurrency = 1;
    });
    bench.settle();
    assert_eq!(bench.call("hostile", b"behave").status, Status::Ok);
    wait_for("the instance to be back", || bench.usage("hostile").ready == 1);
    bench
}

#[test]
fn calls_that_nobody_wants_any_more_are_ended_and_those_behind_them_do_not_run() {
    let bench = begins_at_once(3_600_000);
    let cancelled = Cancelled::not_yet();
    bench.submit_with(1, "hostile", b"loop", None, &cancelled);
    bench.submit_with(2, "hostile", b"trap", None, &cancelled);
    bench.submit_with(3, "hostile", b"behave", None, &Cancelled::default());
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
    let bench = begins_at_once(1_000);
    let leaving = Cancelled::not_yet();
    bench.submit_with(1, "hostile", b"loop", None, &leaving);
    assert_eq!(bench.usage("hostile").busy, 1);
    bench.submit_with(2, "hostile", b"behave", None, &leaving);
    leaving.begin_no_more();
    bench.executor.give_back_waiting();
    bench.submit_with(3, "hostile", b"behave", None, &leaving);
    assert_eq!(three_ends(&bench), [(1, Some(Status::Timeout)), (2, None), (3, None)]);
}
