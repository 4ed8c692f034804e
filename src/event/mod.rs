//! Events: what plugins are told, and how they answer.

mod delivery;
mod wire;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

pub(crate) use self::delivery::Verdict;
pub use self::delivery::{Acks, Deadline, Deliver};
pub use self::wire::WireEvent;
use crate::session::{End, EndReason, Incarnation, Session};

/// The place of an event in the ledger's log: ascends over the life of a ledger, from 1.
pub type Seq = u64;

/// One run of a supervisor, from its start to its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(Uuid);

impl InstanceId {
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// One that was made before.
    #[cfg(feature = "sqlite")]
    pub(crate) fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a plugin can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hook {
    /// A session started.
    SessionStart,
    /// A session ended.
    SessionEnd,
    /// The supervisor started. Best effort, once.
    GatewayStart,
    /// The supervisor is stopping. Best effort, once.
    GatewayShutdown,
    /// The supervisor is stopping and expects to be back. Best effort, once.
    GatewayPreRestart,
}

impl Hook {
    /// Every hook.
    pub const ALL: &[Self] = &[
        Self::SessionStart,
        Self::SessionEnd,
        Self::GatewayStart,
        Self::GatewayShutdown,
        Self::GatewayPreRestart,
    ];

    /// The hook's name on the wire and in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionStart => "session_start",
            Self::SessionEnd => "session_end",
            Self::GatewayStart => "gateway_start",
            Self::GatewayShutdown => "gateway_shutdown",
            Self::GatewayPreRestart => "gateway_pre_restart",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Hook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|hook| hook.as_str() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|hook| hook.as_str()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The hooks that a plugin listens to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// No hook at all.
    pub const NONE: Self = Self(0);
    /// `session_start` and `session_end`: the default.
    pub const SESSION: Self = Self::NONE.with(Hook::SessionStart).with(Hook::SessionEnd);
    /// Every hook.
    pub const ALL: Self = Self::SESSION
        .with(Hook::GatewayStart)
        .with(Hook::GatewayShutdown)
        .with(Hook::GatewayPreRestart);

    /// These and `hook`.
    #[must_use]
    pub const fn with(self, hook: Hook) -> Self {
        Self(self.0 | 1 << hook as u8)
    }

    /// Whether `hook` is one of these.
    pub const fn contains(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u8) != 0
    }
}

impl FromIterator<Hook> for Hooks {
    fn from_iter<I: IntoIterator<Item = Hook>>(hooks: I) -> Self {
        hooks.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Serialize for Hooks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(Hook::ALL.iter().filter(|hook| self.contains(**hook)))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hooks = Hook::ALL.iter().filter(|hook| self.contains(**hook));
        f.debug_set().entries(hooks).finish()
    }
}

/// The idempotency key of an event: one per incarnation and hook, the same on every retry,
/// redelivery and recovery. Compare it, store it, never parse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    subject: Uuid,
    hook: Hook,
}

impl EventId {
    /// The id of the event that tells `incarnation` to those who listen to `hook`.
    pub(crate) fn of_session(incarnation: Incarnation, hook: Hook) -> Self {
        let subject = *incarnation.as_uuid();
        Self { subject, hook }
    }
}

impl EventId {
    /// The incarnation that it tells of; none for lifecycle events.
    pub(crate) fn incarnation(self) -> Option<Incarnation> {
        let is_of_session = Hooks::SESSION.contains(self.hook);
        is_of_session.then(|| Incarnation::from_uuid(self.subject))
    }
}

/// That a text is no [`EventId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an event id as a plugin got it")]
#[non_exhaustive]
pub struct InvalidEventId;

impl std::str::FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let (subject, hook) = text.split_once('-').ok_or(InvalidEventId)?;
        let id = Self {
            subject: Uuid::try_parse(subject).map_err(|_| InvalidEventId)?,
            hook: hook.parse().map_err(|_| InvalidEventId)?,
        };
        // Only as it was written, so that every event has one id.
        let is_exact = id.to_string() == text;
        is_exact.then_some(id).ok_or(InvalidEventId)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.subject.as_simple(), self.hook)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A session that has started and not ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OpenSession {
    /// The session as it is now.
    pub session: Arc<Session>,
    /// The place of its `session_start` in the log.
    pub start_seq: Seq,
}

impl OpenSession {
    /// `session`, whose start is at the place `start_seq` of the log.
    pub fn new(session: Arc<Session>, start_seq: Seq) -> Self {
        Self { session, start_seq }
    }
}

/// What the supervisor itself goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lifecycle {
    /// Which of the `gateway_…` hooks this is.
    pub hook: Hook,
    /// Why it stops; none at its start.
    pub reason: Option<EndReason>,
    /// How long it expects to be gone; only for a restart.
    pub restart_expected_ms: Option<u64>,
    /// How many sessions are active.
    pub active_sessions: u64,
}

