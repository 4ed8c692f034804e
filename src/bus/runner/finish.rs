//! The end of a drain: when a lane is done with it, and what it comes to.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::super::lane::LaneTally;
use super::{Drained, LaneRunner};
use crate::event::Seq;

/// How long the count of a backlog may take at the end of a drain.
const COUNT_TIMEOUT: Duration = Duration::from_millis(20);

/// How long a plugin that was cut off may take to notice it, before it counts as hanging.
const NOTICE_PATIENCE: Duration = Duration::from_millis(5);

impl LaneRunner {
    /// Whether the drain is over for this lane: nothing is under way, and there is nothing to do
    /// before the cut. Who waits for it, then.
    pub(super) fn take_finished(&mut self, wake_at: Option<Instant>) -> Option<Drained> {
        let cut = self.lane.cut()?;
        let at_cut = Instant::now() >= cut;
        if at_cut && !self.lane.is_flying() {
            if self.lane.has_work(Instant::now()) {
                self.lane.set_timed_out();
            }
            return self.drained.take();
        }
        let waits_past_cut = wake_at.is_none_or(|at| at >= cut);
        // A ledger that does not record the ends may not record acknowledgements either, and what
        // it left unrecorded has to be told before the cut.
        let is_stalled = |drained: &Drained| self.recording && !drained.unrecorded.is_empty();
        let for_ledger = usize::from(self.drained.as_ref().is_some_and(is_stalled));
        // Nor does a stop wait for what an operator wants with dead letters.
        let for_letters = usize::from(self.operations.is_changing_letters());
        let is_over = self.tasks.len() == for_ledger + for_letters && waits_past_cut;
        is_over.then(|| self.drained.take()).flatten()
    }

    pub(super) async fn finish(&mut self, count_by: Instant) -> LaneTally {
        let unread = match self.lane.unread_before() {
            Some(range) => self.count_for_plugin(range, count_by).await,
            None => 0,
        };
        let mut tally = self.lane.tally(Instant::now(), unread);
        tally.state = self.state();
        let notice_by = count_by.min(Instant::now() + NOTICE_PATIENCE);
        tally.hung_threads = self.host.hung_threads(notice_by).await as u64;
        let first = self.lane.first_end();
        self.monitor.progressed(|| tally.standing(first), true);
        self.lane.close();
        if tally.owed + tally.dead + tally.lost + tally.owed_before > 0 || tally.timed_out {
            warn!(
                delivered = tally.delivered,
                owed = tally.owed,
                failed = tally.failed,
                dead = tally.dead,
                lost = tally.lost,
                owed_before = tally.owed_before,
                timed_out = tally.timed_out,
                hung_threads = tally.hung_threads,
                last_error = tally.last_error.as_deref(),
                "drained, but not everything was delivered"
            );
        } else {
            info!(delivered = tally.delivered, "drained");
        }
        tally
    }

    /// How many events in `range` of the log are for this plugin; all of them where the ledger
    /// does not tell soon, by `until` at the latest.
    async fn count_for_plugin(&self, range: RangeInclusive<Seq>, until: Instant) -> u64 {
        const PAGE: usize = 4096;
        let until = until.min(Instant::now() + COUNT_TIMEOUT);
        let count = async {
            let (mut after, mut count) = (range.start() - 1, 0);
            while after < *range.end() {
                let page = self.ledger.read(after, PAGE).await.ok()?;
                let last = page.events.last()?.recorded_seq();
                let inside = page
                    .events
                    .iter()
                    .take_while(|it| it.recorded_seq() <= *range.end());
                count += inside.filter(|event| self.lane.listens_to(event)).count() as u64;
                after = last;
                // A ledger in memory never makes this wait, so the clock would not be looked at.
                if Instant::now() >= until {
                    return None;
                }
                tokio::task::yield_now().await;
            }
            Some(count)
        };
        let counted = tokio::time::timeout_at(until, count).await;
        let all = range.end() - range.start() + 1;
        counted.ok().flatten().unwrap_or(all)
    }
}
