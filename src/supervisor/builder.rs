//! Setting a supervisor up: its settings, and how its actors are put together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::Arbiter;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::reload::{ReadSettings, Reloader};
use super::{LiveSettings, SessionSupervisor};
use crate::bus::{AskForActive, BusSettings, Listeners, PluginBus, TellLifecycle, Watermarks};
use crate::clock::WallClock;
use crate::error::Error;
use crate::event::{Hook, InstanceId, Lifecycle};
use crate::ledger::{Ledger, LedgerHealth, MemoryLedger, Recovery, Upkeep};
use crate::monitor::{Monitor, Ping, Watching};
use crate::place::Place;
use crate::plugin::PluginSpec;
use crate::registry::{Door, RegistrySettings, SessionRegistry, SharedSessions};
use crate::shutdown::{
    CoordinatorSettings, Deferral, HeldAtStop, ReportArchive, ReportSlot, ShutdownCoordinator,
    TeardownSteps, Watchdog,
};
use crate::state_dir::StateDir;

/// Where the supervisor's actors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Threads {
    /// On an actix system of the supervisor's own: registry, bus, coordinator and each plugin have
    /// a thread each. Nothing that the caller's threads do can hold them up, and the caller's
    /// system, if there is one, is never stopped.
    #[default]
    Own,
    /// All on the caller's arbiter, for tests in virtual time and for plugins that share what is
    /// not [`Send`]. A plugin that blocks then blocks everything: the cap is not kept.
    Current,
}

/// Sets up a [`SessionSupervisor`].
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    live: LiveSettings,
    on_reload: Option<Arc<ReadSettings>>,
    ledger: Arc<dyn Ledger>,
    teardown_steps: TeardownSteps,
    state_dir: Option<StateDir>,
    retention: Duration,
    threads: Threads,
    handle_signals: bool,
    exits_process: bool,
    clock: WallClock,
    held_at_stop: HeldAtStop,
    deferral: Option<Deferral>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("live", &self.live)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            live: LiveSettings::default(),
            on_reload: None,
            ledger: Arc::new(MemoryLedger::new()),
            teardown_steps: TeardownSteps::default(),
            state_dir: None,
            retention: Duration::from_secs(7 * 24 * 3600),
            threads: Threads::default(),
            handle_signals: false,
            exits_process: false,
            clock: WallClock::default(),
            held_at_stop: HeldAtStop::default(),
            deferral: None,
        }
    }
}

impl Builder {
    /// Adds a plugin. Their order is the order in which reports name them.
    pub fn plugin(mut self, plugin: PluginSpec) -> Self {
        self.live.plugins.push(plugin);
        self
    }

    /// Records in this ledger; a [`MemoryLedger`] unless set.
    pub fn ledger(mut self, ledger: impl Ledger) -> Self {
        self.ledger = Arc::new(ledger);
        self
    }

