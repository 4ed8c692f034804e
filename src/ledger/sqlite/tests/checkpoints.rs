//! How the journal is worked into the database while the ledger is in use.

use std::time::{Duration, Instant};

use serde_json::json;

use super::support::*;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::tests::support::*;
use crate::session::NewSession;

const MIB: u64 = 1 << 20;

/// Nothing takes longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Records sessions with details, and so writes `mib` of them at least.
fn write(ledger: &SqliteLedger, run: &Run, mib: u64) {
    let details = json!({ "notes": "n".repeat(16 * 1000) });
    let new = NewSession::new(id("s")).with_metadata(details.as_object().unwrap().clone());
    let events = || (0..64).map(|n| run.start_event(new.clone(), at(n)));
    for _ in 0..mib {
        append(ledger, events().collect());
    }
}

fn size(path: &std::path::Path) -> u64 {
    path.metadata().unwrap().len()
}

#[test]
fn the_journal_stays_short_while_one_commit_follows_the_other() {
    let home = Home::new();
    let ledger = home.open();
    write(&ledger, &Run::new(), 60);
    let journal = size(&home.wal());
    assert!(journal < 24 * MIB, "{} MiB", journal / MIB);
    let database = size(&home.path());
    assert!(database > 40 * MIB, "{} MiB", database / MIB);
}

#[test]
fn somebody_who_reads_for_long_holds_the_journal_up_and_no_commit() {
    let home = Home::new();
    let ledger = home.open();
    let run = Run::new();
    write(&ledger, &run, 1);
    let reader = home.sqlite();
    let look = || reader.query_row("SELECT count(*) FROM starts", [], |row| row.get(0));
    reader.execute_batch("BEGIN").unwrap();
    let seen: u64 = look().unwrap();
    write(&ledger, &run, 80);
    assert!(size(&home.wal()) > 80 * MIB);
    assert_eq!(look().unwrap(), seen);
    reader.execute_batch("COMMIT").unwrap();
    // Once it has let go, the journal is begun anew, and cut to what it may be at the most.
    let until = Instant::now() + TIMEOUT;
    while size(&home.wal()) > 70 * MIB {
        write(&ledger, &run, 1);
        assert!(Instant::now() < until, "it grows for ever");
    }
}
