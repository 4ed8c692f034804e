//! Opening: what is there afterwards, and what is refused and left alone.

use std::path::Path;
use std::sync::mpsc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rusqlite::params;

use super::support::{Home, SmallDisk};
use crate::durability::Durability;
use crate::ledger::sqlite::schema::MIGRATIONS;
use crate::ledger::sqlite::{OpenError, SqliteLedger};
use crate::ledger::tests::support::*;
use crate::ledger::{Append, Ledger};
use crate::session::{EndReason, NewSession};
use crate::state_dir::StateDir;

fn refused(home: &Home) -> OpenError {
    SqliteLedger::open(home.path(), Durability::Power).unwrap_err()
}

/// A ledger that has been closed, with one session that ended and one that did not.
fn used() -> Home {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    let open = run.start(&ledger, "a", at(0));
    run.end(&ledger, &open, EndReason::Completed, at(1));
    run.start(&ledger, "b", at(2));
    ledger.close();
    home
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[cfg(unix)]
#[test]
fn a_new_ledger_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = Home::new();
    let ledger = home.open();
    Run::new().start(&ledger, "a", at(0));
    for path in [home.path(), home.wal()] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let on_disk = [home.path(), home.wal()].map(|path| path.metadata().unwrap().len());
    assert_eq!(ledger.size_bytes(), Some(on_disk.iter().sum()));
}

#[test]
fn who_watches_an_old_part_of_the_log_holds_up_no_start() {
    let home = used();
    let ledger = home.open();
    let (release, is_released) = std::sync::mpsc::channel::<()>();
    let list = ledger.lists.ask(move |_| {
        let _ = is_released.recv();
        Ok(())
    });
    let mut replayed = ledger.replay(0, 64);
    assert!(get(ledger.last_ended(&id("a"))).is_some());
    assert_eq!(get(ledger.read(0, 64)).events.len(), 3);
    assert!((&mut replayed).now_or_never().is_none());
    drop(release);
    get(list);
    assert_eq!(get(replayed).events.len(), 3);
}

#[test]
fn the_log_goes_on_where_it_was_when_it_is_opened_again() {
    let home = Home::new();
    let mut ledger = home.open();
    let run = Run::new();
    let mut recorded = Vec::new();
    for n in 0..4 {
        assert_eq!(ledger.head(), n * 2);
        let open = run.start(&ledger, &format!("s{n}"), at(0));
        run.end(&ledger, &open, EndReason::Completed, at(1));
        recorded.extend(all_told(&get(ledger.read(n * 2, 2)).events));
        ledger.close();
        ledger = home.open();
        assert_eq!(read_all(&ledger, 3), (recorded.clone(), 0));
    }
}

#[test]
fn commits_are_as_durable_as_was_asked_for() {
    for (durability, synchronous) in [(Durability::Power, 2), (Durability::Process, 1)] {
        let home = Home::new();
        let ledger = SqliteLedger::open(home.path(), durability).unwrap();
        let pragma = |name: &'static str| {
            get(ledger.writer.ask(0, move |records| {
                let query = format!("PRAGMA {name}");
                let value = records
                    .prepare(&query)?
                    .query_row([], |row| row.get_ref(0).map(|value| format!("{value:?}")))?;
                Ok(value)
            }))
        };
        assert_eq!(pragma("synchronous"), format!("Integer({synchronous})"));
        assert!(pragma("journal_mode").contains("Text"));
        assert_eq!(pragma("auto_vacuum"), "Integer(2)");
        let json = serde_json::to_string(&durability).unwrap();
        assert!(["\"power\"", "\"process\""].contains(&json.as_str()));
        assert_eq!(
            serde_json::from_str::<Durability>(&json).unwrap(),
            durability
        );
    }
}

#[test]
fn a_ledger_of_a_later_release_is_refused_and_left_as_it_is() {
    let home = used();
    home.sqlite()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    let before = std::fs::read(home.path()).unwrap();
    let error = refused(&home);
    assert!(
        matches!(error, OpenError::Newer { found: 7, known, .. } if known as usize == MIGRATIONS.len()),
        "{error}"
    );
    assert!(error.to_string().contains("ledger.db"), "{error}");
    assert_eq!(std::fs::read(home.path()).unwrap(), before);
    assert_eq!(names_in(home.directory()), ["ledger.db"]);
}

