//! The table of active sessions. Plain data: what is recorded, and when, is the actor's business.

mod entry;
mod expiry;
mod index;
mod order;
mod shared;
mod taken;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use slab::Slab;
use tokio::time::Instant;

use self::entry::{AtomicMoment, Entry, Moment, Place};
pub(crate) use self::expiry::Expiry;
use self::index::Index;
use self::order::StartOrder;
pub(crate) use self::shared::SharedSessions;
pub(super) use self::taken::TakenSessions;
use crate::event::{OpenSession, Seq};
use crate::filter::SessionFilter;
use crate::ledger::SessionRecord;
use crate::session::{HolderId, Incarnation, NewSession, Session, SessionId, SessionKey};

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
}
