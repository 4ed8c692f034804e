//! Programs that start and end sessions, at a steady pace.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::chance;
use crate::books::{Books, Request};
use crate::gateway::{agent, post};

/// How sessions end that no client ends by itself.
const OTHER_ENDS: &[&str] = &["idle", "expired", "closed"];

/// Sessions of each client that come again and again, in every life.
const REGULARS: u64 = 5;

/// How many of its latest sessions a client still deals with.
const RECENT: u64 = 50;

/// How much is asked of a gateway.
pub(super) struct Load {
    pub(super) clients: u64,
    pub(super) longest_life_ms: u64,
    /// From one request of a client to its next.
    pace: Duration,
}

impl Load {
    pub(super) fn for_soak_of(length: Duration) -> Self {
        Self {
            clients: 4,
            longest_life_ms: u64::try_from(length.as_millis() / 8).unwrap().min(5000),
            pace: Duration::from_millis(10),
        }
    }

    /// Sends requests until the gateway takes no more. Most sessions are left to expire.
    pub(super) fn run(&self, url: &str, life: u64, client: u64) -> Books {
        let (agent, mut books) = (agent(), Books::with_other_ends(OTHER_ENDS));
        for n in 0.. {
            let sent = Instant::now();
            let new = format!("{life}-{client}-{n}");
            let known = match chance(2) {
                0 => format!("{client}-{}", chance(REGULARS)),
                _ => format!("{life}-{client}-{}", n - chance(RECENT.min(n + 1))),
            };
            let prefix = format!("{client}-");
            let request = match chance(200) {
                0 => Request::EndMany(&prefix),
                1..=89 => Request::Start(&new, json!({"metadata": {"text": "x".repeat(100)}})),
                90..=109 => Request::Start(&new, json!({"key": format!("{prefix}{}", chance(5))})),
                110..=129 => Request::Start(&known, json!({"agent_id": "again"})),
                130..=159 => Request::End(&known),
                _ => Request::Touch(&known),
            };
            let answer = post(&agent, &format!("{url}{}", request.path()), &request.body());
            if !books.note(&request, answer.as_ref()) {
                break;
            }
            sleep(self.pace.saturating_sub(sent.elapsed()));
        }
        books
    }
}
