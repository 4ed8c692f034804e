//! What the next process makes of what a dead one held.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::support::Home;
use crate::event::{Hook, OpenSession};
use crate::holder::HolderRecord;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::tests::support::*;
use crate::ledger::{Append, Intent, Ledger, Progress, Recovery};
use crate::session::{EndReason, NewSession, RunId};

/// A run that began in `ledger` at `now`.
fn begin(ledger: &SqliteLedger, now: Timestamp) -> (Run, Recovery) {
    let run = Run::new();
    (run, get(ledger.recover(run.instance, now)))
}

fn intent(reason: EndReason, asked_at: Timestamp) -> Intent {
    Intent {
        reason,
        restart_expected: (reason == EndReason::Restart).then_some(Duration::from_millis(1500)),
        trigger: "SIGTERM".into(),
        asked_at,
        ends_held: reason == EndReason::Shutdown,
    }
}

#[test]
fn the_first_run_has_no_predecessor_and_nothing_to_end() {
    let home = Home::new();
    let (_, recovery) = begin(&home.open(), at(0));
    assert_eq!(recovery, Recovery::default());
}

#[test]
fn what_a_process_held_that_died_ends_with_crash_when_it_was_last_known_alive() {
    let home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    get(ledger.attach("audit"));
    let long = run.start(&ledger, "long", at(1));
    let ended = run.start(&ledger, "ended", at(2));
    run.end(&ledger, &ended, EndReason::Completed, at(3));
    get(ledger.keep_alive(at(10)));
    get(ledger.keep_alive(at(9)));
    // Started after the last sign of life.
    let short = run.start(&ledger, "short", at(11));
    let next = home.killed();
    drop(ledger);

    let ledger = next.open();
    let (successor, recovery) = begin(&ledger, at(100));
    let predecessor = recovery.predecessor.unwrap();
    assert_eq!(predecessor.instance, run.instance);
    assert_eq!(
        (predecessor.started_at, predecessor.alive_at),
        (at(0), at(10))
    );
    assert_eq!((predecessor.intent, predecessor.stopped), (None, false));
    assert_eq!(
        (recovery.found, recovery.reason),
        (2, Some(EndReason::Crash))
    );
    assert_eq!(ledger.head(), 6);

    let events = get(ledger.read(4, 10)).events;
    for (event, open, ended_at) in [(&events[0], &long, at(10)), (&events[1], &short, at(11))] {
        assert_eq!(
            (event.hook(), event.start_seq()),
            (Hook::SessionEnd, open.start_seq)
        );
        assert_eq!(event.session(), Some(&open.session));
        assert_eq!(
            (event.timestamp(), event.instance()),
            (at(100), successor.instance)
        );
        let end = event.how_ended().unwrap();
        assert_eq!(end.reason, EndReason::Crash);
        assert_eq!((end.ended_at, end.detected_at), (ended_at, at(100)));
        let id = &open.session.id;
        assert_eq!(get(ledger.last_ended(id)).unwrap().end.unwrap().0, *end);
    }
    assert_eq!(
        get(ledger.attach("audit")).cursor,
        0,
        "it is owed all of them"
    );

    // Nothing of it is found again, and the log goes on.
    let again = next.killed();
    drop(ledger);
    let ledger = again.open();
    let (run, recovery) = begin(&ledger, at(200));
    assert_eq!((recovery.found, recovery.reason), (0, None));
    assert_eq!(run.start(&ledger, "long", at(201)).start_seq, 7);
}

#[test]
fn what_was_written_since_the_file_was_opened_is_ended_too_and_no_place_comes_twice() {
    let home = Home::new();
    let ledger = home.open();
    begin(&ledger, at(0));
    let next = home.open();
    let run = Run::new();
    run.start(&ledger, "late", at(1));
    let (_, recovery) = begin(&next, at(10));
    assert_eq!((recovery.found, next.head()), (1, 2));
    assert_eq!(run.start(&next, "new", at(11)).start_seq, 3);
    assert_eq!(read_all(&next, 10).0.len(), 3);
}

