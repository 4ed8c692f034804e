//! The bus: records what happens to sessions and fans it out to the plugins.
//!
//! Each plugin has a *lane*: it reads the ledger's log in order, delivers in batches with a
//! deadline, tells a plugin that is down from an event that is poison, tries again with backoff,
//! and moves the plugin's cursor past what is acknowledged or parked. `lane` decides, `runner`
//! carries out, `delivery` makes one attempt.

mod delivery;
mod lane;
mod operations;
mod reload;
mod runner;
mod unrecorded;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{Instrument as _, info_span, warn};

use self::delivery::PluginHost;
pub(crate) use self::lane::LaneTally;
use self::lane::{Lane, Now};
pub(crate) use self::operations::{
    DiscardDeadLetters, ListDeadLetters, Redeliver, ResumePlugin, TestPlugin,
};
pub use self::operations::{PluginTest, Redelivered, TestOutcome};
pub(crate) use self::reload::{Listeners, PluginChanges, Reconfigure};
use self::runner::{Command, LaneRunner, Ties};
pub(crate) use self::unrecorded::ToldUnrecorded;
use crate::clock::WallClock;
use crate::error::Error;
use crate::event::{Deadline, Event, Hook, Hooks, InstanceId, Lifecycle, OpenSession, Seq};
use crate::ledger::{Append, Ledger, LedgerError, LedgerFuture, Position, SessionRecord};
use crate::monitor::Monitor;
use crate::plugin::PluginSpec;
use crate::session::{End, Session};

/// How many ends are recorded in one step: a drain's first deliveries leave while the rest is
/// still being recorded.
pub(crate) const MAX_ENDS_AT_ONCE: usize = 4096;

/// A session starts, or an active one has new details. The answer is the start's place in the
/// log, or 0 where nothing started, once it is recorded.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Seq, Error>")]
#[non_exhaustive]
pub struct SessionStart {
    /// The session as it is now.
    pub session: Arc<Session>,
    /// The place of its start, if it is active already; none for a new incarnation, which plugins
    /// are told of.
    pub amends: Option<Seq>,
    /// The session that this one puts an end to, and how. Recorded in the same step.
    pub displaced: Option<(OpenSession, Arc<End>)>,
    /// When.
    pub timestamp: Timestamp,
}

/// Sessions end, all in the same way: one, or a million in a drain. The answer comes once all are
/// recorded; delivery has begun by then. Many are recorded in several steps, in their order. If
/// one of these fails, the answer counts those before it; an error if there are none.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<RecordedEnds, Error>")]
#[non_exhaustive]
pub struct SessionEnd {
    /// Which.
    pub sessions: Arc<[OpenSession]>,
    /// How.
    pub end: Arc<End>,
    /// How long a ledger may take for one step before it counts as failed; for ever if none.
    pub(crate) patience: Option<Duration>,
}

/// The places of recorded ends in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecordedEnds {
    /// Of the first.
    pub first: Seq,
    /// Of the last.
    pub last: Seq,
    /// How many there are: fewer than were to be recorded if the ledger failed on the way.
    pub count: usize,
}

/// Tells a `gateway_…` hook to those who listen to it, side by side, once.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<(Arc<str>, Arc<str>)>")]
pub(crate) struct TellLifecycle {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) deadline: Instant,
}

/// A shutdown was asked for: no delivery takes longer than until then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct CutAt(pub(crate) Instant);

/// Delivers everything that is owed, until the cut. The lanes deliver nothing after that. Those
/// that have not answered in time are not in the answer.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<(Arc<str>, LaneTally)>")]
pub(crate) struct Drain {
    /// When the backlog is counted no further.
    pub(crate) count_by: Instant,
    /// When the answer is due: a moment after the cut.
    pub(crate) answer_by: Instant,
    /// What the shutdown recorded, if it ended any session.
    pub(crate) ends: Option<RecordedEnds>,
    /// The sessions whose ends it could not record, and how they ended.
    pub(crate) unrecorded: (Arc<[OpenSession]>, Arc<End>),
}

