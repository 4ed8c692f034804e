//! SIGKILL at any moment, under load, again and again.
//!
//! The suite kills a few times. For 1,000 rounds:
//!
//! ```sh
//! FAULTS_ROUNDS=1000 cargo test --release --test process killed_at_any_moment -- --nocapture
//! ```

use std::io::{self, Write as _};
use std::thread::{scope, sleep};
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::json;

use super::chance;
use crate::books::{
    Books, PLUGINS, Request, SCHEMA, look_at_ledger, told_in_database, told_in_log,
};
use crate::gateway::{Gateway, agent, post};

const ROUNDS: u64 = 10;
const CLIENTS: u64 = 4;

/// The longest that a gateway lives, in ms.
const LONGEST_LIFE: u64 = 150;

/// Starts and ends sessions until the gateway does not answer.
fn load(url: &str, round: u64, client: u64) -> Books {
    let (agent, mut books) = (agent(), Books::default());
    for n in 0.. {
        // Some ids come again, some share a key.
        let id = format!("{client}-{}", chance(20));
        let request = match chance(3) {
            0 => Request::End(&id),
            1 => Request::Start(&id, json!({"key": format!("{client}-k{}", n % 3)})),
            _ => Request::Start(&id, json!({"metadata": {"round": round, "n": n}})),
        };
        let answer = post(&agent, &format!("{url}{}", request.path()), &request.body());
        if !books.note(&request, answer.as_ref()) {
            break;
        }
    }
    books
}

#[test]
fn g7_killed_at_any_moment_under_load_no_ghost_is_left_and_nothing_lost() {
    let rounds = std::env::var("FAULTS_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    let config = format!("state_dir = \"state\"\n{PLUGINS}");

    let mut all = Vec::new();
    for round in 0..rounds {
        let gateway = Gateway::start_in(folder, &config);
        let (_, active) = gateway.get("/v1/sessions");
        assert_eq!(active["sessions"], json!([]), "nobody holds them");
        let (url, gateway) = (gateway.url().to_owned(), gateway);
        let url = url.as_str();
        folder = scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| scope.spawn(move || load(url, round, client)))
                .collect();
            sleep(Duration::from_millis(chance(LONGEST_LIFE)));
            let ended = gateway.stop(Signal::SIGKILL);
            for client in clients {
                let mut books = client.join().unwrap();
                books.gone("crash");
                all.push(books);
            }
            ended.dir
        });
    }

    let gateway = Gateway::start_in(folder, &config);
    gateway.settle();
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let left = look_at_ledger(ended.dir.path()).unwrap();
    assert_eq!(left.open, 0, "ghosts");
    let books = Books::all(all);
    let logged = books.check("audit", &told_in_log(&ended.path("audit.jsonl")), &[]);
    let stored = books.check("db", &told_in_database(ended.dir.path()), &left.dead);
    let sessions = books.len();
    let _ = writeln!(
        io::stderr(),
        "KILLED: {rounds} times under load: {sessions} sessions were promised, ghosts left 0, \
         events lost 0, told twice under one id: {logged} to the log, {stored} to the database"
    );
}
