//! Teardown steps: what the embedding program has to take down after its sessions have ended.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::ArbiterHandle;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::report::StepOutcome;

type Run = Box<dyn FnOnce() -> LocalBoxFuture<'static, anyhow::Result<()>> + Send>;

/// A step with a name.
pub(super) struct TeardownStep {
    pub(super) name: String,
    run: Run,
}

/// The steps in the order in which they were added. Shared, so that steps can be added for as
/// long as the teardown has not begun.
#[derive(Clone, Default)]
pub(crate) struct TeardownSteps {
    steps: Arc<Mutex<Vec<TeardownStep>>>,
}

impl fmt::Debug for TeardownSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TeardownSteps")
    }
}

impl TeardownSteps {
    pub(crate) fn add<F, R>(&self, name: impl Into<String>, run: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.steps().push(TeardownStep::new(name, run));
    }

    /// Puts a step before those that are there.
    #[cfg(feature = "actix-web")]
    pub(crate) fn add_first<F, R>(&self, name: impl Into<String>, run: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.steps().insert(0, TeardownStep::new(name, run));
    }

    fn steps(&self) -> MutexGuard<'_, Vec<TeardownStep>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Vec<TeardownStep> {
        std::mem::take(&mut self.steps())
    }
}

impl TeardownStep {
    fn new<F, R>(name: impl Into<String>, run: F) -> Self
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + 'static,
    {
        Self {
            name: name.into(),
            run: Box::new(move || Box::pin(run())),
        }
    }

    /// Runs the step on `arbiter`, or here if there is none, for at most `limit`. Not on the
    /// coordinator's own thread, whose clock a step that blocks would stop.
    pub(super) async fn run(
        self,
        arbiter: Option<&ArbiterHandle>,
        limit: Duration,
    ) -> (StepOutcome, Duration) {
        let began = Instant::now();
        let (sender, result) = oneshot::channel();
        let run = self.run;
        match arbiter {
            Some(arbiter) => {
                arbiter.spawn_fn(move || {
                    actix_rt::spawn(async move { sender.send(run().await) });
                });
            }
            None => {
                actix_rt::spawn(async move { sender.send(run().await) });
            }
        }
        let step = &*self.name;
        let outcome = match timeout(limit, result).await {
            Ok(Ok(Ok(()))) => StepOutcome::Ok,
            Ok(Ok(Err(error))) => {
                warn!(step, error = format!("{error:#}"), "teardown step failed");
                StepOutcome::Failed
            }
            Ok(Err(_)) => {
                warn!(step, "teardown step panicked, or its thread is gone");
                StepOutcome::Failed
            }
            Err(_) => {
                warn!(step, "teardown step ran out of time");
                StepOutcome::TimedOut
            }
        };
        (outcome, began.elapsed())
    }
}
