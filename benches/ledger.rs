//! What the durable ledger takes per event, beside bare `rusqlite` that writes the same rows in the
//! same transactions: what SQLite and the disk give.
//!
//! Starts and ends in steps of 4,096, as a drain appends them; starts one by one from 64 askers at a
//! time, which share commits; and the recovery of a process that died with all sessions active, from
//! the opening of the file to the last end. `LEDGER_BENCH_SESSIONS` sets how many there are, 20,000 unless set;
//! the files are made in the temporary directory.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use session_supervisor::{
    Append, Durability, Event, InstanceId, Ledger, LedgerFuture, MemoryLedger, NewSession, Page,
    Parked, PluginSpec, Position, Progress, SessionFilter, SessionId, SessionRecord,
    SessionSupervisor, Shutdown, SqliteLedger,
};
use tokio::runtime::Runtime;

/// How many events a drain appends in one step.
const STEP: usize = 4096;

/// How many askers wait for their own start at a time.
const ASKERS: usize = 64;

fn sessions() -> usize {
    let set = std::env::var("LEDGER_BENCH_SESSIONS");
    set.map_or(20_000, |text| text.parse().expect("a number of sessions"))
}

/// Keeps what a supervisor appends, as yet without places.
#[derive(Debug, Default)]
struct Capture {
    ledger: MemoryLedger,
    events: Mutex<Vec<Event>>,
}

#[derive(Debug, Clone, Default)]
struct Capturing(Arc<Capture>);

impl Ledger for Capturing {
    fn is_durable(&self) -> bool {
        false
    }

    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>> {
        let mut events = self.0.events.lock().expect("nobody panicked");
        events.extend(append.events.iter().cloned());
        self.0.ledger.append(append)
    }

    fn head(&self) -> u64 {
        self.0.ledger.head()
    }

    fn read(&self, after: u64, limit: usize) -> LedgerFuture<Page> {
        self.0.ledger.read(after, limit)
    }

    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>> {
        self.0.ledger.last_ended(id)
    }

    fn ended(
        &self,
        filter: &SessionFilter,
        now: Timestamp,
        after: u64,
        limit: usize,
    ) -> LedgerFuture<Vec<SessionRecord>> {
        self.0.ledger.ended(filter, now, after, limit)
    }

    fn attach(&self, plugin: &str) -> LedgerFuture<Position> {
        self.0.ledger.attach(plugin)
    }

    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()> {
        self.0.ledger.advance(plugin, progress)
    }

    fn dead_letters(&self, plugin: &str, after: u64, limit: usize) -> LedgerFuture<Vec<Parked>> {
        self.0.ledger.dead_letters(plugin, after, limit)
    }

    fn detach_others(&self, configured: &[Arc<str>], now: Timestamp) -> LedgerFuture<()> {
        self.0.ledger.detach_others(configured, now)
    }
}

/// The starts and the ends of so many sessions, as a supervisor makes them.
async fn events(sessions: usize) -> (Vec<Event>, Vec<Event>) {
    let capturing = Capturing::default();
    let supervisor = SessionSupervisor::builder()
        .cap(Duration::from_secs(60))
        .ledger(capturing.clone())
        .plugin(PluginSpec::per_session("none", async |_| Ok(())))
        .start()
        .await
        .expect("it starts");
    for n in 0..sessions {
        // Random, as most programs have them.
        let random = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id = SessionId::new(format!("session-{random:028x}")).expect("a valid id");
        supervisor
            .started(NewSession::new(id))
            .await
            .expect("it starts");
    }
    supervisor
        .shutdown(Shutdown::now())
        .await
        .expect("a report");
    let mut events = std::mem::take(&mut *capturing.0.events.lock().expect("nobody panicked"));
    let ends = events.split_off(sessions);
    (events, ends)
}

fn open(directory: &Path) -> SqliteLedger {
    SqliteLedger::open(directory.join("ledger.db"), Durability::Power).expect("it opens")
}

async fn append(ledger: &SqliteLedger, events: Vec<Event>) {
    let amended = None;
    let appended = ledger.append(Append { events, amended });
    appended.await.expect("it is recorded");
}

async fn append_in_steps(ledger: &SqliteLedger, events: &[Event]) {
    for step in events.chunks(STEP) {
        append(ledger, step.to_vec()).await;
    }
}

async fn append_singly(ledger: &SqliteLedger, events: &[Event]) {
    let ask = async |events: &[Event]| {
        for event in events {
            append(ledger, vec![event.clone()]).await;
        }
    };
    join_all(events.chunks(events.len().div_ceil(ASKERS)).map(ask)).await;
}

/// A start or an end as columns.
struct Row {
    id: String,
    incarnation: Vec<u8>,
    json: String,
    at: i64,
    reason: Option<&'static str>,
}

impl Row {
    fn of(event: &Event) -> Self {
        let session = event.session().expect("an event of a session");
        Self {
            id: session.id.to_string(),
            incarnation: session.incarnation.as_uuid().as_bytes().to_vec(),
            json: serde_json::to_string(session).expect("it is JSON"),
            at: event.timestamp().as_millisecond(),
            reason: event.how_ended().map(|end| end.reason.as_str()),
        }
    }
}