#[test]
fn a_clock_that_jumped_ahead_and_back_puts_no_end_after_the_moment_it_is_noticed() {
    let home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    run.start(&ledger, "before", at(1));
    get(ledger.keep_alive(at(3600)));
    run.start(&ledger, "ahead", at(3601));
    run.start(&ledger, "after", at(2));
    let next = home.killed();
    let ledger = next.open();
    begin(&ledger, at(10));
    assert_eq!(
        next.number("SELECT count(*) FROM ends WHERE ended_at IS NOT NULL"),
        0
    );
    for event in get(ledger.read(3, 10)).events.iter() {
        let end = event.how_ended().unwrap();
        assert_eq!(
            (event.timestamp(), end.detected_at, end.ended_at),
            (at(10), at(10), at(10))
        );
        let id = &event.session().unwrap().id;
        let ended = get(ledger.last_ended(id)).unwrap().end.unwrap();
        assert_eq!(ended.0, *end, "what is looked up is what is told");
    }
}

#[test]
fn a_session_that_starts_in_the_future_ends_when_that_is_noticed_and_is_let_go_of() {
    let home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    let far = at(1_000_000_000);
    let starts = ["a", "b", "c"].map(|name| {
        let mut new = NewSession::new(id(name));
        new.started_at = Some(far);
        run.start_event(new, at(1))
    });
    let starts = append(&ledger, starts.into());
    let end = run.end(&ledger, &open(&starts[0]), EndReason::Completed, at(2));
    assert_eq!((end.timestamp(), end.duration_ms()), (at(2), Some(0)));
    let next = home.killed();
    let ledger = next.open();
    begin(&ledger, at(10));
    let (events, _) = read_all(&ledger, 10);
    for told in events.iter().filter(|told| told.end.is_some()) {
        let end = told.end.as_ref().unwrap();
        assert!(end.ended_at == end.detected_at && end.detected_at == told.timestamp);
        assert!(told.timestamp <= at(10), "{told:?}");
        let ended = get(ledger.last_ended(&told.session.id)).unwrap();
        assert_eq!(Some(ended.end.unwrap().0), told.end);
    }
    get(ledger.reclaim(at(5000), Duration::from_secs(1000)));
    assert_eq!(next.number("SELECT count(*) FROM starts"), 1, "the newest");
}

#[test]
fn no_session_ends_before_its_start_was_recorded_however_long_ago_it_says_that_was() {
    let home = Home::new();
    {
        let ledger = home.open();
        let (run, _) = begin(&ledger, at(0));
        get(ledger.keep_alive(at(5)));
        let new = NewSession::new(id("old")).with_started_at(at(-1000));
        append(&ledger, vec![run.start_event(new, at(6))]);
    }
    let ledger = home.open();
    let (_, recovery) = begin(&ledger, at(60));
    assert_eq!(recovery.found, 1);
    let (log, _) = read_all(&ledger, 10);
    assert_eq!(log[1].end.as_ref().unwrap().ended_at, at(6));
    let ended = get(ledger.last_ended(&id("old"))).unwrap().end.unwrap().0;
    assert_eq!(Some(&ended), log[1].end.as_ref());
}

