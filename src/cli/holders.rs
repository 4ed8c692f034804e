//! `holders`: which other programs hold sessions, and how long their leases last.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use serde::Deserialize;
use serde_json::json;

use super::client::{Target, encode};
use super::failure::Failure;
use super::output::Format;
use super::table::{Table, age, clean, count, or_nothing};

/// Lists the programs that hold sessions, and ends all that one holds
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Holders {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the holders: their leases and how many sessions they hold
    List,
    /// Ends all sessions of a holder, and its lease
    ///
    /// Answers when the plugins were told, or when the time of a stop is over. A holder that lives
    /// takes a new lease with its next sign of life; its sessions stay ended.
    End(End),
}

#[derive(Debug, clap::Args)]
struct End {
    /// The holder's name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    holder: String,

    /// Why its sessions end
    #[arg(long, value_name = "REASON", value_enum, default_value_t)]
    reason: Reason,
}

/// Why everything that a holder holds ends at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Reason {
    /// Its work is done
    Completed,
    /// It stops
    Shutdown,
    /// It stops, and comes back
    Restart,
    /// An operator wants it
    #[default]
    Closed,
}

impl Reason {
    /// As the API calls it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Shutdown => "shutdown",
            Self::Restart => "restart",
            Self::Closed => "closed",
        }
    }
}

#[derive(Debug, Deserialize)]
struct HolderList {
    holders: Vec<HolderView>,
}

#[derive(Debug, Deserialize)]
struct HolderView {
    holder: String,
    run_id: Option<String>,
    lease: String,
    expires_in_ms: Option<u64>,
    sessions: u64,
}

#[derive(Debug, Deserialize)]
struct Ended {
    ended: u64,
}

impl Holders {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (client, output) = (self.target.client()?, self.format.format);
        match self.command {
            Command::List => client
                .get("/v1/holders")?
                .print(output, |list: &HolderList| holders(&list.holders)),
            Command::End(End { holder, reason }) => {
                let path = format!("/v1/holders/{}/end", encode(&holder));
                client
                    .post(&path, &json!({ "reason": reason.as_str() }))?
                    .print(output, |answer| ended(answer, &holder, reason))
            }
        }
    }
}

fn holders(holders: &[HolderView]) -> String {
    if holders.is_empty() {
        return "no other program holds sessions".into();
    }
    let mut table = Table::new(&["HOLDER", "RUN", "LEASE", ">ENDS IN", ">SESSIONS"]);
    for holder in holders {
        let left = holder.expires_in_ms.map(Duration::from_millis);
        table.row([
            holder.holder.as_str().into(),
            or_nothing(holder.run_id.as_deref()),
            holder.lease.as_str().into(),
            left.map(age).unwrap_or_default().into(),
            holder.sessions.to_string().into(),
        ]);
    }
    table.to_string()
}

fn ended(answer: &Ended, holder: &str, reason: Reason) -> String {
    let holder = clean(holder);
    match answer.ended {
        0 => format!("{holder} held no session"),
        ended => {
            let sessions = count(ended, "session");
            format!("{sessions} of {holder} ended: {}", reason.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use insta::assert_snapshot;

    use super::*;
    use crate::session::EndReason;

    #[test]
    fn holders_show_their_leases() {
        let list = json!({"holders": [
            {"holder": "gateway-1", "run_id": "0c7b1f", "lease": "connected",
             "expires_in_ms": null, "sessions": 12},
            {"holder": "cron\n", "run_id": null, "lease": "awaited",
             "expires_in_ms": 59_250, "sessions": 0, "more": true},
        ]});
        let list: HolderList = serde_json::from_value(list).unwrap();
        assert_snapshot!(holders(&list.holders), @r"
        HOLDER     RUN     LEASE      ENDS IN  SESSIONS
        gateway-1  0c7b1f  connected        -        12
        cron       -       awaited        59s         0
        ");
        assert_snapshot!(holders(&[]), @"no other program holds sessions");
    }

    #[test]
    fn what_ended_is_counted() {
        let told = |count, reason| ended(&Ended { ended: count }, "gateway-1", reason);
        assert_eq!(told(0, Reason::Closed), "gateway-1 held no session");
        let one = "1 session of gateway-1 ended: closed";
        assert_eq!(told(1, Reason::default()), one);
        let many = "1200 sessions of gateway-1 ended: restart";
        assert_eq!(told(1200, Reason::Restart), many);
    }

    #[test]
    fn reasons_are_called_as_everywhere() {
        for reason in Reason::value_variants() {
            let value = reason.to_possible_value().unwrap();
            assert_eq!(value.get_name(), reason.as_str());
            let known: EndReason = serde_json::from_value(reason.as_str().into()).unwrap();
            assert_eq!(known.as_str(), reason.as_str());
        }
    }
}