/// Asks how the plugins are, in the order of their registration.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<PluginStatus>")]
pub(crate) struct PluginStatuses;

/// Asks what has become of the last event of a session, per plugin that hears of it: not those
/// that are newer than the event.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<(Arc<str>, DeliveryState)>")]
pub(crate) struct DeliveryStates(pub(crate) SessionRecord);

/// What has become of the last event of a session, for one plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeliveryState {
    /// The plugin acknowledged it.
    Delivered,
    /// The plugin has not acknowledged it yet.
    Owed,
    /// The plugin rejected it for good: a dead letter.
    Dead,
}

/// How a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PluginState {
    /// It has what there is, or nearly.
    #[default]
    Healthy,
    /// It works, but is several deliveries behind.
    Lagging,
    /// It failed, or rejected an event: something waits for another attempt.
    Retrying,
}

impl PluginState {
    /// Every state.
    pub const ALL: &[Self] = &[Self::Healthy, Self::Lagging, Self::Retrying];

    /// The state's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Lagging => "lagging",
            Self::Retrying => "retrying",
        }
    }
}

/// How a plugin is and what it is owed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct PluginStatus {
    /// The plugin's name.
    pub name: Arc<str>,
    /// How it is.
    pub state: PluginState,
    /// What it listens to.
    pub hooks: Hooks,
    /// How many events it has not acknowledged, dead letters not counted.
    pub owed: u64,
    /// How long ago the oldest of them was recorded, in milliseconds; none if there is none.
    pub oldest_owed_age_ms: Option<u64>,
    /// About how many bytes the ledger keeps because the plugin has not got past them; none where
    /// the ledger is not on a disk.
    pub held_bytes: Option<u64>,
    /// How many dead letters it has.
    pub dead: u64,
    /// Why its last failed delivery failed; none after a delivery that did not.
    pub last_error: Option<Arc<str>>,
    /// How long its last deliveries took, in milliseconds, the latest counting most; none before
    /// the first.
    pub latency_ms: Option<f64>,
}

impl PluginStatus {
    /// Whether it is told of ends.
    pub fn hears_ends(&self) -> bool {
        self.hooks.contains(Hook::SessionEnd)
    }
}

/// What the bus is told when it is made.
#[derive(Debug, Clone)]
pub(crate) struct BusSettings {
    pub(crate) instance: InstanceId,
    pub(crate) clock: WallClock,
    /// Whether each plugin gets a thread of its own.
    pub(crate) own_threads: bool,
    /// Where the bus says who hears of ends.
    pub(crate) listeners: Listeners,
    /// Where the bus announces how long the log is: at first, as long as it found it.
    pub(crate) head: watch::Sender<Seq>,
    pub(crate) monitor: Monitor,
}

/// A lane, as the bus sees it.
struct LaneHandle {
    host: Rc<PluginHost>,
    /// The plugin is told of nothing up to here: it was not there yet.
    since: Seq,
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<PluginStatus>,
}

/// The actor that records events and has the lanes. Takes [`SessionStart`] and [`SessionEnd`].
pub struct PluginBus {
    settings: BusSettings,
    ledger: Arc<dyn Ledger>,
    head: watch::Sender<Seq>,
    /// The plugins with their places in the log, until the bus has started.
    plugins: Vec<(PluginSpec, Position)>,
    lanes: Vec<LaneHandle>,
    /// Held by who places something in the log: the ends of a drain stand there side by side,
    /// though they take several steps.
    turn: Arc<Mutex<()>>,
    /// When deliveries are cut, once a shutdown was asked for.
    cut: watch::Sender<Option<Instant>>,
}

impl LaneHandle {
    fn name(&self) -> Arc<str> {
        self.host.spec().shared_name()
    }
}

impl std::fmt::Debug for PluginBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginBus")
            .field("lanes", &self.lanes.len())
            .field("head", &*self.head.borrow())
            .finish_non_exhaustive()
    }
}

