//! A bench for one lane. It carries out the lane's steps as the runner does, in simulated time,
//! and checks after each of them what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::checks::incarnation;
use super::plugin::{Takes, name, names, takes};
use crate::bus::lane::{Failure, Flight, Lane, LaneTally, Now, Outcome, Step};
use crate::event::{Event, Hooks, InstanceId, OpenSession, Seq, Verdict};
use crate::ledger::{Page, Parked, Position, Progress};
use crate::plugin::DeliveryPolicy;
use crate::session::{End, EndDetails, EndReason, Incarnation, NewSession, Session, SessionId};

/// More steps than any test needs that does not run in circles.
const MAX_STEPS: usize = 200_000;

/// What the lane waits for.
enum Task {
    Landing(u64, Outcome),
    Page(Page),
    PageFailed,
    Recorded(Progress),
    RecordingFailed(Progress),
    /// An operator's change of dead letters is recorded: they are back, or gone.
    Redelivered(Vec<Parked>),
    Discarded(Vec<Parked>),
}

pub(super) struct Bench {
    pub(super) lane: Lane,
    pub(super) policy: DeliveryPolicy,
    /// Asked for each event of a delivery, in order.
    pub(super) plugin: Box<dyn FnMut(&Event) -> Takes>,
    /// What comes of the next delivery, whatever the plugin says.
    pub(super) next_outcome: Option<Outcome>,
    /// Whether the plugin acknowledges event by event, or by returning `Ok`.
    pub(super) acks_singly: bool,
    /// How long the plugin takes for one event.
    pub(super) call_time: Duration,
    /// How long the ledger takes for an answer.
    pub(super) ledger_time: Duration,
    /// How much longer it takes to record something.
    pub(super) recording_time: Duration,
    /// Whether the ledger fails its next request.
    pub(super) ledger_fails: Box<dyn FnMut() -> bool>,
    /// The deliveries so far, such as `"A+ B+ A-"` for the starts of A and B and the end of A.
    pub(super) deliveries: Vec<String>,
    pub(super) log: Vec<Event>,
    pub(super) acknowledged: BTreeSet<Seq>,
    /// The log is kept no longer up to here.
    pub(super) kept_after: Seq,
    /// Whether a delivery was cut off by the end of a drain.
    pub(super) was_cut_off: bool,
    /// What the ledger has recorded.
    pub(super) cursor: Seq,
    pub(super) parked: BTreeMap<Seq, Parked>,
    pub(super) deaths: u32,
    /// How often the process has died.
    pub(super) died: u32,
    pub(super) kills: bool,
    /// Whether the lane hears at once of what is appended.
    pub(super) announces: bool,
    pub(super) lost: u64,
    /// What an operator has let go of.
    pub(super) discarded: BTreeSet<Seq>,
    /// The places of each incarnation's events.
    pub(super) lives: HashMap<Incarnation, Vec<Seq>>,
    pub(super) hooks: Hooks,
    active: BTreeMap<String, Arc<Session>>,
    begun: Instant,
    pub(super) now: Now,
    pub(super) flights: Vec<Flight>,
    /// How often the lane has begun its opening; the test ends it.
    pub(super) openings: usize,
    tasks: Vec<(Instant, Task)>,
    recording: bool,
    recording_attempts: bool,
    ledger_retry_at: Option<Instant>,
    /// What was read since anything changed.
    reads: BTreeSet<(Seq, usize)>,
    steps: usize,
}

impl Bench {
    pub(super) fn new(policy: DeliveryPolicy) -> Self {
        Self::with_hooks(policy, Hooks::SESSION)
    }

    pub(super) fn with_hooks(policy: DeliveryPolicy, hooks: Hooks) -> Self {
        let begun = Instant::now();
        let now = Now {
            mono: begun,
            wall: Timestamp::UNIX_EPOCH,
        };
        Self {
            lane: Lane::new(hooks, policy.clone(), Position::default(), now),
            policy,
            plugin: takes([]),
            next_outcome: None,
            acks_singly: false,
            call_time: Duration::from_millis(1),
            ledger_time: Duration::ZERO,
            recording_time: Duration::ZERO,
            ledger_fails: Box::new(|| false),
            deliveries: Vec::new(),
            log: Vec::new(),
            acknowledged: BTreeSet::new(),
            kept_after: 0,
            was_cut_off: false,
            cursor: 0,
            parked: BTreeMap::new(),
            deaths: 0,
            died: 0,
            kills: false,
            announces: true,
            lost: 0,
            discarded: BTreeSet::new(),
            lives: HashMap::new(),
            hooks,
            active: BTreeMap::new(),
            begun,
            now,
            flights: Vec::new(),
            openings: 0,
            tasks: Vec::new(),
            recording: false,
            recording_attempts: false,
            ledger_retry_at: None,
            reads: BTreeSet::new(),
            steps: 0,
        }
    }

