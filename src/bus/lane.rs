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

use std::collections::{HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use super::PluginState;
use super::parked::{ParkedEvents, incarnation_of};
use crate::event::{Event, Hooks, Seq, Verdict};
use crate::ledger::{Page, Position, Progress};
use crate::plugin::DeliveryPolicy;
use crate::session::{Incarnation, SessionId};

/// How many events may be parked, the dead not counted, before the lane pauses: a plugin that
/// rejects everything must not move the whole log into memory.
const MAX_PARKED: usize = 10_000;

/// How many sessions a tally names.
const MAX_UNFINISHED: usize = 1000;

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) mono: Instant,
    pub(super) wall: Timestamp,
}

/// Why a delivery failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The plugin said that it can't work at present.
    Down(Arc<str>),
    /// The plugin returned some other error.
    Error(Arc<str>),
    /// No answer in time.
    TimedOut,
    /// The plugin panicked, or its actor is dead.
    Panicked(Arc<str>),
}

impl Failure {
    pub(super) fn message(&self) -> Arc<str> {
        match self {
            Self::Down(error) | Self::Error(error) | Self::Panicked(error) => Arc::clone(error),
            Self::TimedOut => "timed out".into(),
        }
    }
}

/// What came of a delivery.
#[derive(Debug)]
pub(super) struct Outcome {
    /// An answer per event, or none at all.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) failure: Option<Failure>,
}

impl Outcome {
    /// Why the delivery failed, or the first of its events that was rejected.
    pub(super) fn first_error(&self) -> Option<Arc<str>> {
        let rejected = self.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Rejected(error) => Some(error.as_str().into()),
            Verdict::Open | Verdict::Acknowledged => None,
        });
        self.failure.as_ref().map(Failure::message).or(rejected)
    }
}

/// A delivery to make.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) id: u64,
    pub(super) events: Arc<[Event]>,
    pub(super) attempt: u32,
    pub(super) deadline: Instant,
    departed: Instant,
    /// How many events the plugin had acknowledged when these were first tried.
    tried_at: u64,
    parked: bool,
}

/// What a lane does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Make this delivery.
    Deliver(Flight),
    /// Read the log after this place, so many events at the most.
    Read(Seq, usize),
    /// Nothing before that moment, or before something else happens.
    Wait(Option<Instant>),
}

/// An event that was tried and is to be tried again before the log goes on.
#[derive(Debug)]
struct Pending {
    event: Event,
    /// Not together with others, because a delivery with it failed.
    alone: bool,
    /// It failed alone, and it is open whose fault that was.
    suspect: bool,
    tried_at: u64,
    attempts: u32,
}

/// A shutdown, as a lane sees it.
#[derive(Debug)]
struct Drain {
    begun: Instant,
    cut: Instant,
    /// The places of the ends that the shutdown recorded.
    ends: Option<RangeInclusive<Seq>>,
    timed_out: bool,
    lost: u64,
}

