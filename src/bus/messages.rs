//! The bus's messages.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, WeakRecipient};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lane::LaneTally;
use super::status::{DeliveryState, PluginStatus};
use crate::error::Error;
use crate::event::{Lifecycle, OpenSession, Seq};
use crate::ledger::SessionRecord;
use crate::session::{End, Session, SessionId};

/// A session starts, or an active one has new details. The answer is the start's place in the
/// log, or 0 where nothing started, once it is recorded.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Seq, Error>")]
#[non_exhaustive]
pub struct SessionStart {
    /// The session as it is now.
    pub session: Arc<Session>,
    /// The place of its start, if it is active already; none for a new incarnation, which plugins
    /// are told of.
    pub amends: Option<Seq>,
    /// The session that this one puts an end to, and how. Recorded in the same step.
    pub displaced: Option<(OpenSession, Arc<End>)>,
    /// When.
    pub timestamp: Timestamp,
}

/// Sessions end, all in the same way: one, or a million in a drain. The answer comes once all are
/// recorded; delivery has begun by then. Many are recorded in several steps, in their order. If
/// one of these fails, the answer counts those before it; an error if there are none.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<RecordedEnds, Error>")]
#[non_exhaustive]
pub struct SessionEnd {
    /// Which.
    pub sessions: Arc<[OpenSession]>,
    /// How.
    pub end: Arc<End>,
    /// How long a ledger may take for one step before it counts as failed; for ever if none.
    pub(crate) patience: Option<Duration>,
    /// When the answer counts what is recorded by then, all or not; no such moment if none.
    pub(crate) until: Option<Instant>,
}

/// Starts and ends of single sessions, each recorded in a step of its own, all at once. What one comes
/// to is its answer, in the same order: the place of the last event that was recorded for it in the log,
/// or 0 if there was none.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<Result<Seq, Error>>")]
pub(crate) struct RecordEach(pub(crate) Vec<ToRecord>);

/// What is to be recorded in one step.
#[derive(Debug, Clone)]
pub(crate) enum ToRecord {
    Start(SessionStart),
    End(OpenSession, Arc<End>),
}

/// The places of recorded ends in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecordedEnds {
    /// Of the first.
    pub first: Seq,
    /// Of the last.
    pub last: Seq,
    /// How many there are: fewer than were to be recorded if the ledger failed on the way.
    pub count: usize,
}

/// Tells a `gateway_…` hook to those who listen to it, side by side, once.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<(Arc<str>, Arc<str>)>")]
pub(crate) struct TellLifecycle {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) deadline: Instant,
}

/// A shutdown was asked for: no delivery takes longer than until then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct CutAt(pub(crate) Instant);

/// What lanes achieved in a drain, by the names of their plugins.
pub(crate) type Tallies = mpsc::UnboundedSender<(Arc<str>, LaneTally)>;

/// Delivers everything that is owed, until the cut. The lanes deliver nothing after that.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    /// When the backlog is counted no further.
    pub(crate) count_by: Instant,
    /// Where each lane says what it achieved as soon as it is through, so that one that is late does
    /// not take the others' answers along. Closed once all that can answer have.
    pub(crate) tallies: Tallies,
    /// What the shutdown recorded, if it ended any session.
    pub(crate) ends: Option<RecordedEnds>,
    /// The sessions whose ends it could not record, and how they ended.
    pub(crate) unrecorded: (Arc<[OpenSession]>, Arc<End>),
}

/// Asks for the ids of the active sessions. The registry answers.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Arc<[SessionId]>")]
pub(crate) struct ActiveIds;

/// Says who answers [`ActiveIds`]. Weak, since the registry has the address of the bus, too: neither
/// would ever be gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AskForActive(pub(crate) WeakRecipient<ActiveIds>);

/// Lets go of every plugin, and waits until then for them and their threads to be gone; not for those
/// that hang. Answers whether all are. Nothing is delivered any more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "bool")]
pub(crate) struct ClosePlugins {
    pub(crate) until: Instant,
}

/// Asks how the plugins are, in the order of their registration.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<PluginStatus>")]
pub(crate) struct PluginStatuses;

/// Asks to be told when every plugin was told of all that there is in the log up to here, but those
/// whose events wait for something else.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct WaitUntilTold(pub(crate) Seq);

/// Asks what has become of the last event of a session, per plugin that hears of it: not those
/// that are newer than the event.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<(Arc<str>, DeliveryState)>")]
pub(crate) struct DeliveryStates(pub(crate) SessionRecord);
