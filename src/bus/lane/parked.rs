//! The events that a lane went past: each waits for its own next attempt, behind the earlier
//! events of its incarnation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::warn;

use super::careful::{DIED, SUSPECT};
use super::dead::DeadLetters;
use super::flight::{Now, Tries};
use super::incarnation_of;
use crate::event::{Event, Seq};
use crate::ledger::Parked;
use crate::session::Incarnation;

/// Why an event waits that was not tried.
const BEHIND: &str = "not tried, since an earlier event of its session failed";

#[derive(Debug)]
struct Entry {
    event: Event,
    attempts: u32,
    due: Instant,
    error: Arc<str>,
    in_flight: bool,
    tries: Tries,
    /// Its attempts are recorded before they are made.
    careful: bool,
}

/// How an event is parked.
pub(super) struct Parking {
    pub(super) attempts: u32,
    pub(super) wait: Duration,
    pub(super) dead: bool,
    pub(super) error: Arc<str>,
    pub(super) tries: Tries,
    pub(super) careful: bool,
}

/// A lane's parked events.
#[derive(Debug, Default)]
pub(super) struct ParkedEvents {
    /// Those that are not dead.
    entries: BTreeMap<Seq, Entry>,
    /// The entries of each incarnation, in log order. The first is the one to try.
    chains: HashMap<Incarnation, BTreeSet<Seq>>,
    /// The first of each chain, unless it is in flight, by when it is due.
    queue: BTreeSet<(Instant, Seq)>,
    dead: DeadLetters,
    /// The one whose attempts include one that is about to be made, or is being made.
    trial: Option<Seq>,
}

impl ParkedEvents {
    /// Takes over what the ledger has parked: events, and the places of dead letters. All are tried
    /// with care. No event waits for longer than `longest`: the clock may have gone back since it was
    /// parked.
    pub(super) fn load(
        rows: Vec<Parked>,
        dead: Vec<(Seq, Incarnation)>,
        longest: Duration,
        now: Now,
    ) -> Self {
        let mut parked = Self {
            dead: dead.into_iter().collect(),
            ..Self::default()
        };
        for row in rows {
            let mut entry = Entry::load(row, true, now);
            entry.due = entry.due.min(now.mono + longest);
            parked.insert(entry);
        }
        parked
    }

    /// Makes dead letters of those whose last trial the process has not survived. Answers the rows
    /// to record.
    pub(super) fn kill_exhausted(&mut self, max_attempts: u32, now: Now) -> Vec<Parked> {
        let is_exhausted = |entry: &Entry| &*entry.error == DIED && entry.attempts >= max_attempts;
        let entries = self.entries.iter();
        let exhausted = entries.filter(|(_, entry)| is_exhausted(entry));
        let exhausted: Vec<Seq> = exhausted.map(|(&seq, _)| seq).collect();
        let mut rows = Vec::new();
        for seq in exhausted {
            if let Some(entry) = self.entries.get(&seq) {
                let (attempts, session) = (entry.attempts, entry.event.session());
                let session = session.map_or("", |session| session.id.as_str());
                warn!(session, event_id = %entry.event.id(), attempts, dead = true, "{DIED}");
            }
            rows.extend(self.bury_from(seq, now));
        }
        rows
    }

    /// How many are not dead.
    pub(super) fn live(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dead.is_empty()
    }

    /// The dead ones.
    pub(super) fn dead(&self) -> &DeadLetters {
        &self.dead
    }

