//! What happens to the plugins meanwhile: to the database of `db`, to the directory of `side`, and to
//! the receiver of `hook` and the program of `program`, which fail while a certain file is there.
//! `audit` is never in trouble.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use rusqlite::Connection;

use super::chance;

const PATIENCE: Duration = Duration::from_secs(30);

/// One trouble after another, with pauses between, until it is told to end.
pub(super) struct Trouble {
    is_over: Arc<AtomicBool>,
    directory: Arc<Mutex<()>>,
    thread: Option<JoinHandle<BTreeMap<&'static str, u64>>>,
}

impl Trouble {
    /// Begins in `folder`. No trouble, and no pause, is longer than `longest`.
    pub(super) fn begin(folder: &Path, longest: Duration) -> Self {
        let (is_over, directory) = (Arc::<AtomicBool>::default(), Arc::<Mutex<()>>::default());
        let until = Arc::clone(&is_over);
        let place = Place {
            folder: folder.into(),
            directory: Arc::clone(&directory),
        };
        let longest_ms = u64::try_from(longest.as_millis()).unwrap().max(1);
        let some_time = move || Duration::from_millis(chance(longest_ms));
        let thread = thread::spawn(move || {
            let kinds: [(_, Kind); 5] = [
                ("locked", Place::lock),
                ("moved away", Place::move_away),
                ("read-only", Place::make_read_only),
                ("without its directory", Place::take_directory),
                ("failing", Place::fail),
            ];
            let mut counts = BTreeMap::new();
            while !until.load(Ordering::SeqCst) {
                let (name, befall) = kinds[usize::try_from(chance(5)).unwrap()];
                befall(&place, some_time());
                *counts.entry(name).or_default() += 1;
                sleep(some_time());
            }
            counts
        });
        Self {
            is_over,
            directory,
            thread: Some(thread),
        }
    }

    /// Keeps the directory of `side` where it is: without it no gateway starts.
    pub(super) fn keep_directory(&self) -> MutexGuard<'_, ()> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, with everything where it was. Answers what happened how often.
    pub(super) fn end(mut self) -> BTreeMap<&'static str, u64> {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// A trouble that lasts for a while.
type Kind = fn(&Place, Duration);

/// Where the plugins' files are.
struct Place {
    folder: PathBuf,
    /// Held while the directory of `side` is away.
    directory: Arc<Mutex<()>>,
}

impl Place {
    fn here(&self) -> PathBuf {
        self.folder.join("app.db")
    }

    fn away(&self) -> PathBuf {
        self.folder.join("away.db")
    }

    /// Does `what` while nobody else has the database.
    fn alone(&self, what: impl FnOnce()) {
        let database = Connection::open(self.here()).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database.execute_batch("BEGIN EXCLUSIVE").unwrap();
        what();
        database.execute_batch("COMMIT").unwrap();
    }

    fn lock(&self, lasts: Duration) {
        self.alone(|| sleep(lasts));
    }

    fn move_away(&self, lasts: Duration) {
        self.take_database();
        sleep(lasts);
        fs::rename(self.away(), self.here()).unwrap();
    }

    /// Not in the midst of a transaction: its journal has the name of the database.
    fn take_database(&self) {
        self.alone(|| fs::rename(self.here(), self.away()).unwrap());
    }

    fn make_read_only(&self, lasts: Duration) {
        self.take_database();
        // A write version that SQLite does not know yet makes the file read-only, for root too.
        self.set_write_version(3);
        fs::rename(self.away(), self.here()).unwrap();
        sleep(lasts);
        fs::rename(self.here(), self.away()).unwrap();
        self.set_write_version(1);
        fs::rename(self.away(), self.here()).unwrap();
    }

    /// Only while the database is away: to close a file gives up the locks of this process on it.
    fn set_write_version(&self, version: u8) {
        let file = File::options().write(true).open(self.away()).unwrap();
        file.write_all_at(&[version], 18).unwrap();
    }

    fn fail(&self, lasts: Duration) {
        let failing = self.folder.join("failing");
        File::create(&failing).unwrap();
        sleep(lasts);
        fs::remove_file(failing).unwrap();
    }

    fn take_directory(&self, lasts: Duration) {
        let (here, away) = (self.folder.join("side"), self.folder.join("side.away"));
        let _away = self.directory.lock().unwrap();
        fs::rename(&here, &away).unwrap();
        sleep(lasts);
        fs::rename(&away, &here).unwrap();
    }
}
