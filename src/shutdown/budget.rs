//! How the time of a shutdown is divided. All of it is counted from the request.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest cap that can be kept.
pub const MIN_CAP: Duration = Duration::from_millis(100);

/// The longest cap.
pub(crate) const MAX_CAP: Duration = Duration::from_secs(600);

/// The longest teardown, ten years: longer ones are not to be reckoned with.
const MAX_TEARDOWN: Duration = Duration::from_secs(10 * 31_557_600);

/// The time that a shutdown may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Lifecycle hooks and session-end drain together, from the request.
    pub(crate) cap: Duration,
    /// Each lifecycle hook, inside the cap.
    pub(crate) lifecycle_timeout: Duration,
    /// All teardown steps together, after the cap at the latest.
    pub(crate) teardown: Duration,
    /// What is kept of the cap for the exit of the process itself: it moves the cut and what goes by it, not
    /// the end.
    pub(super) exit: Duration,
}

impl Budget {
    pub(crate) fn new(cap: Duration, lifecycle_timeout: Duration, teardown: Duration) -> Self {
        Self {
            cap,
            lifecycle_timeout,
            teardown,
            exit: Duration::ZERO,
        }
    }

    /// Keeps so much of the cap for the exit of the process, within reason.
    pub(super) fn keep_for_exit(&mut self, time: Duration) {
        self.exit = time.min(self.cap / 10);
    }

    /// The usual lifecycle time-out for a cap.
    pub(crate) fn default_lifecycle_timeout(cap: Duration) -> Duration {
        Duration::from_millis(250).min(cap / 4)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.cap < MIN_CAP {
            return Err(format!("the cap must be at least {MIN_CAP:?}"));
        }
        if self.cap > MAX_CAP {
            return Err(format!("the cap must be at most {MAX_CAP:?}"));
        }
        if self.teardown > MAX_TEARDOWN {
            return Err(format!("the teardown must be at most {MAX_TEARDOWN:?}"));
        }
        if self.lifecycle_timeout > self.cap / 4 {
            return Err("the lifecycle time-out must be at most a quarter of the cap".into());
        }
        Ok(())
    }

    /// What is kept of the cap for what comes after the cut: lanes that count what they owe, and the report
    /// so far. The report itself has time of its own, from the teardown's.
    fn reserve(&self) -> Duration {
        self.cap - Self::cut_after(self.cap)
    }

    /// How long after the request deliveries are cut, with this cap, where the process takes no time
    /// to exit. The rest is for lanes to count, and to note how far the report is.
    pub(crate) fn cut_after(cap: Duration) -> Duration {
        cap - Duration::from_millis(50).min(cap / 10)
    }

    /// When deliveries are cut.
    pub(crate) fn cut(&self, asked_at: Instant) -> Instant {
        asked_at + Self::cut_after(self.cap) - self.exit
    }

    /// When ends are recorded no further: what the ledger has by then is delivered, and the others
    /// are told unrecorded, before the cut.
    pub(crate) fn record_until(&self, asked_at: Instant) -> Instant {
        self.cut(asked_at) - Duration::from_millis(250).min(self.cap / 8)
    }

    /// When lanes count what they could not deliver no further.
    pub(crate) fn lanes_count(&self, asked_at: Instant) -> Instant {
        self.cut(asked_at) + self.reserve() / 8
    }

    /// When the coordinator goes on, whether it has heard of everyone or not. The lanes answer at
    /// the cut, so until then something of ours would have to be stuck.
    pub(crate) fn give_up(&self, asked_at: Instant) -> Instant {
        self.cut(asked_at) + self.reserve() / 5 * 4
    }

    /// When teardown steps are waited for no longer. The rest is for the report.
    pub(crate) fn torn_down(&self, asked_at: Instant) -> Instant {
        self.end(asked_at) - self.end_reserve()
    }

    /// When the last word is written of a stop that does not get over by itself.
    pub(crate) fn last_word(&self, asked_at: Instant) -> Instant {
        self.end(asked_at) - self.end_reserve() / 2
    }

    fn end_reserve(&self) -> Duration {
        Duration::from_millis(50).min(self.teardown / 4)
    }

    /// When everything is over.
    pub(crate) fn end(&self, asked_at: Instant) -> Instant {
        asked_at + self.cap + self.teardown
    }

    /// How long to wait for a ledger that completes nothing.
    pub(crate) fn ledger_patience(&self) -> Duration {
        Duration::from_millis(250).min(self.cap / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_is_cut_early_enough_to_write_the_report() {
        let start = Instant::now();
        let millis = Duration::from_millis;
        let budget = |cap| Budget::new(millis(cap), millis(25), millis(1000));
        let after = |at: Instant| at - start;
        assert_eq!(after(budget(2000).cut(start)), millis(1950));
        assert_eq!(after(budget(120).cut(start)), millis(108));
        assert_eq!(after(budget(2000).record_until(start)), millis(1700));
        assert_eq!(after(budget(120).record_until(start)), millis(93));
        assert_eq!(after(budget(2000).end(start)), millis(3000));
        let mut large = budget(2000);
        large.keep_for_exit(millis(70));
        assert_eq!(after(large.cut(start)), millis(1880));
        assert_eq!(after(large.give_up(start)), millis(1920));
        assert_eq!(after(large.end(start)), millis(3000));
        large.keep_for_exit(millis(7000));
        assert_eq!(after(large.cut(start)), millis(1750));
        assert!(budget(99).check().is_err());
        assert!(budget(100).check().is_ok());
        assert!(budget(600_000).check().is_ok());
        assert!(budget(600_001).check().is_err());
    }
}
