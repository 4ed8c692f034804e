//! The wire form of events.

use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Event;
use crate::clock::WireTime;

/// The version of the wire form of events and reports.
const SCHEMA: u32 = 1;

/// An event as JSON shows it: the recorded event, and what is particular to one attempt to
/// deliver it.
#[derive(Debug, Clone, Copy)]
pub struct WireEvent<'a> {
    event: &'a Event,
    attempt: u32,
    remaining: Duration,
}

impl<'a> WireEvent<'a> {
    pub(super) fn new(event: &'a Event, attempt: u32, remaining: Duration) -> Self {
        Self {
            event,
            attempt,
            remaining,
        }
    }
}

impl Serialize for WireEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("type", &event.hook())?;
        map.serialize_entry("event_id", &event.id())?;

        if let Some(lifecycle) = event.lifecycle() {
            map.serialize_entry("timestamp", &WireTime(event.timestamp()))?;
            map.serialize_entry("instance", &event.instance())?;
            map.serialize_entry("reason", &lifecycle.reason)?;
            map.serialize_entry("restart_expected_ms", &lifecycle.restart_expected_ms)?;
            map.serialize_entry("active_sessions", &lifecycle.active_sessions)?;
            return map.end();
        }

        map.serialize_entry("seq", &event.seq())?;
        map.serialize_entry("timestamp", &WireTime(event.timestamp()))?;
        map.serialize_entry("session", &event.session())?;
        if let Some(end) = event.how_ended() {
            map.serialize_entry("reason", &end.reason)?;
            map.serialize_entry("detail", &end.details.detail)?;
            map.serialize_entry("resumable", &end.reason.resumable())?;
            map.serialize_entry("ended_at", &WireTime(end.ended_at))?;
            map.serialize_entry("detected_at", &WireTime(end.detected_at))?;
            map.serialize_entry("duration_ms", &event.duration_ms())?;
            map.serialize_entry("message_count", &end.details.message_count)?;
            map.serialize_entry("transcript_archived", &end.details.transcript_archived)?;
            map.serialize_entry("next_session_id", &end.details.next_session_id)?;
            map.serialize_entry("next_key", &end.details.next_key)?;
        }
        map.serialize_entry("instance", &event.instance())?;
        map.serialize_entry("attempt", &self.attempt)?;
        let remaining_ms = u64::try_from(self.remaining.as_millis()).unwrap_or(u64::MAX);
        map.serialize_entry("remaining_ms", &remaining_ms)?;
        map.serialize_entry("synthetic", &event.is_synthetic())?;
        map.end()
    }
}
