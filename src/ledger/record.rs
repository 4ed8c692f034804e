//! What is recorded in the log, and what is read of it.

use std::sync::Arc;

use super::LedgerError;
use crate::event::{Event, OpenSession, Seq};
use crate::session::{End, Session};

/// What an [`Append`] came to: its events, with their places in the log.
pub type Appended = Result<Arc<[Event]>, LedgerError>;

/// What is recorded in one step.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Append {
    /// Starts and ends, in this order.
    pub events: Arc<[Event]>,
    /// A session that is active and whose details are these from now on.
    pub amended: Option<OpenSession>,
}

impl<E: Into<Arc<[Event]>>> From<E> for Append {
    /// Nothing but these events.
    fn from(events: E) -> Self {
        Self {
            events: events.into(),
            amended: None,
        }
    }
}

/// A part of the log.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Page {
    /// Events in log order.
    pub events: Arc<[Event]>,
    /// How many events before the first one, after the place asked for, are kept no longer.
    pub gap: u64,
}

impl Page {
    /// These events, which follow those that were asked about but for so many that are kept no longer.
    pub fn new(events: Arc<[Event]>, gap: u64) -> Self {
        Self { events, gap }
    }
}

/// One incarnation as the ledger knows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionRecord {
    /// The session, with the details it had last.
    pub session: Arc<Session>,
    /// The place of its `session_start` in the log.
    pub start_seq: Seq,
    /// How it ended, and the place of its `session_end` in the log; none while it is active.
    pub end: Option<(Arc<End>, Seq)>,
}

impl SessionRecord {
    /// A session that is active.
    pub(crate) fn active(session: Arc<Session>, start_seq: Seq) -> Self {
        Self {
            session,
            start_seq,
            end: None,
        }
    }
}
