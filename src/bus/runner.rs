//! The task that carries out a lane's decisions.

mod finish;
mod opening;
mod operations;
mod standing;

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::WeakRecipient;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument as _, error_span, warn};

pub(super) use self::operations::{LettersChange, LettersChanged, LettersJob, Operation};
use self::operations::{LettersDone, Operations};
use super::host::PluginHost;
use super::lane::{Flight, Lane, Now, Outcome, Step};
use super::messages::Tallies;
use super::watermarks::Watermark;
use super::{ActiveIds, DeliveryState, PluginStatus};
use crate::clock::WallClock;
use crate::event::{Deadline, Event, InstanceId, Seq};
use crate::ledger::{Ledger, LedgerError, Page, Progress};
use crate::monitor::LaneMonitor;

/// How long to wait before asking a ledger again that failed.
const LEDGER_RETRY: Duration = Duration::from_secs(1);

/// How much the last delivery counts in the mean latency.
const LATENCY_WEIGHT: f64 = 0.2;

/// What a lane is told.
#[derive(Debug)]
pub(super) enum Command {
    /// A shutdown was asked for: deliveries are cut then.
    Cut(Instant),
    /// The shutdown recorded these ends: deliver what can be delivered until the cut, and stop.
    Drain {
        /// When the backlog is counted no further.
        count_by: Instant,
        ends: Option<RangeInclusive<Seq>>,
        /// Ends that the ledger did not record.
        unrecorded: Arc<[Event]>,
        tallies: Tallies,
    },
    /// Since when has the oldest event been owed, if any is?
    OwedSince(oneshot::Sender<Option<Timestamp>>),
    /// What has become of the event at this place?
    StateOf(Seq, oneshot::Sender<DeliveryState>),
    /// When is the plugin told of all up to this place, or waits for something else?
    SayWhenTold(Seq, oneshot::Sender<()>),
    /// An operator wants something.
    Operate(Operation),
}

/// Who waits for the end of a drain.
struct Drained {
    count_by: Instant,
    unrecorded: Arc<[Event]>,
    tallies: Tallies,
}

/// What a lane was waiting for.
enum Done {
    Flight(u64, Outcome),
    Read(Result<Page, LedgerError>),
    Recorded(Progress, Result<(), LedgerError>),
    Letters(LettersDone),
    Opened(Outcome, Instant),
    Replaced,
}

/// A delivery that is under way.
struct Flying {
    id: u64,
    /// The cut may come before it.
    deadline: Deadline,
    events: Arc<[Event]>,
    attempt: u32,
    departed: Instant,
}

/// What ties a lane to the others.
pub(super) struct Ties {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) clock: WallClock,
    pub(super) head: watch::Receiver<Seq>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) status: watch::Sender<PluginStatus>,
    pub(super) up_to: Watermark,
    pub(super) monitor: LaneMonitor,
    pub(super) instance: InstanceId,
    pub(super) registry: watch::Receiver<Option<WeakRecipient<ActiveIds>>>,
}

/// A lane with what it needs to carry out its decisions.
pub(super) struct LaneRunner {
    pub(super) lane: Lane,
    pub(super) host: Rc<PluginHost>,
    ledger: Arc<dyn Ledger>,
    clock: WallClock,
    head: watch::Receiver<Seq>,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<PluginStatus>,
    up_to: Watermark,
    pub(super) monitor: LaneMonitor,
    tasks: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    flying: Vec<Flying>,
    instance: InstanceId,
    registry: watch::Receiver<Option<WeakRecipient<ActiveIds>>>,
    /// The deadline of the opening delivery that is under way.
    opening: Option<Deadline>,
    recording: bool,
    /// What is being recorded counts attempts.
    recording_attempts: bool,
    /// Not to ask the ledger again before.
    ledger_retry_at: Option<Instant>,
    latency_ms: Option<f64>,
    /// Since when something has been owed without a break.
    owed_since: Option<Timestamp>,
    /// When the last event was recorded that was read.
    read_up_to: Option<Timestamp>,
    drained: Option<Drained>,
    /// Who waits until the plugin is told of all up to a place.
    awaited: Vec<(Seq, oneshot::Sender<()>)>,
    operations: Operations,
}

