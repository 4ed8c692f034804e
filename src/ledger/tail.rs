//! The newest part of the log, in memory: what lanes that keep up, and watchers, read.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Page;
use crate::event::{Event, Seq};

/// How many events are kept though every plugin is past them: for those who watch, and come back
/// after a moment.
const KEPT: usize = 8192;

/// Gives `events` the places from `first` on.
pub(super) fn place(mut events: Arc<[Event]>, first: Seq) -> Arc<[Event]> {
    let places = first..;
    let Some(own) = Arc::get_mut(&mut events) else {
        let events = events.iter().cloned().zip(places);
        return events.map(|(event, seq)| event.with_seq(seq)).collect();
    };
    for (event, seq) in own.iter_mut().zip(places) {
        event.set_seq(seq);
    }
    events
}

#[derive(Debug)]
struct Chunk {
    events: Arc<[Event]>,
    bytes: usize,
}

impl Chunk {
    fn last(&self) -> Seq {
        self.events[self.events.len() - 1].recorded_seq()
    }
}

/// The last events of the log, in the batches in which they came.
#[derive(Debug, Default)]
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    len: usize,
    /// How much the details of all of them take, as far as it was counted.
    bytes: usize,
    head: Seq,
}

impl Tail {
    /// The place of the last event.
    pub(super) fn head(&self) -> Seq {
        self.head
    }

    /// The place of the first event that is kept, or the one after the head.
    pub(super) fn first(&self) -> Seq {
        self.head - self.len as Seq + 1
    }

    /// Takes in the events that follow the head, whose details count as so many `bytes`.
    pub(super) fn push(&mut self, events: Arc<[Event]>, bytes: usize) {
        let Some(first) = events.first() else {
            return;
        };
        debug_assert_eq!(first.recorded_seq(), self.head + 1, "a hole in the log");
        self.head += events.len() as Seq;
        self.len += events.len();
        self.bytes += bytes;
        self.chunks.push_back(Chunk { events, bytes });
    }

    /// Lets go of everything: the log goes on after the place `head`.
    #[cfg(feature = "sqlite")]
    pub(super) fn restart_at(&mut self, head: Seq) {
        *self = Self {
            head,
            ..Self::default()
        };
    }

    /// Lets go of whole batches up to `done`, but for the last `KEPT`, and of the oldest ones past
    /// `limit` events or `max_bytes`.
    pub(super) fn trim(&mut self, done: Seq, limit: usize, max_bytes: usize) {
        while let Some(chunk) = self.chunks.front() {
            let left = self.len - chunk.events.len();
            let fits = self.len <= limit && self.bytes <= max_bytes;
            if (chunk.last() > done || left < KEPT) && fits {
                break;
            }
            self.len = left;
            self.bytes -= chunk.bytes;
            self.chunks.pop_front();
        }
    }

    /// At most `limit` events after the place `after`. Those that are gone are the page's gap.
    pub(super) fn read(&self, after: Seq, limit: usize) -> Page {
        let next = after.saturating_add(1);
        let from = self.first().max(next);
        let gap = from - next;
        if from > self.head || limit == 0 {
            let events = Arc::new([]);
            return Page { events, gap };
        }
        let index = self.chunks.partition_point(|chunk| chunk.last() < from);
        let chunk = &self.chunks[index].events;
        let starts_here = chunk[0].recorded_seq() == from;
        // The batches of a drain are shared as they are; small ones are copied together.
        if starts_here && chunk.len() <= limit && chunk.len() * 2 > limit {
            let events = Arc::clone(chunk);
            return Page { events, gap };
        }
        let skip = usize::try_from(from - chunk[0].recorded_seq()).unwrap_or(usize::MAX);
        let events = self
            .chunks
            .iter()
            .skip(index)
            .flat_map(|chunk| chunk.events.iter())
            .skip(skip)
            .take(limit)
            .cloned()
            .collect();
        Page { events, gap }
    }
}
