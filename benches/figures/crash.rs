//! P6 and P7: how much memory many sessions take, and what the start after SIGKILL costs, which has
//! to end them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use crate::common::bare::Bare;
use crate::common::sizes;
use crate::gateway::Gateway;
use crate::peer;
use crate::stop::LOG;
use crate::table::{count, row};

/// By how much memory may grow while the ends are delivered, in MiB.
const MAX_GROWTH: f64 = 64.0;

pub(crate) fn measure() {
    for sessions in sizes(&[1_000, 10_000], &[10_000, 50_000, 1_000_000]) {
        let figure = |what: &str| format!("{what}, {} sessions", count(sessions));
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(directory.path(), LOG);
        gateway.fill(sessions);
        let memory = [gateway.memory(), peer::memory_of_map(sessions)];
        let reach = "100 MiB at 50,000, 400 MiB at 1,000,000";
        row("P6", &figure("resident"), memory, "MiB", reach);

        gateway.kill();
        let state = directory.path().join("state");
        let bare = bare_recovery(&state, sessions);
        let gateway = Gateway::start(directory.path(), LOG);
        let start = [gateway.ready_after, bare].map(|it| it.as_secs_f64() * 1000.0);
        row("P7", &figure("start after SIGKILL"), start, "ms", "2 s");

        let growth = gateway.growth(|| gateway.settle());
        assert_eq!(crashed(&state.join("ledger.db")), sessions);
        let growth = [growth, MAX_GROWTH];
        row("P7", &figure("growth while delivering"), growth, "MiB", "1");
    }
}

/// How long bare `rusqlite` takes to open a copy of the database and to end what is open.
fn bare_recovery(state: &Path, sessions: usize) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger.db");
    for suffix in ["", "-wal"] {
        let name = format!("ledger.db{suffix}");
        fs::copy(state.join(&name), directory.path().join(name)).expect("it is copied");
    }
    let began = Instant::now();
    let bare = Bare::open(&path);
    assert_eq!(bare.end_open(Timestamp::now().as_millisecond()), sessions);
    began.elapsed()
}

/// How many ends in the ledger at `path` are of sessions whose process died.
fn crashed(path: &Path) -> usize {
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let query = "SELECT count(*) FROM ends WHERE reason = 'crash'";
    let count = ledger.and_then(|ledger| ledger.query_row(query, [], |row| row.get::<_, i64>(0)));
    usize::try_from(count.expect("a ledger")).expect("a count")
}
