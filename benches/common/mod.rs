//! What the benches share: how much they measure, and what they measure beside what.
//!
//! | variable | |
//! |---|---|
//! | `BENCH=full` | measures the large sizes too, up to a million sessions; without it a bench takes minutes at the most |
//! | `BENCH_SESSIONS=11,1000` | measures these sizes, whatever `BENCH` says |
//!
//! `cargo test --bench NAME` and `cargo bench -- --test` measure nothing: each bench shows once, with its
//! smallest size, that it works.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod bare;
pub(crate) mod disk;
pub(crate) mod drain;

use std::env;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};

/// How many plugins are told, unless a bench says otherwise.
pub(crate) const PLUGINS: usize = 4;

/// The largest batch of an in-process plugin, and how many ends a drain records in one step.
pub(crate) const CHUNK: usize = 4096;

/// Whether the bench is only to be seen working.
pub(crate) fn is_smoke_test() -> bool {
    let is_given = |name: &str| env::args().any(|argument| argument == name);
    is_given("--test") || !is_given("--bench")
}

/// Whether the large sizes are asked for.
pub(crate) fn is_full() -> bool {
    env::var("BENCH").is_ok_and(|it| it == "full")
}

/// The numbers of sessions to measure with: of `quick` and `full`, which go from the smallest to the
/// largest, the one that was asked for.
pub(crate) fn sizes(quick: &[usize], full: &[usize]) -> Vec<usize> {
    if let Ok(list) = env::var("BENCH_SESSIONS") {
        let sizes = list.split(',').map(|size| size.trim().parse());
        return sizes
            .collect::<Result<_, _>>()
            .expect("BENCH_SESSIONS has numbers with commas between them");
    }
    match (is_smoke_test(), is_full()) {
        (true, _) => quick[..1].to_vec(),
        (false, true) => full.to_vec(),
        (false, false) => quick.to_vec(),
    }
}

/// A group of benchmarks that need a setup for each round, which would be repeated very often
/// otherwise.
pub(crate) fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    group
}

/// Measures `round`, which does its own setup and answers how long the rest took, with `size`
/// sessions.
pub(crate) fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    size: usize,
    mut round: impl FnMut() -> Duration,
) {
    group.throughput(Throughput::Elements(size as u64));
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| round()).sum());
    });
}
