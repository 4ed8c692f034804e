//! P4: how long starts and ends wait until they are recorded when they come at a steady rate.

use std::time::Duration;

use session_supervisor::{Durability, EndReason, Ended, NewSession, SqliteLedger};
use tokio::runtime::Runtime;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::common::disk::{self, Percentiles};
use crate::common::drain::{id, start, stop, uncut};
use crate::common::{is_full, is_smoke_test};
use crate::table::row;

/// How often some come.
const TICK: Duration = Duration::from_millis(1);

/// How many come each time: half of them starts, half of them ends.
const PER_TICK: usize = 10;

/// How many sessions are active all the time.
const ACTIVE: usize = 10_000;

/// What may be added to two syncs.
const ALLOWED: Duration = Duration::from_millis(5);

fn ticks() -> usize {
    match (is_smoke_test(), is_full()) {
        (true, _) => 100,
        (false, false) => 5_000,
        (false, true) => 60_000,
    }
}

pub(crate) fn measure() {
    let runtime = Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let before = disk::fdatasync(directory.path());
    let path = directory.path().join("ledger.db");
    let ledger = SqliteLedger::open(path, Durability::Power).expect("it opens");
    let waits = runtime.block_on(offer(ledger, ticks()));
    let after = disk::fdatasync(directory.path());
    let sync = before.p99.min(after.p99);
    let millis = [waits.p99, ALLOWED + 2 * sync].map(|it| it.as_secs_f64() * 1000.0);
    let figure = format!("starts and ends, 10,000/s, p99; {waits}; fdatasync {after}");
    row("P4", &figure, millis, "ms", "1");
}

/// How long each waits, from when it should have come.
async fn offer(ledger: SqliteLedger, ticks: usize) -> Percentiles {
    let supervisor = uncut().ledger(ledger).start().await.expect("it starts");
    start(&supervisor, ACTIVE, ACTIVE).await;
    let mut asked = Vec::with_capacity(ticks * PER_TICK);
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let pairs = (0..ticks * PER_TICK / 2).collect::<Vec<_>>();
    for pairs in pairs.chunks(PER_TICK / 2) {
        let due = clock.tick().await;
        for &n in pairs {
            let starting = supervisor.clone();
            asked.push(tokio::spawn(async move {
                let started = starting.started(NewSession::new(id(ACTIVE + n))).await;
                started.expect("it starts");
                Instant::now() - due
            }));
            let ending = supervisor.clone();
            asked.push(tokio::spawn(async move {
                let ended = ending.ended(Ended::new(id(n), EndReason::Closed)).await;
                ended.expect("it ends");
                Instant::now() - due
            }));
        }
    }
    let mut waits = Vec::with_capacity(asked.len());
    for asked in asked {
        waits.push(asked.await.expect("no panic"));
    }
    stop(&supervisor, 0).await;
    Percentiles::of(waits)
}
