//! Plugins that record what they are told.

use std::fmt;
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::watch;

use super::in_time;
use crate::event::{Deliver, Event, Hook};
use crate::plugin::PluginSpec;

/// A line that tells of an event: its hook, its session and the reason of an end, as far as it has
/// them. Such as `session_start A`, `session_end A shutdown` or `gateway_shutdown`.
pub fn line(event: &Event) -> String {
    let session = event.session().map(|session| session.id.to_string());
    let reason = event.how_ended().map(|end| end.reason.to_string());
    let parts = [Some(event.hook().to_string()), session, reason];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The events that plugins were told, in the order in which they came, repeats too. Its clones are
/// the same recording, so that the test can have one and the plugin another.
///
/// ```
/// use session_supervisor::PluginSpec;
/// use session_supervisor::testing::Recording;
///
/// let recording = Recording::new();
/// let told = recording.clone();
/// let plugin = PluginSpec::per_session("audit", move |event| {
///     told.record(&event);
///     async { Ok(()) }
/// });
/// assert!(recording.events().is_empty());
/// ```
#[derive(Clone)]
pub struct Recording {
    events: Arc<watch::Sender<Vec<Event>>>,
}

impl Recording {
    /// A recording of nothing so far.
    pub fn new() -> Self {
        Self {
            events: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// Adds an event.
    pub fn record(&self, event: &Event) {
        self.events.send_modify(|events| events.push(event.clone()));
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    /// The events so far, a [`line()`] for each.
    pub fn lines(&self) -> Vec<String> {
        self.events.borrow().iter().map(line).collect()
    }

    /// The ends so far, with session and reason, such as `A shutdown`. In alphabetical order, since
    /// the ends of a shutdown come in no particular one.
    pub fn ends(&self) -> Vec<String> {
        let events = self.events.borrow();
        let ends = events
            .iter()
            .filter(|event| event.hook() == Hook::SessionEnd);
        let mut ends: Vec<_> = ends
            .map(|event| line(event).replacen("session_end ", "", 1))
            .collect();
        ends.sort();
        ends
    }

    /// Waits until at least `count` events have come, counted from the beginning.
    ///
    /// # Panics
    ///
    /// When they don't come [in time](in_time).
    pub async fn wait_for(&self, count: usize) {
        let mut events = self.events.subscribe();
        // It can't be closed, since this has a sender.
        let _ = in_time(events.wait_for(|events| events.len() >= count)).await;
    }

    /// A plugin that records here and acknowledges everything.
    pub fn plugin(&self, name: impl Into<Arc<str>>) -> PluginSpec {
        let recording = self.clone();
        PluginSpec::actor(name, move || Recorder::new(recording.clone()))
    }
}

impl Default for Recording {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recording").field(&self.lines()).finish()
    }
}

/// A plugin's actor that records every event and acknowledges it.
#[derive(Debug)]
pub struct Recorder {
    recording: Recording,
}

impl Recorder {
    /// One that adds to `recording`.
    pub fn new(recording: Recording) -> Self {
        Self { recording }
    }
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Recorder {
    type Result = anyhow::Result<()>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        let events = delivery.events.iter();
        events.for_each(|event| self.recording.record(event));
        Ok(())
    }
}

/// A plugin that records and acknowledges everything, and what it was told.
pub fn recorder(name: impl Into<Arc<str>>) -> (PluginSpec, Recording) {
    let recording = Recording::new();
    (recording.plugin(name), recording)
}

/// A plugin that records every event and then answers for it as `answer` does, and what it was told.
/// It is called [per event](PluginSpec::per_session).
///
/// ```
/// use session_supervisor::testing::recorder_with;
///
/// let (picky, told) = recorder_with("picky", |event| async move {
///     anyhow::ensure!(event.how_ended().is_none(), "ends are not for me");
///     Ok(())
/// });
/// ```
pub fn recorder_with<F, R>(name: impl Into<Arc<str>>, answer: F) -> (PluginSpec, Recording)
where
    F: Fn(Event) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    let recording = Recording::new();
    let told = recording.clone();
    let call = move |event: Event| {
        told.record(&event);
        answer(event)
    };
    (PluginSpec::per_session(name, call), recording)
}