#[test]
fn what_a_process_held_that_was_about_to_stop_ends_with_the_reason_of_the_stop() {
    for reason in [EndReason::Shutdown, EndReason::Restart] {
        let home = Home::new();
        let ledger = home.open();
        let (run, _) = begin(&ledger, at(0));
        run.start(&ledger, "before", at(1));
        get(ledger.intend(intent(reason, at(5))));
        // Recorded while the door closed.
        run.start(&ledger, "after", at(6));
        get(ledger.keep_alive(at(7)));
        let next = home.killed();
        drop(ledger);

        let ledger = next.open();
        let (_, recovery) = begin(&ledger, at(100));
        let predecessor = recovery.predecessor.unwrap();
        assert_eq!(predecessor.intent, Some(intent(reason, at(5))));
        assert_eq!(predecessor.alive_at, at(7));
        assert!(!predecessor.stopped);
        assert_eq!((recovery.found, recovery.reason), (2, Some(reason)));
        let ends: Vec<_> = get(ledger.read(2, 10))
            .events
            .iter()
            .map(|event| event.how_ended().unwrap().ended_at)
            .collect();
        assert_eq!(ends, [at(5), at(6)]);
    }
}

#[test]
fn a_process_that_came_to_the_end_of_its_stop_is_known_to_have() {
    let home = Home::new();
    let ledger = home.open();
    begin(&ledger, at(0));
    get(ledger.intend(intent(EndReason::Shutdown, at(5))));
    get(ledger.stop(at(6)));
    ledger.close();
    let (_, recovery) = begin(&home.open(), at(7));
    let predecessor = recovery.predecessor.unwrap();
    assert!(predecessor.stopped);
    assert_eq!((predecessor.alive_at, recovery.found), (at(6), 0));
}

#[test]
fn nothing_is_noted_of_a_run_that_has_not_begun() {
    let home = Home::new();
    let ledger = home.open();
    ask(ledger.keep_alive(at(0))).unwrap_err();
    ask(ledger.intend(intent(EndReason::Shutdown, at(0)))).unwrap_err();
    ask(ledger.stop(at(0))).unwrap_err();
}

#[test]
fn an_end_by_recovery_has_the_details_that_the_session_had_last_and_its_start_those_of_then() {
    let home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    let open = run.start(&ledger, "a", at(1));
    let mut new = NewSession::new(id("a"));
    new.agent_id = Some("main".into());
    let session = Arc::new(open.session.replace_details(new));
    let amended = OpenSession::new(Arc::clone(&session), open.start_seq);
    get(ledger.append(Append {
        events: Arc::default(),
        amended: Some(amended),
    }));
    let next = home.killed();
    let ledger = next.open();
    begin(&ledger, at(10));
    let (events, _) = read_all(&ledger, 10);
    assert_eq!(events[0].session, open.session);
    assert_eq!(events[1].session, session);
    let listed = get(ledger.ended(&Default::default(), at(10), 0, 10));
    assert_eq!(listed[0].session, session);
}

#[test]
fn parked_events_and_cursors_outlive_the_process() {
    let home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    get(ledger.attach("audit"));
    run.start(&ledger, "a", at(1));
    run.start(&ledger, "b", at(1));
    let events = get(ledger.read(0, 2)).events;
    let progress = Progress {
        cursor: Some(2),
        park: vec![parked(&events[0], 2, false), parked(&events[1], 5, true)],
        unpark: Vec::new(),
    };
    get(ledger.advance("audit", progress));
    let next = home.killed();
    let ledger = next.open();
    begin(&ledger, at(10));
    let position = get(ledger.attach("audit"));
    assert_eq!((position.since, position.cursor), (0, 2));
    assert_eq!(position.parked.len(), 1);
    assert_eq!(told(&position.parked[0].event), told(&events[0]));
    assert_eq!(position.parked[0].attempts, 2);
    assert_eq!(
        position.dead,
        [(2, events[1].session().unwrap().incarnation)]
    );
    let dead = get(ledger.dead_letters("audit", 0, 10));
    assert_eq!(told(&dead[0].event), told(&events[1]));
}

/// The deaths of `plugin` after one more run of `home` that dies once `work` is done in it.
fn deaths_after(home: &mut Home, plugin: &str, work: impl FnOnce(&SqliteLedger, Run)) -> u32 {
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    get(ledger.attach(plugin));
    work(&ledger, run);
    *home = home.killed();
    drop(ledger);
    let ledger = home.open();
    // As a supervisor does, whose new plugins are to hear of what the recovery ends.
    let deaths = get(ledger.attach(plugin)).deaths;
    begin(&ledger, at(0));
    assert_eq!(get(ledger.attach(plugin)).deaths, deaths);
    get(ledger.stop(at(0)));
    ledger.close();
    deaths
}