    /// The process dies and another one begins.
    pub(super) fn die(&mut self) {
        self.died += 1;
        self.deaths += u32::from(self.cursor < self.log.len() as Seq);
        self.restart();
    }

    /// A process later: a new lane that knows only what the ledger has recorded.
    pub(super) fn restart(&mut self) {
        let position = Position {
            since: 0,
            cursor: self.cursor,
            parked: self
                .parked
                .values()
                .filter(|row| !row.dead)
                .cloned()
                .collect(),
            dead: self.dead_places(),
            deaths: self.deaths,
        };
        self.lane = Lane::new(self.hooks, self.policy.clone(), position, self.now);
        self.lane.set_head(self.log.len() as Seq);
        // What it acknowledged and the ledger does not know comes again.
        let is_known = |event: &Event| {
            let seq = event.recorded_seq();
            let is_heard = self.hooks.contains(event.hook());
            let is_settled = !self.parked.contains_key(&seq) && !self.discarded.contains(&seq);
            is_heard && seq <= self.cursor && is_settled
        };
        let known = self.log.iter().filter(|event| is_known(event));
        self.acknowledged = known.map(Event::recorded_seq).collect();
        self.flights.clear();
        self.tasks.clear();
        (self.recording, self.recording_attempts) = (false, false);
        self.ledger_retry_at = None;
        self.change();
    }

    pub(super) fn start(&mut self, id: &str) {
        let new = NewSession::new(SessionId::new(id).unwrap());
        let session = Session::begin(new, Incarnation::generate(), None, self.now.wall);
        let session = Arc::new(session);
        self.active.insert(id.into(), Arc::clone(&session));
        self.append(Event::start(session, self.now.wall, InstanceId::generate()));
    }

    pub(super) fn end(&mut self, id: &str) {
        let session = self.active.remove(id).expect("an active session");
        let end = End::now(EndReason::Shutdown, EndDetails::default(), self.now.wall);
        let open = OpenSession::new(session, 0);
        self.append(Event::end(open, Arc::new(end), InstanceId::generate()));
    }

    pub(super) fn starts<const N: usize>(&mut self, ids: [&str; N]) {
        ids.iter().for_each(|id| self.start(id));
    }

    /// Starts a session, or ends it where it is active.
    pub(super) fn toggle(&mut self, id: &str) {
        match self.active.contains_key(id) {
            true => self.end(id),
            false => self.start(id),
        }
    }

    /// How many events the plugin is to hear of, up to now.
    pub(super) fn heard(&self) -> u64 {
        let heard = self.log.iter().filter(|it| self.hooks.contains(it.hook()));
        heard.count() as u64
    }

    fn append(&mut self, event: Event) {
        let seq = self.log.len() as Seq + 1;
        self.lives.entry(incarnation(&event)).or_default().push(seq);
        self.log.push(event.with_seq(seq));
        if self.announces {
            self.lane.set_head(seq);
        }
        self.change();
    }

    /// Ends all active sessions. The places of their ends.
    pub(super) fn end_all(&mut self) -> Option<RangeInclusive<Seq>> {
        let first = self.log.len() as Seq + 1;
        let ids: Vec<_> = self.active.keys().cloned().collect();
        ids.iter().for_each(|id| self.end(id));
        let last = self.log.len() as Seq;
        (first <= last).then_some(first..=last)
    }

    /// Ends all active sessions and drains for `patience`. What came of it.
    pub(super) fn drain(&mut self, patience: Duration) -> LaneTally {
        let ends = self.end_all();
        self.drain_ends(ends, patience)
    }

    pub(super) fn drain_ends(
        &mut self,
        ends: Option<RangeInclusive<Seq>>,
        patience: Duration,
    ) -> LaneTally {
        let cut = self.now.mono + patience;
        self.was_cut_off = false;
        self.lane.set_cut(cut);
        self.lane.begin_drain(ends, self.now.mono);
        for (at, task) in &mut self.tasks {
            if matches!(task, Task::Landing(..)) {
                *at = cut.min(*at);
            }
        }
        let died = self.died;
        self.run_until(cut);
        if self.died > died {
            return LaneTally::default();
        }
        assert!(!self.lane.is_flying(), "a delivery flies on after the cut");
        let unread = self.lane.unread_before().map_or(0, |range| {
            let events = self.log.iter().map(|event| (event.recorded_seq(), event));
            let inside = events.filter(|(seq, _)| range.contains(seq));
            inside
                .filter(|(_, event)| self.lane.listens_to(event))
                .count()
        });
        self.lane.tally(self.now.mono, unread as u64)
    }

