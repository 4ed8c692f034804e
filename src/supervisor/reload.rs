//! The reload: settings are read again, and what changed is changed while everything runs.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{error, info, warn};

use super::{LiveSettings, SessionSupervisor};
use crate::bus::{PluginChanges, Reconfigure};
use crate::error::Error;
use crate::shutdown::Adjust;

pub(super) type ReadSettings = dyn Fn() -> anyhow::Result<LiveSettings> + Send + Sync;

/// How settings are read again, one reload at a time.
#[derive(Clone)]
pub(super) struct Reloader {
    read: Option<Arc<ReadSettings>>,
    /// Whether settings are read on a thread of their own, since a disk may hang; here otherwise.
    own_thread: bool,
    turn: Arc<Mutex<()>>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader")
            .field("can_read", &self.read.is_some())
            .finish_non_exhaustive()
    }
}

impl Reloader {
    pub(super) fn new(read: Option<Arc<ReadSettings>>, own_thread: bool) -> Self {
        Self {
            read,
            own_thread,
            turn: Arc::default(),
        }
    }

    pub(super) fn can_read(&self) -> bool {
        self.read.is_some()
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
        let _turn = self.reloader.turn.lock().await;
        self.check_open()?;
        let settings = self.reloader.read().await?;
        let (budget, limits) = (settings.budget(), settings.limits());
        let plugins = settings.plugins;
        let changes = self.bus.send(Reconfigure(plugins)).await??;
        let adjust = Adjust {
            budget,
            restart_expected: settings.restart_expected,
        };
        self.coordinator.send(adjust).await??;
        self.registry.send(limits).await?;
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

    /// Reloads whenever one asks for it by signal, until the supervisor stops.
    pub(super) async fn reload_on(self, mut hangups: mpsc::Receiver<()>) {
        loop {
            let hangup = tokio::select! {
                hangup = hangups.recv() => hangup,
                _ = self.stopped() => None,
            };
            if hangup.is_none() {
                return;
            }
            if let Err(error) = self.reload().await {
                error!(%error, "not reloaded: everything stays as it is");
            }
        }
    }
}
