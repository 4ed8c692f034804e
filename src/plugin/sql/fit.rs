//! Whether statements fit the database as it is, looked at without touching it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::SqlSettings;
use crate::event::Hook;

/// What the statement for `gateway_start` finds.
const ACTIVE: &str = "CREATE TEMP TABLE active (id TEXT PRIMARY KEY) WITHOUT ROWID";

impl SqlSettings {
    /// What the database has against statements as it is now, such as that a table is missing, each
    /// with its hook. Nothing where it can't be looked at just now.
    ///
    /// # Errors
    ///
    /// When the file is no database.
    pub(crate) fn misfits(&self) -> rusqlite::Result<Vec<(Hook, String)>> {
        let Some(connection) = look_at(&self.path)? else {
            return Ok(Vec::new());
        };
        let mut misfits = Vec::new();
        let is_opening = |(hook, _): &(&Hook, &String)| **hook == Hook::GatewayStart;
        let (opening, others): (Vec<_>, Vec<_>) = self.statements.iter().partition(is_opening);
        for (hook, sql) in others {
            misfits.extend(misfit(&connection, sql).map(|misfit| (*hook, misfit)));
        }
        for (hook, sql) in opening {
            // It alone finds this table, which hides one of the database.
            let made = connection.execute_batch(ACTIVE);
            let misfit = made.ok().and_then(|()| misfit(&connection, sql));
            misfits.extend(misfit.map(|misfit| (*hook, misfit)));
        }
        Ok(misfits)
    }
}

fn misfit(connection: &Connection, sql: &str) -> Option<String> {
    let error = connection.prepare(sql).err()?;
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => Some(msg),
        rusqlite::Error::SqliteFailure(failure, Some(msg)) => {
            // Anything else may be over in a moment, such as a lock.
            (failure.code == ErrorCode::Unknown).then_some(msg)
        }
        _ => None,
    }
}

/// Opens the database such that no file is made or changed, since whoever looks may not be the user who
/// is to write. None where that can't be.
fn look_at(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let Some(connection) = open(path) else {
        return Ok(None);
    };
    match connection.execute_batch("PRAGMA temp_store = MEMORY; SELECT count(*) FROM sqlite_schema")
    {
        Ok(()) => Ok(Some(connection)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => Err(error),
        Err(_) => Ok(None),
    }
}

fn open(path: &Path) -> Option<Connection> {
    // SQLite, too, looks for what is beside the file itself, and not beside a link to it.
    let path = path.canonicalize().ok()?;
    // A pipe would be waited for.
    if !path.metadata().is_ok_and(|found| found.is_file()) {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let beside = |suffix: &str| {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let has_wal = beside("-wal").metadata().is_ok_and(|wal| wal.len() > 0);
    // Part of the database is there, and can't be read without its index, which would be made.
    if has_wal && !beside("-shm").exists() {
        return None;
    }
    let option = if has_wal { "readonly_shm" } else { "immutable" };
    let escaped = path.to_str()?.replace('%', "%25");
    let escaped = escaped.replace('?', "%3f").replace('#', "%23");
    let uri = format!("file://{escaped}?{option}=1");
    let connection = Connection::open_with_flags(uri, flags);
    let connection = connection.ok()?;
    connection.busy_timeout(Duration::ZERO).ok()?;
    Some(connection)
}
