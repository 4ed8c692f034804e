//! What the database has against statements as it is.

use std::fs;

use super::*;

const WRONG: &str = "UPDATE sesions SET status = :reason";

fn settings(path: PathBuf) -> SqlSettings {
    let settings = SqlSettings::new(path).with_statement(Hook::SessionStart, START);
    let settings = settings.and_then(|it| it.with_statement(Hook::SessionEnd, WRONG));
    settings.unwrap()
}

fn files(app: &App) -> Vec<String> {
    let entries = fs::read_dir(app.dir.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn misfit(problem: &str) -> Vec<(Hook, String)> {
    vec![(Hook::SessionEnd, problem.into())]
}

#[test]
fn a_statement_for_a_table_or_a_column_that_is_not_there_does_not_fit_and_nothing_is_touched() {
    let app = App::new(&format!("PRAGMA journal_mode = WAL; {TABLE}"));
    let before = fs::read(app.path()).unwrap();
    let wrong = settings(app.path());
    assert_eq!(wrong.misfits().unwrap(), misfit("no such table: sesions"));
    let sql = "UPDATE sessions SET raison = :reason";
    let wrong = wrong.with_statement(Hook::SessionEnd, sql).unwrap();
    assert_eq!(wrong.misfits().unwrap(), misfit("no such column: raison"));
    for (sql, problem) in [
        (
            "DELETE FROM sessions WHERE nocol = :session_id",
            "no such column: nocol",
        ),
        (
            "DELETE FROM sessions WHERE id IN (SELECT id FROM active)",
            "no such table: active",
        ),
    ] {
        let wrong = wrong.clone().with_statement(Hook::SessionEnd, sql).unwrap();
        assert_eq!(wrong.misfits().unwrap(), misfit(problem));
    }
    let good = wrong.with_statement(Hook::SessionEnd, END).unwrap();
    let ghosts = "UPDATE sessions SET status = 'ended' WHERE id NOT IN (SELECT id FROM active)";
    let good = good.with_statement(Hook::GatewayStart, ghosts).unwrap();
    assert_eq!(good.misfits().unwrap(), []);
    assert_eq!(files(&app), ["app.db"]);
    assert_eq!(fs::read(app.path()).unwrap(), before);
}

#[test]
fn what_is_in_the_log_of_the_database_alone_is_there_too() {
    let app = App::new("PRAGMA journal_mode = WAL; CREATE TABLE other (id)");
    let user = app.connect();
    user.execute_batch(TABLE).unwrap();
    let wrong = settings(app.path());
    assert_eq!(wrong.misfits().unwrap(), misfit("no such table: sesions"));

    let link = app.dir.path().join("link.db");
    std::os::unix::fs::symlink(app.path(), &link).unwrap();
    assert_eq!(
        settings(link).misfits().unwrap(),
        misfit("no such table: sesions")
    );

    // A copy without the index of the log.
    let copy = tempfile::tempdir().unwrap();
    for name in ["app.db", "app.db-wal"] {
        fs::copy(app.dir.path().join(name), copy.path().join(name)).unwrap();
    }
    assert_eq!(settings(copy.path().join("app.db")).misfits().unwrap(), []);
    assert!(!copy.path().join("app.db-shm").exists());
}

#[test]
fn what_can_not_be_looked_at_is_not_judged_but_what_is_no_database_is() {
    let app = App::new(TABLE);
    let locker = app.connect();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Whoever only looks asks for no lock.
    let wrong = settings(app.path());
    assert_eq!(wrong.misfits().unwrap(), misfit("no such table: sesions"));
    assert_eq!(
        settings(app.dir.path().join("nosuch.db"))
            .misfits()
            .unwrap(),
        []
    );
    assert_eq!(settings(app.dir.path().into()).misfits().unwrap(), []);

    let odd = app.dir.path().join("50% of #1?.db");
    fs::copy(app.path(), &odd).unwrap();
    assert_eq!(
        settings(odd).misfits().unwrap(),
        misfit("no such table: sesions")
    );

    let text = app.dir.path().join("text");
    fs::write(
        &text,
        "a text that is longer than the header of a database".repeat(40),
    )
    .unwrap();
    let problem = settings(text).misfits().unwrap_err().to_string();
    assert!(problem.contains("not a database"), "{problem}");
}

#[test]
fn a_log_that_a_dead_process_has_left_is_read_and_stays_as_it_is() {
    let app = App::new("PRAGMA journal_mode = WAL; CREATE TABLE other (id)");
    let user = app.connect();
    user.execute_batch(TABLE).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let names = ["app.db", "app.db-wal", "app.db-shm"];
    let copies = names.map(|name| copy.path().join(name));
    for (name, copied) in names.iter().zip(&copies) {
        fs::copy(app.dir.path().join(name), copied).unwrap();
    }
    let read = || copies.each_ref().map(|path| fs::read(path).unwrap());
    let before = read();
    let wrong = settings(copies[0].clone());
    assert_eq!(wrong.misfits().unwrap(), misfit("no such table: sesions"));
    assert!(read() == before);
}
