//! How the parts are put together at the start, after what the run before has left is recovered.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::Arbiter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Builder, Threads};
use crate::bus::{AskForActive, BusSettings, Listeners, PluginBus, TellLifecycle, Watermarks};
use crate::error::Error;
use crate::event::{Hook, InstanceId, Lifecycle};
use crate::ledger::{LedgerHealth, Recovery, Upkeep};
use crate::monitor::{Monitor, Ping, Watching};
use crate::place::Place;
use crate::plugin::PluginSpec;
use crate::registry::{Door, RegistrySettings, SessionRegistry, SharedSessions};
use crate::shutdown::{
    CoordinatorSettings, ListenForSignals, ReportArchive, ReportSlot, ShutdownCoordinator, Watchdog,
};
use crate::supervisor::SessionSupervisor;
use crate::supervisor::reload::Reloader;

impl Builder {
    pub(super) async fn start_own_system(self) -> Result<SessionSupervisor, Error> {
        let (ready, started) = oneshot::channel();
        let watchdog = self.exits_process.then(Watchdog::start).transpose();
        let watchdog = watchdog.map_err(|error| Error::Start(error.to_string()))?;
        let run = move || {
            let system = System::new();
            let outcome = system.block_on(self.assemble(watchdog.clone()));
            let kept = outcome.clone();
            if ready.send(outcome).is_err() || kept.is_err() {
                // Nobody has a handle, so nobody would ever stop it and its threads.
                System::current().stop();
            }
            if let Err(error) = system.run() {
                tracing::error!(%error, "the supervisor's system failed");
            }
            if let Some(watchdog) = watchdog {
                watchdog.returned();
            }
            drop(kept);
        };
        std::thread::Builder::new()
            .name("session-supervisor".into())
            .spawn(run)
            .map_err(|error| Error::Start(error.to_string()))?;
        let died = || Error::Start("the supervisor's thread died".into());
        started.await.map_err(|_| died())?
    }

