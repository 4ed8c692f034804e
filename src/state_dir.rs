//! The state directory: what one run of a supervisor leaves to the next. One process has it at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::file_id::FileInUse;

/// The file whose lock says that a process has the directory.
const LOCK: &str = "lock";

/// How long to wait for the directory of a process that is ending, and how often to look.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The longest content of the lock file that can be a process's number.
const MAX_PID: u64 = 20;

/// A state directory that this process alone has, until the last clone is dropped or the process
/// ends, however it ends.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: Arc<Path>,
    lock_file: FileInUse,
    /// Held for its lock.
    _lock: Arc<File>,
}

/// Why a state directory can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// Another process has it.
    #[error(
        "the state directory `{}` is in use by {}: stop that one first, or use another",
        path.display(),
        process(*pid)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Which process, if it says.
        pid: Option<u32>,
    },
    /// It can't be made or written.
    #[error("{} can't be used as a state directory: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl StateDir {
    /// The name of the ledger in a state directory.
    pub(crate) const LEDGER: &str = "ledger.db";

    /// The name of the folder in which the reports of stops are kept.
    pub(crate) const REPORTS: &str = "reports";

    /// Takes the directory at `path`, which is made, readable by its owner alone, if there is none.
    ///
    /// A lock that a process left when it was killed is none: the operating system let go of it.
    ///
    /// # Errors
    ///
    /// [`StateDirError::InUse`] when another process, or this one, has it already;
    /// [`StateDirError::Io`] when it can't be made or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateDirError> {
        let path = path.into();
        match take(&path) {
            Ok(Taken::Now(lock, lock_file)) => Ok(Self {
                path: path.into(),
                lock_file,
                _lock: Arc::new(lock),
            }),
            Ok(Taken::Before(pid)) => Err(StateDirError::InUse { path, pid }),
            Err(error) => Err(StateDirError::Io { path, error }),
        }
    }

    /// Takes the directory like [`open`](Self::open), and waits a moment, 2 s at the most, for one that has
    /// it: most often the process before, which is ending. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_when_free(path: impl Into<PathBuf>) -> Result<Self, StateDirError> {
        let path = path.into();
        let mut opened = Self::open(&path);
        if let Err(StateDirError::InUse { pid, .. }) = opened {
            let owner = process(pid);
            tracing::info!("waiting for {owner}, which has the state directory, to end");
            let began = Instant::now();
            while matches!(opened, Err(StateDirError::InUse { .. })) && began.elapsed() < PATIENCE {
                thread::sleep(LOOK_EVERY);
                opened = Self::open(&path);
            }
        }
        opened
    }

    /// The process that has the directory at `path`, if there is one and it says which it is.
    #[cfg(feature = "cli")]
    pub(crate) fn owner(path: &Path) -> Option<u32> {
        let path = path.join(LOCK);
        // Whatever else has this name might have to be waited for.
        path.metadata().ok().filter(fs::Metadata::is_file)?;
        let lock = File::open(path).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => read_pid(lock).ok()?,
            _ => None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file whose lock says that this process has it.
    pub(crate) fn lock_file(&self) -> &FileInUse {
        &self.lock_file
    }

    /// Where the ledger of this directory is kept.
    pub fn ledger_path(&self) -> PathBuf {
        self.path.join(Self::LEDGER)
    }
}

/// Who has the lock.
enum Taken {
    Now(File, FileInUse),
    /// Another, and its process if it says.
    Before(Option<u32>),
}

fn take(path: &Path) -> io::Result<Taken> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    // Not truncated: it may say who has the lock.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut lock = options.open(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Ok(Taken::Before(read_pid(lock)?));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let lock_file = FileInUse::opened(path.join(LOCK), &lock)?;
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    // Whoever can write the lock may still lack the right to make files.
    let reports = path.join(StateDir::REPORTS);
    builder.create(&reports)?;
    for folder in [path, &reports] {
        let probe = folder.join(".writable");
        fs::write(&probe, "")?;
        fs::remove_file(&probe)?;
    }
    Ok(Taken::Now(lock, lock_file))
}

/// The process that a lock file names.
fn read_pid(lock: File) -> io::Result<Option<u32>> {
    let mut text = String::new();
    lock.take(MAX_PID).read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

/// A process as messages name it.
fn process(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_had_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(first.path(), path);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "made for its owner alone");
        }
        let refused = StateDir::open(&path).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(refused, StateDirError::InUse { pid: Some(by), .. } if by == pid));
        assert!(
            refused
                .to_string()
                .contains(&format!("in use by process {pid}: ")),
            "{refused}"
        );

        assert!(refused.to_string().starts_with("the state directory `"));

        let second = first.clone();
        drop(first);
        assert!(StateDir::open(&path).is_err(), "a clone has it still");
        drop(second);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_is_about_to_be_let_go_of_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let had = StateDir::open(dir.path()).unwrap();
        let lets_go = thread::spawn(move || {
            thread::sleep(2 * LOOK_EVERY);
            drop(had);
        });
        StateDir::open_when_free(dir.path()).unwrap();
        lets_go.join().unwrap();
    }

    #[cfg(feature = "cli")]
    #[test]
    fn who_has_a_directory_is_known_as_long_as_it_is_had() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StateDir::owner(dir.path()), None, "nobody has had it");
        let had = StateDir::open(dir.path()).unwrap();
        assert_eq!(StateDir::owner(dir.path()), Some(std::process::id()));
        drop(had);
        assert_eq!(StateDir::owner(dir.path()), None, "it was let go");
    }

    #[test]
    fn a_directory_that_can_not_keep_reports_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("reports"), "").unwrap();
        let refused = StateDir::open(dir.path()).unwrap_err();
        assert!(matches!(refused, StateDirError::Io { .. }), "{refused}");
    }

    #[test]
    fn what_is_no_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let refused = StateDir::open(&path).unwrap_err().to_string();
        assert!(
            refused.contains("file can't be used as a state directory: "),
            "{refused}"
        );
    }
}
