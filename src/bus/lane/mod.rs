//! A lane's decisions: what to deliver next, and what an outcome means. No clock, and no I/O but logs.
//!
//! | outcome of a delivery | what becomes of the events without an answer | the lane |
//! |---|---|---|
//! | it returned `Ok` | acknowledged | goes on, backoff over |
//! | it returned an error, several events | tried one by one | goes on |
//! | it returned an error, one event | counts an attempt: parked, in the end a dead letter | goes on |
//! | it said that it is down | stay, tried again as they were | backs off |
//! | it said that it is disabled | stay | delivers nothing until it is resumed |
//! | timed out or panicked, several events | tried one by one | backs off, unless some were acknowledged |
//! | timed out or panicked, one event | counts an attempt if the plugin acknowledged another since the event last failed, or, where no other is left to tell, since it was first tried; otherwise stays, behind the others | backs off unless it counted |
//! | cut by the cap | stay | is finished |
//!
//! A lane that backs off for the tenth time in a row puts its plugin into quarantine.
//!
//! An event that the plugin rejected by itself counts an attempt in any case. What the plugin took
//! before an earlier event of the same incarnation is delivered again after that one.
//!
//! No outcome at all, because the process died: what can have been in flight is tried with care by
//! the next one; see [`careful`].

mod careful;
mod dead;
mod drain;
mod flight;
mod operator;
mod outcome;
mod parked;
mod pending;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use self::drain::Drain;
pub(crate) use self::drain::{LaneTally, MAX_UNFINISHED};
use self::flight::Tries;
pub(super) use self::flight::{Failure, Flight, Now, Outcome, Step};
use self::parked::{ParkedEvents, Parking};
use self::pending::PendingEvents;
use super::DeliveryState;
use crate::event::{Event, Hooks, Seq};
use crate::ledger::{Position, Progress};
use crate::plugin::DeliveryPolicy;
use crate::session::{Incarnation, SessionId};

/// How many events may be parked, the dead not counted, before the lane pauses: a plugin that
/// rejects everything must not move the whole log into memory.
const MAX_PARKED: usize = 10_000;

/// How many failed rounds in a row put a plugin into quarantine.
const QUARANTINE_AFTER: u32 = 10;

/// The longest wait that a plugin can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Why an event is dead that was not rejected.
const TOO_LONG: &str = "the plugin was down for too long";

/// A range of the log that is empty.
const NOWHERE: RangeInclusive<Seq> = RangeInclusive::new(Seq::MAX, 0);

/// What a plugin is told before its lane delivers anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Due,
    UnderWay,
    /// It was told, or there is nothing to tell.
    Over,
}

/// The state of one plugin's lane.
#[derive(Debug)]
pub(super) struct Lane {
    hooks: Hooks,
    policy: DeliveryPolicy,
    /// The most events in one delivery for now: half of what last took too long, and twice what
    /// last did not.
    batch_limit: usize,
    /// The end of the log, as far as this lane has been told.
    head: Seq,
    /// Everything up to here is acknowledged, parked, pending, in flight, or not for this plugin.
    read_to: Seq,
    reading: bool,
    flights: Vec<Flight>,
    next_flight: u64,
    pending: PendingEvents,
    parked: ParkedEvents,
    /// The last delivery was of a parked event: others come first now, or they might never.
    tried_parked: bool,
    /// The part of the log that was last found to be kept no longer.
    gap: RangeInclusive<Seq>,
    acknowledged: u64,
    failed_rounds: u32,
    failed_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// How long the plugin asked to be left alone. What it takes beside that does not shorten it.
    left_alone_until: Option<Instant>,
    /// Since when the plugin has acknowledged nothing, though tried.
    down_since: Option<Instant>,
    /// What the plugin was owed when it had been down for too long: dead letters up to here.
    given_up_to: Seq,
    last_error: Option<Arc<str>>,
    cursor: Seq,
    /// The cursor that the ledger has: after a crash the lane goes on from there.
    recorded_cursor: Seq,
    progress: Progress,
    /// When deliveries are cut: a shutdown is under way.
    cut: Option<Instant>,
    drain: Option<Drain>,
    is_closed: bool,
    /// Deliveries are held back until the plugin is served otherwise.
    is_paused: bool,
    /// The plugin wants nothing more, until somebody resumes it.
    is_disabled: bool,
    /// The plugin is told something else first.
    opening: Opening,
    /// Events up to here are parked instead of being delivered, and nothing else is done before
    /// that is recorded.
    careful_to: Option<Seq>,
}

