//! Rows as events and sessions.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef};
use rusqlite::{Result, Row};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::event::{Event, InstanceId, OpenSession, Seq};
use crate::ledger::{Parked, SessionRecord};
use crate::session::{End, EndDetails, EndReason, HolderId, RunId, Session};

/// A time as its milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Millis(pub(super) Timestamp);

impl ToSql for Millis {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.0.as_millisecond().into())
    }
}

impl FromSql for Millis {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let time = Timestamp::from_millisecond(value.as_i64()?);
        time.map(Self).map_err(FromSqlError::other)
    }
}

impl ToSql for EndReason {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for EndReason {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl FromSql for HolderId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl FromSql for RunId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

/// `value` as the JSON text of a column.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    let index = row.as_ref().column_index(column)?;
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.into()))
}

/// The end of the text of a query that yields events in log order: `starts` and `ends` merged. Each
/// half is preceded by its own `SELECT …` and followed by its own conditions on `log.seq`.
macro_rules! events_query {
    ($extra:literal, $from:literal, $condition:literal) => {
        concat!(
            "SELECT log.seq AS seq, log.seq AS start_seq, log.at AS at, run.id AS instance, ",
            "log.session AS session, NULL AS reason, NULL AS ended_at, NULL AS details",
            $extra,
            " FROM ",
            $from,
            "starts AS log JOIN instances AS run ON run.number = log.instance",
            " WHERE ",
            $condition,
            " UNION ALL ",
            "SELECT log.seq, log.start_seq, log.detected_at, run.id, ",
            "coalesce(amended.session, begun.session), log.reason, ",
            "max(log.ended_at, begun.at), log.details",
            $extra,
            " FROM ",
            $from,
            "ends AS log JOIN instances AS run ON run.number = log.instance",
            " JOIN starts AS begun ON begun.seq = log.start_seq",
            " LEFT JOIN amendments AS amended ON amended.start_seq = log.start_seq",
            " WHERE ",
            $condition,
            " ORDER BY seq LIMIT :limit"
        )
    };
}
pub(super) use events_query;

/// Makes events of the rows of one query. Sessions that ended together share their end.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    last_end: Option<Arc<End>>,
}

impl EventReader {
    /// The event in a row of [`events_query`].
    pub(super) fn event(&mut self, row: &Row<'_>) -> Result<Event> {
        let seq: Seq = row.get("seq")?;
        let start_seq: Seq = row.get("start_seq")?;
        let Millis(at) = row.get("at")?;
        let instance = InstanceId::from_uuid(row.get::<_, Uuid>("instance")?);
        let session: Arc<Session> = Arc::new(from_json(row, "session")?);
        let event = match self.end(row, at)? {
            None => Event::start(session, at, instance),
            Some(end) => Event::end(OpenSession::new(session, start_seq), end, instance),
        };
        Ok(event.with_seq(seq))
    }

    /// What is parked in a row of [`events_query`] that has the columns of `parked` too.
    pub(super) fn parked(&mut self, row: &Row<'_>) -> Result<Parked> {
        let Millis(not_before) = row.get("not_before")?;
        Ok(Parked {
            event: self.event(row)?,
            attempts: row.get("attempts")?,
            not_before,
            dead: row.get("dead")?,
            error: row.get("error")?,
        })
    }

    /// The end in a row that was noticed at `detected_at`, if it is one.
    fn end(&mut self, row: &Row<'_>, detected_at: Timestamp) -> Result<Option<Arc<End>>> {
        let Some(reason) = row.get("reason")? else {
            return Ok(None);
        };
        let ended_at = row.get::<_, Option<Millis>>("ended_at")?;
        let details = match row.get_ref("details")? {
            ValueRef::Null => EndDetails::default(),
            _ => from_json(row, "details")?,
        };
        let end = End {
            reason,
            ended_at: ended_at.map_or(detected_at, |time| time.0),
            detected_at,
            details,
        };
        match &self.last_end {
            Some(last) if **last == end => {}
            _ => self.last_end = Some(Arc::new(end)),
        }
        Ok(self.last_end.clone())
    }

    /// The session in a row of [`ended_query`].
    pub(super) fn ended(&mut self, row: &Row<'_>) -> Result<SessionRecord> {
        let Millis(detected_at) = row.get("detected_at")?;
        let end_seq = row.get("seq")?;
        let session: Arc<Session> = Arc::new(from_json(row, "session")?);
        // As its event tells it.
        let end = self.end(row, detected_at)?;
        let end = end.map(|end| (End::within_life(end, session.started_at), end_seq));
        Ok(SessionRecord {
            session,
            start_seq: row.get("start_seq")?,
            end,
        })
    }
}

/// The beginning of a query for sessions that have ended; conditions follow.
macro_rules! ended_query {
    ($rest:literal) => {
        concat!(
            "SELECT over.seq, over.start_seq, over.detected_at, max(over.ended_at, begun.at) AS ended_at, ",
            "over.reason, over.details, ",
            "coalesce(amended.session, begun.session) AS session ",
            "FROM starts AS begun JOIN ends AS over ON over.start_seq = begun.seq ",
            "LEFT JOIN amendments AS amended ON amended.start_seq = begun.seq ",
            $rest
        )
    };
}
pub(super) use ended_query;
