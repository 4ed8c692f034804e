//! A plugin as it is registered.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use actix::prelude::*;

use super::adapter::{PerSession, PluginActor};
use super::{DeliveryPolicy, Plugin};
use crate::event::{Deadline, Deliver, Event, Hook, Hooks};
use crate::place::Place;
use crate::session::{End, Session};

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

    /// A closure that is called for each end, as [`per_session`](Self::per_session) is for each event: for
    /// what wants to know of nothing else. An end that it is told twice has the same
    /// [`incarnation`](Session::incarnation). It is not called for test events, which tell of no real
    /// session.
    ///
    /// ```
    /// use session_supervisor::PluginSpec;
    ///
    /// let billing = PluginSpec::on_end("billing", |session, end| async move {
    ///     println!("{} is over: {}", session.id, end.reason);
    ///     Ok(())
    /// });
    /// ```
    pub fn on_end<F, R>(name: impl Into<Arc<str>>, call: F) -> Self
    where
        F: Fn(Arc<Session>, Arc<End>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        let call = move |event: Event| {
            let event = Some(event).filter(|event| !event.is_synthetic());
            let ended = event.and_then(|it| it.session().cloned().zip(it.how_ended().cloned()));
            let told = ended.map(|(session, end)| call(session, end));
            async move {
                match told {
                    Some(told) => told.await,
                    None => Ok(()),
                }
            }
        };
        Self::per_session(name, call).with_hooks(Hooks::NONE.with(Hook::SessionEnd))
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

impl fmt::Debug for PluginSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginSpec")
            .field("name", &self.name)
            .field("hooks", &self.hooks)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
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
