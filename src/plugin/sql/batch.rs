//! One batch of events as one transaction.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rusqlite::{CachedStatement, Connection, ErrorCode, Transaction, TransactionBehavior};

use super::SqlSettings;
use super::parameters::{Facts, Parameter};
use crate::event::{Acks, Deliver};
use crate::plugin::{Down, OutOfTime};
use crate::session::SessionId;

/// How long a locked database is waited for, if the delivery has that long.
const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the deadline is looked at meanwhile.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// How many steps of SQLite's virtual machine pass between two looks at the deadline: some tens of
/// microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

/// What became of one event.
enum Answer {
    Taken,
    Rejected(anyhow::Error),
    /// An earlier event of its incarnation was rejected, and this one must not overtake it.
    Untried,
}

/// What became of a batch whose transaction was committed.
pub(super) struct Answers(Vec<Answer>);

impl Answers {
    /// Tells the bus.
    ///
    /// # Errors
    ///
    /// When events were left untried.
    pub(super) fn give(self, acks: &Acks) -> anyhow::Result<()> {
        let is_untried = |answer: &Answer| matches!(answer, Answer::Untried);
        let untried = self.0.iter().filter(|answer| is_untried(answer)).count();
        for (index, answer) in self.0.into_iter().enumerate() {
            match answer {
                Answer::Rejected(error) => acks.reject(index, error),
                // With nothing untried the success of the delivery says it for all.
                Answer::Taken if untried > 0 => acks.acknowledge(index),
                Answer::Taken | Answer::Untried => {}
            }
        }
        anyhow::ensure!(
            untried == 0,
            "{untried} events not tried, since an earlier one of their session failed"
        );
        Ok(())
    }
}

/// Runs the statements for the events of `delivery` and commits. Nothing is answered yet, so that
/// no event is blamed for, or acknowledged in, a transaction that failed.
///
/// # Errors
///
/// [`Down`] when the database can't do it at present; another error when a statement ended the
/// whole transaction, or when the commit met a violated constraint. Nothing was committed then.
pub(super) fn run(
    connection: &mut Connection,
    settings: &SqlSettings,
    delivery: &Deliver,
) -> anyhow::Result<Answers> {
    let deadline = &delivery.deadline;
    let until = deadline.clone();
    connection
        .progress_handler(STEPS_BETWEEN_LOOKS, Some(move || until.is_over()))
        .and_then(|()| connection.busy_timeout(LOCK_LOOK))
        .map_err(down)?;
    let transaction = begin(connection, delivery)?;
    delivery.acks.remark("the statements were still running");
    if let Some(active) = &delivery.active {
        fill_active(&transaction, active).map_err(down)?;
    }
    let answers = execute(&transaction, settings, delivery)?;
    if delivery.active.is_some() {
        transaction
            .execute_batch("DROP TABLE temp.active")
            .map_err(down)?;
    }
    if deadline.is_over() {
        return Err(too_late());
    }
    transaction.commit().map_err(|error| {
        // A deferred constraint: which event violates it shows when they are tried one by one.
        if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) {
            anyhow!(error).context("the commit")
        } else {
            down(error)
        }
    })?;
    Ok(Answers(answers))
}

/// Begins a transaction, and waits for whoever else has the lock: a moment at a time, since the deadline
/// can be moved forward by a shutdown.
fn begin<'c>(connection: &'c Connection, delivery: &Deliver) -> anyhow::Result<Transaction<'c>> {
    let deadline = &delivery.deadline;
    let give_up = Instant::now() + MAX_BUSY_TIMEOUT;
    loop {
        // Each is rolled back by its drop, and there is one at a time.
        match Transaction::new_unchecked(connection, TransactionBehavior::Immediate) {
            Ok(transaction) => return Ok(transaction),
            Err(error) => {
                let is_busy = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
                if is_busy {
                    delivery
                        .acks
                        .remark("the database is locked by another connection");
                }
                if !is_busy || deadline.is_over() || Instant::now() >= give_up {
                    return Err(down(error));
                }
            }
        }
    }
}

