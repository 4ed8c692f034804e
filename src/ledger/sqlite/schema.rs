//! Opening the file: whether it is a ledger, of which version, and in one piece.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::OpenError;
use crate::durability::Durability;

/// What tells a ledger from other SQLite files: "SSup".
const APPLICATION_ID: u32 = 0x5353_7570;

/// What leads from each version to the next, from an empty file on. Released ones are never
/// changed.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("holders.sql"),
    include_str!("bound.sql"),
];

/// Files up to this size are read through at the start. What is damaged in a larger one is found
/// when it is needed.
const MAX_CHECKED_BYTES: u64 = 8 << 20;

/// How long to wait for another program that looks into the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the ledger at `path` to write to it, makes it if there is none, and brings it to the
/// version that `migrations` lead to.
pub(super) fn open(
    path: &Path,
    durability: Durability,
    migrations: &[&str],
) -> Result<Connection, OpenError> {
    let found = inspect(path, migrations)?;
    let in_sql = |error: rusqlite::Error| OpenError::sql(path, &error);
    let connection = connect(path).map_err(in_sql)?;
    if found.is_none() {
        // Only an empty file takes it.
        let pragma = "PRAGMA auto_vacuum = INCREMENTAL";
        connection.execute_batch(pragma).map_err(in_sql)?;
    }
    // Until it is known to be ours and whole, closing must not write what is in the `-wal` file.
    let on_close = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(on_close, true).map_err(in_sql)?;
    let version = version_of(&connection).map_err(in_sql)?;
    check_version(path, version, migrations)?;
    check(path, &connection, &migrations[..version as usize])?;
    settle(&connection, durability).map_err(in_sql)?;
    migrate(path, &connection, version, migrations)?;
    connection.set_db_config(on_close, false).map_err(in_sql)?;
    Ok(connection)
}

/// Opens the ledger at `path`, which is there and has been checked, only to read it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    let connect = || {
        let connection = connect(path)?;
        connection.execute_batch("PRAGMA query_only = ON")?;
        Ok(connection)
    };
    connect().map_err(|error| OpenError::sql(path, &error))
}

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Without `SQLITE_OPEN_CREATE` and `SQLITE_OPEN_URI`.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Otherwise a statement that looks something up is prepared anew for each value that it is given:
    // the plan might depend on it, where there are statistics.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(
        "PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -16384;",
    )?;
    Ok(connection)
}

/// How it is written.
fn settle(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Power => "FULL",
        Durability::Process => "NORMAL",
    };
    // The `-wal` file is shortened if a large transaction or a long reader made it grow beyond 64 MiB.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = {synchronous};
         PRAGMA journal_size_limit = 67108864;"
    ))?;
    // It finds out whether the file may be written at all.
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK;")
}

/// Looks at the head of the file without SQLite, which might write to it, and makes the file if there
/// is none. None if it is empty.
fn inspect(path: &Path, migrations: &[&str]) -> Result<Option<u32>, OpenError> {
    let in_io = |error: io::Error| OpenError::io(path, &error);
    let not_a_ledger = |problem: &str| OpenError::NotALedger {
        path: path.to_owned(),
        problem: problem.into(),
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            refuse_without_main_file(path)?;
            return create(path).map(|()| None).map_err(in_io);
        }
        Err(error) => return Err(in_io(error)),
    };
    if !file.metadata().map_err(in_io)?.is_file() {
        return Err(not_a_ledger("no regular file"));
    }
    let mut head = Vec::new();
    file.by_ref()
        .take(100)
        .read_to_end(&mut head)
        .map_err(in_io)?;
    if head.is_empty() {
        refuse_without_main_file(path)?;
        return Ok(None);
    }
    if !head.starts_with(b"SQLite format 3\0") || head.len() < 100 {
        return Err(not_a_ledger("no SQLite database"));
    }
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (version, application) = (number(60), number(68));
    // A file that was being made when its process died has neither yet.
    if application != APPLICATION_ID && (application, version) != (0, 0) {
        return Err(not_a_ledger("the SQLite database of another program"));
    }
    check_version(path, version, migrations)?;
    Ok(Some(version))
}

