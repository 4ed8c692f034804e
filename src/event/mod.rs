//! Events: what plugins are told, and how they answer.

mod delivery;
mod ending;
mod hook;
mod ids;
mod wire;

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

pub(crate) use self::delivery::Verdict;
pub use self::delivery::{Acks, Deadline, Deliver};
pub(crate) use self::ending::Ending;
pub use self::hook::{Hook, Hooks};
pub use self::ids::{EventId, InstanceId, InvalidEventId, Seq};
pub use self::wire::WireEvent;
use crate::session::{End, EndReason, Session};

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
