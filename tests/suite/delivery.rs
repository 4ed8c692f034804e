//! Deliveries: what becomes of events whose plugin fails, and that nobody else notices.

mod per_session;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use session_supervisor::testing::{
    Harness, Recorder, Recording, in_time, line, recorder, recorder_with,
};
use session_supervisor::{
    Append, Deliver, DeliveryPolicy, Down, EndReason, Event, Hooks, Ledger, LedgerFuture,
    MemoryLedger, Outcome, Page, Parked, PluginSpec, PluginState, PluginStatus, Position, Progress,
    Seq, SessionFilter, SessionId, SessionRecord, SessionSupervisor, Shutdown,
};
use tokio::time::{Instant, sleep};

use crate::support::{Shorthand, builder, id, in_virtual_time};

const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn is_about(event: &Event, wanted: &str) -> bool {
    line(event) == wanted
}

async fn status(supervisor: &SessionSupervisor) -> PluginStatus {
    supervisor.plugins().await.unwrap().remove(0)
}

/// Waits until nothing is owed any more.
async fn settled(supervisor: &SessionSupervisor) {
    in_time(async {
        while supervisor
            .plugins()
            .await
            .unwrap()
            .iter()
            .any(|it| it.owed > 0)
        {
            sleep(10 * MILLIS).await;
        }
    })
    .await;
}

type Deliveries = Arc<Mutex<Vec<Vec<String>>>>;

/// An answer to each delivery in turn; well when they have run out.
type Script = Arc<Mutex<Vec<fn() -> anyhow::Result<()>>>>;

/// A raw actor that records the lines of each delivery and answers as its script says.
struct Scripted {
    deliveries: Deliveries,
    script: Script,
}

impl Actor for Scripted {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Scripted {
    type Result = anyhow::Result<()>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        let lines = delivery.events.iter().map(line).collect();
        self.deliveries.lock().unwrap().push(lines);
        let next = self.script.lock().unwrap().pop();
        next.map_or(Ok(()), |answer| answer())
    }
}

/// A plugin that answers its deliveries by `script`, what it was told, and how often it was made.
fn scripted(
    mut script: Vec<fn() -> anyhow::Result<()>>,
) -> (PluginSpec, Deliveries, Arc<AtomicUsize>) {
    script.reverse();
    let script = Arc::new(Mutex::new(script));
    let (deliveries, made) = (
        Arc::<Mutex<Vec<_>>>::default(),
        Arc::<AtomicUsize>::default(),
    );
    let (told, count) = (Arc::clone(&deliveries), Arc::clone(&made));
    let spec = PluginSpec::actor("p", move || {
        count.fetch_add(1, Ordering::Relaxed);
        Scripted {
            deliveries: Arc::clone(&told),
            script: Arc::clone(&script),
        }
    });
    (spec, deliveries, made)
}

fn down() -> anyhow::Result<()> {
    Err(Down::new(anyhow::anyhow!("connection refused")).into())
}

fn failure() -> anyhow::Result<()> {
    anyhow::bail!("no such column")
}

fn panic() -> anyhow::Result<()> {
    panic!("as the test wants it")
}

