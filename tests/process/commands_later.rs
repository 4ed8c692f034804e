//! The commands whose requests the gateway answers once it has them: filters, many ends at once,
//! plugins, and a stop over HTTP.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::gateway::{Gateway, json_lines};

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
backoff = "10ms"
max_attempts = 1
session_end = "INSERT INTO ends(id) VALUES (:session_id)"
"#;

/// A gateway with a log and a database.
fn start() -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    let database = Connection::open(dir.path().join("app.db")).unwrap();
    let schema = "CREATE TABLE ends(id TEXT PRIMARY KEY CHECK (id <> 'poison'))";
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

/// What `plugins list` says of a plugin once `is_so`.
#[track_caller]
fn wait_for_plugin(gateway: &Gateway, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = gateway.run(&["plugins", "list", "--format", "json"]).json();
        let plugins = listed["plugins"].as_array().unwrap();
        let plugin = plugins
            .iter()
            .find(|plugin| plugin["name"] == name)
            .unwrap();
        if is_so(plugin) {
            return plugin.clone();
        }
        assert!(Instant::now() < until, "{plugin}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Has `db` reject the end of a session for good.
fn with_a_dead_letter() -> Gateway {
    let gateway = start();
    gateway.begin("poison");
    gateway.run(&["sessions", "end", "poison"]).done();
    wait_for_plugin(&gateway, "db", |plugin| plugin["dead"] == 1);
    gateway
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
fn plugins_are_listed_and_tested() {
    let gateway = start();
    let listed = gateway.run(&["plugins", "list"]).done();
    let names: Vec<_> = listed
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["NAME", "audit", "db"]);
    assert_eq!(listed.matches("healthy").count(), 2, "{listed}");

    let tested = gateway.run(&["plugins", "test", "audit"]).done();
    assert!(
        tested.starts_with("audit took a start and an end in "),
        "{tested}"
    );
    let lines = json_lines(&gateway.path("audit.jsonl"));
    assert_eq!(lines.len(), 2);
    assert!(
        lines.iter().all(|line| line["synthetic"] == true),
        "{lines:?}"
    );

    let unknown = gateway.run(&["plugins", "test", "nobody"]);
    unknown.failed(1, &["404 not-found", "plugins list"]);
}

#[test]
fn dead_letters_are_listed_and_redelivered() {
    let gateway = with_a_dead_letter();
    let dead = gateway.run(&["plugins", "dead", "db"]).done();
    let letter = dead.lines().nth(1).unwrap();
    for expected in ["session_end", "poison", "closed"] {
        assert!(letter.contains(expected), "{dead}");
    }
    assert_eq!(
        gateway.run(&["plugins", "dead", "audit"]).done(),
        "no dead letters\n"
    );

    let database = Connection::open(gateway.path("app.db")).unwrap();
    let repair = "DROP TABLE ends; CREATE TABLE ends(id TEXT PRIMARY KEY)";
    database.execute_batch(repair).unwrap();
    let back = gateway.run(&["plugins", "redeliver", "db"]).done();
    assert_eq!(back, "1 dead letter is delivered to db again\n");
    wait_for_plugin(&gateway, "db", |plugin| {
        plugin["dead"] == 0 && plugin["owed"] == 0
    });
    let told: String = database
        .query_row("SELECT id FROM ends", [], |row| row.get(0))
        .unwrap();
    assert_eq!(told, "poison");
}

#[test]
fn a_plugin_that_waits_is_resumed() {
    let gateway = start();
    let resumed = gateway
        .run(&["plugins", "resume", "db", "--format", "json"])
        .json();
    assert_eq!(
        (&resumed["name"], &resumed["state"]),
        (&json!("db"), &json!("healthy"))
    );
    let table = gateway.run(&["plugins", "resume", "db"]).done();
    assert!(table.lines().nth(1).unwrap().starts_with("db "), "{table}");
}

#[test]
fn the_configuration_is_read_again_unless_it_is_wrong() {
    let gateway = start();
    let config = gateway.path("config.toml");
    let more = "[[plugin]]\nname = \"more\"\nkind = \"log\"\npath = \"more.jsonl\"\n";
    std::fs::write(&config, format!("{CONFIG}{more}")).unwrap();
    let reloaded = gateway.run(&["plugins", "reload"]).done();
    assert_eq!(reloaded, "added: more\nunchanged: 2 plugins\n");

    std::fs::write(&config, "[[plugin]]\nnam = \"more\"\n").unwrap();
    let refused = gateway.run(&["plugins", "reload"]);
    refused.failed(1, &["422 invalid-field", "config.toml:2: "]);
    let listed = gateway.run(&["plugins", "list", "--format", "json"]).json();
    assert_eq!(listed["plugins"].as_array().unwrap().len(), 3);
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
