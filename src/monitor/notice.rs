//! What watchers are told beside starts and ends: how deliveries went, and how far a drain is.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Attempt;
use crate::event::Hook;
use crate::session::SessionId;
use crate::text::beginning;

/// How many sessions a notice of a failure names.
const MAX_NAMED: usize = 5;

/// How much of an error a notice has, in bytes: notices wait in memory, and a plugin may say
/// whatever it likes.
const MAX_ERROR_BYTES: usize = 1024;

/// How a delivery went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeliveryOutcome {
    /// The plugin acknowledged it.
    Ok,
    /// The plugin rejected it, or said that it is down.
    Error,
    /// The plugin did not answer in time.
    Timeout,
    /// The plugin panicked, or its actor was dead.
    Panic,
    /// It was under way when a shutdown's time was over.
    Cut,
}

impl DeliveryOutcome {
    /// Every outcome.
    pub const ALL: &[Self] = &[Self::Ok, Self::Error, Self::Timeout, Self::Panic, Self::Cut];

    /// The outcome's name in metrics and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Cut => "cut",
        }
    }
}

impl Serialize for DeliveryOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How one delivery to a plugin went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeliveryNotice {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// The types of its events.
    pub types: Vec<Hook>,
    /// How many events it had.
    pub events: usize,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// How it went. Where a part of it was rejected, `error`.
    pub outcome: DeliveryOutcome,
    /// How long it took.
    pub duration_ms: u64,
    /// What the plugin said, at most 1 KiB of it; none where it went well.
    pub error: Option<Arc<str>>,
    /// The first five sessions with an event that the plugin did not take.
    pub sessions: Vec<SessionId>,
}

impl DeliveryNotice {
    pub(super) fn new(plugin: Arc<str>, attempt: &Attempt<'_>) -> Self {
        let types = Hook::ALL.iter().copied();
        let has = |hook: &Hook| attempt.events.iter().any(|event| event.hook() == *hook);
        let failed = attempt
            .outcomes()
            .filter(|(_, outcome)| *outcome != DeliveryOutcome::Ok);
        let sessions = failed.filter_map(|(event, _)| event.session());
        let sessions = sessions.take(MAX_NAMED).map(|session| session.id.clone());
        Self {
            plugin,
            types: types.filter(has).collect(),
            events: attempt.events.len(),
            attempt: attempt.number,
            outcome: attempt.outcome(),
            duration_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            error: attempt.error.as_ref().map(shorten),
            sessions: sessions.collect(),
        }
    }
}

fn shorten(error: &Arc<str>) -> Arc<str> {
    if error.len() <= MAX_ERROR_BYTES {
        return Arc::clone(error);
    }
    let dots = "…";
    format!("{}{dots}", beginning(error, MAX_ERROR_BYTES - dots.len())).into()
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct DrainProgress {
    /// How many sessions the shutdown ended.
    pub sessions: u64,
    /// The plugins that hear of ends, in the order of their registration.
    pub plugins: Vec<LaneProgress>,
}

/// How far a plugin is in a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LaneProgress {
    /// The plugin's name.
    pub name: Arc<str>,
    /// How many of the ends it has acknowledged.
    pub delivered: u64,
    /// How many there are.
    pub total: u64,
    /// Whether nothing more is delivered to it, be it all or not.
    pub done: bool,
}

/// What is told to watchers.
#[derive(Debug, Clone)]
pub(super) enum Notice {
    Delivery(Arc<DeliveryNotice>),
    Drain(Arc<DrainProgress>),
}