impl Lane {
    pub(super) fn new(hooks: Hooks, policy: DeliveryPolicy, position: Position, now: Now) -> Self {
        let mut rows = position.parked;
        careful::put_off(&mut rows, &policy, now);
        let mut parked = ParkedEvents::load(rows, position.dead, policy.backoff_max, now);
        // The plugin may have listened to more when they were parked.
        let unheard = parked.forget(|event| !hooks.contains(event.hook()));
        let deadly = parked.kill_exhausted(policy.max_attempts, now);
        Self {
            careful_to: careful::window(position.cursor, position.deaths, &policy),
            hooks,
            batch_limit: policy.max_batch,
            policy,
            head: position.cursor,
            read_to: position.cursor,
            reading: false,
            flights: Vec::new(),
            next_flight: 0,
            pending: PendingEvents::default(),
            parked,
            tried_parked: false,
            gap: NOWHERE,
            acknowledged: 0,
            failed_rounds: 0,
            failed_at: None,
            retry_at: None,
            left_alone_until: None,
            down_since: None,
            given_up_to: 0,
            last_error: None,
            cursor: position.cursor,
            recorded_cursor: position.cursor,
            progress: Progress {
                park: deadly,
                unpark: unheard,
                ..Progress::default()
            },
            cut: None,
            drain: None,
            is_closed: false,
            is_paused: false,
            is_disabled: false,
            opening: Opening::Over,
        }
    }

    pub(super) fn last_error(&self) -> Option<&Arc<str>> {
        self.last_error.as_ref()
    }

    pub(super) fn dead(&self) -> usize {
        self.parked.dead().len()
    }

    /// Whether something waits for another attempt.
    pub(super) fn is_retrying(&self) -> bool {
        self.waits_until().is_some() || self.parked.live() > 0
    }

    /// Whether the plugin has failed so often in a row that it is tried at long intervals only, and
    /// not by a shutdown.
    pub(super) fn is_quarantined(&self) -> bool {
        self.failed_rounds >= QUARANTINE_AFTER
    }

