//! When sessions end by themselves, and which of them it is time for.

use std::time::Duration;

use tokio::time::Instant;

use super::ActiveSessions;
use super::entry::Moment;
use crate::event::OpenSession;
use crate::session::EndReason;

/// When sessions end by themselves. Never, unless set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Expiry {
    /// Without a touch for this long.
    pub(crate) idle_after: Option<Duration>,
    /// Since the start.
    pub(crate) max_age: Option<Duration>,
}

impl Expiry {
    /// How often to look, if at all: an end comes at most a twentieth of its limit late, and one
    /// look at a million sessions takes some tens of milliseconds.
    pub(crate) fn period(&self) -> Option<Duration> {
        let shortest = match (self.idle_after, self.max_age) {
            (Some(idle), Some(age)) => idle.min(age),
            (idle, age) => idle.or(age)?,
        };
        Some((shortest / 20).clamp(Duration::from_millis(50), Duration::from_secs(15)))
    }
}

impl ActiveSessions {
    /// The sessions whose time is over, with the reason. Of both limits, age counts first: it is
    /// the one that touches can't move.
    pub(crate) fn expired(&self, expiry: Expiry, now: Instant) -> Vec<(OpenSession, EndReason)> {
        let now = self.moment(now);
        let is_over = |limit: Option<Duration>, since: Moment| {
            limit.is_some_and(|limit| now.since(since) >= limit)
        };
        let entries = self.entries.iter().map(|(_, entry)| entry);
        let entries = entries.filter(|entry| !entry.place.is_ending());
        let expired = entries.filter_map(|entry| {
            let reason = if is_over(expiry.max_age, entry.born) {
                EndReason::Expired
            } else if is_over(expiry.idle_after, entry.touched.get()) {
                EndReason::Idle
            } else {
                return None;
            };
            Some((entry.open(), reason))
        });
        expired.collect()
    }
}
