//! Sessions that were active.

use std::cell::OnceCell;
use std::mem;
use std::sync::Arc;

use super::index::Index;
use super::order::StartOrder;
use super::{ActiveSessions, Slot};
use crate::event::OpenSession;
use crate::ledger::SessionRecord;
use crate::session::SessionId;

/// Sessions that were active, all taken out in one step.
#[derive(Debug)]
pub(crate) struct TakenSessions {
    /// In the order of their starts.
    sessions: Arc<[OpenSession]>,
    /// Where in the table they were, by id.
    ids: Index,
    /// The same in the order of their starts.
    slots: StartOrder,
    /// Where in `sessions` is what was in a slot, once somebody asks.
    indexes: OnceCell<Vec<u32>>,
    /// The rest of the table: to let go of it would take as long as all the rest.
    _rest: ActiveSessions,
}

impl TakenSessions {
    /// Moves the sessions out of their table. No session is looked into, or cloned: a drain waits for
    /// this.
    pub(super) fn new(mut table: ActiveSessions) -> Self {
        let (ids, slots) = (mem::take(&mut table.ids), mem::take(&mut table.by_start));
        let in_order: Vec<Slot> = slots.slots().collect();
        let sessions = in_order.into_iter().map(|slot| {
            let entry = table.entries.remove(slot as usize);
            OpenSession::new(entry.session, entry.place.seq())
        });
        Self {
            sessions: sessions.collect(),
            ids,
            slots,
            indexes: OnceCell::new(),
            _rest: table,
        }
    }

    /// All of them, in the order of their starts.
    pub(crate) fn all(&self) -> &Arc<[OpenSession]> {
        &self.sessions
    }

    /// The one with this id, as it was while it was active.
    pub(crate) fn record(&self, id: &SessionId) -> Option<SessionRecord> {
        let indexes = self.indexes.get_or_init(|| self.indexes());
        let open = |slot: Slot| &self.sessions[indexes[slot as usize] as usize];
        let is_it = |slot| open(slot).session.id == *id;
        let slot = self.ids.find(id, is_it)?;
        let OpenSession { session, start_seq } = open(slot).clone();
        Some(SessionRecord::active(session, start_seq))
    }

    fn indexes(&self) -> Vec<u32> {
        let slots = self.slots.slots().max().map_or(0, |last| last as usize + 1);
        let mut indexes = vec![0; slots];
        for (slot, index) in self.slots.slots().zip(0..) {
            indexes[slot as usize] = index;
        }
        indexes
    }
}
