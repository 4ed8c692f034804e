//! What a lane reads of the log, and what becomes of it.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::flight::{Flight, Now, Step, Tries};
use super::{Lane, MAX_PARKED, is_of, max_held_up};
use crate::event::Event;
use crate::ledger::Page;

impl Lane {
    /// What is pending, and then what the log has.
    pub(super) fn next_in_log(&mut self, now: Instant) -> Option<Step> {
        let mut limit = self.read_limit();
        if !self.pending.is_empty() {
            let flying = self.flying_sessions();
            let (max_batch, acknowledged) = (self.batch_limit, self.acknowledged);
            // Where another event can tell more, it comes before those that are undecided.
            let also_undecided = limit.is_none();
            let batch = self
                .pending
                .take_next(flying, max_batch, acknowledged, also_undecided);
            if let Some(batch) = batch {
                let flight = self.depart(batch.events.into(), batch.tries, false, now);
                return Some(Step::Deliver(flight));
            }
            // All that is pending waits for what flies, and what comes after it need not.
            limit = limit.or_else(|| self.read_past_pending());
        }
        let limit = limit?;
        self.reading = true;
        self.tried_parked = false;
        Some(Step::Read(self.read_to, limit))
    }

    /// Whether the log has more to read, and there is room for it.
    fn may_read(&self) -> bool {
        let is_full =
            self.parked.live() >= MAX_PARKED && self.parked.count_after(self.read_to) == 0;
        // What is parked at once (a backlog that is given up, say) is in memory until it is recorded.
        let is_ahead = self.progress.park.len() > 2 * self.policy.max_batch;
        !(self.reading || self.read_to >= self.head || is_full || is_ahead)
    }

    /// How many events of the log may be read though some that are pending wait for what flies.
    fn read_past_pending(&self) -> Option<usize> {
        let room = max_held_up(&self.policy).saturating_sub(self.pending.len());
        let may_read = self.is_flying() && room > 0 && self.may_read();
        may_read.then(|| room.min(self.batch_limit))
    }

    /// How many events of the log may be read, if any.
    fn read_limit(&self) -> Option<usize> {
        if !self.may_read() {
            return None;
        }
        if self.pending.is_empty() {
            return Some(self.batch_limit);
        }
        // Only another event can tell whether it is the plugin's fault or a suspect's.
        let may_read = self.flights.is_empty() && self.pending.are_undecided(self.acknowledged);
        may_read.then_some(1)
    }

    /// The log was read. Answers the delivery to make with it, if one can be made.
    pub(in crate::bus) fn on_read(&mut self, page: &Page, now: Now) -> Option<Flight> {
        self.reading = false;
        if page.gap > 0 {
            self.gap = self.read_to + 1..=self.read_to + page.gap;
            self.read_to += page.gap;
            if let Some(drain) = &mut self.drain {
                drain.lose(&self.gap);
            }
        }
        let waits = self.is_held() || self.waits_until().is_some_and(|at| at > now.mono);
        let batch = match self.is_cut(now.mono) || waits {
            // It is read again when the plugin is tried again.
            true => Arc::new([]),
            // Fewer may be wanted by now than were asked for.
            false if page.events.len() > self.policy.max_batch => {
                self.sort_in(&Arc::from(&page.events[..self.policy.max_batch]), now)
            }
            false => self.sort_in(&page.events, now),
        };
        // The log may be longer than the lane has been told.
        self.head = self.head.max(self.read_to);
        if batch.is_empty() {
            return None;
        }
        let taken = page.events.len();
        Some(self.depart_of(taken, batch, Tries::default(), false, now.mono))
    }

    /// The log could not be read.
    pub(in crate::bus) fn on_read_failed(&mut self) {
        self.reading = false;
    }

    /// Goes past the events that were read: those for this plugin that may fly now are answered.
    fn sort_in(&mut self, events: &Arc<[Event]>, now: Now) -> Arc<[Event]> {
        let blocked: HashSet<_> = self
            .pending
            .sessions()
            .chain(self.flying_sessions())
            .collect();
        let is_careful = self.is_in_window();
        let parks = is_careful || !self.parked.is_empty() || self.given_up_to > self.read_to;
        let all_fly = blocked.is_empty() && !parks;
        let is_heard = |event: &Event| self.hooks.contains(event.hook());
        let all_are_heard = || match Event::hook_of_all(events) {
            Some(hook) => self.hooks.contains(hook),
            None => events.iter().all(is_heard),
        };
        if all_fly && all_are_heard() {
            // The common case, and the one that a drain's speed depends on.
            self.read_to = events.last().map_or(self.read_to, Event::recorded_seq);
            return Arc::clone(events);
        }
        let mut batch = Vec::new();
        for event in events.iter().cloned() {
            let seq = event.recorded_seq();
            if self.hooks.contains(event.hook()) && !self.parked.contains(seq) {
                if is_careful {
                    self.park_suspect(event, now);
                } else if self.parked.is_behind(&event) {
                    self.park_behind(event, Tries::default(), now);
                } else if seq <= self.given_up_to {
                    self.bury(event, Tries::default(), now);
                } else if is_of(&event, &blocked) {
                    self.pending.push(event);
                } else {
                    batch.push(event);
                }
            }
            self.read_to = seq;
        }
        batch.into()
    }
}
