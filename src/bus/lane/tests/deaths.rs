//! Events that kill the process, and processes that are killed by something else.

use std::time::Duration;

use super::bench::Bench;
use super::plugin::{Takes, batches_of, name, policy, takes};
use crate::event::Event;
use crate::plugin::DeliveryPolicy;

const SECOND: Duration = Duration::from_secs(1);

/// So many sessions that have started and ended.
fn with_sessions(policy: DeliveryPolicy, count: usize) -> Bench {
    let mut bench = Bench::new(policy);
    bench.announces = false;
    for id in 0..count {
        bench.start(&id.to_string());
    }
    bench.end_all();
    bench
}

/// A plugin that takes the events called `wanted` as `takes` says, one after the other, and then
/// well, as all others.
fn in_turn(wanted: &'static str, takes: Vec<Takes>) -> Box<dyn FnMut(&Event) -> Takes> {
    let mut takes = takes.into_iter();
    Box::new(move |event| {
        let next = (name(event) == wanted).then(|| takes.next()).flatten();
        next.unwrap_or(Takes::Well)
    })
}

/// Lets processes die until the lane serves the plugin with care.
fn die_till_careful(bench: &mut Bench) {
    for _ in 0..2 {
        bench.wait(SECOND);
        bench.die();
    }
}

#[test]
fn an_event_that_kills_the_process_becomes_a_dead_letter_and_the_others_get_through() {
    for max_batch in [1, 3, 4096] {
        for (poison, dead) in [("7-", vec!["7-"]), ("7+", vec!["7+", "7-"])] {
            for ledger_time in [Duration::ZERO, SECOND / 30] {
                let mut bench = with_sessions(batches_of(max_batch), 30);
                bench.ledger_time = ledger_time;
                bench.plugin = takes([(poison, Takes::Kills)]);
                bench.restart();
                bench.run();
                assert_eq!(bench.dead(), dead);
                assert_eq!(bench.acknowledged.len(), 60 - dead.len());
                assert_eq!(bench.attempts(poison), 5);
                let letter = bench.parked.values().next().unwrap();
                assert_eq!(&*letter.error, "the process died while the plugin had it");
                // Runs that got any further before they died come on top.
                let got_on = if max_batch == 4096 { 0 } else { 3 };
                assert!(bench.died <= 2 + 5 + got_on, "{}", bench.died);
                bench.assert_all_settled();
            }
        }
    }
}

#[test]
fn the_others_get_through_before_the_process_dies_again() {
    let mut bench = with_sessions(policy(), 30);
    bench.plugin = takes([("7+", Takes::Kills)]);
    bench.restart();
    while bench.died < 3 {
        bench.wait(SECOND / 1000);
    }
    bench.wait(SECOND / 2);
    assert_eq!((bench.died, bench.acknowledged.len()), (3, 58));
    assert_eq!(bench.attempts("7+"), 1);
}

#[test]
fn an_event_that_the_plugin_takes_at_its_last_attempt_is_no_dead_letter() {
    let mut bench = with_sessions(policy(), 30);
    bench.plugin = in_turn("7-", vec![Takes::Kills; 2 + 4]);
    bench.restart();
    bench.run();
    assert_eq!((bench.died, bench.dead().len()), (6, 0));
    assert_eq!(bench.acknowledged.len(), 60);
    bench.assert_all_settled();
}

#[test]
fn several_events_that_kill_are_all_found_and_no_other() {
    for max_batch in [1, 3, 4096] {
        let mut bench = with_sessions(batches_of(max_batch), 30);
        let poison = [
            ("0+", Takes::Kills),
            ("7-", Takes::Kills),
            ("25+", Takes::Kills),
        ];
        bench.plugin = takes(poison);
        bench.restart();
        bench.run();
        let mut dead = bench.dead();
        dead.sort();
        assert_eq!(dead, ["0+", "0-", "25+", "25-", "7-"]);
        assert!(bench.died <= 3 * (2 + 5 + 3), "{}", bench.died);
        bench.assert_all_settled();
    }
}

