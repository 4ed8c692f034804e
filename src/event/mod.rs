//! Events: what plugins are told, and how they answer.

mod delivery;
mod wire;

use std::fmt;
use std::ops::Range;
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
    /// The supervisor started. Best effort: most plugins are told once, a plugin with an
    /// [opening](crate::PluginSpec::with_opening) until it takes it.
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

/// Sessions that end together, all in the same way. Their events share them: what is a session's alone
/// would cost a drain of a million a look into each.
#[derive(Debug)]
pub(crate) struct Ending {
    sessions: Arc<[OpenSession]>,
    end: Arc<End>,
    instance: InstanceId,
}

impl Ending {
    pub(crate) fn new(
        sessions: Arc<[OpenSession]>,
        end: Arc<End>,
        instance: InstanceId,
    ) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            end,
            instance,
        })
    }

    /// The events of the ends of those sessions that are in `range`.
    pub(crate) fn events(self: &Arc<Self>, range: Range<usize>) -> Arc<[Event]> {
        if self.end.ended_at == self.end.detected_at {
            let which = range.map(|index| Content::OfMany(Arc::clone(self), index as u32));
            return which.map(|content| Event { seq: 0, content }).collect();
        }
        // No session ends before it began, and these may.
        let sessions = self.sessions[range].iter().cloned();
        let ends = sessions.map(|open| Event::end(open, Arc::clone(&self.end), self.instance));
        ends.collect()
    }

    fn of(&self, index: u32) -> &OpenSession {
        &self.sessions[index as usize]
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
    /// How many sessions the stop ends; 0 at the start.
    pub active_sessions: u64,
}

/// What an event tells.
#[derive(Debug, Clone)]
enum Content {
    One(Arc<One>),
    /// The end of one of many that ended together: which.
    OfMany(Arc<Ending>, u32),
}

#[derive(Debug, Clone)]
struct One {
    timestamp: Timestamp,
    instance: InstanceId,
    is_synthetic: bool,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Start(Arc<Session>),
    End(OpenSession, Arc<End>),
    Lifecycle(Lifecycle, Uuid),
}

/// One thing that plugins are told. Cheap to clone: what it tells is shared, so a clone that is kept
/// keeps the sessions in memory that ended in the same step, up to 4,096 or, in a stop, all.
#[derive(Debug, Clone)]
pub struct Event {
    /// 0 until the ledger gives it a place, and for what bypasses the ledger.
    seq: Seq,
    content: Content,
}

impl Event {
    pub(crate) fn start(session: Arc<Session>, timestamp: Timestamp, instance: InstanceId) -> Self {
        Self::new(What::Start(session), timestamp, instance)
    }

    pub(crate) fn end(open: OpenSession, end: Arc<End>, instance: InstanceId) -> Self {
        let end = End::within_life(end, open.session.started_at);
        let detected_at = end.detected_at;
        Self::new(What::End(open, end), detected_at, instance)
    }

    pub(crate) fn of_lifecycle(
        lifecycle: Lifecycle,
        timestamp: Timestamp,
        instance: InstanceId,
    ) -> Self {
        let what = What::Lifecycle(lifecycle, Uuid::now_v7());
        Self::new(what, timestamp, instance)
    }

    fn new(what: What, timestamp: Timestamp, instance: InstanceId) -> Self {
        let one = One {
            timestamp,
            instance,
            is_synthetic: false,
            what,
        };
        Self {
            seq: 0,
            content: Content::One(Arc::new(one)),
        }
    }

    /// Marks it as a test that tells of no real session.
    pub(crate) fn synthetic(self) -> Self {
        let mut alone = self.by_itself();
        if let Content::One(one) = &mut alone.content {
            Arc::make_mut(one).is_synthetic = true;
        }
        alone
    }

    /// The same without those that ended together with it, which it would keep in memory.
    pub(crate) fn by_itself(self) -> Self {
        let Content::OfMany(ending, index) = &self.content else {
            return self;
        };
        let (open, end) = (ending.of(*index).clone(), Arc::clone(&ending.end));
        Self::end(open, end, ending.instance).with_seq(self.seq)
    }

