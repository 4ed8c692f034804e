//! A plugin that hangs, dies or panics costs nobody but itself. In real time, with threads of the
//! supervisor's own: what is under test is that a blocked thread holds nobody up.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use actix::prelude::*;
use session_supervisor::testing::{Recording, recorder};
use session_supervisor::{
    Deliver, DeliveryPolicy, Down, EndReason, Plugin, PluginSpec, PluginState, PluginStatus,
    SessionSupervisor, Shutdown,
};

use crate::support::Shorthand;

/// How long anything may take on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries again soon, and gives up a delivery soon.
fn hasty() -> DeliveryPolicy {
    let mut policy = DeliveryPolicy::default();
    policy.timeout = Duration::from_millis(50);
    policy.backoff = Duration::from_millis(1);
    policy.backoff_max = Duration::from_millis(10);
    policy
}

async fn start(plugins: impl IntoIterator<Item = PluginSpec>) -> SessionSupervisor {
    let builder = SessionSupervisor::builder().cap(Duration::from_secs(1));
    let builder = plugins
        .into_iter()
        .fold(builder, session_supervisor::Builder::plugin);
    builder.start().await.unwrap()
}

/// Waits until the plugin `name` is as `condition` says.
async fn until(
    supervisor: &SessionSupervisor,
    name: &str,
    condition: impl Fn(&PluginStatus) -> bool,
) {
    let end = Instant::now() + PATIENCE;
    loop {
        let plugins = supervisor.plugins().await.unwrap();
        let status = plugins.iter().find(|it| &*it.name == name).unwrap();
        if condition(status) {
            return;
        }
        assert!(Instant::now() < end, "{status:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Blocks whoever comes by, until it is opened.
#[derive(Clone, Default)]
struct Barrier(Arc<(Mutex<bool>, Condvar)>);

impl Barrier {
    fn block(&self) {
        let (is_open, opened) = &*self.0;
        let is_open = is_open.lock().unwrap();
        drop(opened.wait_while(is_open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        // No thread is to outlive a test that failed.
        self.open();
    }
}

/// A plugin that blocks its thread as long as it is one of the first `blocking` that were made.
struct Blocks {
    blocks: bool,
    barrier: Arc<Barrier>,
    told: Recording,
}

impl Blocks {
    fn plugin(blocking: usize, barrier: &Arc<Barrier>, told: &Recording) -> PluginSpec {
        let (barrier, told) = (Arc::clone(barrier), told.clone());
        let made = AtomicUsize::new(0);
        let make = move || Self {
            blocks: made.fetch_add(1, Ordering::SeqCst) < blocking,
            barrier: Arc::clone(&barrier),
            told: told.clone(),
        };
        PluginSpec::new("blocks", make).with_policy(hasty())
    }
}

impl Plugin for Blocks {
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        if self.blocks {
            self.barrier.block();
            anyhow::bail!("too late");
        }
        delivery
            .events
            .iter()
            .for_each(|event| self.told.record(event));
        Ok(())
    }
}

#[actix::test]
async fn g5_a_plugin_that_blocks_its_thread_is_replaced_and_told_on_another() {
    let (barrier, told) = (Arc::new(Barrier::default()), Recording::new());
    let (healthy, heard) = recorder("healthy");
    let supervisor = start([Blocks::plugin(2, &barrier, &told), healthy]).await;
    supervisor.begin("A").await;
    until(&supervisor, "healthy", |it| it.owed == 0).await;
    until(&supervisor, "blocks", |it| it.owed == 0).await;
    assert_eq!(heard.lines(), ["session_start A"]);
    assert_eq!(told.lines(), ["session_start A"]);
    until(&supervisor, "blocks", |it| it.hung_threads == 2).await;

    // A thread that comes back is over.
    barrier.open();
    supervisor.finish("A", EndReason::Completed).await;
    until(&supervisor, "blocks", |it| {
        (it.owed, it.hung_threads) == (0, 0)
    })
    .await;
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
}

#[actix::test]
async fn g5_no_more_than_four_threads_are_left_behind_and_the_plugin_is_quarantined() {
    let (barrier, told) = (Arc::new(Barrier::default()), Recording::new());
    let (healthy, heard) = recorder("healthy");
    let supervisor = start([Blocks::plugin(usize::MAX, &barrier, &told), healthy]).await;
    supervisor.begin("A").await;
    until(&supervisor, "blocks", |it| {
        it.state == PluginState::Quarantined
    })
    .await;
    until(&supervisor, "blocks", |it| {
        assert!(
            it.hung_threads <= 5,
            "four left behind, and the one that is tried"
        );
        it.last_error.as_deref() == Some("4 of its threads hang: it is not replaced again")
    })
    .await;
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(heard.lines(), ["session_start A", "session_end A shutdown"]);
    let blocks = &report.plugins[0];
    assert_eq!(
        (blocks.state, blocks.timed_out),
        (PluginState::Quarantined, false)
    );
    assert_eq!(blocks.hung_threads, 5);
    // The ledger in memory keeps nothing.
    assert_eq!((blocks.delivered, blocks.lost), (0, 1));
    assert_eq!(report.warnings, ["plugins"]);
}

/// An actor that does as its function says.
struct Acts<F>(F);

impl<F: Unpin + 'static> Actor for Acts<F> {
    type Context = Context<Self>;
}

impl<F, R> Handler<Deliver> for Acts<F>
where
    F: FnMut(Deliver) -> R + Unpin + 'static,
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    type Result = ResponseFuture<anyhow::Result<()>>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        Box::pin((self.0)(delivery))
    }
}

/// An actor that fails as `fail` says as long as it is one of the first `failing` that were made.
fn fails_at_first<R>(
    failing: usize,
    fail: impl Fn() -> R + Clone + Send + Sync + Unpin + 'static,
) -> (PluginSpec, Recording)
where
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    let recording = Recording::new();
    let (told, made) = (recording.clone(), AtomicUsize::new(0));
    let make = move || {
        let fails = made.fetch_add(1, Ordering::SeqCst) < failing;
        let (told, fail) = (told.clone(), fail.clone());
        Acts(move |delivery: Deliver| {
            let failure = fails.then(&fail);
            let told = told.clone();
            async move {
                if let Some(failure) = failure {
                    return failure.await;
                }
                delivery.events.iter().for_each(|event| told.record(event));
                Ok(())
            }
        })
    };
    (
        PluginSpec::actor("fails", make).with_policy(hasty()),
        recording,
    )
}

