//! What the outcome of a delivery means for its events and for the lane.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::flight::{Failure, Flight, Now, Outcome, Tries};
use super::parked::Parking;
use super::{Lane, MAX_RETRY_AFTER, Opening, TOO_LONG, incarnation_of};
use crate::event::{Event, Verdict};
use crate::plugin::DeliveryPolicy;

impl Lane {
    /// A delivery is over.
    pub(in crate::bus) fn on_outcome(&mut self, flight: u64, outcome: Outcome, now: Now) {
        let Some(index) = self.flights.iter().position(|known| known.id == flight) else {
            return;
        };
        let flight = self.flights.swap_remove(index);
        let Outcome { verdicts, failure } = outcome;

        let acknowledged_before = self.acknowledged;
        let mut open = Vec::new();
        let mut rejected = Vec::new();
        if verdicts.is_empty() && failure.is_none() && !flight.parked {
            self.acknowledged += flight.events.len() as u64;
        } else {
            let verdicts = verdicts.into_iter().chain(std::iter::repeat(Verdict::Open));
            // Those with an event that was not taken: their later ones come again after it.
            let mut held = HashSet::new();
            for (event, verdict) in flight.events.iter().zip(verdicts) {
                let is_held = || incarnation_of(event).is_some_and(|it| held.contains(&it));
                match verdict {
                    Verdict::Rejected(error) => rejected.push((event.clone(), error.into())),
                    Verdict::Open if failure.is_some() => open.push(event.clone()),
                    _ if !held.is_empty() && is_held() => open.push(event.clone()),
                    Verdict::Open | Verdict::Acknowledged => {
                        self.acknowledge(event, flight.parked);
                        continue;
                    }
                }
                held.extend(incarnation_of(event));
            }
        }
        if self.acknowledged > acknowledged_before {
            self.failed_rounds = 0;
            self.retry_at = None;
            self.down_since = None;
        }
        if rejected.is_empty() && failure.is_none() {
            self.last_error = None;
            if flight.is_full {
                self.batch_limit = (self.batch_limit * 2).min(self.policy.max_batch);
            }
        }
        if flight.parked {
            // What became a dead letter in flight stays one.
            rejected.retain(|(event, _)| self.parked.is_live(event.recorded_seq()));
            open.retain(|event| self.parked.is_live(event.recorded_seq()));
        }
        let tries = flight.tries.fail(self.acknowledged);
        for (event, error) in rejected {
            self.reject(event, tries, error, now);
        }
        match failure {
            Some(failure) => {
                let some_landed = self.acknowledged > acknowledged_before;
                self.fail(&flight, open, &failure, some_landed, now);
            }
            None => {
                for event in open {
                    self.park_behind(event, tries, now);
                }
            }
        }
    }

    /// The opening delivery has come to an end. Whatever failed is tried again: there is no event to
    /// blame.
    pub(in crate::bus) fn on_opened(
        &mut self,
        failure: Option<&Failure>,
        departed: Instant,
        now: Now,
    ) {
        if self.opening != Opening::UnderWay {
            // It was that of a plugin which is another by now.
            return;
        }
        let Some(failure) = failure else {
            self.opening = Opening::Over;
            self.failed_rounds = 0;
            self.retry_at = None;
            self.down_since = None;
            self.last_error = None;
            return;
        };
        self.opening = Opening::Due;
        if self.is_cut(now.mono) {
            self.set_timed_out();
        } else {
            self.last_error = Some(failure.message());
        }
        match failure {
            Failure::Disabled(_) => self.disable(),
            Failure::Down(_, wait) => self.back_off(departed, *wait, now),
            _ => self.back_off(departed, None, now),
        }
    }

    fn acknowledge(&mut self, event: &Event, parked: bool) {
        self.acknowledged += 1;
        let seq = event.recorded_seq();
        if parked && self.parked.remove(event) {
            self.progress.unpark.push(seq);
        }
    }

    /// The plugin would not take `event` by itself.
    fn reject(&mut self, event: Event, tries: Tries, error: Arc<str>, now: Now) {
        self.last_error = Some(Arc::clone(&error));
        // A plugin that has something against an event is not down.
        self.down_since = None;
        let attempts = self.parked.attempts(event.recorded_seq());
        let dead = attempts >= self.policy.max_attempts;
        let session = event.session().map_or("", |session| session.id.as_str());
        warn!(session, event_id = %event.id(), attempts, dead, %error, "event rejected");
        let parking = Parking {
            attempts,
            wait: backoff(&self.policy, attempts),
            dead,
            error,
            tries,
            careful: false,
        };
        let rows = self.parked.park(event, parking, now);
        self.progress.park.extend(rows);
        self.park_followers(now);
    }

