//! The table of active sessions. Plain data: what is recorded, and when, is the actor's business.

mod index;
mod order;
mod shared;
mod taken;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use slab::Slab;
use tokio::time::Instant;

use self::index::Index;
use self::order::StartOrder;
pub(crate) use self::shared::SharedSessions;
pub(super) use self::taken::TakenSessions;
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

/// A moment, in nanoseconds from the making of the table on: half as large as an `Instant`, of which
/// a million sessions have two each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(i64);

impl Moment {
    /// How long `self` is after `earlier`.
    fn since(self, earlier: Self) -> Duration {
        let nanos = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// A moment that moves on while others look.
#[derive(Debug)]
struct AtomicMoment(AtomicI64);

impl AtomicMoment {
    fn new(Moment(at): Moment) -> Self {
        Self(AtomicI64::new(at))
    }

    fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, Moment(at): Moment) {
        self.0.store(at, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    place: Place,
    /// When the session started, by the monotonic clock.
    born: Moment,
    /// When it was last started, started again, or touched.
    touched: AtomicMoment,
}

/// The place of a start in the log, and whether the session's end is being recorded: in one word.
#[derive(Debug, Clone, Copy)]
struct Place(u64);

impl Place {
    /// No log is so long that its places need the last bit.
    fn of(start_seq: Seq) -> Self {
        Self(start_seq << 1)
    }

    fn seq(self) -> Seq {
        self.0 >> 1
    }

    fn is_ending(self) -> bool {
        self.0 & 1 == 1
    }

    fn set_ending(&mut self, ending: bool) {
        self.0 = self.seq() << 1 | u64::from(ending);
    }
}

/// What a start amounts to.
#[derive(Debug, PartialEq)]
pub(crate) struct StartPlan {
    /// The session as it is now, if the id is active already: its details are replaced.
    pub(crate) known: Option<OpenSession>,
    /// The other session that holds the key, and that the start ends.
    pub(crate) displaced: Option<OpenSession>,
}

/// A place in the table.
type Slot = u32;

/// The active sessions, by id, by key, by the place of their start, and by holder.
///
/// Ids and keys are looked up in tables of places, which take their texts from the sessions
/// themselves.
#[derive(Debug)]
pub(crate) struct ActiveSessions {
    entries: Slab<Entry>,
    ids: Index,
    keys: Index,
    by_start: StartOrder,
    /// The places of the starts of each holder's.
    by_holder: HashMap<HolderId, BTreeSet<Seq>>,
    /// How many there are whose end is being recorded.
    ending: usize,
    /// What moments count from.
    epoch: Instant,
}

impl Default for ActiveSessions {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            ids: Index::default(),
            keys: Index::default(),
            by_start: StartOrder::default(),
            by_holder: HashMap::new(),
            ending: 0,
            epoch: Instant::now(),
        }
    }
}

impl ActiveSessions {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.entry(id).map(|entry| &entry.session)
    }

    pub(crate) fn open(&self, id: &SessionId) -> Option<OpenSession> {
        self.entry(id).map(Entry::open)
    }

    pub(crate) fn record(&self, id: &SessionId) -> Option<SessionRecord> {
        self.entry(id).map(Entry::record)
    }

    fn slot(&self, id: &SessionId) -> Option<Slot> {
        self.ids.find(id, |slot| self.at(slot).session.id == *id)
    }

    fn slot_of_key(&self, key: &SessionKey) -> Option<Slot> {
        let key_at = |slot| self.at(slot).session.key.as_ref();
        self.keys.find(key, |slot| key_at(slot) == Some(key))
    }

    /// The entry at a place that one of the indexes has.
    fn at(&self, slot: Slot) -> &Entry {
        &self.entries[slot as usize]
    }

    fn entry(&self, id: &SessionId) -> Option<&Entry> {
        self.slot(id).map(|slot| self.at(slot))
    }

    fn entry_mut(&mut self, id: &SessionId) -> Option<&mut Entry> {
        let slot = self.slot(id)?;
        self.entries.get_mut(slot as usize)
    }

    fn moment(&self, at: Instant) -> Moment {
        let nanos = |length: Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
        Moment(match at.checked_duration_since(self.epoch) {
            Some(after) => nanos(after),
            None => -nanos(self.epoch - at),
        })
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
        let now = self.moment(now);
        let later = self.by_start.slots_after(after);
        let entries = later.map(|slot| self.at(slot));
        let matching = entries.filter(move |entry| {
            let idle = now.since(entry.touched.get());
            !entry.place.is_ending() && filter.matches(&entry.session, Some(idle), wall)
        });
        matching.map(Entry::record)
    }

    /// Every active session whose end is not under way, in no particular order.
    pub(crate) fn not_ending(&self) -> impl Iterator<Item = OpenSession> {
        let entries = self.entries.iter().map(|(_, entry)| entry);
        entries
            .filter(|entry| !entry.place.is_ending())
            .map(Entry::open)
    }

