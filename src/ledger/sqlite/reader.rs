//! Threads that read, each over a connection of its own. They see all that has been answered, and
//! wait for no writer.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Result, named_params, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::fault::describe;
use super::rows::{EventReader, ended_query, events_query};
use super::writer::submit;
use crate::event::Seq;
use crate::filter::SessionFilter;
use crate::ledger::{LedgerError, LedgerFuture, Page, Parked, SessionRecord};
use crate::session::{Incarnation, SessionId};
use crate::state_dir::StateDir;

/// How many requests may wait: see the writer's.
const MAX_WAITING: usize = 16_384;

/// The largest page: events have up to tens of kilobytes each.
const MAX_PAGE: usize = 8192;

type Query = Box<dyn FnOnce(&Connection) + Send>;

/// The way to a thread that reads.
pub(super) struct Reader {
    queries: SyncSender<Query>,
    path: PathBuf,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// Starts the thread, which keeps `guard` until it has closed the file.
    pub(super) fn spawn(
        name: &str,
        connection: Connection,
        path: PathBuf,
        guard: Option<StateDir>,
    ) -> io::Result<Self> {
        let (queries, waiting) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                answer_all(&connection, &waiting);
                drop(connection);
                drop(guard);
            })?;
        Ok(Self {
            queries,
            path,
            thread,
        })
    }

    /// Has `query` run in its turn.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> LedgerFuture<T> {
        let (asker, answer) = oneshot::channel();
        let path = self.path.clone();
        let query: Query = Box::new(move |connection| {
            if asker.is_closed() {
                return;
            }
            let result = query(connection);
            let result = result.map_err(|error| LedgerError::new(describe(&error, &path)));
            let _ = asker.send(result);
        });
        submit(&self.queries, query, answer)
    }

    /// Waits until what was asked for is answered and the connection is closed.
    pub(super) fn close(self) {
        drop(self.queries);
        // A panic has said so itself.
        let _ = self.thread.join();
    }
}

fn answer_all(connection: &Connection, waiting: &Receiver<Query>) {
    while let Ok(query) = waiting.recv() {
        query(connection);
    }
}

/// At most `limit` events after the place `after`, and up to `head`. A page ends where the log has a
/// hole, and the next one begins with its gap.
pub(super) fn page(connection: &Connection, after: Seq, head: Seq, limit: usize) -> Result<Page> {
    const QUERY: &str = events_query!("", "", "log.seq > :after AND log.seq <= :head");
    let mut statement = connection.prepare_cached(QUERY)?;
    let mut rows = statement.query(named_params! {
        ":after": after,
        ":head": head,
        ":limit": limit.min(MAX_PAGE),
    })?;
    let mut reader = EventReader::default();
    let mut events = Vec::new();
    let mut gap = 0;
    let mut next = after + 1;
    while let Some(row) = rows.next()? {
        let seq: Seq = row.get("seq")?;
        if seq != next {
            if !events.is_empty() {
                break;
            }
            gap = seq - next;
        }
        events.push(reader.event(row)?);
        next = seq + 1;
    }
    let events = events.into();
    Ok(Page { events, gap })
}

/// The newest incarnation of `id` that has ended.
pub(super) fn last_ended(connection: &Connection, id: &SessionId) -> Result<Option<SessionRecord>> {
    const QUERY: &str = ended_query!("WHERE begun.id = ?1 ORDER BY begun.seq DESC LIMIT 1");
    connection
        .prepare_cached(QUERY)?
        .query_row([id.as_str()], |row| EventReader::default().ended(row))
        .optional()
}

/// The newest incarnation of each of `ids` that has ended.
pub(super) fn last_incarnations(
    connection: &Connection,
    ids: &[SessionId],
) -> Result<Vec<Option<Incarnation>>> {
    let mut statement = connection.prepare_cached(
        "SELECT begun.incarnation FROM starts AS begun JOIN ends ON ends.start_seq = begun.seq
         WHERE begun.id = ?1 ORDER BY begun.seq DESC LIMIT 1",
    )?;
    let found = ids.iter().map(|id| {
        let found = statement.query_row([id.as_str()], |row| row.get::<_, Uuid>(0));
        Ok(found.optional()?.map(Incarnation::from_uuid))
    });
    found.collect()
}

/// At most `limit` sessions that have ended and meet `filter`, in the order of their starts.
pub(super) fn ended(
    connection: &Connection,
    filter: &SessionFilter,
    now: Timestamp,
    after: Seq,
    limit: usize,
) -> Result<Vec<SessionRecord>> {
    const QUERY: &str = ended_query!("WHERE begun.seq > ?1 ORDER BY begun.seq");
    let mut statement = connection.prepare_cached(QUERY)?;
    let mut rows = statement.query([after])?;
    let mut reader = EventReader::default();
    let mut page = Vec::new();
    while page.len() < limit
        && let Some(row) = rows.next()?
    {
        let record = reader.ended(row)?;
        if filter.matches(&record.session, None, now) {
            page.push(record);
        }
    }
    Ok(page)
}

/// At most `limit` dead letters of `plugin` after the place `after`.
pub(super) fn dead_letters(
    connection: &Connection,
    plugin: &str,
    after: Seq,
    limit: usize,
) -> Result<Vec<Parked>> {
    const QUERY: &str = events_query!(
        ", parked.attempts, parked.not_before, parked.dead, parked.error",
        "parked CROSS JOIN ",
        "log.seq = parked.seq AND parked.plugin = :plugin AND parked.dead AND parked.seq > :after"
    );
    let number: Option<i64> = connection
        .prepare_cached("SELECT number FROM plugins WHERE name = ?1")?
        .query_row(params![plugin], |row| row.get(0))
        .optional()?;
    let mut reader = EventReader::default();
    connection
        .prepare_cached(QUERY)?
        .query_map(
            named_params! { ":plugin": number, ":after": after, ":limit": limit.min(MAX_PAGE) },
            |row| reader.parked(row),
        )?
        .collect()
}
