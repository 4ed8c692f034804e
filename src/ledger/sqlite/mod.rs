//! A ledger in a SQLite database: what is recorded outlives the process.
//!
//! One thread writes. It takes all requests that wait, carries them out in one transaction, commits,
//! and answers; so the cost of a commit is shared by those who came in during the one before. Another
//! works the journal, to which a commit is written, into the database. Two
//! threads read: one what lanes and starts wait for, the other lists and what watchers replay, which
//! may take long. The newest part of the log is in memory, and plugins that keep up are served from
//! there.

mod checkpoints;
mod fault;
mod positions;
mod reader;
mod reclaim;
mod records;
mod recovery;
mod rows;
mod schema;
mod shared;
mod survey;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;

use self::checkpoints::{Brake, Checkpoints};
pub use self::fault::OpenError;
use self::reader::Reader;
use self::records::State;
use self::shared::Shared;
pub use self::survey::{Survey, SurveyedPlugin};
use self::writer::{Writer, size_on_disk};
use super::{
    Append, Appended, Held, Intent, Ledger, LedgerError, LedgerFuture, Page, Parked, Position,
    Progress, Reclaimed, Recovery, SessionRecord,
};
use crate::durability::Durability;
use crate::event::{Event, InstanceId, Seq};
use crate::file_id::FileInUse;
use crate::filter::SessionFilter;
use crate::holder::HolderRecord;
use crate::session::{HolderId, Incarnation, SessionId};
use crate::state_dir::StateDir;

/// The place of the last event, or 0.
const HEAD: &str = "SELECT max(coalesce((SELECT max(seq) FROM starts), 0),
                               coalesce((SELECT max(seq) FROM ends), 0))";

/// The place of the oldest event that is kept, or 0.
const OLDEST: &str = "SELECT min(coalesce((SELECT min(seq) FROM starts), 0),
                                 coalesce((SELECT min(seq) FROM ends), 9223372036854775807))";

/// The largest place that a database has numbers for.
const LAST_SEQ: Seq = i64::MAX as Seq;

/// A ledger in a file of its own.
///
/// What a future answered survives as its [`Durability`] says. A request that fails leaves nothing
/// behind; after one that failed for want of space, say, the next is tried like any other. When the
/// ledger is dropped, what was asked for is still carried out, on its threads; [`close`](Self::close)
/// waits for it.
///
/// One process at a time may have it open. [`open_in`](Self::open_in) sees to that;
/// [`open`](Self::open) leaves it to its caller.
#[derive(Debug)]
pub struct SqliteLedger {
    /// The database and what is not yet worked into it.
    files: Vec<FileInUse>,
    shared: Arc<Shared>,
    writer: Writer,
    checkpoints: Brake,
    lookups: Reader,
    lists: Reader,
}

impl SqliteLedger {
    /// Opens the ledger at `path`. If there is none it is made, for its owner alone to read. A
    /// ledger of an earlier version is migrated, and a copy of it kept as `.v<N>.bak`. Blocks until
    /// that is done.
    ///
    /// # Errors
    ///
    /// When the file is something else, damaged, from a later release, or can't be written. It is then
    /// left as it was.
    pub fn open(path: impl AsRef<Path>, durability: Durability) -> Result<Self, OpenError> {
        Self::open_with(path.as_ref(), durability, schema::MIGRATIONS, None)
    }

    /// Opens the ledger of a state directory like [`open`](Self::open). The directory stays this
    /// process's until all that was asked of the ledger is done, though every other clone of
    /// `state_dir` be dropped before.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_in(state_dir: &StateDir, durability: Durability) -> Result<Self, OpenError> {
        let (path, guard) = (state_dir.ledger_path(), state_dir.clone());
        Self::open_with(&path, durability, schema::MIGRATIONS, Some(guard))
    }

    fn open_with(
        path: &Path,
        durability: Durability,
        migrations: &[&str],
        guard: Option<StateDir>,
    ) -> Result<Self, OpenError> {
        let in_io = |error: std::io::Error| OpenError::io(path, &error);
        // SQLite takes some relative paths for something else, such as `:memory:`.
        let path = &std::path::absolute(path).map_err(in_io)?;
        let mut connection = schema::open(path, durability, migrations)?;
        let place = |sql| connection.query_row(sql, [], |row| row.get(0));
        let in_sql = |error: rusqlite::Error| OpenError::sql(path, &error);
        let head: Seq = place(HEAD).map_err(in_sql)?;
        let oldest: Seq = place(OLDEST).map_err(in_sql)?;
        let shared = Arc::new(Shared::new(head, oldest, size_on_disk(path)));

        let reader = |name| {
            let connection = schema::open_to_read(path)?;
            Reader::spawn(name, connection, path.clone(), guard.clone()).map_err(in_io)
        };
        let (lookups, lists) = (reader("ledger-lookups")?, reader("ledger-lists")?);
        let checkpoints = schema::connect(path).map_err(in_sql)?;
        let checkpoints = Checkpoints::spawn(checkpoints, &mut connection).map_err(in_io)?;
        let brake = checkpoints.brake();
        let state = State::new(head);
        let writer = Writer::spawn(
            connection,
            checkpoints,
            path.clone(),
            state,
            Arc::clone(&shared),
            guard,
        );
        let files = [path.clone(), schema::beside(path, "-wal")];
        let files = files.into_iter().map(FileInUse::at);
        Ok(Self {
            files: files.collect::<Result<_, _>>().map_err(in_io)?,
            shared,
            writer: writer.map_err(in_io)?,
            checkpoints: brake,
            lookups,
            lists,
        })
    }

    /// Waits until all that was asked for is done, and closes the file. Blocks for as long as the
    /// disk does.
    pub fn close(self) {
        self.lookups.close();
        self.lists.close();
        self.writer.close();
    }
}

