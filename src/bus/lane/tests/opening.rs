//! What a plugin is told before its lane delivers anything.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::policy;
use crate::bus::lane::Failure;

const SECOND: Duration = Duration::from_secs(1);

/// A lane that begins with an opening, which is under way.
fn opening() -> Bench {
    let mut bench = Bench::new(policy());
    bench.lane.open_first();
    bench.starts(["A", "B"]);
    bench.wait(SECOND);
    assert_eq!((bench.openings, bench.deliveries.len()), (1, 0));
    bench
}

#[test]
fn nothing_is_delivered_before_the_opening_is_over() {
    let mut bench = opening();
    bench.wait(3600 * SECOND);
    assert_eq!((bench.openings, bench.deliveries.len()), (1, 0));
    bench.lane.on_opened(None, bench.now.mono, bench.now);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+"]);
    bench.assert_all_settled();
}

#[test]
fn an_opening_that_fails_is_tried_again_after_the_backoff_and_costs_no_event() {
    let mut bench = opening();
    let failures = [
        Failure::TimedOut(None),
        Failure::Error("no such column".into()),
        Failure::Down("locked".into(), None),
    ];
    for (failed, failure) in (1..).zip(&failures) {
        bench
            .lane
            .on_opened(Some(failure), bench.now.mono, bench.now);
        assert!(bench.lane.is_retrying());
        bench.wait(SECOND / 2);
        assert_eq!(bench.openings, failed, "before the backoff");
        bench.wait(8 * SECOND);
        assert_eq!(bench.openings, failed + 1);
    }
    assert_eq!((bench.deliveries.len(), bench.parked.len()), (0, 0));
    bench.lane.on_opened(None, bench.now.mono, bench.now);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn a_shutdown_tries_an_opening_that_failed_once_more_and_then_delivers() {
    let mut bench = opening();
    let failure = Failure::Down("locked".into(), None);
    bench
        .lane
        .on_opened(Some(&failure), bench.now.mono, bench.now);
    let cut = bench.now.mono + 2 * SECOND;
    bench.lane.set_cut(cut);
    bench.lane.begin_drain(None, bench.now.mono);
    bench.run_until(bench.now.mono);
    assert_eq!(bench.openings, 2);
    assert!(!bench.lane.is_idle());
    bench.lane.on_opened(None, bench.now.mono, bench.now);
    bench.wait(SECOND);
    assert_eq!(bench.deliveries, ["A+ B+"]);
}
