//! What a ledger needs while it is in use: a sign of life every second, and room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Ledger, LedgerError};
use crate::clock::WallClock;

/// How often this run says that it is alive: how exact the end of a session is that dies with it.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a sign of life may take before the ledger counts as unable to write.
const STALLED: Duration = Duration::from_secs(5);

/// How often to look for what nobody needs any more.
const RECLAIM_EVERY: Duration = Duration::from_secs(10);

/// The pause between two steps of letting go, in which others get their turn.
const RECLAIM_PAUSE: Duration = Duration::from_millis(20);

/// Whether the ledger could write when it last tried. Shared.
#[derive(Debug, Clone)]
pub(crate) struct LedgerHealth(Arc<AtomicBool>);

impl Default for LedgerHealth {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl LedgerHealth {
    pub(crate) fn can_write(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upkeep of one ledger.
pub(crate) struct Upkeep {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: WallClock,
    /// How long ended sessions that nobody is owed are kept.
    pub(crate) retention: Duration,
    pub(crate) health: LedgerHealth,
    pub(crate) stop: CancellationToken,
}

impl Upkeep {
    /// Runs until it is told to stop.
    pub(crate) async fn run(self) {
        let stop = self.stop.clone();
        let work = async {
            tokio::join!(self.stay_alive(), self.keep_room());
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
                    self.judge(Err(LedgerError::late()));
                    // Another sign would only wait behind this one.
                    noted.await
                }
            };
            self.judge(outcome);
        }
    }

    fn judge(&self, noted: Result<(), LedgerError>) {
        let could = self.health.0.swap(noted.is_ok(), Ordering::Relaxed);
        match noted {
            Ok(()) if !could => info!("the ledger can write again"),
            Err(error) if could => {
                warn!(%error, "the ledger can't write: not ready until it can");
            }
            _ => {}
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
                warn!(%error, "the ledger can't let go of what nobody needs");
                false
            }
        }
    }
}
