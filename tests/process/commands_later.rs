//! The commands whose requests the gateway answers once it has them: what is done to one plugin.

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
