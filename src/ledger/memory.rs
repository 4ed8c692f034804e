//! A ledger in memory: it lives and dies with the process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use jiff::Timestamp;

use super::tail::{Tail, place};
use super::weight::{of_end, of_session};
use super::{
    Append, Appended, Intent, Ledger, LedgerError, LedgerFuture, Page, Parked, Position, Progress,
    SessionRecord,
};
use crate::event::{Event, Hook, Seq};
use crate::filter::SessionFilter;
use crate::session::{Incarnation, SessionId};

/// How many events are kept for plugins that lag, at the most. Past it the oldest are given up:
/// a ledger that can't spill to disk must not grow for as long as a plugin hangs.
const MAX_LOG_EVENTS: usize = 4 << 20;

/// How many bytes their details may take: about as much as so many events without any.
const MAX_LOG_BYTES: usize = 1 << 30;

/// How many ended sessions are remembered, at the most.
const MAX_ENDED: usize = 100_000;

/// How many bytes their details may take.
const MAX_ENDED_BYTES: usize = 64 << 20;

/// A ledger in memory. Nothing of it survives the process, so ends that a shutdown can't deliver
/// are lost, and a crash tells nobody.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    log: Tail,
    plugins: HashMap<Arc<str>, PluginRows>,
    ended: EndedSessions,
}

#[derive(Debug)]
struct PluginRows {
    since: Seq,
    cursor: Seq,
    parked: BTreeMap<Seq, Parked>,
}

/// The sessions that ended last, oldest first.
#[derive(Debug, Default)]
struct EndedSessions {
    by_id: HashMap<SessionId, SessionRecord>,
    /// Their ids, the places of their ends, and about how many bytes their details take.
    order: VecDeque<(SessionId, Seq, usize)>,
    bytes: usize,
    /// What has ended in a stop since anybody last asked, in the batches in which it was recorded: to
    /// sort in a million sessions would be most of what their drain costs, and hardly anybody asks.
    unsorted: VecDeque<Batch>,
    /// How many sessions those are.
    unsorted_len: usize,
    is_stopping: bool,
}

/// Events, and how many ends there are among them.
#[derive(Debug)]
struct Batch {
    events: Arc<[Event]>,
    ends: usize,
}

impl EndedSessions {
    /// Takes in the ends among `events`.
    fn note(&mut self, events: &Arc<[Event]>) {
        let is_end = |event: &&Event| event.how_ended().is_some();
        let ends = match Event::hook_of_all(events) {
            Some(Hook::SessionEnd) => events.len(),
            _ => events.iter().filter(is_end).count(),
        };
        if ends == 0 {
            return;
        }
        let events = Arc::clone(events);
        self.unsorted.push_back(Batch { events, ends });
        if !self.is_stopping {
            self.by_id();
            return;
        }
        self.unsorted_len += ends;
        // The oldest would be forgotten as soon as they were sorted in.
        while let Some(oldest) = self.unsorted.front()
            && self.unsorted_len - oldest.ends >= MAX_ENDED
        {
            self.unsorted_len -= oldest.ends;
            self.unsorted.pop_front();
        }
    }

    fn by_id(&mut self) -> &HashMap<SessionId, SessionRecord> {
        self.unsorted_len = 0;
        for Batch { events, .. } in std::mem::take(&mut self.unsorted) {
            for event in events.iter() {
                if let (Some(session), Some(end)) = (event.session(), event.how_ended()) {
                    let seq = event.recorded_seq();
                    let record = SessionRecord {
                        session: Arc::clone(session),
                        start_seq: event.start_seq(),
                        end: Some((Arc::clone(end), seq)),
                    };
                    self.insert(record, seq);
                }
            }
        }
        &self.by_id
    }

