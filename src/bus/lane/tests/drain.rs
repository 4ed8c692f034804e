//! A shutdown: what the lane still tries, when it is finished, and what it says came of it.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, batches_of, policy, takes};
use crate::bus::lane::LaneTally;
use crate::event::{Hook, Hooks};
use crate::plugin::DeliveryPolicy;

const SECOND: Duration = Duration::from_secs(1);

fn counts(tally: &LaneTally) -> [u64; 5] {
    [
        tally.delivered,
        tally.owed,
        tally.failed,
        tally.dead,
        tally.owed_before,
    ]
}

#[test]
fn everything_is_delivered_and_counted_once() {
    let mut bench = Bench::new(batches_of(2));
    bench.starts(["A", "B", "C"]);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [3, 0, 0, 0, 0]);
    assert!(!tally.timed_out && tally.unfinished.is_empty());
    assert_eq!(tally.last_error, None);
    assert_eq!(tally.duration, SECOND * 6 / 1000);
}

#[test]
fn a_lane_in_backoff_is_tried_at_once() {
    let mut bench = Bench::new(policy());
    bench.starts(["A", "B"]);
    bench.plugin = Box::new(|_| Takes::Down);
    bench.wait(60 * SECOND);
    bench.plugin = takes([]);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [2, 0, 0, 0, 0]);
    assert!(tally.duration < SECOND / 10);
}

#[test]
fn a_lane_whose_next_attempt_is_after_the_cut_is_finished_and_did_not_time_out() {
    let mut bench = Bench::new(policy());
    bench.starts(["A", "B"]);
    bench.plugin = Box::new(|_| Takes::Down);
    bench.wait(60 * SECOND);
    let before = bench.deliveries.len();
    let tally = bench.drain(2 * SECOND);
    assert_eq!(bench.deliveries.len(), before + 1, "tried once, at once");
    assert_eq!(counts(&tally), [0, 2, 0, 0, 2]);
    assert_eq!(tally.unfinished, [3, 4]);
    assert!(!tally.timed_out);
    assert_eq!(tally.last_error.as_deref(), Some("down"));
}

#[test]
fn a_lane_that_fails_in_the_drain_is_tried_as_its_backoff_allows() {
    let mut bench = Bench::new(DeliveryPolicy {
        backoff: SECOND / 2,
        ..policy()
    });
    bench.starts(["A", "B"]);
    bench.run();
    bench.plugin = Box::new(|_| Takes::Down);
    bench.call_time = Duration::ZERO;
    // At 0, 0.5 and 1.5 s; the next would be at 3.5 s.
    let tally = bench.drain(2 * SECOND);
    assert_eq!(bench.deliveries[1..], vec!["A- B-"; 3]);
    assert_eq!(counts(&tally), [0, 2, 2, 0, 0]);
    assert!(!tally.timed_out);
}

#[test]
fn a_delivery_that_runs_at_the_cut_times_the_drain_out() {
    let mut bench = Bench::new(batches_of(2));
    bench.starts(["A", "B", "C", "D", "E"]);
    bench.run();
    bench.acks_singly = true;
    bench.plugin = takes([("D-", Takes::Hangs)]);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [3, 2, 1, 0, 0]);
    assert_eq!(tally.unfinished, [9, 10]);
    assert!(tally.timed_out);
    assert_eq!(tally.last_error.as_deref(), Some("timed out"));
    assert_eq!(tally.duration, 2 * SECOND);
}

#[test]
fn no_attempt_counts_that_the_cap_cut_off() {
    let mut bench = Bench::new(DeliveryPolicy {
        timeout: SECOND / 3,
        ..policy()
    });
    bench.starts(["A", "B"]);
    bench.run();
    bench.acks_singly = true;
    bench.plugin = takes([("B-", Takes::Hangs)]);
    // B is the only one left when it is tried by itself, and would count after two thirds.
    let tally = bench.drain(SECOND / 2);
    assert_eq!(bench.deliveries[1..], ["A- B-", "B-"]);
    assert_eq!(counts(&tally), [1, 1, 1, 0, 0]);
    assert!(tally.timed_out && bench.parked.is_empty());
}

