//! What is delivered when nothing fails: order, batches, hooks, deliveries side by side.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, batches_of, policy, takes};
use crate::event::{Hook, Hooks};
use crate::plugin::DeliveryPolicy;

const MILLIS: Duration = Duration::from_millis(1);

#[test]
fn events_go_out_in_log_order_in_batches_of_at_most_max_batch() {
    let mut bench = Bench::new(batches_of(2));
    bench.starts(["A", "B"]);
    bench.end("A");
    bench.starts(["C", "D"]);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+", "A- C+", "D+"]);
    bench.assert_all_settled();
}

#[test]
fn a_start_and_its_end_may_go_out_together() {
    let mut bench = Bench::new(policy());
    bench.start("A");
    bench.end("A");
    bench.run();
    assert_eq!(bench.deliveries, ["A+ A-"]);
}

#[test]
fn events_of_other_hooks_are_passed_over_and_the_cursor_goes_on() {
    let ends_only = Hooks::NONE.with(Hook::SessionEnd);
    let mut bench = Bench::with_hooks(batches_of(2), ends_only);
    bench.starts(["A", "B", "C"]);
    bench.end("B");
    bench.start("D");
    bench.run();
    assert_eq!(bench.deliveries, ["B-"]);
    bench.assert_all_settled();
}

#[test]
fn what_happens_during_a_delivery_waits_for_its_end() {
    let mut bench = Bench::new(policy());
    bench.call_time = 10 * MILLIS;
    bench.start("A");
    bench.wait(5 * MILLIS);
    bench.starts(["B", "C"]);
    bench.wait(4 * MILLIS);
    assert_eq!(bench.deliveries, ["A+"]);
    assert_eq!((bench.cursor, bench.lane.owed()), (0, 3));
    bench.run();
    assert_eq!(bench.deliveries, ["A+", "B+ C+"]);
}

#[test]
fn a_log_that_is_longer_than_the_lane_has_heard_is_read_without_harm() {
    let mut bench = Bench::new(policy());
    bench.start("A");
    bench.announces = false;
    bench.starts(["B", "C"]);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+ C+"]);
    bench.assert_all_settled();
}

fn side_by_side(max_in_flight: usize) -> Bench {
    let mut bench = Bench::new(DeliveryPolicy {
        max_in_flight,
        ..batches_of(1)
    });
    bench.call_time = 10 * MILLIS;
    bench
}

#[test]
fn deliveries_fly_side_by_side_up_to_max_in_flight() {
    let mut bench = side_by_side(3);
    bench.starts(["A", "B", "C", "D", "E", "F"]);
    bench.run();
    assert_eq!(bench.elapsed(), 20 * MILLIS);
    bench.assert_all_settled();
}

#[test]
fn two_events_of_one_session_never_fly_side_by_side() {
    // The bench checks each departure.
    let mut bench = side_by_side(3);
    bench.start("A");
    bench.end("A");
    bench.start("A");
    bench.start("B");
    bench.run();
    assert_eq!(bench.deliveries, ["A+", "A-", "B+", "A+"]);
    assert_eq!(bench.elapsed(), 30 * MILLIS);
}

#[test]
fn sessions_that_start_and_end_one_after_another_fly_side_by_side() {
    let mut bench = side_by_side(4);
    for id in ["A", "B", "C", "D", "E", "F", "G", "H"] {
        bench.start(id);
        bench.end(id);
    }
    bench.run();
    // One at a time they would need 160.
    assert_eq!(bench.elapsed(), 50 * MILLIS);
    bench.assert_all_settled();
}

#[test]
fn what_waits_for_a_session_in_flight_is_bounded() {
    let mut bench = side_by_side(3);
    bench.plugin = takes([("A+", Takes::Hangs)]);
    bench.start("A");
    for _ in 0..100 {
        bench.end("A");
        bench.start("A");
    }
    bench.start("B");
    bench.wait(Duration::from_secs(4));
    assert_eq!(bench.lane.pending.len(), 2);
    assert_eq!(bench.times_delivered("B+"), 0);
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn the_cursor_waits_for_the_slowest_delivery() {
    let mut bench = side_by_side(2);
    bench.plugin = takes([("A+", Takes::Hangs)]);
    bench.starts(["A", "B", "C"]);
    bench.wait(Duration::from_secs(4));
    assert_eq!(bench.acknowledged.len(), 2);
    assert_eq!(bench.cursor, 0);
    assert!(!bench.lane.is_past(1) && !bench.lane.is_past(3));
    bench.plugin = takes([]);
    bench.run();
    assert!(bench.lane.is_past(3) && !bench.lane.is_past(4));
    bench.assert_all_settled();
}

#[test]
fn what_a_plugin_does_not_take_is_not_waited_for_with_what_comes_after_it() {
    let mut bench = side_by_side(2);
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.wait(900 * MILLIS);
    assert_eq!(bench.acknowledged.len(), 1);
    assert!(bench.lane.is_past(2), "A is tried again");
    assert!(!bench.lane.is_past(3));
}

#[test]
fn a_read_under_way_counts_as_the_delivery_that_it_becomes() {
    // The bench counts what flies at each departure.
    let mut bench = Bench::new(batches_of(1));
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.wait(999 * MILLIS);
    bench.ledger_time = 10 * MILLIS;
    bench.call_time = 10 * MILLIS;
    bench.start("B");
    bench.run();
    assert_eq!(bench.dead(), ["A+"]);
    assert_eq!(bench.times_delivered("B+"), 1);
}

#[test]
fn a_page_that_comes_in_after_a_failure_waits_for_the_backoff() {
    let mut bench = side_by_side(2);
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.start("A");
    bench.wait(5 * MILLIS);
    bench.ledger_time = 50 * MILLIS;
    bench.start("B");
    bench.wait(900 * MILLIS);
    assert_eq!(bench.deliveries, ["A+"]);
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn a_parked_event_whose_session_flies_is_not_asked_for_again_and_again() {
    let mut bench = side_by_side(2);
    bench.plugin = takes([("A-", Takes::Rejects)]);
    bench.start("A");
    bench.end("A");
    bench.wait(500 * MILLIS);
    // Another life of the session is at work when the end of the first is due again.
    bench.call_time = Duration::from_secs(2);
    bench.start("A");
    bench.run();
    assert_eq!(bench.dead(), ["A-"]);
}
