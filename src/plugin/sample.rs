//! Events for the tests of plugins.

use std::sync::Arc;

use jiff::Timestamp;

use crate::event::{Event, InstanceId, OpenSession};
use crate::session::{End, EndDetails, EndReason, Incarnation, NewSession, Session, SessionId};

/// A time given in RFC 3339.
pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The start of a session that has nothing but an id.
pub(super) fn start(id: &str) -> Event {
    start_of(NewSession::new(SessionId::new(id).unwrap()))
}

/// The start of a new incarnation of `new`.
pub(super) fn start_of(new: NewSession) -> Event {
    let started_at = time("2026-11-22T10:00:00Z");
    let session = Session::begin(new, Incarnation::generate(), None, started_at);
    Event::start(Arc::new(session), started_at, InstanceId::generate())
}

/// The end of the session that `start` tells of.
pub(super) fn end_of(start: &Event) -> Event {
    let ended_at = time("2026-11-22T11:00:00Z");
    let end = End::now(EndReason::Shutdown, EndDetails::default(), ended_at);
    let session = Arc::clone(start.session().unwrap());
    Event::end(
        OpenSession::new(session, 1),
        Arc::new(end),
        start.instance(),
    )
}