impl LaneRunner {
    pub(super) fn new(lane: Lane, host: Rc<PluginHost>, ties: Ties) -> Self {
        Self {
            lane,
            host,
            ledger: ties.ledger,
            clock: ties.clock,
            head: ties.head,
            commands: ties.commands,
            status: ties.status,
            up_to: ties.up_to,
            monitor: ties.monitor,
            tasks: FuturesUnordered::new(),
            flying: Vec::new(),
            instance: ties.instance,
            registry: ties.registry,
            opening: None,
            recording: false,
            recording_attempts: false,
            ledger_retry_at: None,
            latency_ms: None,
            owed_since: None,
            read_up_to: None,
            drained: None,
            awaited: Vec::new(),
            operations: Operations::default(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant::now(),
            wall: self.clock.now(),
        }
    }

    /// Runs until the bus is gone.
    pub(super) async fn run(mut self) {
        let head = *self.head.borrow_and_update();
        self.lane.set_head(head);
        loop {
            self.replace_if_idle();
            let wake_at = self.step();
            self.publish();
            self.say_when_told();
            if self.has_retired() {
                return;
            }
            if let Some(drained) = self.take_finished(wake_at) {
                let cut = self.lane.cut().unwrap_or(drained.count_by);
                let told = self.tell_unrecorded(&drained.unrecorded, cut).await;
                let mut tally = self.finish(drained.count_by).await;
                tally.unrecorded = told;
                let name = self.host.spec().shared_name();
                let _ = drained.tallies.send((name, tally));
            }
            let is_cut_ahead = |cut: &Instant| *cut > Instant::now();
            let cut = self.lane.cut().filter(is_cut_ahead);
            let wake_at = match (wake_at, cut) {
                (Some(at), Some(cut)) => Some(at.min(cut)),
                (at, cut) => at.or(cut),
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(done) = self.tasks.next(), if !self.tasks.is_empty() => self.settle(done),
                changed = self.head.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let head = *self.head.borrow_and_update();
                    self.lane.set_head(head);
                }
                () = sleep_until_some(wake_at) => {}
            }
            self.cut_if_due();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Cut(cut) => self.lane.set_cut(cut),
            Command::Drain {
                count_by,
                ends,
                unrecorded,
                tallies,
            } => {
                let head = *self.head.borrow_and_update();
                self.lane.set_head(head);
                // As with a plugin that failed: there is no time to wait for another time.
                self.ledger_retry_at = None;
                self.lane.begin_drain(ends, Instant::now());
                self.drained = Some(Drained {
                    count_by,
                    unrecorded,
                    tallies,
                });
            }
            Command::OwedSince(reply) => {
                let _ = reply.send(self.owed_since());
            }
            Command::StateOf(seq, reply) => {
                let _ = reply.send(self.lane.state_of(seq));
            }
            Command::SayWhenTold(up_to, reply) => self.awaited.push((up_to, reply)),
            Command::Operate(operation) => self.operate(operation),
        }
    }

    /// Starts all that can be started. Answers when there will be more to do, at the latest.
    fn step(&mut self) -> Option<Instant> {
        let wake_at = loop {
            let now = self.now();
            if let Some(retry_at) = self.ledger_retry_at {
                if now.mono < retry_at {
                    break Some(retry_at);
                }
                self.ledger_retry_at = None;
            }
            match self.lane.next(now, self.recording_attempts) {
                Step::Deliver(flight) => self.deliver(flight),
                Step::Open(deadline) => self.open(deadline),
                Step::Read(after, limit) => {
                    let page = self.ledger.read(after, limit);
                    self.tasks.push(page.map(Done::Read).boxed_local());
                }
                Step::Wait(wake_at) => break wake_at,
            }
        };
        self.record_progress();
        wake_at
    }

    fn record_progress(&mut self) {
        if self.recording || self.ledger_retry_at.is_some() {
            return;
        }
        let progress = self.lane.take_progress();
        if progress.is_empty() {
            return;
        }
        self.recording = true;
        self.recording_attempts = !progress.park.is_empty();
        let recorded = self
            .ledger
            .advance(self.host.spec().name(), progress.clone());
        let done = recorded.map(|result| Done::Recorded(progress, result));
        self.tasks.push(done.boxed_local());
    }

