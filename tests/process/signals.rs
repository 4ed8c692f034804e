//! Signals: each stops the gateway, and no session is left behind.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::json;

use crate::gateway::{Ended, Gateway, json_lines};

const CONFIG: &str = r#"
state_dir = "state"

[[plugin]]
name = "audit"
kind = "log"
path = "audit.jsonl"

[[plugin]]
name = "memory-db"
kind = "sql"
url = "sqlite:app.db"
session_start = "INSERT INTO sessions(id, incarnation, status, started_at) VALUES (:session_id, :incarnation, 'active', :started_at) ON CONFLICT(id) DO UPDATE SET incarnation = :incarnation, status = 'active'"
session_end = "UPDATE sessions SET status = 'ended', reason = :reason, ended_at = :ended_at WHERE id = :session_id AND incarnation = :incarnation"
"#;

const SCHEMA: &str = "CREATE TABLE sessions(id TEXT PRIMARY KEY, incarnation TEXT, status TEXT,
    reason TEXT, started_at TEXT, ended_at TEXT)";

/// A gateway with a log and a database, and 11 sessions active in both.
fn start_with_11_sessions(extra: &str) -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let database = Connection::open(dir.path().join("app.db")).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    let gateway = Gateway::start_in(dir, &format!("{CONFIG}{extra}"));
    for n in 0..11 {
        gateway.begin(&format!("sess-{n}"));
    }
    let until = Instant::now() + Duration::from_secs(30);
    while count(&gateway.path("app.db"), "status = 'active'") < 11 {
        assert!(Instant::now() < until, "the starts are not told");
        sleep(Duration::from_millis(5));
    }
    gateway
}

fn count(database: &Path, condition: &str) -> i64 {
    let database = Connection::open(database).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let query = format!("SELECT count(*) FROM sessions WHERE {condition}");
    database.query_row(&query, [], |row| row.get(0)).unwrap()
}

/// Keeps the plugin's database locked until the connection is dropped.
fn lock(database: &Path) -> Connection {
    let connection = Connection::open(database).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    connection
}

fn assert_no_ghost(ended: &Ended, reason: &str) {
    let ended_for_reason = format!("status = 'ended' AND reason = '{reason}' AND ended_at > ''");
    assert_eq!(count(&ended.path("app.db"), &ended_for_reason), 11);
    let lines = json_lines(&ended.path("audit.jsonl"));
    let ends = lines.iter().filter(|line| line["type"] == "session_end");
    let ids: BTreeSet<_> = ends
        .map(|line| {
            assert_eq!(line["reason"], reason);
            line["session"]["id"].as_str().unwrap()
        })
        .collect();
    assert_eq!((ids.len(), lines.len()), (11, 22));
}

fn ends_every_session(signal: Signal, trigger: &str, reason: &str) {
    let gateway = start_with_11_sessions("[shutdown]\nrestart_expected = \"1500ms\"\n");
    let ended = gateway.stop(signal);
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.took < Duration::from_secs(2), "took {:?}", ended.took);
    assert_no_ghost(&ended, reason);

    let report = ended.report();
    assert_eq!(report["outcome"], "clean");
    assert_eq!(report["reason"], reason);
    assert_eq!(report["trigger"], trigger);
    assert_eq!(report["exit_code"], 0);
    let restart_expected = match reason {
        "restart" => json!(1500),
        _ => json!(null),
    };
    assert_eq!(report["restart_expected_ms"], restart_expected);
    assert_eq!(report["drain"]["sessions"], 11);
    assert_eq!(report["drain"]["delivered"], 22);
    assert_eq!(report["warnings"], json!([]));
    let names: Vec<_> = report["plugins"].as_array().unwrap().iter().collect();
    assert_eq!(names[0]["name"], "audit");
    assert_eq!(names[1]["name"], "memory-db");
    assert_eq!(names[1]["delivered"], 11);
    let kept = std::fs::read_dir(ended.path("state/reports")).unwrap();
    assert_eq!(kept.count(), 1);
}

#[test]
fn sigterm_ends_every_session_for_shutdown() {
    ends_every_session(Signal::SIGTERM, "SIGTERM", "shutdown");
}

