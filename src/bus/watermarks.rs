//! How far each plugin was told, for everybody to look up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::DeliveryState;
use crate::event::{Hook, Hooks, Seq};
use crate::ledger::SessionRecord;

/// The place up to which a plugin acknowledged everything that is for it; 0 while something is parked
/// or dead.
#[derive(Debug, Clone, Default)]
pub(super) struct Watermark(Arc<AtomicU64>);

impl Watermark {
    pub(super) fn set(&self, seq: Seq) {
        self.0.store(seq, Ordering::Release);
    }

    fn get(&self) -> Seq {
        self.0.load(Ordering::Acquire)
    }
}

/// What a plugin hears of, and how far it was told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) name: Arc<str>,
    pub(super) hooks: Hooks,
    /// It is told of nothing up to here.
    pub(super) since: Seq,
    pub(super) up_to: Watermark,
}

impl Told {
    /// The place of the last event of a session that this plugin hears of, if it hears of any.
    pub(super) fn last_event_of(&self, record: &SessionRecord) -> Option<Seq> {
        let end = record.end.as_ref().map(|(_, seq)| *seq);
        let end = end.filter(|_| self.hooks.contains(Hook::SessionEnd));
        let start = self.hooks.contains(Hook::SessionStart);
        let last = end.or(start.then_some(record.start_seq))?;
        (last > self.since).then_some(last)
    }
}

/// How far every plugin was told: the bus says who they are, and each lane how far it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watermarks(watch::Sender<Arc<[Told]>>);

impl Watermarks {
    pub(super) fn set(&self, plugins: impl Iterator<Item = Told>) {
        self.0.send_replace(plugins.collect());
    }

    /// The plugins that hear of the last event of a session, where all of them acknowledged it. None
    /// where only their lanes can tell.
    pub(crate) fn delivered(
        &self,
        record: &SessionRecord,
    ) -> Option<Vec<(Arc<str>, DeliveryState)>> {
        let plugins = self.0.borrow();
        let states = plugins.iter().filter_map(|told| {
            let last = told.last_event_of(record)?;
            let state = (told.up_to.get() >= last).then_some(DeliveryState::Delivered);
            Some(state.map(|state| (Arc::clone(&told.name), state)))
        });
        states.collect()
    }
}
