//! What a lane does about events that may kill the process: nobody is left then to say which it was.
//!
//! An event is tried *with care* where its attempt is recorded before, and where nothing else of the
//! lane is under way meanwhile: that is its *trial*. The process that finds such an attempt in the
//! ledger knows what the one before died of, and the attempt counts as any other does. What became
//! of a trial otherwise takes the count back, unless the event was rejected.
//!
//! With care are tried
//! - all that was parked when the lane began: it may have been in flight when the last process died;
//! - what can have been in flight when run after run has died while the plugin was owed something,
//!   and none of them got any further. It is parked for that, before anything is delivered.

use std::hash::{BuildHasher as _, RandomState};

use tokio::time::Instant;
use tracing::warn;

use super::outcome::backoff;
use super::{Lane, Now, Step, is_of, max_held_up};
use crate::event::{Event, Seq};
use crate::ledger::Parked;
use crate::plugin::DeliveryPolicy;

/// Why an event is dead that had its last trial when the process died. Of one that is not dead, it
/// says that the count includes a trial that may be under way. The ledger keeps it.
pub(super) const DIED: &str = "the process died while the plugin had it";

/// Why an event is parked that has not had a trial.
pub(super) const SUSPECT: &str = "the process may have died of it";

/// How many runs in a row have to die before the plugin is served with care: one is killed by
/// anything, and care is slow.
const DEATHS: u32 = 2;

/// Up to where events can have been in flight in the runs that died, if that matters.
pub(super) fn window(cursor: Seq, deaths: u32, policy: &DeliveryPolicy) -> Option<Seq> {
    if deaths < DEATHS {
        return None;
    }
    let in_flight = policy.max_batch.saturating_mul(policy.max_in_flight);
    // What waited for them was passed over.
    let events = in_flight.saturating_add(max_held_up(policy)) as Seq;
    warn!(
        deaths,
        events,
        "run after run died while the plugin was owed events and took none: what can have been in \
         flight is tried one by one"
    );
    Some(cursor.saturating_add(events))
}

/// Has those wait that the process died of, as after any attempt: the others get through before the
/// process may die again. Up to as long again they wait at random: of two plugins that had a trial
/// when the process died one is innocent, and is not to have the next one at the same moment.
pub(super) fn put_off(rows: &mut [Parked], policy: &DeliveryPolicy, now: Now) {
    for row in rows.iter_mut().filter(|row| &*row.error == DIED) {
        let wait = backoff(policy, row.attempts).mul_f64(1.0 + fraction());
        let due = now.wall.checked_add(wait);
        row.not_before = due.map_or(row.not_before, |due| due.max(row.not_before));
    }
}

/// At random, from 0 to 1.
fn fraction() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

impl Lane {
    /// Whether the lane has yet to park what can have been in flight when runs died.
    pub(super) fn is_in_window(&self) -> bool {
        self.careful_to.is_some_and(|to| self.read_to < to)
    }

    /// All that the log had at the beginning of the window is parked, if it was not longer.
    pub(super) fn close_window(&mut self) {
        if !self.is_in_window() || self.read_to >= self.head {
            self.careful_to = None;
        }
    }

    /// What is parked and due, by itself. With care where that is needed: then the lane waits for
    /// what is under way and for the record of the attempt.
    pub(super) fn next_parked(&mut self, now: Now) -> Option<Step> {
        let flying = self.flying_sessions();
        let read_to = self.read_to;
        // One from a life before that lies ahead comes when its place in the log has come, or it
        // would come twice.
        let may_fly = |event: &Event| event.recorded_seq() <= read_to && !is_of(event, &flying);
        let seq = self.parked.next_due_that(now.mono, may_fly)?;
        if !self.parked.is_careful(seq) {
            return Some(self.deliver_parked(seq, now.mono));
        }
        if !self.is_flying() && !self.reading {
            let row = self.parked.begin_trial(seq, now);
            self.progress.park.extend(row);
        }
        Some(Step::Wait(None))
    }

    /// Delivers what is parked at `seq`.
    pub(super) fn deliver_parked(&mut self, seq: Seq, now: Instant) -> Step {
        match self.parked.take(seq) {
            Some((event, tries)) => Step::Deliver(self.depart([event].into(), tries, true, now)),
            None => Step::Wait(None),
        }
    }

    /// The attempt of a trial is recorded, and there is no time left to make it.
    pub(super) fn abandon_trial(&mut self, now: Now) {
        if !self.is_flying()
            && let Some(seq) = self.parked.trial()
        {
            let row = self.parked.end_trial(seq, SUSPECT.into(), now);
            self.progress.park.extend(row);
        }
    }

    /// Parks an event that the process may have died of.
    pub(super) fn park_suspect(&mut self, event: Event, now: Now) {
        let rows = self.parked.park_suspect(event, now);
        self.progress.park.extend(rows);
    }
}