    pub(crate) fn with_seq(mut self, seq: Seq) -> Self {
        self.set_seq(seq);
        self
    }

    /// Gives it its place in the log.
    pub(crate) fn set_seq(&mut self, seq: Seq) {
        self.seq = seq;
    }

    fn what(&self) -> Option<&What> {
        match &self.content {
            Content::One(one) => Some(&one.what),
            Content::OfMany(..) => None,
        }
    }

    /// The hook of all `events`, where that can be told from the first and the last: those of a drain are
    /// ends, all of them, and there may be a million.
    pub(crate) fn hook_of_all(events: &[Self]) -> Option<Hook> {
        let (Content::OfMany(first, from), Content::OfMany(last, to)) =
            (&events.first()?.content, &events.last()?.content)
        else {
            return None;
        };
        // What lies side by side in the log as in the ending has nothing else between.
        let are_all = |count: u64| count == events.len() as u64;
        let is_whole = Arc::ptr_eq(first, last)
            && are_all(u64::from(*to).saturating_sub(u64::from(*from)) + 1)
            && are_all(events[events.len() - 1].seq.saturating_sub(events[0].seq) + 1);
        let is_end = |event: &Self| event.hook() == Hook::SessionEnd;
        debug_assert!(!is_whole || events.iter().all(is_end));
        is_whole.then_some(Hook::SessionEnd)
    }

    /// What kind of event this is.
    pub fn hook(&self) -> Hook {
        match self.what() {
            Some(What::Start(_)) => Hook::SessionStart,
            Some(What::End(..)) | None => Hook::SessionEnd,
            Some(What::Lifecycle(lifecycle, _)) => lifecycle.hook,
        }
    }

    /// The event's idempotency key.
    pub fn id(&self) -> EventId {
        let hook = self.hook();
        let session = match &self.content {
            Content::OfMany(ending, index) => &ending.of(*index).session,
            Content::One(one) => match &one.what {
                What::Start(session) => session,
                What::End(open, _) => &open.session,
                What::Lifecycle(_, subject) => {
                    let subject = *subject;
                    return EventId { subject, hook };
                }
            },
        };
        EventId::of_session(session.incarnation, hook)
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
        match self.open() {
            Some(open) => open.start_seq,
            None if self.hook() == Hook::SessionStart => self.seq,
            None => 0,
        }
    }

    /// The session that ended; only for [`Hook::SessionEnd`].
    fn open(&self) -> Option<&OpenSession> {
        match &self.content {
            Content::OfMany(ending, index) => Some(ending.of(*index)),
            Content::One(one) => match &one.what {
                What::End(open, _) => Some(open),
                What::Start(_) | What::Lifecycle(..) => None,
            },
        }
    }

    /// When the event was recorded.
    pub fn timestamp(&self) -> Timestamp {
        match &self.content {
            Content::One(one) => one.timestamp,
            Content::OfMany(ending, _) => ending.end.detected_at,
        }
    }

    /// The run of the supervisor that recorded the event.
    pub fn instance(&self) -> InstanceId {
        match &self.content {
            Content::One(one) => one.instance,
            Content::OfMany(ending, _) => ending.instance,
        }
    }

    /// Whether this is a test event, sent on an operator's request: it tells of no real session.
    pub fn is_synthetic(&self) -> bool {
        matches!(&self.content, Content::One(one) if one.is_synthetic)
    }

