//! Working the journal into the database, on a thread of its own: what waits to be recorded need not
//! wait for that.
//!
//! SQLite begins its journal anew when a writer finds that all of it is in the database. A thread
//! beside a writer that is busy never gets it so far, since there is always a little more by then. So
//! the thread copies most of it, and the writer the few pages that are left, between two groups.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode, InterruptHandle, Result};
use tracing::{info, warn};

/// From how many pages on the journal is worked into the database, 2 MiB. The disk has a commit wait
/// while it takes them, so they are to be few.
const FROM: usize = 512;

/// No more than so many pages are left when the writer copies them itself.
const FEW: usize = 256;

/// How many pages, 16 MiB, the writer adds at the most while the thread is at it: then it waits, and copies
/// what is left however much it is, since the disk takes less than it writes. What is copied has to be
/// synced at last, while all wait.
const MOST: usize = 4096;

/// From how many on, 64 MiB, somebody should know of it.
const LONG: usize = 16_384;

/// The thread, as the writer sees it. Dropping it waits for what is under way.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// How many pages the journal had after the last commit.
    pages: Arc<AtomicUsize>,
    /// None once it is to end.
    wanted: Option<SyncSender<()>>,
    /// How many pages of the journal are in the database.
    copied: Receiver<usize>,
    /// How many pages the journal had when the thread was set to it.
    under_way: Option<usize>,
    /// How many it had when the thread was set to it first since the journal was all in the database.
    round: Option<usize>,
    /// The thread does not get on, as while somebody reads: to wait for it would be of no use, and too
    /// long once it is let go on.
    is_held: bool,
    is_long: bool,
    brake: Brake,
    thread: Option<JoinHandle<()>>,
}

/// Stops the thread for good.
#[derive(Clone)]
pub(super) struct Brake {
    is_on: Arc<AtomicBool>,
    interrupt: Arc<InterruptHandle>,
}

impl fmt::Debug for Brake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Brake")
    }
}

impl Brake {
    /// Breaks off what is under way, and has nothing begun any more: a stop needs the disk for other
    /// things, and its process is not gone before the disk is done.
    pub(super) fn pull(&self) {
        self.is_on.store(true, Ordering::Relaxed);
        self.interrupt.interrupt();
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }
}

