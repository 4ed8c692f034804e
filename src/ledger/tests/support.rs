//! Events to record, and how to wait for a ledger.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::event::{Event, EventId, InstanceId, OpenSession, Seq};
use crate::ledger::{Append, Ledger, LedgerError, LedgerFuture, Page, Parked};
use crate::session::{End, EndDetails, EndReason, Incarnation, NewSession, Session, SessionId};

/// No ledger takes longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the ledger answers.
pub(in crate::ledger) fn ask<T>(answer: LedgerFuture<T>) -> Result<T, LedgerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(TIMEOUT, answer).await })
        .expect("the ledger answers")
}

/// What the ledger answers, which must be no error.
pub(in crate::ledger) fn get<T>(answer: LedgerFuture<T>) -> T {
    ask(answer).unwrap()
}

/// So many seconds after some moment.
pub(in crate::ledger) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).unwrap()
}

pub(in crate::ledger) fn id(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

/// What can be compared of an event: everything.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::ledger) struct Told {
    pub(in crate::ledger) seq: Seq,
    pub(in crate::ledger) start_seq: Seq,
    pub(in crate::ledger) event_id: EventId,
    pub(in crate::ledger) timestamp: Timestamp,
    pub(in crate::ledger) instance: InstanceId,
    pub(in crate::ledger) session: Arc<Session>,
    pub(in crate::ledger) end: Option<Arc<End>>,
}

pub(in crate::ledger) fn told(event: &Event) -> Told {
    Told {
        seq: event.recorded_seq(),
        start_seq: event.start_seq(),
        event_id: event.id(),
        timestamp: event.timestamp(),
        instance: event.instance(),
        session: Arc::clone(event.session().unwrap()),
        end: event.how_ended().cloned(),
    }
}

pub(in crate::ledger) fn all_told(events: &[Event]) -> Vec<Told> {
    events.iter().map(told).collect()
}

/// The run of a supervisor, as a ledger sees it.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger) struct Run {
    pub(in crate::ledger) instance: InstanceId,
}

impl Run {
    pub(in crate::ledger) fn new() -> Self {
        let instance = InstanceId::generate();
        Self { instance }
    }

    pub(in crate::ledger) fn start_event(&self, new: NewSession, now: Timestamp) -> Event {
        let session = Session::begin(new, Incarnation::generate(), None, now);
        Event::start(Arc::new(session), now, self.instance)
    }

    pub(in crate::ledger) fn end_event(&self, open: &OpenSession, end: End) -> Event {
        Event::end(open.clone(), Arc::new(end), self.instance)
    }

    pub(in crate::ledger) fn start(
        &self,
        ledger: &dyn Ledger,
        name: &str,
        now: Timestamp,
    ) -> OpenSession {
        let event = self.start_event(NewSession::new(id(name)), now);
        open(&append(ledger, vec![event])[0])
    }

    pub(in crate::ledger) fn end(
        &self,
        ledger: &dyn Ledger,
        open: &OpenSession,
        reason: EndReason,
        now: Timestamp,
    ) -> Event {
        let end = End::now(reason, EndDetails::default(), now);
        append(ledger, vec![self.end_event(open, end)])[0].clone()
    }
}

pub(in crate::ledger) fn append(ledger: &dyn Ledger, events: Vec<Event>) -> Arc<[Event]> {
    get(ledger.append(Append::from(events)))
}

/// The session that `event` starts.
pub(in crate::ledger) fn open(event: &Event) -> OpenSession {
    OpenSession::new(Arc::clone(event.session().unwrap()), event.recorded_seq())
}

/// The whole log as it is read page by page, and how many events are missing.
pub(in crate::ledger) fn read_all(ledger: &dyn Ledger, page: usize) -> (Vec<Told>, u64) {
    let mut all = Vec::new();
    let (mut gaps, mut after) = (0, 0);
    while after < ledger.head() {
        let Page { events, gap } = get(ledger.read(after, page));
        assert!(events.len() <= page);
        assert!(!events.is_empty(), "nothing to read after {after}");
        gaps += gap;
        all.extend(all_told(&events));
        assert_eq!(all[all.len() - events.len()].seq, after + gap + 1);
        after = all[all.len() - 1].seq;
    }
    (all, gaps)
}

pub(in crate::ledger) fn parked(event: &Event, attempts: u32, dead: bool) -> Parked {
    Parked {
        event: event.clone(),
        attempts,
        not_before: at(1000),
        dead,
        error: "no thanks".into(),
    }
}