    /// The session that started or ended; none for lifecycle events.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match self.what() {
            Some(What::Start(session)) => Some(session),
            Some(What::End(..)) | None => self.open().map(|open| &open.session),
            Some(What::Lifecycle(..)) => None,
        }
    }

    /// How the session ended; only for [`Hook::SessionEnd`].
    pub fn how_ended(&self) -> Option<&Arc<End>> {
        match &self.content {
            Content::OfMany(ending, _) => Some(&ending.end),
            Content::One(one) => match &one.what {
                What::End(_, end) => Some(end),
                What::Start(_) | What::Lifecycle(..) => None,
            },
        }
    }

    /// What the supervisor goes through; only for the `gateway_…` hooks.
    pub fn lifecycle(&self) -> Option<&Lifecycle> {
        match self.what() {
            Some(What::Lifecycle(lifecycle, _)) => Some(lifecycle),
            Some(What::Start(_) | What::End(..)) | None => None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{EndDetails, NewSession, SessionId};

    fn open_sessions(count: u64) -> Arc<[OpenSession]> {
        let open = |seq| {
            let new = NewSession::new(SessionId::generate());
            let incarnation = Incarnation::generate();
            let session = Session::begin(new, incarnation, None, Timestamp::UNIX_EPOCH);
            OpenSession::new(Arc::new(session), seq)
        };
        (1..=count).map(open).collect()
    }

    fn closed() -> Arc<End> {
        let now = Timestamp::UNIX_EPOCH;
        Arc::new(End::now(EndReason::Closed, EndDetails::default(), now))
    }

    /// The ends of those in `range`, with places in the log from 101 on.
    fn ends(ending: &Arc<Ending>, range: Range<usize>) -> Vec<Event> {
        let first = range.start as u64 + 101;
        let ends = ending.events(range);
        let ends = ends.iter().cloned().zip(first..);
        ends.map(|(event, seq)| event.with_seq(seq)).collect()
    }

    #[test]
    fn an_end_of_many_tells_what_one_by_itself_does() {
        let (open, instance) = (open_sessions(3), InstanceId::generate());
        let shared = &ends(&Ending::new(open.clone(), closed(), instance), 0..3)[1];
        let alone = Event::end(open[1].clone(), closed(), instance).with_seq(102);
        for event in [shared.clone().by_itself(), alone] {
            assert_eq!(event.id(), shared.id());
            assert_eq!((event.seq(), event.hook()), (shared.seq(), shared.hook()));
            assert_eq!(event.start_seq(), shared.start_seq());
            assert_eq!(event.timestamp(), shared.timestamp());
            assert_eq!(event.instance(), shared.instance());
            assert_eq!(event.session(), shared.session());
            assert_eq!(event.how_ended(), shared.how_ended());
            assert!(event.lifecycle().is_none() && !event.is_synthetic());
        }
    }

    #[test]
    fn an_end_that_is_taken_by_itself_does_not_keep_the_sessions_that_ended_with_it() {
        let open = open_sessions(3);
        let other = Arc::downgrade(&open[2].session);
        let ending = Ending::new(open, closed(), InstanceId::generate());
        let event = ends(&ending, 0..3).swap_remove(0);
        drop(ending);
        assert!(other.upgrade().is_some());
        let event = event.by_itself();
        assert!(other.upgrade().is_none());
        assert!(event.synthetic().is_synthetic());
    }

    #[test]
    fn all_are_ends_if_first_and_last_show_that_nothing_else_is_between() {
        let instance = InstanceId::generate();
        let [one, other] = [5, 5].map(|count| {
            let open = open_sessions(count);
            Ending::new(open, closed(), instance)
        });
        let all = ends(&one, 0..5);
        assert_eq!(Event::hook_of_all(&all), Some(Hook::SessionEnd));
        assert_eq!(Event::hook_of_all(&all[1..4]), Some(Hook::SessionEnd));
        assert_eq!(Event::hook_of_all(&all[2..3]), Some(Hook::SessionEnd));
        assert_eq!(Event::hook_of_all(&[]), None);
        let holed = [all[0].clone(), all[2].clone()];
        assert_eq!(Event::hook_of_all(&holed), None);
        let mixed = [all[0].clone(), ends(&other, 1..2).remove(0)];
        assert_eq!(Event::hook_of_all(&mixed), None);
        let unplaced = one.events(0..2);
        assert_eq!(Event::hook_of_all(&unplaced), None);
        let alone = all[0].clone().by_itself();
        assert_eq!(Event::hook_of_all(&[alone]), None);
    }
}
