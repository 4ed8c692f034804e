//! The ledger: what has started, what has ended and why, and what each plugin is still owed.
//!
//! It is a log of events with a cursor per plugin, and a small table of *parked* events. A lane
//! reads the log in order and moves its cursor past what is acknowledged or parked. So a plugin is
//! owed what is parked for it and not dead, and what lies after its cursor; redelivery, lagging
//! plugins, dead letters and (with a ledger that survives the process) recovery are all the same
//! mechanism.

mod health;
mod memory;
mod patience;
#[cfg(feature = "sqlite")]
mod sqlite;
mod tail;
#[cfg(test)]
mod tests;
mod upkeep;
mod weight;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, try_join_all};
use jiff::Timestamp;

pub(crate) use self::health::LedgerHealth;
pub use self::memory::MemoryLedger;
pub(crate) use self::patience::answer_within;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{OpenError, SqliteLedger, Survey, SurveyedPlugin};
pub(crate) use self::upkeep::{Upkeep, check_files};
use crate::event::{Event, InstanceId, OpenSession, Seq};
use crate::filter::SessionFilter;
use crate::holder::HolderRecord;
use crate::session::{End, EndReason, HolderId, Incarnation, Session, SessionId};

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

    /// As many requests wait for it as may.
    pub(crate) fn full() -> Self {
        Self::new("too many requests wait for it")
    }

    /// It has not answered all that it was asked.
    pub(crate) fn too_few_answers() -> Self {
        Self::new("it has answered less than it was asked")
    }

    /// It has not answered for as long as it could be waited for.
    pub(crate) fn late() -> Self {
        Self::new("it did not answer in time")
    }

    /// Another file is at `path` than the one in use, or none.
    pub(crate) fn replaced(path: &Path) -> Self {
        let path = path.display();
        Self::new(format!("its file `{path}` was removed or replaced"))
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

/// An event that one plugin did not take and that its lane went past.
#[derive(Debug, Clone)]
#[non_exhaustive]
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
#[non_exhaustive]
pub struct Position {
    /// The head of the log when the plugin was first attached: it is told of nothing before.
    pub since: Seq,
    /// Every event up to here is acknowledged, parked, or not for this plugin.
    pub cursor: Seq,
    /// What is parked for it and not dead, in log order.
    pub parked: Vec<Parked>,
    /// The places of its dead letters, and whose events they are: as much as keeps the order, since
    /// there may be very many.
    pub dead: Vec<(Seq, Incarnation)>,
    /// How many runs in a row died while the plugin was owed something of the log, without any
    /// progress since the first of them began: what it was given may have killed them. The last run
    /// is among them, whether the recovery has counted it yet or not.
    pub deaths: u32,
}

/// What changed in where a plugin stands. Recorded in one step.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
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

/// Why a run of the supervisor stops, recorded before anybody is told: a process that is killed
/// in the middle of its stop has its sessions ended for this reason by the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intent {
    /// Why the sessions end.
    pub reason: EndReason,
    /// The downtime that was announced; none for [`EndReason::Shutdown`].
    pub restart_expected: Option<Duration>,
    /// Who asked.
    pub trigger: String,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// Whether what other programs [hold](Session::holder) ends, too.
    pub ends_held: bool,
}

/// The run of a supervisor before this one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Predecessor {
    /// Which.
    pub instance: InstanceId,
    /// When it began.
    pub started_at: Timestamp,
    /// The last moment at which it was known to be alive.
    pub alive_at: Timestamp,
    /// The stop that it had begun, if any.
    pub intent: Option<Intent>,
    /// Whether what other programs [hold](Session::holder) ended with it: as its intent had it, if
    /// there was one.
    pub ends_held: bool,
    /// Whether it came to the end of its stop.
    pub stopped: bool,
}

impl Predecessor {
    /// A run that was last known to be alive at `alive_at`, and had begun no stop.
    pub fn new(instance: InstanceId, started_at: Timestamp, alive_at: Timestamp) -> Self {
        Self {
            instance,
            started_at,
            alive_at,
            intent: None,
            ends_held: false,
            stopped: false,
        }
    }
}

/// What a ledger found of the run before, and did about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// The run before this one, if there was one.
    pub predecessor: Option<Predecessor>,
    /// How many sessions it had left active and were ended now.
    pub found: u64,
    /// Why they ended: the reason of the predecessor's intent, or [`EndReason::Crash`].
    pub reason: Option<EndReason>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.predecessor, self.reason) {
            (None, _) => f.write_str("no run before this one is known"),
            (Some(_), None) => f.write_str("the run before has left no session open"),
            (Some(_), Some(reason)) => {
                let sessions = if self.found == 1 {
                    "session"
                } else {
                    "sessions"
                };
                let found = self.found;
                write!(
                    f,
                    "the run before has left {found} {sessions} open: ended with `{reason}`"
                )
            }
        }
    }
}

/// What the run before has left to this one, since other programs hold it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Held {
    /// The sessions that are active still, in the order of their starts.
    pub sessions: Vec<OpenSession>,
    /// The holders that it knew.
    pub holders: Vec<HolderRecord>,
}

/// What was let go of in one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Whether there is more to let go of at once.
    pub more: bool,
    /// The removed plugins whose time was over, with the number of events they were still owed.
    pub dropped: Vec<(String, u64)>,
}

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

