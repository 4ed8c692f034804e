//! What operators ask for: dead letters back or gone, an attempt at once, another policy.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, batches_of, policy, takes};
use crate::event::{Hook, Hooks};
use crate::plugin::DeliveryPolicy;

/// One rejection makes a dead letter.
fn strict() -> DeliveryPolicy {
    DeliveryPolicy {
        max_attempts: 1,
        ..policy()
    }
}

/// A bench where A's start is a dead letter, and its end with it.
fn with_dead() -> Bench {
    let mut bench = Bench::new(strict());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.run();
    bench.end("A");
    bench.run();
    assert_eq!(bench.dead(), ["A+", "A-"]);
    bench.deliveries.clear();
    bench
}

#[test]
fn g6_dead_letters_come_back_in_log_order_with_their_attempts_at_0() {
    let mut bench = with_dead();
    bench.plugin = takes([]);
    bench.redeliver();
    assert_eq!(bench.lane.dead(), 2, "back before the ledger knows");
    bench.run();
    assert_eq!(bench.deliveries, ["A+", "A-"]);
    assert!(bench.parked.is_empty());
    bench.assert_all_settled();
}

#[test]
fn a_dead_letter_that_comes_back_can_die_again() {
    let mut bench = with_dead();
    bench.redeliver();
    bench.run();
    assert_eq!(bench.deliveries, ["A+"]);
    assert_eq!(bench.dead(), ["A+", "A-"]);
    assert_eq!(bench.attempts("A+"), 1);
}

#[test]
fn dead_letters_come_back_after_a_restart() {
    let mut bench = with_dead();
    bench.restart();
    assert_eq!(bench.lane.dead(), 2);
    bench.plugin = takes([]);
    bench.redeliver();
    bench.run();
    assert_eq!(bench.deliveries, ["A+", "A-"]);
    bench.assert_all_settled();
}

#[test]
fn an_end_stays_dead_behind_a_dead_start_after_a_restart() {
    let mut bench = Bench::new(strict());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.run();
    bench.restart();
    bench.end("A");
    bench.run();
    assert_eq!(bench.dead(), ["A+", "A-"]);
}

#[test]
fn dead_letters_that_are_let_go_of_are_not_delivered() {
    let mut bench = with_dead();
    bench.plugin = takes([]);
    bench.discard();
    bench.run();
    assert!(bench.parked.is_empty() && bench.deliveries.is_empty());
    bench.redeliver();
    bench.restart();
    bench.run();
    assert!(bench.deliveries.is_empty());
    bench.assert_all_settled();
}

#[test]
fn a_dead_letter_that_the_lane_has_yet_to_go_past_is_not_let_go_of() {
    let mut bench = Bench::new(DeliveryPolicy {
        max_in_flight: 2,
        max_attempts: 1,
        ..batches_of(1)
    });
    bench.plugin = takes([("A+", Takes::Hangs), ("B+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.run_until(bench.now.mono + Duration::from_secs(1));
    assert_eq!((bench.cursor, bench.dead()), (0, vec!["B+".into()]));
    bench.restart();
    bench.plugin = takes([]);
    bench.discard();
    bench.run();
    assert_eq!(bench.dead(), ["B+"]);
    bench.discard();
    bench.run();
    assert_eq!(bench.times_delivered("B+"), 1);
    bench.assert_all_settled();
    assert!(bench.parked.is_empty());
}

#[test]
fn g6_a_dead_letter_is_not_let_go_of_before_the_ledger_knows_that_the_lane_is_past_it() {
    let mut bench = Bench::new(DeliveryPolicy {
        max_in_flight: 2,
        max_attempts: 1,
        ..batches_of(1)
    });
    bench.plugin = takes([("A+", Takes::Hangs), ("B+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.run_until(bench.now.mono + Duration::from_secs(1));
    assert_eq!((bench.cursor, bench.dead()), (0, vec!["B+".into()]));
    bench.discard();
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.dead(), ["B+"]);
    bench.restart();
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.times_delivered("B+"), 1);
    bench.discard();
    bench.run();
    assert!(bench.parked.is_empty());
    bench.assert_all_settled();
}

#[test]
fn what_is_being_read_is_split_when_batches_become_smaller() {
    let mut bench = Bench::new(batches_of(8));
    bench.ledger_time = Duration::from_millis(10);
    bench.starts(["A", "B", "C", "D", "E"]);
    bench.wait(Duration::from_millis(5));
    bench.lane.reconfigure(Hooks::SESSION, batches_of(2));
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+", "C+ D+", "E+"]);
    bench.assert_all_settled();
}

#[test]
fn an_event_that_dies_in_flight_stays_dead_or_is_acknowledged() {
    let mut bench = Bench::new(DeliveryPolicy {
        max_in_flight: 2,
        retry_for: Duration::ZERO,
        ..batches_of(1)
    });
    // A is rejected and then hangs, while B finds the plugin down, which is too long already.
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.run_until(bench.now.mono + Duration::from_millis(500));
    bench.plugin = takes([("A+", Takes::Hangs), ("B-", Takes::Down)]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.flights.len(), 1);
    bench.end("B");
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.flights.len(), 1);
    assert_eq!(bench.dead(), ["A+", "B-"]);
    bench.redeliver();
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.dead(), ["A+"], "brought back beside its own flight");
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.dead(), ["A+", "B-"]);
    bench.plugin = takes([]);
    bench.redeliver();
    bench.run();
    bench.assert_all_settled();
    assert!(bench.dead().is_empty());
}

#[test]
fn a_plugin_that_is_resumed_is_tried_at_once() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.start("A");
    bench.wait(Duration::from_millis(1500));
    assert_eq!(bench.times_delivered("A+"), 2);
    bench.plugin = takes([]);
    bench.lane.resume(bench.now.mono);
    bench.run_until(bench.now.mono + Duration::from_millis(10));
    assert_eq!(bench.times_delivered("A+"), 3);
    bench.assert_all_settled();
}

#[test]
fn an_event_that_waits_for_its_attempt_is_tried_at_once_on_resume() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.wait(Duration::from_millis(100));
    bench.plugin = takes([]);
    bench.lane.resume(bench.now.mono);
    bench.wait(Duration::from_millis(100));
    bench.assert_all_settled();
}

#[test]
fn a_lane_that_is_paused_delivers_nothing_and_goes_on_where_it_was() {
    let mut bench = Bench::new(batches_of(2));
    bench.starts(["A", "B", "C", "D", "E"]);
    bench.run_until(bench.now.mono);
    assert_eq!(bench.flights.len(), 1);
    bench.lane.set_paused(true);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.deliveries, ["A+ B+"]);
    bench.policy = batches_of(3);
    bench.lane.reconfigure(Hooks::SESSION, batches_of(3));
    bench.lane.set_paused(false);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+", "C+ D+ E+"]);
    bench.assert_all_settled();
}

#[test]
fn what_a_plugin_listens_to_no_more_is_forgotten() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.end("A");
    bench.wait(Duration::from_millis(100));
    assert_eq!(bench.parked.len(), 2);
    let ends_only = Hooks::NONE.with(Hook::SessionEnd);
    bench.hooks = ends_only;
    bench.lane.reconfigure(ends_only, policy());
    bench.deliveries.clear();
    bench.run();
    assert_eq!(bench.deliveries, ["A-"]);
    bench.assert_all_settled();
}