impl PluginBus {
    /// Finds each plugin's place in the log. The bus is made from the answer, where it is to run.
    pub(crate) async fn attach(
        plugins: Vec<PluginSpec>,
        ledger: &dyn Ledger,
    ) -> Result<Vec<(PluginSpec, Position)>, LedgerError> {
        let mut attached = Vec::new();
        for plugin in plugins {
            let position = ledger.attach(plugin.name()).await?;
            attached.push((plugin, position));
        }
        Ok(attached)
    }

    pub(crate) fn new(
        settings: BusSettings,
        ledger: Arc<dyn Ledger>,
        plugins: Vec<(PluginSpec, Position)>,
    ) -> Self {
        Self {
            head: settings.head.clone(),
            settings,
            ledger,
            plugins,
            lanes: Vec::new(),
            turn: Arc::default(),
            cut: watch::Sender::new(None),
        }
    }

    fn open_lane(&self, plugin: PluginSpec, position: Position) -> LaneHandle {
        let now = Now {
            mono: Instant::now(),
            wall: self.settings.clock.now(),
        };
        let name = plugin.shared_name();
        let status = PluginStatus {
            name: Arc::clone(&name),
            state: PluginState::Healthy,
            hooks: plugin.hooks(),
            owed: 0,
            oldest_owed_age_ms: None,
            held_bytes: None,
            dead: 0,
            last_error: None,
            latency_ms: None,
        };
        let since = position.since;
        let lane = Lane::new(plugin.hooks(), plugin.policy().clone(), position, now);
        let host = Rc::new(PluginHost::new(plugin, self.settings.own_threads));
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let (status_sender, status) = watch::channel(status);
        let ties = Ties {
            ledger: Arc::clone(&self.ledger),
            clock: self.settings.clock.clone(),
            head: self.head.subscribe(),
            commands: command_receiver,
            status: status_sender,
            monitor: self.settings.monitor.lane(name),
        };
        let runner = LaneRunner::new(lane, Rc::clone(&host), ties);
        let span = info_span!("lane", plugin = host.spec().name());
        actix_rt::spawn(runner.run().instrument(span));
        LaneHandle {
            host,
            since,
            commands,
            status,
        }
    }
}

impl Actor for PluginBus {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // The registry may have as many transitions under way as it takes messages.
        ctx.set_mailbox_capacity(4096);
        let plugins = std::mem::take(&mut self.plugins);
        self.lanes = plugins
            .into_iter()
            .map(|(plugin, position)| self.open_lane(plugin, position))
            .collect();
    }
}

/// Tells the lanes how long the log is by now.
fn announce(head: &watch::Sender<Seq>, seq: Seq) {
    head.send_if_modified(|head| {
        let is_news = seq > *head;
        *head = seq.max(*head);
        is_news
    });
}

/// Waits until an append is recorded, and has it counted.
async fn counted(
    monitor: &Monitor,
    appended: impl Future<Output = Result<Arc<[Event]>, LedgerError>>,
) -> Result<Arc<[Event]>, LedgerError> {
    let began = Instant::now();
    let outcome = appended.await;
    monitor.appended(began.elapsed(), &outcome);
    outcome
}

/// What a ledger answers, or that it did not answer in time.
async fn within<T>(patience: Option<Duration>, answer: LedgerFuture<T>) -> Result<T, LedgerError> {
    let Some(patience) = patience else {
        return answer.await;
    };
    let answered = tokio::time::timeout(patience, answer).await;
    answered.unwrap_or_else(|_| Err(LedgerError::late()))
}

impl Handler<SessionStart> for PluginBus {
    type Result = ResponseFuture<Result<Seq, Error>>;