#[test]
fn sigint_ends_every_session_for_shutdown() {
    ends_every_session(Signal::SIGINT, "SIGINT", "shutdown");
}

#[test]
fn sigquit_ends_every_session_for_shutdown() {
    ends_every_session(Signal::SIGQUIT, "SIGQUIT", "shutdown");
}

#[test]
fn sigusr2_ends_every_session_for_restart() {
    ends_every_session(Signal::SIGUSR2, "SIGUSR2", "restart");
}

#[test]
fn g10_a_session_posted_during_the_drain_is_refused_and_the_gateway_still_answers() {
    let mut gateway = start_with_11_sessions("");
    let lock = lock(&gateway.path("app.db"));
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_log("shutting down");

    let (status, problem) = gateway.post("/v1/sessions", &json!({"id": "late"}));
    assert_eq!(status, 503, "{problem}");
    assert_eq!(
        problem["type"],
        "urn:session-supervisor:problem:shutting-down"
    );
    assert_eq!(gateway.get("/readyz").0, 503);
    assert_eq!(gateway.get("/healthz").0, 200);
    // Until the snapshot is taken it is still active, so the answer may take a moment.
    let (status, session) = gateway.get("/v1/sessions/sess-3");
    assert_eq!(status, 200);
    assert_eq!(session["id"], "sess-3");

    drop(lock);
    let ended = gateway.wait();
    assert_eq!(ended.status.code(), Some(0));
    assert_no_ghost(&ended, "shutdown");
    assert_eq!(ended.report()["drain"]["sessions"], 11);
}

#[test]
fn a_further_signal_within_a_second_joins() {
    let mut gateway = start_with_11_sessions("");
    let lock = lock(&gateway.path("app.db"));
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_log("shutting down");
    gateway.signal(Signal::SIGINT);
    gateway.wait_for_log("already shutting down");
    drop(lock);
    let ended = gateway.wait();
    assert_eq!(ended.status.code(), Some(0));
    let report = ended.report();
    assert_eq!(
        (&report["trigger"], &report["outcome"]),
        (&json!("SIGTERM"), &json!("clean"))
    );
    assert_no_ghost(&ended, "shutdown");
}

#[test]
fn a_further_signal_after_a_second_forces_the_exit() {
    let mut gateway = start_with_11_sessions("[shutdown]\ncap = \"8s\"\nkill_after = \"10s\"\n");
    let _lock = lock(&gateway.path("app.db"));
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_log("shutting down");
    // The rule counts from the signal's arrival, which was before the line.
    sleep(Duration::from_millis(1100));
    let ended = gateway.stop(Signal::SIGINT);
    assert_eq!(ended.status.code(), Some(128 + 2));
    assert!(ended.took < Duration::from_secs(2), "took {:?}", ended.took);
    let report = ended.report();
    assert_eq!(report["outcome"], "forced");
    assert_eq!(report["exit_code"], 130);
    assert_eq!(report["drain"]["sessions"], 11);
    // What is delivered by then counts; the database is locked.
    let of = |index: usize| &report["plugins"][index];
    let counts = |index| (of(index)["delivered"].as_u64(), of(index)["owed"].as_u64());
    assert_eq!(counts(0), (Some(11), Some(0)), "{report}");
    assert_eq!(counts(1), (Some(0), Some(11)), "{report}");
    let unfinished = |index| of(index)["unfinished"].as_array().unwrap().len();
    assert_eq!((unfinished(0), unfinished(1)), (0, 11), "{report}");
    assert!(of(0)["last_error"].is_null(), "{report}");
    let drain = report["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(drain["name"], "session-end-drain");
    assert_eq!(drain["outcome"], "timed_out");
}

#[test]
fn g4_a_locked_database_does_not_move_the_cap_and_what_it_missed_is_in_the_report() {
    // What can't be told stays owed, or is lost where the ledger ends with the process.
    for (ledger, exit_code, outcome) in [("sqlite", 0, "owed"), ("memory", 3, "lost")] {
        let extra = format!("[ledger]\nkind = \"{ledger}\"\n");
        locked_at_the_stop(&extra, exit_code, outcome);
    }
}

fn locked_at_the_stop(extra: &str, exit_code: i32, outcome: &str) {
    let gateway = start_with_11_sessions(extra);
    let _lock = lock(&gateway.path("app.db"));
    let ended = gateway.stop(Signal::SIGTERM);
    // The cap is 2 s; nothing is left to tear down but the server.
    assert!(
        ended.took < Duration::from_millis(2500),
        "took {:?}",
        ended.took
    );
    assert_eq!(ended.status.code(), Some(exit_code));
    let report = ended.report();
    assert_eq!(report["outcome"], outcome);
    // SQLite's own wait may end a moment later than it was told to, where the machine is busy.
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings[0], "session-end-drain", "{report}");
    assert!(warnings[1..].iter().all(|it| it == "plugins"), "{report}");
    assert_eq!(report["drain"]["delivered"], 11);
    assert_eq!(report["drain"][outcome], 11);
    let plugin = &report["plugins"][1];
    assert_eq!(plugin["name"], "memory-db");
    assert_eq!(plugin["unfinished"].as_array().unwrap().len(), 11);
    assert_eq!(plugin["timed_out"], true);
}

