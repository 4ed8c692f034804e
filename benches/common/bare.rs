//! Bare `rusqlite` that writes the rows of the ledger, with its schema, its settings and in its
//! transactions: what SQLite and the disk give.

use std::path::Path;

use rusqlite::{Connection, params};
use session_supervisor::Session;

/// Starts of sessions as columns.
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) incarnation: Vec<u8>,
    pub(crate) json: String,
    pub(crate) at: i64,
}

impl Row {
    pub(crate) fn of(session: &Session) -> Self {
        Self {
            id: session.id.to_string(),
            incarnation: session.incarnation.as_uuid().as_bytes().to_vec(),
            json: serde_json::to_string(session).expect("it is JSON"),
            at: session.started_at.as_millisecond(),
        }
    }
}

/// A database like the ledger's, of a run that has the number 1.
pub(crate) struct Bare {
    connection: Connection,
}

impl Bare {
    /// Makes it in `directory`, with so many plugins.
    pub(crate) fn create(directory: &Path, plugins: usize) -> Self {
        let bare = Self::open(&directory.join("bare.db"));
        bare.run(include_str!("../../src/ledger/sqlite/schema.sql"));
        bare.run(include_str!("../../src/ledger/sqlite/holders.sql"));
        bare.run(include_str!("../../src/ledger/sqlite/bound.sql"));
        let insert = "INSERT INTO plugins (name, since, cursor) VALUES (?1, 0, 0)";
        for n in 0..plugins {
            bare.connection
                .execute(insert, [format!("plugin-{n}")])
                .expect("it is written");
        }
        bare
    }

    /// Opens one that is there.
    pub(crate) fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("it opens");
        let bare = Self { connection };
        bare.run(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;
             PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864;",
        );
        bare
    }

    fn run(&self, sql: &str) {
        self.connection.execute_batch(sql).expect("it is run");
    }

    /// Does `work` in one transaction.
    pub(crate) fn transaction(&self, work: impl FnOnce()) {
        self.run("BEGIN IMMEDIATE");
        work();
        self.run("COMMIT");
    }

    /// Writes the start at the place `seq` of the log.
    pub(crate) fn start(&self, seq: usize, row: &Row) {
        let insert = "INSERT INTO starts (seq, at, instance, id, incarnation, session)
            VALUES (?1, ?2, 1, ?3, ?4, ?5)";
        let values = params![seq as i64, row.at, row.id, row.incarnation, row.json];
        self.cached(insert).execute(values).expect("it is written");
    }

    /// Writes that the session that started at `start_seq` has not ended.
    fn set_open(&self, start_seq: usize) {
        let insert = "INSERT INTO open (start_seq, held) VALUES (?1, 0)";
        let inserted = self.cached(insert).execute([start_seq as i64]);
        inserted.expect("it is written");
    }

    /// Writes the end, at the place `seq`, of what started at `start_seq`.
    pub(crate) fn end(&self, seq: usize, start_seq: usize, at: i64) {
        let insert = "INSERT INTO ends
            (seq, start_seq, detected_at, ended_at, instance, reason, details)
            VALUES (?1, ?2, ?3, NULL, 1, 'shutdown', NULL)";
        let values = params![seq as i64, start_seq as i64, at];
        self.cached(insert).execute(values).expect("it is written");
    }

    fn set_closed(&self, start_seq: usize) {
        let delete = "DELETE FROM open WHERE start_seq = ?1";
        let deleted = self.cached(delete).execute([start_seq as i64]);
        deleted.expect("it is deleted");
    }

    /// Moves the cursor of the plugin with this number, from 1 on.
    pub(crate) fn advance(&self, plugin: usize, cursor: usize) {
        let update = "UPDATE plugins SET cursor = ?2, deaths = 0 WHERE number = ?1";
        let values = [plugin as i64, cursor as i64];
        self.cached(update).execute(values).expect("it is written");
    }

    fn cached(&self, sql: &str) -> rusqlite::CachedStatement<'_> {
        self.connection.prepare_cached(sql).expect("it is prepared")
    }

    /// Records all starts, `step` in a transaction.
    pub(crate) fn record_starts(&self, rows: &[Row], step: usize) {
        for (number, chunk) in rows.chunks(step).enumerate() {
            self.transaction(|| {
                for (index, row) in chunk.iter().enumerate() {
                    let seq = number * step + index + 1;
                    self.start(seq, row);
                    self.set_open(seq);
                }
            });
        }
    }

    /// Records the ends of all `rows`, `step` in a transaction, and in each that so many plugins
    /// have been told of the one before.
    pub(crate) fn record_ends(&self, rows: &[Row], step: usize, plugins: usize) {
        for (number, chunk) in rows.chunks(step).enumerate() {
            self.transaction(|| {
                for (index, row) in chunk.iter().enumerate() {
                    let start_seq = number * step + index + 1;
                    self.set_closed(start_seq);
                    self.end(rows.len() + start_seq, start_seq, row.at);
                }
                for plugin in 1..=plugins {
                    self.advance(plugin, rows.len() + number * step);
                }
            });
        }
    }

    /// Ends everything that is open, as a start after a crash does. Answers how many that were.
    pub(crate) fn end_open(&self, at: i64) -> usize {
        let insert = "INSERT INTO ends (seq, start_seq, detected_at, ended_at, instance, reason)
            SELECT CASE start_seq WHEN (SELECT min(start_seq) FROM open)
                    THEN max((SELECT max(seq) FROM starts),
                             coalesce((SELECT max(seq) FROM ends), 0)) + 1 END,
                start_seq, ?1, NULL, 1, 'crash'
            FROM open ORDER BY start_seq";
        let mut ended = 0;
        self.transaction(|| {
            ended = self.cached(insert).execute([at]).expect("they are ended");
            let deleted = self.cached("DELETE FROM open").execute([]);
            deleted.expect("they are deleted");
        });
        ended
    }
}
