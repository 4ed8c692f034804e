//! P8: ends through the plugin `sql`.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, named_params};
use session_supervisor::{Hook, NewSession, PluginSpec, SessionId, SqlPlugin, SqlSettings};
use tokio::runtime::Runtime;

use crate::common::drain::{stop, uncut};
use crate::common::{CHUNK, sizes};
use crate::table::{count, row};

const TABLE: &str = "CREATE TABLE sessions (id TEXT PRIMARY KEY, status TEXT NOT NULL,
    reason TEXT, ended_at TEXT) WITHOUT ROWID";
const INSERT: &str = "INSERT INTO sessions (id, status) VALUES (?1, 'active')";
const UPDATE: &str = "UPDATE sessions SET status = 'ended', reason = :reason, ended_at = :ended_at \
    WHERE id = :session_id";

/// Random, as most programs have them: in no order that a database could make use of.
fn id(n: usize) -> SessionId {
    let random = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    SessionId::new(format!("session-{random:028x}")).expect("a valid id")
}

pub(crate) fn measure() {
    for sessions in sizes(&[10_000], &[10_000, 100_000]) {
        let (ours, bare) = (through_plugin(sessions), bare(sessions));
        let rate = |took: Duration| sessions as f64 / took.as_secs_f64();
        let figure = format!("ends through `sql`, {}", count(sessions));
        row("P8", &figure, [rate(ours), rate(bare)], "/s", "0.8");
    }
}

/// A database with a row for each session.
fn database(path: &Path, sessions: usize) -> Connection {
    let mut database = Connection::open(path).expect("it opens");
    database.execute_batch(TABLE).expect("it is made");
    let transaction = database.transaction().expect("it begins");
    for n in 0..sessions {
        let insert = transaction.prepare_cached(INSERT);
        let inserted = insert.and_then(|mut insert| insert.execute([id(n).as_str()]));
        inserted.expect("it is written");
    }
    transaction.commit().expect("it is committed");
    database
}

fn through_plugin(sessions: usize) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.db");
    let database = database(&path, sessions);
    let settings = SqlSettings::new(&path).with_statement(Hook::SessionEnd, UPDATE);
    let settings = settings.expect("a statement");
    let hooks = settings.hooks();
    let plugin = PluginSpec::new("app", move || SqlPlugin::new(settings.clone()));
    let runtime = Runtime::new().expect("a runtime");
    let took = runtime.block_on(async {
        let builder = uncut().plugin(plugin.with_hooks(hooks));
        let supervisor = builder.start().await.expect("it starts");
        for n in 0..sessions {
            let started = supervisor.started(NewSession::new(id(n))).await;
            started.expect("it starts");
        }
        stop(&supervisor, sessions).await
    });
    let count = "SELECT count(*) FROM sessions WHERE status = 'ended'";
    let ended = database.query_row(count, [], |row| row.get::<_, i64>(0));
    assert_eq!(ended.expect("a count"), sessions as i64);
    took
}

fn bare(sessions: usize) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let mut database = database(&directory.path().join("app.db"), sessions);
    let ids: Vec<_> = (0..sessions).map(id).collect();
    let began = Instant::now();
    for chunk in ids.chunks(CHUNK) {
        let transaction = database.transaction().expect("it begins");
        let mut update = transaction.prepare_cached(UPDATE).expect("a statement");
        for id in chunk {
            let changed = update.execute(named_params! {
                ":reason": "shutdown",
                ":ended_at": "2026-01-01T00:00:00.000Z",
                ":session_id": id.as_str(),
            });
            assert_eq!(changed.expect("it is written"), 1);
        }
        drop(update);
        transaction.commit().expect("it is committed");
    }
    began.elapsed()
}