    /// Lets `time` pass.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now.mono + time;
        self.run_until(until);
        self.set_time(until);
    }

    /// Runs until the lane has nothing to do any more, or for a month.
    pub(super) fn run(&mut self) {
        self.run_until(self.now.mono + Duration::from_secs(30 * 24 * 3600));
    }

    /// How much time has passed.
    pub(super) fn elapsed(&self) -> Duration {
        self.now.mono - self.begun
    }

    /// The places of the dead letters that the ledger has, and whose they are.
    fn dead_places(&self) -> Vec<(Seq, Incarnation)> {
        let dead = self.parked.iter().filter(|(_, row)| row.dead);
        dead.map(|(&seq, row)| (seq, incarnation(&row.event)))
            .collect()
    }

    /// Puts dead letters back, as the runner does in one step: all that can be, if there is room.
    pub(super) fn redeliver(&mut self) {
        let dead = self.parked.values().filter(|row| row.dead);
        let rows = dead.filter(|row| self.lane.may_revive(&row.event));
        let rows = rows.take(self.lane.room()).map(|row| Parked {
            dead: false,
            attempts: 0,
            not_before: self.now.wall,
            ..row.clone()
        });
        let rows = rows.collect();
        self.change_letters(Task::Redelivered(rows));
    }

    /// Lets go of all dead letters.
    pub(super) fn discard(&mut self) {
        let dead = self.parked.values().filter(|row| row.dead);
        let rows = dead.filter(|row| self.lane.may_discard(&row.event));
        let rows = rows.cloned().collect();
        self.change_letters(Task::Discarded(rows));
    }

    /// One change at a time, as the runner has it.
    fn change_letters(&mut self, change: Task) {
        let is_change = |task: &Task| matches!(task, Task::Redelivered(_) | Task::Discarded(_));
        let is_changing = self.tasks.iter().any(|(_, task)| is_change(task));
        if !is_changing && !(self.ledger_fails)() {
            self.tasks.push((self.now.mono + self.ledger_time, change));
        }
    }

    /// The names of the events that are dead letters.
    pub(super) fn dead(&self) -> Vec<String> {
        let dead = self.parked.values().filter(|row| row.dead);
        dead.map(|row| name(&row.event)).collect()
    }

    /// The recorded attempts of the parked event called `wanted`.
    pub(super) fn attempts(&self, wanted: &str) -> u32 {
        let mut rows = self.parked.values();
        let row = rows.find(|row| name(&row.event) == wanted);
        row.map_or(0, |row| row.attempts)
    }

    /// How often the event called `wanted` was delivered.
    pub(super) fn times_delivered(&self, wanted: &str) -> usize {
        let events = self.deliveries.iter().flat_map(|it| it.split(' '));
        events.filter(|&event| event == wanted).count()
    }

    /// Asserts that the plugin has everything, and the ledger knows it.
    #[track_caller]
    pub(super) fn assert_all_settled(&self) {
        assert_eq!(self.lane.owed(), 0);
        assert_eq!(self.cursor, self.log.len() as Seq);
        let alive: Vec<_> = self.parked.values().filter(|row| !row.dead).collect();
        assert!(alive.is_empty(), "still parked: {alive:?}");
    }

    fn change(&mut self) {
        self.reads.clear();
    }

    fn set_time(&mut self, at: Instant) {
        let passed = SignedDuration::try_from(at - self.now.mono).unwrap();
        self.now.mono = at;
        self.now.wall = self.now.wall.checked_add(passed).unwrap();
        self.change();
    }

    pub(super) fn run_until(&mut self, limit: Instant) {
        loop {
            let wake_at = self.step();
            let next = self.tasks.iter().map(|(at, _)| *at).chain(wake_at).min();
            let Some(next) = next.filter(|&next| next <= limit) else {
                if self.lane.is_cut(limit) && !self.tasks.is_empty() {
                    self.set_time(limit);
                }
                return;
            };
            if next > self.now.mono {
                self.set_time(next);
            }
            let due = self.tasks.iter().position(|(at, _)| *at <= self.now.mono);
            if let Some(due) = due {
                let (_, task) = self.tasks.remove(due);
                self.settle(task);
            }
        }
    }

    /// Does what the lane wants done now. When it wants to be asked again.
    fn step(&mut self) -> Option<Instant> {
        if let Some(retry_at) = self.ledger_retry_at {
            if self.now.mono < retry_at {
                return Some(retry_at);
            }
            self.ledger_retry_at = None;
        }
        let wake_at = loop {
            self.steps += 1;
            assert!(self.steps < MAX_STEPS, "the lane runs in circles");
            match self.lane.next(self.now, self.recording_attempts) {
                Step::Deliver(flight) => self.depart(flight),
                Step::Open(_) => self.openings += 1,
                Step::Read(after, limit) => self.read(after, limit),
                Step::Wait(wake_at) => break wake_at,
            }
        };
        assert!(
            wake_at.is_none_or(|at| at > self.now.mono),
            "the lane wants to be woken at once, for nothing"
        );
        let progress = self.lane.take_progress_if(!self.recording);
        if let Some(progress) = progress.filter(|progress| !progress.is_empty()) {
            self.recording = true;
            self.recording_attempts = !progress.park.is_empty();
            let done = match (self.ledger_fails)() {
                true => Task::RecordingFailed(progress),
                false => Task::Recorded(progress),
            };
            let recorded_at = self.now.mono + self.ledger_time + self.recording_time;
            self.tasks.push((recorded_at, done));
        }
        wake_at
    }

    fn read(&mut self, after: Seq, limit: usize) {
        assert!(limit > 0);
        let is_new = self.reads.insert((after, limit));
        assert!(is_new, "read again after {after}, and nothing has changed");
        let gap = self.kept_after.saturating_sub(after);
        let from = usize::try_from(after + gap).unwrap();
        let events = self.log[from..].iter().take(limit).cloned().collect();
        let done = match (self.ledger_fails)() {
            true => Task::PageFailed,
            false => Task::Page(Page { events, gap }),
        };
        self.lost += gap;
        self.tasks.push((self.now.mono + self.ledger_time, done));
    }

    fn depart(&mut self, flight: Flight) {
        self.check_departure(&flight);
        self.deliveries.push(names(&flight));
        let (outcome, took) = self.outcome(&flight);
        let mut landing = (self.now.mono + took).min(flight.deadline);
        if let Some(cut) = self.lane.cut() {
            landing = landing.min(cut);
        }
        self.tasks
            .push((landing, Task::Landing(flight.id, outcome)));
        self.flights.push(flight);
        if std::mem::take(&mut self.kills) {
            self.die();
        }
    }

    fn settle(&mut self, task: Task) {
        self.change();
        match task {
            Task::Landing(id, outcome) => self.land(id, outcome),
            Task::Page(page) => {
                if let Some(flight) = self.lane.on_read(&page, self.now) {
                    self.depart(flight);
                }
            }
            Task::PageFailed => {
                self.lane.on_read_failed();
                self.ledger_retry_at = Some(self.now.mono + Duration::from_secs(1));
            }
            Task::Recorded(progress) => {
                (self.recording, self.recording_attempts) = (false, false);
                self.lane.on_recorded(&progress);
                self.record(progress);
            }
            Task::Redelivered(rows) => {
                for row in rows {
                    self.parked.insert(row.event.recorded_seq(), row.clone());
                    self.lane.revive(row, self.now);
                }
            }
            Task::Discarded(rows) => {
                for row in rows {
                    self.parked.remove(&row.event.recorded_seq());
                    self.discarded.insert(row.event.recorded_seq());
                    self.lane.discard(&row.event);
                }
            }
            Task::RecordingFailed(progress) => {
                (self.recording, self.recording_attempts) = (false, false);
                self.lane.restore_progress(progress);
                self.ledger_retry_at = Some(self.now.mono + Duration::from_secs(1));
            }
        }
        self.check_counts();
    }

    fn land(&mut self, id: u64, mut outcome: Outcome) {
        let index = self.flights.iter().position(|flight| flight.id == id);
        let flight = self.flights.remove(index.expect("a known flight"));
        if self.lane.is_cut(self.now.mono) {
            outcome.failure = Some(Failure::TimedOut(None));
            self.was_cut_off = true;
        }
        let verdicts = outcome.verdicts.iter();
        let verdicts = verdicts.chain(std::iter::repeat(&Verdict::Open));
        // What was taken before an earlier event of its incarnation is to come again after it.
        let mut out_of_order = BTreeSet::new();
        for (event, verdict) in flight.events.iter().zip(verdicts) {
            let is_taken = match verdict {
                Verdict::Acknowledged => true,
                Verdict::Open => outcome.failure.is_none(),
                Verdict::Rejected(_) => false,
            };
            if !is_taken {
                out_of_order.insert(incarnation(event));
            } else if !out_of_order.contains(&incarnation(event)) {
                self.acknowledged.insert(event.recorded_seq());
            }
        }
        self.lane.on_outcome(id, outcome, self.now);
    }
}

impl Lane {
    fn take_progress_if(&mut self, wanted: bool) -> Option<Progress> {
        wanted.then(|| self.take_progress())
    }
}
