//! The commands for plugins: they are tested, their dead letters looked after, and the configuration
//! read again.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::gateway::{Gateway, agent, json_lines};

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
fn a_database_that_is_not_there_is_warned_of_at_the_start_and_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("app.db");
    let warning = format!("the database {} is not there yet", missing.display());
    let gateway = Gateway::start_in(dir, CONFIG);
    let config = gateway.path("config.toml");
    let check = ["check", "--config", config.to_str().unwrap()];
    let checked = gateway.run(&check).done();
    assert!(checked.contains(&warning), "{checked}");
    let log = gateway.stop(Signal::SIGTERM).log;
    let line = log.lines().find(|line| line.contains(&warning));
    assert!(line.is_some_and(|line| line.contains("WARN")), "{log}");
}

#[test]
fn dead_letters_are_listed_and_redelivered() {
    let gateway = with_a_dead_letter();
    let listed = gateway.run(&["plugins", "list"]).done();
    let hint = "1 dead letter of db: `session-supervisor plugins dead db` says why";
    assert_eq!(listed.lines().last(), Some(hint), "{listed}");
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
    // Nothing but `resume` ends this wait while the test is patient.
    let patient = "backoff = \"5m\"\ntimeout = \"300ms\"";
    let config = CONFIG.replace("backoff = \"10ms\"\nmax_attempts = 1", patient);
    let dir = tempfile::tempdir().unwrap();
    let database = Connection::open(dir.path().join("app.db")).unwrap();
    let locked = "CREATE TABLE ends(id TEXT PRIMARY KEY); BEGIN EXCLUSIVE";
    database.execute_batch(locked).unwrap();
    let gateway = Gateway::start_in(dir, &config);
    gateway.begin("A");
    gateway.run(&["sessions", "end", "A"]).done();
    wait_for_plugin(&gateway, "db", |plugin| plugin["state"] == "retrying");
    database.execute_batch("ROLLBACK").unwrap();

    let resumed = gateway.run(&["plugins", "resume", "db"]).done();
    let row = resumed.lines().nth(1).unwrap();
    assert!(row.starts_with("db "), "{resumed}");
    wait_for_plugin(&gateway, "db", |plugin| {
        plugin["state"] == "healthy" && plugin["owed"] == 0
    });
    let told: String = database
        .query_row("SELECT id FROM ends", [], |row| row.get(0))
        .unwrap();
    assert_eq!(told, "A");
    let again = gateway.run(&["plugins", "resume", "db", "--format", "json"]);
    let again = again.json();
    assert_eq!(
        (&again["name"], &again["state"]),
        (&json!("db"), &json!("healthy"))
    );
}

#[test]
fn the_configuration_is_read_again_unless_it_is_wrong() {
    let gateway = start();
    let config = gateway.path("config.toml");
    let more = "[[plugin]]\nname = \"more\"\nkind = \"log\"\npath = \"more.jsonl\"\n";
    std::fs::write(&config, format!("{CONFIG}{more}")).unwrap();
    let reloaded = gateway.run(&["plugins", "reload"]).done();
    assert_eq!(reloaded, "added: more\nunchanged: 2 plugins\n");

    let wrong = more.replace("\"more\"", "\"More\"");
    std::fs::write(&config, wrong).unwrap();
    let refused = gateway.run(&["plugins", "reload"]);
    refused.failed(1, &["422 invalid-field", "config.toml:2: "]);
    let listed = gateway.run(&["plugins", "list", "--format", "json"]).json();
    assert_eq!(listed["plugins"].as_array().unwrap().len(), 3);
}

/// A second log, written to `file`.
fn more(file: &str) -> String {
    format!("[[plugin]]\nname = \"more\"\nkind = \"log\"\npath = \"{file}\"\n")
}

#[test]
fn sighup_reads_the_configuration_again_unless_it_is_wrong() {
    let mut gateway = start();
    let config = gateway.path("config.toml");
    gateway.begin("A");
    std::fs::write(&config, format!("{CONFIG}{}", more("more.jsonl"))).unwrap();
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_log("\"reloaded\"");
    wait_for_plugin(&gateway, "more", |plugin| plugin["state"] == "healthy");

    std::fs::write(&config, format!("{CONFIG}[shutdown]\ncap = \"1h\"\n")).unwrap();
    gateway.signal(Signal::SIGHUP);
    let refused = gateway.wait_for_log("not reloaded");
    assert!(refused.contains("config.toml:"), "{refused}");
    gateway.begin("B");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    let report = ended.report();
    assert_eq!(report["cap_ms"], 2000);
    let plugins = report["plugins"].as_array().unwrap().iter();
    let delivered = plugins.map(|it| (it["name"].as_str().unwrap(), it["delivered"].as_u64()));
    let expected = [("audit", Some(2)), ("db", Some(2)), ("more", Some(2))];
    assert!(delivered.eq(expected), "{report}");
    // Who came later hears of the ends of both, and of one start.
    assert_eq!(json_lines(&ended.path("more.jsonl")).len(), 3);
}

