//! What the tests share: a supervisor on one arbiter, and plugins that record what they are told.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use session_supervisor::{
    Builder, Deliver, EndReason, Ended, EndedSession, Event, Hook, NewSession, PluginSpec,
    SessionId, SessionKey, SessionSupervisor, Threads, Touch,
};
use tokio::sync::watch;

/// How long anything may take, in virtual time. Every wait has an end.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Runs a test with a clock that stands still unless everyone waits.
pub(crate) fn in_virtual_time(test: impl Future<Output = ()>) {
    System::new().block_on(async {
        tokio::time::pause();
        within(test).await;
    });
}

/// Waits for `work`, and fails when it takes for ever.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("this takes for ever")
}

/// A supervisor on the test's own arbiter.
pub(crate) fn builder() -> Builder {
    SessionSupervisor::builder().threads(Threads::Current)
}

pub(crate) async fn start(builder: Builder) -> SessionSupervisor {
    builder.start().await.expect("the supervisor starts")
}

pub(crate) fn id(text: &str) -> SessionId {
    SessionId::new(text).expect("a valid id")
}

pub(crate) fn session(text: &str) -> NewSession {
    NewSession::new(id(text))
}

pub(crate) fn session_with_key(text: &str, key: &str) -> NewSession {
    session(text).with_key(SessionKey::new(key).expect("a valid key"))
}

/// What tests do all the time.
pub(crate) trait Shorthand {
    async fn begin(&self, id: &str);
    async fn finish(&self, id: &str, reason: EndReason) -> EndedSession;
    async fn active_ids(&self) -> Vec<String>;
    async fn touch_id(&self, id: &str) -> bool;
}

impl Shorthand for SessionSupervisor {
    async fn begin(&self, text: &str) {
        self.started(session(text)).await.expect("it starts");
    }

    async fn finish(&self, text: &str, reason: EndReason) -> EndedSession {
        let ended = self.ended(Ended::new(id(text), reason)).await;
        ended.expect("ending does not fail")
    }

    async fn active_ids(&self) -> Vec<String> {
        let sessions = self.snapshot().await.expect("the registry runs");
        let mut ids: Vec<_> = sessions
            .iter()
            .map(|session| session.id.to_string())
            .collect();
        ids.sort();
        ids
    }

    async fn touch_id(&self, text: &str) -> bool {
        let touch = Touch {
            id: id(text),
            incarnation: None,
        };
        self.touch(touch).await.is_ok()
    }
}

/// A line per event, such as `"session_end A shutdown"` or `"gateway_shutdown"`.
pub(crate) fn line(event: &Event) -> String {
    let session = event.session().map(|session| session.id.to_string());
    let reason = event.how_ended().map(|end| end.reason.to_string());
    let parts = [Some(event.hook().to_string()), session, reason];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What a plugin was told. Shared by clones.
#[derive(Clone, Default)]
pub(crate) struct Recording {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recording {
    pub(crate) fn add(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.events().iter().map(line).collect()
    }

    /// The lines of ends, in alphabetical order.
    pub(crate) fn ends(&self) -> Vec<String> {
        let ends = self.events().into_iter();
        let mut ends: Vec<_> = ends
            .filter(|event| event.hook() == Hook::SessionEnd)
            .map(|event| line(&event).replacen("session_end ", "", 1))
            .collect();
        ends.sort();
        ends
    }

    /// Waits until `count` events have come.
    pub(crate) async fn wait_for(&self, count: usize) {
        within(async {
            while self.events().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// A plugin actor that takes everything.
pub(crate) struct Recorder(pub(crate) Recording);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Recorder {
    type Result = anyhow::Result<()>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        delivery.events.iter().for_each(|event| self.0.add(event));
        Ok(())
    }
}

/// A plugin that takes everything, and what it was told.
pub(crate) fn recorder(name: &str) -> (PluginSpec, Recording) {
    let recording = Recording::default();
    let told = recording.clone();
    let spec = PluginSpec::actor(name, move || Recorder(told.clone()));
    (spec, recording)
}

/// A plugin that is called per event. The call records the event and then does as `answer` says.
pub(crate) fn per_session<R>(
    name: &str,
    answer: impl Fn(Event) -> R + Clone + Send + Sync + 'static,
) -> (PluginSpec, Recording)
where
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    let recording = Recording::default();
    let told = recording.clone();
    let call = move |event: Event| {
        told.add(&event);
        answer(event)
    };
    (PluginSpec::per_session(name, call), recording)
}

/// A gate that a plugin's call can wait at. Closed at first.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn pass(&self) {
        let mut opened = self.0.subscribe();
        opened.wait_for(|open| *open).await.expect("the gate stays");
    }
}

/// A plugin that lets ends wait at a gate, what it was told, and the gate.
pub(crate) fn gated_at_ends(name: &str) -> (PluginSpec, Recording, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let (plugin, told) = per_session(name, move |event| {
        let gate = held.clone();
        async move {
            if event.hook() == Hook::SessionEnd {
                gate.pass().await;
            }
            Ok(())
        }
    });
    (plugin, told, gate)
}
