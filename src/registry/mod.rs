//! The registry: who is active, and the one place where a session ends.
//!
//! Every transition is recorded before it counts: the registry sends it to the bus, and changes
//! its table when the bus has recorded it. While that takes, later messages for the same id or
//! key wait, so that the order of messages is the order of events.

mod active;
mod actor;
mod common;
mod guard;
mod holding;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub(crate) use self::active::{Expiry, SharedSessions};
pub use self::actor::SessionRegistry;
pub use self::guard::SessionGuard;
pub(crate) use self::guard::StartGuarded;
pub use self::holding::Reconciled;
pub(crate) use self::holding::{
    Connect, Connected, CountHolders, Disconnected, EndHolder, EndedHolder, Heartbeat,
    HolderStatuses, Reconcile, StartedByHolder,
};
use crate::clock::WallClock;
use crate::error::Error;
use crate::event::{OpenSession, Seq};
use crate::filter::SessionFilter;
use crate::ledger::{Held, SessionRecord};
use crate::monitor::Monitor;
use crate::session::{
    End, EndDetails, EndReason, Incarnation, InvalidField, NewSession, Session, SessionId,
};

/// A session starts, or an active one gets new details.
///
/// Starting an id that is active replaces all its details but `started_at` and fires nothing.
/// Starting under a key that another active session has ends that one with
/// [`EndReason::Replaced`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<StartedSession, Error>")]
pub struct Started(pub NewSession);

/// The answer to [`Started`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartedSession {
    /// The session as it is now.
    pub session: Arc<Session>,
    /// Whether this is a new incarnation; otherwise an active one got new details.
    pub is_new: bool,
    /// The session that held the key before, and that has ended.
    pub replaced: Option<SessionId>,
}

/// A session ends. The first end counts; later ones, and those that name another incarnation,
/// fire nothing.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<EndedSession, Error>")]
#[must_use = "nothing ends until it is sent"]
#[non_exhaustive]
pub struct Ended {
    /// Which session.
    pub id: SessionId,
    /// Only if this is its incarnation.
    pub incarnation: Option<Incarnation>,
    /// Why. [`EndReason::Crash`] and [`EndReason::Lost`] are refused: only the supervisor finds
    /// those.
    pub reason: EndReason,
    /// What its owner says of the end.
    pub details: EndDetails,
}

impl Ended {
    /// `id` ends for `reason`, whatever its incarnation.
    pub fn new(id: SessionId, reason: EndReason) -> Self {
        Self {
            id,
            incarnation: None,
            reason,
            details: EndDetails::default(),
        }
    }

    /// Sets [`incarnation`](Self::incarnation): another life of the id goes on.
    pub fn with_incarnation(mut self, incarnation: Incarnation) -> Self {
        self.incarnation = Some(incarnation);
        self
    }

    /// Sets [`details`](Self::details).
    pub fn with_details(mut self, details: EndDetails) -> Self {
        self.details = details;
        self
    }

    /// Checks what the types don't: who may give the reason, and the lengths of details.
    pub(crate) fn validate(&self) -> Result<(), InvalidField> {
        actor::check_reason(self.reason)?;
        self.details.validate()
    }
}

/// The answer to [`Ended`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EndedSession {
    /// The message ended the session.
    Now(SessionRecord),
    /// The message changed nothing: the session has ended before, or is active in another
    /// incarnation than the one named.
    Unchanged(SessionRecord),
    /// No session of that id is known.
    Unknown,
}

/// A session was active just now, so it is not idle.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
#[must_use = "nobody knows of it until it is sent"]
#[non_exhaustive]
pub struct Touch {
    /// Which session.
    pub id: SessionId,
    /// Only if this is its incarnation.
    pub incarnation: Option<Incarnation>,
}

impl Touch {
    /// `id` is active, whatever its incarnation.
    pub fn new(id: SessionId) -> Self {
        let incarnation = None;
        Self { id, incarnation }
    }

    /// Sets [`incarnation`](Self::incarnation).
    pub fn with_incarnation(mut self, incarnation: Incarnation) -> Self {
        self.incarnation = Some(incarnation);
        self
    }
}

/// Asks for all active sessions, in no particular order.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<Arc<Session>>")]
pub struct Snapshot;

/// Asks how many sessions are active.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "usize")]
pub(crate) struct CountActive;

