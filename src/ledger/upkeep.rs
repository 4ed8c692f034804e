//! What a ledger needs while it is in use: a sign of life and a look at its files every second, and room.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Ledger, LedgerError, LedgerHealth};
use crate::clock::WallClock;
use crate::file_id::FileInUse;

/// How often this run says that it is alive: how exact the end of a session is that dies with it.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a sign of life may take before the ledger counts as unable to write.
const STALLED: Duration = Duration::from_secs(5);

/// How often to look for what nobody needs any more.
const RECLAIM_EVERY: Duration = Duration::from_secs(10);

/// The pause between two steps of letting go, in which others get their turn.
const RECLAIM_PAUSE: Duration = Duration::from_millis(20);

/// The upkeep of one ledger.
pub(crate) struct Upkeep {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: WallClock,
    /// How long ended sessions that nobody is owed are kept.
    pub(crate) retention: Duration,
    pub(crate) health: LedgerHealth,
    /// A file whose lock keeps other processes from the ledger, if there is one.
    pub(crate) lock: Option<FileInUse>,
    /// Called for each call of the ledger that failed.
    pub(crate) on_error: Box<dyn Fn() + Send + Sync>,
    pub(crate) stop: CancellationToken,
}

impl Upkeep {
    /// Runs until it is told to stop.
    pub(crate) async fn run(self) {
        let stop = self.stop.clone();
        let work = async {
            tokio::join!(self.stay_alive(), self.watch_files(), self.keep_room());
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn stay_alive(&self) {
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let mut noted = self.ledger.keep_alive(self.clock.now());
            let outcome = match timeout(STALLED, &mut noted).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.judge(&Err(LedgerError::late()));
                    // Another sign would only wait behind this one.
                    noted.await
                }
            };
            self.judge(&outcome);
        }
    }

    /// Takes note of how a sign of life went.
    fn judge(&self, noted: &Result<(), LedgerError>) {
        if noted.is_err() {
            (self.on_error)();
        }
        self.health.beat(noted);
    }

    /// Looks whether the files are where they were, until they are not.
    async fn watch_files(&self) {
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let (ledger, lock) = (Arc::clone(&self.ledger), self.lock.clone());
            // A disk that hangs must not hold up this thread; nor does one look overtake another.
            let look = move || check_files(&*ledger, lock.as_ref());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(look).await {
                (self.on_error)();
                self.health.lose(&error);
                return;
            }
        }
    }

    async fn keep_room(&self) {
        let mut next = Instant::now() + RECLAIM_EVERY;
        loop {
            tokio::time::sleep_until(next).await;
            while self.reclaim().await {
                sleep(RECLAIM_PAUSE).await;
            }
            next = Instant::now() + RECLAIM_EVERY;
        }
    }

    /// One step. Whether there is more to do at once.
    async fn reclaim(&self) -> bool {
        match self.ledger.reclaim(self.clock.now(), self.retention).await {
            Ok(reclaimed) => {
                for (plugin, events) in reclaimed.dropped {
                    warn!(
                        plugin,
                        events,
                        "removed for longer than the retention: what it was owed is dropped"
                    );
                }
                reclaimed.more
            }
            Err(error) => {
                (self.on_error)();
                warn!(%error, "the ledger can't let go of what nobody needs");
                false
            }
        }
    }
}

/// Whether the ledger and its lock are still where they were. Blocks as long as the disk does.
pub(crate) fn check_files(
    ledger: &dyn Ledger,
    lock: Option<&FileInUse>,
) -> Result<(), LedgerError> {
    match lock {
        Some(lock) if lock.is_gone() => Err(LedgerError::replaced(lock.path())),
        _ => ledger.check_files(),
    }
}
