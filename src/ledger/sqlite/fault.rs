//! What can go wrong with a ledger that is open, in words for whoever reads the log.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::ledger::LedgerError;

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
