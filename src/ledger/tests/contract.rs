//! The same tests for each ledger.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::event::{Ending, Event, OpenSession};
use crate::filter::SessionFilter;
use crate::ledger::{Append, Ledger, MemoryLedger, Progress, SessionRecord};
use crate::session::{End, EndDetails, EndReason, NewSession};

/// Runs `test` with an empty ledger of each kind.
fn each(test: impl Fn(&dyn Ledger)) {
    eprintln!("with the ledger in memory:");
    test(&MemoryLedger::new());
    #[cfg(feature = "sqlite")]
    {
        eprintln!("with the ledger in a file:");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let durability = crate::durability::Durability::Process;
        test(&crate::ledger::SqliteLedger::open(path, durability).unwrap());
    }
}

fn cursor(seq: u64) -> Progress {
    Progress {
        cursor: Some(seq),
        ..Progress::default()
    }
}

#[test]
fn events_get_ascending_places_in_the_order_of_the_calls() {
    each(|ledger| {
        let run = Run::new();
        assert_eq!(ledger.head(), 0);
        let event = |name: &str| run.start_event(NewSession::new(id(name)), at(0));
        let answers = [&["a", "b"][..], &[], &["c"]].map(|names| {
            let events: Vec<_> = names.iter().map(|name| event(name)).collect();
            ledger.append(Append::from(events))
        });
        let places: Vec<Vec<_>> = answers
            .into_iter()
            .map(|answer| get(answer).iter().filter_map(Event::seq).collect())
            .collect();
        assert_eq!(places, [vec![1, 2], vec![], vec![3]]);
        assert_eq!(ledger.head(), 3);
    });
}

#[test]
fn the_log_is_read_in_pages_as_it_was_recorded() {
    each(|ledger| {
        let run = Run::new();
        let mut recorded = Vec::new();
        for n in 0..20 {
            let open = run.start(ledger, &format!("s{n}"), at(n));
            let details = EndDetails {
                detail: Some("so it is".into()),
                message_count: Some(7),
                ..EndDetails::default()
            };
            let end = End::now(EndReason::Completed, details, at(n + 100));
            recorded.extend(all_told(&get(ledger.read(open.start_seq - 1, 1)).events));
            let ended = append(ledger, vec![run.end_event(&open, end)]);
            recorded.extend(all_told(&ended));
        }
        for page in [1, 7, 40, 1000] {
            assert_eq!(read_all(ledger, page), (recorded.clone(), 0));
        }
        for after in [40, 41, u64::MAX] {
            let page = get(ledger.read(after, 10));
            assert!(page.events.is_empty() && page.gap == 0);
        }
        assert!(get(ledger.read(0, 0)).events.is_empty());
    });
}

#[test]
fn the_last_incarnation_that_ended_is_known_with_its_last_details() {
    each(|ledger| {
        let run = Run::new();
        assert!(get(ledger.last_ended(&id("a"))).is_none());
        let first = run.start(ledger, "a", at(0));
        assert!(get(ledger.last_ended(&id("a"))).is_none(), "it is active");
        run.end(ledger, &first, EndReason::Reset, at(1));

        let second = run.start(ledger, "a", at(2));
        let record = get(ledger.last_ended(&id("a"))).unwrap();
        assert_eq!(record.session, first.session);

        let mut new = NewSession::new(id("a"));
        new.agent_id = Some("main".into());
        let mut amended = second.clone();
        amended.session = Arc::new(second.session.replace_details(new));
        get(ledger.append(Append {
            events: Arc::default(),
            amended: Some(amended.clone()),
        }));
        let end = run.end(ledger, &amended, EndReason::Closed, at(3));
        let SessionRecord {
            session,
            start_seq,
            end: Some((how, end_seq)),
        } = get(ledger.last_ended(&id("a"))).unwrap()
        else {
            panic!("it has ended");
        };
        assert_eq!((session, start_seq), (amended.session, second.start_seq));
        assert_eq!((how.reason, end_seq), (EndReason::Closed, 4));
        assert_eq!(end.recorded_seq(), 4);
    });
}

