//! The ledger: what has started, what has ended and why, and what each plugin is still owed.
//!
//! It is a log of events with a cursor per plugin, and a small table of *parked* events. A lane
//! reads the log in order and moves its cursor past what is acknowledged or parked. So a plugin is
//! owed what is parked for it and not dead, and what lies after its cursor; redelivery, lagging
//! plugins, dead letters and (with a ledger that survives the process) recovery are all the same
//! mechanism.

mod memory;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

pub use self::memory::MemoryLedger;
use crate::event::{Event, Seq};
use crate::filter::SessionFilter;
use crate::session::{End, Session, SessionId};

/// The ledger could not do what was asked. Nothing of the request is recorded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger is unavailable: {problem}")]
pub struct LedgerError {
    problem: Arc<str>,
}

impl LedgerError {
    /// Says what kept the ledger from working.
    pub fn new(problem: impl fmt::Display) -> Self {
        Self {
            problem: problem.to_string().into(),
        }
    }
}

/// What a ledger answers. The request is placed when the method is called, in the order of the
/// calls; the future only waits for the answer, so dropping it undoes nothing.
pub type LedgerFuture<T> = BoxFuture<'static, Result<T, LedgerError>>;

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

/// The first `limit` of `records` after the place `after`, in the order of their starts.
pub(crate) fn page_by_start(
    records: impl Iterator<Item = SessionRecord>,
    after: Seq,
    limit: usize,
) -> Vec<SessionRecord> {
    let mut page = BTreeMap::new();
    for record in records.filter(|record| record.start_seq > after) {
        page.insert(record.start_seq, record);
        if page.len() > limit {
            page.pop_last();
        }
    }
    page.into_values().collect()
}

/// An event that one plugin did not take and that its lane went past.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The event itself, with its place in the log.
    pub event: Event,
    /// How often the plugin rejected this event by itself.
    pub attempts: u32,
    /// Not to be tried before.
    pub not_before: Timestamp,
    /// Whether it is a dead letter: not tried again unless an operator asks for it.
    pub dead: bool,
    /// Why the plugin rejected it last, or why it is parked.
    pub error: Arc<str>,
}

/// Where a plugin stands in the log.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// Every event up to here is acknowledged, parked, or not for this plugin.
    pub cursor: Seq,
    /// What is parked for it, dead letters included, in log order.
    pub parked: Vec<Parked>,
}

/// What changed in where a plugin stands. Recorded in one step.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The new cursor, if it moved.
    pub cursor: Option<Seq>,
    /// Events to park, or to park anew with other attempts.
    pub park: Vec<Parked>,
    /// The places of parked events that are acknowledged by now.
    pub unpark: Vec<Seq>,
}

impl Progress {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.cursor.is_none() && self.park.is_empty() && self.unpark.is_empty()
    }
}

/// What is recorded in one step.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// Starts and ends, in this order.
    pub events: Vec<Event>,
    /// A session that is active and whose details are these from now on.
    pub amended: Option<Arc<Session>>,
}

/// A part of the log.
#[derive(Debug, Clone)]
pub struct Page {
    /// Events in log order.
    pub events: Arc<[Event]>,
    /// How many events before the first one, after the place asked for, are kept no longer.
    pub gap: u64,
}

/// A ledger.
///
/// Implementations answer in the order of the calls, and a call returns at once: work that can
/// block belongs on a thread of the ledger's own.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Whether what is recorded survives the process.
    fn is_durable(&self) -> bool;

    /// Records all of `append` in one step and gives each event its place in the log. The future
    /// answers the events once they are recorded as durably as this ledger does.
    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>>;

    /// The place of the last recorded event; 0 while there is none.
    fn head(&self) -> Seq;

    /// At most `limit` events of the log after the place `after`.
    fn read(&self, after: Seq, limit: usize) -> LedgerFuture<Page>;

    /// The newest incarnation of `id` that has ended and is still kept, if any.
    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>>;

    /// At most `limit` sessions that have ended, are still kept and meet `filter` at `now`: those
    /// that started after the place `after` in the log, in the order of their starts.
    fn ended(
        &self,
        filter: &SessionFilter,
        now: Timestamp,
        after: Seq,
        limit: usize,
    ) -> LedgerFuture<Vec<SessionRecord>>;

    /// Where `plugin` stands. A plugin that is new to the ledger starts at the head.
    fn attach(&self, plugin: &str) -> LedgerFuture<Position>;

    /// Records where `plugin` has got to.
    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()>;
}
