//! Telling an event that hangs or breaks the plugin from a plugin that is down.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, batches_of, policy, takes};

const SECOND: Duration = Duration::from_secs(1);
const BREAKS: [Takes; 2] = [Takes::Hangs, Takes::Panics];

#[test]
fn a_plugin_that_fails_at_everything_backs_off_and_no_event_counts() {
    for breaks in BREAKS {
        for (max_batch, acks_singly) in [(1, false), (3, false), (3, true), (4096, true)] {
            let mut bench = Bench::new(batches_of(max_batch));
            bench.acks_singly = acks_singly;
            bench.plugin = Box::new(move |_| breaks);
            bench.starts(["A", "B", "C", "D", "E"]);
            bench.end("A");
            bench.wait(24 * 3600 * SECOND);
            assert_eq!((bench.lane.owed(), bench.lane.dead()), (6, 0));
            assert!(bench.parked.is_empty());
            assert!(bench.deliveries.len() < 400, "no backoff");
            bench.plugin = takes([]);
            bench.run();
            bench.assert_all_settled();
        }
    }
}

#[test]
fn a_poison_event_between_good_ones_is_found_wherever_it_stands() {
    for breaks in BREAKS {
        for max_batch in [1, 2, 3, 4096] {
            for acks_singly in [false, true] {
                for poison in ["A+", "B+", "C+"] {
                    let mut bench = Bench::new(batches_of(max_batch));
                    bench.acks_singly = acks_singly;
                    bench.plugin = takes([(poison, breaks)]);
                    bench.starts(["A", "B", "C"]);
                    bench.wait(60 * SECOND);
                    // Where none comes after it, it takes another event to tell.
                    bench.start("D");
                    bench.run();
                    assert_eq!(bench.dead(), [poison]);
                    assert_eq!(bench.acknowledged.len(), 3);
                    assert!(bench.elapsed() < 600 * SECOND, "{:?}", bench.elapsed());
                }
            }
        }
    }
}

#[test]
fn a_poison_start_is_found_when_its_own_end_comes_next() {
    for breaks in BREAKS {
        for max_batch in [1, 4096] {
            let mut bench = Bench::new(batches_of(max_batch));
            bench.plugin = takes([("A+", breaks)]);
            bench.start("A");
            bench.wait(6 * SECOND);
            bench.end("A");
            bench.start("B");
            bench.end("B");
            bench.wait(3600 * SECOND);
            assert_eq!(bench.times_delivered("B-"), 1);
            assert_eq!(bench.dead(), ["A+", "A-"]);
        }
    }
}

#[test]
fn a_poison_event_is_found_where_only_one_other_exists() {
    for breaks in BREAKS {
        for acks_singly in [false, true] {
            for poison in ["A+", "B+"] {
                let mut bench = Bench::new(policy());
                bench.acks_singly = acks_singly;
                bench.plugin = takes([(poison, breaks)]);
                bench.starts(["A", "B"]);
                bench.end("A");
                bench.run();
                assert!(bench.dead().contains(&poison.into()));
                assert_eq!(bench.dead().len() + bench.acknowledged.len(), 3);
                bench.assert_all_settled();
            }
        }
    }
}

#[test]
fn an_only_event_that_hangs_is_no_poison_as_long_as_nothing_else_is_acknowledged() {
    let mut bench = Bench::new(policy());
    bench.start("A");
    bench.run();
    bench.plugin = takes([("A-", Takes::Hangs)]);
    bench.end("A");
    bench.wait(24 * 3600 * SECOND);
    assert_eq!((bench.lane.owed(), bench.parked.len()), (1, 0));
    bench.start("B");
    bench.wait(3600 * SECOND);
    assert_eq!(bench.dead(), ["A-"]);
}

#[test]
fn several_poison_events_are_found_as_long_as_others_are_acknowledged() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Hangs), ("C+", Takes::Panics)]);
    bench.starts(["A", "B", "C", "D"]);
    for id in 0..50 {
        bench.wait(60 * SECOND);
        bench.start(&id.to_string());
    }
    bench.run();
    assert_eq!(bench.dead(), ["A+", "C+"]);
    bench.assert_all_settled();
}

#[test]
fn a_plugin_that_breaks_down_half_way_through_a_batch_kills_no_event() {
    for breaks in BREAKS {
        let mut bench = Bench::new(policy());
        bench.acks_singly = true;
        let mut calls = 0;
        bench.plugin = Box::new(move |_| {
            calls += 1;
            if calls <= 3 { Takes::Well } else { breaks }
        });
        for id in 0..10 {
            bench.start(&id.to_string());
        }
        bench.wait(24 * 3600 * SECOND);
        assert_eq!((bench.lane.owed(), bench.lane.dead()), (7, 0));
        bench.plugin = takes([]);
        bench.run();
        bench.assert_all_settled();
    }
}

#[test]
fn a_suspect_does_not_slow_down_a_backlog() {
    let mut bench = Bench::new(batches_of(100));
    bench.plugin = takes([("P+", Takes::Hangs)]);
    bench.start("P");
    bench.wait(5 * SECOND);
    for id in 0..10_000 {
        bench.start(&id.to_string());
    }
    bench.run();
    assert_eq!(bench.dead(), ["P+"]);
    assert!(bench.deliveries.len() < 200, "{}", bench.deliveries.len());
}

#[test]
fn a_suspect_does_not_starve_under_load() {
    let mut bench = Bench::new(batches_of(100));
    bench.plugin = takes([("P+", Takes::Hangs)]);
    bench.start("P");
    bench.wait(5 * SECOND);
    bench.plugin = takes([]);
    bench.call_time = SECOND / 10;
    for id in 0..100 {
        bench.start(&id.to_string());
        bench.wait(SECOND / 10);
    }
    assert_eq!(bench.times_delivered("P+"), 2);
}