/// Makes the table of the active sessions, which hides one of that name in the database.
fn fill_active(transaction: &Transaction<'_>, active: &[SessionId]) -> rusqlite::Result<()> {
    transaction.execute_batch("CREATE TEMP TABLE active (id TEXT PRIMARY KEY) WITHOUT ROWID")?;
    let mut insert = transaction.prepare("INSERT INTO temp.active VALUES (?1)")?;
    for id in active {
        insert.execute([id.as_str()])?;
    }
    Ok(())
}

/// The failure of the database, not of an event.
fn down(error: rusqlite::Error) -> anyhow::Error {
    match error.sqlite_error_code() {
        // By the progress handler.
        Some(ErrorCode::OperationInterrupted) => too_late(),
        _ => Down::new(error).into(),
    }
}

fn too_late() -> anyhow::Error {
    OutOfTime("the time of the delivery was over before the commit").into()
}

/// Whether the values of one event made its statement `sql` fail.
fn is_of_event(error: &rusqlite::Error, connection: &Connection, sql: &str) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => true,
        // SQLite has one code for malformed JSON, say, and for a table that went away meanwhile.
        Some(ErrorCode::Unknown) => connection.prepare(sql).is_ok(),
        _ => false,
    }
}

fn execute(
    transaction: &Transaction<'_>,
    settings: &SqlSettings,
    delivery: &Deliver,
) -> anyhow::Result<Vec<Answer>> {
    let remaining = delivery.deadline.remaining().as_millis();
    let remaining_ms = u64::try_from(remaining).unwrap_or(u64::MAX);
    let mut prepared = HashMap::new();
    let mut rejected = HashSet::new();
    let mut answers = Vec::with_capacity(delivery.events.len());
    for event in delivery.events.iter() {
        let hook = event.hook();
        let Some(sql) = settings.statement(hook) else {
            answers.push(Answer::Taken);
            continue;
        };
        let incarnation = event.session().map(|session| session.incarnation);
        if incarnation.is_some_and(|incarnation| rejected.contains(&incarnation)) {
            answers.push(Answer::Untried);
            continue;
        }

        let statement = match prepared.entry(hook) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Prepared::new(transaction, sql).map_err(|error| {
                    // A table or a column is missing, whichever event it is.
                    Down::new(anyhow!(error).context(format!("the {hook} statement")))
                })?)
            }
        };
        let facts = Facts {
            event,
            attempt: delivery.attempt,
            remaining_ms,
        };
        let Err(error) = statement.execute(&facts) else {
            answers.push(Answer::Taken);
            continue;
        };
        // A failed statement backs out itself alone, unless it says `OR ROLLBACK` or the like.
        if !is_of_event(&error, transaction, sql) {
            return Err(down(error));
        }
        let error = anyhow!(error).context(format!("the {hook} statement"));
        if transaction.is_autocommit() {
            return Err(error.context("rolled back as a whole"));
        }
        rejected.extend(incarnation);
        answers.push(Answer::Rejected(error));
    }
    Ok(answers)
}

/// A statement and what its parameters, by their number, stand for.
struct Prepared<'c> {
    statement: CachedStatement<'c>,
    parameters: Vec<(usize, &'static Parameter)>,
}

impl<'c> Prepared<'c> {
    fn new(connection: &'c Connection, sql: &str) -> rusqlite::Result<Self> {
        let statement = connection.prepare_cached(sql)?;
        let parameters = (1..=statement.parameter_count())
            .filter_map(|number| {
                let token = statement.parameter_name(number)?;
                Some((number, Parameter::of_token(token)?))
            })
            .collect();
        Ok(Self {
            statement,
            parameters,
        })
    }

    fn execute(&mut self, facts: &Facts<'_>) -> rusqlite::Result<()> {
        for (number, parameter) in &self.parameters {
            let value = (parameter.value)(facts);
            self.statement.raw_bind_parameter(*number, value)?;
        }
        // A statement may return rows, and fail at any of them.
        let mut rows = self.statement.raw_query();
        while rows.next()?.is_some() {}
        Ok(())
    }
}
