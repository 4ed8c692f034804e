//! Plugins: who is told, how they are made, and how patiently they are served.

mod adapter;
#[cfg(feature = "command")]
mod command;
mod log;
mod policy;
#[cfg(test)]
mod sample;
mod spec;
#[cfg(feature = "sqlite")]
mod sql;
#[cfg(feature = "webhook")]
mod webhook;

use std::fmt;
use std::time::Duration;

pub use self::adapter::{Panicked, PerSession};
#[cfg(feature = "command")]
pub use self::command::{CommandMode, CommandPlugin, CommandSettings};
pub use self::log::LogPlugin;
pub use self::policy::DeliveryPolicy;
pub use self::spec::PluginSpec;
#[cfg(feature = "cli")]
pub(crate) use self::spec::check_name;
#[cfg(feature = "sqlite")]
pub use self::sql::{SqlPlugin, SqlSettings};
#[cfg(feature = "webhook")]
pub use self::webhook::{WebhookBody, WebhookPlugin, WebhookSettings};
use crate::event::Deliver;

/// Someone who is told of starts and ends.
///
/// Plugins live in an actor on a thread of their own, so `deliver` may block that thread: it then
/// delays nobody but itself. Where several deliveries may be under way at once
/// ([`DeliveryPolicy::max_in_flight`]), `deliver` is called again while an earlier call waits,
/// never for two events of one session. A lifecycle event comes beside whatever is under way.
///
/// When the time of a delivery is over its future is dropped where it waits, so that it does not
/// run beside the next attempt.
///
/// A type that is an actor already needs no `Plugin`: implement `Handler<Deliver>` for it and
/// register it with [`PluginSpec::actor`].
pub trait Plugin: 'static {
    /// Takes a batch of events.
    ///
    /// # Errors
    ///
    /// [`Down`] when the plugin can't work at present: it is tried again later with the same
    /// events. [`Disabled`] when it never will. Any other error is the failure of the events that got no answer through
    /// [`Deliver::acks`]: they are then tried one by one, and an event that fails by itself
    /// repeatedly becomes a dead letter.
    fn deliver(&self, delivery: &Deliver) -> impl Future<Output = anyhow::Result<()>>;
}

/// The failure of a plugin that can't work at present, whatever it is asked: a refused
/// connection, a locked database, a full disk. No event is blamed for it.
#[derive(Debug)]
pub struct Down {
    error: anyhow::Error,
    retry_after: Option<Duration>,
}

impl Down {
    /// Says that the plugin is down because of `error`.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self {
            error: error.into(),
            retry_after: None,
        }
    }

    /// Asks for no further attempt before this much time has passed. What the plugin's backoff
    /// comes to is waited for in any case, and a shutdown tries once all the same.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn wait(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Down {}

/// The failure of a plugin that wants to be told nothing more: whoever it speaks for has gone for
/// good. It is disabled until an operator resumes it, or until the next start; its events stay
/// owed.
#[derive(Debug)]
pub struct Disabled(anyhow::Error);

impl Disabled {
    /// Says that the plugin is to be disabled because of `error`.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Disabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Disabled {}

/// The failure of a plugin that noticed by itself that the time of a delivery is over. It counts
/// like a delivery that does not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("timed out: {0}")]
pub(crate) struct OutOfTime(pub(crate) &'static str);
