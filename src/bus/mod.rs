//! The bus: records what happens to sessions and fans it out to the plugins.
//!
//! Each plugin has a *lane*: it reads the ledger's log in order, delivers in batches with a
//! deadline, tells a plugin that is down from an event that is poison, tries again with backoff,
//! and moves the plugin's cursor past what is acknowledged or parked. `lane` decides, `runner`
//! carries out, `delivery` makes one attempt.

mod delivery;
mod host;
mod lane;
mod messages;
mod operations;
mod questions;
mod recording;
mod reload;
mod runner;
mod status;
mod unrecorded;
mod watermarks;

use std::rc::Rc;
use std::sync::Arc;

use actix::WeakRecipient;
use actix::prelude::*;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{Instrument as _, error, error_span, warn};

use self::host::PluginHost;
use self::lane::{Lane, Now};
pub(crate) use self::lane::{LaneTally, MAX_UNFINISHED};
pub(crate) use self::messages::{
    ActiveIds, AskForActive, ClosePlugins, CutAt, DeliveryStates, Drain, PluginStatuses,
    RecordEach, TellLifecycle, ToRecord, WaitUntilTold,
};
pub use self::messages::{RecordedEnds, SessionEnd, SessionStart};
pub(crate) use self::operations::{
    DiscardDeadLetters, ListDeadLetters, Redeliver, ResumePlugin, TestPlugin,
};
pub use self::operations::{PluginTest, Redelivered, TestOutcome};
pub(crate) use self::recording::MAX_ENDS_AT_ONCE;
pub(crate) use self::reload::{Listeners, PluginChanges, Reconfigure};
use self::runner::{Command, LaneRunner, Ties};
pub use self::status::{DeliveryState, PluginState, PluginStatus};
pub(crate) use self::unrecorded::ToldUnrecorded;
pub(crate) use self::watermarks::Watermarks;
use self::watermarks::{Told, Watermark};
use crate::clock::WallClock;
use crate::error::Error;
use crate::event::{Deadline, Ending, Event, Hook, InstanceId, Seq};
use crate::ledger::{Ledger, LedgerError, LedgerHealth, Position};
use crate::monitor::{Monitor, Ping};
use crate::plugin::PluginSpec;

/// What the bus is told when it is made.
#[derive(Debug, Clone)]
pub(crate) struct BusSettings {
    pub(crate) instance: InstanceId,
    pub(crate) clock: WallClock,
    /// Whether each plugin gets a thread of its own.
    pub(crate) own_threads: bool,
    /// Where the bus says who hears of ends.
    pub(crate) listeners: Listeners,
    /// Where bus and lanes say how far the plugins were told.
    pub(crate) watermarks: Watermarks,
    /// Where the bus announces how long the log is: at first, as long as it found it.
    pub(crate) head: watch::Sender<Seq>,
    pub(crate) monitor: Monitor,
    /// Told of appends that fail.
    pub(crate) health: LedgerHealth,
}

/// A lane, as the bus sees it.
struct LaneHandle {
    host: Rc<PluginHost>,
    /// The plugin is told of nothing up to here: it was not there yet.
    since: Seq,
    up_to: Watermark,
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<PluginStatus>,
}

/// The actor that records events and has the lanes. Takes [`SessionStart`] and [`SessionEnd`].
pub struct PluginBus {
    settings: BusSettings,
    ledger: Arc<dyn Ledger>,
    /// The plugins with their places in the log, until the bus has started.
    plugins: Vec<(PluginSpec, Position)>,
    lanes: Vec<LaneHandle>,
    /// Held by who places something in the log: the ends of a drain stand there side by side,
    /// though they take several steps.
    turn: Arc<Mutex<()>>,
    /// When deliveries are cut, once a shutdown was asked for.
    cut: watch::Sender<Option<Instant>>,
    /// Who knows the active sessions.
    registry: watch::Sender<Option<WeakRecipient<ActiveIds>>>,
}

impl LaneHandle {
    fn name(&self) -> Arc<str> {
        self.host.spec().shared_name()
    }

    fn told(&self) -> Told {
        let spec = self.host.spec();
        Told {
            name: spec.shared_name(),
            hooks: spec.hooks(),
            since: self.since,
            up_to: self.up_to.clone(),
        }
    }

    /// How the plugin is as of `now`, with what only the lane and the ledger can tell.
    fn full_status(
        &self,
        ledger: Arc<dyn Ledger>,
        now: Timestamp,
    ) -> impl Future<Output = PluginStatus> + use<> {
        let (status, host) = (self.status.clone(), Rc::clone(&self.host));
        let (reply, since) = oneshot::channel();
        let _ = self.commands.send(Command::OwedSince(reply));
        async move {
            let since = since.await.ok().flatten();
            // After the answer, so that a lane that has just begun has said how it is.
            let status = status.borrow().clone();
            let since = since.filter(|_| status.owed > 0);
            let age = since.map(|since| now.duration_since(since).as_millis());
            PluginStatus {
                oldest_owed_age_ms: age.map(|age| u64::try_from(age).unwrap_or(0)),
                held_bytes: ledger.held_bytes(&status.name),
                hung_threads: host.hung_threads_now() as u64,
                ..status
            }
        }
    }
}