/// A ledger: one of this crate's, or what wraps one, such as a test that has it fail. Another can't be
/// made elsewhere for now, since only this crate can give an [`Event`] its place in the log.
///
/// Implementations answer in the order of the calls, but what tells of the run itself
/// ([`keep_alive`](Self::keep_alive), [`intend`](Self::intend), [`stop`](Self::stop)) and
/// [`reclaim`](Self::reclaim) may come before what waits. A call returns at once: work that can
/// block belongs on a thread of the ledger's own. What is only of use to a later process has a
/// default that does nothing, for ledgers that don't outlive theirs.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Whether what is recorded survives the process.
    fn is_durable(&self) -> bool;

    /// Records all of `append` in one step and gives each event its place in the log. The future
    /// answers the events once they are recorded as durably as this ledger does.
    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>>;

    /// Records each of `appends`, in this order, as [`append`](Self::append) does: one that can't be
    /// recorded leaves the others alone. The answer comes when all are done, and has one for each, in
    /// their order. For ledgers to which many in one call cost less.
    fn append_each(&self, appends: Vec<Append>) -> LedgerFuture<Vec<Appended>> {
        let appended: Vec<_> = appends.into_iter().map(|it| self.append(it)).collect();
        Box::pin(join_all(appended).map(Ok))
    }

    /// The place of the last recorded event; 0 while there is none.
    fn head(&self) -> Seq;

    /// At most `limit` events of the log after the place `after`.
    fn read(&self, after: Seq, limit: usize) -> LedgerFuture<Page>;

    /// As [`read`](Self::read), for those that only watch: neither plugins nor starts should wait for
    /// it, however many watchers replay the log.
    fn replay(&self, after: Seq, limit: usize) -> LedgerFuture<Page> {
        self.read(after, limit)
    }

    /// The newest incarnation of `id` that has ended and is still kept, if any.
    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>>;

    /// Which incarnation of each of `ids` has [ended last](Self::last_ended): an answer for each, in
    /// the same order. For ledgers to which many in one call cost less. What fails is asked again, one by
    /// one.
    fn last_incarnations(&self, ids: Vec<SessionId>) -> LedgerFuture<Vec<Option<Incarnation>>> {
        let found: Vec<_> = ids.iter().map(|id| self.last_ended(id)).collect();
        Box::pin(async move {
            let found = try_join_all(found).await?.into_iter();
            let incarnations = found.map(|record| record.map(|it| it.session.incarnation));
            Ok(incarnations.collect())
        })
    }

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

    /// Records where `plugin` has got to. A cursor that moves, or an event that is parked no longer,
    /// ends the count of [`Position::deaths`].
    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()>;

    /// At most `limit` dead letters of `plugin` after the place `after`, in log order.
    fn dead_letters(&self, plugin: &str, after: Seq, limit: usize) -> LedgerFuture<Vec<Parked>>;

    /// Says which plugins there are from now on. What the others are owed is kept for a while, in
    /// case they come back; see [`reclaim`](Self::reclaim).
    fn detach_others(&self, configured: &[Arc<str>], now: Timestamp) -> LedgerFuture<()>;

    /// Begins the run `instance`, and ends in one step what the run before left active: before
    /// anything else is recorded. What other programs [hold](Session::holder) goes on, unless it
    /// [ended with that run](Predecessor::ends_held); see [`held`](Self::held). If that run did not
    /// come to the end of its stop, it counts as a death for each plugin that was behind the log; see
    /// [`Position::deaths`].
    fn recover(&self, _: InstanceId, _: Timestamp) -> LedgerFuture<Recovery> {
        Box::pin(std::future::ready(Ok(Recovery::default())))
    }

    /// What goes on from the run before, once this one was [begun](Self::recover).
    fn held(&self) -> LedgerFuture<Held> {
        Box::pin(std::future::ready(Ok(Held::default())))
    }

    /// Notes that what other programs hold ends with this run, if it dies.
    fn bind_held(&self) -> LedgerFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Notes how a holder is, in place of what was noted of it before.
    fn keep_holder(&self, _: HolderRecord) -> LedgerFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Notes that a holder is one no longer.
    fn forget_holder(&self, _: &HolderId) -> LedgerFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Notes that this run is alive.
    fn keep_alive(&self, _: Timestamp) -> LedgerFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether what is written is found again at the next start: not once its files were moved,
    /// removed or replaced. Asked about once a second, on a thread that it may block.
    ///
    /// # Errors
    ///
    /// When they were. Nothing more is recorded then.
    fn check_files(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Notes why this run is about to stop.
    fn intend(&self, _: Intent) -> LedgerFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Notes that this run came to the end of its stop: nothing is recorded after that.
    fn stop(&self, _: Timestamp) -> LedgerFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Lets go of a part of what nobody needs any more: sessions that ended longer than
    /// `retention` ago and that no plugin is owed, and plugins that were detached longer ago. Does
    /// nothing once a stop is [intended](Self::intend).
    fn reclaim(&self, _: Timestamp, _: Duration) -> LedgerFuture<Reclaimed> {
        Box::pin(std::future::ready(Ok(Reclaimed::default())))
    }

    /// How often it has completed a write so far: one that goes on counting is slow, not stuck.
    fn commits(&self) -> u64 {
        0
    }

    /// About how many bytes the ledger keeps because `plugin` has not got past them, if it is on a
    /// disk.
    fn held_bytes(&self, plugin: &str) -> Option<u64> {
        let _ = plugin;
        None
    }

    /// How many bytes the ledger takes on disk, if it is on one.
    fn size_bytes(&self) -> Option<u64> {
        None
    }
}
