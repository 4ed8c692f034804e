//! The table of active sessions. Plain data: what is recorded, and when, is the actor's business.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::event::{OpenSession, Seq};
use crate::filter::SessionFilter;
use crate::ledger::SessionRecord;
use crate::session::{
    EndReason, HolderId, Incarnation, NewSession, Session, SessionId, SessionKey,
};

/// When sessions end by themselves. Never, unless set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Expiry {
    /// Without a touch for this long.
    pub(crate) idle_after: Option<Duration>,
    /// Since the start.
    pub(crate) max_age: Option<Duration>,
}

impl Expiry {
    /// How often to look, if at all: an end comes at most a twentieth of its limit late, and one
    /// look at a million sessions takes some tens of milliseconds.
    pub(crate) fn period(&self) -> Option<Duration> {
        let shortest = match (self.idle_after, self.max_age) {
            (Some(idle), Some(age)) => idle.min(age),
            (idle, age) => idle.or(age)?,
        };
        Some((shortest / 20).clamp(Duration::from_millis(50), Duration::from_secs(15)))
    }
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    start_seq: Seq,
    /// When the session started, by the monotonic clock.
    born: Instant,
    /// When it was last started, started again, or touched.
    touched: Instant,
    /// Its end is being recorded.
    ending: bool,
}

/// What a start amounts to.
#[derive(Debug, PartialEq)]
pub(crate) struct StartPlan {
    /// The session as it is now, if the id is active already: its details are replaced.
    pub(crate) known: Option<OpenSession>,
    /// The other session that holds the key, and that the start ends.
    pub(crate) displaced: Option<OpenSession>,
}

/// The active sessions, by id, by key, by the place of their start, and by holder.
#[derive(Debug, Default)]
pub(crate) struct ActiveSessions {
    entries: HashMap<SessionId, Entry>,
    keys: HashMap<SessionKey, SessionId>,
    by_start: BTreeMap<Seq, Arc<Session>>,
    /// The places of the starts of each holder's.
    by_holder: HashMap<HolderId, BTreeSet<Seq>>,
}

