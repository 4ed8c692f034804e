//! `sessions`: what is active, and what has ended.

mod end;
mod filter;
mod list;
mod show;
mod start;

use jiff::Timestamp;
use serde::Deserialize;

use super::client::Target;
use super::failure::Failure;
use super::output::Format;

/// Lists, shows, starts and ends sessions
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::List),
    Show(show::Show),
    Start(start::Start),
    End(end::End),
}

impl Sessions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (client, output) = (self.target.client()?, self.format.format);
        match self.command {
            Command::List(list) => list.run(&client, output),
            Command::Show(show) => show.run(&client, output),
            Command::Start(start) => start.run(&client, output),
            Command::End(end) => end.run(&client, output),
        }
    }
}

/// A session in an answer.
#[derive(Debug, Deserialize)]
struct Session {
    id: String,
    key: Option<String>,
    agent_id: Option<String>,
    holder: Option<String>,
    started_at: Timestamp,
    state: String,
    reason: Option<String>,
    ended_at: Option<Timestamp>,
}
