//! What is let go of, and what is not.

use std::time::Duration;

use super::support::Home;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::tests::support::*;
use crate::ledger::{Ledger, Progress};
use crate::session::{End, EndDetails, EndReason, NewSession};

const RETENTION: Duration = Duration::from_secs(1000);

/// Lets go of all that can be at so many seconds; answers the steps it took and the plugins dropped.
fn reclaim(ledger: &SqliteLedger, seconds: i64) -> (usize, Vec<(String, u64)>) {
    let (mut steps, mut dropped) = (0, Vec::new());
    loop {
        let reclaimed = get(ledger.reclaim(at(seconds), RETENTION));
        steps += 1;
        dropped.extend(reclaimed.dropped);
        if !reclaimed.more {
            return (steps, dropped);
        }
        assert!(steps < 10_000);
    }
}

fn acknowledge(ledger: &SqliteLedger, plugin: &str, seq: u64) {
    let progress = Progress {
        cursor: Some(seq),
        ..Progress::default()
    };
    get(ledger.advance(plugin, progress));
}

fn kept(ledger: &SqliteLedger) -> Vec<u64> {
    let (events, _) = read_all(ledger, 100);
    events.iter().map(|event| event.seq).collect()
}

/// Ten sessions that started and ended one after the other, the last at `at(10)`.
fn with_ten(home: &Home) -> SqliteLedger {
    let ledger = home.open();
    get(ledger.attach("audit"));
    let run = Run::new();
    for n in 1..=10 {
        let open = run.start(&ledger, &format!("s{n}"), at(n));
        run.end(&ledger, &open, EndReason::Completed, at(n));
    }
    ledger
}

/// As a later process sees it: nothing of the log is in memory.
fn reopened(home: &Home, ledger: SqliteLedger) -> SqliteLedger {
    ledger.close();
    home.open()
}

#[test]
fn sessions_go_once_they_ended_long_ago_and_every_plugin_is_past_them() {
    let home = Home::new();
    let ledger = with_ten(&home);
    reclaim(&ledger, 5000);
    acknowledge(&ledger, "audit", 9);
    reclaim(&ledger, 1003);
    let ledger = reopened(&home, ledger);
    assert_eq!(kept(&ledger), (7..=20).collect::<Vec<_>>());
    reclaim(&ledger, 5000);
    // Up to the cursor: the session that started at 9 has not ended there.
    assert_eq!(kept(&ledger), (9..=20).collect::<Vec<_>>());
    let page = get(ledger.read(3, 100));
    assert_eq!((page.gap, page.events.len()), (5, 12));
    assert!(get(ledger.last_ended(&id("s4"))).is_none());
    assert!(get(ledger.last_ended(&id("s5"))).is_some());
}

#[test]
fn the_newest_event_stays_so_that_places_never_come_twice() {
    let home = Home::new();
    let ledger = with_ten(&home);
    acknowledge(&ledger, "audit", 20);
    reclaim(&ledger, 5000);
    let ledger = reopened(&home, ledger);
    assert_eq!(ledger.head(), 20);
    assert_eq!(kept(&ledger), [19, 20]);
    assert_eq!(Run::new().start(&ledger, "next", at(6000)).start_seq, 21);
}

#[test]
fn a_session_that_has_not_ended_stays_however_old_and_is_no_gap_for_others() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    let old = run.start(&ledger, "old", at(0));
    get(ledger.attach("audit"));
    for n in 1..=5 {
        let open = run.start(&ledger, &format!("s{n}"), at(n));
        run.end(&ledger, &open, EndReason::Completed, at(n));
    }
    acknowledge(&ledger, "audit", 11);
    reclaim(&ledger, 5000);
    run.end(&ledger, &old, EndReason::Completed, at(5000));
    let ledger = reopened(&home, ledger);
    assert_eq!(kept(&ledger), [1, 10, 11, 12]);
    let owed = get(ledger.read(11, 100));
    assert_eq!((owed.gap, owed.events.len()), (0, 1));
    assert_eq!(owed.events[0].session(), Some(&old.session));
    // A page ends before a hole, so that who reads from far back can tell where it is.
    let page = get(ledger.read(0, 100));
    assert_eq!((page.gap, page.events.len()), (0, 1));
    assert_eq!(get(ledger.read(1, 100)).gap, 8);
}

#[test]
fn what_is_parked_or_a_dead_letter_keeps_both_events_of_its_session() {
    let home = Home::new();
    let ledger = with_ten(&home);
    let events = get(ledger.read(0, 20)).events;
    let progress = Progress {
        cursor: Some(20),
        park: vec![parked(&events[2], 5, true), parked(&events[7], 1, false)],
        unpark: Vec::new(),
    };
    get(ledger.advance("audit", progress));
    reclaim(&ledger, 5000);
    let ledger = reopened(&home, ledger);
    assert_eq!(kept(&ledger), [3, 4, 7, 8, 19, 20]);
    let dead = get(ledger.dead_letters("audit", 0, 10));
    assert_eq!(told(&dead[0].event), told(&events[2]));
    let unpark = Progress {
        unpark: vec![3, 8],
        ..Progress::default()
    };
    get(ledger.advance("audit", unpark));
    reclaim(&ledger, 5000);
    assert_eq!(kept(&reopened(&home, ledger)), [19, 20]);
}

