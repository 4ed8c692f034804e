//! The report of a stop that is under way, as far as it goes. The thread that writes it looks at it,
//! too, when the coordinator can't say any more what goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::report::{Outcome, ShutdownReport, StepOutcome};
use super::watchdog;

/// The first of all steps, in which the door is closed and the reason of the stop recorded.
const DOOR_STEP: &str = "door";

/// A report that is being put together. Shared by clones.
#[derive(Debug, Clone)]
pub(super) struct Draft(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    report: ShutdownReport,
    /// The step that is under way.
    step: Option<String>,
}

impl State {
    fn broken_off(&self) -> ShutdownReport {
        let mut report = self.report.clone();
        report.held_by.clone_from(&self.step);
        report
    }
}

impl Draft {
    pub(super) fn new(report: ShutdownReport) -> Self {
        let step = Some(DOOR_STEP.into());
        Self(Arc::new(Mutex::new(State { report, step })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock, so its content is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The report as it stands.
    pub(super) fn report(&self) -> ShutdownReport {
        self.lock().report.clone()
    }

    /// Changes the report, or reads something of it.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut ShutdownReport) -> T) -> T {
        change(&mut self.lock().report)
    }

    /// Notes which step is under way from now on.
    pub(super) fn begin_step(&self, name: &str) {
        self.lock().step = Some(name.into());
    }

    /// The step that was under way is over.
    pub(super) fn end_step(&self, name: &str, took: Duration, outcome: StepOutcome) {
        let mut state = self.lock();
        state.step = None;
        state.report.add_step(name, took, outcome);
    }

    /// The report of a stop that is broken off now, whatever it was at.
    pub(super) fn broken_off(&self) -> ShutdownReport {
        self.lock().broken_off()
    }

    /// What is to be read of a stop that the watchdog ends. None if nobody can say.
    pub(super) fn for_watchdog(&self) -> Option<ShutdownReport> {
        // Whoever is stuck may have it.
        let mut report = self.0.try_lock().ok()?.broken_off();
        report.outcome = Outcome::Watchdog;
        report.exit_code = watchdog::EXIT_CODE;
        Some(report)
    }
}