#[test]
fn a_later_version_that_only_the_wal_file_knows_of_is_refused_as_well() {
    let home = used();
    let sqlite = home.sqlite();
    sqlite.pragma_update(None, "user_version", 7).unwrap();
    let killed = home.killed();
    let before = [killed.path(), killed.wal()].map(|path| std::fs::read(path).unwrap());
    assert!(matches!(
        refused(&killed),
        OpenError::Newer { found: 7, .. }
    ));
    let after = [killed.path(), killed.wal()].map(|path| std::fs::read(path).unwrap());
    assert_eq!(after, before);
}

#[test]
fn what_is_no_ledger_is_refused_and_left_as_it_is() {
    let text = Home::new();
    std::fs::write(text.path(), "dear diary".repeat(100)).unwrap();
    let short = Home::new();
    std::fs::write(short.path(), "SQLite format 3\0").unwrap();
    let of_nobody = Home::new();
    of_nobody
        .sqlite()
        .execute_batch("CREATE TABLE sessions (id)")
        .unwrap();
    let of_another = Home::new();
    let with_id = "CREATE TABLE sessions (id); PRAGMA application_id = 42";
    of_another.sqlite().execute_batch(with_id).unwrap();
    for home in [text, short, of_nobody, of_another] {
        let before = std::fs::read(home.path()).unwrap();
        let error = refused(&home);
        assert!(matches!(error, OpenError::NotALedger { .. }), "{error}");
        assert_eq!(std::fs::read(home.path()).unwrap(), before);
    }
    let directory = Home::new();
    std::fs::create_dir(directory.path()).unwrap();
    assert!(matches!(refused(&directory), OpenError::NotALedger { .. }));
}

#[test]
fn a_damaged_ledger_is_refused_and_never_made_anew() {
    let cut = used();
    let bytes = std::fs::read(cut.path()).unwrap();
    std::fs::write(cut.path(), &bytes[..bytes.len() / 2]).unwrap();
    let overwritten = used();
    let mut garbage = bytes.clone();
    garbage[4096..].fill(0xA5);
    std::fs::write(overwritten.path(), garbage).unwrap();
    let without_a_table = used();
    let drop = "DROP TABLE ends";
    without_a_table.sqlite().execute_batch(drop).unwrap();
    for home in [cut, overwritten, without_a_table] {
        let before = std::fs::read(home.path()).unwrap();
        let error = refused(&home);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(home.path()).unwrap(), before);
    }
}

#[test]
fn a_wal_file_without_its_main_file_is_not_overwritten_by_a_new_ledger() {
    let home = used();
    let ledger = home.open();
    Run::new().start(&ledger, "c", at(3));
    let killed = home.killed();
    std::fs::write(killed.path(), "").unwrap();
    assert!(matches!(refused(&killed), OpenError::Damaged { .. }));
    std::fs::remove_file(killed.path()).unwrap();
    assert!(matches!(refused(&killed), OpenError::Damaged { .. }));
    assert_eq!(names_in(killed.directory()), ["ledger.db-wal"]);
}

#[test]
fn a_file_that_was_being_made_when_its_process_died_becomes_a_ledger() {
    let empty = Home::new();
    std::fs::write(empty.path(), "").unwrap();
    let without_tables = Home::new();
    let settings = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;";
    without_tables.sqlite().execute_batch(settings).unwrap();
    for home in [empty, without_tables] {
        let ledger = home.open();
        Run::new().start(&ledger, "a", at(0));
        assert_eq!(ledger.head(), 1);
    }
}

