//! The named parameters of statements, and what they stand for.

use jiff::Timestamp;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use crate::event::{Event, Lifecycle};
use crate::session::{End, EndReason, Session};

/// One event in one attempt to deliver it.
pub(super) struct Facts<'a> {
    pub(super) event: &'a Event,
    pub(super) attempt: u32,
    pub(super) remaining_ms: u64,
}

impl<'a> Facts<'a> {
    fn session<T>(&self, get: impl FnOnce(&'a Session) -> T) -> Option<T> {
        self.event.session().map(|session| get(session))
    }

    fn end<T>(&self, get: impl FnOnce(&'a End) -> T) -> Option<T> {
        self.event.how_ended().map(|end| get(end))
    }

    fn lifecycle<T>(&self, get: impl FnOnce(&'a Lifecycle) -> T) -> Option<T> {
        self.event.lifecycle().map(get)
    }
}

/// A value that SQL statements can refer to.
pub(super) struct Parameter {
    /// Its name without the prefix, which may be `:`, `@` or `$`.
    pub(super) name: &'static str,
    pub(super) value: for<'a> fn(&Facts<'a>) -> ToSqlOutput<'a>,
}

impl Parameter {
    /// The parameter that a statement calls `token`, which includes the prefix.
    pub(super) fn of_token(token: &str) -> Option<&'static Self> {
        let name = token.strip_prefix([':', '@', '$'])?;
        ALL.iter().find(|parameter| parameter.name == name)
    }
}

macro_rules! parameters {
    ($($name:ident: |$facts:ident| $value:expr,)*) => {
        /// Every parameter. A value that an event does not have is null; as on the wire, lifecycle
        /// events have no `seq`, `attempt`, `remaining_ms` and `synthetic`.
        pub(super) static ALL: &[Parameter] =
            &[$(Parameter { name: stringify!($name), value: |$facts| $value },)*];
    };
}

parameters! {
    event_id: |facts| displayed(Some(facts.event.id())),
    type: |facts| text(Some(facts.event.hook().as_str())),
    seq: |facts| integer(facts.event.seq()),
    timestamp: |facts| time(Some(facts.event.timestamp())),
    synthetic: |facts| boolean(facts.session(|_| facts.event.is_synthetic())),
    remaining_ms: |facts| integer(facts.session(|_| facts.remaining_ms)),
    restart_expected_ms: |facts| integer(facts.lifecycle(|of| of.restart_expected_ms).flatten()),
    active_sessions: |facts| integer(facts.lifecycle(|of| of.active_sessions)),
    session_id: |facts| text(facts.session(|of| of.id.as_str())),
    incarnation: |facts| displayed(facts.session(|of| of.incarnation)),
    previous_incarnation: |facts| displayed(facts.session(Session::previous_incarnation).flatten()),
    key: |facts| text(facts.session(|of| of.key.as_ref()).flatten()),
    agent_id: |facts| text(facts.session(|of| of.agent_id.as_ref()).flatten()),
    store_path: |facts| text(facts.session(Session::store_path).flatten()),
    session_file: |facts| text(facts.session(Session::session_file).flatten()),
    resumed_from: |facts| text(facts.session(Session::resumed_from).flatten()),
    holder: |facts| text(facts.session(|of| of.holder.as_ref()).flatten()),
    started_at: |facts| time(facts.session(|of| of.started_at)),
    reason: |facts| text(reason(facts)),
    detail: |facts| text(facts.end(|of| of.details.detail.as_ref()).flatten()),
    resumable: |facts| boolean(facts.end(|of| of.reason.resumable())),
    ended_at: |facts| time(facts.end(|of| of.ended_at)),
    detected_at: |facts| time(facts.end(|of| of.detected_at)),
    duration_ms: |facts| integer(facts.event.duration_ms()),
    message_count: |facts| integer(facts.end(|of| of.details.message_count).flatten()),
    transcript_archived: |facts| boolean(facts.end(|of| of.details.transcript_archived).flatten()),
    next_session_id: |facts| text(facts.end(|of| of.details.next_session_id.as_ref()).flatten()),
    next_key: |facts| text(facts.end(|of| of.details.next_key.as_ref()).flatten()),
    instance: |facts| displayed(Some(facts.event.instance())),
    attempt: |facts| integer(facts.session(|_| facts.attempt.into())),
    metadata: |facts| text(facts.session(|of| of.metadata.as_str())),
}

fn reason(facts: &Facts<'_>) -> Option<&'static str> {
    let of_session = facts.end(|end| end.reason);
    let reason = of_session.or(facts.lifecycle(|of| of.reason).flatten());
    reason.map(EndReason::as_str)
}

fn text<'a>(text: Option<&'a (impl AsRef<str> + ?Sized)>) -> ToSqlOutput<'a> {
    ToSqlOutput::Borrowed(text.map_or(ValueRef::Null, |text| {
        ValueRef::Text(text.as_ref().as_bytes())
    }))
}

fn displayed<'a>(value: Option<impl ToString>) -> ToSqlOutput<'a> {
    ToSqlOutput::Owned(value.map_or(Value::Null, |value| Value::Text(value.to_string())))
}

/// As on the wire.
fn time<'a>(time: Option<Timestamp>) -> ToSqlOutput<'a> {
    displayed(time.map(|time| format!("{time:.3}")))
}

/// SQL integers are signed: what is larger becomes the largest.
fn integer<'a>(number: Option<u64>) -> ToSqlOutput<'a> {
    let number = number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    ToSqlOutput::Owned(number.map_or(Value::Null, Value::Integer))
}

fn boolean<'a>(value: Option<bool>) -> ToSqlOutput<'a> {
    integer(value.map(u64::from))
}
