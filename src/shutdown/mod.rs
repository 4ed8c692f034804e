//! The shutdown: what is left ends, everyone is told, and it takes no longer than its cap.
//!
//! The phases: door closed, `gateway_shutdown` (and `gateway_pre_restart`) hooks, session-end
//! drain, the plugins let go of, teardown steps, report, stop. The coordinator has a thread of its
//! own, where signals arrive too, so that no blocked thread can stop its clock.

mod archive;
mod budget;
mod coordinator;
mod deferral;
mod draft;
mod footprint;
mod report;
mod sequence;
mod settings;
mod signal;
mod teardown;
mod watchdog;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use jiff::Timestamp;
use tokio::time::Instant;

pub(crate) use self::archive::ReportArchive;
pub(crate) use self::budget::Budget;
#[cfg(feature = "cli")]
pub(crate) use self::budget::MAX_CAP;
pub use self::budget::MIN_CAP;
pub use self::coordinator::ShutdownCoordinator;
pub(crate) use self::deferral::Deferral;
pub use self::report::{
    DrainReport, Outcome, PluginReport, RecoveryReport, ShutdownReport, StepOutcome, StepReport,
};
pub(crate) use self::settings::{
    Adjust, AskForCap, CoordinatorSettings, HeldAtStop, ListenForSignals, ReportSlot, ReportWatch,
};
pub(crate) use self::signal::Signal;
#[cfg(feature = "cli")]
pub(crate) use self::signal::is_ignored;
pub(crate) use self::teardown::TeardownSteps;
pub(crate) use self::watchdog::Watchdog;
use crate::error::Error;
use crate::session::EndReason;

/// The answer to a request for a shutdown before it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownNotice {
    /// Why the sessions end: the reason of the request that was first.
    pub reason: EndReason,
    /// When hooks and drain are over at the latest.
    pub deadline_at: Timestamp,
}

/// Begins the shutdown, as [`Shutdown`] does, and answers at once.
#[derive(Debug, Clone, Message)]
#[rtype(result = "ShutdownNotice")]
pub(crate) struct BeginShutdown(pub(crate) Shutdown);

/// Asks for the shutdown, and answers its report when it is over. A second request joins the
/// first: its own reason does not count.
///
/// The clock starts when the message is made, not when it arrives.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Arc<ShutdownReport>, Error>")]
#[must_use = "a request does nothing until it is sent"]
#[non_exhaustive]
pub struct Shutdown {
    restart_expected: Option<Duration>,
    trigger: String,
    asked_at: Instant,
    /// The signal that asked, if one did.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "to be passed on"))]
    signal: Option<Signal>,
    /// What the process exits with, where that is not the stop's to say.
    exit_code: Option<u8>,
}

impl Shutdown {
    /// A shutdown for good, from now on: sessions end with [`EndReason::Shutdown`].
    pub fn now() -> Self {
        Self {
            restart_expected: None,
            trigger: "handle".into(),
            asked_at: Instant::now(),
            signal: None,
            exit_code: None,
        }
    }

    /// A planned restart, from now on, with the downtime to expect, which may be zero: sessions
    /// end with [`EndReason::Restart`].
    pub fn for_restart(downtime: Duration) -> Self {
        Self {
            restart_expected: Some(downtime),
            ..Self::now()
        }
    }

    /// Says who asked, for the report: `"handle"` unless set.
    pub fn with_trigger(mut self, trigger: impl Into<String>) -> Self {
        self.trigger = trigger.into();
        self
    }

    /// Says that a signal asked.
    pub(crate) fn by_signal(self, signal: Signal) -> Self {
        Self {
            signal: Some(signal),
            ..self.with_trigger(signal.as_str())
        }
    }

    /// The signal that asked, if one did.
    #[cfg(feature = "cli")]
    pub(crate) fn signal(&self) -> Option<Signal> {
        self.signal
    }

    /// Who asked.
    #[cfg(feature = "cli")]
    pub(crate) fn trigger(&self) -> &str {
        &self.trigger
    }

    /// When it was asked for.
    #[cfg(feature = "cli")]
    pub(crate) fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// Has it begin now, whenever it was made.
    pub(crate) fn beginning_now(self) -> Self {
        Self {
            asked_at: Instant::now(),
            ..self
        }
    }

    /// Has the process exit with this, unless the stop is broken off. Its outcome is in the report
    /// alone then.
    pub(crate) fn with_exit_code(mut self, code: u8) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// Why the sessions end.
    pub fn reason(&self) -> EndReason {
        match self.restart_expected {
            Some(_) => EndReason::Restart,
            None => EndReason::Shutdown,
        }
    }
}
