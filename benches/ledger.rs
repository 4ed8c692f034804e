//! What the durable ledger takes per event, beside bare `rusqlite` that writes the same rows in the
//! same transactions, and beside a bare file to which the same text is appended and which is synced
//! as often: what SQLite gives, and the disk. How fast that syncs is printed before and after.
//!
//! | name | is |
//! |---|---|
//! | `starts`, `ends` | in steps of 4,096, as a drain appends them |
//! | `singly` | starts one by one from 64 askers at a time, which share commits |
//! | `acknowledge` | four plugins that each move their cursor, again and again, and wait until it is recorded |
//! | `recover` | a process died with all sessions active: from the opening of the file to the last end |

mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use jiff::Timestamp;
use session_supervisor::{
    Append, Durability, Event, InstanceId, Ledger, LedgerFuture, MemoryLedger, Page, Parked,
    Position, Progress, SessionFilter, SessionId, SessionRecord, SqliteLedger,
};
use tokio::runtime::Runtime;

use self::common::bare::{Bare, Row};
use self::common::drain::{holding, uncut};
use self::common::{CHUNK, PLUGINS, bench, disk, group, sizes};

/// How many askers wait for their own start at a time.
const ASKERS: usize = 64;

/// Of how many sessions there is one acknowledgement to record: each waits for the disk.
const SESSIONS_PER_ACKNOWLEDGEMENT: usize = 20;

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

/// What happens to so many sessions.
struct History {
    starts: Vec<Event>,
    ends: Vec<Event>,
    /// The starts, as rows.
    rows: Vec<Row>,
}

impl History {
    /// The events as a supervisor makes them.
    async fn of(sessions: usize) -> Self {
        let capturing = Capturing::default();
        let builder = uncut().ledger(capturing.clone());
        // With a plugin, since ends are told to somebody.
        holding(builder, sessions, 1).await.drain().await;
        let mut starts = std::mem::take(&mut *capturing.0.events.lock().expect("nobody panicked"));
        let ends = starts.split_off(sessions);
        let sessions = starts.iter().filter_map(Event::session);
        let rows = sessions.map(|session| Row::of(session)).collect();
        Self { starts, ends, rows }
    }
}

/// A ledger whose files are closed when it is dropped, so that no round pays for the one before.
struct Opened(Option<SqliteLedger>);

impl Deref for Opened {
    type Target = SqliteLedger;

    fn deref(&self) -> &SqliteLedger {
        self.0.as_ref().expect("it is not dropped")
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(ledger) = self.0.take() {
            ledger.close();
        }
    }
}

fn open(directory: &Path) -> Opened {
    let ledger = SqliteLedger::open(directory.join("ledger.db"), Durability::Power);
    Opened(Some(ledger.expect("it opens")))
}

async fn append(ledger: &SqliteLedger, events: Vec<Event>) {
    let appended = ledger.append(Append::from(events));
    appended.await.expect("it is recorded");
}

