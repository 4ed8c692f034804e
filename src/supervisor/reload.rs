//! The reload: settings are read again, and what changed is changed while everything runs.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{LiveSettings, SessionSupervisor};
use crate::bus::{PluginChanges, Reconfigure};
use crate::error::Error;
use crate::shutdown::Adjust;

pub(super) type ReadSettings = dyn Fn() -> anyhow::Result<LiveSettings> + Send + Sync;

/// Whoever waits for what comes of a reload.
type Reply = oneshot::Sender<Result<Reloaded, Error>>;

/// How long reading the settings may take. A disk that hangs must not hold up later reloads for ever.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// How many reloads may wait for their turn.
const MAX_WAITING: usize = 16;

/// Where reloads are asked for, and seen.
#[derive(Debug, Clone)]
pub(super) struct Reloads {
    ask: mpsc::Sender<Reply>,
    state: watch::Receiver<ReloadState>,
}

/// Whether settings are read again just now, and how it went the last time.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum ReloadState {
    /// It has not happened yet.
    #[default]
    Never,
    /// It is under way.
    Running,
    /// It is over, for this reason where nothing has changed.
    Over(Result<(), Error>),
}

/// Carries out reloads, one after the other. It lives in a task of the supervisor's own, so that a
/// reload that has begun is finished, whether or not somebody still waits for it.
pub(super) struct Reloader {
    read: Option<Arc<ReadSettings>>,
    /// Whether settings are read on a thread of their own, since a disk may hang; here otherwise.
    own_thread: bool,
    asked: mpsc::Receiver<Reply>,
    state: watch::Sender<ReloadState>,
    /// The thread that took too long to read settings, and may still be at it.
    reader: Option<JoinHandle<()>>,
}

impl Reloader {
    pub(super) fn new(read: Option<Arc<ReadSettings>>, own_thread: bool) -> (Reloads, Self) {
        let (ask, asked) = mpsc::channel(MAX_WAITING);
        let (told, state) = watch::channel(ReloadState::default());
        let reloader = Self {
            read,
            own_thread,
            asked,
            state: told,
            reader: None,
        };
        (Reloads { ask, state }, reloader)
    }

    pub(super) fn can_read(&self) -> bool {
        self.read.is_some()
    }

    /// Reloads whenever one asks for it, by signal too, until the supervisor stops.
    pub(super) async fn run(
        mut self,
        supervisor: SessionSupervisor,
        mut hangups: mpsc::Receiver<()>,
    ) {
        loop {
            let reply = tokio::select! {
                Some(reply) = self.asked.recv() => Some(reply),
                Some(()) = hangups.recv() => None,
                _ = supervisor.stopped() => return,
            };
            self.state.send_replace(ReloadState::Running);
            let reloaded = self.reload(&supervisor).await;
            let outcome = reloaded.as_ref().map(drop).map_err(Error::clone);
            self.state.send_replace(ReloadState::Over(outcome));
            match (reply, reloaded) {
                // Whoever asked may be gone.
                (Some(reply), reloaded) => drop(reply.send(reloaded)),
                (None, Ok(_)) => {}
                (None, Err(error)) => {
                    // A record is one line.
                    let error = error.to_string().replace('\n', "; ");
                    error!(%error, "not reloaded: everything stays as it is");
                }
            }
        }
    }

    async fn reload(&mut self, supervisor: &SessionSupervisor) -> Result<Reloaded, Error> {
        supervisor.check_open()?;
        let mut settings = self.read().await?;
        let (budget, limits) = (settings.budget(), settings.limits());
        let plugins = settings.plugins;
        let changes = supervisor.bus.send(Reconfigure(plugins)).await??;
        let adjust = Adjust {
            budget,
            restart_expected: settings.restart_expected,
        };
        match supervisor.coordinator.send(adjust).await? {
            // Plugins have changed by now, and whoever asked has to know.
            Err(Error::ShuttingDown) => {
                let late = "a stop was asked for meanwhile: it has the budgets from before";
                settings.warnings.push(late.into());
            }
            adjusted => adjusted?,
        }
        supervisor.registry.send(limits).await?;
        let PluginChanges {
            added,
            removed,
            changed,
            unchanged,
        } = changes;
        info!(?added, ?removed, ?changed, ?unchanged, "reloaded");
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        Ok(Reloaded {
            added,
            removed,
            changed,
            unchanged,
            warnings: settings.warnings,
        })
    }

