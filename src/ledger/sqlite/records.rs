//! Transactions, and the events that are written in them.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, named_params, params};

use super::fault::Fault;
use super::rows::{Millis, to_json};
use super::shared::Effect;
use crate::event::{Event, InstanceId, OpenSession, Seq};
use crate::ledger::tail::place;
use crate::ledger::weight::weigh;
use crate::ledger::{Append, Appended};
use crate::session::{End, EndDetails};

/// From how many ends on it is worth a look whether they are of all that is open side by side.
const MANY: usize = 32;

/// What the writer remembers from one transaction to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// The place of the last event.
    pub(super) head: Seq,
    /// The row of the run that has begun in this process.
    pub(super) run: Option<i64>,
    /// The run that the last event named, and its row.
    pub(super) known_run: Option<(InstanceId, i64)>,
    /// Ends up to here were looked at by the current round of reclaiming.
    pub(super) reclaimed_to: Seq,
}

impl State {
    pub(super) fn new(head: Seq) -> Self {
        Self {
            head,
            run: None,
            known_run: None,
            reclaimed_to: 0,
        }
    }
}

/// A transaction under way. Dropped, it leaves no trace.
pub(super) struct Records<'a> {
    pub(super) connection: &'a Connection,
    pub(super) state: &'a mut State,
    pub(super) effects: Vec<Effect>,
}

impl<'a> Records<'a> {
    pub(super) fn begin(
        connection: &'a Connection,
        state: &'a mut State,
    ) -> Result<Self, rusqlite::Error> {
        execute(connection, "BEGIN IMMEDIATE")?;
        Ok(Self {
            connection,
            state,
            effects: Vec::new(),
        })
    }

    pub(super) fn commit(mut self) -> Result<Vec<Effect>, rusqlite::Error> {
        execute(self.connection, "COMMIT")?;
        Ok(std::mem::take(&mut self.effects))
    }

    /// Does all of `work` or, if it fails, nothing of it.
    pub(super) fn step<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (state, effects) = (*self.state, self.effects.len());
        execute(self.connection, "SAVEPOINT step")?;
        let result = work(self);
        if result.is_err() {
            *self.state = state;
            self.effects.truncate(effects);
            // SQLite has taken the whole transaction back if it could not go on at all.
            if !self.connection.is_autocommit() {
                execute(self.connection, "ROLLBACK TO step")?;
            }
        }
        if !self.connection.is_autocommit() {
            execute(self.connection, "RELEASE step")?;
        }
        result
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'a>, rusqlite::Error> {
        self.connection.prepare_cached(sql)
    }

    /// Records each of `appends`. Where one can't be recorded the others are.
    pub(super) fn append_each(
        &mut self,
        mut appends: Vec<Append>,
        path: &Path,
    ) -> Result<Vec<Appended>, Fault> {
        let mut inserts = Inserts::new(self.connection)?;
        // All in one step, which is cheaper, and which hardly ever fails.
        let all = self.step(|records| {
            let appends = appends.iter_mut();
            let mut appended = appends.map(|it| records.insert(it, &mut inserts));
            appended.try_for_each(|done| done.map(drop))
        });
        match all {
            Ok(()) => return Ok(appends.into_iter().map(|it| Ok(it.events)).collect()),
            Err(fault) if !fault.is_of_the_request() => return Err(fault),
            Err(_) => {}
        }
        let each = appends.iter_mut().map(|append| {
            match self.step(|records| records.insert(append, &mut inserts)) {
                Err(fault) if fault.is_of_the_request() => Ok(Err(fault.explain(path))),
                done => done.map(Ok),
            }
        });
        each.collect()
    }

    /// Records starts and ends, and new details of a session.
    pub(super) fn append(&mut self, mut append: Append) -> Result<Arc<[Event]>, Fault> {
        let mut inserts = Inserts::new(self.connection)?;
        self.insert(&mut append, &mut inserts)
    }

    /// The same, which gives the events their places in `append` itself.
    fn insert(
        &mut self,
        append: &mut Append,
        inserts: &mut Inserts<'a>,
    ) -> Result<Arc<[Event]>, Fault> {
        append.events = place(std::mem::take(&mut append.events), self.state.head + 1);
        let chunk = &append.events;
        if !self.end_side_by_side(chunk)? {
            for event in chunk.iter() {
                let run = self.run_of(event)?;
                inserts.insert(event, run)?;
            }
        }
        if let Some(amended) = &append.amended {
            self.amend(amended)?;
        }
        self.state.head += chunk.len() as Seq;
        self.effects
            .push(Effect::Appended(Arc::clone(chunk), weigh(chunk)));
        Ok(Arc::clone(chunk))
    }

    /// Records `events` with one statement, if they are the ends of all that is open from one start to
    /// another, and all in the same way: a drain's are. False where they are not.
    fn end_side_by_side(&mut self, events: &[Event]) -> Result<bool, Fault> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(false);
        };
        let Some(end) = first.how_ended().filter(|_| events.len() >= MANY) else {
            return Ok(false);
        };
        let is_alike = |event: &Event| {
            let is_same = event.how_ended().is_some_and(|it| Arc::ptr_eq(it, end));
            is_same && event.instance() == first.instance()
        };
        let (from, to) = (first.start_seq(), last.start_seq());
        let are_alike = Event::hook_of_all(events).is_some() || events.iter().all(is_alike);
        if !are_alike || !self.are_open(events, from, to)? {
            return Ok(false);
        }
        let run = self.run_of(first)?;
        // The first is told its place, and the others follow it.
        let mut insert = self.prepare(
            "INSERT INTO ends (seq, start_seq, detected_at, ended_at, instance, reason, details)
             SELECT CASE start_seq WHEN :from THEN :seq END,
                 start_seq, :detected_at, :ended_at, :run, :reason, :details
             FROM open WHERE start_seq BETWEEN :from AND :to ORDER BY start_seq",
        )?;
        insert.execute(named_params! {
            ":from": from,
            ":to": to,
            ":seq": first.recorded_seq(),
            ":detected_at": Millis(end.detected_at),
            ":ended_at": (end.ended_at != end.detected_at).then_some(Millis(end.ended_at)),
            ":run": run,
            ":reason": end.reason,
            ":details": details_of(end)?,
        })?;
        self.prepare("DELETE FROM open WHERE start_seq BETWEEN ?1 AND ?2")?
            .execute([from, to])?;
        Ok(true)
    }

    /// Whether `events` are of all that is open from the start at `from` to that at `to`, in this order.
    fn are_open(&self, events: &[Event], from: Seq, to: Seq) -> Result<bool, Fault> {
        let mut open = self.prepare(
            "SELECT start_seq FROM open WHERE start_seq BETWEEN ?1 AND ?2 ORDER BY start_seq",
        )?;
        let mut open = open.query([from, to])?;
        for event in events {
            match open.next()? {
                Some(row) if row.get::<_, Seq>(0)? == event.start_seq() => {}
                _ => return Ok(false),
            }
        }
        Ok(open.next()?.is_none())
    }

    /// The row of the run that recorded `event`. Events of a run that has not begun here (an
    /// embedder's tests have such) get one.
    fn run_of(&mut self, event: &Event) -> Result<i64, Fault> {
        let instance = event.instance();
        if let Some((known, run)) = self.state.known_run
            && known == instance
        {
            return Ok(run);
        }
        let found = self
            .prepare("SELECT number FROM instances WHERE id = ?1 ORDER BY number DESC LIMIT 1")?
            .query_row([instance.as_uuid()], |row| row.get(0))
            .optional()?;
        let run = match found {
            Some(run) => run,
            None => self.insert_run(instance, event.timestamp())?,
        };
        self.state.known_run = Some((instance, run));
        Ok(run)
    }

    pub(super) fn insert_run(&self, instance: InstanceId, now: Timestamp) -> Result<i64, Fault> {
        self.prepare("INSERT INTO instances (id, started_at, alive_at) VALUES (?1, ?2, ?2)")?
            .execute(params![instance.as_uuid(), Millis(now)])?;
        Ok(self.connection.last_insert_rowid())
    }

    fn amend(&self, amended: &OpenSession) -> Result<(), Fault> {
        let changed = self
            .prepare(
                "INSERT OR REPLACE INTO amendments (start_seq, session)
                 SELECT start_seq, ?2 FROM open WHERE start_seq = ?1",
            )?
            .execute(params![amended.start_seq, to_json(&amended.session)?])?;
        if changed == 0 {
            return Err(not_active(amended.session.id.as_str()));
        }
        self.prepare("UPDATE open SET held = ?2 WHERE start_seq = ?1")?
            .execute(params![amended.start_seq, amended.session.holder.is_some()])?;
        Ok(())
    }
}