    fn deliver(&mut self, flight: Flight) {
        let deadline = Deadline::at(flight.deadline);
        self.flying.push(Flying {
            id: flight.id,
            deadline: deadline.clone(),
            events: Arc::clone(&flight.events),
            attempt: flight.tries.count,
            departed: Instant::now(),
        });
        let host = Rc::clone(&self.host);
        let span = error_span!(
            "delivery",
            events = flight.events.len(),
            attempt = flight.tries.count,
        );
        let attempt = async move {
            let attempt = flight.tries.count;
            let outcome = host.attempt(flight.events, attempt, deadline).await;
            Done::Flight(flight.id, outcome)
        };
        self.tasks.push(attempt.instrument(span).boxed_local());
    }

    fn settle(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Flight(id, outcome) => {
                if let Some(at) = self.flying.iter().position(|flying| flying.id == id) {
                    let flying = self.flying.swap_remove(at);
                    report_failure(&flying.events, &outcome);
                    let took = now.mono - flying.departed;
                    let is_cut = self.lane.cut().is_some_and(|cut| now.mono >= cut);
                    let attempt = outcome.attempt(&flying.events, flying.attempt, took, is_cut);
                    self.monitor.delivered(&attempt);
                    self.measure(took);
                }
                self.lane.on_outcome(id, outcome, now);
                if self.drained.is_some() {
                    self.monitor.progressed(
                        || self.lane.tally(now.mono, 0).standing(self.lane.first_end()),
                        false,
                    );
                }
            }
            Done::Read(Ok(page)) if page.events.is_empty() && page.gap == 0 => {
                self.lane.on_read_failed();
                self.ledger_failed(&LedgerError::new("it has not what it announced"));
            }
            Done::Read(Ok(page)) => {
                if page.gap > 0 {
                    let events = page.gap;
                    warn!(
                        events,
                        "the ledger kept these events no longer: they are lost"
                    );
                }
                // The log can be ahead of its announcement.
                if let Some(last) = page.events.last() {
                    self.lane.set_head(last.recorded_seq());
                    self.read_up_to = Some(last.timestamp());
                }
                if let Some(flight) = self.lane.on_read(&page, now) {
                    self.deliver(flight);
                }
            }
            Done::Read(Err(error)) => {
                self.lane.on_read_failed();
                self.ledger_failed(&error);
            }
            Done::Letters(done) => self.settle_letters(done),
            Done::Opened(outcome, departed) => self.opened(outcome, departed),
            Done::Replaced => self.replaced(),
            Done::Recorded(progress, Ok(())) => {
                (self.recording, self.recording_attempts) = (false, false);
                self.lane.on_recorded(&progress);
            }
            Done::Recorded(progress, Err(error)) => {
                (self.recording, self.recording_attempts) = (false, false);
                self.lane.restore_progress(progress);
                self.ledger_failed(&error);
            }
        }
    }

    fn ledger_failed(&mut self, error: &LedgerError) {
        warn!(%error, "the lane waits for the ledger");
        self.monitor.ledger_failed();
        self.ledger_retry_at = Some(Instant::now() + LEDGER_RETRY);
    }

    /// Takes the duration of a delivery into the mean of the last ones.
    fn measure(&mut self, took: Duration) {
        let took = took.as_secs_f64() * 1000.0;
        let mean = self.latency_ms.unwrap_or(took);
        self.latency_ms = Some(mean + (took - mean) * LATENCY_WEIGHT);
    }

    fn cut_if_due(&mut self) {
        if self.lane.cut().is_some_and(|cut| Instant::now() >= cut) {
            let flying = self.flying.iter().map(|flying| &flying.deadline);
            for deadline in flying.chain(&self.opening) {
                deadline.cancel();
            }
        }
    }
}

/// Logs a delivery that failed, with the sessions of its first events.
pub(super) fn report_failure(events: &[Event], outcome: &Outcome) {
    const NAMED: usize = 5;
    let Some(failure) = &outcome.failure else {
        return;
    };
    let named = events
        .iter()
        .take(NAMED)
        .filter_map(|event| event.session());
    let named: Vec<_> = named.map(|session| session.id.as_str()).collect();
    let (sessions, more) = (named.join(", "), events.len().saturating_sub(NAMED));
    warn!(sessions, more, error = %failure.message(), "delivery failed");
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