impl Checkpoints {
    /// Starts the thread, which copies over `connection` what `writer` commits.
    pub(super) fn spawn(connection: Connection, writer: &mut Connection) -> io::Result<Self> {
        let pages = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&pages);
        // It takes the place of SQLite's own, which copies within a commit.
        let hook = move |_: &mut _, pages| {
            seen.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(io::Error::other)?;
        let brake = Brake {
            is_on: Arc::default(),
            interrupt: Arc::new(connection.get_interrupt_handle()),
        };
        let (wanted, wants) = sync_channel(1);
        let (done, copied) = sync_channel(1);
        let its_brake = brake.clone();
        let thread = std::thread::Builder::new()
            .name("ledger-checkpoints".into())
            .spawn(move || {
                let mut fails = false;
                for () in wants {
                    if its_brake.is_on() {
                        return;
                    }
                    let copied = checkpoint(&connection);
                    tell(&copied, &mut fails);
                    if done.send(copied.unwrap_or(0)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            pages,
            wanted: Some(wanted),
            copied,
            under_way: None,
            round: None,
            is_held: false,
            is_long: false,
            brake,
            thread: Some(thread),
        })
    }

    pub(super) fn brake(&self) -> Brake {
        self.brake.clone()
    }

    /// After a commit of `writer`: has the journal worked into the database if it is time, and does
    /// its own part.
    pub(super) fn tend(&mut self, writer: &Connection) {
        let pages = self.pages.load(Ordering::Relaxed);
        let mut is_ours = false;
        if let Some(begun_at) = self.under_way {
            let round = self.round.unwrap_or(begun_at);
            let is_outrun = !self.is_held && pages.saturating_sub(round) >= MOST;
            let Some(copied) = self.copied_or_wait(is_outrun) else {
                return;
            };
            self.under_way = None;
            if self.is_held {
                self.round = None;
            }
            if copied >= round || begun_at > pages {
                self.is_held = false;
            } else if begun_at > round {
                // Not the first time: a commit that begins may keep the thread from the one before.
                self.is_held = true;
            }
            is_ours = !self.is_held && (is_outrun || pages.saturating_sub(copied) <= FEW);
        }
        self.tell_of_length(pages);
        // It may also have begun anew meanwhile.
        if pages < FROM || self.brake.is_on() {
            self.round = None;
            return;
        }
        if !is_ours {
            let asked = self.wanted.as_ref().map(|wanted| wanted.try_send(()));
            if matches!(asked, Some(Ok(()))) {
                self.under_way = Some(pages);
                self.round.get_or_insert(pages);
                return;
            }
            // The thread has died of a panic.
        }
        self.round = None;
        // What can't be done the thread tells of.
        let _ = checkpoint(writer);
    }

    /// How many pages of the journal are in the database by the thread's last look; none while it is at
    /// it, unless that is to be waited for.
    fn copied_or_wait(&self, waits: bool) -> Option<usize> {
        match self.copied.try_recv() {
            Ok(copied) => Some(copied),
            Err(TryRecvError::Empty) if !waits => None,
            Err(_) => Some(self.copied.recv().unwrap_or(0)),
        }
    }

    fn tell_of_length(&mut self, pages: usize) {
        let is_long = pages >= LONG;
        if is_long && !self.is_long {
            let mib = pages / 256;
            warn!(
                mib,
                "the ledger's journal is long: another program reads `ledger.db`, or the disk is slow"
            );
        }
        self.is_long = is_long;
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // A panic has said so itself.
            let _ = thread.join();
        }
    }
}

/// Copies what is in the journal into the database, as far as nobody reads what was there before;
/// says how many pages of the journal are in it then.
fn checkpoint(connection: &Connection) -> Result<usize> {
    let sql = "PRAGMA wal_checkpoint(PASSIVE)";
    // Somebody else who is at it makes it -1.
    let copied: i64 = connection.query_row(sql, [], |row| row.get(2))?;
    Ok(usize::try_from(copied).unwrap_or(0))
}

/// Logs when it begins to fail, and when it works again.
fn tell(copied: &Result<usize>, fails: &mut bool) {
    // The last of a stop.
    let busy = [
        ErrorCode::DatabaseBusy,
        ErrorCode::DatabaseLocked,
        ErrorCode::OperationInterrupted,
    ];
    match copied {
        Ok(_) if *fails => {
            *fails = false;
            info!("the ledger's journal is worked into it again");
        }
        Err(error)
            if !*fails
                && !error
                    .sqlite_error_code()
                    .is_some_and(|it| busy.contains(&it)) =>
        {
            *fails = true;
            warn!(%error, "the ledger's journal can't be worked into it, and grows");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    use super::*;
    use crate::ledger::sqlite::schema;

    /// Nothing takes longer.
    const TIMEOUT: Duration = Duration::from_secs(60);

    struct Writer {
        checkpoints: Checkpoints,
        connection: Connection,
        _directory: TempDir,
    }

    impl Writer {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file.db");
            let mut connection = Connection::open(&path).unwrap();
            connection
                .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (bytes)")
                .unwrap();
            let beside = schema::connect(&path).unwrap();
            let checkpoints = Checkpoints::spawn(beside, &mut connection).unwrap();
            Self {
                checkpoints,
                connection,
                _directory: directory,
            }
        }

        /// Commits so many pages and some; says how many the journal has then.
        fn commit(&self, pages: usize) -> usize {
            let bytes = 4096 * pages;
            let insert = "INSERT INTO t VALUES (zeroblob(?1))";
            self.connection.execute(insert, [bytes]).unwrap();
            self.checkpoints.pages.load(Ordering::Relaxed)
        }

        fn tend(&mut self) {
            self.checkpoints.tend(&self.connection);
        }
    }

    #[test]
    fn the_thread_and_the_writer_together_have_the_journal_begin_anew() {
        let mut writer = Writer::new();
        assert!(writer.commit(FROM) >= FROM);
        let until = Instant::now() + TIMEOUT;
        while writer.commit(1) >= FROM {
            writer.tend();
            assert!(Instant::now() < until, "it goes on for ever");
        }
    }

    #[test]
    fn a_short_journal_is_left_alone_and_during_a_stop_a_long_one_too() {
        let mut writer = Writer::new();
        writer.commit(FROM / 2);
        writer.tend();
        assert_eq!(writer.checkpoints.under_way, None);
        let pages = writer.commit(FROM);
        writer.tend();
        assert_eq!(writer.checkpoints.under_way, Some(pages));

        let mut stopping = Writer::new();
        stopping.checkpoints.brake().pull();
        let pages = stopping.commit(LONG);
        stopping.tend();
        assert_eq!(stopping.checkpoints.under_way, None);
        assert!(stopping.commit(1) > pages, "it has begun anew");
    }

    #[test]
    fn a_stop_does_not_wait_for_what_is_under_way() {
        let mut writer = Writer::new();
        writer.commit(LONG);
        writer.tend();
        writer.checkpoints.brake().pull();
        let pages = writer.commit(MOST);
        writer.tend();
        // It may have been done before; else nobody copies the rest.
        assert_eq!(writer.checkpoints.under_way, None);
        let next = writer.commit(1);
        assert!(next > pages || next < FROM, "{next} after {pages}");
    }

    #[test]
    fn only_a_thread_that_does_not_get_on_is_held() {
        let mut writer = Writer::new();
        let ((wanted, wants), (done, copied)) = (sync_channel(1), sync_channel(1));
        writer.checkpoints.wanted = Some(wanted);
        writer.checkpoints.copied = copied;
        writer.commit(FROM);
        writer.tend();
        let mut pass = |copied| {
            wants.recv_timeout(TIMEOUT).unwrap();
            done.send(copied).unwrap();
            writer.commit(FROM);
            writer.tend();
            writer.checkpoints.is_held
        };
        assert!(!pass(FROM / 2), "a commit may have begun");
        assert!(pass(FROM / 2));
        assert!(pass(FROM / 2));
        assert!(!pass(MOST), "it gets on again");
    }

    #[test]
    fn a_journal_that_has_begun_anew_by_itself_is_left_alone() {
        let mut writer = Writer::new();
        writer.commit(FROM);
        writer.tend();
        // The thread has got all of it.
        let copied = writer.checkpoints.copied.recv().unwrap();
        let (done, outcomes) = sync_channel(1);
        done.send(copied).unwrap();
        writer.checkpoints.copied = outcomes;
        let pages = writer.commit(1);
        assert!(pages < FROM);
        writer.tend();
        assert_eq!(writer.checkpoints.under_way, None);
        assert!(writer.commit(1) > pages, "the writer has copied it");
    }

    #[test]
    fn the_writer_does_it_all_where_the_thread_has_died() {
        for under_way in [None, Some(0)] {
            let mut writer = Writer::new();
            // As a panic would leave it.
            (writer.checkpoints.wanted, writer.checkpoints.copied) =
                (Some(sync_channel(1).0), sync_channel(1).1);
            writer.checkpoints.under_way = under_way;
            writer.commit(2 * FROM);
            writer.tend();
            assert!(writer.commit(1) < FROM, "{under_way:?}");
        }
    }

    #[test]
    fn a_writer_that_has_added_too_much_meanwhile_waits_and_copies_the_rest() {
        let mut writer = Writer::new();
        writer.commit(FROM);
        writer.tend();
        writer.commit(MOST);
        writer.tend();
        assert_eq!(writer.checkpoints.under_way, None);
        assert!(writer.commit(1) < FROM);
    }
}