    /// Whether the plugin wants nothing more.
    pub(super) fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// When the next attempt is, after a failure.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.retry_at.max(self.left_alone_until)
    }

    /// Whether nothing is delivered for now, whatever the time.
    fn is_held(&self) -> bool {
        let is_given_up = self.is_quarantined() && self.cut.is_some();
        self.is_paused || self.is_disabled || is_given_up
    }

    pub(super) fn is_flying(&self) -> bool {
        !self.flights.is_empty()
    }

    /// How many events are not acknowledged and not dead, those not for this plugin included as
    /// long as they are unread.
    pub(super) fn owed(&self) -> u64 {
        let in_flight: usize = self.log_flights().map(|flight| flight.events.len()).sum();
        let in_hand = in_flight + self.pending.len() + self.parked.live();
        let unread = self.head - self.read_to;
        in_hand as u64 + unread.saturating_sub(self.parked.count_after(self.read_to))
    }

    /// When the oldest event was recorded that was read and is neither acknowledged nor dead.
    pub(super) fn oldest_in_hand(&self) -> Option<Timestamp> {
        let flying = self
            .log_flights()
            .filter_map(|flight| flight.events.first());
        let flying = flying.map(Event::timestamp).min();
        let waiting = [self.pending.oldest(), self.parked.oldest_live()];
        waiting.into_iter().chain([flying]).flatten().min()
    }

    /// What has become of the event at `seq`, which this lane delivers sooner or later.
    pub(super) fn state_of(&self, seq: Seq) -> DeliveryState {
        if self.parked.dead().contains(seq) {
            return DeliveryState::Dead;
        }
        let is_at = |event: &Event| event.recorded_seq() == seq;
        let mut flying = self.log_flights().flat_map(|flight| flight.events.iter());
        let is_owed = self.parked.is_live(seq)
            || seq > self.read_to
            || flying.any(is_at)
            || self.pending.iter().any(|(pending, _)| pending == seq);
        match is_owed {
            true => DeliveryState::Owed,
            false => DeliveryState::Delivered,
        }
    }

    fn log_flights(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().filter(|flight| !flight.parked)
    }

    /// The log has grown.
    pub(super) fn set_head(&mut self, head: Seq) {
        self.head = self.head.max(head);
    }

    /// What to do now. `recording_attempts` says that an earlier [`Progress`] that counts attempts
    /// is not recorded yet.
    pub(super) fn next(&mut self, now: Now, recording_attempts: bool) -> Step {
        // One delivery at a time tells whether a plugin that failed works again.
        let max_in_flight = match self.failed_rounds {
            0 => self.policy.max_in_flight,
            _ => 1,
        };
        let is_cut = self.is_cut(now.mono);
        if is_cut {
            self.abandon_trial(now);
        }
        // What is being read becomes a delivery.
        let under_way = self.flights.len() + usize::from(self.reading);
        if under_way >= max_in_flight || self.is_closed || self.is_held() || is_cut {
            return Step::Wait(None);
        }
        if let Some(at) = self.waits_until().filter(|&at| at > now.mono) {
            return Step::Wait(Some(at));
        }
        self.left_alone_until = None;
        match self.opening {
            Opening::Due => return self.open(now.mono),
            Opening::UnderWay => return Step::Wait(None),
            Opening::Over => {}
        }
        // Attempts are counted durably before the next one, or a crash would forget them.
        let may_try_parked = !recording_attempts && self.progress.park.is_empty();
        if let Some(seq) = self.parked.trial() {
            let may_begin = may_try_parked && !self.is_flying();
            return match may_begin {
                true => self.deliver_parked(seq, now.mono),
                false => Step::Wait(None),
            };
        }
        if self.careful_to.is_some() {
            if !may_try_parked {
                return Step::Wait(None);
            }
            self.close_window();
        }
        let next_parked = |lane: &mut Self| may_try_parked.then(|| lane.next_parked(now)).flatten();
        let step = if self.tried_parked || self.is_in_window() {
            let step = self.next_in_log(now.mono);
            step.or_else(|| next_parked(self))
        } else {
            let step = next_parked(self);
            step.or_else(|| self.next_in_log(now.mono))
        };
        step.unwrap_or_else(|| Step::Wait(self.parked.next_due(now.mono)))
    }

    /// The plugin is told something else before its lane delivers anything.
    pub(super) fn open_first(&mut self) {
        self.opening = Opening::Due;
    }

    fn open(&mut self, now: Instant) -> Step {
        self.opening = Opening::UnderWay;
        let timeout = now + self.policy.timeout;
        Step::Open(self.cut.map_or(timeout, |cut| cut.min(timeout)))
    }

    /// The sessions that must not fly again now. Not needed where one delivery flies at a time.
    fn flying_sessions(&self) -> HashSet<SessionId> {
        let events = self.flights.iter().flat_map(|flight| flight.events.iter());
        let sessions = events.filter_map(|event| event.session());
        sessions.map(|session| session.id.clone()).collect()
    }

    /// Makes a delivery of `events`, which were tried as `tries` says.
    fn depart(&mut self, events: Arc<[Event]>, tries: Tries, parked: bool, now: Instant) -> Flight {
        let taken = events.len();
        self.depart_of(taken, events, tries, parked, now)
    }

    /// The same, of the `taken` ones that `events` are for this plugin.
    fn depart_of(
        &mut self,
        taken: usize,
        events: Arc<[Event]>,
        tries: Tries,
        parked: bool,
        now: Instant,
    ) -> Flight {
        let timeout = now + self.policy.timeout;
        let flight = Flight {
            id: self.next_flight,
            events,
            tries: tries.depart(self.acknowledged),
            deadline: self.cut.map_or(timeout, |cut| cut.min(timeout)),
            departed: now,
            parked,
            is_full: taken >= self.batch_limit,
        };
        self.next_flight += 1;
        self.tried_parked = parked;
        self.flights.push(flight.clone());
        flight
    }

    /// Makes a dead letter of an event that the plugin was owed for too long.
    fn bury(&mut self, event: Event, tries: Tries, now: Now) {
        let parking = Parking {
            attempts: 0,
            wait: Duration::ZERO,
            dead: true,
            error: TOO_LONG.into(),
            tries,
            careful: false,
        };
        let rows = self.parked.park(event, parking, now);
        self.progress.park.extend(rows);
    }

    fn park_behind(&mut self, event: Event, tries: Tries, now: Now) {
        let rows = self.parked.park_behind(event, tries, now);
        self.progress.park.extend(rows);
    }

    /// The place up to which everything is acknowledged, parked, or not for this plugin.
    fn reached(&self) -> Seq {
        let in_flight = self
            .log_flights()
            .filter_map(|flight| flight.events.first());
        let in_flight = in_flight.map(Event::recorded_seq);
        let first = in_flight
            .chain(self.pending.iter().map(|(seq, _)| seq))
            .min();
        first.map_or(self.read_to, |first| first - 1)
    }

    /// The place up to which the plugin acknowledged all that is for it; 0 while something is parked or
    /// dead.
    pub(super) fn told_up_to(&self) -> Seq {
        match self.parked.is_empty() {
            true => self.reached(),
            false => 0,
        }
    }

    /// Whether the plugin was told of all that it is to be told of up to here, but for what it did not
    /// take.
    pub(super) fn is_past(&self, seq: Seq) -> bool {
        self.reached() >= seq
    }

    /// What changed since this was last asked for.
    pub(super) fn take_progress(&mut self) -> Progress {
        let cursor = self.reached();
        let mut progress = std::mem::take(&mut self.progress);
        if cursor > self.cursor {
            self.cursor = cursor;
            progress.cursor = Some(cursor);
        }
        progress
    }

    /// A progress is recorded.
    pub(super) fn on_recorded(&mut self, progress: &Progress) {
        self.recorded_cursor = progress.cursor.unwrap_or(self.recorded_cursor);
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

/// How many events may wait for one of their session that is in flight before the lane reads no
/// further: as many as can fly beside it.
fn max_held_up(policy: &DeliveryPolicy) -> usize {
    let beside = policy.max_in_flight.saturating_sub(1);
    policy.max_batch.saturating_mul(beside)
}

fn is_of(event: &Event, sessions: &HashSet<SessionId>) -> bool {
    // Hashing an id for an empty set would cost a drain of millions dearly.
    !sessions.is_empty() && event.session().is_some_and(|it| sessions.contains(&it.id))
}
