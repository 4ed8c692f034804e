//! The task that carries out a lane's decisions.

mod opening;
mod operations;

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
use tracing::{Instrument as _, debug, info, info_span, warn};

pub(super) use self::operations::{LettersChange, LettersChanged, LettersJob, Operation};
use self::operations::{LettersDone, Operations};
use super::host::PluginHost;
use super::lane::{Flight, Lane, LaneTally, Now, Outcome, Step};
use super::watermarks::Watermark;
use super::{ActiveIds, DeliveryState, PluginState, PluginStatus};
use crate::clock::WallClock;
use crate::event::{Deadline, Event, InstanceId, Seq};
use crate::ledger::{Ledger, LedgerError, Page, Progress};
use crate::monitor::LaneMonitor;

/// How long to wait before asking a ledger again that failed.
const LEDGER_RETRY: Duration = Duration::from_secs(1);

/// How long the count of a backlog may take at the end of a drain.
const COUNT_TIMEOUT: Duration = Duration::from_millis(20);

/// How long a plugin that was cut off may take to notice it, before it counts as hanging.
const NOTICE_PATIENCE: Duration = Duration::from_millis(5);

/// How far a lane may be behind the log and still count as healthy, in deliveries.
const LAG_DELIVERIES: u64 = 4;

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
        reply: oneshot::Sender<LaneTally>,
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
    reply: oneshot::Sender<LaneTally>,
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
                let _ = drained.reply.send(tally);
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
                reply,
            } => {
                let head = *self.head.borrow_and_update();
                self.lane.set_head(head);
                // As with a plugin that failed: there is no time to wait for another time.
                self.ledger_retry_at = None;
                self.lane.begin_drain(ends, Instant::now());
                self.drained = Some(Drained {
                    count_by,
                    unrecorded,
                    reply,
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
        let span = info_span!(
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

    /// Whether the drain is over for this lane: nothing is under way, and there is nothing to do
    /// before the cut. Who waits for it, then.
    fn take_finished(&mut self, wake_at: Option<Instant>) -> Option<Drained> {
        let cut = self.lane.cut()?;
        let at_cut = Instant::now() >= cut;
        if at_cut && !self.lane.is_flying() {
            if self.lane.has_work(Instant::now()) {
                self.lane.set_timed_out();
            }
            return self.drained.take();
        }
        let waits_past_cut = wake_at.is_none_or(|at| at >= cut);
        // A ledger that does not record the ends may not record acknowledgements either, and what
        // it left unrecorded has to be told before the cut.
        let is_stalled = |drained: &Drained| self.recording && !drained.unrecorded.is_empty();
        let for_ledger = usize::from(self.drained.as_ref().is_some_and(is_stalled));
        // Nor does a stop wait for what an operator wants with dead letters.
        let for_letters = usize::from(self.operations.is_changing_letters());
        let is_over = self.tasks.len() == for_ledger + for_letters && waits_past_cut;
        is_over.then(|| self.drained.take()).flatten()
    }

    async fn finish(&mut self, count_by: Instant) -> LaneTally {
        let unread = match self.lane.unread_before() {
            Some(range) => self.count_for_plugin(range, count_by).await,
            None => 0,
        };
        let mut tally = self.lane.tally(Instant::now(), unread);
        tally.state = self.state();
        let notice_by = count_by.min(Instant::now() + NOTICE_PATIENCE);
        tally.hung_threads = self.host.hung_threads(notice_by).await as u64;
        let first = self.lane.first_end();
        self.monitor.progressed(|| tally.standing(first), true);
        self.lane.close();
        if tally.owed + tally.dead + tally.lost + tally.owed_before > 0 || tally.timed_out {
            warn!(
                delivered = tally.delivered,
                owed = tally.owed,
                failed = tally.failed,
                dead = tally.dead,
                lost = tally.lost,
                owed_before = tally.owed_before,
                timed_out = tally.timed_out,
                hung_threads = tally.hung_threads,
                last_error = tally.last_error.as_deref(),
                "drained, but not everything was delivered"
            );
        } else {
            info!(delivered = tally.delivered, "drained");
        }
        tally
    }

    /// How many events in `range` of the log are for this plugin; all of them where the ledger
    /// does not tell soon, by `until` at the latest.
    async fn count_for_plugin(&self, range: RangeInclusive<Seq>, until: Instant) -> u64 {
        const PAGE: usize = 4096;
        let until = until.min(Instant::now() + COUNT_TIMEOUT);
        let count = async {
            let (mut after, mut count) = (range.start() - 1, 0);
            while after < *range.end() {
                let page = self.ledger.read(after, PAGE).await.ok()?;
                let last = page.events.last()?.recorded_seq();
                let inside = page
                    .events
                    .iter()
                    .take_while(|it| it.recorded_seq() <= *range.end());
                count += inside.filter(|event| self.lane.listens_to(event)).count() as u64;
                after = last;
                // A ledger in memory never makes this wait, so the clock would not be looked at.
                if Instant::now() >= until {
                    return None;
                }
                tokio::task::yield_now().await;
            }
            Some(count)
        };
        let counted = tokio::time::timeout_at(until, count).await;
        let all = range.end() - range.start() + 1;
        counted.ok().flatten().unwrap_or(all)
    }

    fn state(&self) -> PluginState {
        let lag = LAG_DELIVERIES * self.host.spec().policy().max_batch as u64;
        if self.lane.is_disabled() {
            PluginState::Disabled
        } else if self.lane.is_quarantined() {
            PluginState::Quarantined
        } else if self.lane.is_retrying() {
            PluginState::Retrying
        } else if self.lane.owed() > lag {
            PluginState::Lagging
        } else {
            PluginState::Healthy
        }
    }

    /// Since when the oldest event has been owed. Of one that is not read yet only the earliest
    /// moment is known.
    fn owed_since(&self) -> Option<Timestamp> {
        let owed_since = self.owed_since?;
        let unread = self.read_up_to.map_or(owed_since, |at| at.max(owed_since));
        Some(self.lane.oldest_in_hand().unwrap_or(unread))
    }

    /// Makes the lane's state visible.
    fn publish(&mut self) {
        self.up_to.set(self.lane.told_up_to());
        let (state, owed) = (self.state(), self.lane.owed());
        self.owed_since = match owed {
            0 => None,
            _ => self.owed_since.or_else(|| Some(self.clock.now())),
        };
        let dead = self.lane.dead() as u64;
        let last_error = self.lane.last_error();
        self.status.send_if_modified(|status| {
            report_change(status.state, state, last_error);
            let is_same = status.state == state
                && (status.owed, status.dead) == (owed, dead)
                && status.last_error.as_ref() == last_error;
            status.state = state;
            (status.owed, status.dead) = (owed, dead);
            status.last_error = last_error.cloned();
            // To the microsecond: more is noise.
            let rounded = |mean: f64| (mean * 1000.0).round() / 1000.0;
            status.latency_ms = self.latency_ms.map(rounded);
            !is_same
        });
    }

    /// Answers those who wait until the plugin is told of all up to a place, once it is.
    fn say_when_told(&mut self) {
        if self.awaited.is_empty() {
            return;
        }
        // What it does not take is parked, and the lane goes on; not so where it takes nothing.
        let takes_nothing = self.lane.is_disabled() || self.lane.is_quarantined();
        let waits = takes_nothing || self.lane.waits_until().is_some();
        let is_over = |up_to: Seq| waits || self.lane.is_past(up_to);
        let (told, awaited): (Vec<_>, _) = std::mem::take(&mut self.awaited)
            .into_iter()
            .partition(|(up_to, reply)| reply.is_closed() || is_over(*up_to));
        self.awaited = awaited;
        for (_, reply) in told {
            let _ = reply.send(());
        }
    }
}

/// Logs that a plugin is in another state now.
fn report_change(from: PluginState, to: PluginState, error: Option<&Arc<str>>) {
    let (was, is) = (from.as_str(), to.as_str());
    if from == to {
        return;
    }
    if to.is_given_up() {
        let error = error.map_or("", |error| &**error);
        warn!(
            was,
            is, error, "the plugin is told nothing for now: its events stay owed"
        );
    } else if from.is_given_up() {
        info!(was, is, "the plugin is told again");
    } else {
        debug!(was, is, "plugin state changed");
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
