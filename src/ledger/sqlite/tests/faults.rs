//! Disks that are full, files that are cut or damaged, requests that can't be met.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::support::{Home, SmallDisk};
use crate::durability::Durability;
use crate::event::Event;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::tests::support::*;
use crate::ledger::{Append, Intent, Ledger, LedgerFuture, Progress, Reclaimed};
use crate::session::{End, EndDetails, EndReason, Metadata, NewSession};

fn append_one(ledger: &SqliteLedger, event: Event) -> LedgerFuture<std::sync::Arc<[Event]>> {
    ledger.append(Append::from([event]))
}

/// A session with some kilobytes of details.
fn large(run: &Run, name: &str) -> Event {
    let mut new = NewSession::new(id(name));
    new.metadata = Metadata::from_iter([("note", "x".repeat(8000).into())]);
    run.start_event(new, at(0))
}

/// Keeps the writer from its work until the sender is dropped, so that what is asked for meanwhile
/// is one group.
fn hold(ledger: &SqliteLedger) -> mpsc::Sender<()> {
    let (gate, closed) = mpsc::channel::<()>();
    let (begun, waits) = mpsc::channel();
    drop(ledger.writer.ask(0, move |_| {
        let _ = begun.send(());
        let _ = closed.recv();
        Ok(())
    }));
    waits.recv().unwrap();
    gate
}

#[test]
fn a_request_that_can_not_be_met_fails_alone_and_leaves_no_hole() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    let open = run.start(&ledger, "a", at(0));
    let end = || {
        let end = End::now(EndReason::Completed, EndDetails::default(), at(1));
        run.end_event(&open, end)
    };
    let gate = hold(&ledger);
    let first = append_one(&ledger, end());
    // The same end again, behind a start that is of the same request.
    let second = [run.start_event(NewSession::new(id("b")), at(2)), end()];
    let second = ledger.append(Append::from(second));
    let third = append_one(&ledger, run.start_event(NewSession::new(id("c")), at(3)));
    drop(gate);
    assert_eq!(get(first)[0].seq(), Some(2));
    let refused = ask(second).unwrap_err().to_string();
    assert!(refused.contains("session `a` is not active"), "{refused}");
    assert_eq!(get(third)[0].seq(), Some(3));
    ledger.close();
    let ledger = home.open();
    assert_eq!(read_all(&ledger, 10).0.len(), 3);
    assert_eq!(home.number("SELECT count(*) FROM open"), 1);
}

#[test]
fn more_requests_than_may_wait_are_refused_and_block_nobody() {
    let home = Home::new();
    let ledger = home.open();
    get(ledger.attach("audit"));
    let gate = hold(&ledger);
    let answers: Vec<_> = (0..20_000)
        .map(|_| ledger.advance("audit", Progress::default()))
        .collect();
    drop(gate);
    let results: Vec<_> = answers.into_iter().map(ask).collect();
    let refused = results.iter().filter(|result| result.is_err()).count();
    assert_eq!(refused, 20_000 - 16_384);
    let error = results[19_999].as_ref().unwrap_err().to_string();
    assert!(error.contains("too many requests"), "{error}");
    get(ledger.advance("audit", Progress::default()));
}

#[test]
fn signs_of_life_and_stops_come_before_what_waits_and_nothing_is_let_go_of_meanwhile() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    get(ledger.recover(run.instance, at(0)));
    get(ledger.attach("audit"));
    for name in ["a", "b"] {
        let open = run.start(&ledger, name, at(0));
        run.end(&ledger, &open, EndReason::Completed, at(0));
    }
    let progress = Progress {
        cursor: Some(4),
        ..Progress::default()
    };
    get(ledger.advance("audit", progress));

    let gate = hold(&ledger);
    // The queue is full, and what is first in it does not end by itself.
    let (begun, has_begun) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    drop(ledger.writer.ask(0, move |_| {
        let _ = begun.send(());
        let _ = ends.recv();
        Ok(())
    }));
    let waiting: Vec<_> = (0..20_000)
        .map(|_| ledger.advance("audit", Progress::default()))
        .collect();
    let alive = ledger.keep_alive(at(5));
    let reclaimed = ledger.reclaim(at(5000), Duration::ZERO);
    let intended = ledger.intend(Intent {
        reason: EndReason::Shutdown,
        restart_expected: None,
        trigger: "SIGTERM".into(),
        asked_at: at(6),
        ends_held: true,
    });
    let stopped = ledger.stop(at(7));
    let before = ledger.commits();
    drop(gate);
    get(alive);
    assert_eq!(get(reclaimed), Reclaimed::default());
    get(intended);
    get(stopped);
    has_begun.recv().unwrap();
    // That of the gate, and one each.
    assert_eq!(ledger.commits() - before, 5);
    drop(end);
    let refused = waiting.into_iter().map(ask).filter(Result::is_err);
    assert_eq!(refused.count(), 20_000 - 16_383);
    assert_eq!(home.number("SELECT count(*) FROM ends"), 2);
    assert_eq!(
        home.number("SELECT stopped_at FROM instances"),
        at(7).as_millisecond()
    );
}