impl ActiveSessions {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.entries.get(id).map(|entry| &entry.session)
    }

    pub(crate) fn open(&self, id: &SessionId) -> Option<OpenSession> {
        self.entries.get(id).map(Entry::open)
    }

    pub(crate) fn record(&self, id: &SessionId) -> Option<SessionRecord> {
        self.entries.get(id).map(Entry::record)
    }

    /// Every active session after the place `after` that meets `filter` now and whose end is not
    /// under way, in the order of their starts.
    pub(crate) fn matching(
        &self,
        filter: &SessionFilter,
        now: Instant,
        wall: Timestamp,
        after: Seq,
    ) -> impl Iterator<Item = SessionRecord> {
        let later = self.by_start.range((Excluded(after), Unbounded));
        let entries = later.filter_map(|(_, session)| self.entries.get(&session.id));
        let matching = entries.filter(move |entry| {
            let idle = now.saturating_duration_since(entry.touched);
            !entry.ending && filter.matches(&entry.session, Some(idle), wall)
        });
        matching.map(Entry::record)
    }

    /// Every active session whose end is not under way, in no particular order.
    pub(crate) fn not_ending(&self) -> impl Iterator<Item = OpenSession> {
        let entries = self.entries.values().filter(|entry| !entry.ending);
        entries.map(Entry::open)
    }

    /// Every active session, in the order of their starts.
    pub(crate) fn by_start(&self) -> impl Iterator<Item = OpenSession> {
        let sessions = self.by_start.iter();
        sessions.map(|(&seq, session)| OpenSession::new(Arc::clone(session), seq))
    }

    /// Takes out every session whose end is not under way, but those that `stays` says stay.
    pub(crate) fn take_not_ending(&mut self, stays: impl Fn(&Session) -> bool) -> Self {
        let mut taken = std::mem::take(self);
        // Usually there is none, and a million sessions change hands in no time.
        let staying: Vec<_> = taken
            .entries
            .values()
            .filter(|entry| entry.ending || stays(&entry.session))
            .map(|entry| entry.session.id.clone())
            .collect();
        for id in staying {
            if let Some(entry) = taken.entries.remove(&id) {
                taken.release(&entry);
                self.index(&entry.session, entry.start_seq);
                self.entries.insert(id, entry);
            }
        }
        taken
    }

    /// Every active session of a holder whose end is not under way, in the order of their starts.
    pub(crate) fn held_by(&self, holder: &HolderId) -> impl Iterator<Item = OpenSession> {
        let seqs = self.by_holder.get(holder).into_iter().flatten();
        let sessions = seqs.filter_map(|seq| self.by_start.get(seq));
        let entries = sessions.filter_map(|session| self.entries.get(&session.id));
        entries.filter(|entry| !entry.ending).map(Entry::open)
    }

    /// How many active sessions a holder has, those included whose end is under way.
    pub(crate) fn count_held_by(&self, holder: &HolderId) -> usize {
        self.by_holder.get(holder).map_or(0, BTreeSet::len)
    }

    /// What starting `new` would do.
    pub(crate) fn plan_start(&self, new: &NewSession) -> StartPlan {
        let holder_of_key = new.key.as_ref().and_then(|key| self.keys.get(key));
        StartPlan {
            known: self.open(&new.id),
            displaced: holder_of_key
                .filter(|&id| *id != new.id)
                .and_then(|id| self.open(id)),
        }
    }

    /// Takes in a new incarnation that is `age` old already.
    pub(crate) fn insert(
        &mut self,
        session: &Arc<Session>,
        start_seq: Seq,
        now: Instant,
        age: Duration,
    ) {
        self.index(session, start_seq);
        let entry = Entry {
            start_seq,
            born: now.checked_sub(age).unwrap_or(now),
            touched: now,
            ending: false,
            session: Arc::clone(session),
        };
        self.entries.insert(session.id.clone(), entry);
    }

    /// Notes where `session`, which is in the table from now on, has its key, its start and its holder.
    fn index(&mut self, session: &Arc<Session>, start_seq: Seq) {
        if let Some(key) = session.key.clone() {
            self.keys.insert(key, session.id.clone());
        }
        if let Some(holder) = session.holder.clone() {
            self.by_holder.entry(holder).or_default().insert(start_seq);
        }
        self.by_start.insert(start_seq, Arc::clone(session));
    }

    /// Replaces the details of an active session; nothing if it is not active.
    pub(crate) fn amend(&mut self, session: &Arc<Session>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&session.id) else {
            return;
        };
        entry.touched = now;
        let start_seq = entry.start_seq;
        let before = std::mem::replace(&mut entry.session, Arc::clone(session));
        if before.key != session.key {
            self.release_key(&before);
        }
        if before.holder != session.holder {
            self.release_holder(&before, start_seq);
        }
        self.index(session, start_seq);
    }

    pub(crate) fn remove(&mut self, id: &SessionId) {
        if let Some(entry) = self.entries.remove(id) {
            self.release(&entry);
        }
    }

    /// Forgets where the session of `entry`, which is taken out, has its key and its start.
    fn release(&mut self, entry: &Entry) {
        self.by_start.remove(&entry.start_seq);
        self.release_key(&entry.session);
        self.release_holder(&entry.session, entry.start_seq);
    }

    fn release_holder(&mut self, session: &Session, start_seq: Seq) {
        if let Some(holder) = &session.holder
            && let Some(seqs) = self.by_holder.get_mut(holder)
        {
            seqs.remove(&start_seq);
            if seqs.is_empty() {
                self.by_holder.remove(holder);
            }
        }
    }

    /// Gives up the key of `session`, unless another session has taken it over.
    fn release_key(&mut self, session: &Session) {
        if let Some(key) = &session.key
            && self.keys.get(key) == Some(&session.id)
        {
            self.keys.remove(key);
        }
    }

    pub(crate) fn set_ending(&mut self, id: &SessionId, ending: bool) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.ending = ending;
        }
    }

    /// Notes activity. False when the session is not active, or only in another incarnation.
    pub(crate) fn touch(
        &mut self,
        id: &SessionId,
        incarnation: Option<Incarnation>,
        now: Instant,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(id) else {
            return false;
        };
        if incarnation.is_some_and(|expected| expected != entry.session.incarnation) {
            return false;
        }
        entry.touched = now;
        true
    }

    /// The sessions whose time is over, with the reason. Of both limits, age counts first: it is
    /// the one that touches can't move.
    pub(crate) fn expired(&self, expiry: Expiry, now: Instant) -> Vec<(OpenSession, EndReason)> {
        let is_over = |limit: Option<Duration>, since: Instant| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        self.entries
            .values()
            .filter(|entry| !entry.ending)
            .filter_map(|entry| {
                let reason = if is_over(expiry.max_age, entry.born) {
                    EndReason::Expired
                } else if is_over(expiry.idle_after, entry.touched) {
                    EndReason::Idle
                } else {
                    return None;
                };
                Some((entry.open(), reason))
            })
            .collect()
    }
}

