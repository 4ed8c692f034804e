//! A reload, as the bus sees it: lanes are added, removed, served otherwise or left alone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::host::PluginHost;
use super::runner::{Command, Operation};
use super::{LaneHandle, PluginBus};
use crate::error::Error;
use crate::ledger::Position;
use crate::plugin::PluginSpec;

/// How long to wait for lanes that end, and then for the ledger to hear of it: longer than a lane
/// takes, unless the ledger hangs.
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
        let listeners = plugins
            .filter(|plugin| plugin.hears_ends())
            .map(PluginSpec::shared_name);
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

/// What a plugin needs to be told from now on.
enum Prepared {
    /// Nothing: it is the one that is told already.
    Same(Arc<str>),
    /// It goes on in the lane of its name.
    Changed(Rc<PluginHost>),
    /// It gets a lane.
    New(Rc<PluginHost>, Position),
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
            bus.reconfigure(attached?)
        });
        let retired = reconfigured.then(|reconfigured, bus, _| {
            let ledger = Arc::clone(&bus.ledger);
            let now = bus.settings.clock.now();
            let configured: Vec<_> = bus.lanes.iter().map(LaneHandle::name).collect();
            let finish = async move {
                let (changes, retiring) = reconfigured?;
                // The rows of a lane that is still at work should not go before it does. Where the
                // ledger makes it wait, it asks the ledger for nothing more when that is over.
                let ended = join_all(retiring.into_iter().map(Retiring::ended));
                if timeout(RETIRE_PATIENCE, ended).await.is_err() {
                    warn!("removed plugins are not done in time");
                }
                let detached = ledger.detach_others(&configured, now);
                match timeout(RETIRE_PATIENCE, detached).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(%error, "the ledger has not heard who was removed"),
                    Err(_) => warn!("the ledger does not say that it heard who was removed"),
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
    /// them, and the lanes of those that were removed. An error changes nothing.
    fn reconfigure(
        &mut self,
        plugins: Vec<(PluginSpec, Option<Position>)>,
    ) -> Result<(PluginChanges, Vec<Retiring>), Error> {
        let prepared = plugins
            .into_iter()
            .map(|(plugin, position)| self.prepare(plugin, position));
        let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
        let mut changes = PluginChanges::default();
        let mut before = std::mem::take(&mut self.lanes);
        for next in prepared {
            let lane = match next {
                Prepared::Same(name) => {
                    changes.unchanged.push(Arc::clone(&name));
                    take_lane(&mut before, &name)
                }
                Prepared::Changed(host) => {
                    let name = host.spec().shared_name();
                    changes.changed.push(Arc::clone(&name));
                    take_lane(&mut before, &name).map(|lane| lane.replace(host))
                }
                Prepared::New(host, position) => {
                    let name = host.spec().shared_name();
                    info!(plugin = %name, "added");
                    changes.added.push(name);
                    Some(self.open_lane(host, position))
                }
            };
            self.lanes.extend(lane);
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
        self.show_watermarks();
        Ok((changes, retiring))
    }

    /// Makes whatever can fail for a plugin's lane to go on, or to begin.
    fn prepare(&self, plugin: PluginSpec, position: Option<Position>) -> Result<Prepared, Error> {
        let name = plugin.shared_name();
        let lane = self.lanes.iter().find(|lane| lane.name() == name);
        match (lane, position) {
            (Some(lane), _) if lane.host.spec().is_same(&plugin) => Ok(Prepared::Same(name)),
            (Some(lane), _) => Ok(Prepared::Changed(self.host(plugin, Some(&lane.host))?)),
            (None, Some(position)) => Ok(Prepared::New(self.host(plugin, None)?, position)),
            // Told from the beginning of the log it would hear everything again.
            (None, None) => Err(Error::Start(format!("`{name}` has no place in the log"))),
        }
    }
}

/// Takes the lane of the plugin `name` out of `lanes`.
fn take_lane(lanes: &mut Vec<LaneHandle>, name: &str) -> Option<LaneHandle> {
    let at = lanes.iter().position(|lane| &*lane.name() == name)?;
    Some(lanes.remove(at))
}

impl LaneHandle {
    /// Has the lane go on with another plugin of the same name.
    fn replace(self, host: Rc<PluginHost>) -> Self {
        let replace = Operation::Replace(Rc::clone(&host));
        let _ = self.commands.send(Command::Operate(replace));
        Self { host, ..self }
    }
}
