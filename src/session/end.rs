//! How a session ended.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EndReason, InvalidField, SessionId, SessionKey, check_length};

/// Longest `detail` of an end, in bytes of UTF-8.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// What a program says of a session when it ends it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndDetails {
    /// Free text on the reason, at most [`MAX_DETAIL_BYTES`].
    pub detail: Option<Box<str>>,
    /// The session that follows this one.
    pub next_session_id: Option<SessionId>,
    /// The key of the session that follows this one.
    pub next_key: Option<SessionKey>,
    /// How many messages the session held.
    pub message_count: Option<u64>,
    /// Whether the transcript was archived.
    pub transcript_archived: Option<bool>,
}

impl EndDetails {
    /// Sets [`detail`](Self::detail).
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Sets [`message_count`](Self::message_count).
    #[must_use]
    pub fn with_message_count(mut self, messages: u64) -> Self {
        self.message_count = Some(messages);
        self
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidField> {
        // Databases have signed integers.
        if self
            .message_count
            .is_some_and(|count| i64::try_from(count).is_err())
        {
            let problem = format!("must be at most {}", i64::MAX);
            return Err(InvalidField::new("message_count", problem));
        }
        check_length("detail", self.detail.as_deref(), MAX_DETAIL_BYTES)
    }
}

/// How a session ended. Sessions that end together share one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// When, or the last moment that it was known alive.
    pub ended_at: Timestamp,
    /// When the end was noticed: [`ended_at`](Self::ended_at) unless something died.
    pub detected_at: Timestamp,
    /// What its owner said of the end.
    pub details: EndDetails,
}

impl End {
    /// An end that is noticed the moment it happens.
    pub(crate) fn now(reason: EndReason, details: EndDetails, now: Timestamp) -> Self {
        Self {
            reason,
            ended_at: now,
            detected_at: now,
            details,
        }
    }

    /// An end that is noticed now, of what was last known alive at `alive_at`.
    pub(crate) fn noticed(reason: EndReason, alive_at: Timestamp, now: Timestamp) -> Self {
        Self {
            ended_at: alive_at.min(now),
            ..Self::now(reason, EndDetails::default(), now)
        }
    }

    /// `end`, of a session that started at `started_at`. Clocks jump, and a client says of a start what
    /// it likes; but no session ends after its end was noticed, or, unless it starts later than that,
    /// before its start.
    pub(crate) fn within_life(end: Arc<Self>, started_at: Timestamp) -> Arc<Self> {
        let ended_at = end.ended_at.max(started_at).min(end.detected_at);
        if ended_at == end.ended_at {
            return end;
        }
        Arc::new(Self {
            ended_at,
            ..(*end).clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_over_its_limit_is_named() {
        let end = EndDetails::default().with_detail("x".repeat(MAX_DETAIL_BYTES + 1));
        assert_eq!(end.validate().unwrap_err().field, "detail");
    }
}
