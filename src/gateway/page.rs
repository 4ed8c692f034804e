//! Pages of the list of sessions.

use std::fmt;
use std::time::Duration;

use actix_web::HttpRequest;

use super::caller::Caller;
use super::problem::Problem;
use super::target::query;
use crate::event::Seq;
use crate::filter::SessionFilter;
use crate::ledger::SessionRecord;
use crate::registry::{ListSessions, SessionState};
use crate::session::InvalidField;

/// How many entries a page of a list has unless the client says so, and at the most.
pub(super) const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// A place in a list: after the event that stands there in the log. Opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor(pub(super) Seq);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:x}", self.0)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let cursor = text
            .strip_prefix('s')
            .and_then(|digits| Seq::from_str_radix(digits, 16).ok())
            .map(Self);
        // Only as we write it, so that nobody comes to rely on anything else.
        cursor.filter(|it| it.to_string() == text).ok_or(())
    }
}

/// Which part of the list is asked for.
#[derive(Debug, Clone)]
pub(super) struct PageRequest {
    state: SessionState,
    filter: SessionFilter,
    after: Cursor,
    limit: usize,
}

/// The parameters of the list.
const PARAMETERS: &[&str] = &[
    "state",
    "key",
    "key_prefix",
    "agent_id",
    "holder",
    "idle_for_ms",
    "older_than_ms",
    "limit",
    "cursor",
];

impl PageRequest {
    /// The one that a request names, of what its caller may see.
    pub(super) fn of(request: &HttpRequest, caller: &Caller) -> Result<Self, Problem> {
        let mut page = Self {
            state: SessionState::Active,
            filter: SessionFilter::default(),
            after: Cursor::default(),
            limit: DEFAULT_LIMIT,
        };
        for (name, value) in query(request, PARAMETERS)? {
            let pointer = format!("#/query/{name}");
            page.set(&name, &value)
                .map_err(|problem| Problem::invalid_field(pointer, problem))?;
        }
        page.filter.holder = caller.implied(page.filter.holder)?;
        Ok(page)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let invalid = |error: InvalidField| error.problem;
        let filter = &mut self.filter;
        match name {
            "state" => {
                self.state = match value {
                    "active" => SessionState::Active,
                    "ended" => SessionState::Ended,
                    _ => return Err("must be `active` or `ended`".into()),
                }
            }
            "key" => filter.key = Some(value.parse().map_err(invalid)?),
            "key_prefix" => filter.key_prefix = Some(value.into()),
            "agent_id" => filter.agent_id = Some(value.into()),
            "holder" => filter.holder = Some(value.parse().map_err(invalid)?),
            "idle_for_ms" => filter.idle_for = Some(milliseconds(value)?),
            "older_than_ms" => filter.older_than = Some(milliseconds(value)?),
            "limit" => self.limit = parse_limit(value)?,
            _ => self.after = parse_cursor(value)?,
        }
        Ok(())
    }

    /// What the handle is asked for: one more than the page has, to know whether there is more.
    pub(super) fn to_query(&self) -> ListSessions {
        ListSessions {
            state: self.state,
            filter: self.filter.clone(),
            after: self.after.0,
            limit: self.limit + 1,
        }
    }

    /// Cuts the answer to the page's length. Where the next page begins, if there is one.
    pub(super) fn cut(&self, records: &mut Vec<SessionRecord>) -> Option<Cursor> {
        let has_more = records.len() > self.limit;
        records.truncate(self.limit);
        let last = records.last().map(|record| Cursor(record.start_seq));
        last.filter(|_| has_more)
    }
}

/// The value of `limit`.
pub(super) fn parse_limit(value: &str) -> Result<usize, String> {
    let limit = value.parse().ok();
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| format!("must be a number from 1 to {MAX_LIMIT}"))
}

/// The value of `cursor`.
pub(super) fn parse_cursor(value: &str) -> Result<Cursor, String> {
    let cursor = value.parse();
    cursor.map_err(|()| "is none that this gateway gave: take `next_cursor` unchanged".to_owned())
}

fn milliseconds(value: &str) -> Result<Duration, String> {
    let number = value.parse().map(Duration::from_millis);
    number.map_err(|_| "must be a whole number of milliseconds".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::test::TestRequest;

    use super::*;
    use crate::session::{Incarnation, NewSession, Session, SessionId};

    fn requested(target: &str) -> Result<PageRequest, Problem> {
        PageRequest::of(
            &TestRequest::with_uri(target).to_http_request(),
            &Caller::Local,
        )
    }

    fn record(seq: Seq) -> SessionRecord {
        let new = NewSession::new(SessionId::new(format!("s{seq}")).unwrap());
        let now = jiff::Timestamp::UNIX_EPOCH;
        let session = Session::begin(new, Incarnation::generate(), None, now);
        SessionRecord::active(Arc::new(session), seq)
    }

    #[test]
    fn a_page_asks_for_one_more_to_know_whether_there_is_a_next() {
        let page = requested("/v1/sessions?limit=2&cursor=s3").unwrap();
        let query = page.to_query();
        assert_eq!((query.after, query.limit), (3, 3));

        let mut records = vec![record(5), record(7), record(9)];
        assert_eq!(page.cut(&mut records), Some(Cursor(7)));
        assert_eq!(records.len(), 2);
        let mut last = vec![record(9), record(11)];
        assert_eq!(page.cut(&mut last), None);
        assert_eq!(last.len(), 2);
        assert_eq!(page.cut(&mut Vec::new()), None);
    }

    #[test]
    fn conditions_become_a_filter() {
        let target = "/v1/sessions?state=ended&key=a%3Ab&key_prefix=a%26&agent_id=main&\
                      holder=run&idle_for_ms=5&older_than_ms=60000";
        let query = requested(target).unwrap().to_query();
        assert_eq!(query.state, SessionState::Ended);
        let expected = SessionFilter {
            key: Some("a:b".parse().unwrap()),
            key_prefix: Some("a&".into()),
            agent_id: Some("main".into()),
            holder: Some("run".parse().unwrap()),
            idle_for: Some(Duration::from_millis(5)),
            older_than: Some(Duration::from_secs(60)),
        };
        assert_eq!(query.filter, expected);
    }

    #[test]
    fn cursors_are_read_back_only_as_they_were_written() {
        for seq in [0, 1, 255, Seq::MAX] {
            let cursor = Cursor(seq);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in [
            "",
            "s",
            "5",
            "s-1",
            "s+5",
            "s05",
            "sFF",
            "s10000000000000000",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_page_has_100_sessions_unless_the_client_says_so() {
        assert_eq!(requested("/v1/sessions").unwrap().limit, 100);
        let target = "/v1/sessions?state=active&limit=1000&cursor=sff";
        let page = requested(target).unwrap();
        assert_eq!((page.after, page.limit), (Cursor(255), 1000));
    }

    #[test]
    fn parameters_that_mean_nothing_are_refused_by_name() {
        for (query, name) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=2", "limit"),
            ("cursor=x", "cursor"),
            ("state=gone", "state"),
            ("state=", "state"),
            ("key=", "key"),
            ("idle_for_ms=1s", "idle_for_ms"),
            ("older_than_ms=-1", "older_than_ms"),
            ("keys=a", "keys"),
            ("limi%74s=5", "limits"),
        ] {
            let refusal = requested(&format!("/v1/sessions?{query}")).unwrap_err();
            let pointer = format!("(#/query/{name}:");
            assert!(refusal.to_string().contains(&pointer), "{query}: {refusal}");
        }
    }
}
