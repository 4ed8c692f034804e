//! The supervisor: what ties the actors together, and the handle that a service holds.

mod builder;
mod holders;
mod live;
mod operations;
mod reload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join3;
use tokio::time::{Instant, timeout};

#[cfg(feature = "cli")]
pub(crate) use self::builder::DEFAULT_RETENTION;
pub use self::builder::{Builder, Threads};
pub use self::holders::Hold;
pub use self::live::LiveSettings;
use self::reload::Reloads;
pub use self::reload::{ReloadState, Reloaded};
use crate::bus::{
    DeliveryState, DeliveryStates, PluginBus, PluginStatus, PluginStatuses, Watermarks,
};
use crate::error::Error;
use crate::event::{InstanceId, Seq};
use crate::filter::SessionFilter;
use crate::ledger::{LedgerHealth, Recovery, SessionRecord};
use crate::monitor::{Counts, DrainProgress, Ping, Watcher, Watching};
use crate::registry::{
    CountActive, CountMatching, Door, EndMatching, Ended, EndedMatching, EndedSession, Find,
    ListSessions, SessionGuard, SessionRegistry, SharedSessions, Snapshot, StartGuarded, Started,
    StartedSession, Touch,
};
use crate::session::{NewSession, Session, SessionId};
use crate::shutdown::{
    AskForCap, BeginShutdown, Deferral, ReportArchive, ReportWatch, Shutdown, ShutdownCoordinator,
    ShutdownNotice, ShutdownReport, TeardownSteps,
};

/// The handle of a running supervisor. Cheap to clone, and usable from any thread and runtime.
///
/// Dropping it stops nothing: sessions end with their program, or by [`shutdown`](Self::shutdown).
#[derive(Debug, Clone)]
#[must_use = "without its handle a supervisor that runs can't be told of anything"]
pub struct SessionSupervisor {
    instance: InstanceId,
    door: Door,
    active: SharedSessions,
    watermarks: Watermarks,
    registry: Addr<SessionRegistry>,
    bus: Addr<PluginBus>,
    coordinator: Addr<ShutdownCoordinator>,
    pub(crate) teardown_steps: TeardownSteps,
    health: LedgerHealth,
    recovery: Arc<Recovery>,
    archive: Option<ReportArchive>,
    reports: ReportWatch,
    reloads: Reloads,
    watching: Watching,
    deferral: Option<Deferral>,
}

impl SessionSupervisor {
    /// Sets up a supervisor.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// This run of the supervisor.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The registry, for messages.
    pub fn registry(&self) -> &Addr<SessionRegistry> {
        &self.registry
    }

    /// The bus, for messages.
    pub fn bus(&self) -> &Addr<PluginBus> {
        &self.bus
    }

    /// The coordinator, for messages.
    pub fn coordinator(&self) -> &Addr<ShutdownCoordinator> {
        &self.coordinator
    }

    /// A session starts, or an active one gets new details. Recorded when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::ShuttingDown`], [`Error::TooManySessions`], [`Error::Busy`] and, where it
    /// names a holder, [`Error::HeldElsewhere`] and [`Error::RunIsOver`]; [`Error::Ledger`]: nothing has
    /// started then. [`Error::Stopped`].
    pub async fn started(&self, new: impl Into<NewSession>) -> Result<StartedSession, Error> {
        self.registry.send(Started(new.into())).await?
    }

    /// A session starts, as with [`started`](Self::started), and ends when the guard that this answers
    /// is dropped: the way for sessions that are as long as a connection, a task or a request. Dropping
    /// the future leaves no session behind either.
    ///
    /// # Errors
    ///
    /// Those of [`started`](Self::started).
    pub async fn guard(&self, new: impl Into<NewSession>) -> Result<SessionGuard, Error> {
        self.registry.send(StartGuarded(new.into())).await?
    }

