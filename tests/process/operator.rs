//! What an operator does to sessions and to the gateway itself, against a real one.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::gateway::Gateway;

const CONFIG: &str = r#"
state_dir = "state"

[[plugin]]
name = "audit"
kind = "log"
path = "audit.jsonl"

[[plugin]]
name = "db"
kind = "sql"
url = "sqlite:app.db"
session_end = "INSERT INTO ends(id) VALUES (:session_id)"
"#;

/// A gateway with a log and a database.
fn start() -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let database = Connection::open(dir.path().join("app.db")).unwrap();
    let schema = "CREATE TABLE ends(id TEXT PRIMARY KEY)";
    database.execute_batch(schema).unwrap();
    Gateway::start_in(dir, CONFIG)
}

fn ids(listed: &Value) -> Vec<&str> {
    let sessions = listed["sessions"].as_array().unwrap();
    sessions
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect()
}

#[test]
fn the_list_is_filtered() {
    let gateway = start();
    for (id, key, agent) in [
        ("A", "k:1", "main"),
        ("B", "k:2", "side"),
        ("C", "x", "main"),
    ] {
        let arguments = ["sessions", "start", id, "--key", key, "--agent", agent];
        gateway.run(&arguments).done();
    }
    gateway.run(&["sessions", "end", "C"]).done();
    let list = |filter: &[&str]| {
        let arguments = [&["sessions", "list", "--format", "json"], filter].concat();
        let listed = gateway.run(&arguments).json();
        ids(&listed).join(" ")
    };
    assert_eq!(list(&[]), "A B");
    assert_eq!(list(&["--key", "k:2"]), "B");
    assert_eq!(list(&["--key-prefix", "k:"]), "A B");
    assert_eq!(list(&["--agent", "main"]), "A");
    assert_eq!(list(&["--state", "ended"]), "C");
    assert_eq!(list(&["--state", "ended", "--agent", "side"]), "");
    assert_eq!(list(&["--idle-for", "1h"]), "");
    assert_eq!(list(&["--older-than", "0s"]), "A B");
    let ended = gateway
        .run(&["sessions", "list", "--state", "ended"])
        .done();
    assert!(ended.contains("closed"), "{ended}");
}

#[test]
fn what_a_filter_finds_ends() {
    let gateway = start();
    for n in 0..5 {
        let (id, key) = (format!("s{n}"), format!("k:{n}"));
        gateway
            .run(&["sessions", "start", &id, "--key", &key])
            .done();
    }
    gateway.begin("other");
    let end = [
        "sessions",
        "end",
        "--key-prefix",
        "k:",
        "--reason",
        "deleted",
    ];
    let rehearsed = gateway.run(&[&end[..], &["--dry-run"]].concat()).done();
    assert_eq!(rehearsed, "5 sessions match and would end\n");
    assert_eq!(gateway.get("/v1/sessions/s0").1["state"], "active");
    assert_eq!(gateway.run(&end).done(), "5 of 5 sessions ended\n");
    assert_eq!(gateway.get("/v1/sessions/s4").1["reason"], "deleted");
    assert_eq!(gateway.get("/v1/sessions/other").1["state"], "active");

    let all = ["sessions", "end", "--all", "--format", "json"];
    assert_eq!(gateway.run(&all).json(), json!({"matched": 1, "ended": 1}));
    assert_eq!(gateway.run(&all[..3]).done(), "no session matches\n");
}

#[test]
fn a_wrong_filter_is_refused_by_name() {
    let gateway = start();
    let long = "k".repeat(300);
    for arguments in [
        ["sessions", "list", "--key", &long],
        ["sessions", "end", "--key", &long],
    ] {
        gateway
            .run(&arguments)
            .failed(1, &["422 invalid-field", "key: "]);
    }
}

#[test]
fn a_stop_can_be_rehearsed() {
    let gateway = start();
    for id in ["A", "B"] {
        gateway.begin(id);
    }
    let rehearsed = gateway.run(&["stop", "--dry-run"]).done();
    assert!(
        rehearsed.starts_with("2 sessions would end, reason shutdown"),
        "{rehearsed}"
    );
    let restart = [
        "stop",
        "--dry-run",
        "--expected-downtime",
        "1s",
        "--format",
        "json",
    ];
    let expected = json!({"reason": "restart", "sessions": 2,
        "plugins": [{"name": "audit", "sessions": 2}, {"name": "db", "sessions": 2}]});
    assert_eq!(gateway.run(&restart).json(), expected);
    gateway.begin("C");
}

#[test]
fn a_stop_is_waited_for_and_shows_the_plugins() {
    let gateway = start();
    for n in 0..11 {
        gateway.begin(&format!("s{n}"));
    }
    let stopped = gateway.run(&["stop", "--reason", "restart", "--wait"]);
    for expected in [
        "audit: 11 of 11 done",
        "db: 11 of 11 done",
        "the gateway is gone after",
    ] {
        assert!(stopped.stderr.contains(expected), "{stopped:?}");
    }
    let told = stopped.done();
    assert!(
        told.starts_with("the gateway is stopping, reason restart"),
        "{told}"
    );
    let ended = gateway.wait();
    assert_eq!(ended.status.code(), Some(0));
    let report = ended.report();
    assert_eq!(
        (&report["outcome"], &report["reason"]),
        (&json!("clean"), &json!("restart"))
    );
}

#[test]
fn a_stop_announces_the_downtime() {
    let gateway = start();
    let stop = ["stop", "--expected-downtime", "1500ms", "--format", "json"];
    let asked = gateway.run(&stop).json();
    assert_eq!(asked["reason"], "restart");
    let report = gateway.wait().report();
    assert_eq!(report["restart_expected_ms"], 1500);
}

#[test]
fn g9_what_a_plugin_did_not_take_is_in_the_log_with_plugin_session_and_error() {
    let mut gateway = start();
    let database = Connection::open(gateway.path("app.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON ends BEGIN SELECT RAISE(FAIL, 'full'); END";
    database.execute_batch(full).unwrap();
    gateway.begin("A");
    gateway.run(&["sessions", "end", "A"]).done();
    let line: Value = serde_json::from_str(&gateway.wait_for_log("event rejected")).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["session"], "A");
    let error = line["fields"]["error"].as_str().unwrap();
    assert!(error.contains("full"), "{line}");
    let spans = line["spans"].as_array().unwrap();
    assert!(spans.iter().any(|span| span["plugin"] == "db"), "{line}");
}
