//! Events that were read and can't fly yet: those to be tried again before the lane goes on in the
//! log, and those that wait for one of their session.

use std::collections::{HashSet, VecDeque};

use jiff::Timestamp;

use super::flight::{Flight, Tries};
use super::{incarnation_of, is_of};
use crate::event::{Event, Seq};
use crate::session::{Incarnation, SessionId};

/// How many events may wait for what becomes of a suspect, or be suspects themselves.
const MAX_UNDECIDED: usize = 1000;

#[derive(Debug)]
struct Pending {
    event: Event,
    /// Not together with others, because a delivery with it failed.
    alone: bool,
    /// It failed alone, and it is open whose fault that was.
    suspect: bool,
    tries: Tries,
}

/// A batch to try again.
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    pub(super) tries: Tries,
}

/// A lane's pending events. Those of one session are in log order.
#[derive(Debug, Default)]
pub(super) struct PendingEvents {
    queue: VecDeque<Pending>,
}

impl PendingEvents {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether only another event can tell something of those that are left: all are suspects or
    /// stay behind one, and the plugin has acknowledged nothing since they failed.
    pub(super) fn are_undecided(&self, acknowledged: u64) -> bool {
        let mut behind = HashSet::new();
        self.queue.len() < MAX_UNDECIDED
            && self.queue.iter().all(|pending| {
                if pending.is_undecided(acknowledged) {
                    behind.extend(pending.event.session().map(|session| &session.id));
                    return true;
                }
                let session = pending.event.session();
                session.is_some_and(|session| behind.contains(&session.id))
            })
    }

    /// Their places in the log, in no particular order, with whether each was tried.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, bool)> {
        let queue = self.queue.iter();
        queue.map(|pending| (pending.event.recorded_seq(), pending.tries.count > 0))
    }

    /// When the oldest was recorded.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let events = self.queue.iter().map(|pending| &pending.event);
        let oldest = events.min_by_key(|event| event.recorded_seq());
        oldest.map(Event::timestamp)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let sessions = self.queue.iter().filter_map(|it| it.event.session());
        sessions.map(|session| session.id.clone())
    }

    pub(super) fn incarnations(&self) -> impl Iterator<Item = Option<Incarnation>> {
        self.queue
            .iter()
            .map(|pending| incarnation_of(&pending.event))
    }

    /// Adds an event that was not tried, since it must stay behind one that is pending or in flight.
    pub(super) fn push(&mut self, event: Event) {
        self.queue.push_back(Pending {
            event,
            alone: false,
            suspect: false,
            tries: Tries::default(),
        });
    }

    /// Takes off the first that may fly beside `flying`: several that failed together because the
    /// plugin was down, or one by itself. Suspects come last, and while they are undecided only if
    /// `also_undecided`.
    pub(super) fn take_next(
        &mut self,
        flying: HashSet<SessionId>,
        max_batch: usize,
        acknowledged: u64,
        also_undecided: bool,
    ) -> Option<Batch> {
        let mut blocked = flying;
        let mut first_suspect = None;
        let mut chosen = Vec::new();
        for (index, pending) in self.queue.iter().enumerate() {
            let is_free = !is_of(&pending.event, &blocked);
            if is_free && !pending.suspect && (chosen.is_empty() || !pending.alone) {
                chosen.push(index);
                if pending.alone || chosen.len() >= max_batch {
                    break;
                }
                continue;
            }
            if !chosen.is_empty() {
                break;
            }
            let may_be_tried = also_undecided || !pending.is_undecided(acknowledged);
            if is_free && pending.suspect && may_be_tried {
                first_suspect.get_or_insert(index);
            }
            blocked.extend(pending.event.session().map(|session| session.id.clone()));
        }
        if chosen.is_empty() {
            chosen.extend(first_suspect);
        }
        let tries = self.queue[*chosen.first()?].tries;
        let taken = chosen.iter().rev().filter_map(|&at| self.queue.remove(at));
        let mut events: Vec<_> = taken.map(|pending| pending.event).collect();
        // What flew side by side may have come back in another order.
        events.sort_unstable_by_key(Event::recorded_seq);
        Some(Batch { events, tries })
    }

    /// Takes back what a failed delivery left without an answer. With `alone` each is tried by
    /// itself from now on; one that was, is then a suspect.
    pub(super) fn put_back(
        &mut self,
        flight: &Flight,
        open: Vec<Event>,
        tries: Tries,
        alone: bool,
    ) {
        let suspect = alone && flight.events.len() == 1;
        let later = std::mem::take(&mut self.queue);
        let back = open.into_iter().map(|event| Pending {
            event,
            alone,
            suspect,
            tries,
        });
        if !suspect {
            self.queue.extend(back);
            self.queue.extend(later);
            return;
        }
        // To the end, with what must stay behind it: the others are tried first.
        let session = flight.events.first().and_then(Event::session);
        let id = session.map(|session| &session.id);
        let (followers, others): (VecDeque<_>, VecDeque<_>) = later
            .into_iter()
            .partition(|pending| pending.event.session().map(|session| &session.id) == id);
        self.queue.extend(others);
        self.queue.extend(back);
        self.queue.extend(followers);
    }

    /// Takes out the events that `is_wanted`, with how often they were tried.
    pub(super) fn take_if(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Vec<(Event, Tries)> {
        let (wanted, others): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|pending| is_wanted(&pending.event));
        self.queue = others;
        let wanted = wanted.into_iter();
        wanted
            .map(|pending| (pending.event, pending.tries))
            .collect()
    }
}

impl Pending {
    fn is_undecided(&self, acknowledged: u64) -> bool {
        self.suspect && self.tries.acknowledged_at_last == acknowledged
    }
}
