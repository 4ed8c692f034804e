//! A plugin that is an actor, keeps accounts in a database, and books each end once, though it may be told
//! of it more than once: where a crash, or the end of the time, falls between its work and the record that
//! it was done.
//!
//! ```sh
//! cargo run --example deduplicating -- example
//! ```
//!
//! Kill it with `kill -9`, start it again, stop it with Ctrl-C: the sessions of both are in the accounts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use actix::prelude::*;
use rusqlite::Connection;
use session_supervisor::{
    Deliver, Down, Hook, Hooks, NewSession, PluginSpec, SessionId, SessionSupervisor,
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS accounts(
        agent TEXT PRIMARY KEY, sessions INTEGER NOT NULL, milliseconds INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS booked(event_id TEXT PRIMARY KEY) WITHOUT ROWID;";

const BOOK: &str = "
    INSERT INTO accounts(agent, sessions, milliseconds) VALUES (?1, 1, ?2)
    ON CONFLICT(agent) DO UPDATE SET
        sessions = sessions + 1, milliseconds = milliseconds + excluded.milliseconds";

/// The plugin: how long each agent's sessions were.
struct Accounts {
    path: PathBuf,
    /// Opened at the first delivery, and again after one that failed.
    database: Option<Connection>,
}

impl Accounts {
    fn open(path: &Path) -> rusqlite::Result<Connection> {
        let database = Connection::open(path)?;
        database.execute_batch(SCHEMA)?;
        Ok(database)
    }

    /// Books a batch in one transaction: all of it, each event once, or nothing.
    fn book(database: &mut Connection, delivery: &Deliver) -> anyhow::Result<()> {
        let transaction = database.transaction()?;
        for event in delivery.events.iter().filter(|event| !event.is_synthetic()) {
            let (Some(session), Some(duration)) = (event.session(), event.duration_ms()) else {
                continue;
            };
            // The id is the same on every repeat, whichever process tells it.
            let id = event.id().to_string();
            let noted = "INSERT OR IGNORE INTO booked(event_id) VALUES (?1)";
            if transaction.execute(noted, [id])? == 1 {
                let agent = session.agent_id.as_deref().unwrap_or("nobody");
                transaction.execute(BOOK, (agent, i64::try_from(duration)?))?;
            }
        }
        // A delivery that was given up on comes again, maybe to another actor.
        anyhow::ensure!(!delivery.deadline.is_over(), "too late");
        Ok(transaction.commit()?)
    }
}

impl Actor for Accounts {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Accounts {
    type Result = anyhow::Result<()>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        // A database that is locked, full or away is no event's fault: `Down`, and all come again.
        let mut database = match self.database.take() {
            Some(database) => database,
            None => Self::open(&self.path).map_err(Down::new)?,
        };
        Self::book(&mut database, &delivery).map_err(Down::new)?;
        self.database = Some(database);
        Ok(())
    }
}

#[actix::main]
async fn main() -> anyhow::Result<ExitCode> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "example".into());
    let path = Path::new(&dir).join("accounts.db");
    let of_plugin = path.clone();
    let accounts = PluginSpec::actor("accounts", move || Accounts {
        path: of_plugin.clone(),
        database: None,
    });
    let supervisor = SessionSupervisor::builder()
        .durable(Path::new(&dir).join("state"))?
        .plugin(accounts.with_hooks(Hooks::NONE.with(Hook::SessionEnd)))
        .handle_signals()
        .start()
        .await?;

    let mut guards = Vec::new();
    for _ in 0..3 {
        let new = NewSession::new(SessionId::generate()).with_agent_id("main");
        guards.push(supervisor.guard(new).await?);
    }
    println!("3 sessions, until Ctrl-C or kill -9");

    let report = supervisor.stopped().await?;
    let sum = "SELECT coalesce(sum(sessions), 0), coalesce(sum(milliseconds), 0) FROM accounts";
    let (sessions, milliseconds): (i64, i64) =
        Accounts::open(&path)?.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    println!("{sessions} sessions of {milliseconds} ms are booked");
    Ok(ExitCode::from(report.exit_code))
}
