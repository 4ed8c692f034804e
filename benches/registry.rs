//! What the registry takes per message, each acknowledged, with 1,024 under way.
//!
//! | name | is |
//! |---|---|
//! | `handle` | a supervisor without plugins, the ledger in memory |
//! | `handle-sqlite` | the same, the ledger in a file: start and end only |
//! | `actor` | an actor on a thread of its own with a map: what the platform gives |
//! | `map` | a map on the same thread |
//! | `rusqlite` | the ledger's rows written by bare `rusqlite`, 1,024 in a transaction |

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::stream::{self, StreamExt as _};
use session_supervisor::{
    Builder, Durability, EndReason, Ended, NewSession, SessionId, SessionSupervisor, Shutdown,
    SqliteLedger, Touch,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::common::bare::{Bare, Row};
use self::common::drain::{id, start, uncut};
use self::common::{bench, disk, group, sizes};

/// How many messages wait for their answer.
const AT_ONCE: usize = 1024;

/// Asks about each of the sessions, as `AT_ONCE` callers do of whom each asks for the next when it has its
/// answer. How long that takes.
async fn all<R: Future>(ids: &[SessionId], ask: impl Fn(SessionId) -> R) -> Duration {
    let began = Instant::now();
    let answers = stream::iter(ids.iter().cloned().map(ask)).buffer_unordered(AT_ONCE);
    answers.for_each(|_| async {}).await;
    began.elapsed()
}

/// How long `work` takes.
fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    let done = work();
    let took = began.elapsed();
    drop(done);
    took
}

async fn start_all(supervisor: &SessionSupervisor, ids: &[SessionId]) -> Duration {
    let ask = |id| async move {
        let started = supervisor.started(NewSession::new(id)).await;
        started.expect("it starts")
    };
    all(ids, ask).await
}

async fn end_all(supervisor: &SessionSupervisor, ids: &[SessionId]) -> Duration {
    let ask = |id| async move {
        let ended = supervisor.ended(Ended::new(id, EndReason::Closed)).await;
        ended.expect("it ends")
    };
    all(ids, ask).await
}

async fn touch_all(supervisor: &SessionSupervisor, ids: &[SessionId]) -> Duration {
    let ask = |id| async move {
        let touched = supervisor.touch(Touch::new(id)).await;
        touched.expect("it is active");
    };
    all(ids, ask).await
}

/// How long all starts take, and all ends after them.
async fn start_and_end(builder: Builder, ids: &[SessionId]) -> [Duration; 2] {
    let supervisor = builder.start().await.expect("it starts");
    let started = start_all(&supervisor, ids).await;
    let ended = end_all(&supervisor, ids).await;
    supervisor
        .shutdown(Shutdown::now())
        .await
        .expect("a report");
    [started, ended]
}

fn durable() -> (TempDir, Builder) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger.db");
    let ledger = SqliteLedger::open(path, Durability::Power).expect("it opens");
    (directory, uncut().ledger(ledger))
}

/// When the session was last active.
type Table = HashMap<SessionId, (Arc<SessionId>, Instant)>;

fn insert(table: &mut Table, id: SessionId) {
    let session = Arc::new(id.clone());
    table.insert(id, (session, Instant::now()));
}

fn touch(table: &mut Table, id: &SessionId) {
    if let Some((_, touched)) = table.get_mut(id) {
        *touched = Instant::now();
    }
}

fn snapshot(table: &Table) -> Vec<Arc<SessionId>> {
    let sessions = table.values();
    sessions.map(|(session, _)| Arc::clone(session)).collect()
}

/// An actor that has such a table and nothing else to do.
#[derive(Default)]
struct BareRegistry(Table);

#[derive(Message)]
#[rtype(result = "()")]
enum Change {
    Start(SessionId),
    Touch(SessionId),
    End(SessionId),
}

#[derive(Message)]
#[rtype(result = "Vec<Arc<SessionId>>")]
struct Snapshot;

impl Actor for BareRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(4 * AT_ONCE);
    }
}

impl Handler<Change> for BareRegistry {
    type Result = ();