    fn insert(&mut self, record: SessionRecord, end_seq: Seq) {
        let id = record.session.id.clone();
        let end = record.end.as_ref();
        let bytes = of_session(&record.session) + end.map_or(0, |(end, _)| of_end(end));
        self.order.push_back((id.clone(), end_seq, bytes));
        self.bytes += bytes;
        self.by_id.insert(id, record);
        while self.order.len() > MAX_ENDED || self.bytes > MAX_ENDED_BYTES {
            let Some((id, seq, bytes)) = self.order.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            // A newer end of the same id has an entry of its own further back.
            let is_newest =
                |record: &SessionRecord| matches!(record.end, Some((_, end)) if end == seq);
            if self.by_id.get(&id).is_some_and(is_newest) {
                self.by_id.remove(&id);
            }
        }
    }
}

/// About how many bytes the details of `events` take. Those of a session count with its start: they
/// are its end's too.
fn weigh(events: &[Event]) -> usize {
    let weight = |event: &Event| match (event.how_ended(), event.session()) {
        (Some(end), _) => of_end(end),
        (None, Some(session)) => of_session(session),
        (None, None) => 0,
    };
    if let (Some(_), Some(first)) = (Event::hook_of_all(events), events.first()) {
        // They share one end.
        return weight(first);
    }
    events.iter().map(weight).sum()
}

impl State {
    fn append(&mut self, events: Arc<[Event]>) -> Arc<[Event]> {
        let chunk = place(events, self.log.head() + 1);
        self.log.push(Arc::clone(&chunk), weigh(&chunk));
        self.ended.note(&chunk);
        self.trim();
        chunk
    }

    fn trim(&mut self) {
        let behind = self.plugins.values().map(|rows| rows.cursor).min();
        let done = behind.unwrap_or(self.log.head());
        self.log.trim(done, MAX_LOG_EVENTS, MAX_LOG_BYTES);
    }

    fn advance(&mut self, plugin: &str, progress: Progress) -> Result<(), LedgerError> {
        let Some(rows) = self.plugins.get_mut(plugin) else {
            return Err(LedgerError::new(format!("plugin `{plugin}` is unknown")));
        };
        for parked in progress.park {
            rows.parked.insert(parked.event.recorded_seq(), parked);
        }
        for seq in progress.unpark {
            rows.parked.remove(&seq);
        }
        if let Some(cursor) = progress.cursor {
            rows.cursor = cursor;
            self.trim();
        }
        Ok(())
    }

    fn attach(&mut self, plugin: &str) -> Position {
        let head = self.log.head();
        let rows = self
            .plugins
            .entry(plugin.into())
            .or_insert_with(|| PluginRows {
                since: head,
                cursor: head,
                parked: BTreeMap::new(),
            });
        let (dead, parked): (Vec<_>, _) = rows.parked.values().partition(|row| row.dead);
        let place = |row: &Parked| {
            let session = row.event.session()?;
            Some((row.event.recorded_seq(), session.incarnation))
        };
        Position {
            since: rows.since,
            cursor: rows.cursor,
            parked: parked.into_iter().cloned().collect(),
            dead: dead.into_iter().filter_map(place).collect(),
            // It has seen no run but this one.
            deaths: 0,
        }
    }
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a defect of ours; going on with the rest loses less.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer<T: Send + 'static>(result: Result<T, LedgerError>) -> LedgerFuture<T> {
    std::future::ready(result).boxed()
}

impl Ledger for MemoryLedger {
    fn is_durable(&self) -> bool {
        false
    }

    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>> {
        // Amended details matter only to a successor of this process, which this ledger won't see.
        answer(Ok(self.state().append(append.events)))
    }

    fn append_each(&self, appends: Vec<Append>) -> LedgerFuture<Vec<Appended>> {
        let mut state = self.state();
        let appended = appends.into_iter().map(|it| Ok(state.append(it.events)));
        answer(Ok(appended.collect()))
    }

    fn intend(&self, _: Intent) -> LedgerFuture<()> {
        self.state().ended.is_stopping = true;
        answer(Ok(()))
    }

    fn head(&self) -> Seq {
        self.state().log.head()
    }

    fn read(&self, after: Seq, limit: usize) -> LedgerFuture<Page> {
        answer(Ok(self.state().log.read(after, limit)))
    }

    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>> {
        answer(Ok(self.state().ended.by_id().get(id).cloned()))
    }

