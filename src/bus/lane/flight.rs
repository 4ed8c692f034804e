//! Deliveries as a lane sees them: on the way, and what came of them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::event::{Event, Seq, Verdict};
use crate::monitor::{Attempt, DeliveryOutcome};

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::bus) struct Now {
    pub(in crate::bus) mono: Instant,
    pub(in crate::bus) wall: Timestamp,
}

/// Why a delivery failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bus) enum Failure {
    /// The plugin said that it can't work at present, and how long it wants to be left alone.
    Down(Arc<str>, Option<Duration>),
    /// The plugin said that it wants nothing more.
    Disabled(Arc<str>),
    /// The plugin returned some other error.
    Error(Arc<str>),
    /// No answer in time, and what the plugin had [remarked](crate::Acks::remark) on that.
    TimedOut(Option<Arc<str>>),
    /// The plugin panicked, or its actor is dead.
    Panicked(Arc<str>),
}

impl Failure {
    pub(in crate::bus) fn message(&self) -> Arc<str> {
        match self {
            Self::Down(error, _)
            | Self::Disabled(error)
            | Self::Error(error)
            | Self::Panicked(error) => Arc::clone(error),
            Self::TimedOut(None) => "timed out".into(),
            Self::TimedOut(Some(remark)) => format!("timed out; {remark}").into(),
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
    /// The outcome of a delivery that failed as a whole.
    pub(in crate::bus) fn failed(failure: Failure) -> Self {
        Self {
            verdicts: Vec::new(),
            failure: Some(failure),
        }
    }

    /// What the monitor is told of it. `is_cut` says that a shutdown's time was over.
    pub(in crate::bus) fn attempt<'a>(
        &'a self,
        events: &'a [Event],
        number: u32,
        took: Duration,
        is_cut: bool,
    ) -> Attempt<'a> {
        let failure = self.failure.as_ref().map(|failure| match failure {
            _ if is_cut => DeliveryOutcome::Cut,
            Failure::Down(..) | Failure::Disabled(_) | Failure::Error(_) => DeliveryOutcome::Error,
            Failure::TimedOut(_) => DeliveryOutcome::Timeout,
            Failure::Panicked(_) => DeliveryOutcome::Panic,
        });
        Attempt {
            events,
            number,
            verdicts: &self.verdicts,
            failure,
            error: self.first_error(),
            took,
        }
    }

    /// Why the delivery failed, or the first of its events that was rejected.
    pub(in crate::bus) fn first_error(&self) -> Option<Arc<str>> {
        let rejected = self.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Rejected(error) => Some(error.as_str().into()),
            Verdict::Open | Verdict::Acknowledged => None,
        });
        self.failure.as_ref().map(Failure::message).or(rejected)
    }
}

/// How often an event was tried, and what the plugin had acknowledged by then: whether it has
/// acknowledged others since is what tells a plugin that is down from an event that is poison.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::bus) struct Tries {
    /// Deliveries of which the event was part.
    pub(in crate::bus) count: u32,
    /// How many events the plugin had acknowledged when this one was first tried.
    pub(in crate::bus) acknowledged_at_first: u64,
    /// How many it had acknowledged when this one last failed, or else when it was first tried.
    pub(in crate::bus) acknowledged_at_last: u64,
}

impl Tries {
    /// One more delivery departs.
    pub(super) fn depart(mut self, acknowledged: u64) -> Self {
        if self.count == 0 {
            self.acknowledged_at_first = acknowledged;
            self.acknowledged_at_last = acknowledged;
        }
        self.count += 1;
        self
    }

    /// The delivery failed.
    pub(super) fn fail(mut self, acknowledged: u64) -> Self {
        self.acknowledged_at_last = acknowledged;
        self
    }
}

/// A delivery to make.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Flight {
    pub(in crate::bus) id: u64,
    pub(in crate::bus) events: Arc<[Event]>,
    /// Of its events, this delivery included.
    pub(in crate::bus) tries: Tries,
    pub(in crate::bus) deadline: Instant,
    pub(in crate::bus) departed: Instant,
    pub(in crate::bus) parked: bool,
    /// Whether it was made of as many events as the lane took at a time, those not for its plugin
    /// included.
    pub(in crate::bus) is_full: bool,
}

/// What a lane does next.
#[derive(Debug)]
pub(in crate::bus) enum Step {
    /// Make this delivery.
    Deliver(Flight),
    /// Make the opening delivery, until then at the latest.
    Open(Instant),
    /// Read the log after this place, so many events at the most.
    Read(Seq, usize),
    /// Nothing before that moment, or before something else happens.
    Wait(Option<Instant>),
}