#[test]
fn a_step_of_letting_go_that_fails_takes_nothing_else_with_it() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    for name in ["a", "b"] {
        let open = run.start(&ledger, name, at(0));
        run.end(&ledger, &open, EndReason::Completed, at(0));
    }
    // What only that step reads is not there.
    home.sqlite()
        .execute_batch("ALTER TABLE ends RENAME COLUMN detected_at TO noticed_at")
        .unwrap();
    let gate = hold(&ledger);
    let reclaimed = ledger.reclaim(at(5000), Duration::ZERO);
    let started = append_one(&ledger, run.start_event(NewSession::new(id("c")), at(1)));
    drop(gate);
    ask(reclaimed).unwrap_err();
    assert_eq!(get(started)[0].seq(), Some(5));
}

#[test]
fn a_request_is_carried_out_though_nobody_waits_for_it() {
    let home = Home::new();
    let ledger = home.open();
    let event = Run::new().start_event(NewSession::new(id("a")), at(0));
    drop(append_one(&ledger, event));
    ledger.close();
    assert_eq!(home.open().head(), 1);
}

/// Records until `ledger` has no space, then makes space with `make_space`.
fn fill_up(ledger: &SqliteLedger, make_space: impl FnOnce()) {
    let run = Run::new();
    let open = run.start(ledger, "first", at(0));
    let mut recorded = 1;
    let error = loop {
        assert!(recorded < 10_000, "the disk is never full");
        match ask(append_one(ledger, large(&run, &format!("s{recorded}")))) {
            Ok(_) => recorded += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("no space is left"), "{error}");
    assert_eq!(ledger.head(), recorded);
    // All of a group is told, and nothing of it is recorded.
    let gate = hold(ledger);
    let group = [1, 2].map(|n| append_one(ledger, large(&run, &format!("t{n}"))));
    drop(gate);
    for answer in group {
        ask(answer).unwrap_err();
    }
    assert_eq!(read_all(ledger, 4096).0.len() as u64, recorded);

    make_space();
    let end = run.end(ledger, &open, EndReason::Completed, at(1));
    assert_eq!(end.seq(), Some(recorded + 1));
    run.start(ledger, "again", at(2));
    let (events, gaps) = read_all(ledger, 4096);
    assert_eq!((events.len() as u64, gaps), (recorded + 2, 0));
}

#[test]
fn a_full_database_refuses_what_does_not_fit_and_goes_on_when_there_is_room() {
    let home = Home::new();
    let ledger = home.open();
    let limit = |pages: u32| {
        get(ledger.writer.ask(0, move |records| {
            let pragma = format!("PRAGMA max_page_count = {pages}");
            records.prepare(&pragma)?.query_row([], |_| Ok(()))?;
            Ok(())
        }));
    };
    limit(200);
    fill_up(&ledger, || limit(1_000_000));
    let recorded = ledger.head();
    ledger.close();
    assert_eq!(home.open().head(), recorded);
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let ballast = disk.directory.path().join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let path = disk.directory.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path, Durability::Power).unwrap();
    fill_up(&ledger, || std::fs::remove_file(&ballast).unwrap());
    let recorded = ledger.head();
    ledger.close();
    let ledger = SqliteLedger::open(&path, Durability::Power).unwrap();
    assert_eq!(ledger.head(), recorded);
}

