//! Where plugins stand: how far each has got, and what is parked for it.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, named_params, params};
use uuid::Uuid;

use super::fault::Fault;
use super::records::Records;
use super::rows::{EventReader, Millis, events_query, to_json};
use super::shared::Effect;
use crate::event::Seq;
use crate::ledger::{Parked, Position, Progress};
use crate::session::Incarnation;

impl Records<'_> {
    /// Where `plugin` stands; from now on it counts as configured.
    pub(super) fn attach(&mut self, plugin: &Arc<str>) -> Result<Position, Fault> {
        self.prepare(
            "INSERT INTO plugins (name, since, cursor) VALUES (?1, ?2, ?2)
             ON CONFLICT (name) DO UPDATE SET detached_at = NULL",
        )?
        .execute(params![plugin, self.state.head])?;
        let (number, since, cursor, deaths) = self
            .prepare("SELECT number, since, cursor, deaths FROM plugins WHERE name = ?1")?
            .query_row([plugin], |row| {
                let number: i64 = row.get(0)?;
                let deaths: u32 = row.get(3)?;
                Ok((number, row.get(1)?, row.get(2)?, deaths))
            })?;
        self.effects.push(Effect::Moved(Arc::clone(plugin), cursor));
        Ok(Position {
            since,
            cursor,
            parked: self.parked(number)?,
            dead: self.dead(number)?,
            deaths: deaths + u32::from(self.died_behind(cursor)?),
        })
    }

    /// Whether the last run died while a plugin was at `cursor` and owed something, and the recovery
    /// has yet to count that.
    fn died_behind(&self, cursor: Seq) -> Result<bool, Fault> {
        // What has recorded anything here is this run.
        let has_begun = self.state.run.is_some() || self.state.known_run.is_some();
        let may_count = !has_begun && cursor < self.state.head;
        Ok(may_count && self.last_run()?.is_some_and(|run| !run.stopped))
    }

    fn parked(&self, plugin: i64) -> Result<Vec<Parked>, Fault> {
        const QUERY: &str = events_query!(
            ", parked.attempts, parked.not_before, parked.dead, parked.error",
            "parked CROSS JOIN ",
            "log.seq = parked.seq AND parked.plugin = :plugin AND parked.dead = 0"
        );
        let mut reader = EventReader::default();
        let parked = self
            .prepare(QUERY)?
            .query_map(named_params! { ":plugin": plugin, ":limit": -1 }, |row| {
                reader.parked(row)
            })?
            .collect::<Result<_, _>>()?;
        Ok(parked)
    }

    fn dead(&self, plugin: i64) -> Result<Vec<(Seq, Incarnation)>, Fault> {
        let dead = self
            .prepare(
                "SELECT parked.seq, begun.incarnation
                 FROM parked LEFT JOIN ends ON ends.seq = parked.seq
                     JOIN starts AS begun ON begun.seq = coalesce(ends.start_seq, parked.seq)
                 WHERE parked.plugin = ?1 AND parked.dead
                 ORDER BY parked.seq",
            )?
            .query_map([plugin], |row| {
                let incarnation = Incarnation::from_uuid(row.get::<_, Uuid>(1)?);
                Ok((row.get(0)?, incarnation))
            })?
            .collect::<Result<_, _>>()?;
        Ok(dead)
    }

    /// Records how far `plugin` has got.
    pub(super) fn advance(&mut self, plugin: Arc<str>, progress: &Progress) -> Result<(), Fault> {
        let number: i64 = self
            .prepare("SELECT number FROM plugins WHERE name = ?1")?
            .query_row([&plugin], |row| row.get(0))
            .optional()?
            .ok_or_else(|| Fault::Refused(format!("plugin `{plugin}` is unknown")))?;
        for parked in &progress.park {
            self.prepare(
                "INSERT OR REPLACE INTO parked (plugin, seq, attempts, not_before, dead, error)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                number,
                parked.event.recorded_seq(),
                parked.attempts,
                Millis(parked.not_before),
                parked.dead,
                parked.error
            ])?;
        }
        for seq in &progress.unpark {
            self.prepare("DELETE FROM parked WHERE plugin = ?1 AND seq = ?2")?
                .execute(params![number, seq])?;
        }
        if progress.cursor.is_some() || !progress.unpark.is_empty() {
            self.prepare(
                "UPDATE plugins SET cursor = coalesce(?2, cursor), deaths = 0 WHERE number = ?1",
            )?
            .execute(params![number, progress.cursor])?;
        }
        if let Some(cursor) = progress.cursor {
            self.effects.push(Effect::Moved(plugin, cursor));
        }
        Ok(())
    }

    /// Notes since when plugins other than those `configured` are not.
    pub(super) fn detach_others(
        &mut self,
        configured: Arc<[Arc<str>]>,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let names = to_json(&configured)?;
        self.prepare(
            "UPDATE plugins SET detached_at = CASE
                 WHEN name IN (SELECT value FROM json_each(?1)) THEN NULL
                 ELSE coalesce(detached_at, ?2) END
             WHERE name IS NOT NULL",
        )?
        .execute(params![names, Millis(now)])?;
        self.effects.push(Effect::Configured(configured));
        Ok(())
    }
}
