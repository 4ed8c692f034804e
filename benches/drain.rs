//! The latency of a drain, from the request for the shutdown on. In-process plugins that take everything,
//! threads as in production.
//!
//! | group | beside it |
//! |---|---|
//! | `drain`: 4 plugins, the ledger in memory, until the last was told of the last end; `report`: until there is a report, and the plugins' threads are gone | `channels`: the same chunks through bare channels to as many threads |
//! | `drain-plugins`: 1, 4 and 16 plugins, 10,000 sessions or, of the large sizes, 100,000, until the last was told | the same |
//! | `drain-sqlite`: 4 plugins, the ledger in a file, until there is a report | `rusqlite`: the same rows in the same transactions, and `disk`: their text appended to a file, which is synced as often |

mod common;

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use session_supervisor::{Durability, SqliteLedger};
use tokio::runtime::Runtime;

use self::common::bare::{Bare, Row};
use self::common::drain::{bare_channels, drain, holding, items, start, stop, uncut};
use self::common::{CHUNK, PLUGINS, bench, disk, group, sizes};

fn in_memory(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let quick = [11, 1_000, 10_000];
    let full = [11, 100, 1_000, 10_000, 100_000, 1_000_000];
    let mut group = group(criterion, "drain");
    for size in sizes(&quick, &full) {
        bench(&mut group, "supervisor", size, || {
            runtime.block_on(drain(size, PLUGINS)).told
        });
        bench(&mut group, "report", size, || {
            runtime.block_on(drain(size, PLUGINS)).reported
        });
        let items = items(size);
        bench(&mut group, "channels", size, || {
            runtime.block_on(bare_channels(&items, PLUGINS))
        });
    }
    group.finish();
}

fn by_plugins(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = group(criterion, "drain-plugins");
    let size = sizes(&[10_000], &[100_000])[0];
    let items = items(size);
    for plugins in [1, 4, 16] {
        // What is counted here is the plugins.
        bench(&mut group, "supervisor", plugins, || {
            runtime.block_on(drain(size, plugins)).told
        });
        bench(&mut group, "channels", plugins, || {
            runtime.block_on(bare_channels(&items, plugins))
        });
    }
    group.finish();
}

/// The starts of so many sessions as rows.
fn rows(runtime: &Runtime, sessions: usize) -> Vec<Row> {
    let snapshot = async {
        let supervisor = uncut().start().await.expect("it starts");
        start(&supervisor, sessions, CHUNK).await;
        let sessions = supervisor.snapshot().await.expect("it runs");
        stop(&supervisor, 0).await;
        sessions
    };
    let sessions = runtime.block_on(snapshot);
    sessions.iter().map(|session| Row::of(session)).collect()
}

/// How long the drain takes with a ledger in a file of its own, unless the disk stalls.
async fn drain_into_file(sessions: usize) -> Option<Duration> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger.db");
    let ledger = SqliteLedger::open(path, Durability::Power).expect("it opens");
    let holding = holding(uncut().ledger(ledger), sessions, PLUGINS).await;
    Some(holding.drain().await?.reported)
}

/// How long the ends take in a database like the ledger's that has the starts already.
fn bare_database(rows: &[Row]) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let bare = Bare::create(directory.path(), PLUGINS);
    bare.record_starts(rows, CHUNK);
    let began = Instant::now();
    bare.record_ends(rows, CHUNK, PLUGINS);
    began.elapsed()
}

/// How long it takes to append a line for each end to a file that is synced after each chunk.
fn bare_file(rows: &[Row]) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = File::create(directory.path().join("ends")).expect("a file");
    let began = Instant::now();
    for chunk in rows.chunks(CHUNK) {
        let lines: String = chunk
            .iter()
            .map(|row| format!("{} shutdown {}\n", row.id, row.at))
            .collect();
        file.write_all(lines.as_bytes())
            .and_then(|()| file.sync_data())
            .expect("it is written");
    }
    began.elapsed()
}

fn in_a_file(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    disk::print_fdatasync();
    let mut group = group(criterion, "drain-sqlite");
    for size in sizes(&[1_000, 10_000], &[10_000, 100_000, 1_000_000]) {
        bench(&mut group, "supervisor", size, || {
            loop {
                if let Some(took) = runtime.block_on(drain_into_file(size)) {
                    break took;
                }
                eprintln!("a round does not count: the disk stood still for 250 ms");
            }
        });
        let rows = rows(&runtime, size);
        bench(&mut group, "rusqlite", size, || bare_database(&rows));
        bench(&mut group, "disk", size, || bare_file(&rows));
    }
    group.finish();
    disk::print_fdatasync();
}

criterion_group!(all, in_memory, by_plugins, in_a_file);
criterion_main!(all);