/// A ledger as a killed process leaves it: part of the log in the main file, and the rest, 40
/// commits, in the `-wal` file.
fn killed() -> Home {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    let session = |n: i64| {
        let open = run.start(&ledger, &format!("s{n}"), at(n));
        if n % 3 > 0 {
            run.end(&ledger, &open, EndReason::Completed, at(n));
        }
    };
    (0..20).for_each(session);
    get(ledger.writer.ask(0, |records| {
        // Outside of the transaction of its group.
        Ok(records.prepare("SELECT 1").map(drop)?)
    }));
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    home.sqlite().query_row(checkpoint, [], |_| Ok(())).unwrap();
    (20..44).for_each(session);
    home.killed()
}

/// Opens what is left, and says how long its log is. It must be whole as far as it goes.
fn surviving(home: &Home) -> u64 {
    let ledger = SqliteLedger::open(home.path(), Durability::Power).unwrap();
    let (events, gaps) = read_all(&ledger, 7);
    assert_eq!(gaps, 0);
    let starts = events.iter().filter(|event| event.end.is_none()).count();
    let run = Run::new();
    let recovery = get(ledger.recover(run.instance, at(500)));
    assert_eq!(recovery.found as usize, 2 * starts - events.len());
    let mut sessions: Vec<_> = read_all(&ledger, 100)
        .0
        .iter()
        .map(|event| (event.start_seq, event.end.is_some()))
        .collect();
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(sessions.len(), 2 * starts, "each start has its one end");
    events.len() as u64
}

#[test]
fn a_wal_file_that_is_cut_anywhere_costs_the_last_commits_and_nothing_else() {
    let home = killed();
    let wal = std::fs::read(home.wal()).unwrap();
    let whole = surviving(&killed());
    let mut longest = 0;
    let step = wal.len() / 60;
    let cuts = (0..=60)
        .map(|n| n * step)
        .chain([31, 32, 33, wal.len() - 1]);
    let mut cuts: Vec<_> = cuts.collect();
    cuts.sort_unstable();
    for cut in cuts {
        let copy = home.killed();
        std::fs::write(copy.wal(), &wal[..cut]).unwrap();
        let length = surviving(&copy);
        assert!(length >= longest, "{length} events with {cut} bytes");
        longest = length;
        let beginning = copy;
        assert!(beginning.path().exists());
    }
    assert!((33..=whole).contains(&longest), "{longest} events");
}

#[test]
fn a_wal_file_that_ends_in_garbage_costs_the_last_commits_and_nothing_else() {
    let home = killed();
    let wal = std::fs::read(home.wal()).unwrap();
    for n in 0..30 {
        let copy = home.killed();
        let mut torn = wal.clone();
        let from = n * wal.len() / 30;
        for (index, byte) in torn[from..].iter_mut().enumerate() {
            *byte ^= (index % 251) as u8 + 1;
        }
        std::fs::write(copy.wal(), torn).unwrap();
        assert!(surviving(&copy) >= 33);
    }
}

#[test]
fn a_page_that_is_found_to_be_damaged_later_is_an_error_that_says_so() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    let events = (0..200).map(|n| large(&run, &format!("s{n}"))).collect();
    append(&ledger, events);
    ledger.close();
    let ledger = home.open();
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(home.path())
        .unwrap();
    let mut whole = Vec::new();
    file.read_to_end(&mut whole).unwrap();
    file.seek(SeekFrom::Start(4096 * 20)).unwrap();
    file.write_all(&vec![0xA5; 4096 * 400]).unwrap();
    let error = ask(ledger.read(0, 4096)).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert!(error.contains("ledger.db"), "{error}");
}

#[test]
fn readers_see_all_that_was_answered_while_others_write() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    get(ledger.attach("audit"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ledger, done) = (&ledger, &done);
            scope.spawn(move || {
                for n in 0..50 {
                    let name = format!("t{thread}-{n}");
                    let open = run.start(ledger, &name, at(n));
                    let end = run.end(ledger, &open, EndReason::Completed, at(n));
                    let record = get(ledger.last_ended(&id(&name))).unwrap();
                    assert_eq!(record.start_seq, open.start_seq);
                    assert!(ledger.head() >= end.recorded_seq());
                }
                done.store(true, Ordering::Relaxed);
            });
        }
        while !done.load(Ordering::Relaxed) {
            let head = ledger.head();
            let (events, gaps) = read_all(&ledger, 64);
            assert!(events.len() as u64 >= head && gaps == 0);
        }
    });
    assert_eq!(ledger.head(), 400);
}