#[test]
fn ended_sessions_are_listed_by_filter_and_page_in_the_order_of_their_starts() {
    each(|ledger| {
        let run = Run::new();
        let open: Vec<_> = (0..6)
            .map(|n| {
                let mut new = NewSession::new(id(&format!("s{n}")));
                new.agent_id = Some(if n % 2 == 0 { "even" } else { "odd" }.into());
                let event = run.start_event(new, at(n));
                super::support::open(&append(ledger, vec![event])[0])
            })
            .collect();
        // In another order than they started, and all but the last.
        for n in [3, 0, 4, 1, 2] {
            run.end(ledger, &open[n], EndReason::Completed, at(50));
        }
        let list = |filter: &SessionFilter, after, limit| -> Vec<_> {
            let records = get(ledger.ended(filter, at(100), after, limit));
            assert!(records.iter().all(|record| record.end.is_some()));
            records.into_iter().map(|record| record.start_seq).collect()
        };
        let any = SessionFilter::default();
        assert_eq!(list(&any, 0, 10), [1, 2, 3, 4, 5]);
        assert_eq!(list(&any, 0, 2), [1, 2]);
        assert_eq!(list(&any, 2, 2), [3, 4]);
        assert_eq!(list(&any, 5, 2), [0; 0]);
        assert_eq!(list(&any, u64::MAX, 2), [0; 0]);
        let even = SessionFilter {
            agent_id: Some("even".into()),
            ..any.clone()
        };
        assert_eq!(list(&even, 0, 2), [1, 3]);
        assert_eq!(list(&even, 3, 2), [5]);
        let old = SessionFilter {
            older_than: Some(Duration::from_secs(98)),
            ..any.clone()
        };
        assert_eq!(list(&old, 0, 10), [1, 2, 3]);
        let idle = SessionFilter {
            idle_for: Some(Duration::ZERO),
            ..any
        };
        assert_eq!(list(&idle, 0, 10), [0; 0]);
    });
}

#[test]
fn a_new_plugin_starts_at_the_head_and_an_old_one_where_it_was() {
    each(|ledger| {
        let run = Run::new();
        run.start(ledger, "a", at(0));
        let position = get(ledger.attach("audit"));
        assert_eq!((position.since, position.cursor), (1, 1));
        run.start(ledger, "b", at(0));
        run.start(ledger, "c", at(0));
        get(ledger.advance("audit", cursor(2)));
        let position = get(ledger.attach("audit"));
        assert_eq!((position.since, position.cursor), (1, 2));
        assert!(position.parked.is_empty() && position.dead.is_empty());
    });
}

#[test]
fn a_plugin_that_has_seen_no_run_die_has_no_deaths() {
    each(|ledger| {
        let run = Run::new();
        get(ledger.attach("audit"));
        run.start(ledger, "a", at(0));
        assert_eq!(get(ledger.attach("audit")).deaths, 0);
        get(ledger.advance("audit", cursor(1)));
        assert_eq!(get(ledger.attach("audit")).deaths, 0);
    });
}

#[test]
fn a_plugin_that_is_unknown_has_no_progress_and_no_dead_letters() {
    each(|ledger| {
        let run = Run::new();
        let refused = ask(ledger.advance("nobody", cursor(0))).unwrap_err();
        assert!(refused.to_string().contains("nobody"), "{refused}");
        assert!(get(ledger.dead_letters("nobody", 0, 10)).is_empty());
        run.start(ledger, "a", at(0));
        assert_eq!(ledger.head(), 1, "the next request is none the worse");
    });
}

