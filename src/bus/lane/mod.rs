//! A lane's decisions: what to deliver next, and what an outcome means. No clock, no I/O.
//!
//! | outcome of a delivery | what becomes of the events without an answer | the lane |
//! |---|---|---|
//! | it returned `Ok` | acknowledged | goes on, backoff over |
//! | it returned an error, several events | tried one by one | goes on |
//! | it returned an error, one event | counts an attempt: parked, in the end a dead letter | goes on |
//! | it said that it is down | stay, tried again as they were | backs off |
//! | timed out or panicked, several events | tried one by one | backs off, unless some were acknowledged |
//! | timed out or panicked, one event | counts an attempt if the plugin acknowledged another since the event was first tried; otherwise stays, behind the others | backs off unless it counted |
//! | cut by the cap | stay | is finished |
//!
//! An event that the plugin rejected by itself counts an attempt in any case.

mod drain;
mod flight;
mod parked;
mod pending;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use self::drain::Drain;
pub(crate) use self::drain::LaneTally;
pub(super) use self::flight::{Failure, Flight, Now, Outcome, Step};
use self::parked::ParkedEvents;
use self::pending::PendingEvents;
use crate::event::{Event, Hooks, Seq, Verdict};
use crate::ledger::{Page, Position, Progress};
use crate::plugin::DeliveryPolicy;
use crate::session::{Incarnation, SessionId};

/// How many events may be parked, the dead not counted, before the lane pauses: a plugin that
/// rejects everything must not move the whole log into memory.
const MAX_PARKED: usize = 10_000;

/// The state of one plugin's lane.
#[derive(Debug)]
pub(super) struct Lane {
    hooks: Hooks,
    policy: DeliveryPolicy,
    /// The end of the log, as far as this lane has been told.
    head: Seq,
    /// Everything up to here is acknowledged, parked, pending, in flight, or not for this plugin.
    read_to: Seq,
    reading: bool,
    /// The next event of the log is of a session that is in flight.
    held_up: bool,
    flights: Vec<Flight>,
    next_flight: u64,
    pending: PendingEvents,
    parked: ParkedEvents,
    acknowledged: u64,
    failed_rounds: u32,
    failed_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// Since when the plugin has acknowledged nothing, though tried.
    down_since: Option<Instant>,
    /// What the plugin was owed when it had been down for too long: dead letters up to here.
    given_up_to: Seq,
    last_error: Option<Arc<str>>,
    cursor: Seq,
    progress: Progress,
    drain: Option<Drain>,
}

impl Lane {
    pub(super) fn new(hooks: Hooks, policy: DeliveryPolicy, position: Position, now: Now) -> Self {
        Self {
            hooks,
            policy,
            head: position.cursor,
            read_to: position.cursor,
            reading: false,
            held_up: false,
            flights: Vec::new(),
            next_flight: 0,
            pending: PendingEvents::default(),
            parked: ParkedEvents::load(position.parked, now),
            acknowledged: 0,
            failed_rounds: 0,
            failed_at: None,
            retry_at: None,
            down_since: None,
            given_up_to: 0,
            last_error: None,
            cursor: position.cursor,
            progress: Progress::default(),
            drain: None,
        }
    }

    pub(super) fn cursor(&self) -> Seq {
        self.cursor
    }

    pub(super) fn last_error(&self) -> Option<&Arc<str>> {
        self.last_error.as_ref()
    }

    pub(super) fn dead(&self) -> usize {
        self.parked.dead()
    }

    /// Whether something waits for another attempt.
    pub(super) fn is_retrying(&self) -> bool {
        self.retry_at.is_some() || self.parked.live() > 0
    }

    pub(super) fn is_flying(&self) -> bool {
        !self.flights.is_empty()
    }

    /// How many events are not acknowledged and not dead, those not for this plugin included as
    /// long as they are unread.
    pub(super) fn owed(&self) -> u64 {
        let in_flight: usize = self.log_flights().map(|flight| flight.events.len()).sum();
        let in_hand = in_flight + self.pending.len() + self.parked.live();
        in_hand as u64 + (self.head - self.read_to)
    }

    fn log_flights(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().filter(|flight| !flight.parked)
    }

    /// The log has grown.
    pub(super) fn set_head(&mut self, head: Seq) {
        self.head = self.head.max(head);
    }