async fn append_in_steps(ledger: &SqliteLedger, events: &[Event]) {
    for step in events.chunks(CHUNK) {
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

/// Each of the plugins moves its cursor `moves` times.
async fn acknowledge(ledger: &SqliteLedger, moves: usize) {
    let plugin = async |n: usize| {
        let name = format!("plugin-{n}");
        for cursor in 1..=moves as u64 {
            let mut progress = Progress::default();
            progress.cursor = Some(cursor);
            let advanced = ledger.advance(&name, progress);
            advanced.await.expect("it is recorded");
        }
    };
    join_all((0..PLUGINS).map(plugin)).await;
}

/// How long `work` takes in a directory of its own that was made ready by `setup`. What either has
/// open is closed afterwards.
fn timed<T, D>(setup: impl FnOnce(&Path) -> T, work: impl FnOnce(&Path, &T) -> D) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = setup(directory.path());
    let began = Instant::now();
    let done = work(directory.path(), &ready);
    let took = began.elapsed();
    drop((done, ready));
    took
}

/// A file that is appended to, a group of lines at a time.
fn append_lines(path: &Path, lines: &[String], group: usize) {
    let file = File::options().create(true).append(true).open(path);
    let mut file = file.expect("a file");
    for group in lines.chunks(group) {
        file.write_all(group.concat().as_bytes())
            .and_then(|()| file.sync_data())
            .expect("it is written");
    }
}

/// Reads what has started and not ended, and appends the ends.
fn recover_lines(path: &Path) {
    let file = BufReader::new(File::open(path).expect("a file"));
    let mut open = std::collections::HashSet::new();
    for line in file.lines() {
        let line = line.expect("a line");
        match line.split_once(' ') {
            Some(("start", rest)) => open.insert(rest.split(' ').next().map(str::to_owned)),
            _ => open.remove(&line.split(' ').nth(1).map(str::to_owned)),
        };
    }
    let end = |id: &Option<String>| format!("end {} crash\n", id.as_deref().unwrap_or_default());
    let ends: Vec<_> = open.iter().map(end).collect();
    append_lines(path, &ends, ends.len().max(1));
}

fn appends(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    disk::print_fdatasync();
    let mut group = group(criterion, "ledger");
    for size in sizes(&[10_000], &[10_000, 100_000, 1_000_000]) {
        let History { starts, ends, rows } = runtime.block_on(History::of(size));
        let start_line = |row: &Row| format!("start {} {}\n", row.id, row.json);
        let start_lines: Vec<_> = rows.iter().map(start_line).collect();
        let end_line = |row: &Row| format!("end {} shutdown {}\n", row.id, row.at);
        let end_lines: Vec<_> = rows.iter().map(end_line).collect();
        let with_starts = |directory: &Path| {
            let ledger = open(directory);
            runtime.block_on(append_in_steps(&ledger, &starts));
            ledger
        };
        let bare_with_starts = |directory: &Path| {
            let bare = Bare::create(directory, PLUGINS);
            bare.record_starts(&rows, CHUNK);
            bare
        };

        bench(&mut group, "starts-ledger", size, || {
            timed(open, |_, ledger| {
                runtime.block_on(append_in_steps(ledger, &starts));
            })
        });
        bench(&mut group, "starts-rusqlite", size, || {
            let setup = |directory: &Path| Bare::create(directory, 0);
            timed(setup, |_, bare| bare.record_starts(&rows, CHUNK))
        });
        bench(&mut group, "starts-file", size, || {
            let append = |directory: &Path, (): &()| {
                append_lines(&directory.join("lines"), &start_lines, CHUNK);
            };
            timed(|_| (), append)
        });
        bench(&mut group, "ends-ledger", size, || {
            timed(with_starts, |_, ledger| {
                runtime.block_on(append_in_steps(ledger, &ends));
            })
        });
        bench(&mut group, "ends-rusqlite", size, || {
            timed(bare_with_starts, |_, bare| {
                bare.record_ends(&rows, CHUNK, 0);
            })
        });
        bench(&mut group, "ends-file", size, || {
            let append = |directory: &Path, (): &()| {
                append_lines(&directory.join("lines"), &end_lines, CHUNK);
            };
            timed(|_| (), append)
        });
        bench(&mut group, "singly-ledger", size, || {
            timed(open, |_, ledger| {
                runtime.block_on(append_singly(ledger, &starts));
            })
        });
        bench(&mut group, "singly-rusqlite", size, || {
            let setup = |directory: &Path| Bare::create(directory, 0);
            timed(setup, |_, bare| bare.record_starts(&rows, ASKERS))
        });
        bench(&mut group, "singly-file", size, || {
            let append = |directory: &Path, (): &()| {
                append_lines(&directory.join("lines"), &start_lines, ASKERS);
            };
            timed(|_| (), append)
        });

        let moves = size.div_ceil(SESSIONS_PER_ACKNOWLEDGEMENT * PLUGINS);
        bench(&mut group, "acknowledge-ledger", moves * PLUGINS, || {
            let setup = |directory: &Path| {
                let ledger = with_starts(directory);
                for n in 0..PLUGINS {
                    let attached = ledger.attach(&format!("plugin-{n}"));
                    runtime.block_on(attached).expect("it is attached");
                }
                ledger
            };
            timed(setup, |_, ledger| {
                runtime.block_on(acknowledge(ledger, moves));
            })
        });
        bench(&mut group, "acknowledge-rusqlite", moves * PLUGINS, || {
            timed(bare_with_starts, |_, bare| {
                for cursor in 1..=moves {
                    let advance = |plugin| bare.advance(plugin, cursor);
                    bare.transaction(|| (1..=PLUGINS).for_each(advance));
                }
            })
        });
        let cursors: Vec<_> = (0..moves * PLUGINS)
            .map(|n| format!("plugin-{} {}\n", n % PLUGINS, n / PLUGINS))
            .collect();
        bench(&mut group, "acknowledge-file", moves * PLUGINS, || {
            let append = |directory: &Path, (): &()| {
                append_lines(&directory.join("lines"), &cursors, PLUGINS);
            };
            timed(|_| (), append)
        });

        // Any will do: the run that begins with the recovery.
        let instance: InstanceId = starts[0].instance();
        bench(&mut group, "recover-ledger", size, || {
            let setup = |directory: &Path| drop(with_starts(directory));
            timed(setup, |directory, ()| {
                let ledger = open(directory);
                let recovered = ledger.recover(instance, Timestamp::now());
                let recovery = runtime.block_on(recovered).expect("it is recorded");
                assert_eq!(recovery.found, size as u64);
                ledger
            })
        });
        bench(&mut group, "recover-rusqlite", size, || {
            let setup = |directory: &Path| drop(bare_with_starts(directory));
            timed(setup, |directory, ()| {
                let bare = Bare::open(&directory.join("bare.db"));
                assert_eq!(bare.end_open(Timestamp::now().as_millisecond()), size);
                bare
            })
        });
        bench(&mut group, "recover-file", size, || {
            let setup = |directory: &Path| {
                append_lines(&directory.join("lines"), &start_lines, CHUNK);
            };
            timed(setup, |directory, ()| {
                recover_lines(&directory.join("lines"));
            })
        });
    }
    group.finish();
    disk::print_fdatasync();
}

criterion_group!(ledger, appends);
criterion_main!(ledger);
