//! What operators do with plugins.

use super::SessionSupervisor;
use crate::bus::{
    DiscardDeadLetters, ListDeadLetters, PluginStatus, PluginTest, Redeliver, Redelivered,
    ResumePlugin, TestPlugin,
};
use crate::error::Error;
use crate::event::{EventId, Seq};
use crate::ledger::Parked;

impl SessionSupervisor {
    /// Sends a plugin a start and an end of a session that does not exist, those of the two that it
    /// listens to. Both are [synthetic](crate::Event::is_synthetic) and recorded nowhere, and each
    /// delivery has the time that the plugin's policy gives one.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPlugin`], [`Error::ShuttingDown`], [`Error::Stopped`].
    pub async fn test_plugin(&self, plugin: &str) -> Result<PluginTest, Error> {
        self.check_open()?;
        self.bus.send(TestPlugin(plugin.into())).await?
    }

    /// At most `limit` of a plugin's dead letters, in log order: those after the place `after` in
    /// the log, such as that of the last one of the page before; 0 for the first page.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPlugin`], [`Error::Ledger`], [`Error::Stopped`].
    pub async fn dead_letters(
        &self,
        plugin: &str,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Parked>, Error> {
        let plugin = plugin.into();
        let message = ListDeadLetters {
            plugin,
            after,
            limit,
        };
        self.bus.send(message).await?
    }

    /// Puts a plugin's dead letters back into its lane as if they were new, the events of each
    /// session in their order: all, or one with those of its incarnation. Recorded when this
    /// returns.
    ///
    /// As many as the lane has room for: 5,000 events that wait there, half of the room being for
    /// events that fail meanwhile. The answer says how many dead letters are left.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPlugin`], [`Error::ShuttingDown`], [`Error::Stopped`]; [`Error::Busy`] while
    /// 64 such changes wait; [`Error::Ledger`]: some may be back, and asking again puts back the others.
    pub async fn redeliver(
        &self,
        plugin: &str,
        event: Option<EventId>,
    ) -> Result<Redelivered, Error> {
        self.check_open()?;
        let plugin = plugin.into();
        self.bus.send(Redeliver { plugin, event }).await?
    }

    /// Lets go of a plugin's dead letters, all or one: the plugin is never told of them. Recorded
    /// when this returns. Answers how many there were.
    ///
    /// Those that a lane has yet to go past, as after a crash, stay for the moment.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPlugin`], [`Error::ShuttingDown`], [`Error::Stopped`]; [`Error::Busy`] while
    /// 64 such changes wait; [`Error::Ledger`]: some may be gone, and asking again lets go of the others.
    pub async fn discard_dead_letters(
        &self,
        plugin: &str,
        event: Option<EventId>,
    ) -> Result<u64, Error> {
        self.check_open()?;
        let plugin = plugin.into();
        self.bus.send(DiscardDeadLetters { plugin, event }).await?
    }

    /// Tries a plugin at once that failed and waits for its next attempt, and the events that wait
    /// for theirs. Answers how the plugin is.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPlugin`], [`Error::ShuttingDown`], [`Error::Stopped`].
    pub async fn resume_plugin(&self, plugin: &str) -> Result<PluginStatus, Error> {
        self.check_open()?;
        self.bus.send(ResumePlugin(plugin.into())).await?
    }

    /// Refuses what has no place in a shutdown.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        self.door.is_open().then_some(()).ok_or(Error::ShuttingDown)
    }
}
