//! What an outcome means for the events and for the lane.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, batches_of, name, policy, takes};
use crate::bus::lane::{Failure, MAX_PARKED, Outcome};
use crate::event::{Hook, Hooks, Verdict};
use crate::plugin::DeliveryPolicy;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_was_acknowledged_before_a_failure_does_not_come_again() {
    let mut bench = Bench::new(policy());
    bench.acks_singly = true;
    bench.plugin = takes([("C+", Takes::Down)]);
    bench.starts(["A", "B", "C", "D"]);
    bench.wait(SECOND / 2);
    assert_eq!((bench.cursor, bench.lane.owed()), (2, 2));
    assert_eq!(bench.lane.last_error().unwrap().as_ref(), "down");
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+ C+ D+", "C+ D+"]);
    assert_eq!(bench.lane.last_error(), None);
    bench.assert_all_settled();
}

#[test]
fn a_rejected_event_is_parked_and_the_others_of_its_batch_are_delivered() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("B+", Takes::Rejects)]);
    bench.starts(["A", "B", "C"]);
    bench.wait(SECOND / 2);
    assert_eq!(bench.deliveries, ["A+ B+ C+"]);
    assert_eq!((bench.cursor, bench.attempts("B+")), (3, 1));
    assert_eq!((bench.lane.owed(), bench.lane.is_retrying()), (1, true));
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+ C+", "B+"]);
    assert!(!bench.lane.is_retrying());
    bench.assert_all_settled();
}

#[test]
fn a_rejected_event_is_tried_again_after_a_doubling_wait_and_dies_after_max_attempts() {
    let mut bench = Bench::new(DeliveryPolicy {
        backoff_max: 5 * SECOND,
        max_attempts: 6,
        ..policy()
    });
    bench.call_time = Duration::ZERO;
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    let waits = [1, 2, 4, 5, 5];
    for (count, wait) in (1..).zip(waits) {
        bench.wait(wait * SECOND - SECOND / 1000);
        assert_eq!(bench.deliveries.len(), count);
        assert_eq!(bench.attempts("A+") as usize, count);
        assert!(bench.dead().is_empty());
        bench.wait(SECOND / 1000);
        assert_eq!(bench.deliveries.len(), count + 1);
    }
    assert_eq!(bench.dead(), ["A+"]);
    assert_eq!((bench.lane.owed(), bench.lane.dead()), (0, 1));
    bench.run();
    assert_eq!(bench.deliveries.len(), 6);
}

#[test]
fn later_events_of_a_parked_incarnation_wait_behind_it_and_follow_it() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.wait(SECOND / 2);
    bench.end("A");
    bench.starts(["B"]);
    bench.wait(SECOND / 4);
    assert_eq!(bench.deliveries, ["A+", "B+"]);
    assert_eq!((bench.cursor, bench.lane.owed()), (3, 2));
    assert_eq!(bench.attempts("A-"), 0);
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.deliveries, ["A+", "B+", "A+", "A-"]);
    bench.assert_all_settled();
}

#[test]
fn later_events_of_a_dead_incarnation_are_dead_with_it_and_a_new_life_is_not() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.wait(3 * SECOND);
    bench.start("B");
    bench.end("A");
    bench.run();
    assert_eq!(bench.dead(), ["A+", "A-"]);
    bench.plugin = takes([]);
    bench.start("A");
    bench.end("A");
    bench.run();
    assert_eq!(bench.deliveries.last().unwrap(), "A+ A-");
    assert_eq!(bench.lane.dead(), 2);
    bench.assert_all_settled();
}

#[test]
fn an_end_taken_without_its_start_comes_again_after_the_start() {
    // Or a start that is taken at the second attempt would open again what was closed.
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.starts(["A", "B"]);
    bench.end("A");
    bench.wait(SECOND / 2);
    assert_eq!(bench.deliveries, ["A+ B+ A-"]);
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.deliveries, ["A+ B+ A-", "A+", "A-"]);
    bench.assert_all_settled();
}