#[test]
fn what_can_not_change_while_it_runs_is_named() {
    let gateway = start();
    let config = gateway.path("config.toml");
    let other = CONFIG.replace("state_dir = \"state\"", "state_dir = \"elsewhere\"");
    std::fs::write(&config, format!("{other}[shutdown]\ncap = \"1s\"\n")).unwrap();
    let reloaded = gateway.run(&["plugins", "reload"]).done();
    let expected = "unchanged: 2 plugins\n\
                    warning: `state_dir` stays as it is: it changes with a restart only\n";
    assert_eq!(reloaded, expected);
    assert_eq!(gateway.stop(Signal::SIGTERM).report()["cap_ms"], 1000);
}

#[test]
fn a_reload_without_enough_files_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start_with_files(dir, "state_dir = \"state\"\n", 128);
    let config = gateway.path("config.toml");
    let plugin =
        |n| format!("[[plugin]]\nname = \"p{n}\"\nkind = \"log\"\npath = \"p{n}.jsonl\"\n");
    let plugins = |count| (0..count).map(plugin).collect::<String>();
    std::fs::write(&config, format!("state_dir = \"state\"\n{}", plugins(200))).unwrap();
    let (status, answer) = gateway.post("/v1/plugins/reload", &json!({}));
    assert_eq!(status, 503, "{answer}");
    assert_eq!(answer["type"], "urn:session-supervisor:problem:busy");
    gateway.begin("A");
    std::fs::write(&config, format!("state_dir = \"state\"\n{}", plugins(1))).unwrap();
    let (status, answer) = gateway.post("/v1/plugins/reload", &json!({}));
    assert_eq!((status, &answer["added"]), (200, &json!(["p0"])));
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    // The ledger has known it since the reload that was refused.
    assert_eq!(json_lines(&ended.path("p0.jsonl")).len(), 2);
}

#[test]
fn g6_nothing_is_lost_when_it_reloads_beside_traffic() {
    const SESSIONS: usize = 300;
    let gateway = start();
    let config = gateway.path("config.toml");
    let url = format!("{}/v1/sessions", gateway.url());
    std::thread::scope(|scope| {
        let traffic = scope.spawn(move || {
            let agent = agent();
            for n in 0..SESSIONS {
                let id = format!("s{n}");
                let started = agent.post(&url).send_json(json!({ "id": id })).unwrap();
                assert_eq!(started.status(), 201);
                let ended = agent.post(format!("{url}/{id}/end")).send_json(json!({}));
                assert_eq!(ended.unwrap().status(), 200);
            }
        });
        let mut reloads = 0;
        while !traffic.is_finished() {
            reloads += 1;
            // The database is served with another patience each time, the audit as before.
            let timeout = format!("timeout = \"{reloads}s\"\nbackoff = \"10ms\"");
            let changed = CONFIG.replace("backoff = \"10ms\"", &timeout);
            let more = more("more.jsonl").repeat(reloads % 2);
            std::fs::write(&config, format!("{changed}{more}")).unwrap();
            let (status, answer) = gateway.post("/v1/plugins/reload", &json!({}));
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["changed"], json!(["db"]));
            assert_eq!(answer["unchanged"], json!(["audit"]));
        }
        assert!(reloads > 1, "{reloads}");
    });
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    let lines = json_lines(&ended.path("audit.jsonl"));
    assert_eq!(lines.len(), 2 * SESSIONS);
    let seqs: Vec<_> = lines.iter().map(|line| line["seq"].as_u64()).collect();
    assert!(seqs.is_sorted(), "out of order");
    let database = Connection::open(ended.path("app.db")).unwrap();
    let told: i64 = database
        .query_row("SELECT count(*) FROM ends", [], |row| row.get(0))
        .unwrap();
    assert_eq!(told, i64::try_from(SESSIONS).unwrap());
}
