//! `sessions list`

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Session;
use super::filter::Filter;
use crate::cli::client::{Client, encode};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note, print};
use crate::cli::table::{Table, age_since, or_nothing};

/// How many sessions are asked for at once.
const PAGE: usize = 500;

/// Lists sessions, those that are active unless told otherwise
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Those in this state
    #[arg(long, value_name = "STATE", value_enum, default_value_t)]
    state: State,

    #[command(flatten)]
    filter: Filter,

    /// At most so many; all unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum State {
    #[default]
    Active,
    Ended,
}

/// A page of the list, whose sessions are kept as they came.
#[derive(Debug, Deserialize)]
struct Page {
    sessions: Vec<Value>,
    next_cursor: Option<String>,
}

impl List {
    pub(super) fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let limit = self.limit.map_or(usize::MAX, |limit| limit as usize);
        let mut list = Page {
            sessions: Vec::new(),
            next_cursor: None,
        };
        loop {
            let size = PAGE.min(limit - list.sessions.len());
            let path = self.path(size, list.next_cursor.as_deref());
            let answer = client.get(&path)?;
            let page: Page = answer.read()?;
            list.sessions.extend(page.sessions);
            list.next_cursor = page.next_cursor;
            if list.next_cursor.is_none() || list.sessions.len() >= limit {
                break;
            }
        }
        match output {
            Output::Json => print(
                &json!({"sessions": list.sessions, "next_cursor": list.next_cursor}).to_string(),
            ),
            Output::Table => {
                let sessions = list.sessions.into_iter().map(serde_json::from_value);
                let sessions: Result<Vec<Session>, _> = sessions.collect();
                let sessions = sessions.map_err(|error| client.misunderstood(&error))?;
                if sessions.is_empty() {
                    note("no session matches");
                    return Ok(());
                }
                print(&table(&sessions, Timestamp::now()))?;
                if list.next_cursor.is_some() {
                    note("there are more: raise --limit or leave it out");
                }
                Ok(())
            }
        }
    }

    fn path(&self, size: usize, cursor: Option<&str>) -> String {
        let state = match self.state {
            State::Active => "active",
            State::Ended => "ended",
        };
        let mut query: Map<String, Value> = self.filter.fields();
        query.insert("cursor".into(), cursor.into());
        let mut path = format!("/v1/sessions?state={state}&limit={size}");
        for (name, value) in &query {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => Cow::Borrowed(text.as_str()),
                value => value.to_string().into(),
            };
            path.push_str(&format!("&{name}={}", encode(&value)));
        }
        path
    }
}

/// Sessions of one state, with how they ended if they have.
fn table(sessions: &[Session], now: Timestamp) -> String {
    let ended = sessions.iter().any(|session| session.ended_at.is_some());
    let active = ["ID", "KEY", "AGENT", "HOLDER", "STATE", ">STARTED"];
    let mut columns = active.to_vec();
    if ended {
        columns.extend([">ENDED", "REASON"]);
    }
    let mut table = Table::new(&columns);
    for session in sessions {
        let mut cells = vec![
            session.id.as_str().into(),
            or_nothing(session.key.as_deref()),
            or_nothing(session.agent_id.as_deref()),
            or_nothing(session.holder.as_deref()),
            session.state.as_str().into(),
            ago(session.started_at, now).into(),
        ];
        if ended {
            let ended_at = session.ended_at.map(|ended_at| ago(ended_at, now));
            cells.push(ended_at.unwrap_or_default().into());
            cells.push(or_nothing(session.reason.as_deref()));
        }
        table.row(cells);
    }
    table.to_string()
}

fn ago(time: Timestamp, now: Timestamp) -> String {
    format!("{} ago", age_since(time, now))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        list: List,
    }

    fn path(arguments: &[&str], size: usize, cursor: Option<&str>) -> String {
        let line = [&["list"], arguments].concat();
        let line: Line = clap::Parser::try_parse_from(line).unwrap();
        line.list.path(size, cursor)
    }

    fn session(session: Value) -> Session {
        serde_json::from_value(session).unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-22T11:00:00Z".parse().unwrap()
    }

    #[test]
    fn active_sessions_are_a_line_each() {
        let sessions = [
            session(
                json!({"id": "sess-A", "key": "agent:main:main", "agent_id": "main",
                "started_at": "2026-11-22T10:56:48.000Z", "state": "active", "metadata": {}}),
            ),
            session(json!({"id": "a-much-longer-id", "holder": "worker-1",
                "started_at": "2026-11-19T11:00:00.000Z", "state": "active"})),
        ];
        assert_snapshot!(table(&sessions, now()), @r"
        ID                KEY              AGENT  HOLDER    STATE      STARTED
        sess-A            agent:main:main  main   -         active  3m 12s ago
        a-much-longer-id  -                -      worker-1  active      3d ago
        ");
    }

    #[test]
    fn ended_sessions_say_when_and_why() {
        let sessions = [session(
            json!({"id": "sess-B", "state": "ended", "reason": "idle",
            "started_at": "2026-11-22T10:00:00Z", "ended_at": "2026-11-22T10:59:59.500Z"}),
        )];
        assert_snapshot!(table(&sessions, now()), @r"
        ID      KEY  AGENT  HOLDER  STATE  STARTED      ENDED  REASON
        sess-B  -    -      -       ended   1h ago  500ms ago  idle
        ");
    }

    #[test]
    fn filters_and_the_cursor_are_parameters() {
        assert_eq!(path(&[], 500, None), "/v1/sessions?state=active&limit=500");
        let arguments = [
            "--state",
            "ended",
            "--key-prefix",
            "a:b&c",
            "--agent",
            "main",
        ];
        let path_with = path(&arguments, 7, Some("s1f"));
        let expected = "/v1/sessions?state=ended&limit=7&agent_id=main&cursor=s1f\
                        &key_prefix=a%3Ab%26c";
        assert_eq!(path_with, expected);
        let arguments = [
            "--idle-for",
            "30m",
            "--older-than",
            "1500ms",
            "--holder",
            "h",
        ];
        let expected = "/v1/sessions?state=active&limit=1&holder=h&idle_for_ms=1800000\
                        &older_than_ms=1500";
        assert_eq!(path(&arguments, 1, None), expected);
    }
}