/// What a lane achieved in a drain. Counts are of the ends that the shutdown recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LaneTally {
    pub(crate) state: PluginState,
    pub(crate) delivered: u64,
    /// Neither delivered nor dead.
    pub(crate) owed: u64,
    /// The part of `owed` that was tried.
    pub(crate) failed: u64,
    pub(crate) dead: u64,
    /// Given up by the ledger before the lane could read it.
    pub(crate) lost: u64,
    /// Events from before the shutdown that are still owed.
    pub(crate) owed_before: u64,
    /// A delivery was under way at the cut.
    pub(crate) timed_out: bool,
    pub(crate) duration: Duration,
    pub(crate) last_error: Option<Arc<str>>,
    /// The places of ends that are owed, at most 1,000.
    pub(crate) unfinished: Vec<Seq>,
}

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
    pending: VecDeque<Pending>,
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
            pending: VecDeque::new(),
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
        if let Some(step) = self.depart_pending(now) {
            return step;
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
        let all_suspect = self.pending.iter().all(|pending| pending.suspect);
        let room = self.pending.len() < self.policy.max_batch;
        (all_suspect && room && self.flights.is_empty()).then_some(1)
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

    /// Departs with the first pending events that may fly: several that failed together because
    /// the plugin was down, or one by itself.
    fn depart_pending(&mut self, now: Instant) -> Option<Step> {
        if self.pending.is_empty() {
            return None;
        }
        let mut blocked = self.flying_sessions();
        let mut suspect = None;
        let mut chosen = Vec::new();
        for (index, pending) in self.pending.iter().enumerate() {
            let free = !is_of(&pending.event, &blocked);
            if free && pending.suspect {
                suspect.get_or_insert(index);
            } else if free && (chosen.is_empty() || !pending.alone) {
                chosen.push(index);
                if pending.alone || chosen.len() >= self.policy.max_batch {
                    break;
                }
                continue;
            } else if !chosen.is_empty() {
                break;
            }
            blocked.extend(pending.event.session().map(|session| session.id.clone()));
        }
        if chosen.is_empty() {
            // Another event from the log comes first, if there is one.
            if self.read_limit().is_some() {
                return None;
            }
            chosen.extend(suspect);
        }
        let first = *chosen.first()?;
        let (tried_at, attempts) = {
            let pending = &self.pending[first];
            (pending.tried_at, pending.attempts)
        };
        let taken = chosen
            .iter()
            .rev()
            .filter_map(|&at| self.pending.remove(at));
        let mut events: Vec<_> = taken.map(|pending| pending.event).collect();
        events.reverse();
        Some(self.depart(events.into(), attempts + 1, tried_at, false, now))
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
            .iter()
            .filter_map(|pending| Some(pending.event.session()?.id.clone()))
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
                    self.pending.push_back(Pending {
                        event,
                        alone: false,
                        suspect: false,
                        tried_at: self.acknowledged,
                        attempts: 0,
                    });
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
        for pending in std::mem::take(&mut self.pending) {
            if self.parked.is_behind(&pending.event) {
                let rows = self.parked.park_behind(pending.event, now);
                self.progress.park.extend(rows);
            } else {
                self.pending.push_back(pending);
            }
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
        let open_question = !matches!(failure, Failure::Down(_)) && !cut;
        if flight.parked {
            // Not first again at once, or it would keep all others from being tried.
            let wait = if open_question {
                2 * backoff(&self.policy, self.failed_rounds + 1)
            } else {
                Duration::ZERO
            };
            for event in open {
                self.parked.put_back(event.recorded_seq(), wait, now.mono);
            }
        } else {
            self.put_back(flight, open, open_question, now);
        }
        if is_down {
            self.back_off(flight, now);
        }
    }

    /// Makes events pending that a failed delivery left without an answer.
    fn put_back(&mut self, flight: &Flight, open: Vec<Event>, open_question: bool, now: Now) {
        let suspect = open_question && flight.events.len() == 1;
        let pending = open.into_iter().map(|event| Pending {
            event,
            alone: open_question,
            suspect,
            tried_at: flight.tried_at,
            attempts: flight.attempt,
        });
        if suspect {
            // To the end, with what must stay behind it: the others are tried first.
            let incarnations: HashSet<Option<Incarnation>> =
                flight.events.iter().map(incarnation_of).collect();
            let is_follower =
                |other: &Pending| incarnations.contains(&incarnation_of(&other.event));
            let (followers, mut others): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(is_follower);
            others.extend(pending);
            others.extend(followers);
            self.pending = others;
        } else {
            let later = std::mem::take(&mut self.pending);
            self.pending.extend(pending);
            self.pending.extend(later);
        }
        self.park_followers(now);
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
            for pending in std::mem::take(&mut self.pending) {
                self.bury(pending.event, now);
            }
        }
    }

    /// What changed since this was last asked for.
    pub(super) fn take_progress(&mut self) -> Progress {
        let in_flight = self.log_flights().flat_map(|flight| flight.events.first());
        let in_hand = in_flight.chain(self.pending.iter().map(|pending| &pending.event));
        let first = in_hand.map(Event::recorded_seq).min();
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

    fn is_cut(&self, now: Instant) -> bool {
        self.drain.as_ref().is_some_and(|drain| now >= drain.cut)
    }

    /// When the drain is cut, if there is one.
    pub(super) fn cut(&self) -> Option<Instant> {
        self.drain.as_ref().map(|drain| drain.cut)
    }

    /// A shutdown has recorded `ends`, and the lane has until `cut`. If it is waiting after a
    /// failure, it tries once more at once.
    pub(super) fn begin_drain(
        &mut self,
        cut: Instant,
        ends: Option<RangeInclusive<Seq>>,
        now: Instant,
    ) {
        self.retry_at = None;
        self.set_head(ends.as_ref().map_or(0, |ends| *ends.end()));
        self.drain = Some(Drain {
            begun: now,
            cut,
            ends,
            timed_out: false,
            lost: 0,
        });
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading
    }

    /// The log was still being read at the cut.
    pub(super) fn set_timed_out(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.timed_out = true;
        }
    }

    /// What came of the drain. `unread_before` is how many events for this plugin lie unread
    /// before the shutdown's.
    pub(super) fn tally(&self, now: Instant, unread_before: u64) -> LaneTally {
        let Some(drain) = &self.drain else {
            return LaneTally::default();
        };
        let mut tally = LaneTally {
            owed_before: unread_before,
            timed_out: drain.timed_out,
            duration: now - drain.begun,
            last_error: self.last_error.clone(),
            ..LaneTally::default()
        };
        // An empty range where the shutdown ended nothing, or this plugin does not hear of ends.
        let ends = match &drain.ends {
            Some(ends) if self.hooks.contains(crate::event::Hook::SessionEnd) => ends.clone(),
            _ => RangeInclusive::new(Seq::MAX, Seq::MAX - 1),
        };
        let count_owed = |tally: &mut LaneTally, seq: Seq, tried: bool| {
            if !ends.contains(&seq) {
                tally.owed_before += 1;
                return;
            }
            tally.owed += 1;
            tally.failed += u64::from(tried);
            if tally.unfinished.len() < MAX_UNFINISHED {
                tally.unfinished.push(seq);
            }
        };
        let in_flight = self.log_flights().flat_map(|flight| flight.events.iter());
        for event in in_flight {
            count_owed(&mut tally, event.recorded_seq(), true);
        }
        for pending in &self.pending {
            count_owed(
                &mut tally,
                pending.event.recorded_seq(),
                pending.attempts > 0,
            );
        }
        for (seq, dead, tried) in self.parked.iter() {
            if !dead {
                count_owed(&mut tally, seq, tried);
            } else if ends.contains(&seq) {
                tally.dead += 1;
            }
        }
        if !ends.is_empty() {
            for seq in (self.read_to + 1).max(*ends.start())..=*ends.end() {
                count_owed(&mut tally, seq, false);
            }
            let total = ends.end() - ends.start() + 1;
            tally.lost = drain.lost;
            tally.delivered = total.saturating_sub(tally.owed + tally.dead + tally.lost);
        }
        tally.unfinished.sort_unstable();
        tally
    }

    /// The part of the log before the shutdown's ends that this lane has not read.
    pub(super) fn unread_before(&self) -> Option<RangeInclusive<Seq>> {
        let ends = self.drain.as_ref()?.ends.as_ref();
        let last = ends.map_or(self.head, |ends| ends.start() - 1);
        (self.read_to < last).then(|| self.read_to + 1..=last)
    }

    /// Whether this lane listens to the hook of `event`.
    pub(super) fn listens_to(&self, event: &Event) -> bool {
        self.hooks.contains(event.hook())
    }
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