    fn last_incarnations(&self, ids: Vec<SessionId>) -> LedgerFuture<Vec<Option<Incarnation>>> {
        let mut state = self.state();
        let ended = state.ended.by_id();
        let found = ids.iter().map(|id| ended.get(id));
        let incarnations = found.map(|record| record.map(|it| it.session.incarnation));
        answer(Ok(incarnations.collect()))
    }

    fn ended(
        &self,
        filter: &SessionFilter,
        now: Timestamp,
        after: Seq,
        limit: usize,
    ) -> LedgerFuture<Vec<SessionRecord>> {
        let mut state = self.state();
        let ended = state.ended.by_id().values();
        let matching = ended.filter(|record| filter.matches(&record.session, None, now));
        answer(Ok(page_by_start(matching.cloned(), after, limit)))
    }

    fn attach(&self, plugin: &str) -> LedgerFuture<Position> {
        answer(Ok(self.state().attach(plugin)))
    }

    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()> {
        answer(self.state().advance(plugin, progress))
    }

    fn dead_letters(&self, plugin: &str, after: Seq, limit: usize) -> LedgerFuture<Vec<Parked>> {
        let state = self.state();
        let rows = state.plugins.get(plugin).map(|rows| &rows.parked);
        let later = rows
            .into_iter()
            .flat_map(|rows| rows.range(after.saturating_add(1)..));
        let dead = later.map(|(_, row)| row).filter(|row| row.dead);
        answer(Ok(dead.take(limit).cloned().collect()))
    }

    fn detach_others(&self, configured: &[Arc<str>], _: Timestamp) -> LedgerFuture<()> {
        // There is no room to keep anything for a plugin that may come back.
        let mut state = self.state();
        state.plugins.retain(|name, _| configured.contains(name));
        state.trim();
        answer(Ok(()))
    }
}

/// The first `limit` of `records` after the place `after`, in the order of their starts.
fn page_by_start(
    records: impl Iterator<Item = SessionRecord>,
    after: Seq,
    limit: usize,
) -> Vec<SessionRecord> {
    let mut page = BTreeMap::new();
    for record in records.filter(|record| record.start_seq > after) {
        page.insert(record.start_seq, record);
        if page.len() > limit {
            page.pop_last();
        }
    }
    page.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::support::*;
    use crate::session::{EndReason, NewSession};

    /// The start of a session with details of so many bytes.
    fn start(run: &Run, name: &str, bytes: usize) -> Event {
        let mut new = NewSession::new(id(name));
        new.agent_id = Some("x".repeat(bytes).into());
        run.start_event(new, at(0))
    }

    #[test]
    fn what_a_plugin_that_lags_is_owed_is_limited_by_the_weight_of_its_details_too() {
        const PART: usize = MAX_LOG_BYTES / 16;
        let (ledger, run) = (MemoryLedger::new(), Run::new());
        get(ledger.attach("lags"));
        // The same details again and again take their room only once.
        let event = start(&run, "a", PART);
        (0..16).for_each(|_| drop(append(&ledger, vec![event.clone()])));
        assert_eq!(get(ledger.read(0, 20)).gap, 0);
        (0..4).for_each(|_| drop(append(&ledger, vec![event.clone()])));
        let page = get(ledger.read(0, 20));
        assert_eq!((page.gap, page.events.len()), (4, 16));
        // The end of a session that is there adds nothing.
        let open = open(&page.events[15]);
        run.end(&ledger, &open, EndReason::Completed, at(1));
        assert_eq!(get(ledger.read(0, 20)).gap, 4);
    }

    #[test]
    fn ended_sessions_are_remembered_as_long_as_there_is_room_for_their_details() {
        const PART: usize = MAX_ENDED_BYTES / 4;
        let (ledger, run) = (MemoryLedger::new(), Run::new());
        for name in ["a", "b", "c", "d", "e"] {
            let event = append(&ledger, vec![start(&run, name, PART)])[0].clone();
            run.end(&ledger, &open(&event), EndReason::Completed, at(1));
        }
        let is_known = |name| get(ledger.last_ended(&id(name))).is_some();
        assert!(!is_known("a"));
        assert!(["b", "c", "d", "e"].into_iter().all(is_known));
    }
}
