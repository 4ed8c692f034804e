//! `stop`: asks a gateway to stop, and watches it go.

mod progress;
mod stream;
mod watch;

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::watch::Process;
use super::client::Target;
use super::duration::{millis, parse_duration};
use super::failure::Failure;
use super::output::{Format, note};
use super::table::{Table, age, clean, count};

/// Asks a gateway to stop
///
/// The sessions that are still active end, and the plugins are told so, inside the gateway's
/// budget.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Stop {
    /// Why the sessions end; `restart` with --expected-downtime, and else `shutdown`
    #[arg(long, value_name = "REASON", value_enum)]
    reason: Option<Reason>,

    /// How long a planned restart takes, such as 1500ms: announced to the plugins
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expected_downtime: Option<Duration>,

    /// Says who would be told of what, and stops nothing
    #[arg(long)]
    dry_run: bool,

    /// Shows the progress of each plugin until the gateway is gone
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,

    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

const AFTER_HELP: &str = "\
Examples:
  session-supervisor stop --wait
  session-supervisor stop --expected-downtime 1500ms
  session-supervisor stop --dry-run";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reason {
    /// It stops for good
    Shutdown,
    /// It is back soon
    Restart,
}

/// The answer to a stop that is under way.
#[derive(Debug, Deserialize)]
struct Asked {
    reason: String,
    deadline_at: Timestamp,
    #[serde(flatten)]
    process: Process,
}

/// The answer to a stop that is only thought through.
#[derive(Debug, Deserialize)]
struct Rehearsed {
    reason: String,
    sessions: u64,
    plugins: Vec<RehearsedPlugin>,
}

#[derive(Debug, Deserialize)]
struct RehearsedPlugin {
    name: String,
    sessions: u64,
}

impl Stop {
    pub(super) fn run(self) -> Result<(), Failure> {
        let body = self.body()?;
        let (client, output) = (self.target.client()?, self.format.format);
        if self.dry_run {
            return client.post("/v1/shutdown", &body)?.print(output, rehearsed);
        }
        // Before the request, so that nothing is missed.
        let events = match self.wait.then(|| stream::open(&client)) {
            None => None,
            Some(Ok(events)) => Some(events),
            Some(Err(failure @ Failure::NotReachable { .. })) => return Err(failure),
            Some(Err(failure)) => {
                note(&format!("the progress can't be shown\n{failure}"));
                None
            }
        };
        let answer = client.post("/v1/shutdown", &body)?;
        let asked: Asked = answer.read()?;
        answer.print(output, |_: &Asked| under_way(&asked, Timestamp::now()))?;
        if self.wait {
            watch::until_gone(&client, events, asked.deadline_at, &asked.process)?;
        }
        Ok(())
    }

    fn body(&self) -> Result<Value, Failure> {
        if self.reason == Some(Reason::Shutdown) && self.expected_downtime.is_some() {
            let problem = "--expected-downtime is for a restart, expected --reason restart or \
                           neither reason";
            return Err(Failure::Usage(problem.into()));
        }
        let mut body = Map::new();
        if let Some(reason) = self.reason {
            let name = match reason {
                Reason::Shutdown => "shutdown",
                Reason::Restart => "restart",
            };
            body.insert("reason".into(), name.into());
        }
        if let Some(downtime) = self.expected_downtime {
            body.insert("restart_expected_ms".into(), millis(downtime).into());
        }
        if self.dry_run {
            body.insert("dry_run".into(), json!(true));
        }
        Ok(body.into())
    }
}

fn under_way(asked: &Asked, now: Timestamp) -> String {
    let left = asked.deadline_at.duration_since(now);
    // Rounded up: a moment has passed since it was asked for.
    let left = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(999);
    let left = age(Duration::from_secs(left.as_secs()));
    let reason = clean(&asked.reason);
    format!(
        "the gateway is stopping, reason {reason}: hooks and drain are over in {left} at the latest"
    )
}

fn rehearsed(stop: &Rehearsed) -> String {
    let sessions = count(stop.sessions, "session");
    let reason = clean(&stop.reason);
    let mut text = format!("{sessions} would end, reason {reason}");
    if stop.plugins.is_empty() {
        text.push_str(", and no plugin would be told");
    } else {
        let mut table = Table::new(&["PLUGIN", ">WOULD BE TOLD OF"]);
        for plugin in &stop.plugins {
            table.row([
                plugin.name.as_str().into(),
                plugin.sessions.to_string().into(),
            ]);
        }
        text.push_str(&format!("\n\n{table}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        stop: Stop,
    }

    fn body(arguments: &[&str]) -> Result<Value, u8> {
        let line = [&["stop"], arguments].concat();
        let line: Line = clap::Parser::try_parse_from(line).unwrap();
        line.stop.body().map_err(|failure| failure.code())
    }

    #[test]
    fn a_downtime_alone_means_restart() {
        assert_eq!(body(&[]), Ok(json!({})));
        let expected = json!({"restart_expected_ms": 1500});
        assert_eq!(body(&["--expected-downtime", "1500ms"]), Ok(expected));
        let expected = json!({"reason": "restart", "restart_expected_ms": 0, "dry_run": true});
        let arguments = [
            "--reason",
            "restart",
            "--expected-downtime",
            "0s",
            "--dry-run",
        ];
        assert_eq!(body(&arguments), Ok(expected));
        assert_eq!(
            body(&["--reason", "shutdown"]),
            Ok(json!({"reason": "shutdown"}))
        );
    }

    #[test]
    fn a_shutdown_with_a_downtime_is_wrong_usage() {
        let arguments = ["--reason", "shutdown", "--expected-downtime", "1s"];
        assert_eq!(body(&arguments), Err(2));
    }

    #[test]
    fn a_rehearsal_says_who_would_be_told() {
        let stop = json!({"reason": "shutdown", "sessions": 11,
            "plugins": [{"name": "audit", "sessions": 11}, {"name": "memory-db", "sessions": 9}]});
        let stop = serde_json::from_value(stop).unwrap();
        assert_snapshot!(rehearsed(&stop), @r"
        11 sessions would end, reason shutdown

        PLUGIN     WOULD BE TOLD OF
        audit                    11
        memory-db                 9
        ");
        let stop = json!({"reason": "restart", "sessions": 1, "plugins": []});
        let stop = serde_json::from_value(stop).unwrap();
        assert_snapshot!(rehearsed(&stop), @"1 session would end, reason restart, and no plugin would be told");
    }

    #[test]
    fn a_stop_under_way_says_how_long_it_may_take() {
        let asked = json!({"instance": "i", "reason": "restart",
            "deadline_at": "2026-11-22T11:00:03.000Z"});
        let asked = serde_json::from_value(asked).unwrap();
        let now = "2026-11-22T11:00:00Z".parse().unwrap();
        assert_snapshot!(under_way(&asked, now), @"the gateway is stopping, reason restart: hooks and drain are over in 3s at the latest");
    }
}
