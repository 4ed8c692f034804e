//! Plugins: who is told, how they are made, and how patiently they are served.

mod adapter;
#[cfg(feature = "command")]
mod command;
mod log;
#[cfg(test)]
mod sample;
#[cfg(feature = "sqlite")]
mod sql;
#[cfg(feature = "webhook")]
mod webhook;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use self::adapter::PluginActor;
pub use self::adapter::{Panicked, PerSession};
#[cfg(feature = "command")]
pub use self::command::{CommandMode, CommandPlugin, CommandSettings};
pub use self::log::LogPlugin;
#[cfg(feature = "sqlite")]
pub use self::sql::{SqlPlugin, SqlSettings};
#[cfg(feature = "webhook")]
pub use self::webhook::{WebhookBody, WebhookPlugin, WebhookSettings};
use crate::event::{Deadline, Deliver, Event, Hook, Hooks};
use crate::place::Place;

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

/// How patiently a plugin is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryPolicy {
    /// How long one delivery may take; while draining never past the cap. Default 5 s.
    pub timeout: Duration,
    /// How long a plugin that is down is tried before its owed events become dead letters.
    /// Default 72 h.
    pub retry_for: Duration,
    /// The first wait after a failed round; doubles up to [`backoff_max`](Self::backoff_max) and
    /// starts over after any acknowledgement. Default 1 s.
    pub backoff: Duration,
    /// The longest wait after a failed round. Default 5 min.
    pub backoff_max: Duration,
    /// How often an event may be rejected by itself before it becomes a dead letter. Default 5.
    pub max_attempts: u32,
    /// The most events in one delivery. Default 4096.
    pub max_batch: usize,
    /// The most deliveries side by side, never two of one session. Default 1: a plugin that
    /// works through its events in order on its own thread gains nothing from more.
    pub max_in_flight: usize,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            retry_for: Duration::from_secs(72 * 3600),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            max_attempts: 5,
            max_batch: Self::MAX_BATCH,
            max_in_flight: 1,
        }
    }
}

/// Ten years: longer than anything is waited for.
const LONGEST: Duration = Duration::from_secs(10 * 31_557_600);

impl DeliveryPolicy {
    /// The most events in one delivery, unless said otherwise.
    pub(crate) const MAX_BATCH: usize = 4096;

    /// The policy for plugins that make a call per event, such as
    /// [`PluginSpec::per_session`]: 8 deliveries side by side, of at most 512 events each. A session
    /// whose call is slow or hangs holds up one of the eight, and not whatever comes later.
    pub fn per_session() -> Self {
        Self {
            max_batch: 512,
            max_in_flight: 8,
            ..Self::default()
        }
    }

    fn check(&self) -> Result<(), String> {
        let too_small = if self.timeout.is_zero() {
            "timeout"
        } else if self.backoff.is_zero() {
            "backoff"
        } else if self.max_attempts == 0 {
            "max_attempts"
        } else if self.max_batch == 0 {
            "max_batch"
        } else if self.max_in_flight == 0 {
            "max_in_flight"
        } else if self.backoff_max < self.backoff {
            return Err("backoff_max must be at least backoff".into());
        } else if self.timeout.max(self.backoff_max) > LONGEST {
            // Longer ones are not to be reckoned with.
            return Err("timeout and backoff_max must be at most ten years".into());
        } else {
            return Ok(());
        };
        Err(format!("{too_small} must be more than zero"))
    }
}

/// What a plugin was made of, and how to compare it.
#[derive(Clone)]
struct Configuration {
    value: Arc<dyn Any + Send + Sync>,
    is_same: fn(&dyn Any, &dyn Any) -> bool,
}

impl Configuration {
    fn new<C: PartialEq + Send + Sync + 'static>(value: C) -> Self {
        let is_same = |one: &dyn Any, other: &dyn Any| {
            let pair = one.downcast_ref::<C>().zip(other.downcast_ref::<C>());
            pair.is_some_and(|(one, other)| one == other)
        };
        Self {
            value: Arc::new(value),
            is_same,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.is_same)(&*self.value, &*other.value)
    }
}

type Factory = Arc<dyn Fn(&Place) -> Recipient<Deliver> + Send + Sync>;

/// A plugin as it is registered: its name, what it listens to, how patiently it is served, and
/// how its actor is made.
#[derive(Clone)]
#[must_use = "a plugin is told of nothing until it is given to a builder"]
pub struct PluginSpec {
    name: Arc<str>,
    hooks: Hooks,
    policy: DeliveryPolicy,
    factory: Factory,
    is_replaceable: bool,
    opens: bool,
    configuration: Option<Configuration>,
}

impl PluginSpec {
    /// A [`Plugin`]. `make` is called on the plugin's own thread, and again when the plugin has
    /// to be replaced.
    pub fn new<P: Plugin>(
        name: impl Into<Arc<str>>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let named = Arc::clone(&name);
        Self::actor(name, move || PluginActor::new(&named, &make))
    }

