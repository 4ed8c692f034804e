//! A plugin that hangs while very many events pass.
//!
//! In the suite they are 20,000. For 100,000:
//!
//! ```sh
//! FAULTS_EVENTS=100000 cargo test --test process a_plugin_that_hangs -- --nocapture
//! ```

use std::io::{self, Write as _};
use std::thread::scope;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::json;

use crate::gateway::{Gateway, agent, json_lines, post};

const CONFIG: &str = "state_dir = \"state\"\n\
    [ledger]\ndurability = \"process\"\n\
    [[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n\
    [[plugin]]\nname = \"db\"\nkind = \"sql\"\nurl = \"sqlite:app.db\"\nbackoff_max = \"1s\"\n\
    session_end = \"INSERT INTO told VALUES (:session_id)\"\n";

const CLIENTS: usize = 4;

/// How many events pass, unless told otherwise.
const EVENTS: usize = 20_000;

/// What the newest part of the log may take in memory, which is at most 131,072 events, and what the
/// allocator keeps.
const MAX_GROWTH_KIB: usize = 96 * 1024;

/// Starts `count` sessions from several sides, each in place of one before: two events.
fn start(url: &str, name: &str, count: usize) {
    scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let agent = agent();
                for n in 0..count / CLIENTS {
                    let id = format!("{name}-{client}-{n}");
                    let start = json!({"id": id, "key": format!("k{client}")});
                    let (status, answer) =
                        post(&agent, &format!("{url}/v1/sessions"), &start).unwrap();
                    assert_eq!(status, 201, "{answer}");
                }
            });
        }
    });
}

#[test]
fn g8_a_plugin_that_hangs_while_many_events_pass_costs_bounded_memory_and_is_told_later() {
    let events = std::env::var("FAULTS_EVENTS").map_or(EVENTS, |events| events.parse().unwrap());
    let starts = events / 2;
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database
        .execute_batch("CREATE TABLE told(id TEXT)")
        .unwrap();
    let gateway = Gateway::start_in(folder, CONFIG);
    start(gateway.url(), "warm", 2000);

    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let before = gateway.memory_kib();
    start(gateway.url(), "late", starts);
    let growth = gateway.memory_kib().saturating_sub(before);
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB over {before} KiB");
    database.execute_batch("COMMIT").unwrap();

    gateway.settle();
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let told = "SELECT count(DISTINCT id) FROM told";
    let told: usize = database.query_row(told, [], |row| row.get(0)).unwrap();
    assert_eq!(told, 2000 + starts);
    let lines = json_lines(&ended.path("audit.jsonl"));
    assert_eq!(lines.len(), 2 * (2000 + starts));
    let _ = writeln!(
        io::stderr(),
        "LAGGED: a plugin that hung while {events} events passed cost {growth} KiB"
    );
}