    /// A session ends. Recorded when this returns; ending what is not active changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a reason that only the supervisor may find, or a detail that is too
    /// long; [`Error::Ledger`]: it has not ended then. [`Error::Stopped`].
    pub async fn ended(&self, ended: Ended) -> Result<EndedSession, Error> {
        self.registry.send(ended).await?
    }

    /// A session is active, so it is not idle.
    ///
    /// # Errors
    ///
    /// [`Error::NotActive`], [`Error::Stopped`].
    pub async fn touch(&self, touch: Touch) -> Result<(), Error> {
        let Touch { id, incarnation } = &touch;
        // The registry need not be asked, unless to say that it is gone.
        if self.registry.connected() && self.active.touch(id, *incarnation, Instant::now()) {
            return Ok(());
        }
        self.registry.send(touch).await?
    }

    /// All active sessions, in no particular order.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn snapshot(&self) -> Result<Vec<Arc<Session>>, Error> {
        Ok(self.registry.send(Snapshot).await?)
    }

    /// How many sessions are active.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn active_sessions(&self) -> Result<usize, Error> {
        Ok(self.registry.send(CountActive).await?)
    }

    /// How many active sessions meet a filter.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn count_matching(&self, filter: SessionFilter) -> Result<usize, Error> {
        Ok(self.registry.send(CountMatching(filter)).await?)
    }

    /// Sessions that meet a filter, in the order of their starts, a page at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Ledger`], [`Error::Stopped`].
    pub async fn list(&self, query: ListSessions) -> Result<Vec<SessionRecord>, Error> {
        self.registry.send(query).await?
    }

    /// Ends every active session that meets a filter.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a reason that only the supervisor may find; [`Error::Ledger`]: some
    /// may have ended, and asking again ends the others. [`Error::Stopped`].
    pub async fn end_matching(&self, message: EndMatching) -> Result<EndedMatching, Error> {
        self.registry.send(message).await?
    }

    /// What is known of an id: the active session, or the one that ended last.
    ///
    /// # Errors
    ///
    /// [`Error::Ledger`], [`Error::Stopped`].
    pub async fn find(&self, id: &SessionId) -> Result<Option<SessionRecord>, Error> {
        if self.registry.connected()
            && let Some(active) = self.active.record(id)
        {
            return Ok(Some(active));
        }
        self.registry.send(Find(id.clone())).await?
    }

    /// What has become of the last event of a session, per plugin that hears of it.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn delivery_states(
        &self,
        record: &SessionRecord,
    ) -> Result<BTreeMap<Arc<str>, DeliveryState>, Error> {
        let delivered = self.watermarks.delivered(record);
        let states = match delivered.filter(|_| self.bus.connected()) {
            Some(delivered) => delivered,
            None => self.bus.send(DeliveryStates(record.clone())).await?,
        };
        Ok(states.into_iter().collect())
    }

    /// How the plugins are, in the order of their registration.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn plugins(&self) -> Result<Vec<PluginStatus>, Error> {
        Ok(self.bus.send(PluginStatuses).await?)
    }

    /// Watches what happens to sessions and deliveries: from now on, or from the place `after` in the
    /// log on, such as the [`seq`](crate::Event::seq) of the last event that an earlier watcher saw.
    pub fn watch(&self, after: Option<Seq>) -> Watcher {
        self.watching.watch(after)
    }

    /// The place of the last start or end that is recorded; 0 while there is none.
    #[cfg(feature = "gateway")]
    pub(crate) fn log_head(&self) -> Seq {
        *self.watching.head.borrow()
    }

    /// How far the drain of a shutdown is; without plugins where none has begun.
    pub fn drain_progress(&self) -> DrainProgress {
        self.watching.monitor.drain_progress()
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.watching.monitor.counts()
    }

    /// How many bytes the ledger takes on disk, if it is on one.
    pub fn ledger_size_bytes(&self) -> Option<u64> {
        self.watching.ledger.size_bytes()
    }

    /// Whether a shutdown was asked for.
    pub fn is_stopping(&self) -> bool {
        !self.door.is_open()
    }

    /// Which of registry, bus and coordinator give no sign of life for this long. A program that is
    /// watched, as by the watchdog of a service manager, should have none of them.
    ///
    /// # Panics
    ///
    /// On another runtime than one of tokio's with time.
    pub async fn unresponsive(&self, within: Duration) -> Vec<&'static str> {
        let registry = timeout(within, self.registry.send(Ping));
        let bus = timeout(within, self.bus.send(Ping));
        let coordinator = timeout(within, self.coordinator.send(Ping));
        let (registry, bus, coordinator) = join3(registry, bus, coordinator).await;
        let answers = [
            ("registry", registry),
            ("bus", bus),
            ("coordinator", coordinator),
        ];
        let silent = answers
            .into_iter()
            .filter(|(_, answer)| !matches!(answer, Ok(Ok(()))));
        silent.map(|(name, _)| name).collect()
    }

    /// Waits until a shutdown is asked for, whoever asks for it.
    pub async fn stopping(&self) {
        let Some(deferral) = &self.deferral else {
            return self.door.closed().await;
        };
        tokio::select! {
            _ = deferral.asked() => {}
            () = self.door.closed() => {}
        }
    }

    /// Whether new sessions are taken: false from the moment that a shutdown is asked for, and while
    /// the ledger can't write.
    pub fn is_ready(&self) -> bool {
        self.check_ready().is_ok()
    }

    /// Says why new sessions are not taken, for a service's own health route: see
    /// [`is_ready`](Self::is_ready).
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`], [`Error::Ledger`].
    pub fn check_ready(&self) -> Result<(), Error> {
        if !self.door.is_open() {
            return Err(Error::ShuttingDown);
        }
        Ok(self.health.check()?)
    }

    /// How long lifecycle hooks and session-end drain of a stop may take together, as set last.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn cap(&self) -> Result<Duration, Error> {
        Ok(self.coordinator.send(AskForCap).await?)
    }

    /// What was found of the run before this one when it started.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Adds a teardown step, as [`Builder::teardown_step`] does. Steps added after the teardown
    /// has begun never run.
    pub fn add_teardown_step<F, R>(&self, name: impl Into<String>, run: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.teardown_steps.add(name, run);
    }

    /// Shuts down: closes the door, ends every session, tells every plugin, all inside the cap.
    /// Joins a shutdown that is under way, and answers the report of one that is over.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when the supervisor was torn down without a report.
    pub async fn shutdown(&self, shutdown: Shutdown) -> Result<Arc<ShutdownReport>, Error> {
        // The answer may be late for a system that has stopped; the report is there all the same.
        self.close_door();
        self.coordinator.do_send(shutdown);
        self.stopped().await
    }

    /// Begins a shutdown, as [`shutdown`](Self::shutdown) does, and answers at once.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when the supervisor has stopped.
    pub async fn begin_shutdown(&self, shutdown: Shutdown) -> Result<ShutdownNotice, Error> {
        self.close_door();
        Ok(self.coordinator.send(BeginShutdown(shutdown)).await?)
    }

    /// The door closes with the request, unless that is kept back.
    fn close_door(&self) {
        if !self.deferral.as_ref().is_some_and(Deferral::is_kept) {
            self.door.close();
        }
    }

    /// The report of the last stop that is kept in the state directory: as long as this
    /// supervisor runs, that of the one before. None if there is none, or no state directory.
    ///
    /// Reads a file, which blocks the caller's thread for a moment.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or is no report.
    pub fn last_report(&self) -> std::io::Result<Option<ShutdownReport>> {
        let archive = self.archive.as_ref();
        archive.map_or(Ok(None), ReportArchive::last)
    }

    /// Waits until a shutdown is over, whoever asks for it.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when the supervisor was torn down without a report.
    pub async fn stopped(&self) -> Result<Arc<ShutdownReport>, Error> {
        self.reports.wait().await
    }
}
