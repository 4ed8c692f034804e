//! Which sessions are meant.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::duration::{millis, parse_duration};

/// Only sessions for which all of these are true.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct Filter {
    /// The session that has this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Those whose key begins with this
    #[arg(long, value_name = "TEXT", conflicts_with = "key")]
    key_prefix: Option<String>,

    /// Those of this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,

    /// Those that this holder holds
    #[arg(long, value_name = "HOLDER")]
    holder: Option<String>,

    /// Those without activity for this long, such as 30m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_for: Option<Duration>,

    /// Those that started this long ago or longer, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,
}

impl Filter {
    /// The fields of the API that say the same.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let texts = [
            ("key", &self.key),
            ("key_prefix", &self.key_prefix),
            ("agent_id", &self.agent),
            ("holder", &self.holder),
        ];
        let durations = [
            ("idle_for_ms", self.idle_for),
            ("older_than_ms", self.older_than),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, Value::from(text.clone()?))));
        let durations = durations
            .into_iter()
            .filter_map(|(name, duration)| Some((name, Value::from(millis(duration?)))));
        texts
            .chain(durations)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}
