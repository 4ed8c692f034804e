//! The gateway's stream of events (`text/event-stream`), as far as it tells of a stop.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde::Deserialize;

use crate::cli::client::Client;
use crate::cli::failure::Failure;

/// What the gateway told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Drain(Drain),
    Delivery(Delivery),
}

/// How far the drain is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Drain {
    pub(super) plugins: Vec<Lane>,
}

impl Drain {
    /// How many ends the plugins were not told of, of those that are done.
    pub(super) fn untold(&self) -> u64 {
        let done = self.plugins.iter().filter(|lane| lane.done);
        done.map(|lane| lane.total.saturating_sub(lane.delivered))
            .sum()
    }
}

/// How far a plugin is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) delivered: u64,
    pub(super) total: u64,
    pub(super) done: bool,
}

/// How a delivery went.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Delivery {
    pub(super) plugin: String,
    pub(super) outcome: String,
    pub(super) error: Option<String>,
}

/// Follows the gateway's events on a thread of its own, which ends with them.
pub(super) fn open(client: &Client) -> Result<Receiver<Told>, Failure> {
    let events = BufReader::new(client.events()?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for told in read(events) {
            if sender.send(told).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The events that `stream` holds. What is not understood is passed over, as what later versions
/// add.
fn read(stream: impl BufRead) -> impl Iterator<Item = Told> {
    let (mut event, mut data) = (String::new(), String::new());
    stream
        .lines()
        .map_while(Result::ok)
        .filter_map(move |line| {
            let (field, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event = value.to_owned(),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                "" if line.is_empty() => {
                    let told = parse(&event, &data);
                    event.clear();
                    data.clear();
                    return told;
                }
                // Comments, `id` and `retry`.
                _ => {}
            }
            None
        })
}

fn parse(event: &str, data: &str) -> Option<Told> {
    match event {
        "drain" => serde_json::from_str(data).ok().map(Told::Drain),
        "delivery" => serde_json::from_str(data).ok().map(Told::Delivery),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_and_outcomes_are_read_and_the_rest_passed_over() {
        let stream = "\
: a comment\n\
\n\
event: session_end\n\
id: 7\n\
data: {\"type\":\"session_end\"}\n\
\n\
event: delivery\r\n\
data: {\"plugin\":\"audit\",\"outcome\":\"error\",\r\n\
data: \"events\":1,\"duration_ms\":2,\"error\":\"full\"}\r\n\
\r\n\
event:drain\n\
data:{\"plugins\":[{\"name\":\"audit\",\"delivered\":3,\"total\":11,\"done\":false}],\"sessions\":11}\n\
\n\
event: drain\n\
data: not JSON\n\
\n\
event: drain\n\
data: {\"plugins\":[]}\n";
        let told: Vec<_> = read(stream.as_bytes()).collect();
        let delivery = Told::Delivery(Delivery {
            plugin: "audit".into(),
            outcome: "error".into(),
            error: Some("full".into()),
        });
        let lane = Lane {
            name: "audit".into(),
            delivered: 3,
            total: 11,
            done: false,
        };
        let drain = Told::Drain(Drain {
            plugins: vec![lane],
        });
        // The last one is not whole.
        assert_eq!(told, [delivery, drain]);
    }
}
