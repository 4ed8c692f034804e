//! Runs of supervisors: how one means to stop, and what it leaves to the next.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::event::{InstanceId, OpenSession};
use crate::holder::HolderRecord;
use crate::session::EndReason;

/// Why a run of the supervisor stops, recorded before anybody is told: a process that is killed
/// in the middle of its stop has its sessions ended for this reason by the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intent {
    /// Why the sessions end.
    pub reason: EndReason,
    /// The downtime that was announced; none for [`EndReason::Shutdown`].
    pub restart_expected: Option<Duration>,
    /// Who asked.
    pub trigger: String,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// Whether what other programs [hold](crate::Session::holder) ends, too.
    pub ends_held: bool,
}

/// The run of a supervisor before this one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Predecessor {
    /// Which.
    pub instance: InstanceId,
    /// When it began.
    pub started_at: Timestamp,
    /// The last moment at which it was known to be alive.
    pub alive_at: Timestamp,
    /// The stop that it had begun, if any.
    pub intent: Option<Intent>,
    /// Whether what other programs [hold](crate::Session::holder) ended with it: as its intent had it, if
    /// there was one.
    pub ends_held: bool,
    /// Whether it came to the end of its stop.
    pub stopped: bool,
}

impl Predecessor {
    /// A run that was last known to be alive at `alive_at`, and had begun no stop.
    pub fn new(instance: InstanceId, started_at: Timestamp, alive_at: Timestamp) -> Self {
        Self {
            instance,
            started_at,
            alive_at,
            intent: None,
            ends_held: false,
            stopped: false,
        }
    }
}

/// What a ledger found of the run before, and did about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// The run before this one, if there was one.
    pub predecessor: Option<Predecessor>,
    /// How many sessions it had left active and were ended now.
    pub found: u64,
    /// Why they ended: the reason of the predecessor's intent, or [`EndReason::Crash`].
    pub reason: Option<EndReason>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.predecessor, self.reason) {
            (None, _) => f.write_str("no run before this one is known"),
            (Some(_), None) => f.write_str("the run before has left no session open"),
            (Some(_), Some(reason)) => {
                let sessions = if self.found == 1 {
                    "session"
                } else {
                    "sessions"
                };
                let found = self.found;
                write!(
                    f,
                    "the run before has left {found} {sessions} open: ended with `{reason}`"
                )
            }
        }
    }
}

/// What the run before has left to this one, since other programs hold it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Held {
    /// The sessions that are active still, in the order of their starts.
    pub sessions: Vec<OpenSession>,
    /// The holders that it knew.
    pub holders: Vec<HolderRecord>,
}
