//! Deliveries as a lane sees them: on the way, and what came of them.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::event::{Event, Seq, Verdict};

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::bus) struct Now {
    pub(in crate::bus) mono: Instant,
    pub(in crate::bus) wall: Timestamp,
}

/// Why a delivery failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bus) enum Failure {
    /// The plugin said that it can't work at present.
    Down(Arc<str>),
    /// The plugin returned some other error.
    Error(Arc<str>),
    /// No answer in time.
    TimedOut,
    /// The plugin panicked, or its actor is dead.
    Panicked(Arc<str>),
}

impl Failure {
    pub(in crate::bus) fn message(&self) -> Arc<str> {
        match self {
            Self::Down(error) | Self::Error(error) | Self::Panicked(error) => Arc::clone(error),
            Self::TimedOut => "timed out".into(),
        }
    }
}

/// What came of a delivery.
#[derive(Debug)]
pub(in crate::bus) struct Outcome {
    /// An answer per event, or none at all.
    pub(in crate::bus) verdicts: Vec<Verdict>,
    pub(in crate::bus) failure: Option<Failure>,
}

impl Outcome {
    /// Why the delivery failed, or the first of its events that was rejected.
    pub(in crate::bus) fn first_error(&self) -> Option<Arc<str>> {
        let rejected = self.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Rejected(error) => Some(error.as_str().into()),
            Verdict::Open | Verdict::Acknowledged => None,
        });
        self.failure.as_ref().map(Failure::message).or(rejected)
    }
}

/// A delivery to make.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Flight {
    pub(in crate::bus) id: u64,
    pub(in crate::bus) events: Arc<[Event]>,
    pub(in crate::bus) attempt: u32,
    pub(in crate::bus) deadline: Instant,
    pub(in crate::bus) departed: Instant,
    /// How many events the plugin had acknowledged when these were first tried.
    pub(in crate::bus) tried_at: u64,
    pub(in crate::bus) parked: bool,
}

/// What a lane does next.
#[derive(Debug)]
pub(in crate::bus) enum Step {
    /// Make this delivery.
    Deliver(Flight),
    /// Read the log after this place, so many events at the most.
    Read(Seq, usize),
    /// Nothing before that moment, or before something else happens.
    Wait(Option<Instant>),
}
