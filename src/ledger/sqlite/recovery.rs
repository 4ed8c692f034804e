//! Runs of supervisors: how one begins, lives and stops, and what becomes of the sessions that the
//! one before has left active.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, named_params, params};
use uuid::Uuid;

use super::fault::Fault;
use super::records::Records;
use super::rows::{Millis, from_json, to_json};
use super::shared::Effect;
use crate::event::{InstanceId, OpenSession, Seq};
use crate::holder::HolderRecord;
use crate::ledger::{Held, Intent, Predecessor, Recovery};
use crate::session::{EndReason, HolderId, RunId};

/// Ends what is open, in the order of the starts, after the place `:head`: the first end is told its
/// place, and each further one gets the next from SQLite, which costs half as much as counting them.
/// None ends before it began: for that [`events_query`](super::rows::events_query) sees when it reads
/// them, since to look into each start here would cost more than all the rest.
///
/// What other programs hold goes on, unless `:ends_held`.
const END_OPEN: &str = "
    INSERT INTO ends (seq, start_seq, detected_at, ended_at, instance, reason)
    SELECT CASE start_seq
            WHEN (SELECT min(start_seq) FROM open WHERE :ends_held OR NOT held) THEN :head + 1 END,
        start_seq, :now, nullif(min(:ended_at, :now), :now), :run, :reason
    FROM open WHERE :ends_held OR NOT held
    ORDER BY start_seq";

/// What is open, after [`END_OPEN`]: what other programs hold.
const HELD: &str = "
    SELECT open.start_seq, coalesce(amended.session, begun.session) AS session
    FROM open JOIN starts AS begun ON begun.seq = open.start_seq
        LEFT JOIN amendments AS amended ON amended.start_seq = open.start_seq
    WHERE held ORDER BY open.start_seq";

/// The last run, for [`predecessor`].
pub(super) const LAST_RUN: &str = r#"
    SELECT id, started_at, alive_at, reason, restart_expected_ms, "trigger", asked_at, ends_held,
        stopped_at IS NOT NULL AS stopped
    FROM instances ORDER BY number DESC LIMIT 1"#;

