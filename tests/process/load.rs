//! Very many sessions through the kinds `log` and `sql`, beside the bare file and the bare database
//! doing the same. The figures are in `docs/performance.md`.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::thread::scope;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::gateway::{Ended, Gateway, agent, json_lines, post};

const SESSIONS: usize = 10_000;
const CLIENTS: usize = 8;
/// As many events as there are in one delivery by default.
const BATCH: usize = 4096;

const TABLE: &str = "CREATE TABLE sessions (id TEXT PRIMARY KEY, incarnation TEXT, status TEXT,
    reason TEXT, ended_at TEXT) WITHOUT ROWID";
const UPDATE: &str = "UPDATE sessions SET status = 'ended', reason = :reason, ended_at = :ended_at \
    WHERE id = :session_id AND incarnation = :incarnation";

/// Starts the sessions and ends them all by a stop. How it ended, and how long its drain took.
fn drain(plugin: &str, prepare: impl FnOnce(&Gateway)) -> (Ended, Duration) {
    let dir = tempfile::tempdir().unwrap();
    Connection::open(dir.path().join("app.db"))
        .and_then(|database| database.execute_batch(TABLE))
        .unwrap();
    let config = format!(
        "state_dir = \"state\"\n[shutdown]\ncap = \"1m\"\nkill_after = \"2m\"\n\
         [[plugin]]\nname = \"it\"\n{plugin}\n"
    );
    let gateway = Gateway::start_in(dir, &config);
    let url = format!("{}/v1/sessions", gateway.url());
    scope(|scope| {
        for client in 0..CLIENTS {
            let url = &url;
            scope.spawn(move || {
                let agent = agent();
                for n in (client..SESSIONS).step_by(CLIENTS) {
                    let start = json!({ "id": format!("sess-{n}") });
                    let (status, answer) = post(&agent, url, &start).unwrap();
                    assert_eq!(status, 201, "{answer}");
                }
            });
        }
    });
    prepare(&gateway);
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let report = ended.report();
    assert_eq!(report["drain"]["delivered"], SESSIONS, "{report}");
    // Of the drain, not of the plugin: its lane may be at work before it hears of the drain.
    let took = report["drain"]["duration_ms"].as_u64().unwrap();
    (ended, Duration::from_millis(took))
}

fn report(kind: &str, took: Duration, bare: Duration) {
    let _ = writeln!(
        io::stderr(),
        "LOAD: {SESSIONS} ends through `{kind}`: {took:?}; bare: {bare:?}"
    );
}

#[test]
fn ten_thousand_sessions_end_in_a_log() {
    let config = "kind = \"log\"\nhooks = [\"session_end\"]\npath = \"audit.jsonl\"";
    let (ended, took) = drain(config, |_| {});
    let text = std::fs::read_to_string(ended.path("audit.jsonl")).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), SESSIONS);
    assert!(
        json_lines(&ended.path("audit.jsonl"))
            .iter()
            .all(|line| line["reason"] == "shutdown")
    );

    let began = Instant::now();
    let mut file = File::create(ended.path("bare.jsonl")).unwrap();
    for batch in lines.chunks(BATCH) {
        file.write_all(batch.concat().as_bytes()).unwrap();
        file.sync_data().unwrap();
    }
    report("log", took, began.elapsed());
}

/// The rows that the gateway's sessions have in the database of the application.
fn insert(path: &Path, sessions: &[Value]) {
    let mut database = Connection::open(path).unwrap();
    let transaction = database.transaction().unwrap();
    for session in sessions {
        let values = ["id", "incarnation"].map(|name| session[name].as_str().unwrap());
        let insert = "INSERT INTO sessions(id, incarnation, status) VALUES (?1, ?2, 'active')";
        transaction
            .prepare_cached(insert)
            .unwrap()
            .execute(values)
            .unwrap();
    }
    transaction.commit().unwrap();
}

/// All that are active.
fn active(gateway: &Gateway) -> Vec<Value> {
    let mut sessions = Vec::new();
    let mut page = "/v1/sessions?limit=1000".to_owned();
    loop {
        let (_, answer) = gateway.get(&page);
        sessions.extend(answer["sessions"].as_array().unwrap().iter().cloned());
        let Some(cursor) = answer["next_cursor"].as_str() else {
            return sessions;
        };
        page = format!("/v1/sessions?limit=1000&cursor={cursor}");
    }
}

#[test]
fn ten_thousand_sessions_end_in_a_database() {
    let config = format!("kind = \"sql\"\nurl = \"sqlite:app.db\"\nsession_end = \"{UPDATE}\"");
    let mut sessions = Vec::new();
    let (ended, took) = drain(&config, |gateway| {
        sessions = active(gateway);
        assert_eq!(sessions.len(), SESSIONS);
        insert(&gateway.path("app.db"), &sessions);
    });
    let count = "SELECT count(*) FROM sessions WHERE status = 'ended' AND reason = 'shutdown'";
    let database = Connection::open(ended.path("app.db")).unwrap();
    let count: usize = database.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(count, SESSIONS);

    let bare = ended.path("bare.db");
    let mut database = Connection::open(&bare).unwrap();
    database.execute_batch(TABLE).unwrap();
    insert(&bare, &sessions);
    let began = Instant::now();
    for batch in sessions.chunks(BATCH) {
        let transaction = database.transaction().unwrap();
        let mut update = transaction.prepare_cached(UPDATE).unwrap();
        for session in batch {
            let value = |name| session[name].as_str().unwrap();
            let changed = update.execute(&[
                (":reason", "shutdown"),
                (":ended_at", value("started_at")),
                (":session_id", value("id")),
                (":incarnation", value("incarnation")),
            ]);
            assert_eq!(changed.unwrap(), 1);
        }
        drop(update);
        transaction.commit().unwrap();
    }
    report("sql", took, began.elapsed());
}