    /// What to do now. `recording` says that an earlier [`Progress`] is not recorded yet.
    pub(super) fn next(&mut self, now: Instant, recording: bool) -> Step {
        // One delivery at a time tells whether a plugin that failed works again.
        let max_in_flight = match self.failed_rounds {
            0 => self.policy.max_in_flight,
            _ => 1,
        };
        if self.flights.len() >= max_in_flight || self.is_cut(now) {
            return Step::Wait(None);
        }
        if let Some(retry_at) = self.retry_at.filter(|&at| at > now) {
            return Step::Wait(Some(retry_at));
        }
        // Attempts are counted durably before the next one, or a crash would forget them.
        if !recording && self.progress.park.is_empty() {
            let flying = self.flying_sessions();
            let may_fly = |event: &Event| !is_of(event, &flying);
            if let Some(event) = self.parked.take_due(now, self.acknowledged, may_fly) {
                let seq = event.recorded_seq();
                let attempt = self.parked.attempts(seq) + 1;
                let tried_at = self.parked.tried_at(seq).unwrap_or(self.acknowledged);
                return self.depart(Arc::new([event]), attempt, tried_at, true, now);
            }
        }
        if !self.pending.is_empty() {
            // Where another event can tell more, it comes before those that are suspect.
            let also_suspects = self.read_limit().is_none();
            let flying = self.flying_sessions();
            let max_batch = self.policy.max_batch;
            if let Some(batch) = self.pending.take_next(flying, max_batch, also_suspects) {
                let events = batch.events.into();
                let tried_at = match batch.attempts {
                    0 => self.acknowledged,
                    _ => batch.tried_at,
                };
                return self.depart(events, batch.attempts + 1, tried_at, false, now);
            }
        }
        if let Some(limit) = self.read_limit() {
            self.reading = true;
            return Step::Read(self.read_to, limit);
        }
        Step::Wait(self.parked.next_due())
    }

    /// How many events of the log may be read, if any.
    fn read_limit(&self) -> Option<usize> {
        if self.reading
            || self.held_up
            || self.read_to >= self.head
            || self.parked.live() >= MAX_PARKED
        {
            return None;
        }
        if self.pending.is_empty() {
            return Some(self.policy.max_batch);
        }
        // Only another event can tell whether it is the plugin's fault or a suspect's.
        let has_room = self.pending.len() < self.policy.max_batch;
        let may_read = has_room && self.flights.is_empty() && self.pending.all_suspect();
        may_read.then_some(1)
    }

    /// The sessions that must not fly again now. Not needed where one delivery flies at a time.
    fn flying_sessions(&self) -> HashSet<SessionId> {
        let events = self.flights.iter().flat_map(|flight| flight.events.iter());
        let sessions = events.filter_map(|event| event.session());
        sessions.map(|session| session.id.clone()).collect()
    }

    fn depart(
        &mut self,
        events: Arc<[Event]>,
        attempt: u32,
        tried_at: u64,
        parked: bool,
        now: Instant,
    ) -> Step {
        let timeout = now + self.policy.timeout;
        let cut = self.drain.as_ref().map(|drain| drain.cut);
        let flight = Flight {
            id: self.next_flight,
            events,
            attempt,
            deadline: cut.map_or(timeout, |cut| cut.min(timeout)),
            departed: now,
            tried_at,
            parked,
        };
        self.next_flight += 1;
        self.flights.push(flight.clone());
        Step::Deliver(flight)
    }

    /// The log was read. Answers the delivery to make with it, if one can be made.
    pub(super) fn on_read(&mut self, page: &Page, now: Now) -> Option<Flight> {
        self.reading = false;
        if page.gap > 0 {
            self.read_to += page.gap;
            if let Some(drain) = &mut self.drain
                && let Some(ends) = &drain.ends
            {
                let lost = (self.read_to + 1).saturating_sub(*ends.start());
                drain.lost += lost.min(page.gap);
            }
        }
        if self.is_cut(now.mono) {
            return None;
        }
        let batch = self.sort_in(&page.events, now);
        if batch.is_empty() {
            return None;
        }
        let tried_at = self.acknowledged;
        match self.depart(batch, 1, tried_at, false, now.mono) {
            Step::Deliver(flight) => Some(flight),
            Step::Read(..) | Step::Wait(_) => None,
        }
    }

