//! Whatever plugin and ledger do, the bench's checks hold and all is settled in the end.

use std::collections::HashMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::bench::Bench;
use super::plugin::Takes;
use crate::event::{Hook, Hooks};
use crate::plugin::DeliveryPolicy;

#[derive(Debug, Clone, Copy)]
enum Happens {
    /// A session starts, or ends if it is active.
    Toggles(usize),
    Passes(Duration),
    /// An operator puts all dead letters back.
    Redelivers,
    /// The process is killed, and another one begins.
    Dies,
}

#[derive(Debug, Clone)]
struct World {
    happens: Vec<Happens>,
    /// How the plugin takes each event, attempt by attempt; well when this has run out.
    behaviour: Vec<Vec<Takes>>,
    acks_singly: bool,
    call_time: Duration,
    ledger_time: Duration,
    ledger_fails: Vec<bool>,
    hooks: Hooks,
    policy: DeliveryPolicy,
    /// How long each drain may take. After each it all happens again, in a new process.
    drains: Vec<Duration>,
}

fn millis(values: &'static [u64]) -> impl Strategy<Value = Duration> {
    select(values).prop_map(Duration::from_millis)
}

fn policies() -> impl Strategy<Value = DeliveryPolicy> {
    let retry_for = select(&[72 * 3600, 20][..]);
    let policy = (1usize..5, 1usize..4, 1u32..4, retry_for);
    policy.prop_map(
        |(max_batch, max_in_flight, max_attempts, retry_for)| DeliveryPolicy {
            max_batch,
            max_in_flight,
            max_attempts,
            retry_for: Duration::from_secs(retry_for),
            ..DeliveryPolicy::default()
        },
    )
}

fn worlds() -> impl Strategy<Value = World> {
    let happens = prop_oneof![
        3 => (0usize..4).prop_map(Happens::Toggles),
        1 => millis(&[1, 400, 1000, 6000]).prop_map(Happens::Passes),
        1 => Just(Happens::Redelivers),
        1 => Just(Happens::Dies),
    ];
    let takes = select(
        &[
            Takes::Well,
            Takes::Rejects,
            Takes::Fails,
            Takes::Down,
            Takes::Hangs,
            Takes::Panics,
            Takes::Kills,
        ][..],
    );
    let plugin = (
        vec(vec(takes, 0..5), 1..12),
        any::<bool>(),
        millis(&[0, 1, 700]),
    );
    let ledger = (millis(&[0, 30, 3000]), vec(any::<bool>(), 0..8));
    let ends_only = Hooks::NONE.with(Hook::SessionEnd);
    let hooks = select(vec![Hooks::SESSION, Hooks::SESSION, ends_only]);
    let drains = vec(millis(&[1, 500, 2000, 20_000]), 0..4);
    let world = (
        vec(happens, 1..30),
        plugin,
        ledger,
        hooks,
        policies(),
        drains,
    );
    world.prop_map(|(happens, plugin, ledger, hooks, policy, drains)| World {
        happens,
        behaviour: plugin.0,
        acks_singly: plugin.1,
        call_time: plugin.2,
        ledger_time: ledger.0,
        ledger_fails: ledger.1,
        hooks,
        policy,
        drains,
    })
}

fn bench(world: &World) -> Bench {
    let mut bench = Bench::with_hooks(world.policy.clone(), world.hooks);
    bench.acks_singly = world.acks_singly;
    bench.call_time = world.call_time;
    bench.ledger_time = world.ledger_time;
    let mut fails = world.ledger_fails.clone();
    bench.ledger_fails = Box::new(move || fails.pop().unwrap_or(false));
    let behaviour = world.behaviour.clone();
    let mut attempts = HashMap::new();
    bench.plugin = Box::new(move |event| {
        let seq = event.recorded_seq();
        let attempt: &mut usize = attempts.entry(seq).or_default();
        *attempt += 1;
        let index = usize::try_from(seq).unwrap() % behaviour.len();
        let takes = behaviour[index].get(*attempt - 1);
        takes.copied().unwrap_or(Takes::Well)
    });
    bench
}

fn live(bench: &mut Bench, happens: &[Happens]) {
    for &happens in happens {
        match happens {
            Happens::Toggles(id) => bench.toggle(&id.to_string()),
            Happens::Passes(time) => bench.wait(time),
            Happens::Redelivers => bench.redeliver(),
            Happens::Dies => bench.die(),
        }
    }
}

/// Drains, and checks the counts. Afterwards the next process begins.
fn drain(bench: &mut Bench, hooks: Hooks, patience: Duration) {
    let ends = bench.end_all();
    let died = bench.died;
    let tally = bench.drain_ends(ends.clone(), patience);
    if bench.died > died {
        return;
    }
    let ends = ends.map_or(0..0, |ends| *ends.start()..*ends.end() + 1);
    let told = ends.clone().filter(|seq| bench.acknowledged.contains(seq));
    let hears_ends = hooks.contains(Hook::SessionEnd);
    assert_eq!(tally.delivered, told.count() as u64, "{tally:?}");
    let sum = tally.delivered + tally.owed + tally.dead + tally.lost;
    assert_eq!(sum, if hears_ends { ends.count() as u64 } else { 0 });
    assert!(tally.failed <= tally.owed);
    assert_eq!(tally.unfinished.len() as u64, tally.owed);
    assert_eq!(tally.timed_out, bench.was_cut_off);
    let missing = bench.heard() - bench.acknowledged.len() as u64;
    let owed = tally.owed + tally.owed_before;
    assert_eq!(owed + bench.lane.dead() as u64, missing, "{tally:?}");
    bench.restart();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn all_is_settled_in_order_and_counted_right_whatever_plugin_and_ledger_do(world in worlds()) {
        let mut bench = bench(&world);
        for &patience in &world.drains {
            live(&mut bench, &world.happens);
            drain(&mut bench, world.hooks, patience);
        }
        live(&mut bench, &world.happens);
        bench.run();
        bench.assert_all_settled();
        let settled = bench.acknowledged.len() + bench.dead().len();
        let heard = usize::try_from(bench.heard()).unwrap();
        prop_assert_eq!(settled, heard);
    }
}