impl Entry {
    fn open(&self) -> OpenSession {
        OpenSession::new(Arc::clone(&self.session), self.start_seq)
    }

    fn record(&self) -> SessionRecord {
        SessionRecord::active(Arc::clone(&self.session), self.start_seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, key: Option<&str>) -> Arc<Session> {
        let mut new = NewSession::new(SessionId::new(id).unwrap());
        new.key = key.map(|key| SessionKey::new(key).unwrap());
        let incarnation = Incarnation::generate();
        Arc::new(Session::begin(
            new,
            incarnation,
            None,
            Timestamp::UNIX_EPOCH,
        ))
    }

    #[test]
    fn age_ends_a_session_that_is_touched_all_the_time_and_idleness_one_that_is_not() {
        let (mut active, start) = (ActiveSessions::default(), Instant::now());
        let minutes = |n: u64| Duration::from_secs(60 * n);
        active.insert(&session("busy", None), 1, start, Duration::ZERO);
        active.insert(&session("quiet", None), 2, start, Duration::ZERO);
        active.insert(&session("old", None), 3, start, minutes(50));
        let expiry = Expiry {
            idle_after: Some(minutes(30)),
            max_age: Some(minutes(60)),
        };
        let names = |active: &ActiveSessions, at| {
            let mut names: Vec<_> = active
                .expired(expiry, at)
                .into_iter()
                .map(|(open, reason)| (open.session.id.to_string(), reason))
                .collect();
            names.sort();
            names
        };

        assert!(names(&active, start + minutes(9)).is_empty());
        let old = ("old".into(), EndReason::Expired);
        assert_eq!(
            names(&active, start + minutes(10)),
            std::slice::from_ref(&old)
        );

        let busy = SessionId::new("busy").unwrap();
        assert!(active.touch(&busy, None, start + minutes(29)));
        let quiet = ("quiet".into(), EndReason::Idle);
        assert_eq!(names(&active, start + minutes(30)), [old, quiet]);
    }

    #[test]
    fn the_order_of_starts_is_kept_by_all_that_changes_the_table() {
        let (mut active, now) = (ActiveSessions::default(), Instant::now());
        let sessions = ["d", "c", "b", "a"].map(|id| session(id, None));
        for (seq, session) in (1..).zip(&sessions) {
            active.insert(session, 2 * seq, now, Duration::ZERO);
        }
        let page = |active: &ActiveSessions, after| {
            let filter = SessionFilter::default();
            let matching = active.matching(&filter, now, Timestamp::UNIX_EPOCH, after);
            let ids = matching.map(|record| record.session.id.to_string());
            ids.collect::<Vec<_>>()
        };
        assert_eq!(page(&active, 0), ["d", "c", "b", "a"]);
        assert_eq!(page(&active, 4), ["b", "a"]);
        assert_eq!(page(&active, 5), ["b", "a"]);
        assert!(page(&active, Seq::MAX).is_empty());

        let amended = session("c", Some("k"));
        active.amend(&amended, now);
        active.remove(&sessions[0].id);
        active.set_ending(&sessions[3].id, true);
        assert_eq!(page(&active, 0), ["c", "b"]);

        let taken = active.take_not_ending(|_| false);
        let snapshot = [(amended, 4), (Arc::clone(&sessions[2]), 6)];
        let snapshot = snapshot.map(|(session, seq)| OpenSession::new(session, seq));
        assert!(taken.by_start().eq(snapshot));
        active.set_ending(&sessions[3].id, false);
        assert_eq!(page(&active, 0), ["a"]);
    }

    #[test]
    fn a_key_that_moved_on_is_not_freed_by_its_former_session() {
        let (mut active, now) = (ActiveSessions::default(), Instant::now());
        let first = session("first", Some("k"));
        let second = session("second", Some("k"));
        active.insert(&first, 1, now, Duration::ZERO);
        active.insert(&second, 2, now, Duration::ZERO);
        active.remove(&SessionId::new("first").unwrap());

        let mut third = NewSession::new(SessionId::new("third").unwrap());
        third.key = second.key.clone();
        let displaced = active.plan_start(&third).displaced.map(|open| open.session);
        assert_eq!(displaced, Some(second));
    }
}