#[test]
fn a_start_without_an_answer_goes_before_its_rejected_end() {
    for max_attempts in [1, 5] {
        let mut bench = Bench::new(DeliveryPolicy {
            max_attempts,
            ..policy()
        });
        bench.next_outcome = Some(Outcome {
            verdicts: vec![Verdict::Open, Verdict::Rejected("no such session".into())],
            failure: Some(Failure::TimedOut(None)),
        });
        bench.start("A");
        bench.end("A");
        bench.run();
        assert_eq!(bench.deliveries[..2], ["A+ A-", "A+"]);
        let dead: &[&str] = if max_attempts == 1 { &["A-"] } else { &[] };
        assert_eq!(bench.dead(), dead);
        bench.assert_all_settled();
    }
}

#[test]
fn a_batch_that_fails_with_an_error_is_tried_one_by_one_and_only_the_culprit_counts() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("B+", Takes::Fails)]);
    bench.starts(["A", "B", "C"]);
    bench.wait(SECOND / 2);
    assert_eq!(bench.deliveries, ["A+ B+ C+", "A+", "B+", "C+"]);
    assert_eq!((bench.cursor, bench.attempts("B+")), (3, 1));
    bench.run();
    assert_eq!(bench.dead(), ["B+"]);
    assert_eq!(bench.times_delivered("B+"), 6);
    assert_eq!(bench.times_delivered("A+") + bench.times_delivered("C+"), 4);
}

#[test]
fn a_plugin_that_is_down_gets_the_same_batch_again_after_a_doubling_backoff() {
    let mut bench = Bench::new(DeliveryPolicy {
        backoff_max: 3 * SECOND,
        ..policy()
    });
    bench.call_time = Duration::ZERO;
    bench.plugin = takes([("B+", Takes::Down)]);
    bench.starts(["A", "B", "C"]);
    for (count, wait) in (1..).zip([1, 2, 3, 3]) {
        bench.wait(wait * SECOND - SECOND / 1000);
        assert_eq!(bench.deliveries.len(), count);
        bench.wait(SECOND / 1000);
        assert_eq!(bench.deliveries, vec!["A+ B+ C+"; count + 1]);
    }
    assert_eq!((bench.cursor, bench.parked.len()), (0, 0));
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
    // After an acknowledgement the backoff starts over.
    bench.plugin = takes([("D+", Takes::Down)]);
    bench.start("D");
    bench.wait(SECOND);
    assert_eq!(bench.times_delivered("D+"), 2);
}

#[test]
fn parked_events_do_not_count_while_the_plugin_is_down() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.wait(SECOND / 2);
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.wait(3600 * SECOND);
    assert!(bench.times_delivered("A+") > 5);
    assert_eq!((bench.attempts("A+"), bench.lane.dead()), (1, 0));
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn deliveries_that_fail_side_by_side_are_one_failed_round() {
    let mut bench = Bench::new(DeliveryPolicy {
        max_in_flight: 3,
        ..batches_of(1)
    });
    bench.plugin = Box::new(|_| Takes::Down);
    bench.starts(["A", "B", "C", "D"]);
    bench.wait(SECOND / 2);
    assert_eq!(bench.deliveries.len(), 3);
    // One at a time tells whether it works again.
    bench.wait(SECOND);
    assert_eq!(bench.deliveries.len(), 4);
    bench.wait(SECOND);
    assert_eq!(bench.deliveries.len(), 4);
    bench.wait(SECOND);
    assert_eq!(bench.deliveries.len(), 5);
}

#[test]
fn what_a_plugin_is_owed_when_it_was_down_for_too_long_is_dead_and_what_comes_later_is_not() {
    let mut bench = Bench::new(DeliveryPolicy {
        retry_for: 60 * SECOND,
        backoff_max: 10 * SECOND,
        ..batches_of(2)
    });
    bench.plugin = takes([("P+", Takes::Rejects)]);
    bench.start("P");
    bench.wait(SECOND / 2);
    bench.plugin = Box::new(|_| Takes::Down);
    bench.starts(["A", "B", "C", "D", "E"]);
    bench.wait(50 * SECOND);
    assert_eq!((bench.lane.owed(), bench.lane.dead()), (6, 0));
    bench.wait(50 * SECOND);
    assert_eq!((bench.lane.owed(), bench.lane.dead()), (0, 6));
    bench.end("A");
    bench.start("F");
    bench.wait(50 * SECOND);
    assert_eq!(bench.lane.owed(), 1);
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.dead(), ["P+", "A+", "B+", "C+", "D+", "E+", "A-"]);
    assert_eq!(bench.acknowledged.len(), 1);
    bench.assert_all_settled();
}

