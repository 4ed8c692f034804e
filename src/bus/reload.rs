//! A reload, as the bus sees it: lanes are added, removed, served otherwise or left alone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::delivery::PluginHost;
use super::runner::{Command, Operation};
use super::{LaneHandle, PluginBus};
use crate::error::Error;
use crate::event::Hook;
use crate::ledger::Position;
use crate::plugin::PluginSpec;

/// How long to wait for lanes that end, and for the ledger to hear of it: longer than a lane takes,
/// unless the ledger hangs.
const RETIRE_PATIENCE: Duration = Duration::from_secs(3);

/// Has these plugins from now on, in this order.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PluginChanges, Error>")]
pub(crate) struct Reconfigure(pub(crate) Vec<PluginSpec>);

/// What became of the plugins: their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PluginChanges {
    pub(crate) added: Vec<Arc<str>>,
    pub(crate) removed: Vec<Arc<str>>,
    pub(crate) changed: Vec<Arc<str>>,
    pub(crate) unchanged: Vec<Arc<str>>,
}

/// The plugins that hear of ends, in their order: the bus says who, and others read it.
#[derive(Debug, Clone)]
pub(crate) struct Listeners(watch::Sender<Arc<[Arc<str>]>>);

impl Listeners {
    pub(crate) fn new(plugins: &[PluginSpec]) -> Self {
        let listeners = Self(watch::Sender::new(Arc::new([])));
        listeners.set(plugins.iter());
        listeners
    }

    fn set<'a>(&self, plugins: impl Iterator<Item = &'a PluginSpec>) {
        let hears_ends = |plugin: &&PluginSpec| plugin.hooks().contains(Hook::SessionEnd);
        let listeners = plugins.filter(hears_ends).map(PluginSpec::shared_name);
        self.0.send_replace(listeners.collect());
    }

    /// Their names as of now.
    pub(crate) fn names(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.0.borrow())
    }
}

/// A lane that was asked to end. It runs for as long as it has a handle.
struct Retiring {
    _lane: LaneHandle,
    ended: oneshot::Receiver<()>,
}

impl Retiring {
    fn new(lane: LaneHandle) -> Self {
        let (reply, ended) = oneshot::channel();
        let retire = Command::Operate(Operation::Retire(reply));
        let _ = lane.commands.send(retire);
        Self { _lane: lane, ended }
    }

    /// Waits until the lane has ended.
    async fn ended(self) {
        let _ = self.ended.await;
    }
}

impl Handler<Reconfigure> for PluginBus {
    type Result = ResponseActFuture<Self, Result<PluginChanges, Error>>;

    fn handle(&mut self, message: Reconfigure, _: &mut Context<Self>) -> Self::Result {
        let Reconfigure(plugins) = message;
        let ledger = Arc::clone(&self.ledger);
        let known: Vec<_> = self.lanes.iter().map(LaneHandle::name).collect();
        let attached = async move {
            let mut attached = Vec::new();
            for plugin in plugins {
                let is_new = !known.contains(&plugin.shared_name());
                let position = match is_new {
                    true => Some(ledger.attach(plugin.name()).await?),
                    false => None,
                };
                attached.push((plugin, position));
            }
            Ok::<_, Error>(attached)
        };
        let reconfigured = attached.into_actor(self).map(|attached, bus, _| {
            // A shutdown has the lanes that it began with.
            if bus.is_stopping() {
                return Err(Error::ShuttingDown);
            }
            Ok(bus.reconfigure(attached?))
        });
        let retired = reconfigured.then(|reconfigured, bus, _| {
            let ledger = Arc::clone(&bus.ledger);
            let now = bus.settings.clock.now();
            let configured: Vec<_> = bus.lanes.iter().map(LaneHandle::name).collect();
            let finish = async move {
                let (changes, retiring) = reconfigured?;
                let detached = async {
                    join_all(retiring.into_iter().map(Retiring::ended)).await;
                    // The rows of a lane that is still at work must not go before it does.
                    ledger.detach_others(&configured, now).await
                };
                match tokio::time::timeout(RETIRE_PATIENCE, detached).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(%error, "the ledger has not heard who was removed"),
                    Err(_) => warn!("removed plugins are not done in time"),
                }
                Ok(changes)
            };
            finish.into_actor(bus)
        });
        Box::pin(retired)
    }
}

impl PluginBus {
    /// Has these plugins from now on; those without a position are known. Answers what became of
    /// them, and the lanes of those that were removed.
    fn reconfigure(
        &mut self,
        plugins: Vec<(PluginSpec, Option<Position>)>,
    ) -> (PluginChanges, Vec<Retiring>) {
        let mut changes = PluginChanges::default();
        let mut before = std::mem::take(&mut self.lanes);
        for (plugin, position) in plugins {
            let name = plugin.shared_name();
            let known = before.iter().position(|lane| lane.name() == name);
            let lane = match (known.map(|at| before.remove(at)), position) {
                (Some(lane), _) if lane.host.spec().is_same(&plugin) => {
                    changes.unchanged.push(name);
                    lane
                }
                (Some(lane), _) => {
                    changes.changed.push(name);
                    self.replace(lane, plugin)
                }
                (None, position) => {
                    info!(plugin = %name, "added");
                    changes.added.push(name);
                    self.open_lane(plugin, position.unwrap_or_default())
                }
            };
            self.lanes.push(lane);
        }
        let retiring = before.into_iter().map(|lane| {
            let owed = lane.status.borrow().owed;
            info!(plugin = %lane.name(), owed, "removed");
            changes.removed.push(lane.name());
            Retiring::new(lane)
        });
        let retiring = retiring.collect();
        let plugins = self.lanes.iter().map(|lane| lane.host.spec());
        self.settings.listeners.set(plugins);
        (changes, retiring)
    }

    /// Has a lane go on with another plugin of the same name.
    fn replace(&self, lane: LaneHandle, plugin: PluginSpec) -> LaneHandle {
        let host = Rc::new(PluginHost::new(plugin, self.settings.own_threads));
        let replace = Operation::Replace(Rc::clone(&host));
        let _ = lane.commands.send(Command::Operate(replace));
        LaneHandle { host, ..lane }
    }
}
