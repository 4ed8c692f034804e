//! What operators ask of a lane: to try again at once, to bring dead letters back or let go of
//! them, to be served otherwise.

use tokio::time::Instant;

use super::{Lane, MAX_PARKED, Now, Opening, incarnation_of};
use crate::event::{Event, Hooks, Seq};
use crate::ledger::Parked;
use crate::plugin::DeliveryPolicy;
use crate::session::Incarnation;

impl Lane {
    /// Tries at once whatever waits for its next attempt, as if nothing had failed. That ends a
    /// quarantine, and the plugin is no longer disabled.
    pub(in crate::bus) fn resume(&mut self, now: Instant) {
        self.failed_rounds = 0;
        self.is_disabled = false;
        (self.retry_at, self.left_alone_until) = (None, None);
        self.parked.hurry(now);
    }

    /// The first dead letter of an incarnation after the place `after`.
    pub(in crate::bus) fn next_dead_of(&self, incarnation: Incarnation, after: Seq) -> Option<Seq> {
        let mut dead = self.parked.dead().of(incarnation);
        dead.find(|&seq| seq > after)
    }

    /// The place of the last dead letter; 0 if there is none.
    pub(in crate::bus) fn last_dead(&self) -> Seq {
        self.parked.dead().last().unwrap_or(0)
    }

    /// How many dead letters can be brought back for now. They leave half of the room to events
    /// that fail: a lane without any reads the log no longer.
    pub(in crate::bus) fn room(&self) -> usize {
        (MAX_PARKED / 2).saturating_sub(self.parked.live())
    }

    /// Whether a dead letter can be brought back: not while one of its incarnation is still in
    /// flight that stays dead, and that this one would overtake.
    pub(in crate::bus) fn may_revive(&self, event: &Event) -> bool {
        let Some(incarnation) = incarnation_of(event) else {
            return false;
        };
        let dead = self.parked.dead();
        let mut flying = self.flights.iter().flat_map(|flight| flight.events.iter());
        let is_before = |other: &Event| {
            incarnation_of(other) == Some(incarnation) && dead.contains(other.recorded_seq())
        };
        dead.contains(event.recorded_seq()) && !flying.any(is_before)
    }

    /// The ledger has a dead letter as one that waits by now.
    pub(in crate::bus) fn revive(&mut self, row: Parked, now: Now) {
        self.parked.revive(row, now);
    }

    /// Whether a dead letter can be let go of: not where the lane, or that of the next process, has
    /// yet to go past its place, and would deliver it.
    pub(in crate::bus) fn may_discard(&self, event: &Event) -> bool {
        let seq = event.recorded_seq();
        seq <= self.recorded_cursor && self.parked.dead().contains(seq)
    }

    /// The ledger has let go of a dead letter.
    pub(in crate::bus) fn discard(&mut self, event: &Event) {
        self.parked.remove(event);
    }

    /// The lane goes on with a plugin that has an opening, or has none. One that is over is not
    /// repeated.
    pub(in crate::bus) fn set_opens(&mut self, opens: bool) {
        if !opens {
            self.opening = Opening::Over;
        }
    }

    /// Holds back deliveries, or lets them go on. Those that are under way land.
    pub(in crate::bus) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Serves the plugin otherwise from now on. What it does not listen to any more is forgotten,
    /// dead letters aside.
    pub(in crate::bus) fn reconfigure(&mut self, hooks: Hooks, policy: DeliveryPolicy) {
        self.hooks = hooks;
        self.batch_limit = policy.max_batch;
        self.policy = policy;
        self.failed_rounds = 0;
        self.is_disabled = false;
        let is_unheard = |event: &Event| !hooks.contains(event.hook());
        drop(self.pending.take_if(is_unheard));
        let unheard = self.parked.forget(is_unheard);
        self.progress.unpark.extend(unheard);
    }
}
