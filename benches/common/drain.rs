//! A drain, from the request for the shutdown to its report, and the same chunks through bare
//! channels: what the machine gives.

use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::join_all;
use session_supervisor::{
    Builder, Deliver, Event, Hook, NewSession, Outcome, PluginSpec, SessionId, SessionSupervisor,
    Shutdown,
};
use tokio::sync::mpsc;

use super::CHUNK;

/// How many starts are asked for at once: enough that a commit serves very many.
const STARTS_AT_ONCE: usize = 4096;

/// How many chunks a bare channel holds.
const CHANNEL: usize = 16;

/// What the plugins were told, together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<(usize, Option<Instant>)>>);

impl Told {
    /// So many ends more.
    fn add(&self, ends: usize) {
        let mut told = self.0.lock().expect("no panic");
        *told = (told.0 + ends, Some(Instant::now()));
    }

    /// When the last of `ends` was told.
    fn last_of(&self, ends: usize) -> Instant {
        let (told, last) = *self.0.lock().expect("no panic");
        assert_eq!(told, ends);
        last.expect("an end")
    }
}

/// A plugin's actor that does nothing with what it is told.
struct TakesAll(Told);

impl Actor for TakesAll {
    type Context = Context<Self>;
}

impl Handler<Deliver> for TakesAll {
    type Result = anyhow::Result<()>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        let is_end = |event: &&Event| event.hook() == Hook::SessionEnd;
        if delivery.events.first().as_ref().is_some_and(is_end) {
            self.0.add(black_box(delivery.events.len()));
        }
        Ok(())
    }
}

/// An id of 36 characters, as random ones have.
pub(crate) fn id(n: usize) -> SessionId {
    SessionId::new(format!("session-{n:028}")).expect("a valid id")
}

/// A supervisor to measure, whose drain is not cut however long it takes.
pub(crate) fn uncut() -> Builder {
    SessionSupervisor::builder().cap(Duration::from_secs(120))
}

/// A supervisor, and what its plugins were told.
pub(crate) struct Holding {
    supervisor: SessionSupervisor,
    told: Told,
    /// How many sessions it holds, for each plugin.
    ends: usize,
}

/// A supervisor that holds `sessions` sessions, with so many plugins that know all of them.
pub(crate) async fn holding(mut builder: Builder, sessions: usize, plugins: usize) -> Holding {
    let told = Told::default();
    for n in 0..plugins {
        let told = told.clone();
        let plugin = PluginSpec::actor(format!("plugin-{n}"), move || TakesAll(told.clone()));
        builder = builder.plugin(plugin);
    }
    let supervisor = builder.start().await.expect("it starts");
    start(&supervisor, sessions, STARTS_AT_ONCE).await;
    loop {
        let plugins = supervisor.plugins().await.expect("the bus runs");
        if plugins.iter().all(|plugin| plugin.owed == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ends = sessions * plugins;
    Holding {
        supervisor,
        told,
        ends,
    }
}

/// Starts `sessions` sessions, `at_once` at a time.
pub(crate) async fn start(supervisor: &SessionSupervisor, sessions: usize, at_once: usize) {
    for first in (0..sessions).step_by(at_once) {
        let chunk = first..sessions.min(first + at_once);
        let starts = chunk.map(|n| supervisor.started(NewSession::new(id(n))));
        for started in join_all(starts).await {
            started.expect("it starts");
        }
    }
}

/// How long a drain took, from the request for the shutdown on.
pub(crate) struct Drained {
    /// Until the last plugin was told of the last end.
    pub(crate) told: Duration,
    /// Until there was a report, and nothing of the supervisor's was left.
    pub(crate) reported: Duration,
}

impl Holding {
    /// Stops it. None where the ledger has completed no write for so long that the supervisor went on
    /// without it: what that took says nothing.
    pub(crate) async fn drain(self) -> Option<Drained> {
        let began = Instant::now();
        let report = self.supervisor.shutdown(Shutdown::now()).await;
        let reported = began.elapsed();
        let report = report.expect("a report");
        if report.outcome == Outcome::Lost {
            return None;
        }
        assert_eq!(report.outcome, Outcome::Clean);
        assert_eq!(report.drain.delivered, self.ends as u64);
        let told = self.told.last_of(self.ends) - began;
        Some(Drained { told, reported })
    }
}

/// How long the drain of a supervisor takes that keeps `sessions` in memory, and has so many plugins.
pub(crate) async fn drain(sessions: usize, plugins: usize) -> Drained {
    let holding = holding(uncut(), sessions, plugins).await;
    let drained = holding.drain().await;
    drained.expect("a ledger in memory does not stall")
}

/// How long a supervisor takes to stop, which has to tell of so many ends.
pub(crate) async fn stop(supervisor: &SessionSupervisor, ends: usize) -> Duration {
    let began = Instant::now();
    let report = supervisor.shutdown(Shutdown::now()).await;
    let took = began.elapsed();
    let report = report.expect("a report");
    assert_eq!(report.outcome, Outcome::Clean);
    assert_eq!(report.drain.delivered, ends as u64);
    took
}

/// What bare channels and the peers are given in place of sessions.
pub(crate) fn items(count: usize) -> Arc<[Arc<str>]> {
    (0..count).map(|n| id(n).as_str().into()).collect()
}

/// How long it takes to give all `items`, in the chunks of a drain, to each of `plugins` threads that
/// wait for them.
pub(crate) async fn bare_channels(items: &[Arc<str>], plugins: usize) -> Duration {
    let (done, all_done) = sync_channel(plugins);
    let channels: Vec<_> = (0..plugins)
        .map(|_| {
            let (sender, mut receiver) = mpsc::channel::<Arc<[Arc<str>]>>(CHANNEL);
            let done = done.clone();
            thread::spawn(move || {
                while let Some(chunk) = receiver.blocking_recv() {
                    black_box(chunk.len());
                }
                let _ = done.send(());
            });
            sender
        })
        .collect();
    drop(done);
    let began = Instant::now();
    for chunk in items.chunks(CHUNK) {
        let chunk: Arc<[Arc<str>]> = chunk.into();
        for channel in &channels {
            channel.send(Arc::clone(&chunk)).await.expect("it listens");
        }
    }
    drop(channels);
    while all_done.recv().is_ok() {}
    began.elapsed()
}
