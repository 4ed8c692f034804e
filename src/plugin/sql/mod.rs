//! Events as SQL statements.

mod batch;
#[cfg(feature = "cli")]
mod fit;
mod parameters;
mod statement;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{Down, Plugin};
use crate::event::{Deliver, Hook, Hooks};
use crate::file_id::FileId;
use crate::session::InvalidField;

/// Which database a [`SqlPlugin`] writes to, and how.
///
/// A statement refers to the values of its event by named parameters such as `:session_id`, also
/// written `@session_id` or `$session_id`. Values that an event does not have are null; times are
/// text (RFC 3339, UTC, milliseconds), booleans 0 or 1, durations integers in milliseconds,
/// `metadata` JSON text.
///
/// ```
/// use session_supervisor::{Hook, PluginSpec, SqlPlugin, SqlSettings};
///
/// let settings = SqlSettings::new("/var/lib/app/app.db").with_statement(
///     Hook::SessionEnd,
///     "UPDATE sessions SET status = 'ended', reason = :reason WHERE id = :session_id",
/// )?;
/// let hooks = settings.hooks();
/// let plugin = PluginSpec::new("memory-db", move || SqlPlugin::new(settings.clone()))
///     .with_hooks(hooks);
/// # Ok::<(), session_supervisor::InvalidField>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlSettings {
    path: PathBuf,
    statements: BTreeMap<Hook, String>,
}

impl SqlSettings {
    /// The SQLite database in the file at `path`, as yet without statements.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            statements: BTreeMap::new(),
        }
    }

    /// The SQLite database that `url` names: `sqlite:` or `sqlite://` and the path of its file,
    /// taken literally; a relative one starts at `base`.
    ///
    /// # Errors
    ///
    /// When `url` is no such URL.
    pub fn from_url(url: &str, base: &Path) -> Result<Self, InvalidField> {
        parse_sqlite_url(url, base)
            .map(Self::new)
            .map_err(|problem| InvalidField::new("url", problem))
    }

    /// Runs `sql` for each event of `hook`, in place of an earlier statement for it.
    ///
    /// The one for [`Hook::GatewayStart`] puts in order what was there before: it finds the ids of the
    /// sessions that are active in `active(id)`, a temporary table that is filled in the same
    /// transaction, and it needs [`PluginSpec::with_opening`](crate::PluginSpec::with_opening), so that
    /// it runs before any other.
    ///
    /// # Errors
    ///
    /// When `sql` is not exactly one statement, is not what SQLite can parse, can't run in a
    /// transaction, or has a parameter that is unknown or positional. Whether the tables of the
    /// statement exist is not looked at: the database may not be there yet.
    pub fn with_statement(
        mut self,
        hook: Hook,
        sql: impl Into<String>,
    ) -> Result<Self, InvalidField> {
        let sql = sql.into();
        statement::check(&sql).map_err(|problem| InvalidField::new(hook.as_str(), problem))?;
        self.statements.insert(hook, sql);
        Ok(self)
    }

    /// The file of the database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hooks that have a statement.
    pub fn hooks(&self) -> Hooks {
        self.statements.keys().copied().collect()
    }

    fn statement(&self, hook: Hook) -> Option<&str> {
        self.statements.get(&hook).map(String::as_str)
    }
}

/// The path of the database file that `url` names, or what is wrong with it. The URL itself is
/// not repeated: another kind of database would have its password there.
fn parse_sqlite_url(url: &str, base: &Path) -> Result<PathBuf, String> {
    let Some(path) = url.strip_prefix("sqlite:") else {
        return Err("expected `sqlite:` and the path of a database file".into());
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err("expected the path of a database file after `sqlite:`".into());
    }
    if path == ":memory:" {
        return Err("expected a file: nobody else would see a database in memory".into());
    }
    if path.contains('?') {
        return Err("expected a path without options after a `?`".into());
    }
    Ok(base.join(path))
}

/// A plugin that runs a statement per event in a SQLite database, each delivery as one
/// transaction.
///
/// The database belongs to someone else: its file and its tables are never made, and it is opened
/// at the first delivery. While it is missing, locked or otherwise unusable, the plugin is
/// [`Down`]. An event whose own values the database does not take, such as one that violates a
/// constraint, is rejected by itself. A delivery whose deadline is over commits nothing.
#[derive(Debug)]
pub struct SqlPlugin {
    settings: SqlSettings,
    /// None before the first delivery and after a failure.
    database: RefCell<Option<Database>>,
}

impl SqlPlugin {
    /// A plugin that runs the statements of `settings`.
    pub fn new(settings: SqlSettings) -> Self {
        Self {
            settings,
            database: RefCell::default(),
        }
    }

    fn run(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let hooks = self.settings.hooks();
        let mut events = delivery.events.iter();
        if !events.any(|event| hooks.contains(event.hook())) {
            return Ok(());
        }
        let path = &self.settings.path;
        let mut slot = self.database.borrow_mut();
        let mut database = match slot.take() {
            Some(database) if database.id.is_at(path) => database,
            _ => Database::open(path).map_err(Down::new)?,
        };
        // A failure drops the connection, which rolls back what is left of the transaction.
        let answers = batch::run(&mut database.connection, &self.settings, delivery)?;
        *slot = Some(database);
        answers.give(&delivery.acks)
    }
}

impl Plugin for SqlPlugin {
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        self.run(delivery)
            .with_context(|| format!("database `{}`", self.settings.path.display()))
    }
}

#[derive(Debug)]
struct Database {
    connection: Connection,
    id: FileId,
}

impl Database {
    fn open(path: &Path) -> anyhow::Result<Self> {
        // SQLite takes some relative paths for something else, such as `:memory:`.
        let path = std::path::absolute(path)?;
        let metadata = path.metadata()?;
        // Without `SQLITE_OPEN_CREATE`.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        // There may be no place where a temporary file can be made.
        connection.execute_batch("PRAGMA temp_store = MEMORY")?;
        // Otherwise a statement with a condition may be prepared anew for each event.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(Self {
            connection,
            id: FileId::of(&metadata),
        })
    }
}