    /// Reads the settings and checks them.
    async fn read(&mut self) -> Result<LiveSettings, Error> {
        let nothing = "there is no configuration to read again";
        let read = self.read.as_ref().map(Arc::clone);
        let read = read.ok_or_else(|| Error::Settings(nothing.into()))?;
        let settings = if self.own_thread {
            // One that hangs would hang again, and keep a thread each time.
            if self.reader.as_ref().is_some_and(|it| !it.is_finished()) {
                return Err(Error::Busy("the configuration is still being read"));
            }
            let (reply, settings) = oneshot::channel();
            let reader = std::thread::Builder::new()
                .name("reload".into())
                .spawn(move || {
                    // Whoever asked may be gone.
                    let _ = reply.send(read());
                })
                .map_err(|error| Error::Start(error.to_string()))?;
            let panicked = |_| Error::Settings("reading the configuration panicked".into());
            let Ok(settings) = timeout(READ_PATIENCE, settings).await else {
                self.reader = Some(reader);
                let late = "the configuration can't be read: it takes too long";
                return Err(Error::Settings(late.into()));
            };
            settings.map_err(panicked)?
        } else {
            read()
        };
        let settings = settings.map_err(|error| Error::Settings(format!("{error:#}")))?;
        settings.check().map_err(Error::Settings)?;
        Ok(settings)
    }
}

/// What a reload changed: names of plugins, in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// Plugins that are told from now on.
    pub added: Vec<Arc<str>>,
    /// Plugins that are told no more. What they are owed is kept for a while, if the ledger can.
    pub removed: Vec<Arc<str>>,
    /// Plugins that go on with another configuration.
    pub changed: Vec<Arc<str>>,
    /// Plugins that were left alone.
    pub unchanged: Vec<Arc<str>>,
    /// What did not change though it was to, for people.
    pub warnings: Vec<String>,
}

impl SessionSupervisor {
    /// Reads the settings again, as [`Builder::on_reload`](crate::Builder::on_reload) says, and
    /// goes on with them: plugins, budgets of the shutdown, limits of sessions. No session ends by
    /// it, and no event is lost. Reloads that are asked for at once come one after the other.
    /// One that has begun is finished, even if this future is dropped.
    ///
    /// A plugin that changed finishes what is under way, then goes on where it was; a new one is
    /// told from now on, or from where it was when it was removed; one that is removed has a second
    /// to finish.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] when the settings can't be read or can't work together, or when there
    /// is no `on_reload`, or when reading takes longer than 30 s; [`Error::Busy`] while such a read
    /// goes on, or 16 reloads wait; [`Error::Start`] when a thread can't be started; [`Error::ShuttingDown`];
    /// [`Error::Ledger`]: nothing has changed then.
    /// [`Error::Stopped`].
    pub async fn reload(&self) -> Result<Reloaded, Error> {
        self.check_open()?;
        let (reply, reloaded) = oneshot::channel();
        self.reloads
            .ask
            .try_send(reply)
            .map_err(|error| match error {
                TrySendError::Full(_) => Error::Busy("too many reloads wait already"),
                TrySendError::Closed(_) => Error::Stopped,
            })?;
        reloaded.await.map_err(|_| Error::Stopped)?
    }

    /// Sees reloads begin and end, by signal too.
    pub fn reload_state(&self) -> watch::Receiver<ReloadState> {
        self.reloads.state.clone()
    }
}
