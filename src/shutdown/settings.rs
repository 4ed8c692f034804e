//! What the coordinator is told when it is made, and where it leaves its report.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::archive::ReportArchive;
use super::budget::Budget;
use super::deferral::Deferral;
use super::report::ShutdownReport;
use super::teardown::TeardownSteps;
use super::watchdog::Watchdog;
use crate::bus::{Listeners, PluginBus};
use crate::clock::WallClock;
use crate::error::Error;
use crate::event::InstanceId;
use crate::ledger::{Ledger, LedgerHealth};
use crate::monitor::Monitor;
use crate::registry::{Door, SessionRegistry};
use crate::session::EndReason;
use crate::state_dir::StateDir;

/// Where the report of the stop appears, once. The coordinator alone has it, so that those who wait
/// see when it is gone.
#[derive(Debug)]
pub(crate) struct ReportSlot(watch::Sender<Option<Arc<ShutdownReport>>>);

impl ReportSlot {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Fills the slot, unless it is filled already.
    pub(super) fn fill(&self, report: ShutdownReport) {
        self.0.send_if_modified(|slot| {
            let is_first = slot.is_none();
            slot.get_or_insert_with(|| Arc::new(report));
            is_first
        });
    }

    pub(super) fn is_filled(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn watch(&self) -> ReportWatch {
        ReportWatch(self.0.subscribe())
    }
}

/// Sees the report appear, or the coordinator go without one.
#[derive(Debug, Clone)]
pub(crate) struct ReportWatch(watch::Receiver<Option<Arc<ShutdownReport>>>);

impl ReportWatch {
    /// The report, when it is there. Needs no particular runtime.
    pub(crate) fn wait(
        &self,
    ) -> impl Future<Output = Result<Arc<ShutdownReport>, Error>> + Send + 'static {
        let mut slot = self.0.clone();
        async move {
            let filled = slot.wait_for(Option::is_some).await;
            filled
                .ok()
                .and_then(|report| report.clone())
                .ok_or(Error::Stopped)
        }
    }
}

/// The time that a shutdown has, and the downtime that it announces, from now on. Refused once a
/// shutdown is under way.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct Adjust {
    pub(crate) budget: Budget,
    pub(crate) restart_expected: Duration,
}

/// Asks how long hooks and drain of a stop may take together.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Duration")]
pub(crate) struct AskForCap;

/// The signals of this process are the coordinator's from now on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct ListenForSignals;

/// What becomes at a stop of the sessions that other programs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum HeldAtStop {
    /// They go on over a restart, if the ledger outlives the process, and end with a shutdown.
    #[default]
    GoOnOverRestart,
    /// They end: their holder goes too.
    #[cfg(feature = "cli")]
    End,
    /// They go on, whatever the reason, and no lease ends: no holder can reach this process.
    #[cfg(feature = "cli")]
    GoOn,
}

impl HeldAtStop {
    /// Whether they end with this process when it dies, too.
    pub(crate) fn end_at_death(self) -> bool {
        match self {
            Self::GoOnOverRestart => false,
            #[cfg(feature = "cli")]
            Self::End => true,
            #[cfg(feature = "cli")]
            Self::GoOn => false,
        }
    }

    /// Whether holders can reach this process.
    pub(crate) fn hears_holders(self) -> bool {
        match self {
            Self::GoOnOverRestart => true,
            #[cfg(feature = "cli")]
            Self::End => true,
            #[cfg(feature = "cli")]
            Self::GoOn => false,
        }
    }
}

/// What the coordinator is told when it is made.
pub(crate) struct CoordinatorSettings {
    pub(crate) instance: InstanceId,
    pub(crate) clock: WallClock,
    pub(crate) budget: Budget,
    pub(crate) door: Door,
    pub(crate) registry: Addr<SessionRegistry>,
    pub(crate) bus: Addr<PluginBus>,
    /// The plugins that hear of ends.
    pub(crate) plugins: Listeners,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) monitor: Monitor,
    pub(crate) health: LedgerHealth,
    /// Stops the upkeep of the ledger when it is dropped or cancelled.
    pub(crate) upkeep: CancellationToken,
    pub(crate) teardown: TeardownSteps,
    /// Where teardown steps run; with the coordinator if there is no such place.
    pub(crate) teardown_arbiter: Option<ArbiterHandle>,
    /// Held for as long as the coordinator lives.
    pub(crate) state_dir: Option<StateDir>,
    pub(crate) reports: ReportSlot,
    /// The downtime that a planned restart by signal announces.
    pub(crate) restart_expected: Duration,
    pub(crate) held_at_stop: HeldAtStop,
    /// Keeps requests back, if anybody has to be heard before a stop begins.
    pub(crate) deferral: Option<Deferral>,
    /// Who reloads on SIGHUP, if anybody can.
    pub(crate) hangups: Option<mpsc::Sender<()>>,
    /// Ends the process, if that was left to the supervisor.
    pub(crate) watchdog: Option<Watchdog>,
    /// Whether the actix system is the supervisor's own, and is stopped in the end.
    pub(crate) owns_system: bool,
}

impl CoordinatorSettings {
    /// Whether the sessions of holders go on for the next process when this one stops for `reason`.
    pub(super) fn keeps_held(&self, reason: EndReason) -> bool {
        match self.held_at_stop {
            HeldAtStop::GoOnOverRestart => reason == EndReason::Restart && self.is_durable(),
            #[cfg(feature = "cli")]
            HeldAtStop::End => false,
            #[cfg(feature = "cli")]
            HeldAtStop::GoOn => self.is_durable(),
        }
    }

    /// Where the report is kept, if anywhere.
    pub(super) fn archive(&self) -> Option<ReportArchive> {
        let state_dir = self.state_dir.as_ref()?;
        Some(ReportArchive::new(state_dir.path()))
    }

    /// The stop is over, and this is what came of it.
    pub(super) fn end(&self, report: ShutdownReport) {
        let exit_code = report.exit_code;
        self.reports.fill(report);
        if let Some(watchdog) = &self.watchdog {
            watchdog.over(exit_code);
        }
    }

    /// Whether the ledger outlives the process.
    pub(super) fn is_durable(&self) -> bool {
        self.ledger.is_durable()
    }
}
