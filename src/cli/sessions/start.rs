//! `sessions start`

use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, Value, json};

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::table::clean;

/// Starts a session, or replaces the details of one that is active
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// The session's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// A key, which one active session at most has: another that has it ends with `replaced`
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// The agent that the session is with
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,

    /// The program that holds the session: it ends when that dies
    ///
    /// One that is not known yet has 60 s to take a lease.
    #[arg(long, value_name = "HOLDER", value_parser = NonEmptyStringValueParser::new())]
    holder: Option<String>,

    /// Which process of the holder; without it the current one
    #[arg(long, value_name = "RUN", requires = "holder")]
    run_id: Option<String>,

    /// More about the session, carried to the plugins: a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Value>,
}

fn parse_metadata(text: &str) -> Result<Value, String> {
    const EXPECTED: &str = r#"expected a JSON object such as {"tier":"pro"}"#;
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}, {EXPECTED}"))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(format!("is another JSON value, {EXPECTED}"))
    }
}

impl Start {
    pub(super) fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let answer = client.post("/v1/sessions", &self.body())?;
        answer.print(output, started)
    }

    fn body(self) -> Value {
        let mut body = json!({ "id": self.id });
        let details = [
            ("key", self.key.map(Value::from)),
            ("agent_id", self.agent.map(Value::from)),
            ("holder", self.holder.map(Value::from)),
            ("run_id", self.run_id.map(Value::from)),
            ("metadata", self.metadata),
        ];
        for (name, value) in details {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }
}

fn started(session: &Map<String, Value>) -> String {
    let text = |name| {
        clean(
            session
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )
    };
    let (id, incarnation) = (text("id"), text("incarnation"));
    let mut message = format!("{id} is active, incarnation {incarnation}");
    if session.get("replaced").is_some() {
        message.push_str(&format!(
            "\n{} had its key, and has ended",
            text("replaced")
        ));
    }
    message
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        start: Start,
    }

    #[test]
    fn only_what_is_given_is_sent() {
        let body = |arguments: &[&str]| {
            let line = [&["start"], arguments].concat();
            let line: Result<Line, _> = clap::Parser::try_parse_from(line);
            line.map(|line| line.start.body()).ok()
        };
        assert_eq!(body(&["A"]), Some(json!({"id": "A"})));
        let held = [
            "A",
            "--holder",
            "gateway-1",
            "--run-id",
            "0c7b1f",
            "--key",
            "k",
        ];
        let expected = json!({"id": "A", "holder": "gateway-1", "run_id": "0c7b1f", "key": "k"});
        assert_eq!(body(&held), Some(expected));
        assert_eq!(body(&["A", "--run-id", "0c7b1f"]), None, "whose run?");
    }

    #[test]
    fn a_start_says_whose_key_it_took() {
        let mut session = json!({"id": "B", "incarnation": "0199", "state": "active"});
        assert_snapshot!(started(session.as_object().unwrap()), @"B is active, incarnation 0199");
        session["replaced"] = "A".into();
        assert_snapshot!(started(session.as_object().unwrap()), @r"
        B is active, incarnation 0199
        A had its key, and has ended
        ");
    }

    #[test]
    fn metadata_is_an_object() {
        assert_eq!(parse_metadata("{\"a\":1}"), Ok(json!({"a": 1})));
        for wrong in ["", "1", "[]", "{"] {
            let problem = parse_metadata(wrong).unwrap_err();
            assert!(problem.contains("expected a JSON object"), "{problem}");
        }
    }
}