    /// The log could not be read.
    pub(super) fn on_read_failed(&mut self) {
        self.reading = false;
    }

    /// Goes past the events that were read: those for this plugin that may fly now are answered.
    fn sort_in(&mut self, events: &Arc<[Event]>, now: Now) -> Arc<[Event]> {
        let blocked: HashSet<_> = self
            .pending
            .sessions()
            .chain(self.flying_sessions())
            .collect();
        let parks = !self.parked.is_empty() || self.given_up_to > self.read_to;
        let all_fly = blocked.is_empty() && !parks;
        if all_fly && events.iter().all(|event| self.hooks.contains(event.hook())) {
            // The common case, and the one that a drain's speed depends on.
            self.read_to = events.last().map_or(self.read_to, Event::recorded_seq);
            return Arc::clone(events);
        }
        let mut batch = Vec::new();
        for event in events.iter().cloned() {
            let seq = event.recorded_seq();
            if self.hooks.contains(event.hook()) {
                if self.parked.is_behind(&event) {
                    let rows = self.parked.park_behind(event, now);
                    self.progress.park.extend(rows);
                } else if seq <= self.given_up_to {
                    self.bury(event, now);
                } else if is_of(&event, &blocked) {
                    if !self.flights.is_empty() {
                        // It is read again when something has landed.
                        self.held_up = true;
                        break;
                    }
                    self.pending.push(event);
                } else {
                    batch.push(event);
                }
            }
            self.read_to = seq;
        }
        batch.into()
    }

    /// Makes a dead letter of an event that the plugin was owed for too long.
    fn bury(&mut self, event: Event, now: Now) {
        let error: Arc<str> = "the plugin was down for too long".into();
        let rows = self.parked.park(event, 0, Duration::ZERO, true, error, now);
        self.progress.park.extend(rows);
    }

    /// A delivery is over.
    pub(super) fn on_outcome(&mut self, flight: u64, outcome: Outcome, now: Now) {
        let Some(index) = self.flights.iter().position(|known| known.id == flight) else {
            return;
        };
        let flight = self.flights.swap_remove(index);
        self.held_up = false;
        let Outcome { verdicts, failure } = outcome;

        let acknowledged_before = self.acknowledged;
        let mut open = Vec::new();
        let mut rejected = Vec::new();
        if verdicts.is_empty() && failure.is_none() && !flight.parked {
            self.acknowledged += flight.events.len() as u64;
        } else {
            let verdicts = verdicts.into_iter().chain(std::iter::repeat(Verdict::Open));
            for (event, verdict) in flight.events.iter().zip(verdicts) {
                match verdict {
                    Verdict::Rejected(error) => rejected.push((event.clone(), error.into())),
                    Verdict::Open if failure.is_some() => open.push(event.clone()),
                    Verdict::Open | Verdict::Acknowledged => self.acknowledge(event, flight.parked),
                }
            }
        }
        if self.acknowledged > acknowledged_before {
            self.failed_rounds = 0;
            self.retry_at = None;
            self.down_since = None;
        }
        if rejected.is_empty() && failure.is_none() {
            self.last_error = None;
        }
        for (event, error) in rejected {
            self.reject(event, error, now);
        }
        if let Some(failure) = failure {
            let some_landed = self.acknowledged > acknowledged_before;
            self.fail(&flight, open, failure, some_landed, now);
        }
    }

    fn acknowledge(&mut self, event: &Event, parked: bool) {
        self.acknowledged += 1;
        let seq = event.recorded_seq();
        if parked && self.parked.remove(seq) {
            self.progress.unpark.push(seq);
        }
    }

    /// The plugin would not take `event` by itself.
    fn reject(&mut self, event: Event, error: Arc<str>, now: Now) {
        self.last_error = Some(Arc::clone(&error));
        let attempts = self.parked.attempts(event.recorded_seq()) + 1;
        let dead = attempts >= self.policy.max_attempts;
        let session = event.session().map_or("", |session| session.id.as_str());
        warn!(session, event_id = %event.id(), attempts, dead, %error, "event rejected");
        let wait = backoff(&self.policy, attempts);
        let rows = self.parked.park(event, attempts, wait, dead, error, now);
        self.progress.park.extend(rows);
        self.park_followers(now);
    }

