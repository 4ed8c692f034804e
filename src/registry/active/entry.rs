//! What the table has of one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::event::{OpenSession, Seq};
use crate::ledger::SessionRecord;
use crate::session::Session;

/// A moment, in nanoseconds from the making of the table on: half as large as an `Instant`, of which
/// a million sessions have two each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// How long `self` is after `earlier`.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let nanos = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// A moment that moves on while others look.
#[derive(Debug)]
pub(super) struct AtomicMoment(AtomicI64);

impl AtomicMoment {
    pub(super) fn new(Moment(at): Moment) -> Self {
        Self(AtomicI64::new(at))
    }

    pub(super) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, Moment(at): Moment) {
        self.0.store(at, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: Arc<Session>,
    pub(super) place: Place,
    /// When the session started, by the monotonic clock.
    pub(super) born: Moment,
    /// When it was last started, started again, or touched.
    pub(super) touched: AtomicMoment,
}

impl Entry {
    pub(super) fn open(&self) -> OpenSession {
        OpenSession::new(Arc::clone(&self.session), self.place.seq())
    }

    pub(super) fn record(&self) -> SessionRecord {
        SessionRecord::active(Arc::clone(&self.session), self.place.seq())
    }
}

/// The place of a start in the log, and whether the session's end is being recorded: in one word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(u64);

impl Place {
    /// No log is so long that its places need the last bit.
    pub(super) fn of(start_seq: Seq) -> Self {
        Self(start_seq << 1)
    }

    pub(super) fn seq(self) -> Seq {
        self.0 >> 1
    }

    pub(super) fn is_ending(self) -> bool {
        self.0 & 1 == 1
    }

    pub(super) fn set_ending(&mut self, ending: bool) {
        self.0 = self.seq() << 1 | u64::from(ending);
    }
}
