//! Plugins that are not told for now: in quarantine after many failures, disabled at their own wish,
//! or left alone for as long as they asked.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, policy, takes};
use crate::bus::lane::{Failure, Outcome, Step};
use crate::ledger::Page;
use crate::plugin::DeliveryPolicy;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn fails_with(failure: Failure) -> Option<Outcome> {
    Some(Outcome {
        verdicts: Vec::new(),
        failure: Some(failure),
    })
}

/// A lane that is owed two starts and has failed ten times, the waits between them short.
fn in_quarantine() -> Bench {
    let mut bench = Bench::new(DeliveryPolicy {
        backoff_max: 3 * MINUTE,
        ..policy()
    });
    bench.starts(["A", "B"]);
    bench.plugin = Box::new(|_| Takes::Down);
    while bench.deliveries.len() < 9 {
        bench.wait(SECOND);
        assert!(!bench.lane.is_quarantined());
    }
    bench.wait(3 * MINUTE);
    assert!(bench.lane.is_quarantined());
    assert_eq!(bench.deliveries.len(), 10);
    bench
}

#[test]
fn ten_failed_rounds_in_a_row_are_a_quarantine_with_an_attempt_every_longest_backoff() {
    let mut bench = in_quarantine();
    bench.wait(9 * MINUTE);
    assert_eq!(bench.deliveries.len(), 13);
    assert_eq!(bench.parked.len(), 0, "no event is blamed");

    bench.plugin = takes([]);
    bench.wait(3 * MINUTE);
    assert!(!bench.lane.is_quarantined());
    bench.assert_all_settled();
}

#[test]
fn a_shutdown_neither_tries_nor_waits_for_a_plugin_in_quarantine() {
    let mut bench = in_quarantine();
    bench.wait(3 * MINUTE - SECOND);
    let before = bench.deliveries.len();
    bench.plugin = takes([]);
    // The next attempt would fall before the cut.
    let tally = bench.drain(2 * SECOND);
    assert_eq!(bench.deliveries.len(), before);
    assert_eq!((tally.owed, tally.owed_before), (2, 2));
    assert!(!tally.timed_out && tally.duration < SECOND / 10);
}

#[test]
fn whoever_is_resumed_starts_over() {
    let mut bench = in_quarantine();
    bench.lane.resume(bench.now.mono);
    assert!(!bench.lane.is_quarantined());
    bench.wait(SECOND / 2);
    assert_eq!(bench.deliveries.len(), 11);
    bench.wait(SECOND);
    assert_eq!(bench.deliveries.len(), 12, "after the first backoff");
}

#[test]
fn a_plugin_that_is_disabled_gets_nothing_until_it_is_resumed() {
    let mut bench = Bench::new(policy());
    bench.next_outcome = fails_with(Failure::Disabled("gone".into()));
    bench.starts(["A", "B"]);
    bench.wait(SECOND);
    assert!(bench.lane.is_disabled());
    bench.starts(["C"]);
    bench.wait(100 * 3600 * SECOND);
    assert_eq!(bench.deliveries, ["A+ B+"]);
    assert_eq!((bench.lane.owed(), bench.lane.dead()), (3, 0));
    assert_eq!(bench.lane.last_error().map(|error| &**error), Some("gone"));

    bench.lane.resume(bench.now.mono);
    bench.run();
    assert!(!bench.lane.is_disabled());
    bench.assert_all_settled();
}

#[test]
fn a_shutdown_is_over_at_once_for_a_plugin_that_is_disabled() {
    let mut bench = Bench::new(policy());
    bench.next_outcome = fails_with(Failure::Disabled("gone".into()));
    bench.starts(["A", "B"]);
    bench.wait(SECOND);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(
        (tally.owed, tally.owed_before, tally.timed_out),
        (2, 2, false)
    );
    assert_eq!(bench.deliveries.len(), 1);
}

#[test]
fn a_plugin_is_left_alone_for_as_long_as_it_asked() {
    let mut bench = Bench::new(policy());
    bench.next_outcome = fails_with(Failure::Down("busy".into(), Some(MINUTE)));
    bench.start("A");
    bench.wait(MINUTE - SECOND);
    assert_eq!(bench.deliveries.len(), 1);
    bench.wait(2 * SECOND);
    assert_eq!(bench.deliveries.len(), 2);

    // Less than the backoff shortens nothing.
    bench.next_outcome = fails_with(Failure::Down("busy".into(), Some(SECOND / 10)));
    bench.start("B");
    bench.wait(SECOND / 2);
    assert_eq!(bench.deliveries.len(), 3);
    bench.wait(SECOND);
    bench.assert_all_settled();
}

#[test]
fn time_in_which_a_plugin_is_disabled_is_not_time_in_which_it_was_down() {
    let mut bench = Bench::new(DeliveryPolicy {
        retry_for: 60 * MINUTE,
        ..policy()
    });
    bench.starts(["A", "B"]);
    bench.plugin = Box::new(|_| Takes::Down);
    bench.wait(SECOND / 2);
    bench.next_outcome = fails_with(Failure::Disabled("gone".into()));
    bench.wait(2 * SECOND);
    assert!(bench.lane.is_disabled());
    bench.wait(120 * MINUTE);
    bench.lane.resume(bench.now.mono);
    bench.wait(SECOND / 2);
    assert_eq!(bench.lane.dead(), 0);
}

#[test]
fn what_another_delivery_brings_does_not_shorten_the_time_that_a_plugin_asked_for() {
    let mut bench = Bench::new(DeliveryPolicy {
        max_batch: 1,
        max_in_flight: 3,
        ..policy()
    });
    bench.starts(["A", "B", "C", "D"]);
    let now = bench.now;
    let mut flights = Vec::new();
    while let Step::Read(after, limit) = bench.lane.next(now, false) {
        let from = usize::try_from(after).unwrap();
        let events = bench.log[from..from + limit].into();
        let flight = bench.lane.on_read(&Page { events, gap: 0 }, now);
        flights.extend(flight);
    }
    assert_eq!(flights.len(), 3);
    let down = |wait| fails_with(Failure::Down("busy".into(), wait)).unwrap();
    bench.lane.on_outcome(flights[0].id, down(None), now);
    bench
        .lane
        .on_outcome(flights[1].id, down(Some(MINUTE)), now);
    let verdicts = Vec::new();
    let failure = None;
    bench
        .lane
        .on_outcome(flights[2].id, Outcome { verdicts, failure }, now);
    let step = bench.lane.next(now, false);
    let Step::Wait(Some(until)) = step else {
        panic!("not left alone: {step:?}");
    };
    assert_eq!(until, now.mono + MINUTE);
}

#[test]
fn an_event_that_has_the_plugin_down_each_time_keeps_no_other_from_it() {
    let mut bench = Bench::new(DeliveryPolicy {
        max_batch: 1,
        ..policy()
    });
    bench.starts(["A", "B", "C", "D"]);
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.wait(10 * SECOND);
    for other in ["B+", "C+", "D+"] {
        assert_eq!(bench.times_delivered(other), 1, "{other}");
    }
    assert_eq!(
        (bench.lane.owed(), bench.lane.dead(), bench.parked.len()),
        (1, 0, 0)
    );
}
