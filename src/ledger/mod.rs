//! The ledger: what has started, what has ended and why, and what each plugin is still owed.
//!
//! It is a log of events with a cursor per plugin, and a small table of *parked* events. A lane
//! reads the log in order and moves its cursor past what is acknowledged or parked. So a plugin is
//! owed what is parked for it and not dead, and what lies after its cursor; redelivery, lagging
//! plugins, dead letters and (with a ledger that survives the process) recovery are all the same
//! mechanism.

mod error;
mod health;
mod memory;
mod patience;
mod position;
mod record;
mod run;
#[cfg(feature = "sqlite")]
mod sqlite;
mod tail;
#[cfg(test)]
mod tests;
mod upkeep;
mod weight;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, try_join_all};
use jiff::Timestamp;

pub use self::error::LedgerError;
pub(crate) use self::health::LedgerHealth;
pub use self::memory::MemoryLedger;
pub(crate) use self::patience::answer_within;
pub use self::position::{Parked, Position, Progress};
pub use self::record::{Append, Appended, Page, SessionRecord};
pub use self::run::{Held, Intent, Predecessor, Recovery};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{OpenError, SqliteLedger, Survey, SurveyedPlugin};
pub(crate) use self::upkeep::{Upkeep, check_files};
use crate::event::{Event, InstanceId, Seq};
use crate::filter::SessionFilter;
use crate::holder::HolderRecord;
use crate::session::{HolderId, Incarnation, SessionId};

/// What a ledger answers. The request is placed when the method is called, in the order of the
/// calls; the future only waits for the answer, so dropping it undoes nothing.
pub type LedgerFuture<T> = BoxFuture<'static, Result<T, LedgerError>>;

/// What was let go of in one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Whether there is more to let go of at once.
    pub more: bool,
    /// The removed plugins whose time was over, with the number of events they were still owed.
    pub dropped: Vec<(String, u64)>,
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
    /// anything else is recorded. What other programs [hold](crate::Session::holder) goes on, unless it
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