#[test]
fn an_actor_that_panics_is_made_anew_and_told_again() {
    in_virtual_time(async |harness| {
        let (plugin, deliveries, made) = scripted(vec![panic, panic]);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        settled(&supervisor).await;
        assert_eq!(*deliveries.lock().unwrap(), vec![["session_start A"]; 3]);
        assert_eq!(made.load(Ordering::Relaxed), 3);
        supervisor.finish("A", EndReason::Completed).await;
        settled(&supervisor).await;
        assert_eq!(made.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn an_actor_that_died_between_deliveries_costs_no_attempt() {
    struct Mortal(Recording);

    impl Actor for Mortal {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Context<Self>) {
            ctx.run_later(SECOND, |_, _| panic!("as the test wants it"));
        }
    }

    impl Handler<Deliver> for Mortal {
        type Result = anyhow::Result<()>;

        fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
            delivery
                .events
                .iter()
                .for_each(|event| self.0.record(event));
            Ok(())
        }
    }

    in_virtual_time(async |harness| {
        let told = Recording::new();
        let of_plugin = told.clone();
        let plugin = PluginSpec::actor("p", move || Mortal(of_plugin.clone()));
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        sleep(2 * SECOND).await;
        let began = Instant::now();
        supervisor.begin("B").await;
        told.wait_for(2).await;
        assert!(began.elapsed() < SECOND / 10);
        assert_eq!(status(&supervisor).await.last_error, None);
    });
}

#[test]
fn a_plugin_that_cannot_be_made_is_down_and_nobody_else_is() {
    in_virtual_time(async |harness| {
        let (healthy, told) = recorder("healthy");
        let broken_told = Recording::new();
        let (of_plugin, attempts) = (broken_told.clone(), AtomicUsize::new(0));
        let broken = PluginSpec::actor("broken", move || {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            assert!(attempt >= 8, "as the test wants it");
            Recorder::new(of_plugin.clone())
        });
        // It also hears of the supervisor's own start, which no lane stands before.
        let broken = broken.with_hooks(Hooks::ALL);
        let supervisor = harness
            .start(builder().plugin(broken).plugin(healthy))
            .await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        assert_eq!(status(&supervisor).await.state, PluginState::Retrying);
        settled(&supervisor).await;
        assert_eq!(broken_told.lines(), ["session_start A"]);
        assert_eq!(status(&supervisor).await.dead, 0);
    });
}

#[test]
fn g9_a_failing_plugin_is_seen_in_its_status_until_it_works_again() {
    in_virtual_time(async |harness| {
        let (plugin, deliveries, _) = scripted(vec![down, down]);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        sleep(SECOND / 2).await;
        let seen = status(&supervisor).await;
        assert_eq!(
            (seen.state, seen.owed, seen.dead),
            (PluginState::Retrying, 1, 0)
        );
        assert_eq!(seen.last_error.as_deref(), Some("connection refused"));
        settled(&supervisor).await;
        let seen = status(&supervisor).await;
        assert_eq!((seen.state, seen.last_error), (PluginState::Healthy, None));
        assert_eq!(deliveries.lock().unwrap().len(), 3);
    });
}

#[test]
fn an_event_that_fails_max_attempts_times_is_a_dead_letter_and_its_later_ones_with_it() {
    in_virtual_time(async |harness| {
        let (plugin, deliveries, _) = scripted(vec![failure; 3]);
        let policy = |policy: &mut DeliveryPolicy| policy.max_attempts = 3;
        let supervisor = harness
            .start(builder().plugin(with_policy(plugin, policy)))
            .await;
        supervisor.begin("A").await;
        settled(&supervisor).await;
        assert_eq!(status(&supervisor).await.dead, 1);
        supervisor.finish("A", EndReason::Completed).await;
        supervisor.begin("B").await;
        settled(&supervisor).await;
        assert_eq!(status(&supervisor).await.dead, 2);
        let last = deliveries.lock().unwrap().last().unwrap().clone();
        assert_eq!(last, ["session_start B"]);
    });
}

fn with_policy(plugin: PluginSpec, change: impl FnOnce(&mut DeliveryPolicy)) -> PluginSpec {
    let mut policy = plugin.policy().clone();
    change(&mut policy);
    plugin.with_policy(policy)
}

/// How long a healthy plugin takes for what happens while it runs, and for its part of a drain.
async fn healthy_beside(harness: &Harness, other: Option<PluginSpec>) -> (Duration, u64) {
    let (healthy, told) = recorder_with("healthy", |_| async {
        sleep(3 * MILLIS).await;
        Ok(())
    });
    let builder = builder().plugin(healthy);
    let supervisor = harness
        .start(match other {
            Some(other) => builder.plugin(other),
            None => builder,
        })
        .await;
    let began = Instant::now();
    for id in 0..20 {
        supervisor.begin(&id.to_string()).await;
        sleep(MILLIS).await;
        if id % 2 == 0 {
            supervisor
                .finish(&id.to_string(), EndReason::Completed)
                .await;
        }
    }
    told.wait_for(30).await;
    let took = began.elapsed();
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    let healthy = &report.plugins[0];
    assert_eq!((healthy.delivered, healthy.owed, healthy.lost), (10, 0, 0));
    assert_eq!(told.events().len(), 40);
    assert!(!healthy.timed_out);
    (took, healthy.duration_ms)
}

#[test]
fn g5_a_plugin_that_fails_delays_and_loses_nothing_for_another() {
    let alone = Arc::new(Mutex::new(None));
    let of_test = Arc::clone(&alone);
    in_virtual_time(async move |harness| {
        *of_test.lock().unwrap() = Some(healthy_beside(harness, None).await);
    });
    let hangs = recorder_with("hangs", |_| std::future::pending()).0;
    let rejects = recorder_with("rejects", |_| async { failure() }).0;
    let panics = recorder_with("panics", |_| async { panic() }).0;
    let dies = scripted(vec![panic; 1000]).0;
    let is_down = recorder_with("down", |_| async { down() }).0;
    let slow = recorder_with("slow", |_| async {
        sleep(SECOND).await;
        Ok(())
    });
    for other in [hangs, rejects, panics, dies, is_down, slow.0] {
        let alone = Arc::clone(&alone);
        in_virtual_time(async move |harness| {
            let name = other.name().to_owned();
            let beside = healthy_beside(harness, Some(other)).await;
            assert_eq!(Some(beside), *alone.lock().unwrap(), "beside {name}");
        });
    }
}

#[test]
fn a_lane_in_backoff_is_tried_at_once_when_the_drain_begins() {
    in_virtual_time(async |harness| {
        let (plugin, deliveries, _) = scripted(vec![down; 8]);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        sleep(200 * SECOND).await;
        assert_eq!(deliveries.lock().unwrap().len(), 8);
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(report.outcome, Outcome::Clean);
        assert!(report.duration_ms < 100, "{}", report.duration_ms);
        let expected = vec!["session_start A", "session_end A shutdown"];
        let deliveries = deliveries.lock().unwrap();
        assert_eq!(deliveries[8..].concat(), expected);
    });
}

#[test]
fn a_plugin_that_stays_down_neither_holds_the_stop_nor_times_it_out() {
    in_virtual_time(async |harness| {
        let (plugin, deliveries, _) = scripted(vec![down; 100]);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        sleep(200 * SECOND).await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(report.duration_ms < 100, "{}", report.duration_ms);
        assert_eq!(deliveries.lock().unwrap().len(), 9);
        let plugin = &report.plugins[0];
        assert!(!plugin.timed_out && !report.drain.timed_out);
        assert_eq!((plugin.lost, plugin.failed, plugin.owed_before), (1, 0, 1));
        assert_eq!(plugin.last_error.as_deref(), Some("connection refused"));
        assert_eq!(plugin.unfinished, [id("A")]);
    });
}

/// A ledger that announces events before it can be asked for them.
#[derive(Debug)]
struct Late {
    ledger: MemoryLedger,
    readable_at: Instant,
    reads: AtomicUsize,
}

impl Ledger for Late {
    fn is_durable(&self) -> bool {
        false
    }

    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>> {
        self.ledger.append(append)
    }

    fn head(&self) -> Seq {
        self.ledger.head()
    }

    fn read(&self, after: Seq, limit: usize) -> LedgerFuture<Page> {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(reads < 100, "asked again and again");
        let limit = if Instant::now() < self.readable_at {
            0
        } else {
            limit
        };
        self.ledger.read(after, limit)
    }

    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>> {
        self.ledger.last_ended(id)
    }

    fn ended(
        &self,
        filter: &SessionFilter,
        now: jiff::Timestamp,
        after: Seq,
        limit: usize,
    ) -> LedgerFuture<Vec<SessionRecord>> {
        self.ledger.ended(filter, now, after, limit)
    }

    fn attach(&self, plugin: &str) -> LedgerFuture<Position> {
        self.ledger.attach(plugin)
    }

    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()> {
        self.ledger.advance(plugin, progress)
    }

    fn dead_letters(&self, plugin: &str, after: Seq, limit: usize) -> LedgerFuture<Vec<Parked>> {
        self.ledger.dead_letters(plugin, after, limit)
    }

    fn detach_others(&self, configured: &[Arc<str>], now: jiff::Timestamp) -> LedgerFuture<()> {
        self.ledger.detach_others(configured, now)
    }
}

#[test]
fn a_ledger_that_is_late_with_what_it_announced_is_asked_again_after_a_while() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let ledger = Late {
            ledger: MemoryLedger::new(),
            readable_at: Instant::now() + 10 * SECOND,
            reads: AtomicUsize::new(0),
        };
        let supervisor = harness.start(builder().ledger(ledger).plugin(plugin)).await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        settled(&supervisor).await;
        assert_eq!(told.lines(), ["session_start A"]);
    });
}
