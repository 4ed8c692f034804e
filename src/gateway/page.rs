//! Pages of the list of sessions.

use std::fmt;

use actix_web::HttpRequest;

use super::problem::Problem;
use super::target::query;
use crate::event::Seq;
use crate::ledger::SessionRecord;

/// How many sessions a page of the list has unless the client says so, and at the most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// A place in the list: after the session that started there. Opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor(Seq);

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageRequest {
    after: Cursor,
    limit: usize,
}

impl PageRequest {
    pub(super) fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let mut page = Self {
            after: Cursor::default(),
            limit: DEFAULT_LIMIT,
        };
        for (name, value) in query(request, &["state", "limit", "cursor"])? {
            match name.as_str() {
                "state" if value == "active" => {}
                "state" => {
                    let detail = "only `active` is supported by this release";
                    return Err(Problem::invalid_field("#/query/state", detail));
                }
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let detail = format!("must be a number from 1 to {MAX_LIMIT}");
                        Problem::invalid_field("#/query/limit", detail)
                    })?;
                }
                _ => {
                    page.after = value.parse().map_err(|()| {
                        let detail = "is none that this gateway gave: take `next_cursor` unchanged";
                        Problem::invalid_field("#/query/cursor", detail)
                    })?;
                }
            }
        }
        Ok(page)
    }

    /// The page out of all `records`, and where the next one begins, if there is one.
    pub(super) fn of_active(
        self,
        mut records: Vec<SessionRecord>,
    ) -> (Vec<SessionRecord>, Option<Cursor>) {
        let by_start = |record: &SessionRecord| record.start_seq;
        records.retain(|record| record.start_seq > self.after.0);
        let has_more = records.len() > self.limit;
        if has_more {
            // Sorting a page, not a million sessions for each.
            records.select_nth_unstable_by_key(self.limit, by_start);
            records.truncate(self.limit);
        }
        records.sort_unstable_by_key(by_start);
        let last = records.last().map(|record| Cursor(record.start_seq));
        (records, last.filter(|_| has_more))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::test::TestRequest;

    use super::*;
    use crate::session::{Incarnation, NewSession, Session, SessionId};

    fn requested(target: &str) -> Result<PageRequest, Problem> {
        PageRequest::of(&TestRequest::with_uri(target).to_http_request())
    }

    fn record(seq: Seq) -> SessionRecord {
        let new = NewSession::new(SessionId::new(format!("s{seq}")).unwrap());
        let now = jiff::Timestamp::UNIX_EPOCH;
        let session = Session::begin(new, Incarnation::generate(), None, now);
        SessionRecord::active(Arc::new(session), seq)
    }

    fn page(after: Seq, limit: usize, all: &[Seq]) -> (Vec<Seq>, Option<Cursor>) {
        let after = Cursor(after);
        let all = all.iter().copied().map(record).collect();
        let (page, next) = PageRequest { after, limit }.of_active(all);
        (page.iter().map(|record| record.start_seq).collect(), next)
    }

    #[test]
    fn a_page_is_the_next_sessions_by_start() {
        let all = [5, 1, 9, 3, 7];
        assert_eq!(page(0, 2, &all), (vec![1, 3], Some(Cursor(3))));
        assert_eq!(page(3, 2, &all), (vec![5, 7], Some(Cursor(7))));
        assert_eq!(page(7, 2, &all), (vec![9], None));
    }

    #[test]
    fn a_page_that_ends_with_the_list_has_no_next() {
        assert_eq!(page(0, 3, &[1, 2, 3]), (vec![1, 2, 3], None));
        assert_eq!(page(3, 3, &[1, 2, 3]), (vec![], None));
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
        let expected = PageRequest {
            after: Cursor(255),
            limit: 1000,
        };
        assert_eq!(requested(target).unwrap(), expected);
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
            ("state=ended", "state"),
            ("state=", "state"),
            ("key=a", "key"),
            ("limi%74s=5", "limits"),
        ] {
            let refusal = requested(&format!("/v1/sessions?{query}")).unwrap_err();
            let pointer = format!("(#/query/{name}:");
            assert!(refusal.to_string().contains(&pointer), "{query}: {refusal}");
        }
    }
}
