//! The plugin against real database files.

#[cfg(feature = "cli")]
mod fit;
mod opening;
mod outage;
mod values;

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::event::{Deadline, Event, Verdict};
use crate::plugin::{OutOfTime, sample};

const TABLE: &str = "CREATE TABLE sessions (id TEXT PRIMARY KEY, incarnation TEXT NOT NULL, \
     status TEXT NOT NULL CHECK (status <> 'no'), started_at TEXT, reason TEXT, ended_at TEXT)";
const START: &str = "INSERT INTO sessions(id, incarnation, status, started_at) \
     VALUES (:session_id, :incarnation, 'active', :started_at)";
const UPSERT: &str = "INSERT INTO sessions(id, incarnation, status, started_at) VALUES \
     (:session_id, :incarnation, 'active', :started_at) \
     ON CONFLICT(id) DO UPDATE SET incarnation = :incarnation, status = 'active'";
const END: &str = "UPDATE sessions SET status = 'ended', reason = :reason, ended_at = :ended_at \
     WHERE id = :session_id AND incarnation = :incarnation";

/// A database file in a directory of its own.
struct App {
    dir: TempDir,
}

impl App {
    fn new(schema: &str) -> Self {
        let app = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        app.create(schema);
        app
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn create(&self, schema: &str) {
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch(schema).unwrap();
    }

    fn connect(&self) -> Connection {
        Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
    }

    /// A plugin with these statements for the start and the end of sessions.
    fn plugin(&self, start: &str, end: &str) -> SqlPlugin {
        let settings = SqlSettings::new(self.path())
            .with_statement(Hook::SessionStart, start)
            .and_then(|settings| settings.with_statement(Hook::SessionEnd, end));
        SqlPlugin::new(settings.unwrap())
    }

    /// Each session's id, status and reason.
    fn sessions(&self) -> Vec<(String, String, Option<String>)> {
        let connection = self.connect();
        let sql = "SELECT id, status, reason FROM sessions ORDER BY id";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.sessions().into_iter().map(|(id, ..)| id).collect()
    }
}

fn delivery(events: &[Event]) -> Deliver {
    Deliver::new(events, Deadline::after(Duration::from_secs(20)))
}

fn assert_down(result: anyhow::Result<()>) -> String {
    let error = result.expect_err("the delivery succeeded");
    assert!(error.is::<Down>(), "not down: {error:#}");
    format!("{error:#}")
}

fn assert_out_of_time(result: anyhow::Result<()>) {
    let error = result.expect_err("the delivery succeeded");
    assert!(error.is::<OutOfTime>(), "in time: {error:#}");
}

fn assert_rejected(verdict: &Verdict, problem: &str) {
    let is_so = matches!(verdict, Verdict::Rejected(error) if error.contains(problem));
    assert!(is_so, "{verdict:?} instead of {problem}");
}

#[tokio::test]
async fn starts_and_ends_of_a_batch_are_committed() {
    let app = App::new(TABLE);
    let plugin = app.plugin(UPSERT, END);
    let (a, b) = (sample::start("a"), sample::start("b"));
    let first = delivery(&[a.clone(), b.clone(), sample::end_of(&a)]);
    plugin.deliver(&first).await.unwrap();
    assert!(first.acks.close().is_empty(), "`Ok` says it for all");

    let ended = ("a".into(), "ended".into(), Some("shutdown".into()));
    let active = ("b".into(), "active".into(), None);
    assert_eq!(app.sessions(), [ended.clone(), active]);

    // A new life of an ended id, and the end of the one before, which comes once more.
    let again = sample::start("a");
    let second = delivery(&[again, sample::end_of(&a), sample::end_of(&b)]);
    plugin.deliver(&second).await.unwrap();
    let states: Vec<_> = app.sessions().into_iter().map(|row| row.1).collect();
    assert_eq!(states, ["active", "ended"]);
}

#[tokio::test]
async fn an_event_that_violates_a_constraint_is_rejected_alone() {
    let app = App::new(TABLE);
    let plugin = app.plugin(START, END);
    let a = sample::start("a");
    let delivery = delivery(&[a.clone(), sample::start("a"), sample::start("b")]);
    plugin.deliver(&delivery).await.unwrap();

    let verdicts = delivery.acks.close();
    assert_rejected(&verdicts[1], "UNIQUE constraint failed: sessions.id");
    assert_eq!(
        (&verdicts[0], &verdicts[2]),
        (&Verdict::Open, &Verdict::Open)
    );
    assert_eq!(app.ids(), ["a", "b"]);
}

#[tokio::test]
async fn a_statement_that_returns_rows_runs_to_its_end() {
    let app = App::new(TABLE);
    let start = "SELECT json(column1) FROM (VALUES ('{}'), (:session_id))";
    let delivery = delivery(&[sample::start("no JSON"), sample::start("[]")]);
    app.plugin(start, END).deliver(&delivery).await.unwrap();
    let verdicts = delivery.acks.close();
    assert_rejected(&verdicts[0], "malformed JSON");
    assert_eq!(verdicts[1], Verdict::Open);
}

#[tokio::test]
async fn values_that_make_a_statement_fail_reject_their_event_alone() {
    let app = App::new(TABLE);
    let malformed = "UPDATE sessions SET reason = json_extract(id, '$.a') WHERE id = :session_id";
    let plugin = app.plugin(START, malformed);
    let (a, b) = (sample::start("a"), sample::start("{\"a\":\"b\"}"));
    let events = [a.clone(), b.clone(), sample::end_of(&a), sample::end_of(&b)];
    let delivery = delivery(&events);
    plugin.deliver(&delivery).await.unwrap();
    let verdicts = delivery.acks.close();
    assert_rejected(&verdicts[2], "malformed JSON");
    assert_eq!(verdicts[3], Verdict::Open);
    assert_eq!(app.sessions()[1].2.as_deref(), Some("b"));
}

#[tokio::test]
async fn nothing_of_an_incarnation_overtakes_its_rejected_event() {
    let app = App::new(TABLE);
    // An end that would go through without its start.
    let end = "INSERT INTO sessions(id, incarnation, status) \
         VALUES (:session_id, :incarnation, 'ended') ON CONFLICT DO NOTHING";
    let bad_start = "INSERT INTO sessions(id, incarnation, status) VALUES \
         (:session_id, :incarnation, iif(:session_id = 'bad', 'no', 'active'))";
    let plugin = app.plugin(bad_start, end);
    let (bad, good) = (sample::start("bad"), sample::start("good"));
    let events = [
        bad.clone(),
        good.clone(),
        sample::end_of(&bad),
        sample::end_of(&good),
    ];
    let delivery = delivery(&events);
    let error = plugin.deliver(&delivery).await.unwrap_err();
    assert!(!error.is::<Down>(), "{error:#}");

    let verdicts = delivery.acks.close();
    assert_rejected(&verdicts[0], "CHECK constraint failed");
    let taken = Verdict::Acknowledged;
    assert_eq!(verdicts[1..], [taken.clone(), Verdict::Open, taken]);
    assert_eq!(app.ids(), ["good"]);
}

#[tokio::test]
async fn a_statement_that_rolls_the_transaction_back_fails_the_batch() {
    let app = App::new(TABLE);
    let plugin = app.plugin(&START.replace("INSERT", "INSERT OR ROLLBACK"), END);
    let events = [sample::start("a"), sample::start("b"), sample::start("a")];
    let whole = delivery(&events);
    let error = plugin.deliver(&whole).await.unwrap_err();
    assert!(!error.is::<Down>(), "{error:#}");
    assert!(whole.acks.close().is_empty());
    assert!(app.ids().is_empty());

    // As the bus goes on: one by one.
    plugin.deliver(&delivery(&events[..1])).await.unwrap();
    plugin.deliver(&delivery(&events[1..2])).await.unwrap();
    let error = plugin.deliver(&delivery(&events[2..])).await.unwrap_err();
    assert!(!error.is::<Down>(), "{error:#}");
    assert_eq!(app.ids(), ["a", "b"]);
}

#[tokio::test]
async fn a_constraint_that_fails_at_the_commit_fails_the_batch() {
    let app = App::new(
        "CREATE TABLE agents (id PRIMARY KEY); CREATE TABLE sessions (id, status, reason, \
         agent REFERENCES agents DEFERRABLE INITIALLY DEFERRED)",
    );
    let start = "INSERT INTO sessions(id, agent) VALUES (:session_id, 'nobody')";
    let plugin = app.plugin(start, END.split(" WHERE").next().unwrap());
    let delivery = delivery(&[sample::start("a")]);
    let error = plugin.deliver(&delivery).await.unwrap_err();
    assert!(!error.is::<Down>(), "{error:#}");
    assert!(delivery.acks.close().is_empty());
    assert!(
        app.connect()
            .query_one("SELECT 1 FROM sessions", [], |_| Ok(()))
            .is_err()
    );
}

#[tokio::test]
async fn events_without_a_statement_need_no_database() {
    let settings = SqlSettings::new("/nowhere/app.db").with_statement(Hook::SessionEnd, END);
    let settings = settings.unwrap();
    let hooks = settings.hooks();
    assert!(hooks.contains(Hook::SessionEnd) && !hooks.contains(Hook::SessionStart));
    let plugin = SqlPlugin::new(settings);
    let events = [sample::start("a"), sample::start("b")];
    plugin.deliver(&delivery(&events)).await.unwrap();
}

#[test]
fn settings_name_the_hook_whose_statement_is_wrong() {
    let settings = SqlSettings::new("app.db");
    let wrong = settings.with_statement(Hook::SessionEnd, "UPDATE");
    assert_eq!(wrong.unwrap_err().field, "session_end");
}

#[test]
fn urls_name_a_file() {
    let base = Path::new("/etc/app");
    for (url, path) in [
        ("sqlite:///var/lib/app.db", "/var/lib/app.db"),
        ("sqlite:/var/lib/app.db", "/var/lib/app.db"),
        ("sqlite://data/app.db", "/etc/app/data/app.db"),
        ("sqlite:app.db", "/etc/app/app.db"),
    ] {
        assert_eq!(parse_sqlite_url(url, base).as_deref(), Ok(Path::new(path)));
    }
    for url in [
        "postgres://user:hunter2@host/db",
        "/var/lib/app.db",
        "sqlite:",
        "sqlite://",
        "sqlite::memory:",
        "sqlite://app.db?mode=rwc",
        "",
    ] {
        let error = SqlSettings::from_url(url, base).unwrap_err();
        assert_eq!(error.field, "url", "{url}");
        assert!(!error.to_string().contains("hunter2"));
    }
}
