//! Whether the ledger can write, and whether it still has its files.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::LedgerError;

/// How long an append that failed counts. A sign of life is a small write that may succeed on a disk
/// that has no room for more, so it says nothing of appends by itself.
const APPENDS_RECOVER: Duration = Duration::from_secs(10);

/// How the ledger is. Shared by clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct LedgerHealth(Arc<Health>);

#[derive(Debug, Default)]
struct Health {
    writing: Mutex<Writing>,
    /// Why nothing that it writes will be found again, if so. For good.
    lost: OnceLock<LedgerError>,
}

#[derive(Debug, Default)]
struct Writing {
    /// Why the last sign of life was not noted, if it was not.
    beat_failed: Option<LedgerError>,
    append_failed: Option<(Instant, LedgerError)>,
    /// The log says that it can't write.
    is_told: bool,
}

impl Writing {
    fn check(&self) -> Result<(), &LedgerError> {
        let counts = |(at, _): &&(Instant, LedgerError)| at.elapsed() < APPENDS_RECOVER;
        let append_failed = self.append_failed.as_ref().filter(counts);
        let error = append_failed.map(|(_, error)| error);
        error.or(self.beat_failed.as_ref()).map_or(Ok(()), Err)
    }

    fn tell(&mut self, error: &LedgerError) {
        if !std::mem::replace(&mut self.is_told, true) {
            warn!(%error, "the ledger can't write: not ready until it can");
        }
    }
}

impl LedgerHealth {
    fn writing(&self) -> MutexGuard<'_, Writing> {
        // Nothing that can panic runs under this lock.
        self.0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has its files, noted the last sign of life, and has refused no append for ten
    /// seconds; else why not.
    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        match self.lost() {
            Some(error) => Err(error.clone()),
            None => self.writing().check().map_err(LedgerError::clone),
        }
    }

    /// Why nothing may be recorded any more, if so.
    pub(crate) fn lost(&self) -> Option<&LedgerError> {
        self.0.lost.get()
    }

    /// The files are gone: what is recorded from now on would be found by nobody.
    pub(crate) fn lose(&self, error: &LedgerError) {
        if self.0.lost.set(error.clone()).is_ok() {
            error!(%error, "starts and ends are refused from now on: start again");
        }
    }

    /// An append was refused, or not answered in time.
    pub(crate) fn append_failed(&self, error: &LedgerError) {
        let mut writing = self.writing();
        writing.append_failed = Some((Instant::now(), error.clone()));
        writing.tell(error);
    }

    /// A sign of life was noted, or not.
    pub(super) fn beat(&self, noted: &Result<(), LedgerError>) {
        let mut writing = self.writing();
        writing.beat_failed = noted.as_ref().err().cloned();
        match noted {
            Ok(()) if writing.is_told && writing.check().is_ok() => {
                writing.is_told = false;
                info!("the ledger can write again");
            }
            Ok(()) => {}
            Err(error) => writing.tell(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_alone_does_not_make_up_for_an_append_that_failed() {
        let health = LedgerHealth::default();
        assert!(health.check().is_ok());
        health.append_failed(&LedgerError::new("full"));
        health.beat(&Ok(()));
        assert!(health.check().is_err());
        tokio::time::advance(APPENDS_RECOVER).await;
        assert!(health.check().is_ok());
        health.beat(&Err(LedgerError::new("full")));
        assert!(health.check().is_err());
        health.beat(&Ok(()));
        assert!(health.check().is_ok());
    }

    #[test]
    fn a_lost_ledger_stays_lost() {
        let health = LedgerHealth::default();
        health.lose(&LedgerError::new("removed"));
        health.beat(&Ok(()));
        assert!(health.check().is_err());
        assert!(health.lost().is_some());
    }
}
