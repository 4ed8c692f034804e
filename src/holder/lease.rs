//! One holder: its runs, and what keeps its sessions active.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::{FIRST_LEASE, LeaseState, Refused};
use crate::session::{EndReason, HolderId, RunId};

/// How many runs of a holder whose place was taken are remembered, so that they can't take it back.
pub(super) const MAX_PAST_RUNS: usize = 64;

/// How many signs of life a holder had shown at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignsOfLife(pub(super) u64);

/// Which of the connections that are, or were, a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId(pub(super) u64);

/// An open connection that is a lease, or a parent that has its child's.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// How long the lease outlives it.
    pub(super) grace: Duration,
    /// Tells it that it is a lease no longer.
    pub(super) _replaced: DropGuard,
}

/// What is kept of a holder for a later process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HolderRecord {
    /// Its name.
    pub holder: HolderId,
    /// Its current run.
    pub run_id: Option<RunId>,
    /// The runs before, oldest first.
    pub past_runs: Vec<RunId>,
    /// Whether its current run is the first since it was mentioned, and so has what was started before
    /// that without a run.
    pub is_first_run: bool,
    /// How long its last lease was.
    pub lease: Duration,
}

/// A holder that has a lease, or sessions.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) run_id: Option<RunId>,
    /// The run that it had when it was forgotten, if none has come since.
    pub(super) last_run: Option<RunId>,
    pub(super) past_runs: VecDeque<RunId>,
    /// Whether the current run is the first since it was mentioned.
    pub(super) is_first_run: bool,
    /// Its parent, which would know of its death: the holder's as a whole, whichever its run, so that
    /// nothing that the holder does takes its place.
    pub(super) parent: Option<Connection>,
    pub(super) connection: Option<Connection>,
    /// When the lease of a connection that is gone is over.
    pub(super) disconnected_until: Option<Instant>,
    /// When the lease of the last heartbeat is over.
    pub(super) beat_until: Option<Instant>,
    /// Until when it has to take its first lease, or the first after a restart.
    pub(super) awaited_until: Option<Instant>,
    /// Its last sign of life.
    pub(super) seen_at: Timestamp,
    /// The last sign of life of the run before.
    pub(super) past_seen_at: Timestamp,
    /// Whether a later process would know all that a [`HolderRecord`] has, as far as the ledger has not
    /// said otherwise.
    pub(super) is_kept: bool,
    /// How long its last lease was, for a later process.
    pub(super) lease: Duration,
    /// How long the lease of its last heartbeat was.
    pub(super) ttl: Duration,
    /// How many signs of life there were.
    pub(super) signs: u64,
    /// It holds nothing any more: what it has, or gets, ends for this reason.
    pub(super) closed: Option<EndReason>,
    /// It has said that it is done: it is forgotten as soon as it has no sessions.
    pub(super) is_leaving: bool,
    /// It was found that its lease is over.
    pub(super) is_lost: bool,
}

impl Holder {
    pub(super) fn new(now: Instant, seen_at: Timestamp) -> Self {
        Self {
            run_id: None,
            last_run: None,
            past_runs: VecDeque::new(),
            is_first_run: true,
            parent: None,
            connection: None,
            disconnected_until: None,
            beat_until: None,
            awaited_until: Some(now + FIRST_LEASE),
            seen_at,
            past_seen_at: seen_at,
            is_kept: false,
            lease: Duration::ZERO,
            ttl: Duration::ZERO,
            signs: 0,
            closed: None,
            is_leaving: false,
            is_lost: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.parent.is_some() || self.connection.is_some()
    }

    /// When its lease is over; none as long as it is connected.
    pub(super) fn until(&self) -> Option<Instant> {
        if self.is_connected() {
            return None;
        }
        let until = [self.disconnected_until, self.beat_until, self.awaited_until];
        // It always has one of these.
        until.into_iter().max().flatten()
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| until <= now)
    }

    pub(super) fn set_lease(&mut self, lease: Duration) {
        self.is_kept &= self.lease == lease;
        self.lease = lease;
    }

    /// Drops the leases that its run has taken.
    pub(super) fn drop_leases(&mut self) {
        self.connection = None;
        self.disconnected_until = None;
        self.beat_until = None;
    }

    pub(super) fn state(&self) -> LeaseState {
        if self.is_connected() {
            return LeaseState::Connected;
        }
        let until = self.until();
        if until.is_some() && until == self.beat_until {
            LeaseState::Heartbeat
        } else if until.is_some() && until == self.disconnected_until {
            LeaseState::Disconnected
        } else {
            LeaseState::Awaited
        }
    }

    pub(super) fn record(&self, holder: &HolderId) -> HolderRecord {
        HolderRecord {
            holder: holder.clone(),
            run_id: self.run_id.clone(),
            past_runs: self.past_runs.iter().cloned().collect(),
            is_first_run: self.is_first_run,
            lease: self.lease,
        }
    }

    /// Goes over to the run `run_id`. Answers whether that takes another's place.
    pub(super) fn enter(
        &mut self,
        holder: &HolderId,
        run_id: &RunId,
        wall: Timestamp,
    ) -> Result<bool, Refused> {
        match &self.run_id {
            Some(current) if current == run_id => return Ok(false),
            _ if self.past_runs.contains(run_id) => {
                return Err(Refused::RunIsOver {
                    holder: holder.clone(),
                    run_id: run_id.clone(),
                });
            }
            _ => {}
        }
        self.is_kept = false;
        let before = self.run_id.replace(run_id.clone());
        let takes_over = before.is_some();
        let over = before.or_else(|| self.last_run.take());
        self.past_runs.extend(over.filter(|over| over != run_id));
        if self.past_runs.len() > MAX_PAST_RUNS {
            self.past_runs.pop_front();
        }
        if !takes_over {
            return Ok(false);
        }
        self.is_first_run = false;
        self.past_seen_at = match self.is_connected() {
            true => wall,
            false => self.seen_at,
        };
        self.drop_leases();
        Ok(true)
    }
}