    /// How long lifecycle hooks and session-end drain may take together, counted from the request
    /// for the shutdown. At least 100 ms; 2 s unless set.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.live.cap = cap;
        self
    }

    /// How long each `gateway_…` hook may take, inside the cap. At most a quarter of it; the lesser
    /// of 250 ms and a quarter of the cap unless set.
    pub fn lifecycle_timeout(mut self, timeout: Duration) -> Self {
        self.live.lifecycle_timeout = Some(timeout);
        self
    }

    /// How long all teardown steps may take together; 1 s unless set.
    pub fn teardown(mut self, teardown: Duration) -> Self {
        self.live.teardown = teardown;
        self
    }

    /// Adds a step to carry out after the drain, such as stopping a server. A step that fails, or
    /// takes longer than its share of the time, is a warning in the report and keeps no later step
    /// from running.
    pub fn teardown_step<F, R>(self, name: impl Into<String>, run: F) -> Self
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.teardown_steps.add(name, run);
        self
    }

    /// The downtime that a planned restart by SIGUSR2 announces; 0 unless set.
    pub fn restart_expected(mut self, downtime: Duration) -> Self {
        self.live.restart_expected = downtime;
        self
    }

    /// How many sessions may be active; 1,000,000 unless set.
    pub fn max_active(mut self, sessions: usize) -> Self {
        self.live.max_active = sessions;
        self
    }

    /// Ends a session that was not touched for this long, with reason `idle`; never unless set.
    pub fn idle_after(mut self, limit: Duration) -> Self {
        self.live.idle_after = Some(limit);
        self
    }

    /// Ends a session that is this old, with reason `expired`; never unless set.
    pub fn max_age(mut self, limit: Duration) -> Self {
        self.live.max_age = Some(limit);
        self
    }

    /// Keeps the reports of stops in this directory; nowhere unless set.
    pub fn state_dir(mut self, dir: StateDir) -> Self {
        self.state_dir = Some(dir);
        self
    }

    /// How long ended sessions that no plugin is owed are kept in a ledger that outlives the process,
    /// and what removed plugins are owed; 7 days unless set.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Where the actors run; [`Threads::Own`] unless set.
    pub fn threads(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// Shuts down on SIGTERM, SIGINT and SIGQUIT, and for a restart on SIGUSR2. A further stop
    /// signal at least a second after the first ends the wait: the report is then
    /// [`Forced`](crate::Outcome::Forced) and there at once, for the program to exit.
    ///
    /// Signals belong to a program, so this is off unless set.
    pub fn handle_signals(mut self) -> Self {
        self.handle_signals = true;
        self
    }

    /// Sets all settings that may change later, in place of what was set of them before.
    pub fn settings(mut self, settings: LiveSettings) -> Self {
        self.live = settings;
        self
    }

    /// Ends the process when a stop is over, for programs that are nothing without their sessions: with
    /// the report's exit code, 50 ms after the report is there unless the program has ended by then.
    /// A stop that takes longer than cap and teardown is broken off there, with exit code 4 and
    /// the report's outcome [`Watchdog`](crate::Outcome::Watchdog): the process is gone by then,
    /// whatever plugins, teardown steps or the program's own threads do. What was registered to run
    /// at the exit of the process may not run.
    ///
    /// Not with [`Threads::Current`], where what blocks the caller's thread blocks the supervisor.
    pub fn exit_process(mut self) -> Self {
        self.exits_process = true;
        self
    }

    /// Lets the supervisor be told to [reload](SessionSupervisor::reload): `read` then reads the
    /// settings again, on a thread of its own where [`Threads::Own`] has those. With [`handle_signals`](Self::handle_signals) SIGHUP
    /// reloads too, unless standard input is a terminal. An error changes nothing and is told to
    /// whoever asked.
    pub fn on_reload<F>(mut self, read: F) -> Self
    where
        F: Fn() -> anyhow::Result<LiveSettings> + Send + Sync + 'static,
    {
        self.on_reload = Some(Arc::new(read));
        self
    }

    /// What becomes at a stop of the sessions that other programs hold.
    #[cfg(feature = "cli")]
    pub(crate) fn held_at_stop(mut self, held: HeldAtStop) -> Self {
        self.held_at_stop = held;
        self
    }

    /// Keeps every request for a shutdown back until the deferral is lifted, those by
    /// [signal](Self::handle_signals) too.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn defer_shutdown(mut self, deferral: Deferral) -> Self {
        self.deferral = Some(deferral);
        self
    }

    /// Changes every plugin: those that are set, and those that a reload brings.
    pub(crate) fn map_plugins<F>(mut self, change: F) -> Self
    where
        F: Fn(PluginSpec) -> PluginSpec + Send + Sync + 'static,
    {
        let change = move |settings: LiveSettings| LiveSettings {
            plugins: settings.plugins.into_iter().map(&change).collect(),
            ..settings
        };
        self.live = change(self.live);
        if let Some(read) = self.on_reload {
            self.on_reload = Some(Arc::new(move || Ok(change(read()?))));
        }
        self
    }

    /// Reads the wall clock with `now`, for tests. Deadlines don't use it.
    pub fn wall_clock(mut self, now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = WallClock::new(now);
        self
    }

    /// Starts the supervisor.
    ///
    /// Works on any runtime; with [`Threads::Current`] only inside an actix system.
    ///
    /// # Panics
    ///
    /// With [`Threads::Current`] outside an actix system.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] when settings can't work together, [`Error::Ledger`] when the ledger
    /// does not answer, [`Error::Start`] when a thread can't be started.
    pub async fn start(self) -> Result<SessionSupervisor, Error> {
        self.live.check().map_err(Error::Settings)?;
        match self.threads {
            Threads::Current => {
                let supervisor = self.assemble(None).await?;
                let kept = supervisor.clone();
                actix_rt::spawn(async move { kept.stopped().await });
                Ok(supervisor)
            }
            Threads::Own => self.start_own_system().await,
        }
    }

    async fn start_own_system(self) -> Result<SessionSupervisor, Error> {
        let (ready, started) = oneshot::channel();
        let watchdog = self.exits_process.then(Watchdog::start).transpose();
        let watchdog = watchdog.map_err(|error| Error::Start(error.to_string()))?;
        let run = move || {
            let system = System::new();
            let outcome = system.block_on(self.assemble(watchdog.clone()));
            let kept = outcome.clone();
            if ready.send(outcome).is_err() || kept.is_err() {
                // Nobody has a handle, so nobody would ever stop it and its threads.
                System::current().stop();
            }
            if let Err(error) = system.run() {
                tracing::error!(%error, "the supervisor's system failed");
            }
            if let Some(watchdog) = watchdog {
                watchdog.returned();
            }
            drop(kept);
        };
        std::thread::Builder::new()
            .name("session-supervisor".into())
            .spawn(run)
            .map_err(|error| Error::Start(error.to_string()))?;
        let died = || Error::Start("the supervisor's thread died".into());
        started.await.map_err(|_| died())?
    }

    async fn assemble(self, watchdog: Option<Watchdog>) -> Result<SessionSupervisor, Error> {
        let (budget, limits) = (self.live.budget(), self.live.limits());
        let instance = InstanceId::generate();
        let (door, report_slot) = (Door::default(), ReportSlot::new());
        let reports = report_slot.watch();
        let owns_system = self.threads == Threads::Own;
        let ledger = self.ledger;
        let listeners = Listeners::new(&self.live.plugins);
        let watermarks = Watermarks::default();

        // A new plugin hears of what happens from its coming on: the ends of what a run before left
        // open are part of that. They are recorded before any other event.
        let plugins = self.live.plugins;
        let configured: Vec<_> = plugins.iter().map(PluginSpec::shared_name).collect();
        ledger.detach_others(&configured, self.clock.now()).await?;
        let plugins = PluginBus::attach(plugins, &*ledger).await?;
        let recovery = ledger.recover(instance, self.clock.now()).await?;
        let held = ledger.held().await?;
        if self.held_at_stop.end_at_death() {
            ledger.bind_held().await?;
        }
        let before = recovery.predecessor.as_ref();
        let held_seen_at = before.map_or_else(|| self.clock.now(), |run| run.alive_at);
        let state_dir = self.state_dir.as_ref();
        let archive = state_dir.map(|dir| ReportArchive::new(dir.path()));
        report_recovery(&recovery, archive.as_ref(), budget.cap);

        // Each has a thread, since none must wait for another: the registry for the lanes' work,
        // the coordinator for anybody. This thread is left for teardown steps.
        let place = || {
            if owns_system {
                let arbiter = Arbiter::try_new();
                let arbiter = arbiter.map_err(|error| Error::Start(error.to_string()))?;
                Ok::<_, Error>(Place::On(arbiter.handle()))
            } else {
                Ok(Place::Current)
            }
        };
        let (monitor, head) = (Monitor::new(), watch::Sender::new(ledger.head()));
        let watching = Watching {
            monitor: monitor.clone(),
            ledger: Arc::clone(&ledger),
            head: head.subscribe(),
        };
        let (health, upkeep) = (LedgerHealth::default(), CancellationToken::new());
        let bus_settings = BusSettings {
            instance,
            clock: self.clock.clone(),
            own_threads: owns_system,
            listeners: listeners.clone(),
            watermarks: watermarks.clone(),
            head,
            monitor: monitor.clone(),
            health: health.clone(),
        };
        let bus_ledger = Arc::clone(&ledger);
        let bus_place = place()?;
        let bus = bus_place.start(move || PluginBus::new(bus_settings, bus_ledger, plugins));
        if ledger.is_durable() {
            let counted = monitor.clone();
            let upkeep = Upkeep {
                ledger: Arc::clone(&ledger),
                clock: self.clock.clone(),
                retention: self.retention,
                health: health.clone(),
                lock: state_dir.map(|dir| dir.lock_file().clone()),
                on_error: Box::new(move || counted.ledger_failed()),
                stop: upkeep.clone(),
            };
            bus_place.spawn(upkeep.run());
        }
        let active = SharedSessions::default();
        let registry_settings = RegistrySettings {
            clock: self.clock.clone(),
            door: door.clone(),
            active: active.clone(),
            limits,
            monitor: monitor.clone(),
            held,
            held_seen_at,
            hears_holders: self.held_at_stop.hears_holders(),
        };
        let (registry_bus, registry_ledger) = (bus.clone(), Arc::clone(&ledger));
        let registry = place()?
            .start(move || SessionRegistry::new(registry_settings, registry_bus, registry_ledger));
        bus.do_send(AskForActive(registry.clone().recipient().downgrade()));
        let (reloads, reloader) = Reloader::new(self.on_reload, owns_system);
        let (hangups, hung_up) = mpsc::channel(1);
        let coordinator_settings = CoordinatorSettings {
            instance,
            clock: self.clock,
            budget,
            door: door.clone(),
            registry: registry.clone(),
            bus: bus.clone(),
            plugins: listeners,
            ledger,
            monitor,
            health: health.clone(),
            upkeep,
            teardown: self.teardown_steps.clone(),
            teardown_arbiter: owns_system.then(Arbiter::current),
            state_dir: self.state_dir,
            reports: report_slot,
            restart_expected: self.live.restart_expected,
            hangups: reloader.can_read().then_some(hangups),
            handle_signals: self.handle_signals,
            held_at_stop: self.held_at_stop,
            deferral: self.deferral.clone(),
            watchdog,
            owns_system,
        };
        let coordinator = place()?.start(move || ShutdownCoordinator::new(coordinator_settings));
        // From here on a signal finds its handler, and whoever got the handle finds everyone.
        let died = |_| Error::Start("a thread of the supervisor died".into());
        bus.send(Ping).await.map_err(died)?;
        registry.send(Ping).await.map_err(died)?;
        coordinator.send(Ping).await.map_err(died)?;

        let hello = TellLifecycle {
            lifecycle: Lifecycle {
                hook: Hook::GatewayStart,
                reason: None,
                restart_expected_ms: None,
                active_sessions: 0,
            },
            deadline: Instant::now() + budget.lifecycle_timeout,
        };
        // Best effort, once: nobody waits for it, and the bus logs what fails.
        bus.do_send(hello);
        info!(%instance, "started");
        let supervisor = SessionSupervisor {
            instance,
            door,
            active,
            watermarks,
            registry,
            bus,
            coordinator,
            teardown_steps: self.teardown_steps,
            health,
            recovery: Arc::new(recovery),
            archive,
            reports,
            reloads,
            watching,
            deferral: self.deferral,
        };
        actix_rt::spawn(reloader.run(supervisor.clone(), hung_up));
        Ok(supervisor)
    }
}

/// Says what was found of the run before, in the log and in its report.
fn report_recovery(recovery: &Recovery, archive: Option<&ReportArchive>, cap: Duration) {
    if let Some(reason) = recovery.reason.filter(|_| recovery.found > 0) {
        let sessions = recovery.found;
        warn!(sessions, %reason, "ended the sessions that the run before had left active");
    }
    // It is of use to people alone, so a start does not fail for it.
    if let Some(Err(error)) = archive.map(|archive| archive.complete(recovery, cap)) {
        warn!(%error, "the report of the run before can't be completed");
    }
}
