//! What events and runs are known by.

use std::fmt;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{Hook, Hooks};
use crate::session::Incarnation;

/// The place of an event in the ledger's log: ascends over the life of a ledger, from 1.
pub type Seq = u64;

/// One run of a supervisor, from its start to its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(Uuid);

impl InstanceId {
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// One that was made before.
    #[cfg(feature = "sqlite")]
    pub(crate) fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The idempotency key of an event: one per incarnation and hook, the same on every retry,
/// redelivery and recovery. Compare it, store it, never parse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    pub(super) subject: Uuid,
    pub(super) hook: Hook,
}

impl EventId {
    /// The id of the event that tells `incarnation` to those who listen to `hook`.
    pub(crate) fn of_session(incarnation: Incarnation, hook: Hook) -> Self {
        let subject = *incarnation.as_uuid();
        Self { subject, hook }
    }
}

impl EventId {
    /// The incarnation that it tells of; none for lifecycle events.
    pub(crate) fn incarnation(self) -> Option<Incarnation> {
        let is_of_session = Hooks::SESSION.contains(self.hook);
        is_of_session.then(|| Incarnation::from_uuid(self.subject))
    }
}

/// That a text is no [`EventId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an event id as a plugin got it")]
#[non_exhaustive]
pub struct InvalidEventId;

impl std::str::FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let (subject, hook) = text.split_once('-').ok_or(InvalidEventId)?;
        let id = Self {
            subject: Uuid::try_parse(subject).map_err(|_| InvalidEventId)?,
            hook: hook.parse().map_err(|_| InvalidEventId)?,
        };
        // Only as it was written, so that every event has one id.
        let is_exact = id.to_string() == text;
        is_exact.then_some(id).ok_or(InvalidEventId)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.subject.as_simple(), self.hook)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
