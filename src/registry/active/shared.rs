//! The table of active sessions, which everybody may look into.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{ActiveSessions, Expiry, StartPlan, TakenSessions};
use crate::event::{OpenSession, Seq};
use crate::filter::SessionFilter;
use crate::ledger::SessionRecord;
use crate::session::{EndReason, HolderId, Incarnation, NewSession, Session, SessionId};

/// The active sessions, shared: the registry alone decides who is among them, and whoever has a
/// handle may look one up and note that it is in use without asking the registry.
///
/// Each method takes the lock for itself and answers what is the caller's own, so that none is held
/// on the way into another. What a method is given to call must not come back here.
#[derive(Clone, Default)]
pub(crate) struct SharedSessions(Arc<RwLock<ActiveSessions>>);

impl fmt::Debug for SharedSessions {
    /// Without the sessions, which may be a million, and nobody's to log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SharedSessions");
        shown.field("len", &self.len()).finish_non_exhaustive()
    }
}

impl SharedSessions {
    fn read(&self) -> RwLockReadGuard<'_, ActiveSessions> {
        // A panic under the lock is a defect of ours; going on with the rest loses less.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ActiveSessions> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::registry) fn len(&self) -> usize {
        self.read().len()
    }

    pub(in crate::registry) fn get(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.read().get(id).cloned()
    }

    pub(in crate::registry) fn open(&self, id: &SessionId) -> Option<OpenSession> {
        self.read().open(id)
    }

    /// The active session of this id.
    pub(crate) fn record(&self, id: &SessionId) -> Option<SessionRecord> {
        self.read().record(id)
    }

    /// Notes activity. False when the session is not active, or only in another incarnation.
    pub(crate) fn touch(
        &self,
        id: &SessionId,
        incarnation: Option<Incarnation>,
        now: Instant,
    ) -> bool {
        self.read().touch(id, incarnation, now)
    }

    /// The first `limit` active sessions after the place `after` that meet `filter` now and whose end
    /// is not under way, in the order of their starts.
    pub(in crate::registry) fn list(
        &self,
        filter: &SessionFilter,
        wall: Timestamp,
        after: Seq,
        limit: usize,
    ) -> Vec<SessionRecord> {
        let (active, now) = (self.read(), Instant::now());
        let matching = active.matching(filter, now, wall, after);
        matching.take(limit).collect()
    }

    pub(in crate::registry) fn count_matching(
        &self,
        filter: &SessionFilter,
        wall: Timestamp,
    ) -> usize {
        let (active, now) = (self.read(), Instant::now());
        active.matching(filter, now, wall, 0).count()
    }

    pub(in crate::registry) fn not_ending<T>(&self, of: impl FnMut(OpenSession) -> T) -> Vec<T> {
        self.read().not_ending().map(of).collect()
    }

    pub(in crate::registry) fn held_by(&self, holder: &HolderId) -> Vec<OpenSession> {
        self.read().held_by(holder).collect()
    }

    pub(in crate::registry) fn count_held_by(&self, holder: &HolderId) -> usize {
        self.read().count_held_by(holder)
    }

    pub(in crate::registry) fn plan_start(&self, new: &NewSession) -> StartPlan {
        self.read().plan_start(new)
    }

    pub(in crate::registry) fn expired(&self, expiry: Expiry) -> Vec<(OpenSession, EndReason)> {
        let (active, now) = (self.read(), Instant::now());
        active.expired(expiry, now)
    }

    pub(in crate::registry) fn insert(
        &self,
        session: &Arc<Session>,
        seq: Seq,
        now: Instant,
        age: Duration,
    ) {
        self.write().insert(session, seq, now, age);
    }

    pub(in crate::registry) fn amend(&self, session: &Arc<Session>, now: Instant) {
        self.write().amend(session, now);
    }

    pub(in crate::registry) fn remove_all(&self, sessions: &[OpenSession]) {
        let mut active = self.write();
        for open in sessions {
            active.remove(&open.session.id);
        }
    }

    pub(in crate::registry) fn set_ending(&self, sessions: &[OpenSession], ending: bool) {
        let mut active = self.write();
        for open in sessions {
            active.set_ending(&open.session.id, ending);
        }
    }

    pub(in crate::registry) fn take_not_ending(&self, keeps_held: bool) -> TakenSessions {
        let taken = self.write().take_not_ending(keeps_held);
        // Those who look meanwhile need not wait for this.
        TakenSessions::new(taken)
    }
}
