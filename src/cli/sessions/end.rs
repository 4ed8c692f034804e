//! `sessions end`

use clap::builder::NonEmptyStringValueParser;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use super::filter::Filter;
use crate::cli::client::{Client, encode};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::table::{clean, count};

/// Ends sessions: those named, or those that a filter finds
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct End {
    /// The sessions' ids
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    ids: Vec<String>,

    /// Every active session
    #[arg(long)]
    all: bool,

    /// Why they end
    #[arg(long, value_name = "REASON", default_value = "closed")]
    reason: String,

    /// Says what would end, and ends nothing
    #[arg(long)]
    dry_run: bool,

    /// Those in this state; only active sessions can end
    #[arg(long, value_name = "STATE", value_parser = ["active"])]
    state: Option<String>,

    #[command(flatten)]
    filter: Filter,
}

const AFTER_HELP: &str = "\
Reasons: completed, disconnected, failed, new, reset, replaced, idle, expired, daily, compaction,
deleted, closed, shutdown, restart, unknown.

Examples:
  session-supervisor sessions end sess-A sess-B
  session-supervisor sessions end --key-prefix agent:main: --idle-for 2h --dry-run
  session-supervisor sessions end --all --reason deleted";

/// What the sessions to end are.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    Ids(Vec<String>),
    /// The body of the request that ends what a filter finds.
    Matching(Value),
}

/// The answer for many.
#[derive(Debug, Deserialize)]
struct Matched {
    matched: u64,
    ended: u64,
}

impl End {
    pub(super) fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let (reason, dry_run) = (self.reason.clone(), self.dry_run);
        match self.selection()? {
            Selection::Matching(body) => {
                let answer = client.post("/v1/bulk-end", &body)?;
                answer.print(output, |found| matching(found, dry_run))
            }
            Selection::Ids(ids) => {
                let mut refused = 0;
                for id in &ids {
                    match end_one(client, id, &reason, dry_run, output) {
                        Ok(()) => {}
                        Err(Failure::Refused(problem)) if ids.len() > 1 => {
                            refused += 1;
                            note(&format!("{}: {problem}", clean(id)));
                        }
                        Err(failure) => return Err(failure),
                    }
                }
                match refused {
                    0 => Ok(()),
                    refused => Err(Failure::Failed(format!(
                        "{refused} of {} refused, see above",
                        count(ids.len() as u64, "session")
                    ))),
                }
            }
        }
    }

    fn selection(self) -> Result<Selection, Failure> {
        let mut body = self.filter.fields();
        let has_filter = !body.is_empty();
        let refused = |problem: &str| Err(Failure::Usage(problem.into()));
        match (!self.ids.is_empty(), has_filter, self.all) {
            (false, false, false) => refused(
                "which sessions end is not said, expected ids, a filter such as --key-prefix, or \
                 --all",
            ),
            (true, true, _) | (true, _, true) => {
                refused("ids are given beside a filter or --all, expected one or the other")
            }
            (false, true, true) => refused("--all is given beside a filter, expected one of them"),
            (true, false, false) => Ok(Selection::Ids(self.ids)),
            (false, _, all) => {
                if all {
                    body.insert("all".into(), true.into());
                }
                if self.dry_run {
                    body.insert("dry_run".into(), true.into());
                }
                body.insert("reason".into(), self.reason.into());
                Ok(Selection::Matching(body.into()))
            }
        }
    }
}

fn end_one(
    client: &Client,
    id: &str,
    reason: &str,
    dry_run: bool,
    output: Output,
) -> Result<(), Failure> {
    let path = format!("/v1/sessions/{}", encode(id));
    let answer = if dry_run {
        client.get(&path)?
    } else {
        client.post(&format!("{path}/end"), &json!({ "reason": reason }))?
    };
    answer.print(output, |session| ended(session, dry_run))
}

fn ended(session: &Session, dry_run: bool) -> String {
    let id = clean(&session.id);
    let reason = clean(session.reason.as_deref().unwrap_or("unknown"));
    match (dry_run, session.ended_at) {
        (true, None) => format!("{id} would end"),
        (true, Some(_)) => format!("{id} has already ended: {reason}"),
        (false, _) => format!("{id} has ended: {reason}"),
    }
}

fn matching(found: &Matched, dry_run: bool) -> String {
    let matched = count(found.matched, "session");
    match (dry_run, found.matched) {
        (_, 0) => "no session matches".into(),
        (true, 1) => format!("{matched} matches and would end"),
        (true, _) => format!("{matched} match and would end"),
        (false, _) => format!("{} of {matched} ended", found.ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        end: End,
    }

    fn selection(arguments: &[&str]) -> Result<Selection, String> {
        let line = [&["end"], arguments].concat();
        let line: Line = clap::Parser::try_parse_from(line).map_err(|error| error.to_string())?;
        let selection = line.end.selection();
        selection.map_err(|failure| {
            assert_eq!(failure.code(), 2);
            failure.to_string()
        })
    }

    #[test]
    fn filters_are_fields_of_one_request() {
        let arguments = [
            "--agent",
            "main",
            "--older-than",
            "1d",
            "--state",
            "active",
            "--dry-run",
        ];
        let expected = json!({"agent_id": "main", "older_than_ms": 86_400_000, "dry_run": true,
            "reason": "closed"});
        assert_eq!(selection(&arguments), Ok(Selection::Matching(expected)));
        let expected = json!({"all": true, "reason": "deleted"});
        let arguments = ["--all", "--reason", "deleted"];
        assert_eq!(selection(&arguments), Ok(Selection::Matching(expected)));
    }

    #[test]
    fn what_ends_must_be_said_in_one_way() {
        let ids = Selection::Ids(vec!["A".into(), "B".into()]);
        assert_eq!(selection(&["A", "B"]), Ok(ids));
        for arguments in [
            &[][..],
            &["--dry-run"],
            &["--state", "active"],
            &["A", "--all"],
            &["A", "--key", "k"],
            &["--all", "--key", "k"],
            &["--state", "ended", "--all"],
            &["--key", "k", "--key-prefix", "k"],
            &[""],
        ] {
            assert!(selection(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn what_ended_is_counted() {
        let told = |matched, ended, dry_run| matching(&Matched { matched, ended }, dry_run);
        assert_eq!(told(0, 0, false), "no session matches");
        assert_eq!(told(1, 0, true), "1 session matches and would end");
        assert_eq!(told(12, 0, true), "12 sessions match and would end");
        assert_eq!(told(12, 11, false), "11 of 12 sessions ended");
    }

    #[test]
    fn one_that_ended_says_why() {
        let session = |end: Value| {
            let mut session = json!({"id": "A", "state": "active",
                "started_at": "2026-11-22T10:00:00Z", "reason": null, "ended_at": null});
            let end = end.as_object().unwrap().clone();
            session.as_object_mut().unwrap().extend(end);
            serde_json::from_value(session).unwrap()
        };
        let over = session(json!({"reason": "idle", "ended_at": "2026-11-22T10:30:00Z"}));
        assert_eq!(ended(&over, false), "A has ended: idle");
        assert_eq!(ended(&over, true), "A has already ended: idle");
        assert_eq!(ended(&session(json!({})), true), "A would end");
    }
}