    fn handle(&mut self, message: SessionStart, _: &mut Context<Self>) -> Self::Result {
        let instance = self.settings.instance;
        let SessionStart {
            session,
            amends,
            displaced,
            timestamp,
        } = message;
        let mut append = Append::default();
        if let Some((displaced, end)) = displaced {
            append.events.push(Event::end(displaced, end, instance));
        }
        match amends {
            Some(start_seq) => append.amended = Some(OpenSession::new(session, start_seq)),
            None => append
                .events
                .push(Event::start(session, timestamp, instance)),
        }
        let (ledger, head) = (Arc::clone(&self.ledger), self.head.clone());
        let monitor = self.settings.monitor.clone();
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let turn = turn.lock().await;
            let appended = ledger.append(append);
            drop(turn);
            let events = counted(&monitor, appended).await?;
            let last = events.last().map_or(0, Event::recorded_seq);
            announce(&head, last);
            Ok(if amends.is_none() { last } else { 0 })
        })
    }
}

impl Handler<SessionEnd> for PluginBus {
    type Result = ResponseFuture<Result<RecordedEnds, Error>>;

    fn handle(&mut self, message: SessionEnd, _: &mut Context<Self>) -> Self::Result {
        let instance = self.settings.instance;
        let (ledger, head) = (Arc::clone(&self.ledger), self.head.clone());
        let monitor = self.settings.monitor.clone();
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let mut turn = Some(turn.lock().await);
            let mut placed = 0;
            let mut recorded = RecordedEnds::default();
            for sessions in message.sessions.chunks(MAX_ENDS_AT_ONCE) {
                let ends = sessions
                    .iter()
                    .map(|open| Event::end(open.clone(), Arc::clone(&message.end), instance));
                let append = Append {
                    events: ends.collect(),
                    amended: None,
                };
                let appended = ledger.append(append);
                placed += sessions.len();
                if placed == message.sessions.len() {
                    turn = None;
                }
                let appended = within(message.patience, appended);
                let events = match counted(&monitor, appended).await {
                    Ok(events) => events,
                    Err(error) if recorded.count == 0 => return Err(error.into()),
                    Err(error) => {
                        let left = message.sessions.len() - recorded.count;
                        warn!(left, %error, "only a part of the ends is recorded");
                        return Ok(recorded);
                    }
                };
                if let (Some(first), Some(last)) = (events.first(), events.last()) {
                    if recorded.count == 0 {
                        recorded.first = first.recorded_seq();
                    }
                    recorded.last = last.recorded_seq();
                    recorded.count += events.len();
                    announce(&head, recorded.last);
                }
                // Lets the lanes of this thread take what is there already.
                tokio::task::yield_now().await;
            }
            drop(turn);
            Ok(recorded)
        })
    }
}

impl Handler<TellLifecycle> for PluginBus {
    type Result = ResponseFuture<Vec<(Arc<str>, Arc<str>)>>;

    /// Answers the plugins that failed, with their errors.
    fn handle(&mut self, message: TellLifecycle, _: &mut Context<Self>) -> Self::Result {
        let hook = message.lifecycle.hook;
        let now = self.settings.clock.now();
        let event = Event::of_lifecycle(message.lifecycle, now, self.settings.instance);
        let events: Arc<[Event]> = Arc::new([event]);
        let listeners = self
            .lanes
            .iter()
            .filter(|lane| lane.host.spec().hooks().contains(hook));
        let calls = listeners.map(|lane| {
            let (host, events) = (Rc::clone(&lane.host), Arc::clone(&events));
            let deadline = Deadline::at(message.deadline);
            let lane = self.settings.monitor.lane(host.spec().shared_name());
            async move {
                let departed = Instant::now();
                let outcome = host.attempt(Arc::clone(&events), 1, deadline).await;
                let attempt = outcome.attempt(&events, 1, departed.elapsed(), false);
                lane.delivered(&attempt);
                let error = outcome.first_error()?;
                warn!(plugin = host.spec().name(), %hook, %error, "hook failed");
                Some((host.spec().shared_name(), error))
            }
        });
        let calls = join_all(calls);
        Box::pin(async move { calls.await.into_iter().flatten().collect() })
    }
}

impl Handler<CutAt> for PluginBus {
    type Result = ();

