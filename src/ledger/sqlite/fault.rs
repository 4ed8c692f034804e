//! What can go wrong, in words for whoever has to mend it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::ledger::LedgerError;

/// Why a ledger could not be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It was written by a later release.
    #[error(
        "`{}` is a ledger of version {found}, and this release knows versions up to {known}: start the \
         release that wrote it, or a later one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this release reads.
        known: u32,
    },
    /// It is something else.
    #[error(
        "`{}` is not a ledger ({problem}): name another file, or move this one away",
        path.display()
    )]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// What is in it instead.
        problem: String,
    },
    /// It was a ledger and is damaged. It is never made anew by itself: what it knows of is owed to
    /// somebody.
    #[error(
        "`{}` is damaged ({problem}): restore it, with the file `-wal` beside it, from a copy; or keep both \
         aside, try `sqlite3 … .recover` on them, and start without what they held",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It or its directory can't be written.
    #[error(
        "`{}` can't be written ({problem}): the user of this process must be allowed to write it and to \
         make files beside it",
        path.display()
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// Another process writes it.
    #[error("`{}` is in use by another process: stop that one first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The system did not let it be read or written.
    #[error("`{}` can't be opened: {problem}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
}

impl OpenError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        let (path, problem) = (path.to_owned(), error.to_string());
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, problem }
            }
            _ => Self::Io { path, problem },
        }
    }

    pub(super) fn sql(path: &Path, error: &rusqlite::Error) -> Self {
        let (path, problem) = (path.to_owned(), error.to_string());
        if is_damage(error) {
            return Self::Damaged { path, problem };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::NotWritable { path, problem }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { path },
            Some(ErrorCode::DiskFull) => {
                let problem = "no space is left on its disk".into();
                Self::Io { path, problem }
            }
            _ => Self::Io { path, problem },
        }
    }
}

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// The request itself can't be met, whatever the state of the disk.
    Refused(String),
    /// What SQLite says.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// Whether the fault is the request's own, so that others of its transaction may still
    /// succeed.
    pub(super) fn is_of_the_request(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Sql(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig)
            ),
        }
    }

    /// What the one who asked is told.
    pub(super) fn explain(&self, path: &Path) -> LedgerError {
        match self {
            Self::Refused(problem) => LedgerError::new(problem),
            Self::Sql(error) => LedgerError::new(describe(error, path)),
        }
    }
}

/// What `error` means for the file at `path`.
pub(super) fn describe(error: &rusqlite::Error, path: &Path) -> String {
    let path = path.display();
    if is_damage(error) {
        return format!(
            "`{path}` is damaged ({error}); stop, and keep a copy of it before anything else"
        );
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => format!("no space is left on the disk of `{path}`"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program holds a lock on `{path}`")
        }
        Some(ErrorCode::ReadOnly) => format!("`{path}` can't be written"),
        _ => format!("`{path}`: {error}"),
    }
}

/// Whether `error` says that the file holds something else than it should.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    ) || matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
    )
}
