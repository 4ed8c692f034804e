//! A shutdown, as a lane sees it, and what the lane achieved in it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Failure, Lane, NOWHERE, Opening};
use crate::bus::PluginState;
use crate::bus::unrecorded::ToldUnrecorded;
use crate::event::{Event, Hook, Seq};
use crate::monitor::DrainStanding;

/// How many sessions a tally names.
pub(crate) const MAX_UNFINISHED: usize = 1000;

/// A shutdown, as a lane sees it.
#[derive(Debug)]
pub(super) struct Drain {
    begun: Instant,
    /// The places of the ends that the shutdown recorded.
    pub(super) ends: Option<RangeInclusive<Seq>>,
    pub(super) timed_out: bool,
    pub(super) lost: u64,
}

/// What a lane achieved in a drain. Counts are of the ends that the shutdown recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LaneTally {
    pub(crate) state: PluginState,
    pub(crate) delivered: u64,
    /// Neither delivered nor dead.
    pub(crate) owed: u64,
    /// The part of `owed` that was tried.
    pub(crate) failed: u64,
    pub(crate) dead: u64,
    /// Given up by the ledger before the lane could read it.
    pub(crate) lost: u64,
    /// Events from before the shutdown that are still owed.
    pub(crate) owed_before: u64,
    /// A delivery was under way at the cut.
    pub(crate) timed_out: bool,
    pub(crate) duration: Duration,
    pub(crate) last_error: Option<Arc<str>>,
    /// How many of the plugin's threads hang.
    pub(crate) hung_threads: u64,
    /// The places of ends that are owed, at most 1,000.
    pub(crate) unfinished: Vec<Seq>,
    /// Of the ends that the ledger did not record.
    pub(crate) unrecorded: ToldUnrecorded,
}

impl Drain {
    /// Counts the ends in `gap`, which the log keeps no longer.
    pub(super) fn lose(&mut self, gap: &RangeInclusive<Seq>) {
        if let Some(ends) = &self.ends {
            let after = (gap.end() + 1).min(ends.end() + 1);
            self.lost += after.saturating_sub(*gap.start().max(ends.start()));
        }
    }
}

impl LaneTally {
    /// What of it is told while the drain goes on, with the place of its `first` end.
    pub(in crate::bus) fn standing(&self, first: Seq) -> DrainStanding {
        let index = |seq: &Seq| usize::try_from(seq.checked_sub(first)?).ok();
        DrainStanding {
            delivered: self.delivered,
            owed: self.owed,
            dead: self.dead,
            lost: self.lost,
            unfinished: self.unfinished.iter().filter_map(index).collect(),
        }
    }
}

impl Lane {
    pub(super) fn is_cut(&self, now: Instant) -> bool {
        self.cut.is_some_and(|cut| now >= cut)
    }

    /// When deliveries are cut, if a shutdown is under way.
    pub(in crate::bus) fn cut(&self) -> Option<Instant> {
        self.cut
    }

    /// A shutdown was asked for: no delivery takes longer than until `cut`.
    pub(in crate::bus) fn set_cut(&mut self, cut: Instant) {
        self.cut = Some(cut);
    }

    /// The shutdown has recorded `ends`. If the lane is waiting after a failure, it tries once
    /// more at once, unless the plugin is in quarantine.
    pub(in crate::bus) fn begin_drain(&mut self, ends: Option<RangeInclusive<Seq>>, now: Instant) {
        (self.retry_at, self.left_alone_until) = (None, None);
        self.set_head(ends.as_ref().map_or(0, |ends| *ends.end()));
        let mut drain = Drain {
            begun: now,
            ends,
            timed_out: false,
            lost: 0,
        };
        // The ends are in the log before the lane hears of the shutdown.
        drain.lose(&self.gap);
        self.drain = Some(drain);
    }

    /// Whether there is work that only the cut keeps from being done: not what waits for its next
    /// attempt.
    pub(in crate::bus) fn has_work(&self, now: Instant) -> bool {
        let waits = self.is_held() || self.waits_until().is_some_and(|at| at > now);
        let has_more = !self.pending.is_empty() || self.read_to < self.head;
        self.reading || self.opening == Opening::UnderWay || has_more && !waits
    }