impl SqliteLedger {
    /// A part of the log: from memory, or by `reader` if it is older.
    fn read_by(&self, reader: &Reader, after: Seq, limit: usize) -> LedgerFuture<Page> {
        match self.shared.read(after, limit) {
            Ok(page) => std::future::ready(Ok(page)).boxed(),
            Err(head) => reader.ask(move |connection| reader::page(connection, after, head, limit)),
        }
    }
}

impl Ledger for SqliteLedger {
    fn is_durable(&self) -> bool {
        true
    }

    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>> {
        self.writer
            .ask(append.events.len(), |records| records.append(append))
    }

    fn append_each(&self, appends: Vec<Append>) -> LedgerFuture<Vec<Appended>> {
        let path = self.files[0].path().to_owned();
        let rows = appends.iter();
        let rows = rows.map(|it| it.events.len() + usize::from(it.amended.is_some()));
        let rows = rows.sum();
        self.writer
            .ask(rows, move |records| records.append_each(appends, &path))
    }

    fn head(&self) -> Seq {
        self.shared.head()
    }

    fn read(&self, after: Seq, limit: usize) -> LedgerFuture<Page> {
        self.read_by(&self.lookups, after, limit)
    }

    fn replay(&self, after: Seq, limit: usize) -> LedgerFuture<Page> {
        self.read_by(&self.lists, after, limit)
    }

    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>> {
        let id = id.clone();
        self.lookups
            .ask(move |connection| reader::last_ended(connection, &id))
    }

    fn last_incarnations(&self, ids: Vec<SessionId>) -> LedgerFuture<Vec<Option<Incarnation>>> {
        self.lookups
            .ask(move |connection| reader::last_incarnations(connection, &ids))
    }

    fn ended(
        &self,
        filter: &SessionFilter,
        now: Timestamp,
        after: Seq,
        limit: usize,
    ) -> LedgerFuture<Vec<SessionRecord>> {
        if filter.idle_for.is_some() {
            // No session that has ended is idle.
            return std::future::ready(Ok(Vec::new())).boxed();
        }
        let (filter, after) = (filter.clone(), after.min(LAST_SEQ));
        self.lists
            .ask(move |connection| reader::ended(connection, &filter, now, after, limit))
    }

    fn attach(&self, plugin: &str) -> LedgerFuture<Position> {
        let plugin: Arc<str> = plugin.into();
        self.writer.ask(1, move |records| records.attach(&plugin))
    }

    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()> {
        let plugin: Arc<str> = plugin.into();
        let rows = 1 + progress.park.len() + progress.unpark.len();
        self.writer
            .ask(rows, move |records| records.advance(plugin, &progress))
    }

    fn dead_letters(&self, plugin: &str, after: Seq, limit: usize) -> LedgerFuture<Vec<Parked>> {
        let (plugin, after) = (plugin.to_owned(), after.min(LAST_SEQ));
        self.lists
            .ask(move |connection| reader::dead_letters(connection, &plugin, after, limit))
    }

    fn detach_others(&self, configured: &[Arc<str>], now: Timestamp) -> LedgerFuture<()> {
        let configured: Arc<[Arc<str>]> = configured.into();
        self.writer
            .ask(1, move |records| records.detach_others(configured, now))
    }

    fn recover(&self, instance: InstanceId, now: Timestamp) -> LedgerFuture<Recovery> {
        self.writer
            .ask(1, move |records| records.recover(instance, now))
    }

    fn held(&self) -> LedgerFuture<Held> {
        self.writer.ask(1, |records| records.held())
    }

    fn bind_held(&self) -> LedgerFuture<()> {
        self.writer.ask(1, |records| records.bind_held())
    }

    fn keep_holder(&self, holder: HolderRecord) -> LedgerFuture<()> {
        self.writer
            .ask(1, move |records| records.keep_holder(&holder))
    }

    fn forget_holder(&self, holder: &HolderId) -> LedgerFuture<()> {
        let holder = holder.clone();
        self.writer
            .ask(1, move |records| records.forget_holder(&holder))
    }

    fn keep_alive(&self, now: Timestamp) -> LedgerFuture<()> {
        self.writer
            .ask_ahead(move |records| records.keep_alive(now))
    }

    fn check_files(&self) -> Result<(), LedgerError> {
        match self.files.iter().find(|file| file.is_gone()) {
            Some(gone) => Err(LedgerError::replaced(gone.path())),
            None => Ok(()),
        }
    }

    fn intend(&self, intent: Intent) -> LedgerFuture<()> {
        self.shared.begin_stop();
        self.checkpoints.pull();
        self.writer
            .ask_ahead(move |records| records.intend(&intent))
    }

    fn stop(&self, now: Timestamp) -> LedgerFuture<()> {
        self.writer.ask_ahead(move |records| records.stop(now))
    }

    fn reclaim(&self, now: Timestamp, retention: Duration) -> LedgerFuture<Reclaimed> {
        let shared = Arc::clone(&self.shared);
        self.writer.ask_ahead(move |records| {
            // What a stop has to record in its time comes first; the next run lets go of the rest.
            if shared.is_stopping() {
                return Ok(Reclaimed::default());
            }
            records.reclaim(now, retention)
        })
    }

    fn commits(&self) -> u64 {
        self.shared.commits()
    }

    /// The plugin's share of the events in the log, as if all were of one size.
    fn held_bytes(&self, plugin: &str) -> Option<u64> {
        let bytes = self.shared.size() as f64 * self.shared.share_of(plugin)?;
        Some(bytes as u64)
    }

    /// As of the last commit.
    fn size_bytes(&self) -> Option<u64> {
        Some(self.shared.size())
    }
}
