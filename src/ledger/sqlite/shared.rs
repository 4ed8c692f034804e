//! What the writer tells everybody at once, in memory: how long the log is, its newest part, how far
//! each plugin is, and how large the files are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{Event, Seq};
use crate::ledger::Page;
use crate::ledger::tail::Tail;

/// How many events are kept in memory for plugins that lag, at the most. They read what is older
/// from the file.
const MAX_TAIL: usize = 131_072;

/// How many bytes their details may take: beside the events themselves, and what those have in common.
const MAX_TAIL_BYTES: usize = 64 << 20;

/// What a transaction changed, to be seen once it is committed.
#[derive(Debug)]
pub(super) enum Effect {
    /// These events follow the head. Their details weigh so many bytes.
    Appended(Arc<[Event]>, usize),
    /// The log has grown up to here by events that are only in the file.
    Grew(Seq),
    /// The plugin has got so far.
    Moved(Arc<str>, Seq),
    /// There are no other plugins than these.
    Configured(Arc<[Arc<str>]>),
    /// No event before this place is kept.
    Reclaimed(Seq),
}

/// What is committed, as far as it is in memory.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    tail: Tail,
    /// The cursors of the plugins that are attached.
    cursors: HashMap<Arc<str>, Seq>,
    /// The place of the oldest event that is kept.
    oldest: Seq,
    /// How many transactions were committed.
    commits: u64,
    /// Whether this run was asked to stop.
    is_stopping: bool,
    /// How many bytes the files take.
    size: u64,
}

impl Shared {
    /// The log ends at `head` and begins at `oldest`, nothing of it is in memory, and the files take
    /// `size` bytes.
    pub(super) fn new(head: Seq, oldest: Seq, size: u64) -> Self {
        let mut seen = Seen {
            oldest,
            size,
            ..Seen::default()
        };
        seen.tail.restart_at(head);
        Self(Mutex::new(seen))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic under the lock is a defect of ours; going on with the rest loses less.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction had these effects, and the files take `size` bytes after it.
    pub(super) fn apply(&self, effects: Vec<Effect>, size: u64) {
        let mut seen = self.seen();
        seen.size = size;
        for effect in effects {
            match effect {
                Effect::Appended(events, bytes) => seen.tail.push(events, bytes),
                Effect::Grew(head) => seen.tail.restart_at(head),
                Effect::Moved(plugin, cursor) => {
                    seen.cursors.insert(plugin, cursor);
                }
                Effect::Configured(plugins) => {
                    seen.cursors.retain(|name, _| plugins.contains(name));
                }
                Effect::Reclaimed(oldest) => seen.oldest = oldest,
            }
        }
        seen.commits += 1;
        let behind = seen.cursors.values().copied().min();
        let done = behind.unwrap_or(seen.tail.head());
        seen.tail.trim(done, MAX_TAIL, MAX_TAIL_BYTES);
    }

    pub(super) fn commits(&self) -> u64 {
        self.seen().commits
    }

    /// From now on nothing but what a stop needs is to be done.
    pub(super) fn begin_stop(&self) {
        self.seen().is_stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.seen().is_stopping
    }

    pub(super) fn head(&self) -> Seq {
        self.seen().tail.head()
    }

    /// How many bytes the files take.
    pub(super) fn size(&self) -> u64 {
        self.seen().size
    }

    /// The part of the log after `after`, if it is in memory, or else the head.
    pub(super) fn read(&self, after: Seq, limit: usize) -> Result<Page, Seq> {
        let seen = self.seen();
        match after.saturating_add(1) >= seen.tail.first() {
            true => Ok(seen.tail.read(after, limit)),
            false => Err(seen.tail.head()),
        }
    }

    /// How much of what is kept is kept for `plugin`: from 0 to 1. None if it is not attached.
    pub(super) fn share_of(&self, plugin: &str) -> Option<f64> {
        let seen = self.seen();
        let head = seen.tail.head();
        let owed = head.saturating_sub(*seen.cursors.get(plugin)?);
        let kept = (head + 1).saturating_sub(seen.oldest.max(1)).max(1);
        Some((owed as f64 / kept as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tail::place;
    use crate::ledger::tests::support::*;
    use crate::session::NewSession;

    #[test]
    fn the_newest_part_in_memory_is_limited_by_the_weight_of_its_details_too() {
        let shared = Shared::new(0, 0, 0);
        shared.apply(vec![Effect::Moved("slow".into(), 0)], 0);
        let run = Run::new();
        let append = |first: Seq, bytes| {
            let event = || run.start_event(NewSession::new(id("a")), at(0));
            let events = place((0..10).map(|_| event()).collect(), first);
            shared.apply(vec![Effect::Appended(events, bytes)], 0);
        };
        append(1, MAX_TAIL_BYTES / 2);
        append(11, MAX_TAIL_BYTES / 2);
        assert_eq!(shared.read(0, 100).unwrap().events.len(), 20);
        append(21, 1);
        // The file has the oldest ones.
        assert_eq!(shared.read(0, 100).unwrap_err(), 30);
        assert_eq!(shared.read(10, 100).unwrap().events.len(), 20);
        append(31, MAX_TAIL_BYTES + 1);
        assert_eq!(shared.read(30, 100).unwrap_err(), 40);
        append(41, 0);
        assert_eq!(shared.read(40, 100).unwrap().events.len(), 10);
    }
}
