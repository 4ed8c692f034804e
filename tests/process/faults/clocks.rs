//! Clocks that jump, and a plugin that is down for a day.

use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use super::Shim;
use crate::books::{PLUGINS, SCHEMA};
use crate::gateway::{Ended, Gateway, json_lines};

/// Long, since timers that tick make up for a day that is skipped.
const PATIENCE: Duration = Duration::from_secs(90);
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn config(sessions: &str) -> String {
    format!("state_dir = \"state\"\n[sessions]\n{sessions}\n{PLUGINS}")
}

/// A gateway whose clocks are as the shim says.
fn start(shim: &Shim, folder: TempDir, config: &str) -> Gateway {
    let mut command = Gateway::command_in(&folder, config);
    shim.watch(&mut command, folder.path());
    let started = Gateway::launch(folder, command);
    started.unwrap_or_else(|ended| panic!("{}", ended.log))
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    folder
}

/// Has the wall clock, and the one of time-outs, so many seconds ahead.
fn set_clock(shim: &Shim, wall: i64, monotonic: i64) {
    shim.set("clock", &format!("{wall} {monotonic}"));
}

/// The end that the log has of session `id`.
fn end_of(ended: &Ended, id: &str) -> Value {
    let events = json_lines(&ended.path("audit.jsonl")).into_iter();
    let mut ends =
        events.filter(|event| event["type"] == "session_end" && event["session"]["id"] == id);
    let end = ends
        .next()
        .unwrap_or_else(|| panic!("no end: {}", ended.log));
    assert_eq!(ends.next(), None);
    end
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Asserts that an end makes sense whatever the clock did.
#[track_caller]
fn assert_sane(end: &Value) {
    let started = time(&end["session"]["started_at"]);
    let (ended, detected) = (time(&end["ended_at"]), time(&end["detected_at"]));
    assert!(ended <= detected, "{end}");
    // By a clock that went back it may start after its end was noticed, and ends then.
    assert!(started.min(detected) <= ended, "{end}");
    assert!(end["duration_ms"].as_u64().is_some(), "{end}");
}

/// Kills a gateway with a session whose clock is ahead by `before`, and starts the next with it
/// ahead by `after`. The end of the session.
fn end_after_a_jump(shim: &Shim, before: i64, after: i64) -> Value {
    let limited = config("idle_after = \"30m\"");
    set_clock(shim, before, 0);
    let gateway = start(shim, folder(), &limited);
    gateway.begin("A");
    let ended = gateway.stop(Signal::SIGKILL);
    set_clock(shim, after, 0);
    let gateway = start(shim, ended.dir, &limited);
    gateway.begin("B");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let (a, b) = (end_of(&ended, "A"), end_of(&ended, "B"));
    assert_eq!(
        (&a["reason"], &b["reason"]),
        (&"crash".into(), &"shutdown".into())
    );
    assert_sane(&b);
    a
}

#[test]
fn a_clock_that_jumps_an_hour_between_runs_makes_no_end_absurd() {
    let test = "a_clock_that_jumps_an_hour_between_runs_makes_no_end_absurd";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    let forward = end_after_a_jump(&shim, 0, HOUR);
    assert_sane(&forward);
    // It was alive until the kill, and was found an hour later.
    assert!(
        forward["duration_ms"].as_u64().unwrap() < 60_000,
        "{forward}"
    );
    let found = time(&forward["detected_at"]).duration_since(time(&forward["ended_at"]));
    assert!(found.as_secs() > HOUR - 60, "{forward}");

    let back = end_after_a_jump(&shim, HOUR, 0);
    assert_sane(&back);
    assert!(back["duration_ms"].as_u64().unwrap() < 60_000, "{back}");
}

#[test]
fn a_clock_that_jumps_an_hour_during_a_run_ends_nothing_early() {
    let test = "a_clock_that_jumps_an_hour_during_a_run_ends_nothing_early";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    let limits = "idle_after = \"30m\"\nmax_age = \"30m\"";
    for wall in [HOUR, -HOUR] {
        set_clock(&shim, 0, 0);
        let gateway = start(&shim, folder(), &config(limits));
        gateway.begin("A");
        gateway.begin("B");
        set_clock(&shim, wall, 0);
        // Longer than the pause between two looks for what has expired.
        sleep(Duration::from_millis(1500));
        for id in ["A", "B"] {
            assert_eq!(
                gateway.get(&format!("/v1/sessions/{id}")).1["state"],
                "active"
            );
        }
        let (status, session) = gateway.post("/v1/sessions/A/end", &serde_json::json!({}));
        assert_eq!(status, 200, "{session}");
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        for id in ["A", "B"] {
            assert_sane(&end_of(&ended, id));
        }
    }
}

/// What `db` was told of `id`.
fn told(gateway: &Gateway, id: &str) -> i64 {
    let database = Connection::open(gateway.path("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    let query = "SELECT count(DISTINCT event_id) FROM told WHERE session_id = ?1";
    database.query_row(query, [id], |row| row.get(0)).unwrap()
}

/// The state of `db` once `is_so`.
fn wait_for_db(gateway: &Gateway, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = gateway.get("/v1/plugins");
        // A request during which a day passes has taken too long.
        let plugins = answer.1["plugins"].as_array();
        let db = plugins.and_then(|all| all.iter().find(|plugin| plugin["name"] == "db"));
        if let Some(db) = db.filter(|db| is_so(db)) {
            return db.clone();
        }
        assert!(Instant::now() < until, "{answer:?}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_event_that_waits_for_its_next_attempt_does_not_wait_for_a_clock_that_went_back() {
    let test = "an_event_that_waits_for_its_next_attempt_does_not_wait_for_a_clock_that_went_back";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    set_clock(&shim, HOUR, 0);
    let gateway = start(&shim, folder(), &config(""));
    gateway.begin("shy");
    wait_for_db(&gateway, |db| db["last_error"].is_string());
    let ended = gateway.stop(Signal::SIGKILL);
    let database = Connection::open(ended.path("app.db")).unwrap();
    let welcome = "INSERT INTO welcome VALUES ('shy')";
    database.execute_batch(welcome).unwrap();
    set_clock(&shim, 0, 0);
    let gateway = start(&shim, ended.dir, &config(""));
    wait_for_db(&gateway, |db| db["owed"] == 0);
    assert_eq!(told(&gateway, "shy"), 2);
}

#[test]
fn g6_a_plugin_that_is_down_for_a_day_is_told_everything_then() {
    let test = "g6_a_plugin_that_is_down_for_a_day_is_told_everything_then";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    set_clock(&shim, 0, 0);
    let gateway = start(&shim, folder(), &config(""));
    let database = Connection::open(gateway.path("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for n in 0..20 {
        gateway.begin(&format!("s{n}"));
    }
    let failed = |db: &Value| db["state"] == "retrying" || db["state"] == "quarantined";
    wait_for_db(&gateway, failed);
    set_clock(&shim, DAY, DAY);
    // It is tried again, and is still down.
    let before = gateway.get("/v1/plugins");
    sleep(Duration::from_millis(500));
    let db = wait_for_db(&gateway, failed);
    assert_eq!(
        (&db["owed"], &db["dead"]),
        (&20.into(), &0.into()),
        "{before:?}"
    );
    database.execute_batch("COMMIT").unwrap();
    wait_for_db(&gateway, |db| db["owed"] == 0 && db["state"] == "healthy");
    for n in 0..20 {
        assert_eq!(told(&gateway, &format!("s{n}")), 1);
    }
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[test]
fn g6_what_a_plugin_is_owed_that_is_down_for_longer_than_retry_for_is_dead() {
    let test = "g6_what_a_plugin_is_owed_that_is_down_for_longer_than_retry_for_is_dead";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    set_clock(&shim, 0, 0);
    let impatient = format!("{}retry_for = \"1h\"\n", config(""));
    let gateway = start(&shim, folder(), &impatient);
    let database = Connection::open(gateway.path("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    gateway.begin("A");
    wait_for_db(&gateway, |db| db["state"] == "retrying");
    set_clock(&shim, 2 * HOUR, 2 * HOUR);
    wait_for_db(&gateway, |db| db["dead"] == 1 && db["owed"] == 0);
}