#[test]
fn parked_events_are_kept_with_their_attempts_until_they_are_taken_back() {
    each(|ledger| {
        let run = Run::new();
        get(ledger.attach("audit"));
        get(ledger.attach("crm"));
        let open = run.start(ledger, "a", at(0));
        let start = get(ledger.read(0, 1)).events[0].clone();
        let end = run.end(ledger, &open, EndReason::Idle, at(1));
        let park = |rows: &[(u32, bool)]| Progress {
            cursor: Some(2),
            park: [&start, &end]
                .into_iter()
                .zip(rows)
                .map(|(event, &(attempts, dead))| parked(event, attempts, dead))
                .collect(),
            unpark: Vec::new(),
        };
        get(ledger.advance("audit", park(&[(1, false), (0, false)])));
        get(ledger.advance("audit", park(&[(2, false)])));

        let position = get(ledger.attach("audit"));
        let rows: Vec<_> = position
            .parked
            .iter()
            .map(|row| (told(&row.event), row.attempts, row.not_before))
            .collect();
        assert_eq!(
            rows,
            [(told(&start), 2, at(1000)), (told(&end), 0, at(1000))]
        );
        assert_eq!(&*position.parked[0].error, "no thanks");
        assert!(position.dead.is_empty());
        assert!(get(ledger.attach("crm")).parked.is_empty());

        get(ledger.advance("audit", park(&[(5, true), (0, true)])));
        let position = get(ledger.attach("audit"));
        assert!(position.parked.is_empty());
        let incarnation = open.session.incarnation;
        assert_eq!(position.dead, [(1, incarnation), (2, incarnation)]);

        let unpark = Progress {
            unpark: vec![1],
            ..Progress::default()
        };
        get(ledger.advance("audit", unpark));
        assert_eq!(get(ledger.attach("audit")).dead, [(2, incarnation)]);
    });
}

#[test]
fn dead_letters_are_listed_in_pages_and_the_living_are_not() {
    each(|ledger| {
        let run = Run::new();
        get(ledger.attach("audit"));
        let events: Vec<_> = (0..5)
            .map(|n| run.start_event(NewSession::new(id(&format!("s{n}"))), at(n)))
            .collect();
        let events = append(ledger, events);
        let park = events
            .iter()
            .map(|event| parked(event, 3, event.recorded_seq() != 3));
        let progress = Progress {
            cursor: Some(5),
            park: park.collect(),
            unpark: Vec::new(),
        };
        get(ledger.advance("audit", progress));
        let list = |after, limit| -> Vec<_> {
            let rows = get(ledger.dead_letters("audit", after, limit));
            assert!(rows.iter().all(|row| row.dead && row.attempts == 3));
            rows.iter().map(|row| row.event.recorded_seq()).collect()
        };
        assert_eq!(list(0, 10), [1, 2, 4, 5]);
        assert_eq!(list(0, 2), [1, 2]);
        assert_eq!(list(2, 2), [4, 5]);
        assert_eq!(list(u64::MAX, 2), [0; 0]);
    });
}

#[test]
fn plugins_that_are_configured_keep_their_place_when_others_are_detached() {
    each(|ledger| {
        let run = Run::new();
        get(ledger.attach("audit"));
        get(ledger.attach("crm"));
        run.start(ledger, "a", at(0));
        get(ledger.detach_others(&["audit".into()], at(1)));
        assert_eq!(get(ledger.attach("audit")).cursor, 0);
    });
}

#[test]
fn a_plugin_that_lags_gets_every_event_however_many_there_are() {
    each(|ledger| {
        let run = Run::new();
        get(ledger.attach("slow"));
        get(ledger.attach("fast"));
        for chunk in 0..40 {
            let events = (0..500)
                .map(|n| run.start_event(NewSession::new(id(&format!("s{chunk}-{n}"))), at(0)))
                .collect();
            append(ledger, events);
            get(ledger.advance("fast", cursor(ledger.head())));
        }
        let (all, gaps) = read_all(ledger, 4096);
        assert_eq!((all.len(), gaps), (20_000, 0));
        // Some events are kept for those who only watch.
        get(ledger.advance("slow", cursor(20_000)));
        let page = get(ledger.read(19_000, 4096));
        assert_eq!((page.events.len(), page.gap), (1000, 0));
    });
}

/// Sessions that were just started.
fn begun(ledger: &dyn Ledger, run: &Run, count: usize) -> Vec<OpenSession> {
    let starts = (0..count).map(|n| run.start_event(NewSession::new(id(&format!("s{n}"))), at(0)));
    let started = append(ledger, starts.collect());
    started.iter().map(open).collect()
}

fn shutdown_at(seconds: i64) -> Arc<End> {
    let end = End::now(EndReason::Shutdown, EndDetails::default(), at(seconds));
    Arc::new(end)
}

