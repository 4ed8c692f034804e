//! The latency of a drain: from the request for the shutdown to its report.
//!
//! Four in-process plugins that take everything, the ledger in memory, threads as in production.
//! Beside each size, the same chunks through bare channels to four threads: what the machine gives.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use session_supervisor::{
    Deliver, NewSession, Outcome, PluginSpec, SessionId, SessionSupervisor, Shutdown,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const PLUGINS: usize = 4;

/// The largest batch of an in-process plugin, unless set.
const CHUNK: usize = 4096;

const SIZES: [usize; 3] = [11, 1_000, 10_000];

struct TakesAll;

impl Actor for TakesAll {
    type Context = Context<Self>;
}

impl Handler<Deliver> for TakesAll {
    type Result = anyhow::Result<()>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        black_box(delivery.events.len());
        Ok(())
    }
}

/// A supervisor that holds `sessions` sessions, all plugins told of their starts.
async fn holding(sessions: usize) -> SessionSupervisor {
    let mut builder = SessionSupervisor::builder().cap(Duration::from_secs(60));
    for n in 0..PLUGINS {
        builder = builder.plugin(PluginSpec::actor(format!("plugin-{n}"), || TakesAll));
    }
    let supervisor = builder.start().await.expect("it starts");
    let ids = (0..sessions).map(|n| SessionId::new(format!("session-{n:028}")));
    for id in ids {
        let new = NewSession::new(id.expect("a valid id"));
        supervisor.started(new).await.expect("it starts");
    }
    while supervisor
        .plugins()
        .await
        .expect("the bus runs")
        .iter()
        .any(|plugin| plugin.owed > 0)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    supervisor
}

async fn drain(sessions: usize) -> Duration {
    let supervisor = holding(sessions).await;
    let began = Instant::now();
    let report = supervisor
        .shutdown(Shutdown::now())
        .await
        .expect("a report");
    let took = began.elapsed();
    assert_eq!(report.outcome, Outcome::Clean);
    assert_eq!(report.drain.delivered, (sessions * PLUGINS) as u64);
    took
}

/// The same number of items in the same chunks, each chunk to each of four threads.
async fn bare_channels(sessions: usize) -> Duration {
    let items: Vec<Arc<str>> = (0..sessions).map(|n| n.to_string().into()).collect();
    let began = Instant::now();
    let (done, mut all_done) = mpsc::channel(PLUGINS);
    let mut channels = Vec::new();
    for _ in 0..PLUGINS {
        let (sender, mut receiver) = mpsc::channel::<Arc<[Arc<str>]>>(16);
        channels.push(sender);
        let done = done.clone();
        std::thread::spawn(move || {
            while let Some(chunk) = receiver.blocking_recv() {
                black_box(chunk.len());
            }
            let _ = done.blocking_send(());
        });
    }
    for chunk in items.chunks(CHUNK) {
        let chunk: Arc<[Arc<str>]> = chunk.into();
        for channel in &channels {
            channel.send(Arc::clone(&chunk)).await.expect("it listens");
        }
    }
    drop((channels, done));
    while all_done.recv().await.is_some() {}
    began.elapsed()
}

fn benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("drain");
    group.sample_size(10);
    for size in SIZES {
        group.throughput(Throughput::Elements((size * PLUGINS) as u64));
        group.bench_with_input(
            BenchmarkId::new("supervisor", size),
            &size,
            |bencher, &size| {
                bencher
                    .iter_custom(|rounds| (0..rounds).map(|_| runtime.block_on(drain(size))).sum());
            },
        );
        group.bench_with_input(
            BenchmarkId::new("channels", size),
            &size,
            |bencher, &size| {
                bencher.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|_| runtime.block_on(bare_channels(size)))
                        .sum()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