#[test]
fn sighup_without_a_terminal_ends_no_session() {
    let mut gateway = start_with_11_sessions("");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_log("\"reloaded\"");
    gateway.begin("after");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.report()["drain"]["sessions"], 12);
}

#[test]
fn without_a_configuration_each_event_is_a_line_on_standard_output() {
    let gateway = Gateway::start_with_defaults();
    gateway.begin("A");
    let (status, session) = gateway.post("/v1/sessions/A/end", &json!({"reason": "completed"}));
    assert_eq!((status, &session["reason"]), (200, &json!("completed")));
    gateway.begin("B");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    let told: Vec<_> = ended
        .stdout
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = event["session"]["id"].as_str().unwrap();
            let reason = event["reason"].as_str().unwrap_or("-");
            format!("{} {id} {reason}", event["type"].as_str().unwrap())
        })
        .collect();
    let expected = [
        "session_start A -",
        "session_end A completed",
        "session_start B -",
        "session_end B shutdown",
    ];
    assert_eq!(told, expected);
}

#[test]
fn g4_a_standard_error_that_nobody_reads_does_not_move_the_cap() {
    const PIPE_CAPACITY: usize = 65_536;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; PIPE_CAPACITY]).unwrap();
    let gateway = Gateway::start_with_standard_error(writer);
    gateway.begin("A");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.took < Duration::from_secs(2), "took {:?}", ended.took);
    assert_eq!(ended.report()["outcome"], "clean");
    assert_eq!(ended.stdout.lines().count(), 2);
    drop(reader);
}

#[test]
fn g6_a_batch_that_takes_longer_than_its_time_is_delivered_in_parts() {
    // A statement of some milliseconds, and a time-out in which only a few of them fit.
    let dir = tempfile::tempdir().unwrap();
    let database = Connection::open(dir.path().join("app.db")).unwrap();
    database
        .execute_batch("CREATE TABLE told(id TEXT)")
        .unwrap();
    let slow = "INSERT INTO told SELECT :session_id FROM (WITH RECURSIVE n(i) AS \
                (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT max(i) FROM n)";
    let config = format!(
        "state_dir = \"state\"\n[[plugin]]\nname = \"slow\"\nkind = \"sql\"\nurl = \"sqlite:app.db\"\n\
         timeout = \"150ms\"\nbackoff = \"50ms\"\nsession_start = \"{slow}\"\n"
    );
    let locked = lock(&dir.path().join("app.db"));
    let gateway = Gateway::start_in(dir, &config);
    for n in 0..200 {
        gateway.begin(&format!("s{n}"));
    }
    drop(locked);
    let until = Instant::now() + Duration::from_secs(30);
    let told = || -> i64 {
        let query = "SELECT count(DISTINCT id) FROM told";
        database.query_row(query, [], |row| row.get(0)).unwrap()
    };
    while told() < 200 {
        assert!(Instant::now() < until, "only {} of 200 are told", told());
        sleep(Duration::from_millis(20));
    }
}