#[test]
fn appends_in_one_call_are_steps_of_their_own_in_their_order() {
    each(|ledger| {
        let run = Run::new();
        let open = begun(ledger, &run, 2);
        let end = |n: usize| Event::end(open[n].clone(), shutdown_at(1), run.instance);
        let renamed = NewSession::new(id("s1")).with_agent_id("other");
        let renamed = Arc::new(open[1].session.replace_details(renamed));
        let amend = Append {
            events: Arc::default(),
            amended: Some(OpenSession::new(Arc::clone(&renamed), open[1].start_seq)),
        };
        let replace = [end(0), run.start_event(NewSession::new(id("new")), at(1))];
        let appends = vec![Append::from(replace), amend, Append::from([end(1)])];
        let answers = get(ledger.append_each(appends));
        let places: Vec<Vec<_>> = answers
            .into_iter()
            .map(|answer| answer.unwrap().iter().filter_map(Event::seq).collect())
            .collect();
        assert_eq!(places, [vec![3, 4], vec![], vec![5]]);
        assert_eq!(ledger.head(), 5);
        assert!(get(ledger.append_each(Vec::new())).is_empty());
    });
}

#[test]
fn an_append_that_is_refused_leaves_the_others_of_its_call_alone() {
    each(|ledger| {
        if !ledger.is_durable() {
            // It believes what it is told.
            return;
        }
        let run = Run::new();
        let open = begun(ledger, &run, 3);
        let end = |n: usize| Event::end(open[n].clone(), shutdown_at(1), run.instance);
        append(ledger, vec![end(0)]);
        let start = |name: &str| run.start_event(NewSession::new(id(name)), at(2));
        let appends = vec![
            Append::from([end(1)]),
            // It has ended already, and what comes with it is not recorded either.
            Append::from([end(0), start("not")]),
            Append::from([end(2), start("a")]),
            Append::from([end(0)]),
        ];
        let answers = get(ledger.append_each(appends));
        let places = answers.iter().map(|answer| {
            let events = answer.as_ref().ok()?;
            Some(events.iter().filter_map(Event::seq).collect::<Vec<_>>())
        });
        let places: Vec<_> = places.collect();
        assert_eq!(places, [Some(vec![5]), None, Some(vec![6, 7]), None]);
        assert_eq!(ledger.head(), 7);
        let (log, gaps) = read_all(ledger, 100);
        assert_eq!((log.len(), gaps), (7, 0));
        assert_eq!(log[6].session.id, id("a"));
    });
}

#[test]
fn the_last_lives_of_many_ids_are_those_of_each() {
    each(|ledger| {
        let run = Run::new();
        let open = begun(ledger, &run, 3);
        run.end(ledger, &open[0], EndReason::Closed, at(1));
        let again = run.start(ledger, "s0", at(2));
        run.end(ledger, &again, EndReason::Closed, at(3));
        run.end(ledger, &open[1], EndReason::Closed, at(4));
        let ids: Vec<_> = ["s1", "nobody", "s0", "s2", "s1"].map(id).into();
        let last = |id| get(ledger.last_ended(id)).map(|record| record.session.incarnation);
        let singly: Vec<_> = ids.iter().map(last).collect();
        assert_eq!(get(ledger.last_incarnations(ids)), singly);
        assert_eq!(singly[2], Some(again.session.incarnation));
        assert_eq!((singly[1], singly[3]), (None, None));
    });
}

#[test]
fn ends_that_share_what_they_tell_are_recorded_like_others() {
    const COUNT: usize = 100;
    each(|ledger| {
        let run = Run::new();
        let mut open = begun(ledger, &run, COUNT);
        // One in the middle goes on, and another has ended before.
        let stays = open.remove(60);
        let before = open.remove(30);
        run.end(ledger, &before, EndReason::Closed, at(1));
        let end = shutdown_at(2);
        let expected: Vec<_> = open
            .iter()
            .map(|it| (it.session.id.clone(), it.start_seq))
            .collect();
        let ending = Ending::new(open.into(), Arc::clone(&end), run.instance);
        for range in [0..31, 31..65, 65..expected.len()] {
            get(ledger.append(ending.events(range).into()));
        }
        let (log, gaps) = read_all(ledger, 7);
        assert_eq!(gaps, 0);
        let ends = &log[COUNT + 1..];
        let recorded = ends.iter().map(|it| (it.session.id.clone(), it.start_seq));
        assert!(recorded.eq(expected));
        assert!(ends.iter().all(|it| it.end.as_ref() == Some(&end)));
        assert!(get(ledger.last_ended(&stays.session.id)).is_none());
    });
}
