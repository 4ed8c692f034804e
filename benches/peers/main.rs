//! The drain of the bench `drain` and what others make of it: every one of four plugins, which do
//! nothing, is told of the end of every session, and the last has been told in the end.
//!
//! | name | is |
//! |---|---|
//! | `supervisor` | ours, with all that it does for it: records, order, acknowledgements, a report |
//! | `channels` | a bare channel to a thread for each plugin, in chunks of 4,096: what the machine gives |
//! | `task-tracker` | a task of tokio-util's `TaskTracker` for each pair of session and plugin |
//! | `kameo`, `ractor` | an actor for each plugin, a message for each pair |
//! | `task-tracker-chunks`, `kameo-chunks`, `ractor-chunks` | the same in chunks of 4,096 |
//!
//! The peers keep nothing of what they tell: a pair that failed would be lost. `benches/plot.py` draws
//! what comes out.

#[path = "../common/mod.rs"]
mod common;
mod with_kameo;
mod with_ractor;
mod with_task_tracker;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use self::common::drain::{bare_channels, drain, items};
use self::common::{PLUGINS, bench, group, sizes};

/// What stands for a session whose end is told.
type Item = Arc<str>;

/// What stands for the sessions that end.
type Items = Arc<[Item]>;

/// What an actor is told.
enum Message {
    Pair(Item),
    Chunk(Items),
}

/// A plugin that does nothing, and says when it was told of all that it has to be told of.
struct Plugin {
    left: usize,
    over: Option<oneshot::Sender<()>>,
}

impl Plugin {
    /// As many plugins as there are to be told of so many sessions; each is over with its receiver.
    fn all(sessions: usize) -> impl Iterator<Item = (Self, oneshot::Receiver<()>)> {
        (0..PLUGINS).map(move |_| {
            let (over, is_over) = oneshot::channel();
            let plugin = Self {
                left: sessions,
                over: Some(over),
            };
            (plugin, is_over)
        })
    }

    fn told(&mut self, message: &Message) {
        self.left -= match message {
            Message::Pair(item) => {
                black_box(item.len());
                1
            }
            Message::Chunk(items) => black_box(items.len()),
        };
        if self.left == 0
            && let Some(over) = self.over.take()
        {
            let _ = over.send(());
        }
    }
}

/// Whether each pair is a message, or each chunk.
#[derive(Debug, Clone, Copy)]
enum Told {
    PerPair,
    InChunks,
}

/// How long a peer takes to tell of all items.
type PeerRound = std::pin::Pin<Box<dyn Future<Output = Duration> + Send>>;

/// What it is called, how it tells, and a round of it.
type Peer = (&'static str, Told, fn(Items, Told) -> PeerRound);

const PEERS: [Peer; 6] = [
    ("task-tracker", Told::PerPair, task_tracker),
    ("task-tracker-chunks", Told::InChunks, task_tracker),
    ("kameo", Told::PerPair, kameo),
    ("kameo-chunks", Told::InChunks, kameo),
    ("ractor", Told::PerPair, ractor),
    ("ractor-chunks", Told::InChunks, ractor),
];

fn task_tracker(items: Items, told: Told) -> PeerRound {
    Box::pin(with_task_tracker::round(items, told))
}

fn kameo(items: Items, told: Told) -> PeerRound {
    Box::pin(with_kameo::round(items, told))
}

fn ractor(items: Items, told: Told) -> PeerRound {
    Box::pin(with_ractor::round(items, told))
}

fn benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    // On a thread of the runtime, where tasks and messages are on their way sooner.
    let run = |peer: PeerRound| runtime.block_on(runtime.spawn(peer)).expect("no panic");
    let quick = [11, 1_000, 10_000];
    let full = [11, 100, 1_000, 10_000, 100_000, 1_000_000];
    let mut group = group(criterion, "peers");
    for size in sizes(&quick, &full) {
        bench(&mut group, "supervisor", size, || {
            runtime.block_on(drain(size, PLUGINS)).told
        });
        let items = items(size);
        bench(&mut group, "channels", size, || {
            runtime.block_on(bare_channels(&items, PLUGINS))
        });
        for (name, told, round) in PEERS {
            bench(&mut group, name, size, || {
                run(round(Arc::clone(&items), told))
            });
        }
    }
    group.finish();
}

criterion_group!(peers, benches);
criterion_main!(peers);