    pub(super) async fn assemble(
        self,
        watchdog: Option<Watchdog>,
    ) -> Result<SessionSupervisor, Error> {
        let (budget, limits) = (self.live.budget(), self.live.limits());
        let instance = InstanceId::generate();
        let (door, report_slot) = (Door::default(), ReportSlot::new());
        let reports = report_slot.watch();
        let owns_system = self.threads == Threads::Own;
        let ledger = self.ledger;
        let listeners = Listeners::new(&self.live.plugins);
        let watermarks = Watermarks::default();

        // A new plugin hears of what happens from its coming on: the ends of what a run before left
        // open are part of that. They are recorded before any other event.
        let plugins = self.live.plugins;
        let configured: Vec<_> = plugins.iter().map(PluginSpec::shared_name).collect();
        ledger.detach_others(&configured, self.clock.now()).await?;
        let plugins = PluginBus::attach(plugins, &*ledger).await?;
        let recovery = ledger.recover(instance, self.clock.now()).await?;
        let held = ledger.held().await?;
        if self.held_at_stop.end_at_death() {
            ledger.bind_held().await?;
        }
        let before = recovery.predecessor.as_ref();
        let held_seen_at = before.map_or_else(|| self.clock.now(), |run| run.alive_at);
        let state_dir = self.state_dir.as_ref();
        let archive = state_dir.map(|dir| ReportArchive::new(dir.path()));
        report_recovery(&recovery, archive.as_ref(), budget.cap);

        // Each has a thread, since none must wait for another: the registry for the lanes' work,
        // the coordinator for anybody. This thread is left for teardown steps.
        let place = || {
            if owns_system {
                let arbiter = Arbiter::try_new();
                let arbiter = arbiter.map_err(|error| Error::Start(error.to_string()))?;
                Ok::<_, Error>(Place::On(arbiter.handle()))
            } else {
                Ok(Place::Current)
            }
        };
        let (monitor, head) = (Monitor::new(), watch::Sender::new(ledger.head()));
        let watching = Watching {
            monitor: monitor.clone(),
            ledger: Arc::clone(&ledger),
            head: head.subscribe(),
        };
        let (health, upkeep) = (LedgerHealth::default(), CancellationToken::new());
        let bus_settings = BusSettings {
            instance,
            clock: self.clock.clone(),
            own_threads: owns_system,
            listeners: listeners.clone(),
            watermarks: watermarks.clone(),
            head,
            monitor: monitor.clone(),
            health: health.clone(),
        };
        let bus_ledger = Arc::clone(&ledger);
        let bus_place = place()?;
        let bus = bus_place.start(move || PluginBus::new(bus_settings, bus_ledger, plugins));
        if ledger.is_durable() {
            let counted = monitor.clone();
            let upkeep = Upkeep {
                ledger: Arc::clone(&ledger),
                clock: self.clock.clone(),
                retention: self.retention,
                health: health.clone(),
                lock: state_dir.map(|dir| dir.lock_file().clone()),
                on_error: Box::new(move || counted.ledger_failed()),
                stop: upkeep.clone(),
            };
            bus_place.spawn(upkeep.run());
        }
        let active = SharedSessions::default();
        let registry_settings = RegistrySettings {
            clock: self.clock.clone(),
            door: door.clone(),
            active: active.clone(),
            limits,
            monitor: monitor.clone(),
            held,
            held_seen_at,
            hears_holders: self.held_at_stop.hears_holders(),
        };
        let (registry_bus, registry_ledger) = (bus.clone(), Arc::clone(&ledger));
        let registry = place()?
            .start(move || SessionRegistry::new(registry_settings, registry_bus, registry_ledger));
        bus.do_send(AskForActive(registry.clone().recipient().downgrade()));
        let (reloads, reloader) = Reloader::new(self.on_reload, owns_system);
        let (hangups, hung_up) = mpsc::channel(1);
        let coordinator_settings = CoordinatorSettings {
            instance,
            clock: self.clock,
            budget,
            door: door.clone(),
            registry: registry.clone(),
            bus: bus.clone(),
            plugins: listeners,
            ledger,
            monitor,
            health: health.clone(),
            upkeep,
            teardown: self.teardown_steps.clone(),
            teardown_arbiter: owns_system.then(Arbiter::current),
            state_dir: self.state_dir,
            reports: report_slot,
            restart_expected: self.live.restart_expected,
            hangups: reloader.can_read().then_some(hangups),
            held_at_stop: self.held_at_stop,
            deferral: self.deferral.clone(),
            watchdog,
            owns_system,
        };
        let coordinator = place()?.start(move || ShutdownCoordinator::new(coordinator_settings));
        if self.handle_signals {
            coordinator.do_send(ListenForSignals);
        }
        // From here on a signal finds its handler, and whoever got the handle finds everyone.
        let died = |_| Error::Start("a thread of the supervisor died".into());
        bus.send(Ping).await.map_err(died)?;
        registry.send(Ping).await.map_err(died)?;
        coordinator.send(Ping).await.map_err(died)?;

        let hello = TellLifecycle {
            lifecycle: Lifecycle {
                hook: Hook::GatewayStart,
                reason: None,
                restart_expected_ms: None,
                active_sessions: 0,
            },
            deadline: Instant::now() + budget.lifecycle_timeout,
        };
        // Best effort, once: nobody waits for it, and the bus logs what fails.
        bus.do_send(hello);
        info!(%instance, "started");
        let supervisor = SessionSupervisor {
            instance,
            door,
            active,
            watermarks,
            registry,
            bus,
            coordinator,
            teardown_steps: self.teardown_steps,
            health,
            recovery: Arc::new(recovery),
            archive,
            reports,
            reloads,
            watching,
            deferral: self.deferral,
        };
        actix_rt::spawn(reloader.run(supervisor.clone(), hung_up));
        Ok(supervisor)
    }
}

/// Says what was found of the run before, in the log and in its report.
fn report_recovery(recovery: &Recovery, archive: Option<&ReportArchive>, cap: Duration) {
    if let Some(reason) = recovery.reason.filter(|_| recovery.found > 0) {
        let sessions = recovery.found;
        warn!(sessions, %reason, "ended the sessions that the run before had left active");
    }
    // It is of use to people alone, so a start does not fail for it.
    if let Some(Err(error)) = archive.map(|archive| archive.complete(recovery, cap)) {
        warn!(%error, "the report of the run before can't be completed");
    }
}