fn to(cursor: u64) -> Progress {
    Progress {
        cursor: Some(cursor),
        ..Progress::default()
    }
}

#[test]
fn runs_that_die_are_counted_for_plugins_that_were_owed_something_until_they_get_on() {
    let mut home = Home::new();
    let died = |home: &mut Home| deaths_after(home, "audit", |_, _| {});
    let owed = deaths_after(&mut home, "audit", |ledger, run| {
        run.start(ledger, "a", at(0));
    });
    assert_eq!(owed, 1);
    assert_eq!(died(&mut home), 2, "a stop in between changes nothing");
    assert_eq!(died(&mut home), 3);

    let parks = deaths_after(&mut home, "audit", |ledger, _| {
        let event = get(ledger.read(0, 1)).events[0].clone();
        let park = Progress {
            park: vec![parked(&event, 1, false)],
            ..Progress::default()
        };
        get(ledger.advance("audit", park));
    });
    assert_eq!(parks, 4, "what is only counted is no progress");
    let unparks = deaths_after(&mut home, "audit", |ledger, _| {
        let unpark = Progress {
            unpark: vec![1],
            ..Progress::default()
        };
        get(ledger.advance("audit", unpark));
    });
    assert_eq!(unparks, 1);
    let moves = deaths_after(&mut home, "audit", |ledger, _| {
        get(ledger.advance("audit", to(1)));
    });
    assert_eq!(moves, 1, "it is behind the end of `a` still");
    let catches_up = deaths_after(&mut home, "audit", |ledger, _| {
        get(ledger.advance("audit", to(ledger.head())));
    });
    assert_eq!(catches_up, 0);
    assert_eq!(died(&mut home), 0, "it was owed nothing");
}

#[test]
fn a_run_that_stops_or_a_plugin_that_is_detached_has_no_deaths() {
    let mut home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    get(ledger.attach("audit"));
    run.start(&ledger, "a", at(0));
    get(ledger.stop(at(1)));
    ledger.close();
    let ledger = home.open();
    begin(&ledger, at(2));
    assert_eq!(get(ledger.attach("audit")).deaths, 0);
    get(ledger.detach_others(&["crm".into()], at(3)));
    ledger.close();
    deaths_after(&mut home, "crm", |_, _| {});
    assert_eq!(get(home.open().attach("audit")).deaths, 0);
}

/// A session that `holder` has.
fn held(name: &str, holder: &str) -> NewSession {
    let mut new = NewSession::new(id(name));
    new.holder = Some(holder.parse().unwrap());
    new.run_id = Some("run-1".parse().unwrap());
    new
}

/// Ledgers whose run held sessions of its own and of others, to which it was `bound` or not, and left
/// `intent`, if any.
fn with_held(bound: bool, intent: Option<Intent>) -> Home {
    let home = Home::new();
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(0));
    if bound {
        get(ledger.bind_held());
    }
    run.start(&ledger, "ours", at(1));
    append(&ledger, vec![run.start_event(held("theirs", "h"), at(2))]);
    let over = append(&ledger, vec![run.start_event(held("over", "h"), at(3))]);
    run.end(&ledger, &open(&over[0]), EndReason::Completed, at(4));
    // One changes hands while it is active.
    let taken = run.start(&ledger, "taken", at(5));
    let session = Arc::new(taken.session.replace_details(held("taken", "h")));
    let amended = Some(OpenSession::new(session, taken.start_seq));
    let events = Arc::default();
    get(ledger.append(Append { events, amended }));
    let record = HolderRecord {
        holder: "h".parse().unwrap(),
        run_id: Some("run-1".parse().unwrap()),
        past_runs: vec!["run-0".parse().unwrap()],
        is_first_run: false,
        lease: Duration::from_millis(1500),
    };
    get(ledger.keep_holder(record.clone()));
    let gone = HolderRecord {
        holder: "gone".parse().unwrap(),
        ..record
    };
    get(ledger.keep_holder(gone.clone()));
    get(ledger.forget_holder(&gone.holder));
    if let Some(intent) = intent {
        get(ledger.intend(intent));
    }
    let next = home.killed();
    drop(ledger);
    next
}