    /// Parks what is pending behind a parked event.
    fn park_followers(&mut self, now: Now) {
        let followers = self.pending.take_if(|event| self.parked.is_behind(event));
        for (event, tries) in followers {
            self.park_behind(event, tries, now);
        }
    }

    /// A delivery failed, and `open` are its events without an answer.
    fn fail(
        &mut self,
        flight: &Flight,
        open: Vec<Event>,
        failure: &Failure,
        some_landed: bool,
        now: Now,
    ) {
        let cut = self.is_cut(now.mono);
        if cut {
            self.set_timed_out();
        } else {
            self.last_error = Some(failure.message());
        }
        if matches!(failure, Failure::TimedOut(_)) {
            self.batch_limit = (flight.events.len() / 2).max(1);
        }
        let alone = flight.events.len() == 1;
        let is_down = match failure {
            _ if cut => true,
            Failure::Down(..) | Failure::Disabled(_) => true,
            Failure::Error(_) => false,
            Failure::TimedOut(_) | Failure::Panicked(_) if alone => {
                let others_can_tell = flight.events.iter().any(|it| self.owes_others(it));
                let since = match others_can_tell {
                    true => flight.tries.acknowledged_at_last,
                    false => flight.tries.acknowledged_at_first,
                };
                self.acknowledged == since
            }
            Failure::TimedOut(_) | Failure::Panicked(_) => !some_landed,
        };
        let tries = flight.tries.fail(self.acknowledged);
        if alone && !is_down {
            for event in open {
                self.reject(event, tries, failure.message(), now);
            }
            return;
        }
        if flight.parked {
            for event in open {
                let seq = event.recorded_seq();
                let row = self.parked.end_trial(seq, failure.message(), now);
                self.progress.park.extend(row);
                self.parked.put_back(seq, tries, now.mono);
            }
        } else {
            // One that has the plugin down each time it comes must not keep the others from it.
            let is_suspect = match failure {
                Failure::Disabled(_) => false,
                Failure::Down(..) => alone,
                _ => true,
            };
            let alone = is_suspect && !cut;
            self.pending.put_back(flight, open, tries, alone);
            self.park_followers(now);
        }
        match failure {
            Failure::Disabled(_) => self.disable(),
            Failure::Down(_, wait) => self.back_off(flight.departed, *wait, now),
            _ if is_down => self.back_off(flight.departed, None, now),
            _ => {}
        }
    }

    /// The plugin wants nothing more. The time that passes until it is resumed is not one in which it
    /// was tried in vain.
    fn disable(&mut self) {
        self.is_disabled = true;
        self.down_since = None;
    }

    /// The plugin failed: nothing is tried for a while, as long as it asked for at least, and too
    /// long a while ends its owed events.
    fn back_off(&mut self, departed: Instant, asked_for: Option<Duration>, now: Now) {
        if let Some(wait) = asked_for {
            let until = now.mono + wait.min(MAX_RETRY_AFTER);
            self.left_alone_until = self.left_alone_until.max(Some(until));
        }
        // Deliveries that flew side by side and failed together are one failed round.
        if self.failed_at.is_none_or(|at| departed >= at) {
            self.failed_rounds += 1;
            self.failed_at = Some(now.mono);
            let wait = match self.is_quarantined() {
                true => self.policy.backoff_max,
                false => backoff(&self.policy, self.failed_rounds),
            };
            self.retry_at = Some(now.mono + wait);
        }
        let down_since = *self.down_since.get_or_insert(now.mono);
        if now.mono.saturating_duration_since(down_since) >= self.policy.retry_for {
            self.down_since = None;
            self.given_up_to = self.head;
            let owed = self.owed();
            warn!(owed, "{TOO_LONG}: what it is owed becomes dead letters");
            let rows = self.parked.kill_all(&TOO_LONG.into(), now);
            self.progress.park.extend(rows);
            for (event, tries) in self.pending.take_if(|_| true) {
                self.bury(event, tries, now);
            }
        }
    }

    /// Whether the plugin is owed anything beside the incarnation of `event`.
    fn owes_others(&self, event: &Event) -> bool {
        let incarnation = incarnation_of(event);
        self.head > self.read_to
            || !self.flights.is_empty()
            || self.pending.incarnations().any(|it| it != incarnation)
            || self.parked.live() > self.parked.beside(event)
    }
}

/// The wait after `failures` in a row.
pub(super) fn backoff(policy: &DeliveryPolicy, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    policy
        .backoff
        .saturating_mul(1 << doublings)
        .min(policy.backoff_max)
}
