//! A look at a ledger that no process has open.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::SqliteLedger;
use super::fault::OpenError;
use super::recovery::{LAST_RUN, predecessor};
use super::schema;
use crate::durability::Durability;
use crate::event::Seq;
use crate::ledger::Predecessor;
use crate::session::EndReason;

/// What a recovery would find in a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// The last run, if there was one.
    pub predecessor: Option<Predecessor>,
    /// How many sessions are open that a recovery ends.
    pub open: u64,
    /// How many go on, since other programs hold them.
    pub held: u64,
    /// The ids of the first of those that end, in the order of their starts.
    pub sessions: Vec<String>,
    /// What each plugin is owed that the ledger knows of, by name.
    pub plugins: Vec<SurveyedPlugin>,
}

/// What a plugin is owed, were it to hear of everything; what is not recorded yet does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SurveyedPlugin {
    /// Its name.
    pub name: String,
    /// Starts that it has not got to.
    pub starts: u64,
    /// Ends that it has not got to.
    pub ends: u64,
    /// Events that wait for another attempt.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Survey {
    /// Why the open sessions would end; none if there are none.
    pub fn reason(&self) -> Option<EndReason> {
        let intent = self
            .predecessor
            .as_ref()
            .and_then(|run| run.intent.as_ref());
        let reason = intent.map_or(EndReason::Crash, |intent| intent.reason);
        (self.open > 0).then_some(reason)
    }
}

impl SqliteLedger {
    /// Looks what a recovery of the ledger at `path` would find, and names at most `named` sessions.
    /// Changes nothing, but brings a ledger of an earlier version to that of this release, as
    /// [`open`](Self::open) does. Blocks.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn survey(path: impl AsRef<Path>, named: usize) -> Result<Survey, OpenError> {
        let path = path.as_ref();
        let in_io = |error: std::io::Error| OpenError::io(path, &error);
        let path = &std::path::absolute(path).map_err(in_io)?;
        let connection = schema::open(path, Durability::Process, schema::MIGRATIONS)?;
        survey(&connection, named).map_err(|error| OpenError::sql(path, &error))
    }
}

fn survey(connection: &Connection, named: usize) -> rusqlite::Result<Survey> {
    let predecessor: Option<Predecessor> =
        connection.query_row(LAST_RUN, [], predecessor).optional()?;
    let ends_held = predecessor.as_ref().is_some_and(|run| run.ends_held);
    let (open, held) = connection.query_row(
        "SELECT count(*) FILTER (WHERE ?1 OR NOT held), count(*) FILTER (WHERE held AND NOT ?1)
         FROM open",
        [ends_held],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let sessions = connection
        .prepare(
            "SELECT begun.id FROM open JOIN starts AS begun ON begun.seq = open.start_seq
             WHERE ?2 OR NOT held
             ORDER BY open.start_seq LIMIT ?1",
        )?
        .query_map(params![named, ends_held], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let plugins = connection
        .prepare(
            "SELECT name, cursor,
                (SELECT count(*) FROM parked WHERE plugin = number AND NOT dead) AS parked,
                (SELECT count(*) FROM parked WHERE plugin = number AND dead) AS dead
             FROM plugins WHERE name IS NOT NULL ORDER BY name",
        )?
        .query_map([], |row| {
            let cursor: Seq = row.get("cursor")?;
            // An event that is parked ahead of the cursor is counted once.
            let after = |table: &str| {
                let sql = format!(
                    "SELECT count(*) FROM {table} WHERE seq > ?1 AND NOT EXISTS (
                        SELECT 1 FROM parked JOIN plugins ON number = plugin
                        WHERE name = ?2 AND parked.seq = {table}.seq)"
                );
                let name: String = row.get("name")?;
                connection.query_row(&sql, params![cursor, name], |row| row.get(0))
            };
            Ok(SurveyedPlugin {
                name: row.get("name")?,
                starts: after("starts")?,
                ends: after("ends")?,
                parked: row.get("parked")?,
                dead: row.get("dead")?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Survey {
        predecessor,
        open,
        held,
        sessions,
        plugins,
    })
}