#[test]
fn processes_that_are_killed_while_nothing_is_owed_make_no_lane_slow() {
    let mut bench = Bench::new(policy());
    bench.starts(["A", "B"]);
    bench.run();
    for _ in 0..10 {
        bench.wait(SECOND);
        bench.die();
    }
    bench.announces = false;
    bench.deliveries.clear();
    bench.starts(["C", "D", "E"]);
    bench.die();
    bench.run();
    assert_eq!(bench.deliveries, ["C+ D+ E+"]);
}

#[test]
fn processes_that_are_killed_while_the_lane_gets_on_make_it_no_slower() {
    let mut bench = Bench::new(policy());
    for id in 0..10 {
        bench.start(&id.to_string());
        bench.wait(SECOND);
        bench.start(&format!("{id}-again"));
        bench.die();
    }
    bench.run();
    assert!(bench.parked.is_empty());
    assert!(bench.deliveries.len() <= 30, "{:?}", bench.deliveries);
}

#[test]
fn a_trial_that_tells_nothing_of_the_event_does_not_count() {
    for breaks in [Takes::Down, Takes::Hangs, Takes::Panics] {
        let mut bench = Bench::new(policy());
        bench.plugin = Box::new(move |_| breaks);
        bench.starts(["A", "B"]);
        die_till_careful(&mut bench);
        bench.wait(3600 * SECOND);
        assert!(bench.times_delivered("A+") > 5);
        // By a trial that is under way, at the most.
        assert!(bench.attempts("A+") + bench.attempts("B+") <= 1);
        assert_eq!((bench.lane.owed(), bench.lane.dead()), (2, 0));
        bench.plugin = takes([]);
        bench.run();
        bench.assert_all_settled();
        assert_eq!(bench.dead().len(), 0);
    }
}

#[test]
fn a_trial_that_a_shutdown_cuts_does_not_count() {
    let mut bench = Bench::new(policy());
    bench.plugin = takes([("A+", Takes::Down)]);
    bench.start("A");
    die_till_careful(&mut bench);
    bench.plugin = takes([("A+", Takes::Hangs)]);
    bench.drain(SECOND);
    bench.wait(SECOND);
    assert!(bench.was_cut_off);
    assert_eq!(bench.attempts("A+"), 0);
}

#[test]
fn a_rejection_in_a_trial_counts_once() {
    let mut bench = Bench::new(policy());
    bench.plugin = in_turn("A+", vec![Takes::Down; 2]);
    bench.starts(["A", "B"]);
    die_till_careful(&mut bench);
    bench.deliveries.clear();
    bench.plugin = takes([("A+", Takes::Rejects)]);
    bench.run();
    assert_eq!(bench.dead(), ["A+"]);
    assert_eq!(bench.attempts("A+"), 5);
    assert_eq!(bench.times_delivered("A+"), 5);
    let letter = bench.parked.values().next().unwrap();
    assert_eq!(&*letter.error, "rejected");
}

#[test]
fn an_event_that_kills_when_it_is_tried_again_is_found_while_others_come() {
    let mut bench = Bench::new(policy());
    let mut calls = 0;
    bench.plugin = Box::new(move |event| {
        calls += u32::from(name(event) == "A+");
        match name(event) == "A+" {
            true if calls == 1 => Takes::Rejects,
            true => Takes::Kills,
            false => Takes::Well,
        }
    });
    bench.start("A");
    for id in 0..600 {
        bench.start(&id.to_string());
        bench.wait(SECOND / 10);
    }
    bench.run();
    assert_eq!(bench.dead(), ["A+"]);
    assert_eq!(bench.died, 5);
    bench.assert_all_settled();
}

#[test]
fn a_dead_letter_that_is_brought_back_and_kills_again_dies_again() {
    let mut bench = with_sessions(policy(), 5);
    bench.plugin = takes([("3-", Takes::Kills)]);
    bench.restart();
    bench.run();
    bench.redeliver();
    bench.run();
    assert_eq!(bench.dead(), ["3-"]);
    assert_eq!(bench.died, 2 + 5 + 5);
    bench.assert_all_settled();
}