    /// Whether the plugin has had all that it can be told: nothing is under way, and nothing waits
    /// but parked events.
    pub(in crate::bus) fn is_idle(&self) -> bool {
        let has_more = !self.pending.is_empty() || self.read_to < self.head;
        let waits = self.is_held() || self.waits_until().is_some();
        let is_open = self.opening == Opening::Over;
        is_open && !has_more && !self.reading && !self.is_flying() && !waits
    }

    /// Whether an event of this incarnation has to be told before `event`.
    pub(in crate::bus) fn is_behind_parked(&self, event: &Event) -> bool {
        self.parked.is_behind(event)
    }

    /// The cut came before this lane had done what it could.
    pub(in crate::bus) fn set_timed_out(&mut self) {
        self.last_error = Some(Failure::TimedOut(None).message());
        if let Some(drain) = &mut self.drain {
            drain.timed_out = true;
        }
    }

    /// Delivers nothing any more.
    pub(in crate::bus) fn close(&mut self) {
        self.is_closed = true;
    }

    /// What came of the drain. `unread_before` is how many events for this plugin lie unread
    /// before the shutdown's.
    pub(in crate::bus) fn tally(&self, now: Instant, unread_before: u64) -> LaneTally {
        let Some(drain) = &self.drain else {
            return LaneTally::default();
        };
        let mut tally = LaneTally {
            owed_before: unread_before.saturating_sub(self.parked.count_after(self.read_to)),
            timed_out: drain.timed_out,
            duration: now - drain.begun,
            last_error: self.last_error.clone(),
            ..LaneTally::default()
        };
        // An empty range where the shutdown ended nothing, or this plugin does not hear of ends.
        let ends = match &drain.ends {
            Some(ends) if self.hooks.contains(Hook::SessionEnd) => ends.clone(),
            _ => NOWHERE,
        };
        let count_owed = |tally: &mut LaneTally, seq: Seq, tried: bool| {
            if !ends.contains(&seq) {
                tally.owed_before += 1;
                return;
            }
            tally.owed += 1;
            tally.failed += u64::from(tried);
            if tally.unfinished.len() < MAX_UNFINISHED {
                tally.unfinished.push(seq);
            }
        };
        let in_flight = self.log_flights().flat_map(|flight| flight.events.iter());
        for event in in_flight {
            count_owed(&mut tally, event.recorded_seq(), true);
        }
        for (seq, tried) in self.pending.iter() {
            count_owed(&mut tally, seq, tried);
        }
        for (seq, tried) in self.parked.iter() {
            count_owed(&mut tally, seq, tried);
        }
        tally.dead = self.parked.dead().count_in(&ends) as u64;
        if !ends.is_empty() {
            let unread = (self.read_to + 1).max(*ends.start())..=*ends.end();
            // Counted at once: there may be a million, and this is asked for again and again.
            tally.owed += (unread.end() + 1).saturating_sub(*unread.start());
            let room = MAX_UNFINISHED - tally.unfinished.len();
            tally.unfinished.extend(unread.take(room));
            let total = ends.end() - ends.start() + 1;
            tally.lost = drain.lost;
            tally.delivered = total.saturating_sub(tally.owed + tally.dead + tally.lost);
        }
        tally.unfinished.sort_unstable();
        tally
    }

    /// The place of the first end that the shutdown recorded, or 0.
    pub(in crate::bus) fn first_end(&self) -> Seq {
        let ends = self.drain.as_ref().and_then(|drain| drain.ends.as_ref());
        ends.map_or(0, |ends| *ends.start())
    }

    /// The part of the log before the shutdown's ends that this lane has not read.
    pub(in crate::bus) fn unread_before(&self) -> Option<RangeInclusive<Seq>> {
        let ends = self.drain.as_ref()?.ends.as_ref();
        let last = ends.map_or(self.head, |ends| ends.start() - 1);
        (self.read_to < last).then(|| self.read_to + 1..=last)
    }

    /// Whether this lane listens to the hook of `event`.
    pub(in crate::bus) fn listens_to(&self, event: &Event) -> bool {
        self.hooks.contains(event.hook())
    }
}
