//! Events that were tried and are to be tried again before the lane goes on in the log.

use std::collections::{HashSet, VecDeque};

use super::flight::Flight;
use super::{incarnation_of, is_of};
use crate::event::{Event, Seq};
use crate::session::SessionId;

#[derive(Debug)]
struct Pending {
    event: Event,
    /// Not together with others, because a delivery with it failed.
    alone: bool,
    /// It failed alone, and it is open whose fault that was.
    suspect: bool,
    /// How many events the plugin had acknowledged when this one was first tried.
    tried_at: u64,
    attempts: u32,
}

/// A batch to try again.
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    pub(super) tried_at: u64,
    pub(super) attempts: u32,
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

    /// Whether none is left but those that only another event can tell something of.
    pub(super) fn all_suspect(&self) -> bool {
        self.queue.iter().all(|pending| pending.suspect)
    }

    /// Their places in the log, in no particular order, with whether each was tried.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, bool)> {
        let queue = self.queue.iter();
        queue.map(|pending| (pending.event.recorded_seq(), pending.attempts > 0))
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let sessions = self.queue.iter().filter_map(|it| it.event.session());
        sessions.map(|session| session.id.clone())
    }

    /// Adds an event that was not tried, since it must stay behind a pending one.
    pub(super) fn push(&mut self, event: Event) {
        self.queue.push_back(Pending {
            event,
            alone: false,
            suspect: false,
            tried_at: 0,
            attempts: 0,
        });
    }

    /// Takes off the first that may fly beside `flying`: several that failed together because the
    /// plugin was down, or one by itself. Suspects come last, and only if `also_suspects`.
    pub(super) fn take_next(
        &mut self,
        flying: HashSet<SessionId>,
        max_batch: usize,
        also_suspects: bool,
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
            if is_free && pending.suspect {
                first_suspect.get_or_insert(index);
            }
            blocked.extend(pending.event.session().map(|session| session.id.clone()));
        }
        if chosen.is_empty() && also_suspects {
            chosen.extend(first_suspect);
        }
        let first = &self.queue[*chosen.first()?];
        let (tried_at, attempts) = (first.tried_at, first.attempts);
        let taken = chosen.iter().rev().filter_map(|&at| self.queue.remove(at));
        let mut events: Vec<_> = taken.map(|pending| pending.event).collect();
        events.reverse();
        Some(Batch {
            events,
            tried_at,
            attempts,
        })
    }

    /// Takes back what a failed delivery left without an answer. With `alone` each is tried by
    /// itself from now on; one that was, is then a suspect.
    pub(super) fn put_back(&mut self, flight: &Flight, open: Vec<Event>, alone: bool) {
        let suspect = alone && flight.events.len() == 1;
        let later = std::mem::take(&mut self.queue);
        let back = open.into_iter().map(|event| Pending {
            event,
            alone,
            suspect,
            tried_at: flight.tried_at,
            attempts: flight.attempt,
        });
        if !suspect {
            self.queue.extend(back);
            self.queue.extend(later);
            return;
        }
        // To the end, with what must stay behind it: the others are tried first.
        let incarnation = flight.events.first().and_then(incarnation_of);
        let (followers, others): (VecDeque<_>, VecDeque<_>) = later
            .into_iter()
            .partition(|pending| incarnation_of(&pending.event) == incarnation);
        self.queue.extend(others);
        self.queue.extend(back);
        self.queue.extend(followers);
    }

    /// Takes out the events that `is_wanted`.
    pub(super) fn take_if(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let (wanted, others): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|pending| is_wanted(&pending.event));
        self.queue = others;
        wanted.into_iter().map(|pending| pending.event).collect()
    }
}