/// Asks how many active sessions meet a filter.
#[derive(Debug, Clone, Message)]
#[rtype(result = "usize")]
pub(crate) struct CountMatching(pub(crate) SessionFilter);

/// Which of its lives a listed session is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum SessionState {
    /// It has started and not ended.
    #[default]
    Active,
    /// It has ended, and is still kept.
    Ended,
}

/// Asks for sessions, in the order of their starts.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<SessionRecord>, Error>")]
#[must_use = "nothing is listed until it is sent"]
#[non_exhaustive]
pub struct ListSessions {
    /// Active ones, or ended ones.
    pub state: SessionState,
    /// Which.
    pub filter: SessionFilter,
    /// Only those that started after this place in the log, such as the
    /// [`start_seq`](SessionRecord::start_seq) of the last one of the page before; 0 for the first
    /// page.
    pub after: Seq,
    /// How many, at the most.
    pub limit: usize,
}

impl ListSessions {
    /// All active sessions. The fields are public: set those that are to be others.
    pub fn active() -> Self {
        Self::all(SessionState::Active)
    }

    /// All sessions that have ended and are still kept.
    pub fn ended() -> Self {
        Self::all(SessionState::Ended)
    }

    fn all(state: SessionState) -> Self {
        Self {
            state,
            filter: SessionFilter::default(),
            after: 0,
            limit: usize::MAX,
        }
    }
}

/// Ends every active session that meets a filter, all in the same way. The answer comes once their
/// ends are recorded: some thousands at a time, and what else is asked for meanwhile comes between.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<EndedMatching, Error>")]
#[must_use = "nothing ends until it is sent"]
#[non_exhaustive]
pub struct EndMatching {
    /// Which sessions: with no condition set, all.
    pub filter: SessionFilter,
    /// Why they end. Not [`EndReason::Crash`] or [`EndReason::Lost`].
    pub reason: EndReason,
}

/// The answer to [`EndMatching`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedMatching {
    /// How many sessions met the filter.
    pub matched: usize,
    /// Those that the message ended; not those that something else ended first.
    pub ended: Vec<SessionId>,
}

impl EndMatching {
    /// The sessions that meet `filter` end for `reason`.
    pub fn new(filter: SessionFilter, reason: EndReason) -> Self {
        Self { filter, reason }
    }
}

/// Asks for what is known of one id: the active session, or the one that ended last.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<SessionRecord>, Error>")]
pub(crate) struct Find(pub(crate) SessionId);

/// Closes the door and ends every active session, in one step: no session starts any more, and
/// whatever ends later finds its session ended. Recording and telling is up to the sender.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ClosedDoor, Error>")]
pub(crate) struct CloseDoor {
    /// Why the sessions end.
    pub(crate) reason: EndReason,
    /// How long to wait for starts and ends that are being recorded, which come first.
    pub(crate) patience: Duration,
    /// Whether the sessions of holders go on, for the next process.
    pub(crate) keeps_held: bool,
}

/// The answer to [`CloseDoor`]: the sessions that it ended, in the order of their starts, and their end.
/// Asking twice is an error.
#[derive(Debug, Clone)]
pub(crate) struct ClosedDoor {
    pub(crate) sessions: Arc<[OpenSession]>,
    pub(crate) end: Arc<End>,
    /// How many starts and ends the ledger has not recorded in time. Sessions that these leave
    /// active end too, if it still answers, but too late for the drain.
    pub(crate) unsettled: usize,
}

/// How many sessions may be active, and for how long, from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub(crate) struct Limits {
    pub(crate) max_active: usize,
    pub(crate) expiry: Expiry,
}

/// Whether new sessions are taken. Shared, so that the shutdown can close it the moment it is
/// asked for, before its message has reached the registry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door {
    closed: CancellationToken,
}

impl Door {
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    /// Waits until it is closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// What the registry is told when it is made.
#[derive(Debug, Clone)]
pub(crate) struct RegistrySettings {
    pub(crate) clock: WallClock,
    pub(crate) door: Door,
    /// The table, which the registry fills.
    pub(crate) active: SharedSessions,
    pub(crate) limits: Limits,
    pub(crate) monitor: Monitor,
    /// What the run before has left to this one, and when that was last known alive.
    pub(crate) held: Held,
    pub(crate) held_seen_at: Timestamp,
    /// Whether holders can reach this process; if not, no lease ends in it.
    pub(crate) hears_holders: bool,
}