    /// Takes out every session whose end is not under way, but, if `keeps_held`, those of holders.
    pub(crate) fn take_not_ending(&mut self, keeps_held: bool) -> Self {
        let stays =
            |entry: &Entry| entry.place.is_ending() || keeps_held && entry.session.holder.is_some();
        // Usually there is none, and a million sessions change hands in no time.
        let some_stay = self.ending > 0 || keeps_held && !self.by_holder.is_empty();
        let entries = some_stay.then(|| self.entries.iter());
        let staying = entries.into_iter().flatten();
        let staying = staying.filter(|(_, entry)| stays(entry));
        let staying: Vec<_> = staying.map(|(slot, _)| slot as Slot).collect();
        let staying = staying.into_iter().map(|slot| self.take_out(slot));
        let mut staying: Vec<_> = staying.collect();
        let rest = Self {
            epoch: self.epoch,
            ..Self::default()
        };
        let taken = std::mem::replace(self, rest);
        // As they came in, or each would be put between others.
        staying.sort_unstable_by_key(|entry| entry.place.seq());
        for entry in staying {
            self.put_in(entry);
        }
        taken
    }

    /// Every active session of a holder whose end is not under way, in the order of their starts.
    pub(crate) fn held_by(&self, holder: &HolderId) -> impl Iterator<Item = OpenSession> {
        let seqs = self.by_holder.get(holder).into_iter().flatten();
        let slots = seqs.filter_map(|&seq| self.by_start.get(seq));
        let entries = slots.map(|slot| self.at(slot));
        entries
            .filter(|entry| !entry.place.is_ending())
            .map(Entry::open)
    }

    /// How many active sessions a holder has, those included whose end is under way.
    pub(crate) fn count_held_by(&self, holder: &HolderId) -> usize {
        self.by_holder.get(holder).map_or(0, BTreeSet::len)
    }

    /// What starting `new` would do.
    pub(crate) fn plan_start(&self, new: &NewSession) -> StartPlan {
        let slot_of_key = new.key.as_ref().and_then(|key| self.slot_of_key(key));
        let holder_of_key = slot_of_key.map(|slot| self.at(slot));
        StartPlan {
            known: self.open(&new.id),
            displaced: holder_of_key
                .filter(|entry| entry.session.id != new.id)
                .map(Entry::open),
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
        let now = self.moment(now);
        let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        self.remove(&session.id);
        self.put_in(Entry {
            place: Place::of(start_seq),
            born: Moment(now.0.saturating_sub(age)),
            touched: AtomicMoment::new(now),
            session: Arc::clone(session),
        });
    }

    fn put_in(&mut self, entry: Entry) {
        self.ending += usize::from(entry.place.is_ending());
        let slot = self.entries.insert(entry) as Slot;
        let (entries, id) = (&self.entries, &self.entries[slot as usize].session.id);
        self.ids
            .set(id, slot, |slot| entries[slot as usize].session.id == *id);
        self.index(slot);
    }

    /// Notes where the session at `slot` has its key, its start and its holder.
    fn index(&mut self, slot: Slot) {
        let entry = &self.entries[slot as usize];
        self.by_start.insert(entry.place.seq(), slot);
        if let Some(holder) = entry.session.holder.clone() {
            let seqs = self.by_holder.entry(holder).or_default();
            seqs.insert(entry.place.seq());
        }
        if let Some(key) = &entry.session.key {
            let key_at = |slot: Slot| self.entries[slot as usize].session.key.as_ref();
            // From now on it is this session's.
            self.keys.set(key, slot, |slot| key_at(slot) == Some(key));
        }
    }

    /// Replaces the details of an active session; nothing if it is not active.
    pub(crate) fn amend(&mut self, session: &Arc<Session>, now: Instant) {
        let now = self.moment(now);
        let Some(slot) = self.slot(&session.id) else {
            return;
        };
        self.release(slot);
        let entry = &mut self.entries[slot as usize];
        entry.touched.set(now);
        entry.session = Arc::clone(session);
        self.index(slot);
    }

    pub(crate) fn remove(&mut self, id: &SessionId) {
        if let Some(slot) = self.slot(id) {
            self.take_out(slot);
        }
    }

    fn take_out(&mut self, slot: Slot) -> Entry {
        self.release(slot);
        let entry = self.entries.remove(slot as usize);
        self.ids.remove(&entry.session.id, slot);
        self.ending -= usize::from(entry.place.is_ending());
        entry
    }

    /// Forgets where the session at `slot` has its key, unless another has taken that over, its start
    /// and its holder.
    fn release(&mut self, slot: Slot) {
        let entry = &self.entries[slot as usize];
        self.by_start.remove(entry.place.seq());
        if let Some(key) = &entry.session.key {
            self.keys.remove(key, slot);
        }
        if let Some(holder) = &entry.session.holder
            && let Some(seqs) = self.by_holder.get_mut(holder)
        {
            seqs.remove(&entry.place.seq());
            if seqs.is_empty() {
                self.by_holder.remove(holder);
            }
        }
    }

    pub(crate) fn set_ending(&mut self, id: &SessionId, ending: bool) {
        if let Some(entry) = self.entry_mut(id) {
            let was_ending = entry.place.is_ending();
            entry.place.set_ending(ending);
            self.ending = self.ending + usize::from(ending) - usize::from(was_ending);
        }
    }

    /// Notes activity. False when the session is not active, or only in another incarnation.
    pub(crate) fn touch(
        &self,
        id: &SessionId,
        incarnation: Option<Incarnation>,
        now: Instant,
    ) -> bool {
        let Some(entry) = self.entry(id) else {
            return false;
        };
        if incarnation.is_some_and(|expected| expected != entry.session.incarnation) {
            return false;
        }
        entry.touched.set(self.moment(now));
        true
    }

    /// The sessions whose time is over, with the reason. Of both limits, age counts first: it is
    /// the one that touches can't move.
    pub(crate) fn expired(&self, expiry: Expiry, now: Instant) -> Vec<(OpenSession, EndReason)> {
        let now = self.moment(now);
        let is_over = |limit: Option<Duration>, since: Moment| {
            limit.is_some_and(|limit| now.since(since) >= limit)
        };
        let entries = self.entries.iter().map(|(_, entry)| entry);
        let entries = entries.filter(|entry| !entry.place.is_ending());
        let expired = entries.filter_map(|entry| {
            let reason = if is_over(expiry.max_age, entry.born) {
                EndReason::Expired
            } else if is_over(expiry.idle_after, entry.touched.get()) {
                EndReason::Idle
            } else {
                return None;
            };
            Some((entry.open(), reason))
        });
        expired.collect()
    }
}

impl Entry {
    fn open(&self) -> OpenSession {
        OpenSession::new(Arc::clone(&self.session), self.place.seq())
    }