#[test]
fn g11_what_others_hold_goes_on_after_a_crash_and_over_a_restart() {
    for (intent, reason) in [
        (None, EndReason::Crash),
        (Some(intent(EndReason::Restart, at(9))), EndReason::Restart),
    ] {
        let home = with_held(false, intent);
        let survey = SqliteLedger::survey(home.path(), 10).unwrap();
        assert_eq!((survey.open, survey.held), (1, 2));
        assert_eq!(survey.sessions, ["ours"]);
        let ledger = home.open();
        let (_, recovery) = begin(&ledger, at(100));
        assert_eq!((recovery.found, recovery.reason), (1, Some(reason)));
        let held = get(ledger.held());
        let ids: Vec<_> = held
            .sessions
            .iter()
            .map(|it| it.session.id.as_str())
            .collect();
        assert_eq!(ids, ["theirs", "taken"]);
        let [holder] = &held.holders[..] else {
            panic!("{held:?}");
        };
        assert_eq!(holder.holder.as_str(), "h");
        assert_eq!(holder.run_id.as_ref().map(RunId::as_str), Some("run-1"));
        assert_eq!((holder.past_runs.len(), holder.is_first_run), (1, false));
        assert_eq!(holder.lease, Duration::from_millis(1500));

        // The run after that finds them too, but for what ended meanwhile.
        let run = Run::new();
        run.end(&ledger, &held.sessions[0], EndReason::Lost, at(101));
        let next = home.killed();
        let ledger = next.open();
        let (_, recovery) = begin(&ledger, at(200));
        assert_eq!(recovery.found, 0);
        assert_eq!(get(ledger.held()).sessions.len(), 1);
    }
}

/// Asserts that the next run ends all that is open, for `reason`.
#[track_caller]
fn assert_all_end(home: &Home, reason: EndReason) {
    let survey = SqliteLedger::survey(home.path(), 10).unwrap();
    assert_eq!((survey.open, survey.held), (3, 0));
    assert_eq!(survey.reason(), Some(reason));
    let ledger = home.open();
    let (_, recovery) = begin(&ledger, at(100));
    assert_eq!((recovery.found, recovery.reason), (3, Some(reason)));
    assert!(get(ledger.held()).sessions.is_empty());
}

#[test]
fn g11_a_shutdown_that_was_asked_for_ends_what_others_hold_too() {
    let shutdown = intent(EndReason::Shutdown, at(9));
    assert_all_end(&with_held(false, Some(shutdown)), EndReason::Shutdown);
}

#[test]
fn g11_what_others_hold_ends_with_a_run_that_it_is_bound_to() {
    assert_all_end(&with_held(true, None), EndReason::Crash);
    let restart = Intent {
        ends_held: true,
        ..intent(EndReason::Restart, at(9))
    };
    assert_all_end(&with_held(true, Some(restart)), EndReason::Restart);

    // Its successor is not bound by that.
    let home = with_held(true, None);
    let ledger = home.open();
    let (run, _) = begin(&ledger, at(100));
    append(&ledger, vec![run.start_event(held("new", "h"), at(101))]);
    let next = home.killed();
    let ledger = next.open();
    let (_, recovery) = begin(&ledger, at(200));
    assert_eq!(recovery.found, 0);
    assert_eq!(get(ledger.held()).sessions.len(), 1);
}