#[test]
fn a_delivery_from_before_the_drain_is_cut_as_well() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Hangs)]);
    bench.starts(["A", "B"]);
    bench.wait(SECOND);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [0, 2, 0, 0, 2]);
    assert!(tally.timed_out);
}

#[test]
fn rejected_ends_are_failed_and_owed_or_dead() {
    for (max_attempts, expected) in [(5, [1, 1, 1, 0, 0]), (1, [1, 0, 0, 1, 0])] {
        let mut bench = Bench::new(DeliveryPolicy {
            max_attempts,
            ..policy()
        });
        bench.starts(["A", "B"]);
        bench.run();
        bench.plugin = takes([("A-", Takes::Rejects)]);
        let tally = bench.drain(SECOND / 2);
        assert_eq!(counts(&tally), expected);
        assert!(!tally.timed_out);
        assert_eq!(tally.last_error.as_deref(), Some("rejected"));
    }
}

#[test]
fn an_end_behind_a_parked_start_is_owed_but_was_not_tried() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.wait(SECOND / 2);
    let tally = bench.drain(SECOND / 4);
    assert_eq!(counts(&tally), [1, 1, 0, 0, 1]);
    assert_eq!(tally.unfinished, [3]);
}

#[test]
fn an_end_that_was_tried_once_its_parked_start_was_taken_is_failed() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.wait(SECOND / 2);
    bench.plugin = takes([("A-", Takes::Down)]);
    let tally = bench.drain(SECOND);
    assert_eq!(bench.deliveries, ["A+", "A+", "A-"]);
    assert_eq!(counts(&tally), [0, 1, 1, 0, 0]);
}

#[test]
fn the_backlog_from_before_is_counted_by_itself_and_only_what_the_plugin_hears_of() {
    let ends_only = Hooks::NONE.with(Hook::SessionEnd);
    let mut bench = Bench::with_hooks(batches_of(2), ends_only);
    bench.plugin = Box::new(|_| Takes::Down);
    for id in ["A", "B", "C", "D", "E"] {
        bench.start(id);
        bench.end(id);
    }
    bench.starts(["X", "Y"]);
    bench.wait(600 * SECOND);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [0, 2, 0, 0, 5]);
}

#[test]
fn a_plugin_that_does_not_hear_of_ends_has_no_part_in_the_counts() {
    let starts_only = Hooks::NONE.with(Hook::SessionStart);
    let mut bench = Bench::with_hooks(policy(), starts_only);
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.starts(["A", "B"]);
    bench.wait(600 * SECOND);
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [0, 0, 0, 0, 2]);
}

#[test]
fn with_nothing_owed_a_drain_is_over_at_once() {
    let mut bench = Bench::new(policy());
    let tally = bench.drain(2 * SECOND);
    assert_eq!(counts(&tally), [0; 5]);
    assert!(bench.deliveries.is_empty() && !tally.timed_out);
}

#[test]
fn ends_that_the_ledger_gave_up_are_lost_whether_the_lane_knows_of_the_drain_or_not() {
    for knows in [true, false] {
        let mut bench = Bench::new(policy());
        bench.starts(["A", "B", "C"]);
        bench.plugin = Box::new(|_| Takes::Down);
        bench.wait(SECOND / 2);
        bench.plugin = takes([]);
        // The plugin has not taken the starts when the first end is kept no longer.
        let ends = bench.end_all();
        bench.kept_after = 4;
        if !knows {
            bench.wait(SECOND);
        }
        let tally = bench.drain_ends(ends, 2 * SECOND);
        assert_eq!(counts(&tally), [2, 0, 0, 0, 0]);
        assert_eq!(tally.lost, 1);
    }
}