#[test]
fn a_backlog_that_is_given_up_is_read_no_faster_than_it_is_recorded() {
    let mut bench = Bench::new(DeliveryPolicy {
        retry_for: 60 * SECOND,
        backoff_max: 10 * SECOND,
        ..batches_of(2)
    });
    bench.plugin = Box::new(|_| Takes::Down);
    for n in 0..100 {
        bench.start(&format!("s{n}"));
    }
    bench.recording_time = 3600 * SECOND;
    bench.wait(1800 * SECOND);
    assert!(bench.lane.dead() > 0);
    let held = bench.lane.progress.park.len();
    assert!((1..=6).contains(&held), "{held} rows wait to be recorded");
    bench.recording_time = Duration::ZERO;
    bench.run();
    assert_eq!(bench.dead().len(), 100);
    bench.assert_all_settled();
}

#[test]
fn a_rejection_shows_that_the_plugin_is_not_down() {
    let mut bench = Bench::new(DeliveryPolicy {
        retry_for: 60 * SECOND,
        max_attempts: 1,
        ..policy()
    });
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.start("A");
    bench.wait(SECOND / 2);
    bench.plugin = takes([("A+", Takes::Rejects), ("B+", Takes::Down)]);
    bench.wait(3600 * SECOND);
    assert_eq!(bench.dead(), ["A+"]);
    bench.start("B");
    bench.wait(50 * SECOND);
    assert_eq!(bench.dead(), ["A+"]);
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn what_is_in_flight_when_the_plugin_is_given_up_stays_dead_when_it_is_rejected() {
    let mut bench = Bench::new(DeliveryPolicy {
        retry_for: Duration::ZERO,
        max_in_flight: 2,
        ..batches_of(1)
    });
    bench.plugin = takes([("P+", Takes::Rejects)]);
    bench.start("P");
    bench.wait(999 * SECOND / 1000);
    // P is tried again beside A, which is given up first.
    bench.plugin = takes([("P+", Takes::Rejects), ("A+", Takes::Down)]);
    bench.call_time = SECOND;
    bench.start("A");
    bench.wait(3 * SECOND);
    bench.plugin = takes([]);
    bench.run();
    assert_eq!(bench.dead(), ["P+", "A+"]);
}

#[test]
fn a_plugin_that_hears_of_a_part_of_the_log_gets_large_batches_again_once_it_is_fast() {
    let ends_only = Hooks::NONE.with(Hook::SessionEnd);
    let mut bench = Bench::with_hooks(batches_of(64), ends_only);
    bench.plugin = Box::new(|_| Takes::Hangs);
    for id in 0..400 {
        bench.start(&id.to_string());
        bench.end(&id.to_string());
    }
    bench.wait(3600 * SECOND);
    bench.plugin = takes([]);
    bench.deliveries.clear();
    bench.run();
    bench.assert_all_settled();
    let sizes = bench
        .deliveries
        .iter()
        .map(|names| names.split(' ').count());
    assert_eq!(sizes.max(), Some(32), "half of the log is for it");
}

#[test]
fn the_lane_pauses_when_too_many_events_are_parked() {
    let mut bench = Bench::new(batches_of(1000));
    bench.plugin = Box::new(|_| Takes::Rejects);
    bench.call_time = Duration::ZERO;
    for id in 0..MAX_PARKED + 2000 {
        bench.start(&id.to_string());
    }
    bench.wait(SECOND / 2);
    assert_eq!(bench.cursor, MAX_PARKED as u64);
    assert_eq!(bench.parked.len(), MAX_PARKED);
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn a_plugin_that_rejects_much_is_told_the_rest_all_the_same() {
    let mut bench = Bench::new(batches_of(1));
    bench.plugin = Box::new(|event| match name(event).starts_with('P') {
        true => Takes::Rejects,
        false => Takes::Well,
    });
    // While a parked one is tried, the next is due already.
    bench.call_time = SECOND;
    for id in 0..20 {
        bench.start(&format!("P{id}"));
    }
    bench.wait(20 * SECOND);
    bench.starts(["A", "B", "C"]);
    bench.wait(8 * SECOND);
    assert_eq!(bench.acknowledged.len(), 3);
}

#[test]
fn attempts_are_recorded_before_the_next_one_and_survive_a_restart() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.ledger_time = 30 * SECOND;
    bench.start("A");
    bench.wait(31 * SECOND);
    assert_eq!((bench.deliveries.len(), bench.parked.len()), (1, 0));
    bench.wait(30 * SECOND);
    assert_eq!((bench.deliveries.len(), bench.attempts("A+")), (2, 1));
    bench.ledger_time = Duration::ZERO;
    bench.restart();
    bench.run();
    // The attempt that the restart cut short was not recorded.
    assert_eq!(bench.deliveries.len(), 6);
    assert_eq!(bench.dead(), ["A+"]);
}

#[test]
fn what_was_parked_ahead_of_the_cursor_keeps_its_count_over_a_restart() {
    let mut bench = Bench::new(policy());
    bench.acks_singly = true;
    bench.plugin = takes([("A+", Takes::Rejects), ("B+", Takes::Down)]);
    bench.starts(["B", "A"]);
    bench.next_outcome = Some(Outcome {
        verdicts: vec![Verdict::Open, Verdict::Rejected("no".into())],
        failure: Some(Failure::Down("down".into(), None)),
    });
    bench.wait(SECOND / 2);
    assert_eq!((bench.cursor, bench.attempts("A+")), (0, 1));
    bench.restart();
    assert_eq!(bench.lane.owed(), 2);
    bench.wait(SECOND / 4);
    assert_eq!((bench.lane.owed(), bench.attempts("A+")), (2, 1));
    bench.plugin = takes([]);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn a_lane_with_too_many_parked_ahead_of_the_cursor_goes_on_after_a_restart() {
    let mut bench = Bench::new(batches_of(MAX_PARKED + 1));
    for id in 0..=MAX_PARKED {
        bench.start(&id.to_string());
    }
    let mut verdicts = vec![Verdict::Rejected("no".into()); MAX_PARKED + 1];
    verdicts[0] = Verdict::Open;
    let failure = Some(Failure::Down("down".into(), None));
    bench.next_outcome = Some(Outcome { verdicts, failure });
    bench.call_time = Duration::ZERO;
    bench.wait(SECOND / 2);
    assert_eq!((bench.cursor, bench.parked.len()), (0, MAX_PARKED));
    bench.restart();
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn parked_events_are_tried_while_the_cursor_is_being_recorded() {
    let mut bench = Bench::new(batches_of(1));
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.start("A");
    bench.wait(SECOND / 2);
    bench.plugin = takes([]);
    // Under load some cursor is always being recorded.
    bench.ledger_time = SECOND / 10;
    for id in 0..100 {
        bench.start(&format!("B{id}"));
    }
    bench.wait(2 * SECOND);
    assert_eq!(bench.times_delivered("A+"), 2);
    bench.run();
    bench.assert_all_settled();
}

#[test]
fn a_ledger_that_fails_delays_and_loses_nothing() {
    let mut bench = Bench::new(batches_of(2));
    let mut count = 0;
    bench.ledger_fails = Box::new(move || {
        count += 1;
        count % 3 != 0
    });
    bench.plugin = takes([("B+", Takes::Rejects)]);
    bench.starts(["A", "B", "C", "D", "E"]);
    bench.run();
    assert_eq!(bench.dead(), ["B+"]);
    assert_eq!(bench.acknowledged.len(), 4);
    bench.assert_all_settled();
}
