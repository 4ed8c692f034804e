//! `sessions show`

use clap::builder::NonEmptyStringValueParser;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::cli::client::{Client, encode};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::table::{Table, age_since};

/// What is looked for first.
const FIRST: [&str; 12] = [
    "id",
    "state",
    "reason",
    "detail",
    "resumable",
    "key",
    "agent_id",
    "holder",
    "run_id",
    "started_at",
    "ended_at",
    "duration_ms",
];

/// Shows a session, and which plugins were told of it
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The session's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
}

impl Show {
    pub(super) fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let answer = client.get(&format!("/v1/sessions/{}", encode(&self.id)))?;
        answer.print(output, |session| details(session, Timestamp::now()))
    }
}

/// A line per detail that there is, and a table of the plugins.
pub(super) fn details(session: &Map<String, Value>, now: Timestamp) -> String {
    let mut details = Table::new(&["SESSION", ""]);
    let first = FIRST.iter().filter_map(|name| session.get_key_value(*name));
    let rest = session
        .iter()
        .filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, value) in first.chain(rest) {
        let text = match value {
            Value::Null => continue,
            Value::Object(fields) if name == "plugins" || fields.is_empty() => continue,
            Value::String(text) => match text.parse::<Timestamp>() {
                Ok(time) => format!("{text} ({} ago)", age_since(time, now)),
                Err(_) => text.clone(),
            },
            Value::Bool(true) => "yes".into(),
            Value::Bool(false) => "no".into(),
            value => value.to_string(),
        };
        details.row([name.replace('_', " ").into(), text.into()]);
    }
    let mut text = details.to_string();
    if let Some(Value::Object(plugins)) = session.get("plugins") {
        let mut table = Table::new(&["PLUGIN", "TOLD"]);
        for (name, state) in plugins {
            let state = state.as_str().unwrap_or_default();
            table.row([name.into(), state.into()]);
        }
        text.push_str(&format!("\n\n{table}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_is_a_line_per_detail_and_a_table_of_plugins() {
        let session = json!({
            "id": "sess-A", "incarnation": "0199", "previous_incarnation": null, "key": "k\n2",
            "run_id": "0c7b1f", "holder": "gateway-1",
            "metadata": {"tier": "pro"}, "started_at": "2026-11-22T10:00:00.000Z",
            "state": "ended", "reason": "restart", "detail": null, "resumable": true,
            "ended_at": "2026-11-22T10:59:00.000Z",
            "plugins": {"audit": "delivered", "memory-db": "owed"},
        });
        let now = "2026-11-22T11:00:00Z".parse().unwrap();
        assert_snapshot!(details(session.as_object().unwrap(), now), @r#"
        SESSION
        id           sess-A
        state        ended
        reason       restart
        resumable    yes
        key          k 2
        holder       gateway-1
        run id       0c7b1f
        started at   2026-11-22T10:00:00.000Z (1h ago)
        ended at     2026-11-22T10:59:00.000Z (1m ago)
        incarnation  0199
        metadata     {"tier":"pro"}

        PLUGIN     TOLD
        audit      delivered
        memory-db  owed
        "#);
    }
}