    fn handle(&mut self, change: Change, _: &mut Context<Self>) {
        match change {
            Change::Start(id) => insert(&mut self.0, id),
            Change::Touch(id) => touch(&mut self.0, &id),
            Change::End(id) => {
                self.0.remove(&id);
            }
        }
    }
}

impl Handler<Snapshot> for BareRegistry {
    type Result = Vec<Arc<SessionId>>;

    fn handle(&mut self, _: Snapshot, _: &mut Context<Self>) -> Self::Result {
        snapshot(&self.0)
    }
}

async fn change_all(
    actor: &Addr<BareRegistry>,
    ids: &[SessionId],
    change: impl Fn(SessionId) -> Change,
) -> Duration {
    let ask = |id| {
        let changed = actor.send(change(id));
        async { changed.await.expect("it runs") }
    };
    all(ids, ask).await
}

fn benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let system = System::new();
    let arbiter = system.block_on(async { Arbiter::new() });
    disk::print_fdatasync();
    let mut group = group(criterion, "registry");
    for size in sizes(&[10_000], &[10_000, 100_000, 1_000_000]) {
        let ids: Vec<_> = (0..size).map(id).collect();
        for (index, what) in ["start", "end"].into_iter().enumerate() {
            bench(&mut group, &format!("{what}-handle"), size, || {
                runtime.block_on(start_and_end(uncut(), &ids))[index]
            });
            bench(&mut group, &format!("{what}-handle-sqlite"), size, || {
                let (_directory, builder) = durable();
                runtime.block_on(start_and_end(builder, &ids))[index]
            });
            bench(&mut group, &format!("{what}-actor"), size, || {
                let actor =
                    BareRegistry::start_in_arbiter(&arbiter.handle(), |_| BareRegistry::default());
                let started = runtime.block_on(change_all(&actor, &ids, Change::Start));
                let ended = runtime.block_on(change_all(&actor, &ids, Change::End));
                [started, ended][index]
            });
            bench(&mut group, &format!("{what}-map"), size, || {
                let mut table = Table::new();
                let started = timed(|| ids.iter().for_each(|id| insert(&mut table, id.clone())));
                let ended = timed(|| ids.iter().for_each(|id| drop(table.remove(id))));
                [started, ended][index]
            });
        }

        let supervisor = runtime.block_on(uncut().start()).expect("it starts");
        runtime.block_on(start(&supervisor, size, AT_ONCE));
        let actor = BareRegistry::start_in_arbiter(&arbiter.handle(), |_| BareRegistry::default());
        runtime.block_on(change_all(&actor, &ids, Change::Start));
        let mut table = Table::new();
        ids.iter().for_each(|id| insert(&mut table, id.clone()));
        bench(&mut group, "touch-handle", size, || {
            runtime.block_on(touch_all(&supervisor, &ids))
        });
        bench(&mut group, "touch-actor", size, || {
            runtime.block_on(change_all(&actor, &ids, Change::Touch))
        });
        bench(&mut group, "touch-map", size, || {
            timed(|| ids.iter().for_each(|id| touch(&mut table, id)))
        });
        bench(&mut group, "snapshot-handle", size, || {
            timed(|| runtime.block_on(supervisor.snapshot()).expect("it runs"))
        });
        bench(&mut group, "snapshot-actor", size, || {
            timed(|| runtime.block_on(actor.send(Snapshot)).expect("it runs"))
        });
        bench(&mut group, "snapshot-map", size, || {
            timed(|| snapshot(&table))
        });

        let rows: Vec<_> = runtime
            .block_on(supervisor.snapshot())
            .expect("it runs")
            .iter()
            .map(|session| Row::of(session))
            .collect();
        for (index, what) in ["start", "end"].into_iter().enumerate() {
            bench(&mut group, &format!("{what}-rusqlite"), size, || {
                let directory = tempfile::tempdir().expect("a directory");
                let bare = Bare::create(directory.path(), 0);
                let started = timed(|| bare.record_starts(&rows, AT_ONCE));
                let ended = timed(|| bare.record_ends(&rows, AT_ONCE, 0));
                [started, ended][index]
            });
        }
        runtime
            .block_on(supervisor.shutdown(Shutdown::now()))
            .expect("a report");
    }
    group.finish();
    disk::print_fdatasync();
}

criterion_group!(registry, benches);
criterion_main!(registry);
