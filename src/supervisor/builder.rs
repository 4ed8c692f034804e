//! Setting a supervisor up.

mod assembly;

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::reload::ReadSettings;
use super::{LiveSettings, SessionSupervisor};
use crate::clock::WallClock;
#[cfg(feature = "sqlite")]
use crate::durability::Durability;
use crate::error::Error;
#[cfg(feature = "sqlite")]
use crate::ledger::SqliteLedger;
use crate::ledger::{Ledger, MemoryLedger};
use crate::plugin::PluginSpec;
use crate::shutdown::{Deferral, HeldAtStop, TeardownSteps};
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

/// How long ended sessions are kept, unless set.
pub(crate) const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

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
            retention: DEFAULT_RETENTION,
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

    /// Has all state outlive the process, and the machine's power, in the directory `path`: what happens
    /// to sessions in a [`SqliteLedger`], and the reports of stops. The directory is
    /// made if there is none; a relative one is looked for where the process is now. Blocks until the ledger
    /// is open; one that another has, most often the process before, which is ending, is waited for a
    /// moment, as by [`StateDir::open_when_free`]. Where a supervisor with [`Threads::Current`] on this
    /// thread had it, let that go first: it can't while this waits.
    ///
    /// Stands for [`state_dir`](Self::state_dir) and [`ledger`](Self::ledger) with
    /// [`Durability::Power`].
    ///
    /// # Errors
    ///
    /// [`Error::State`], as when another process has the directory.
    #[cfg(feature = "sqlite")]
    pub fn durable(self, path: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir =
            StateDir::open_when_free(path).map_err(|error| Error::State(error.to_string()))?;
        let ledger = SqliteLedger::open_in(&dir, Durability::Power);
        let ledger = ledger.map_err(|error| Error::State(error.to_string()))?;
        Ok(self.ledger(ledger).state_dir(dir))
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

    /// How long all teardown steps may take together; 3 s unless set, since a server on actix-web looks
    /// only once a second whether its connections are over.
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
}