    /// Parks what is pending behind a parked event.
    fn park_followers(&mut self, now: Now) {
        for event in self.pending.take_if(|event| self.parked.is_behind(event)) {
            let rows = self.parked.park_behind(event, now);
            self.progress.park.extend(rows);
        }
    }

    /// A delivery failed, and `open` are its events without an answer.
    fn fail(
        &mut self,
        flight: &Flight,
        open: Vec<Event>,
        failure: Failure,
        some_landed: bool,
        now: Now,
    ) {
        self.last_error = Some(failure.message());
        let cut = self.is_cut(now.mono);
        if cut && let Some(drain) = &mut self.drain {
            drain.timed_out |= failure == Failure::TimedOut;
        }
        let alone = flight.events.len() == 1;
        let is_down = match &failure {
            _ if cut => true,
            Failure::Down(_) => true,
            Failure::Error(_) => false,
            Failure::TimedOut | Failure::Panicked(_) if alone => {
                self.acknowledged == flight.tried_at
            }
            Failure::TimedOut | Failure::Panicked(_) => !some_landed,
        };
        if alone && !is_down {
            for event in open {
                self.reject(event, failure.message(), now);
            }
            return;
        }
        let is_open_question = !matches!(failure, Failure::Down(_)) && !cut;
        if flight.parked {
            // Not first again at once, or it would keep all others from being tried.
            let wait = match is_open_question {
                true => 2 * backoff(&self.policy, self.failed_rounds + 1),
                false => Duration::ZERO,
            };
            for event in open {
                let seq = event.recorded_seq();
                self.parked.put_back(seq, wait, now.mono);
            }
        } else {
            self.pending.put_back(flight, open, is_open_question);
            self.park_followers(now);
        }
        if is_down {
            self.back_off(flight, now);
        }
    }

    /// The plugin failed: nothing is tried for a while, and too long a while ends its owed events.
    fn back_off(&mut self, flight: &Flight, now: Now) {
        // Deliveries that flew side by side and failed together are one failed round.
        if self.failed_at.is_none_or(|at| flight.departed >= at) {
            self.failed_rounds += 1;
            self.failed_at = Some(now.mono);
            self.retry_at = Some(now.mono + backoff(&self.policy, self.failed_rounds));
        }
        let down_since = *self.down_since.get_or_insert(now.mono);
        if now.mono.saturating_duration_since(down_since) >= self.policy.retry_for {
            self.down_since = None;
            self.given_up_to = self.head;
            let error: Arc<str> = "the plugin was down for too long".into();
            let rows = self.parked.kill_all(&error, now);
            self.progress.park.extend(rows);
            for event in self.pending.take_if(|_| true) {
                self.bury(event, now);
            }
        }
    }

    /// What changed since this was last asked for.
    pub(super) fn take_progress(&mut self) -> Progress {
        let in_flight = self
            .log_flights()
            .filter_map(|flight| flight.events.first());
        let in_flight = in_flight.map(Event::recorded_seq);
        let first = in_flight
            .chain(self.pending.iter().map(|(seq, _)| seq))
            .min();
        let cursor = first.map_or(self.read_to, |first| first - 1);
        let mut progress = std::mem::take(&mut self.progress);
        if cursor > self.cursor {
            self.cursor = cursor;
            progress.cursor = Some(cursor);
        }
        progress
    }

    /// A progress could not be recorded: it is part of the next.
    pub(super) fn restore_progress(&mut self, failed: Progress) {
        let newer = std::mem::replace(&mut self.progress, failed);
        self.progress.park.extend(newer.park);
        self.progress.unpark.extend(newer.unpark);
    }
}

/// The incarnation whose order an event has to keep. Lanes see only events of sessions.
fn incarnation_of(event: &Event) -> Option<Incarnation> {
    event.session().map(|session| session.incarnation)
}

fn is_of(event: &Event, sessions: &HashSet<SessionId>) -> bool {
    // Hashing an id for an empty set would cost a drain of millions dearly.
    !sessions.is_empty() && event.session().is_some_and(|it| sessions.contains(&it.id))
}

/// The wait after `failures` in a row.
fn backoff(policy: &DeliveryPolicy, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    policy
        .backoff
        .saturating_mul(1 << doublings)
        .min(policy.backoff_max)
}
