//! The reload: settings are read again, and what changed is changed while everything runs.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{LiveSettings, SessionSupervisor};
use crate::bus::{PluginChanges, Reconfigure};
use crate::error::Error;
use crate::shutdown::Adjust;

pub(super) type ReadSettings = dyn Fn() -> anyhow::Result<LiveSettings> + Send + Sync;

/// Whoever waits for what comes of a reload.
type Reply = oneshot::Sender<Result<Reloaded, Error>>;

/// How many reloads may wait for their turn before whoever asks for one more waits to ask.
const MAX_WAITING: usize = 16;

/// Where reloads are asked for.
#[derive(Debug, Clone)]
pub(super) struct Reloads(mpsc::Sender<Reply>);

/// Carries out reloads, one after the other. It lives in a task of the supervisor's own, so that a
/// reload that has begun is finished, whether or not somebody still waits for it.
pub(super) struct Reloader {
    read: Option<Arc<ReadSettings>>,
    /// Whether settings are read on a thread of their own, since a disk may hang; here otherwise.
    own_thread: bool,
    asked: mpsc::Receiver<Reply>,
}

impl Reloader {
    pub(super) fn new(read: Option<Arc<ReadSettings>>, own_thread: bool) -> (Reloads, Self) {
        let (ask, asked) = mpsc::channel(MAX_WAITING);
        let reloader = Self {
            read,
            own_thread,
            asked,
        };
        (Reloads(ask), reloader)
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
            let reloaded = self.reload(&supervisor).await;
            match (reply, reloaded) {
                // Whoever asked may be gone.
                (Some(reply), reloaded) => drop(reply.send(reloaded)),
                (None, Ok(_)) => {}
                (None, Err(error)) => error!(%error, "not reloaded: everything stays as it is"),
            }
        }
    }

    async fn reload(&self, supervisor: &SessionSupervisor) -> Result<Reloaded, Error> {
        supervisor.check_open()?;
        let settings = self.read().await?;
        let (budget, limits) = (settings.budget(), settings.limits());
        let plugins = settings.plugins;
        let changes = supervisor.bus.send(Reconfigure(plugins)).await??;
        let adjust = Adjust {
            budget,
            restart_expected: settings.restart_expected,
        };
        supervisor.coordinator.send(adjust).await??;
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
    async fn read(&self) -> Result<LiveSettings, Error> {
        let nothing = "there is no configuration to read again";
        let read = self.read.as_ref().map(Arc::clone);
        let read = read.ok_or_else(|| Error::Settings(nothing.into()))?;
        let settings = if self.own_thread {
            let (reply, settings) = oneshot::channel();
            std::thread::Builder::new()
                .name("reload".into())
                .spawn(move || {
                    // Whoever asked may be gone.
                    let _ = reply.send(read());
                })
                .map_err(|error| Error::Start(error.to_string()))?;
            let panicked = |_| Error::Settings("reading the configuration panicked".into());
            settings.await.map_err(panicked)?
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
    /// is no `on_reload`; [`Error::ShuttingDown`]; [`Error::Ledger`]: nothing has changed then.
    /// [`Error::Stopped`].
    pub async fn reload(&self) -> Result<Reloaded, Error> {
        self.check_open()?;
        let (reply, reloaded) = oneshot::channel();
        let Reloads(ask) = &self.reloads;
        ask.send(reply).await.map_err(|_| Error::Stopped)?;
        reloaded.await.map_err(|_| Error::Stopped)?
    }
}