    /// An actor. `make` is called on the plugin's own thread, and again when the actor has died:
    /// actix does not restart an actor that panicked, its mailbox just closes.
    pub fn actor<A>(name: impl Into<Arc<str>>, make: impl Fn() -> A + Send + Sync + 'static) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Deliver>,
    {
        let make = Arc::new(make);
        Self::with_factory(
            name,
            Arc::new(move |place| {
                let make = Arc::clone(&make);
                place.start(move || make()).recipient()
            }),
        )
    }

    /// An actor that runs already, where its owner started it. It can't be replaced: when it has
    /// died, or while it hangs, its events stay owed.
    pub fn running(name: impl Into<Arc<str>>, actor: impl Into<Recipient<Deliver>>) -> Self {
        let actor = actor.into();
        Self {
            is_replaceable: false,
            ..Self::with_factory(name, Arc::new(move |_| actor.clone()))
        }
    }

    /// A closure that is called once per event, for sessions side by side, for one session in
    /// order. See [`PerSession`]. It is served by [`DeliveryPolicy::per_session`] unless it gets
    /// another policy.
    pub fn per_session<F, R>(name: impl Into<Arc<str>>, call: F) -> Self
    where
        F: Fn(Event) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        Self::per_session_with_deadline(name, move |event, _| call(event))
    }

    /// A closure that is called once per event, with the deadline of the delivery: to tell others how
    /// much time there is, and for work that does not end with the call's future, such as a job for
    /// `spawn_blocking`.
    ///
    /// ```
    /// use session_supervisor::{Down, PluginSpec};
    ///
    /// let archive = PluginSpec::per_session_with_deadline("archive", |event, deadline| async move {
    ///     let archived = tokio::task::spawn_blocking(move || {
    ///         let record = format!("{} {}", event.hook(), event.id());
    ///         // By now the event may have been given up, and be on its way again.
    ///         if deadline.is_over() {
    ///             return Err(Down::new(anyhow::anyhow!("too late")));
    ///         }
    ///         println!("{record}");
    ///         Ok(())
    ///     });
    ///     Ok(archived.await??)
    /// });
    /// ```
    pub fn per_session_with_deadline<F, R>(name: impl Into<Arc<str>>, call: F) -> Self
    where
        F: Fn(Event, Deadline) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        let spec = Self::new(name, move || PerSession::new(call.clone()));
        spec.with_policy(DeliveryPolicy::per_session())
    }

    fn with_factory(name: impl Into<Arc<str>>, factory: Factory) -> Self {
        Self {
            name: name.into(),
            hooks: Hooks::SESSION,
            policy: DeliveryPolicy::default(),
            factory,
            is_replaceable: true,
            opens: false,
            configuration: None,
        }
    }

    /// Listens to these hooks instead of `session_start` and `session_end`.
    pub fn with_hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    /// Is served by this policy instead of the default one.
    pub fn with_policy(mut self, policy: DeliveryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Is told `gateway_start` with the [ids of the active sessions](crate::Deliver::active), before
    /// anything else that its lane delivers in this process, and again and again until it takes that:
    /// to put in order what a process before has left. It must listen to the hook; elsewhere
    /// `gateway_start` is told once, best effort, and beside the lane.
    pub fn with_opening(mut self) -> Self {
        self.opens = true;
        self
    }

    /// Says what the plugin was made of. At a reload, a plugin is left alone whose configuration,
    /// hooks and policy are equal to those of the running one; without a configuration it counts
    /// as changed.
    pub fn with_configuration<C>(mut self, configuration: C) -> Self
    where
        C: PartialEq + Send + Sync + 'static,
    {
        self.configuration = Some(Configuration::new(configuration));
        self
    }

    /// Shows `look` each actor that is made for the plugin.
    pub(crate) fn observed<F>(mut self, look: F) -> Self
    where
        F: Fn(&Recipient<Deliver>) + Send + Sync + 'static,
    {
        let make = self.factory;
        self.factory = Arc::new(move |place| {
            let actor = make(place);
            look(&actor);
            actor
        });
        self
    }

    /// Whether `other` would do the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let both = self
            .configuration
            .as_ref()
            .zip(other.configuration.as_ref());
        self.name == other.name
            && self.hooks == other.hooks
            && self.policy == other.policy
            && self.opens == other.opens
            && both.is_some_and(|(one, other)| one.is_same(other))
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Whether its lane begins with an opening.
    pub(crate) fn opens(&self) -> bool {
        self.opens && self.hooks.contains(Hook::GatewayStart)
    }

    /// The hooks that it listens to.
    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Whether it is told of ends.
    pub fn hears_ends(&self) -> bool {
        self.hooks.contains(Hook::SessionEnd)
    }

    /// How patiently it is served.
    pub fn policy(&self) -> &DeliveryPolicy {
        &self.policy
    }

    /// Whether another actor can be made in place of one that hangs or has died.
    pub(crate) fn is_replaceable(&self) -> bool {
        self.is_replaceable
    }

    /// Makes the plugin's actor at `place`.
    pub(crate) fn start(&self, place: &Place) -> Recipient<Deliver> {
        (self.factory)(place)
    }

    /// Says what is wrong with the name or the policy.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        self.policy
            .check()
            .map_err(|problem| format!("plugin `{}`: {problem}", self.name))
    }
}

/// Says what is wrong with a plugin's name.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(format!(
        "plugin name {name:?} is malformed, expected 1 to 64 characters of a-z, 0-9, `_` and `-`"
    ))
}

impl fmt::Debug for PluginSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginSpec")
            .field("name", &self.name)
            .field("hooks", &self.hooks)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