impl std::fmt::Debug for PluginBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginBus")
            .field("lanes", &self.lanes.len())
            .field("head", &*self.settings.head.borrow())
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
            settings,
            ledger,
            plugins,
            lanes: Vec::new(),
            turn: Arc::default(),
            cut: watch::Sender::new(None),
            registry: watch::Sender::new(None),
        }
    }

    /// A host for `plugin`, in place of the one before if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when its thread can't be started.
    fn host(
        &self,
        plugin: PluginSpec,
        before: Option<&PluginHost>,
    ) -> Result<Rc<PluginHost>, Error> {
        let (name, own_thread) = (plugin.shared_name(), self.settings.own_threads);
        let host = match before {
            Some(before) => before.successor(plugin, own_thread),
            None => PluginHost::new(plugin, own_thread),
        };
        let failed = |error| Error::Start(format!("no thread for the plugin `{name}`: {error}"));
        host.map(Rc::new).map_err(failed)
    }

    fn show_watermarks(&self) {
        let lanes = self.lanes.iter();
        self.settings.watermarks.set(lanes.map(LaneHandle::told));
    }

    fn open_lane(&self, host: Rc<PluginHost>, position: Position) -> LaneHandle {
        let plugin = host.spec();
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
            hung_threads: 0,
            latency_ms: None,
        };
        let since = position.since;
        let span = error_span!("lane", plugin = &*name);
        let mut lane =
            span.in_scope(|| Lane::new(plugin.hooks(), plugin.policy().clone(), position, now));
        if plugin.opens() {
            lane.open_first();
        }
        let up_to = Watermark::default();
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let (status_sender, status) = watch::channel(status);
        let ties = Ties {
            ledger: Arc::clone(&self.ledger),
            clock: self.settings.clock.clone(),
            head: self.settings.head.subscribe(),
            commands: command_receiver,
            status: status_sender,
            up_to: up_to.clone(),
            monitor: self.settings.monitor.lane(name),
            instance: self.settings.instance,
            registry: self.registry.subscribe(),
        };
        let runner = LaneRunner::new(lane, Rc::clone(&host), ties);
        actix_rt::spawn(runner.run().instrument(span));
        LaneHandle {
            host,
            since,
            up_to,
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
        let opened = plugins
            .into_iter()
            .map(|(plugin, position)| Ok(self.open_lane(self.host(plugin, None)?, position)));
        match opened.collect::<Result<_, Error>>() {
            Ok(lanes) => {
                self.lanes = lanes;
                self.show_watermarks();
            }
            Err(error) => {
                // Whoever starts the supervisor finds the bus gone.
                error!(%error, "the bus can't start");
                ctx.stop();
            }
        }
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
            .filter(|lane| lane.host.spec().hooks().contains(hook))
            // The lane tells them in its turn.
            .filter(|lane| hook != Hook::GatewayStart || !lane.host.spec().opens())
            // There is no time to spare for those that have been given up for now.
            .filter(|lane| !lane.status.borrow().state.is_given_up());
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

impl Handler<AskForActive> for PluginBus {
    type Result = ();

    fn handle(&mut self, AskForActive(registry): AskForActive, _: &mut Context<Self>) {
        self.registry.send_replace(Some(registry));
    }
}

impl Handler<ClosePlugins> for PluginBus {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, message: ClosePlugins, _: &mut Context<Self>) -> Self::Result {
        let hosts: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| Rc::clone(&lane.host))
            .collect();
        Box::pin(async move {
            let closed = join_all(hosts.iter().map(|host| host.close(message.until)));
            closed.await.into_iter().all(|is_gone| is_gone)
        })
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
    type Result = ();

    fn handle(&mut self, message: Drain, _: &mut Context<Self>) {
        let sessions = message.ends.map_or(0, |ends| ends.count as u64);
        let specs = self.lanes.iter().map(|lane| lane.host.spec());
        let listeners = specs.filter(|spec| spec.hears_ends());
        let listeners = listeners.map(PluginSpec::shared_name);
        self.settings.monitor.begin_drain(sessions, listeners);
        let ends = message.ends.map(|ends| ends.first..=ends.last);
        let (sessions, end) = message.unrecorded;
        let instance = self.settings.instance;
        let count = sessions.len();
        let unrecorded = Ending::new(sessions, end, instance).events(0..count);
        for lane in &self.lanes {
            // One that is gone lets go of its sender.
            let _ = lane.commands.send(Command::Drain {
                count_by: message.count_by,
                ends: ends.clone(),
                unrecorded: Arc::clone(&unrecorded),
                tallies: message.tallies.clone(),
            });
        }
    }
}

impl Handler<Ping> for PluginBus {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}
