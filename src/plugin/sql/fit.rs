//! Whether statements fit the database as it is, looked at without touching it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::SqlSettings;
use crate::event::Hook;

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
        let misfit = |(hook, sql): (&Hook, &String)| Some((*hook, misfit(&connection, sql)?));
        Ok(self.statements.iter().filter_map(misfit).collect())
    }
}

fn misfit(connection: &Connection, sql: &str) -> Option<String> {
    let error = connection.prepare(sql).err()?;
    // Anything else may be over in a moment, such as a lock.
    let is_lasting = error.sqlite_error_code() == Some(ErrorCode::Unknown);
    is_lasting.then(|| match error {
        rusqlite::Error::SqlInputError { msg, .. }
        | rusqlite::Error::SqliteFailure(_, Some(msg)) => msg,
        other => other.to_string(),
    })
}

/// Opens the database such that no file is made, changed or locked, since whoever looks may not be the
/// user who is to write. None where that can't be.
fn look_at(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let Some(connection) = open(path) else {
        return Ok(None);
    };
    // What the one for `gateway_start` finds.
    let prepared =
        "PRAGMA temp_store = MEMORY; CREATE TEMP TABLE active (id TEXT PRIMARY KEY) WITHOUT ROWID";
    match connection.execute_batch(prepared) {
        Ok(()) => Ok(Some(connection)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => Err(error),
        Err(_) => Ok(None),
    }
}

fn open(path: &Path) -> Option<Connection> {
    let path = std::path::absolute(path).ok()?;
    // A pipe would be waited for.
    if !path.metadata().is_ok_and(|found| found.is_file()) {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let beside = |suffix: &str| {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let has_wal = beside("-wal").metadata().is_ok_and(|wal| wal.len() > 0);
    let connection = if has_wal {
        // Part of the database is there, and can't be read without its index, which would be made.
        if !beside("-shm").exists() {
            return None;
        }
        Connection::open_with_flags(&path, flags)
    } else {
        let escaped = path.to_str()?.replace('%', "%25");
        let escaped = escaped.replace('?', "%3f").replace('#', "%23");
        let uri = format!("file://{escaped}?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
    };
    let connection = connection.ok()?;
    connection.busy_timeout(Duration::ZERO).ok()?;
    Some(connection)
}