#[actix::test]
async fn g5_an_actor_that_waits_for_ever_is_replaced_and_leaves_no_thread_behind() {
    let (plugin, told) = fails_at_first(3, std::future::pending);
    let supervisor = start([plugin]).await;
    supervisor.begin("A").await;
    until(&supervisor, "fails", |it| {
        (it.owed, it.hung_threads) == (0, 0)
    })
    .await;
    // More than once where this machine is busy and a delivery was given up too soon.
    assert!(told.lines().iter().all(|line| line == "session_start A"));
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(told.ends(), ["A shutdown"]);
    assert_eq!(report.plugins[0].hung_threads, 0);
}

#[actix::test]
async fn g5_an_actor_that_panics_is_replaced_and_loses_nothing() {
    // In its handler: the actor dies with all that is in its mailbox.
    let (plugin, told) = fails_at_first(3, || {
        let panics = true;
        assert!(!panics, "on purpose");
        std::future::pending()
    });
    // Not given up where the machine has other work, which would tell it twice.
    let mut patient = hasty();
    patient.timeout = PATIENCE;
    let (healthy, heard) = recorder("healthy");
    let supervisor = start([plugin.with_policy(patient), healthy]).await;
    for id in ["A", "B", "C"] {
        supervisor.begin(id).await;
    }
    until(&supervisor, "fails", |it| it.owed == 0).await;
    until(&supervisor, "healthy", |it| it.owed == 0).await;
    let starts = ["session_start A", "session_start B", "session_start C"];
    // Those of different sessions come in no particular order once they are tried one by one.
    let mut lines = told.lines();
    lines.sort();
    assert_eq!(lines, starts);
    assert_eq!(heard.lines(), starts);
    let _ = supervisor.shutdown(Shutdown::now()).await;
}

#[actix::test]
async fn an_actor_that_runs_elsewhere_and_hangs_is_left_alone() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let hanging = Acts(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::pending()
    });
    let plugin = PluginSpec::running("elsewhere", hanging.start()).with_policy(hasty());
    let supervisor = start([plugin]).await;
    supervisor.begin("A").await;
    until(&supervisor, "elsewhere", |it| {
        it.last_error.as_deref() == Some("its actor hangs, and can't be replaced")
    })
    .await;
    until(&supervisor, "elsewhere", |it| {
        it.state == PluginState::Quarantined
    })
    .await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let _ = supervisor.shutdown(Shutdown::now()).await;
}

/// Says when it was dropped, after a while.
struct LetsGo(Arc<AtomicUsize>, Duration);

impl Plugin for LetsGo {
    async fn deliver(&self, _: &Deliver) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Drop for LetsGo {
    fn drop(&mut self) {
        std::thread::sleep(self.1);
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[actix::test]
async fn a_stop_waits_a_moment_for_plugins_to_let_go() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    let plugin = PluginSpec::new("lets-go", move || {
        LetsGo(Arc::clone(&count), Duration::from_millis(20))
    });
    let supervisor = start([plugin]).await;
    supervisor.begin("A").await;
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(report.warnings, Vec::<String>::new());

    let forever = Duration::from_secs(3);
    let plugin = PluginSpec::new("holds-on", move || LetsGo(Arc::default(), forever));
    let supervisor = start([plugin]).await;
    supervisor.begin("A").await;
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(
        (report.drain.delivered, &*report.warnings),
        (1, &["plugins".to_owned()][..])
    );
}

#[actix::test]
async fn a_plugin_in_quarantine_gets_no_lifecycle_hooks_and_is_not_waited_for() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let plugin = PluginSpec::per_session("down", move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err(Down::new(anyhow::anyhow!("refused")).into()) }
    });
    let hooks = session_supervisor::Hooks::SESSION.with(session_supervisor::Hook::GatewayShutdown);
    let supervisor = start([plugin.with_policy(hasty()).with_hooks(hooks)]).await;
    supervisor.begin("A").await;
    until(&supervisor, "down", |it| {
        it.state == PluginState::Quarantined
    })
    .await;
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.plugins[0].state, PluginState::Quarantined);
    assert_eq!(report.warnings, Vec::<String>::new());
    let steps: Vec<_> = report.steps.iter().map(|step| &*step.name).collect();
    assert_eq!(steps, ["gateway_shutdown", "session-end-drain", "plugins"]);
}
