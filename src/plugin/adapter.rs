//! From a [`Plugin`] to an actor, and from a call per event to a plugin.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use actix::prelude::*;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tracing::{Instrument as _, Span, error_span};

use super::{Disabled, Down, OutOfTime, Plugin};
use crate::event::{Deadline, Deliver, Event};
use crate::session::SessionId;

/// The actor around a [`Plugin`].
pub(super) struct PluginActor<P> {
    plugin: Rc<P>,
    /// So that what the plugin logs names it, whatever the level that is logged.
    span: Span,
}

impl<P: Plugin> PluginActor<P> {
    /// The plugin that `make` makes.
    pub(super) fn new(name: &str, make: impl FnOnce() -> P) -> Self {
        let span = error_span!("plugin", plugin = name);
        let plugin = Rc::new(span.in_scope(make));
        Self { plugin, span }
    }
}

impl<P: Plugin> Actor for PluginActor<P> {
    type Context = Context<Self>;
}

impl<P: Plugin> Handler<Deliver> for PluginActor<P> {
    type Result = ResponseFuture<anyhow::Result<()>>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        let plugin = Rc::clone(&self.plugin);
        let delivering = async move {
            // It waited behind something that blocked this thread.
            if delivery.deadline.is_over() {
                return Err(OutOfTime("cut off").into());
            }
            let work = caught(async { plugin.deliver(&delivery).await });
            tokio::select! {
                biased;
                result = work => result,
                // The lane has given up on it: what goes on would run beside the next attempt.
                () = delivery.deadline.over() => Err(OutOfTime("cut off").into()),
            }
        };
        Box::pin(delivering.instrument(self.span.clone()))
    }
}

/// A plugin's code panicked. What it had not acknowledged is tried again.
#[derive(Debug)]
pub struct Panicked(String);

impl Panicked {
    fn new(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self(message.unwrap_or_else(|| "(a value that is no text)".into()))
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// Turns a panic of `work` into an error, so that it costs neither the actor nor its mailbox.
async fn caught(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(payload) => Err(Panicked::new(&*payload).into()),
    }
}

/// A plugin that makes one call per event: sessions side by side, the events of one session in
/// order. An event whose call fails is rejected by itself; the others are not held up by it.
///
/// The call gets the event and the [`Deadline`] of the delivery that it came in.
#[derive(Debug)]
pub struct PerSession<F> {
    call: F,
}

impl<F, R> PerSession<F>
where
    F: Fn(Event, Deadline) -> R + 'static,
    R: Future<Output = anyhow::Result<()>>,
{
    /// A plugin that makes `call` for each event. A panic and an error that is [`Down`] or [`Disabled`]
    /// fail the plugin, any other error the event.
    pub fn new(call: F) -> Self {
        Self { call }
    }

    /// Makes the calls for the events at `indices`, which are of one session. Stops at the first
    /// that fails, since the later ones must not overtake it.
    async fn serve_one_session(
        &self,
        delivery: &Deliver,
        indices: Vec<usize>,
    ) -> Result<(), anyhow::Error> {
        let mut indices = indices.into_iter();
        while let Some(index) = indices.next() {
            let event = delivery.events[index].clone();
            let deadline = delivery.deadline.clone();
            match caught(async { (self.call)(event, deadline).await }).await {
                Ok(()) => delivery.acks.acknowledge(index),
                Err(error) if is_of_plugin(&error) => return Err(error),
                Err(error) => {
                    delivery.acks.reject(index, error);
                    if indices.len() > 0 {
                        anyhow::bail!("not tried, since an earlier event of its session failed");
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether an error of one call says something of the plugin, and nothing of the event.
fn is_of_plugin(error: &anyhow::Error) -> bool {
    error.is::<Down>() || error.is::<Disabled>() || error.is::<Panicked>()
}

impl<F, R> Plugin for PerSession<F>
where
    F: Fn(Event, Deadline) -> R + 'static,
    R: Future<Output = anyhow::Result<()>>,
{
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let mut sessions: HashMap<Option<&SessionId>, Vec<usize>> = HashMap::new();
        for (index, event) in delivery.events.iter().enumerate() {
            let id = event.session().map(|session| &session.id);
            sessions.entry(id).or_default().push(index);
        }

        let mut calls: FuturesUnordered<_> = sessions
            .into_values()
            .map(|indices| self.serve_one_session(delivery, indices))
            .collect();
        let mut failure = None;
        while let Some(result) = calls.next().await {
            match result {
                // That the plugin is down says more than that one event was not tried.
                Err(error) if failure.is_none() || is_of_plugin(&error) => failure = Some(error),
                _ => {}
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