/// Refuses to begin a new ledger beside what is left of one.
fn refuse_without_main_file(path: &Path) -> Result<(), OpenError> {
    let wal = beside(path, "-wal");
    match wal.metadata() {
        Ok(metadata) if metadata.len() > 0 => Err(OpenError::Damaged {
            path: path.to_owned(),
            problem: format!("it is gone or empty, but `{}` is there", wal.display()),
        }),
        _ => Ok(()),
    }
}

/// The file that SQLite, or a migration, keeps beside the one at `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes an empty file that only its owner may read and write; SQLite gives those beside it the same
/// mode.
fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn version_of(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn check_version(path: &Path, found: u32, migrations: &[&str]) -> Result<(), OpenError> {
    let known = migrations.len() as u32;
    if found > known {
        let path = path.to_owned();
        return Err(OpenError::Newer { path, found, known });
    }
    Ok(())
}

/// Whether the file has the tables of its version, and, if it is small, no damage at all.
fn check(path: &Path, connection: &Connection, made_by: &[&str]) -> Result<(), OpenError> {
    let in_sql = |error: rusqlite::Error| OpenError::sql(path, &error);
    let damaged = |problem: String| OpenError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let found = objects(connection).map_err(in_sql)?;
    if made_by.is_empty() {
        // A database of another program may have neither version nor application's id.
        return match found.first() {
            None => Ok(()),
            Some((name, _)) => Err(OpenError::NotALedger {
                path: path.to_owned(),
                problem: format!("a SQLite database without a version that has `{name}`"),
            }),
        };
    }
    let expected = Connection::open_in_memory().map_err(in_sql)?;
    for migration in made_by {
        expected.execute_batch(migration).map_err(in_sql)?;
    }
    // An operator may have added an index of their own.
    if let Some((name, _)) = objects(&expected)
        .map_err(in_sql)?
        .difference(&found)
        .next()
    {
        return Err(damaged(format!("`{name}` is missing in it or is another")));
    }
    let size = path.metadata().map_or(0, |metadata| metadata.len());
    if size <= MAX_CHECKED_BYTES {
        let problem: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(in_sql)?;
        if problem != "ok" {
            return Err(damaged(problem));
        }
    }
    Ok(())
}

/// Tables and indexes: their names, and the statements that made them.
fn objects(connection: &Connection) -> rusqlite::Result<BTreeSet<(String, Option<String>)>> {
    connection
        .prepare("SELECT name, sql FROM sqlite_schema")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Brings a ledger of version `from` to the newest, in one step; a copy of what it was is kept.
fn migrate(
    path: &Path,
    connection: &Connection,
    from: u32,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let to = migrations.len() as u32;
    if from == to {
        return Ok(());
    }
    let in_sql = |error: rusqlite::Error| OpenError::sql(path, &error);
    if from > 0 {
        let copy = path.with_extension(format!("v{from}.bak"));
        keep_copy(connection, &copy)?;
        tracing::info!(from, to, copy = %copy.display(), "the ledger is of an earlier version and is migrated");
    }
    let steps = migrations[from as usize..].concat();
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             {steps}
             PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {to};
             COMMIT;"
        ))
        .map_err(in_sql)?;
    // The version is to stand in the main file, where a release that is too old looks for it.
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(in_sql)
}

/// Writes what is in the ledger to the file `copy`, which is there as a whole or not at all.
fn keep_copy(connection: &Connection, copy: &Path) -> Result<(), OpenError> {
    let unfinished = beside(copy, ".unfinished");
    let in_io = |error: io::Error| OpenError::io(copy, &error);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(in_io(error)),
        _ => create(&unfinished).map_err(in_io)?,
    }
    let name = unfinished.to_str().ok_or_else(|| OpenError::Io {
        path: copy.to_owned(),
        problem: "its path is not UTF-8".into(),
    })?;
    connection
        .execute("VACUUM INTO ?1", [name])
        .map_err(|error| OpenError::sql(copy, &error))?;
    File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&unfinished, copy))
        .map_err(in_io)
}