impl Drop for Records<'_> {
    fn drop(&mut self) {
        // Not if it was committed, or if SQLite has taken it back itself.
        if !self.connection.is_autocommit()
            && let Err(error) = execute(self.connection, "ROLLBACK")
        {
            tracing::error!(error = %error, "the ledger could not take a transaction back");
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// The details of `end` as JSON; none where there are none.
fn details_of(end: &End) -> Result<Option<String>, Fault> {
    let is_plain = end.details == EndDetails::default();
    Ok((!is_plain).then(|| to_json(&end.details)).transpose()?)
}

fn not_active(id: &str) -> Fault {
    Fault::Refused(format!("session `{id}` is not active in it"))
}

/// The statements of an append: a million ends of a drain go through them.
struct Inserts<'a> {
    start: CachedStatement<'a>,
    open: CachedStatement<'a>,
    close: CachedStatement<'a>,
    end: CachedStatement<'a>,
}

impl<'a> Inserts<'a> {
    fn new(connection: &'a Connection) -> Result<Self, rusqlite::Error> {
        let prepare = |sql| connection.prepare_cached(sql);
        Ok(Self {
            start: prepare(
                "INSERT INTO starts (seq, at, instance, id, incarnation, session)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            open: prepare("INSERT INTO open (start_seq, held) VALUES (?1, ?2)")?,
            close: prepare("DELETE FROM open WHERE start_seq = ?1")?,
            end: prepare(
                "INSERT INTO ends (seq, start_seq, detected_at, ended_at, instance, reason, details)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
        })
    }

    fn insert(&mut self, event: &Event, run: i64) -> Result<(), Fault> {
        let seq = event.recorded_seq();
        let Some(session) = event.session() else {
            let problem = format!("a {} is no part of the log", event.hook());
            return Err(Fault::Refused(problem));
        };
        let Some(end) = event.how_ended() else {
            self.start.execute(params![
                seq,
                Millis(event.timestamp()),
                run,
                session.id.as_str(),
                session.incarnation.as_uuid(),
                to_json(session)?
            ])?;
            self.open.execute(params![seq, session.holder.is_some()])?;
            return Ok(());
        };
        if self.close.execute([event.start_seq()])? == 0 {
            return Err(not_active(session.id.as_str()));
        }
        self.end.execute(params![
            seq,
            event.start_seq(),
            Millis(end.detected_at),
            (end.ended_at != end.detected_at).then_some(Millis(end.ended_at)),
            run,
            end.reason,
            details_of(end)?
        ])?;
        Ok(())
    }
}