    fn record(&self) -> SessionRecord {
        SessionRecord::active(Arc::clone(&self.session), self.place.seq())
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

        let taken = TakenSessions::new(active.take_not_ending(false));
        let snapshot = [(amended, 4), (Arc::clone(&sessions[2]), 6)];
        let snapshot = snapshot.map(|(session, seq)| OpenSession::new(session, seq));
        assert_eq!(**taken.all(), snapshot);
        for open in &snapshot {
            let record = taken.record(&open.session.id).unwrap();
            assert_eq!(
                (record.session, record.start_seq),
                (Arc::clone(&open.session), open.start_seq)
            );
        }
        assert!(taken.record(&sessions[0].id).is_none());
        assert!(taken.record(&sessions[3].id).is_none());
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

    #[test]
    fn what_stays_when_the_rest_is_taken_keeps_its_order_whatever_slots_it_had() {
        let (mut active, now) = (ActiveSessions::default(), Instant::now());
        let name = |n: u64| format!("s{n}");
        for n in 1..=20 {
            active.insert(&session(&name(n), None), n, now, Duration::ZERO);
        }
        // The slots of those that went are taken again, the last one first.
        for n in 1..=10 {
            active.remove(&SessionId::new(name(n)).unwrap());
        }
        for n in 21..=30 {
            active.insert(&session(&name(n), Some(&name(n))), n, now, Duration::ZERO);
        }
        for n in (12..=30).step_by(2) {
            active.set_ending(&SessionId::new(name(n)).unwrap(), true);
        }
        let taken = TakenSessions::new(active.take_not_ending(false));
        let taken: Vec<_> = taken.all().iter().map(|open| open.start_seq).collect();
        let odd: Vec<_> = (11..=30).filter(|n| n % 2 == 1).collect();
        assert_eq!(taken, odd);
        for n in (12..=30).step_by(2) {
            active.set_ending(&SessionId::new(name(n)).unwrap(), false);
        }
        assert_eq!((active.len(), active.ending), (10, 0));
        let filter = SessionFilter::default();
        let left = active.matching(&filter, now, Timestamp::UNIX_EPOCH, 0);
        let left: Vec<_> = left.map(|record| record.start_seq).collect();
        assert_eq!(left, Vec::from_iter((12..=30).step_by(2)));
        let mut new = NewSession::new(SessionId::new("new").unwrap());
        new.key = Some(SessionKey::new(name(22)).unwrap());
        let displaced = active.plan_start(&new).displaced.map(|open| open.start_seq);
        assert_eq!(displaced, Some(22));
    }

    #[test]
    fn a_table_that_is_shown_does_not_show_who_is_in_it() {
        let shared = SharedSessions::default();
        shared.insert(&session("secret", None), 1, Instant::now(), Duration::ZERO);
        assert_eq!(format!("{shared:?}"), "SharedSessions { len: 1, .. }");
    }
}