impl Records<'_> {
    /// Begins the run `instance`, and ends what the run before has left active.
    pub(super) fn recover(
        &mut self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<Recovery, Fault> {
        self.recount()?;
        let predecessor = self.last_run()?;
        let run = self.insert_run(instance, now)?;
        self.state.run = Some(run);

        if predecessor.as_ref().is_some_and(|run| !run.stopped) {
            self.count_death()?;
        }
        let intent = predecessor.as_ref().and_then(|run| run.intent.as_ref());
        let (reason, ended_at) = match (intent, &predecessor) {
            (Some(intent), _) => (intent.reason, intent.asked_at),
            (None, Some(run)) => (EndReason::Crash, run.alive_at),
            (None, None) => (EndReason::Crash, now),
        };
        let ends_held = predecessor.as_ref().is_some_and(|run| run.ends_held);
        let found = self.prepare(END_OPEN)?.execute(named_params! {
            ":ends_held": ends_held,
            ":head": self.state.head,
            ":now": Millis(now),
            ":ended_at": Millis(ended_at),
            ":run": run,
            ":reason": reason,
        })? as Seq;
        if found > 0 {
            let open: Seq = self
                .prepare("SELECT count(*) FROM open")?
                .query_row([], |row| row.get(0))?;
            // SQLite empties a table in no time, but only if it need not look at the rows.
            let delete = match open == found {
                true => "DELETE FROM open",
                false => "DELETE FROM open WHERE NOT held",
            };
            self.prepare(delete)?.execute([])?;
            self.state.head += found;
            self.effects.push(Effect::Grew(self.state.head));
        }
        Ok(Recovery {
            predecessor,
            found,
            reason: (found > 0).then_some(reason),
        })
    }

    /// What the run before has left to this one.
    pub(super) fn held(&self) -> Result<Held, Fault> {
        let sessions = self
            .prepare(HELD)?
            .query_map([], |row| {
                let session = Arc::new(from_json(row, "session")?);
                Ok(OpenSession::new(session, row.get("start_seq")?))
            })?
            .collect::<Result<_, _>>()?;
        let holders = self
            .prepare(
                "SELECT name, run_id, past_runs, is_first_run, lease_ms FROM holders ORDER BY name",
            )?
            .query_map([], holder_record)?
            .collect::<Result<_, _>>()?;
        Ok(Held { sessions, holders })
    }

    pub(super) fn bind_held(&self) -> Result<(), Fault> {
        self.prepare("UPDATE instances SET ends_held = 1 WHERE number = ?1")?
            .execute([self.run()?])?;
        Ok(())
    }

    pub(super) fn keep_holder(&self, holder: &HolderRecord) -> Result<(), Fault> {
        self.prepare(
            "INSERT OR REPLACE INTO holders (name, run_id, past_runs, is_first_run, lease_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            holder.holder.as_str(),
            holder.run_id.as_ref().map(RunId::as_str),
            to_json(&holder.past_runs)?,
            holder.is_first_run,
            i64::try_from(holder.lease.as_millis()).unwrap_or(i64::MAX),
        ])?;
        Ok(())
    }

    pub(super) fn forget_holder(&self, holder: &HolderId) -> Result<(), Fault> {
        self.prepare("DELETE FROM holders WHERE name = ?1")?
            .execute([holder.as_str()])?;
        Ok(())
    }

    /// Goes on where the log ends by now: whoever had the file before may have been writing still
    /// when it was opened.
    fn recount(&mut self) -> Result<(), Fault> {
        let head = self.prepare(super::HEAD)?.query_row([], |row| row.get(0))?;
        if head != self.state.head {
            self.state.head = head;
            self.effects.push(Effect::Grew(head));
        }
        Ok(())
    }

    /// Counts the death of the last run for the plugins that it may have been given something for.
    /// What it was killed with while all had been delivered is no plugin's doing.
    fn count_death(&self) -> Result<(), Fault> {
        self.prepare(
            "UPDATE plugins SET deaths = deaths + 1
             WHERE name IS NOT NULL AND detached_at IS NULL AND cursor < ?1",
        )?
        .execute([self.state.head])?;
        Ok(())
    }

    pub(super) fn last_run(&self) -> Result<Option<Predecessor>, Fault> {
        let last = self
            .prepare(LAST_RUN)?
            .query_row([], predecessor)
            .optional()?;
        Ok(last)
    }

    pub(super) fn keep_alive(&self, now: Timestamp) -> Result<(), Fault> {
        self.prepare("UPDATE instances SET alive_at = max(alive_at, ?2) WHERE number = ?1")?
            .execute(params![self.run()?, Millis(now)])?;
        Ok(())
    }

    pub(super) fn intend(&self, intent: &Intent) -> Result<(), Fault> {
        let expected = intent.restart_expected.map(|downtime| {
            // Longer than a database has numbers for is for ever.
            i64::try_from(downtime.as_millis()).unwrap_or(i64::MAX)
        });
        self.prepare(
            r#"UPDATE instances
               SET reason = ?2, restart_expected_ms = ?3, "trigger" = ?4, asked_at = ?5,
                   ends_held = ?6, alive_at = max(alive_at, ?5)
               WHERE number = ?1"#,
        )?
        .execute(params![
            self.run()?,
            intent.reason,
            expected,
            intent.trigger,
            Millis(intent.asked_at),
            intent.ends_held
        ])?;
        Ok(())
    }

    pub(super) fn stop(&self, now: Timestamp) -> Result<(), Fault> {
        self.prepare(
            "UPDATE instances SET stopped_at = ?2, alive_at = max(alive_at, ?2) WHERE number = ?1",
        )?
        .execute(params![self.run()?, Millis(now)])?;
        Ok(())
    }

    fn run(&self) -> Result<i64, Fault> {
        self.state
            .run
            .ok_or_else(|| Fault::Refused("no run has begun in it".into()))
    }
}

fn holder_record(row: &Row<'_>) -> rusqlite::Result<HolderRecord> {
    Ok(HolderRecord {
        holder: row.get("name")?,
        run_id: row.get("run_id")?,
        past_runs: from_json(row, "past_runs")?,
        is_first_run: row.get("is_first_run")?,
        lease: Duration::from_millis(row.get("lease_ms")?),
    })
}

pub(super) fn predecessor(row: &Row<'_>) -> rusqlite::Result<Predecessor> {
    let reason: Option<EndReason> = row.get("reason")?;
    let ends_held = row.get("ends_held")?;
    let intent = reason.map(|reason| -> rusqlite::Result<Intent> {
        let expected: Option<u64> = row.get("restart_expected_ms")?;
        Ok(Intent {
            reason,
            restart_expected: expected.map(Duration::from_millis),
            trigger: row.get("trigger")?,
            asked_at: row.get::<_, Millis>("asked_at")?.0,
            ends_held,
        })
    });
    Ok(Predecessor {
        instance: InstanceId::from_uuid(row.get::<_, Uuid>("id")?),
        started_at: row.get::<_, Millis>("started_at")?.0,
        alive_at: row.get::<_, Millis>("alive_at")?.0,
        intent: intent.transpose()?,
        ends_held,
        stopped: row.get("stopped")?,
    })
}
