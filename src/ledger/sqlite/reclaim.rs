//! Letting go of what nobody needs any more, a little at a time: the writer has others to serve.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, named_params, params};

use super::fault::Fault;
use super::records::Records;
use super::rows::Millis;
use super::shared::Effect;
use crate::event::Seq;
use crate::ledger::Reclaimed;

/// How many ends, or parked rows, one step looks at.
const ROWS: usize = 2000;

/// How many free pages the file keeps, to be used again.
const FREE_PAGES: i64 = 1024;

/// How many pages one step gives back to the file system.
const PAGES: i64 = 256;

/// How many runs are remembered.
const RUNS: i64 = 100;

/// The ends that a step looks at. The newest event stays: places ascend from it. What is parked,
/// dead or not, is still to be delivered or looked at, and so is the other event of its session.
const WINDOW: &str = "
    SELECT seq, start_seq, detected_at <= :before,
        EXISTS (SELECT 1 FROM parked WHERE parked.seq IN (ends.seq, ends.start_seq))
    FROM ends
    WHERE seq > :after AND seq < :head
        AND seq <= (SELECT coalesce(min(cursor), :head) FROM plugins WHERE name IS NOT NULL)
    ORDER BY seq LIMIT :rows";

struct End {
    seq: Seq,
    start_seq: Seq,
    is_old: bool,
    is_parked: bool,
}

impl Records<'_> {
    /// One step: see [`Ledger::reclaim`](crate::ledger::Ledger::reclaim).
    pub(super) fn reclaim(
        &mut self,
        now: Timestamp,
        retention: Duration,
    ) -> Result<Reclaimed, Fault> {
        // Where no clock reaches, nothing is old enough.
        let before = now.checked_sub(retention).unwrap_or(Timestamp::MIN);
        let dropped = self.drop_plugins(before)?;
        let more_parked = self.delete_parked_of_dropped()?;
        let more_ends = self.delete_ends(before)?;
        self.delete_runs()?;
        let more_pages = self.give_pages_back()?;
        Ok(Reclaimed {
            more: more_parked || more_ends || more_pages,
            dropped,
        })
    }

    /// Gives up plugins that were detached before `before`, with how much they were owed.
    fn drop_plugins(&self, before: Timestamp) -> Result<Vec<(String, u64)>, Fault> {
        let dropped: Vec<(i64, String, u64)> = self
            .prepare(
                "SELECT number, name, :head - cursor
                     + (SELECT count(*) FROM parked WHERE plugin = number AND NOT dead)
                 FROM plugins WHERE name IS NOT NULL AND detached_at <= :before",
            )?
            .query_map(
                named_params! { ":head": self.state.head, ":before": Millis(before) },
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?
            .collect::<Result<_, _>>()?;
        for (number, ..) in &dropped {
            self.prepare("UPDATE plugins SET name = NULL WHERE number = ?1")?
                .execute([number])?;
        }
        Ok(dropped
            .into_iter()
            .map(|(_, name, owed)| (name, owed))
            .collect())
    }

    fn delete_parked_of_dropped(&self) -> Result<bool, Fault> {
        let dropped: Option<i64> = self
            .prepare("SELECT number FROM plugins WHERE name IS NULL LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let Some(plugin) = dropped else {
            return Ok(false);
        };
        let deleted = self
            .prepare(
                "DELETE FROM parked WHERE plugin = ?1
                     AND seq IN (SELECT seq FROM parked WHERE plugin = ?1 LIMIT ?2)",
            )?
            .execute(params![plugin, ROWS])?;
        if deleted < ROWS {
            self.prepare("DELETE FROM plugins WHERE number = ?1")?
                .execute([plugin])?;
        }
        Ok(true)
    }

    /// Deletes what is old among the ends that come next, unless a plugin is owed it; says whether
    /// the next ones may be old too. A round is over when a whole step finds nothing old.
    fn delete_ends(&mut self, before: Timestamp) -> Result<bool, Fault> {
        let window: Vec<End> = self
            .prepare(WINDOW)?
            .query_map(
                named_params! {
                    ":before": Millis(before),
                    ":after": self.state.reclaimed_to,
                    ":head": self.state.head,
                    ":rows": ROWS,
                },
                |row| {
                    Ok(End {
                        seq: row.get(0)?,
                        start_seq: row.get(1)?,
                        is_old: row.get(2)?,
                        is_parked: row.get(3)?,
                    })
                },
            )?
            .collect::<Result<_, _>>()?;

        let mut delete_start = self.prepare("DELETE FROM starts WHERE seq = ?1")?;
        let mut delete_details = self.prepare("DELETE FROM amendments WHERE start_seq = ?1")?;
        let mut delete_end = self.prepare("DELETE FROM ends WHERE seq = ?1")?;
        for end in window.iter().filter(|end| end.is_old && !end.is_parked) {
            delete_start.execute([end.start_seq])?;
            delete_details.execute([end.start_seq])?;
            delete_end.execute([end.seq])?;
        }
        let found_old = window.iter().any(|end| end.is_old);
        if found_old {
            self.effects.push(Effect::Reclaimed(self.oldest()?));
        }
        let more = found_old && window.len() == ROWS;
        let last = window.last().filter(|_| more);
        self.state.reclaimed_to = last.map_or(0, |end| end.seq);
        Ok(more)
    }

    /// The place of the oldest event that is kept, or 0.
    fn oldest(&self) -> Result<Seq, Fault> {
        let oldest = self
            .prepare(super::OLDEST)?
            .query_row([], |row| row.get(0))?;
        Ok(oldest)
    }

    /// Forgets runs of long ago that recorded nothing of what is kept. Their numbers ascend along the
    /// log.
    fn delete_runs(&self) -> Result<(), Fault> {
        self.prepare(
            "DELETE FROM instances WHERE number <= (SELECT max(number) FROM instances) - ?1
                 AND number < (SELECT coalesce((SELECT instance FROM starts ORDER BY seq LIMIT 1),
                                               (SELECT max(number) FROM instances)))",
        )?
        .execute([RUNS])?;
        Ok(())
    }

    /// Shortens the file by a few of the pages that are free; says whether it is to be shortened
    /// further.
    fn give_pages_back(&self) -> Result<bool, Fault> {
        let free: i64 = self
            .prepare("PRAGMA freelist_count")?
            .query_row([], |row| row.get(0))?;
        let surplus = free - FREE_PAGES;
        if surplus <= 0 {
            return Ok(false);
        }
        let pages = surplus.min(PAGES);
        let mut statement = self
            .connection
            .prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        // Each row of its answer is a page given back.
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(surplus > pages)
    }
}
