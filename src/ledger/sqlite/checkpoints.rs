//! Working the journal into the database, on a thread of its own: what waits to be recorded need not
//! wait for that.
//!
//! SQLite begins its journal anew when a writer finds that all of it is in the database. A thread
//! beside a writer that is busy never gets it so far, since there is always a little more by then. So
//! the thread copies most of it, and the writer the few pages that are left, between two groups.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode, Result};
use tracing::{info, warn};

/// From how many pages on the journal is worked into the database, 2 MiB. The disk has a commit wait
/// while it takes them, so they are to be few.
const FROM: usize = 512;

/// No more than so many pages are left when the writer copies them itself.
const FEW: usize = 256;

/// With so many, 16 MiB, the writer waits for the thread, and copies what is left however much it is: the
/// disk takes less than it writes. What is copied has to be synced at last, while all wait.
const MOST: usize = 4096;

/// From how many on during a stop, 64 MiB: more than a million ends take. A stop has other things to do in
/// its time, and its process is not gone before the disk is done.
const FROM_AT_STOP: usize = 16_384;

/// The thread, as the writer sees it. Dropping it waits for what is under way.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// How many pages the journal had after the last commit.
    pages: Arc<AtomicUsize>,
    /// None once it is to end.
    wanted: Option<SyncSender<()>>,
    /// How many pages of the journal are in the database.
    copied: Receiver<usize>,
    is_under_way: bool,
    thread: Option<JoinHandle<()>>,
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
        let (wanted, wants) = sync_channel(1);
        let (done, copied) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("ledger-checkpoints".into())
            .spawn(move || {
                let mut fails = false;
                for () in wants {
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
            is_under_way: false,
            thread: Some(thread),
        })
    }

    /// After a commit of `writer`: has the journal worked into the database if it is time, and does
    /// its own part. During a stop it is time much later.
    pub(super) fn tend(&mut self, writer: &Connection, is_stopping: bool) {
        let from = if is_stopping { FROM_AT_STOP } else { FROM };
        let most = MOST.max(from);
        let pages = self.pages.load(Ordering::Relaxed);
        if self.is_under_way {
            let Some(copied) = self.copied_or_wait(pages, most) else {
                return;
            };
            self.is_under_way = false;
            // Else it has begun anew meanwhile.
            if pages >= from && (pages.saturating_sub(copied) <= FEW || pages >= most) {
                // What can't be done the thread tells of.
                let _ = checkpoint(writer);
                return;
            }
        }
        if pages >= from {
            self.begin(writer);
        }
    }

    fn begin(&mut self, writer: &Connection) {
        let asked = self.wanted.as_ref().map(|wanted| wanted.try_send(()));
        self.is_under_way = matches!(asked, Some(Ok(())));
        if !self.is_under_way {
            // The thread has died of a panic.
            let _ = checkpoint(writer);
        }
    }

    /// How many pages of the journal are in the database by the thread's last look; none while it is at
    /// it, unless the journal has become too long not to wait for that.
    fn copied_or_wait(&self, pages: usize, most: usize) -> Option<usize> {
        match self.copied.try_recv() {
            Ok(copied) => Some(copied),
            Err(TryRecvError::Empty) if pages < most => None,
            Err(_) => Some(self.copied.recv().unwrap_or(0)),
        }
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
    let busy = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
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
            self.checkpoints.tend(&self.connection, false);
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
    fn a_short_journal_is_left_alone_and_during_a_stop_a_longer_one() {
        let mut writer = Writer::new();
        writer.commit(FROM / 2);
        writer.tend();
        assert!(!writer.checkpoints.is_under_way);
        writer.commit(FROM_AT_STOP - 2 * FROM);
        writer.checkpoints.tend(&writer.connection, true);
        assert!(!writer.checkpoints.is_under_way);
        writer.commit(2 * FROM);
        writer.checkpoints.tend(&writer.connection, true);
        assert!(writer.checkpoints.is_under_way);
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
        assert!(!writer.checkpoints.is_under_way);
        assert!(writer.commit(1) > pages, "the writer has copied it");
    }

    #[test]
    fn the_writer_does_it_all_where_the_thread_has_died() {
        for is_under_way in [false, true] {
            let mut writer = Writer::new();
            // As a panic would leave it.
            (writer.checkpoints.wanted, writer.checkpoints.copied) =
                (Some(sync_channel(1).0), sync_channel(1).1);
            writer.checkpoints.is_under_way = is_under_way;
            writer.commit(2 * FROM);
            writer.tend();
            assert!(writer.commit(1) < FROM, "{is_under_way}");
        }
    }

    #[test]
    fn a_journal_that_is_too_long_is_waited_for() {
        let mut writer = Writer::new();
        writer.commit(MOST);
        writer.tend();
        assert!(writer.checkpoints.is_under_way);
        writer.commit(1);
        writer.tend();
        assert!(!writer.checkpoints.is_under_way);
        assert!(writer.commit(1) < FROM);
    }
}
