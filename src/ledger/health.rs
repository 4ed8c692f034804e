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
    /// The last sign of life was not noted.
    beat_failed: bool,
    append_failed_at: Option<Instant>,
    /// The log says that it can't write.
    is_told: bool,
}

impl Writing {
    fn can_write(&self) -> bool {
        let is_over = |at: Instant| at.elapsed() >= APPENDS_RECOVER;
        !self.beat_failed && self.append_failed_at.is_none_or(is_over)
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
    /// seconds.
    pub(crate) fn can_write(&self) -> bool {
        self.lost().is_none() && self.writing().can_write()
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
        writing.append_failed_at = Some(Instant::now());
        writing.tell(error);
    }

    /// A sign of life was noted, or not.
    pub(super) fn beat(&self, noted: &Result<(), LedgerError>) {
        let mut writing = self.writing();
        writing.beat_failed = noted.is_err();
        match noted {
            Ok(()) if writing.is_told && writing.can_write() => {
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
        assert!(health.can_write());
        health.append_failed(&LedgerError::new("full"));
        health.beat(&Ok(()));
        assert!(!health.can_write());
        tokio::time::advance(APPENDS_RECOVER).await;
        assert!(health.can_write());
        health.beat(&Err(LedgerError::new("full")));
        assert!(!health.can_write());
        health.beat(&Ok(()));
        assert!(health.can_write());
    }

    #[test]
    fn a_lost_ledger_stays_lost() {
        let health = LedgerHealth::default();
        health.lose(&LedgerError::new("removed"));
        health.beat(&Ok(()));
        assert!(!health.can_write());
        assert!(health.lost().is_some());
    }
}