/// What an event tells.
#[derive(Debug, Clone)]
enum Content {
    Start(Arc<Session>),
    /// With the place of the session's start in the log.
    End(Arc<Session>, Arc<End>, Seq),
    Lifecycle(Arc<Lifecycle>, Uuid),
}

/// One thing that plugins are told. Cheap to clone: what it tells is shared.
#[derive(Debug, Clone)]
pub struct Event {
    /// 0 until the ledger gives it a place, and for what bypasses the ledger.
    seq: Seq,
    timestamp: Timestamp,
    instance: InstanceId,
    synthetic: bool,
    content: Content,
}

impl Event {
    pub(crate) fn start(session: Arc<Session>, timestamp: Timestamp, instance: InstanceId) -> Self {
        Self::new(Content::Start(session), timestamp, instance)
    }

    pub(crate) fn end(open: OpenSession, end: Arc<End>, instance: InstanceId) -> Self {
        let end = End::within_life(end, open.session.started_at);
        let detected_at = end.detected_at;
        let content = Content::End(open.session, end, open.start_seq);
        Self::new(content, detected_at, instance)
    }

    pub(crate) fn of_lifecycle(
        lifecycle: Lifecycle,
        timestamp: Timestamp,
        instance: InstanceId,
    ) -> Self {
        let content = Content::Lifecycle(Arc::new(lifecycle), Uuid::now_v7());
        Self::new(content, timestamp, instance)
    }

    fn new(content: Content, timestamp: Timestamp, instance: InstanceId) -> Self {
        Self {
            seq: 0,
            timestamp,
            instance,
            synthetic: false,
            content,
        }
    }

    /// Marks it as a test that tells of no real session.
    pub(crate) fn synthetic(self) -> Self {
        Self {
            synthetic: true,
            ..self
        }
    }

    pub(crate) fn with_seq(mut self, seq: Seq) -> Self {
        self.seq = seq;
        self
    }

    /// What kind of event this is.
    pub fn hook(&self) -> Hook {
        match &self.content {
            Content::Start(_) => Hook::SessionStart,
            Content::End(..) => Hook::SessionEnd,
            Content::Lifecycle(lifecycle, _) => lifecycle.hook,
        }
    }

    /// The event's idempotency key.
    pub fn id(&self) -> EventId {
        let hook = self.hook();
        match &self.content {
            Content::Start(session) | Content::End(session, ..) => {
                EventId::of_session(session.incarnation, hook)
            }
            Content::Lifecycle(_, subject) => EventId {
                subject: *subject,
                hook,
            },
        }
    }

    /// The event's place in the ledger's log; none for events that bypass the ledger.
    pub fn seq(&self) -> Option<Seq> {
        (self.seq != 0).then_some(self.seq)
    }

    /// The place of an event that was read from the ledger.
    pub(crate) fn recorded_seq(&self) -> Seq {
        debug_assert_ne!(self.seq, 0, "an event that the ledger has not recorded");
        self.seq
    }

    /// The place of the session's start: the event's own, or that before its end. 0 for a start that
    /// has no place yet, and for lifecycle events.
    pub(crate) fn start_seq(&self) -> Seq {
        match &self.content {
            Content::Start(_) => self.seq,
            Content::End(_, _, start_seq) => *start_seq,
            Content::Lifecycle(..) => 0,
        }
    }

    /// When the event was recorded.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The run of the supervisor that recorded the event.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Whether this is a test event, sent on an operator's request: it tells of no real session.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }

    /// The session that started or ended; none for lifecycle events.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match &self.content {
            Content::Start(session) | Content::End(session, ..) => Some(session),
            Content::Lifecycle(..) => None,
        }
    }

    /// How the session ended; only for [`Hook::SessionEnd`].
    pub fn how_ended(&self) -> Option<&Arc<End>> {
        match &self.content {
            Content::End(_, end, _) => Some(end),
            Content::Start(_) | Content::Lifecycle(..) => None,
        }
    }

    /// What the supervisor goes through; only for the `gateway_…` hooks.
    pub fn lifecycle(&self) -> Option<&Lifecycle> {
        match &self.content {
            Content::Lifecycle(lifecycle, _) => Some(lifecycle),
            Content::Start(_) | Content::End(..) => None,
        }
    }

    /// How long the session lived, in milliseconds, at least 0; only for [`Hook::SessionEnd`].
    pub fn duration_ms(&self) -> Option<u64> {
        let ended_at = self.how_ended()?.ended_at.as_millisecond();
        let started_at = self.session()?.started_at.as_millisecond();
        Some(u64::try_from(ended_at - started_at).unwrap_or(0))
    }

    /// The event as JSON shows it, in an attempt number `attempt` that has `remaining` left.
    pub fn wire(&self, attempt: u32, remaining: std::time::Duration) -> WireEvent<'_> {
        WireEvent::new(self, attempt, remaining)
    }
}
