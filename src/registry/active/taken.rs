//! Sessions that were active.

use std::sync::Arc;

use super::{ActiveSessions, Slot};
use crate::event::OpenSession;
use crate::ledger::SessionRecord;
use crate::session::SessionId;

/// Sessions that were active, all taken out in one step.
#[derive(Debug)]
pub(crate) struct TakenSessions {
    /// In the order of their starts.
    sessions: Arc<[OpenSession]>,
    /// The rest of the table: to let go of it would take as long as all the rest.
    table: ActiveSessions,
    /// Where in `sessions` is what was at a place of the table.
    indexes: Vec<u32>,
}

impl TakenSessions {
    /// Moves the sessions out of their table. No session is looked into, or cloned: a drain waits for
    /// this.
    pub(super) fn new(mut table: ActiveSessions) -> Self {
        let slots: Vec<Slot> = table.by_start.slots().collect();
        let mut indexes = vec![0; table.entries.capacity()];
        let sessions = slots.iter().zip(0..).map(|(&slot, index)| {
            indexes[slot as usize] = index;
            let entry = table.entries.remove(slot as usize);
            OpenSession::new(entry.session, entry.place.seq())
        });
        Self {
            sessions: sessions.collect(),
            table,
            indexes,
        }
    }

    /// All of them, in the order of their starts.
    pub(crate) fn all(&self) -> &Arc<[OpenSession]> {
        &self.sessions
    }

    /// The one with this id, as it was while it was active.
    pub(crate) fn record(&self, id: &SessionId) -> Option<SessionRecord> {
        let open = |slot: Slot| &self.sessions[self.indexes[slot as usize] as usize];
        let is_it = |slot| open(slot).session.id == *id;
        let slot = self.table.ids.find(id, is_it)?;
        let OpenSession { session, start_seq } = open(slot).clone();
        Some(SessionRecord::active(session, start_seq))
    }
}