#[test]
fn a_ledger_on_a_disk_that_can_not_be_written_is_refused() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.directory.path().join("ledger.db");
    SqliteLedger::open(&path, Durability::Power)
        .unwrap()
        .close();
    assert!(disk.read_only());
    for name in ["ledger.db", "new.db"] {
        let path = disk.directory.path().join(name);
        let error = SqliteLedger::open(path, Durability::Power).unwrap_err();
        assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_directory_that_does_not_exist_is_named() {
    let home = Home::new();
    let path = home.directory().join("nowhere/ledger.db");
    let error = SqliteLedger::open(path, Durability::Power).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn a_ledger_of_an_earlier_version_is_migrated_and_a_copy_of_it_kept() {
    let home = used();
    let later = [MIGRATIONS, &["CREATE TABLE notes (text TEXT) STRICT;"]].concat();
    let open = |migrations: &[&str]| {
        SqliteLedger::open_with(&home.path(), Durability::Power, migrations, None)
    };
    let ledger = open(&later).unwrap();
    assert_eq!(ledger.head(), 3);
    ledger.close();
    assert_eq!(home.number("SELECT count(*) FROM notes"), 0);
    let copy = format!("ledger.v{}.bak", MIGRATIONS.len());
    assert_eq!(names_in(home.directory()), ["ledger.db", &*copy]);
    let error = open(MIGRATIONS).unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { found, .. } if found as usize == later.len()),
        "{error}"
    );
    open(&later).unwrap().close();

    // The release before goes on with the copy.
    std::fs::rename(home.directory().join(&copy), home.path()).unwrap();
    let ledger = open(MIGRATIONS).unwrap();
    assert_eq!(read_all(&ledger, 10).0.len(), 3);
}

#[test]
fn what_is_open_in_a_ledger_of_the_first_version_goes_on_if_it_is_held() {
    let home = Home::new();
    let first = &MIGRATIONS[..1];
    let ledger = SqliteLedger::open_with(&home.path(), Durability::Power, first, None);
    ledger.unwrap().close();
    let run = Run::new();
    let sqlite = home.sqlite();
    sqlite
        .execute(
            "INSERT INTO instances VALUES (1, randomblob(16), 0, 0, NULL, NULL, NULL, NULL, NULL)",
            [],
        )
        .unwrap();
    for (seq, name, holder) in [(1, "ours", None), (2, "theirs", Some("h"))] {
        let mut new = NewSession::new(id(name));
        new.holder = holder.map(|holder| holder.parse().unwrap());
        let event = run.start_event(new, at(0));
        let session = event.session().unwrap();
        let mut json = serde_json::to_value(session).unwrap();
        json.as_object_mut().unwrap().remove("run_id");
        let incarnation = session.incarnation;
        sqlite
            .execute(
                "INSERT INTO starts VALUES (?1, 0, 1, ?2, ?3, ?4)",
                params![seq, name, incarnation.as_uuid(), json.to_string()],
            )
            .unwrap();
        sqlite
            .execute("INSERT INTO open VALUES (?1)", [seq])
            .unwrap();
    }
    drop(sqlite);

    let ledger = home.open();
    let recovery = get(ledger.recover(Run::new().instance, at(9)));
    assert_eq!(
        (recovery.found, recovery.reason),
        (1, Some(EndReason::Crash))
    );
    let held = get(ledger.held());
    let ids: Vec<_> = held
        .sessions
        .iter()
        .map(|open| open.session.id.as_str())
        .collect();
    assert_eq!(ids, ["theirs"]);
}

#[test]
fn a_migration_that_fails_leaves_the_ledger_as_it_was() {
    let home = used();
    let migration = "CREATE TABLE notes (text TEXT) STRICT; DROP TABLE nothing;";
    let broken = [MIGRATIONS, &[migration]].concat();
    SqliteLedger::open_with(&home.path(), Durability::Power, &broken, None).unwrap_err();
    assert_eq!(home.open().head(), 3);
}

#[test]
fn a_state_directory_is_not_let_go_of_while_its_ledger_has_something_to_write() {
    let home = Home::new();
    let state_dir = StateDir::open(home.directory()).unwrap();
    let ledger = SqliteLedger::open_in(&state_dir, Durability::Process).unwrap();
    let (gate, closed) = mpsc::channel::<()>();
    drop(ledger.writer.ask(0, move |_| {
        let _ = closed.recv();
        Ok(())
    }));
    let event = Run::new().start_event(NewSession::new(id("a")), at(0));
    let recorded = ledger.append(Append::from([event]));
    drop((ledger, state_dir));
    StateDir::open(home.directory()).unwrap_err();

    drop(gate);
    get(recorded);
    let until = Instant::now() + Duration::from_secs(60);
    while StateDir::open(home.directory()).is_err() {
        assert!(Instant::now() < until, "the directory is never let go of");
        sleep(Duration::from_millis(1));
    }
    assert!(!home.wal().exists(), "the file was closed before");
}
