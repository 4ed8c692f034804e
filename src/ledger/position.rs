//! Where plugins stand in the log, and what is parked for them.

use std::sync::Arc;

use jiff::Timestamp;

use crate::event::{Event, Seq};
use crate::session::Incarnation;

/// An event that one plugin did not take and that its lane went past.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parked {
    /// The event itself, with its place in the log.
    pub event: Event,
    /// How often the plugin rejected this event by itself.
    pub attempts: u32,
    /// Not to be tried before.
    pub not_before: Timestamp,
    /// Whether it is a dead letter: not tried again unless an operator asks for it.
    pub dead: bool,
    /// Why the plugin rejected it last, or why it is parked.
    pub error: Arc<str>,
}

/// Where a plugin stands in the log.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Position {
    /// The head of the log when the plugin was first attached: it is told of nothing before.
    pub since: Seq,
    /// Every event up to here is acknowledged, parked, or not for this plugin.
    pub cursor: Seq,
    /// What is parked for it and not dead, in log order.
    pub parked: Vec<Parked>,
    /// The places of its dead letters, and whose events they are: as much as keeps the order, since
    /// there may be very many.
    pub dead: Vec<(Seq, Incarnation)>,
    /// How many runs in a row died while the plugin was owed something of the log, without any
    /// progress since the first of them began: what it was given may have killed them. The last run
    /// is among them, whether the recovery has counted it yet or not.
    pub deaths: u32,
}

/// What changed in where a plugin stands. Recorded in one step.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The new cursor, if it moved.
    pub cursor: Option<Seq>,
    /// Events to park, or to park anew with other attempts.
    pub park: Vec<Parked>,
    /// The places of parked events that are acknowledged by now.
    pub unpark: Vec<Seq>,
}

impl Progress {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.cursor.is_none() && self.park.is_empty() && self.unpark.is_empty()
    }
}