/// A database with the ledger's schema and settings.
fn bare(directory: &Path) -> Connection {
    let connection = Connection::open(directory.join("bare.db")).expect("it opens");
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;
             PRAGMA wal_autocheckpoint = 4096;",
        )
        .expect("it is set");
    connection
        .execute_batch(include_str!("../src/ledger/sqlite/schema.sql"))
        .expect("it is made");
    connection
}

fn insert(connection: &Connection, rows: &[Row], first: usize, step: usize) {
    let prepare = |sql| connection.prepare(sql).expect("it is prepared");
    let mut start = prepare("INSERT INTO starts VALUES (?, ?, 1, ?, ?, ?)");
    let mut open = prepare("INSERT INTO open VALUES (?)");
    let mut close = prepare("DELETE FROM open WHERE start_seq = ?");
    let mut end = prepare("INSERT INTO ends VALUES (?, ?, ?, NULL, 1, ?, NULL)");
    let mut seq = first;
    for step in rows.chunks(step) {
        connection.execute_batch("BEGIN").expect("it begins");
        for row in step {
            seq += 1;
            match row.reason {
                None => {
                    start
                        .execute(params![
                            seq as i64,
                            row.at,
                            row.id,
                            row.incarnation,
                            row.json
                        ])
                        .and_then(|_| open.execute([seq as i64]))
                        .expect("it is written");
                }
                Some(reason) => {
                    let start_seq = (seq - rows.len()) as i64;
                    close
                        .execute([start_seq])
                        .and_then(|_| end.execute(params![seq as i64, start_seq, row.at, reason]))
                        .expect("it is written");
                }
            }
        }
        connection.execute_batch("COMMIT").expect("it is committed");
    }
}

/// The sum of what `measured` took in each of `rounds`, each in a directory of its own.
fn sum(rounds: u64, measured: impl Fn(&Path) -> Duration) -> Duration {
    (0..rounds)
        .map(|_| {
            let directory = tempfile::tempdir().expect("a directory");
            measured(directory.path())
        })
        .sum()
}

fn benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (starts, ends) = runtime.block_on(events(sessions()));
    let start_rows: Vec<_> = starts.iter().map(Row::of).collect();
    let end_rows: Vec<_> = ends.iter().map(Row::of).collect();
    // Any will do: the run that begins with the recovery.
    let instance: InstanceId = starts[0].instance();
    let timed = |work: &dyn Fn()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };

    let mut group = criterion.benchmark_group("ledger");
    group.sample_size(10);
    group.throughput(Throughput::Elements(starts.len() as u64));
    let ledger = |directory: &Path, ends_too: bool| {
        let ledger = open(directory);
        let starting = || runtime.block_on(append_in_steps(&ledger, &starts));
        let ending = || runtime.block_on(append_in_steps(&ledger, &ends));
        let took = timed(&starting);
        let took = if ends_too { timed(&ending) } else { took };
        ledger.close();
        took
    };
    let rusqlite = |directory: &Path, ends_too: bool| {
        let connection = bare(directory);
        let took = timed(&|| insert(&connection, &start_rows, 0, STEP));
        match ends_too {
            true => timed(&|| insert(&connection, &end_rows, start_rows.len(), STEP)),
            false => took,
        }
    };
    for (what, ends_too) in [("starts", false), ("ends", true)] {
        group.bench_function(format!("{what} in steps/ledger"), |bencher| {
            bencher.iter_custom(|rounds| sum(rounds, |directory| ledger(directory, ends_too)));
        });
        group.bench_function(format!("{what} in steps/rusqlite"), |bencher| {
            bencher.iter_custom(|rounds| sum(rounds, |directory| rusqlite(directory, ends_too)));
        });
    }
    group.bench_function("starts singly/ledger", |bencher| {
        bencher.iter_custom(|rounds| {
            sum(rounds, |directory| {
                let ledger = open(directory);
                let took = timed(&|| runtime.block_on(append_singly(&ledger, &starts)));
                ledger.close();
                took
            })
        });
    });
    group.bench_function("starts singly/rusqlite", |bencher| {
        bencher.iter_custom(|rounds| {
            sum(rounds, |directory| {
                let connection = bare(directory);
                timed(&|| insert(&connection, &start_rows, 0, ASKERS))
            })
        });
    });
    group.bench_function("recovery/ledger", |bencher| {
        bencher.iter_custom(|rounds| {
            sum(rounds, |directory| {
                let ledger = open(directory);
                runtime.block_on(append_in_steps(&ledger, &starts));
                ledger.close();
                timed(&|| {
                    let ledger = open(directory);
                    let recovered = runtime.block_on(ledger.recover(instance, Timestamp::now()));
                    let found = recovered.expect("it is recorded").found;
                    assert_eq!(found, starts.len() as u64);
                })
            })
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