#[test]
fn a_removed_plugin_is_kept_for_a_while_and_then_dropped_with_what_it_was_owed() {
    let home = Home::new();
    let ledger = with_ten(&home);
    get(ledger.attach("crm"));
    let events = get(ledger.read(0, 20)).events;
    acknowledge(&ledger, "audit", 20);
    let parks = Progress {
        cursor: Some(5),
        park: vec![parked(&events[0], 1, false), parked(&events[1], 5, true)],
        unpark: Vec::new(),
    };
    get(ledger.advance("crm", parks));
    get(ledger.detach_others(&["audit".into()], at(100)));
    // A later detaching does not begin its time anew.
    get(ledger.detach_others(&["audit".into()], at(900)));

    assert_eq!(reclaim(&ledger, 1099).1, []);
    let ledger = reopened(&home, ledger);
    assert_eq!(kept(&ledger), (1..=2).chain(5..=20).collect::<Vec<_>>());
    // After the cursor, and parked and not dead.
    assert_eq!(reclaim(&ledger, 1100).1, [("crm".into(), 16)]);
    assert_eq!(home.number("SELECT count(*) FROM parked"), 0);
    assert_eq!(home.number("SELECT count(*) FROM plugins"), 1);
    assert_eq!(kept(&reopened(&home, ledger)), [19, 20]);

    let ledger = home.open();
    let position = get(ledger.attach("crm"));
    assert_eq!((position.since, position.cursor), (20, 20), "it is new");
    assert!(position.parked.is_empty() && position.dead.is_empty());
}

#[test]
fn a_removed_plugin_that_comes_back_in_time_goes_on_where_it_was() {
    let home = Home::new();
    let ledger = with_ten(&home);
    acknowledge(&ledger, "audit", 4);
    get(ledger.detach_others(&[], at(100)));
    get(ledger.detach_others(&["audit".into()], at(200)));
    assert_eq!(reclaim(&ledger, 5000).1, []);
    assert_eq!(get(ledger.attach("audit")).cursor, 4);
    let ledger = reopened(&home, ledger);
    let page = get(ledger.read(4, 100));
    assert_eq!((page.gap, page.events.len()), (0, 16));
}

#[test]
fn much_goes_in_small_steps_and_the_file_becomes_smaller() {
    const SESSIONS: usize = 30_000;
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    let starts = (0..SESSIONS)
        .map(|n| run.start_event(NewSession::new(id(&format!("session-{n}"))), at(0)))
        .collect();
    let ends = append(&ledger, starts)
        .iter()
        .map(|event| {
            let end = End::now(EndReason::Completed, EndDetails::default(), at(1));
            run.end_event(&open(event), end)
        })
        .collect();
    append(&ledger, ends);
    let ledger = reopened(&home, ledger);
    let before = ledger.size_bytes().unwrap();
    assert_eq!(ledger.held_bytes("slow"), None);
    get(ledger.attach("slow"));
    assert_eq!(ledger.held_bytes("slow"), Some(0));

    let (steps, _) = reclaim(&ledger, 5000);
    assert!(steps >= SESSIONS / 2000, "{steps} steps");
    let ledger = reopened(&home, ledger);
    assert_eq!(kept(&ledger), [SESSIONS as u64, 2 * SESSIONS as u64]);
    let after = ledger.size_bytes().unwrap();
    assert!(after < before / 2, "{before} bytes, then {after}");
}

#[test]
fn what_a_plugin_holds_back_is_its_share_of_the_log() {
    let home = Home::new();
    let ledger = with_ten(&home);
    let size = ledger.size_bytes().unwrap();
    assert_eq!(ledger.held_bytes("audit"), Some(size));
    acknowledge(&ledger, "audit", 15);
    assert_eq!(
        ledger.held_bytes("audit"),
        Some(ledger.size_bytes().unwrap() / 4)
    );
}

#[test]
fn runs_of_long_ago_are_forgotten_unless_something_kept_is_of_them() {
    let home = Home::new();
    let ledger = home.open();
    let begin = |seconds| {
        let run = Run::new();
        get(ledger.recover(run.instance, at(seconds)));
        run
    };
    let first = begin(0);
    let open = first.start(&ledger, "a", at(0));
    first.end(&ledger, &open, EndReason::Completed, at(0));
    for _ in 0..150 {
        begin(1);
    }
    let last = begin(2);
    let open = last.start(&ledger, "b", at(4500));
    last.end(&ledger, &open, EndReason::Completed, at(4500));
    reclaim(&ledger, 500);
    assert_eq!(home.number("SELECT count(*) FROM instances"), 152);
    reclaim(&ledger, 5000);
    assert_eq!(home.number("SELECT count(*) FROM instances"), 100);
    assert_eq!(kept(&reopened(&home, ledger)), [3, 4]);
}