    fn handle(&mut self, CutAt(cut): CutAt, _: &mut Context<Self>) {
        self.cut.send_replace(Some(cut));
        for lane in &self.lanes {
            let _ = lane.commands.send(Command::Cut(cut));
        }
    }
}

impl Handler<Drain> for PluginBus {
    type Result = ResponseFuture<Vec<(Arc<str>, LaneTally)>>;

    fn handle(&mut self, message: Drain, _: &mut Context<Self>) -> Self::Result {
        let sessions = message.ends.map_or(0, |ends| ends.count as u64);
        let specs = self.lanes.iter().map(|lane| lane.host.spec());
        let listeners = specs.filter(|spec| spec.hooks().contains(Hook::SessionEnd));
        let listeners = listeners.map(PluginSpec::shared_name);
        self.settings.monitor.begin_drain(sessions, listeners);
        let ends = message.ends.map(|ends| ends.first..=ends.last);
        let (sessions, end) = message.unrecorded;
        let instance = self.settings.instance;
        let unrecorded: Arc<[Event]> = sessions
            .iter()
            .map(|open| Event::end(open.clone(), Arc::clone(&end), instance))
            .collect();
        let tallies = self.lanes.iter().map(|lane| {
            let (reply, tally) = oneshot::channel();
            let command = Command::Drain {
                count_by: message.count_by,
                ends: ends.clone(),
                unrecorded: Arc::clone(&unrecorded),
                reply,
            };
            // A lane that is gone does not answer, which the tally below shows.
            let _ = lane.commands.send(command);
            let name = lane.host.spec().shared_name();
            async move {
                let tally = tokio::time::timeout_at(message.answer_by, tally).await;
                Some((name, tally.ok()?.ok()?))
            }
        });
        let tallies = join_all(tallies);
        Box::pin(async move { tallies.await.into_iter().flatten().collect() })
    }
}

impl Handler<PluginStatuses> for PluginBus {
    type Result = ResponseFuture<Vec<PluginStatus>>;

    fn handle(&mut self, _: PluginStatuses, _: &mut Context<Self>) -> Self::Result {
        let now = self.settings.clock.now();
        let statuses = self.lanes.iter().map(|lane| {
            let (status, ledger) = (lane.status.clone(), Arc::clone(&self.ledger));
            let (reply, since) = oneshot::channel();
            let _ = lane.commands.send(Command::OwedSince(reply));
            async move {
                let since = since.await.ok().flatten();
                // After the answer, so that a lane that has just begun has said how it is.
                let status = status.borrow().clone();
                let since = since.filter(|_| status.owed > 0);
                let age = since.map(|since| now.duration_since(since).as_millis());
                PluginStatus {
                    oldest_owed_age_ms: age.map(|age| u64::try_from(age).unwrap_or(0)),
                    held_bytes: ledger.held_bytes(&status.name),
                    ..status
                }
            }
        });
        Box::pin(join_all(statuses))
    }
}

impl Handler<DeliveryStates> for PluginBus {
    type Result = ResponseFuture<Vec<(Arc<str>, DeliveryState)>>;

    fn handle(&mut self, message: DeliveryStates, _: &mut Context<Self>) -> Self::Result {
        let DeliveryStates(record) = message;
        let states = self.lanes.iter().filter_map(|lane| {
            let (hooks, name) = (lane.host.spec().hooks(), lane.host.spec().shared_name());
            let end = record.end.as_ref().map(|(_, seq)| *seq);
            let end = end.filter(|_| hooks.contains(Hook::SessionEnd));
            let start = hooks.contains(Hook::SessionStart);
            let last = end.or(start.then_some(record.start_seq))?;
            if last <= lane.since {
                return None;
            }
            let (reply, state) = oneshot::channel();
            let _ = lane.commands.send(Command::StateOf(last, reply));
            Some(async move { Some((name, state.await.ok()?)) })
        });
        let states = join_all(states);
        Box::pin(async move { states.await.into_iter().flatten().collect() })
    }
}