    /// The places in the log of those that are not dead, with whether each was ever tried.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, bool)> {
        self.entries
            .iter()
            .map(|(&seq, entry)| (seq, entry.tries.count > 0))
    }

    /// When the oldest of those that are not dead was recorded.
    pub(super) fn oldest_live(&self) -> Option<Timestamp> {
        let oldest = self.entries.first_key_value();
        oldest.map(|(_, entry)| entry.event.timestamp())
    }

    /// Whether the event at this place is parked, dead or not.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.is_live(seq) || self.dead.contains(seq)
    }

    /// Whether the event at this place is parked and not dead.
    pub(super) fn is_live(&self, seq: Seq) -> bool {
        self.entries.contains_key(&seq)
    }

    /// How many lie after this place, dead or not. A lane parks events that are ahead of its cursor,
    /// and the next process reads them again.
    pub(super) fn count_after(&self, seq: Seq) -> u64 {
        let live = self.entries.range(seq + 1..).count();
        (live + self.dead.count_after(seq)) as u64
    }

    /// Whether an event has to wait behind a parked one.
    pub(super) fn is_behind(&self, event: &Event) -> bool {
        incarnation_of(event).is_some_and(|incarnation| {
            self.chains.contains_key(&incarnation) || self.dead.of(incarnation).next().is_some()
        })
    }

    /// How many attempts were made of the one at `seq`, with the one that is just over.
    pub(super) fn attempts(&self, seq: Seq) -> u32 {
        let counted = self.entries.get(&seq).map_or(0, |entry| entry.attempts);
        match self.trial == Some(seq) {
            true => counted,
            false => counted + 1,
        }
    }

    /// Whether the one at `seq` is to be tried with care.
    pub(super) fn is_careful(&self, seq: Seq) -> bool {
        self.entries.get(&seq).is_some_and(|entry| entry.careful)
    }

    /// The one that has its trial.
    pub(super) fn trial(&self) -> Option<Seq> {
        self.trial
    }

    /// Counts the attempt that is about to be made. Answers the row to record before that.
    pub(super) fn begin_trial(&mut self, seq: Seq, now: Now) -> Option<Parked> {
        let entry = self.entries.get_mut(&seq)?;
        entry.attempts += 1;
        entry.error = DIED.into();
        self.trial = Some(seq);
        Some(entry.row(now))
    }

    /// Takes back the count of an attempt that came to nothing, for the reason `error`. Answers the
    /// row to record, if the one at `seq` had a trial.
    pub(super) fn end_trial(&mut self, seq: Seq, error: Arc<str>, now: Now) -> Option<Parked> {
        self.trial.take_if(|trial| *trial == seq)?;
        let entry = self.entries.get_mut(&seq)?;
        entry.attempts -= 1;
        entry.error = error;
        Some(entry.row(now))
    }

    /// How many wait with `event`, itself included: those of its incarnation that are not dead.
    pub(super) fn beside(&self, event: &Event) -> usize {
        let chain = incarnation_of(event).and_then(|incarnation| self.chains.get(&incarnation));
        chain.map_or(0, BTreeSet::len)
    }

    /// When the next one is due after `now`. One that is due already waits for something else.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let mut later = self.queue.range((now, Seq::MAX)..);
        later.next().map(|&(due, _)| due)
    }

    /// The place of the first one that is due and that `may_fly`.
    pub(super) fn next_due_that(
        &self,
        now: Instant,
        may_fly: impl Fn(&Event) -> bool,
    ) -> Option<Seq> {
        let due = self.queue.iter().take_while(|(due, _)| *due <= now);
        let mut due = due.map(|&(_, seq)| seq);
        due.find(|seq| self.entries.get(seq).is_some_and(|it| may_fly(&it.event)))
    }

    /// Takes off the one at `seq`, to be tried by itself.
    pub(super) fn take(&mut self, seq: Seq) -> Option<(Event, Tries)> {
        let entry = self.entries.get_mut(&seq)?;
        entry.in_flight = true;
        self.queue.remove(&(entry.due, seq));
        Some((entry.event.clone(), entry.tries))
    }

    /// Parks `event`, or parks it anew after another attempt. Where it is dead, all that is parked
    /// behind it is dead with it. Answers the rows to record.
    pub(super) fn park(&mut self, event: Event, parking: Parking, now: Now) -> Vec<Parked> {
        let seq = event.recorded_seq();
        let before = self.detach(seq);
        let entry = Entry {
            event: event.by_itself(),
            attempts: parking.attempts,
            due: now.mono + parking.wait,
            error: parking.error,
            in_flight: false,
            tries: parking.tries,
            careful: parking.careful || before.is_some_and(|entry| entry.careful),
        };
        let row = entry.row(now);
        self.insert(entry);
        match parking.dead {
            true => self.bury_from(seq, now),
            false => vec![row],
        }
    }

    /// Makes dead letters of the one at `seq` and of those behind it. Answers the rows to record.
    fn bury_from(&mut self, seq: Seq, now: Now) -> Vec<Parked> {
        let entry = self.entries.get(&seq);
        let incarnation = entry.and_then(|entry| incarnation_of(&entry.event));
        let chain = incarnation.and_then(|incarnation| self.chains.get(&incarnation));
        let from_here = chain.into_iter().flat_map(|chain| chain.range(seq..));
        let dying: Vec<Seq> = from_here.copied().collect();
        let rows = dying.into_iter().filter_map(|seq| self.bury(seq, now));
        rows.collect()
    }

    /// Makes a dead letter of the one at `seq`. Answers the row to record.
    fn bury(&mut self, seq: Seq, now: Now) -> Option<Parked> {
        let mut entry = self.detach(seq)?;
        if &*entry.error == SUSPECT {
            // It dies without a trial.
            entry.error = BEHIND.into();
        }
        self.dead.insert(seq, incarnation_of(&entry.event)?);
        Some(Parked {
            dead: true,
            ..entry.row(now)
        })
    }

    /// Parks `event` with the parked ones of its incarnation, to wait for those before it; dead if
    /// one of these is.
    pub(super) fn park_behind(&mut self, event: Event, tries: Tries, now: Now) -> Vec<Parked> {
        self.park_in_order(event, tries, BEHIND, false, now)
    }

    /// Parks `event`, to be tried with care; dead if an earlier one of its incarnation is.
    pub(super) fn park_suspect(&mut self, event: Event, now: Now) -> Vec<Parked> {
        self.park_in_order(event, Tries::default(), SUSPECT, true, now)
    }

    fn park_in_order(
        &mut self,
        event: Event,
        tries: Tries,
        error: &str,
        careful: bool,
        now: Now,
    ) -> Vec<Parked> {
        let is_before = |seq| seq < event.recorded_seq();
        let mut dead = incarnation_of(&event)
            .into_iter()
            .flat_map(|incarnation| self.dead.of(incarnation));
        let parking = Parking {
            attempts: 0,
            wait: Duration::ZERO,
            dead: dead.any(is_before),
            error: error.into(),
            tries,
            careful,
        };
        drop(dead);
        self.park(event, parking, now)
    }

    /// Puts one back that was taken off, to be tried again after those that are due. Its count
    /// stays.
    pub(super) fn put_back(&mut self, seq: Seq, tries: Tries, now: Instant) {
        if let Some(mut entry) = self.detach(seq) {
            entry.in_flight = false;
            entry.tries = tries;
            entry.due = now;
            self.insert(entry);
        }
    }

    /// Makes every event that is not dead a dead letter. Answers the rows to record.
    pub(super) fn kill_all(&mut self, error: &Arc<str>, now: Now) -> Vec<Parked> {
        let live: Vec<Seq> = self.entries.keys().copied().collect();
        let rows = live.into_iter().filter_map(|seq| {
            Some(Parked {
                error: Arc::clone(error),
                ..self.bury(seq, now)?
            })
        });
        rows.collect()
    }

    /// Takes back a dead letter as one that waits, if it is one.
    pub(super) fn revive(&mut self, row: Parked, now: Now) {
        let seq = row.event.recorded_seq();
        if incarnation_of(&row.event).is_some_and(|it| self.dead.remove(seq, it)) {
            // The process may have died of it.
            let careful = &*row.error == DIED;
            self.insert(Entry::load(row, careful, now));
        }
    }

    /// Makes every one due that waits for its time.
    pub(super) fn hurry(&mut self, now: Instant) {
        let queued = std::mem::take(&mut self.queue);
        for (due, seq) in queued {
            let due = due.min(now);
            self.queue.insert((due, seq));
            if let Some(entry) = self.entries.get_mut(&seq) {
                entry.due = due;
            }
        }
    }

    /// Lets go of those that are not dead, not in flight, and unwanted. Answers their places.
    pub(super) fn forget(&mut self, is_unwanted: impl Fn(&Event) -> bool) -> Vec<Seq> {
        let entries = self.entries.iter();
        let unwanted = entries.filter(|(_, it)| !it.in_flight && is_unwanted(&it.event));
        let unwanted: Vec<Seq> = unwanted.map(|(&seq, _)| seq).collect();
        for &seq in &unwanted {
            self.detach(seq);
        }
        unwanted
    }

    /// Lets go of one that was acknowledged; it may have died in flight. Whether it was parked at
    /// all.
    pub(super) fn remove(&mut self, event: &Event) -> bool {
        let seq = event.recorded_seq();
        let was_dead = incarnation_of(event).is_some_and(|it| self.dead.remove(seq, it));
        was_dead || self.detach(seq).is_some()
    }

    fn insert(&mut self, entry: Entry) {
        let seq = entry.event.recorded_seq();
        let incarnation = incarnation_of(&entry.event);
        self.entries.insert(seq, entry);
        if let Some(incarnation) = incarnation {
            self.chains.entry(incarnation).or_default().insert(seq);
            self.requeue(incarnation);
        }
    }

    fn detach(&mut self, seq: Seq) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.trial.take_if(|trial| *trial == seq);
        self.queue.remove(&(entry.due, seq));
        if let Some(incarnation) = incarnation_of(&entry.event)
            && let Some(chain) = self.chains.get_mut(&incarnation)
        {
            chain.remove(&seq);
            if chain.is_empty() {
                self.chains.remove(&incarnation);
            } else {
                self.requeue(incarnation);
            }
        }
        Some(entry)
    }

    /// Queues the first of a chain, and only the first.
    fn requeue(&mut self, incarnation: Incarnation) {
        let Some(chain) = self.chains.get(&incarnation) else {
            return;
        };
        for (index, seq) in chain.iter().enumerate() {
            let Some(entry) = self.entries.get(seq) else {
                continue;
            };
            if index == 0 && !entry.in_flight {
                self.queue.insert((entry.due, *seq));
            } else {
                self.queue.remove(&(entry.due, *seq));
            }
        }
    }
}

impl Entry {
    fn load(row: Parked, careful: bool, now: Now) -> Self {
        let wait = Duration::try_from(row.not_before.duration_since(now.wall));
        Self {
            event: row.event,
            attempts: row.attempts,
            due: now.mono + wait.unwrap_or_default(),
            error: row.error,
            in_flight: false,
            tries: Tries {
                count: row.attempts,
                ..Tries::default()
            },
            careful,
        }
    }

    fn row(&self, now: Now) -> Parked {
        let wait = self.due.saturating_duration_since(now.mono);
        let wait = SignedDuration::try_from(wait).unwrap_or_default();
        Parked {
            event: self.event.clone(),
            attempts: self.attempts,
            not_before: now.wall.checked_add(wait).unwrap_or(Timestamp::MAX),
            dead: false,
            error: Arc::clone(&self.error),
        }
    }
}
