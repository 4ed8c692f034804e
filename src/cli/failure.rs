//! Why a command did not do what it was asked: the message, and the exit code that tells scripts.

use std::fmt;

use serde::Deserialize;

use super::table::clean;
use super::{CONFIGURATION, NOT_REACHABLE, REFUSED, USAGE};
use crate::config::ConfigError;

/// What every `type` of a problem begins with.
const TYPE_PREFIX: &str = "urn:session-supervisor:problem:";

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line or a variable of the environment makes no sense.
    Usage(String),
    /// The configuration is wrong.
    Configuration(ConfigError),
    /// The gateway refused.
    Refused(Problem),
    /// It was done, and went wrong.
    Failed(String),
    /// No gateway answers there.
    NotReachable { url: String, cause: String },
}

impl Failure {
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Configuration(_) => CONFIGURATION,
            Self::Refused(_) | Self::Failed(_) => REFUSED,
            Self::NotReachable { .. } => NOT_REACHABLE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => {
                write!(
                    f,
                    "wrong usage: {message}\nFor more information, try '--help'."
                )
            }
            Self::Configuration(error) => error.fmt(f),
            Self::Refused(problem) => problem.fmt(f),
            Self::Failed(message) => f.write_str(message),
            Self::NotReachable { url, cause } => write!(
                f,
                "can't reach a gateway at {url}: {}\n  \
                 what to do: start one with `session-supervisor serve`, or say where it is with \
                 --url or SESSION_SUPERVISOR_URL",
                clean(cause)
            ),
        }
    }
}

/// A refusal of the gateway: `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct FieldError {
    #[serde(default)]
    pointer: String,
    #[serde(default)]
    detail: String,
}

impl Problem {
    fn kind(&self) -> &str {
        self.r#type
            .strip_prefix(TYPE_PREFIX)
            .unwrap_or(&self.r#type)
    }

    fn advice(&self) -> &'static str {
        match self.kind() {
            "unauthorized" => "set SESSION_SUPERVISOR_TOKEN to a token that the gateway knows",
            "forbidden" => {
                "use a token whose scope allows it; a gateway without tokens answers to loopback \
                 names only, such as 127.0.0.1"
            }
            "not-found" | "not-active" => {
                "check the name: `sessions list` and `plugins list` show what there is; an older \
                 gateway may not have what was asked for"
            }
            "held-elsewhere" => "end the session with the holder that has it, or use another id",
            "body-too-large" => "send less: a request holds at most 64 KiB",
            "invalid-field" => "correct what is named above, and try again",
            "reserved-reason" => "give another reason, such as `closed`",
            "too-many-sessions" => "end sessions, or raise `sessions.max_active`",
            "shutting-down" => "wait until the gateway is up again, and try again",
            "ledger-unavailable" => {
                "look at the gateway's log and at the disk of its state directory, and try again"
            }
            "busy" => "try again; if it stays so, look at the limits of threads and files",
            _ => "see the gateway's log; it may be of another version than this command",
        }
    }
}

/// Each line by itself, as of a configuration with several faults.
fn write_lines(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.lines()
        .try_for_each(|line| write!(f, "\n  {}", clean(line)))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, kind, title) = (self.status, clean(self.kind()), clean(&self.title));
        write!(f, "refused: {title} ({status} {kind})")?;
        if !self.detail.is_empty() && self.detail != self.title {
            write_lines(f, &self.detail)?;
        }
        // What is wrong with the whole is said already.
        let is_said = |error: &&FieldError| error.pointer == "#" && error.detail == self.detail;
        for error in self.errors.iter().filter(|error| !is_said(error)) {
            match error.pointer.as_str() {
                "" => write!(f, "\n  {}", clean(&error.detail))?,
                pointer => write!(f, "\n  {}: {}", clean(pointer), clean(&error.detail))?,
            }
        }
        write!(f, "\n  what to do: {}", self.advice())
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn problem(kind: &str, status: u16, title: &str, extra: &serde_json::Value) -> Problem {
        let mut document = json!({"type": format!("{TYPE_PREFIX}{kind}"), "title": title,
            "status": status, "later": "ignored"});
        let extra = extra.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(extra);
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn a_refusal_says_what_is_wrong_where_and_what_to_do() {
        let refused = problem(
            "invalid-field",
            422,
            "a field is invalid",
            &json!({"detail": "the request has an invalid field", "errors": [
                {"pointer": "#/query/idle_for_ms", "detail": "must be a number"},
                {"pointer": "#/query/key", "detail": "is empty"},
            ]}),
        );
        assert_snapshot!(refused, @r"
        refused: a field is invalid (422 invalid-field)
          the request has an invalid field
          #/query/idle_for_ms: must be a number
          #/query/key: is empty
          what to do: correct what is named above, and try again
        ");
    }

    #[test]
    fn a_wrong_configuration_has_a_line_for_each_fault_and_says_it_once() {
        let faults = "c.toml:2: `shutdown.cap` is 2\nc.toml:7: unknown key `plugin.db`";
        let refused = problem(
            "invalid-field",
            422,
            "a field is invalid",
            &json!({"detail": faults, "errors": [{"pointer": "#", "detail": faults}]}),
        );
        assert_snapshot!(refused, @r"
        refused: a field is invalid (422 invalid-field)
          c.toml:2: `shutdown.cap` is 2
          c.toml:7: unknown key `plugin.db`
          what to do: correct what is named above, and try again
        ");
    }

    #[test]
    fn a_problem_without_details_is_short() {
        let refused = problem("unauthorized", 401, "a token is needed", &json!({}));
        assert_snapshot!(refused, @r"
        refused: a token is needed (401 unauthorized)
          what to do: set SESSION_SUPERVISOR_TOKEN to a token that the gateway knows
        ");
    }

    #[test]
    fn a_problem_of_a_later_version_is_understood() {
        let refused = problem(
            "teapot",
            418,
            "is a teapot",
            &json!({"detail": "short\u{1b}[2J"}),
        );
        assert_snapshot!(refused, @r"
        refused: is a teapot (418 teapot)
          short�[2J
          what to do: see the gateway's log; it may be of another version than this command
        ");
    }

    #[test]
    fn a_gateway_that_is_not_there_is_named_with_what_to_do() {
        let failure = Failure::NotReachable {
            url: "http://127.0.0.1:7467".into(),
            cause: "connection refused".into(),
        };
        assert_eq!(failure.code(), 69);
        assert_snapshot!(failure, @r"
        can't reach a gateway at http://127.0.0.1:7467: connection refused
          what to do: start one with `session-supervisor serve`, or say where it is with --url or SESSION_SUPERVISOR_URL
        ");
    }
}
