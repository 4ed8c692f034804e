//! The requests on sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::page::PageRequest;
use super::problem::{Kind, Problem};
use super::target::{query, session_id};
use crate::bus::DeliveryState;
use crate::clock::WireTime;
use crate::ledger::SessionRecord;
use crate::registry::{Ended, EndedSession, StartedSession, Touch};
use crate::session::{
    EndDetails, EndReason, HolderId, Incarnation, Metadata, NewSession, Session, SessionId,
    SessionKey,
};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

/// The body of `POST /v1/sessions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartRequest {
    id: Option<SessionId>,
    key: Option<SessionKey>,
    agent_id: Option<Box<str>>,
    store_path: Option<Box<str>>,
    session_file: Option<Box<str>>,
    resumed_from: Option<SessionId>,
    holder: Option<HolderId>,
    run_id: Option<Box<str>>,
    started_at: Option<Timestamp>,
    #[serde(default)]
    metadata: Metadata,
}

impl StartRequest {
    fn into_new_session(self) -> Result<NewSession, Problem> {
        let holder = self.holder.is_some().then_some("#/holder");
        let run_id = self.run_id.is_some().then_some("#/run_id");
        if let Some(pointer) = holder.or(run_id) {
            let detail = "holders are not supported by this release";
            return Err(Problem::invalid_field(pointer, detail));
        }
        let missing = || Problem::invalid_field("#/id", "is missing: every session needs an id");
        Ok(NewSession {
            key: self.key,
            agent_id: self.agent_id,
            store_path: self.store_path,
            session_file: self.session_file,
            resumed_from: self.resumed_from,
            started_at: self.started_at,
            metadata: self.metadata,
            ..NewSession::new(self.id.ok_or_else(missing)?)
        })
    }
}

/// The body of `POST /v1/sessions/{id}/touch`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TouchRequest {
    incarnation: Option<Incarnation>,
}

/// The body of `POST /v1/sessions/{id}/end`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndRequest {
    reason: Option<EndReason>,
    detail: Option<Box<str>>,
    incarnation: Option<Incarnation>,
    next_session_id: Option<SessionId>,
    next_key: Option<SessionKey>,
    message_count: Option<u64>,
    transcript_archived: Option<bool>,
}

impl EndRequest {
    fn into_ended(self, id: SessionId) -> Result<Ended, Problem> {
        let reason = self.reason.unwrap_or(EndReason::Unknown);
        if reason.is_reserved() {
            return Err(Problem::reserved(reason));
        }
        Ok(Ended {
            incarnation: self.incarnation,
            details: EndDetails {
                detail: self.detail,
                next_session_id: self.next_session_id,
                next_key: self.next_key,
                message_count: self.message_count,
                transcript_archived: self.transcript_archived,
            },
            ..Ended::new(id, reason)
        })
    }
}

/// A session in an answer.
#[derive(Debug, Serialize)]
struct SessionView<'a> {
    #[serde(flatten)]
    session: &'a Session,
    state: &'static str,
    reason: Option<EndReason>,
    detail: Option<&'a str>,
    resumable: Option<bool>,
    ended_at: Option<WireTime>,
}

impl<'a> SessionView<'a> {
    fn active(session: &'a Session) -> Self {
        Self {
            session,
            state: "active",
            reason: None,
            detail: None,
            resumable: None,
            ended_at: None,
        }
    }

    fn new(record: &'a SessionRecord) -> Self {
        let active = Self::active(&record.session);
        let Some((end, _)) = &record.end else {
            return active;
        };
        Self {
            state: "ended",
            reason: Some(end.reason),
            detail: end.details.detail.as_deref(),
            resumable: Some(end.reason.resumable()),
            ended_at: Some(WireTime(end.ended_at)),
            ..active
        }
    }
}

/// `POST /v1/sessions`.
pub(super) async fn start(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    #[derive(Serialize)]
    struct Started<'a> {
        #[serde(flatten)]
        session: SessionView<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        replaced: Option<SessionId>,
    }

    let new = body.json::<StartRequest>()?.into_new_session()?;
    query(&request, &[])?;
    let StartedSession {
        session,
        is_new,
        replaced,
    } = supervisor.started(new).await?;

    let mut response = if is_new {
        let id = utf8_percent_encode(session.id.as_str(), NON_ALPHANUMERIC);
        let mut created = HttpResponse::Created();
        created.insert_header((header::LOCATION, format!("/v1/sessions/{id}")));
        created
    } else {
        HttpResponse::Ok()
    };
    let session = SessionView::active(&session);
    Ok(response.json(Started { session, replaced }))
}

/// `GET /v1/sessions`.
pub(super) async fn list(request: HttpRequest, supervisor: Supervisor) -> Answer {
    #[derive(Serialize)]
    struct List<'a> {
        sessions: Vec<SessionView<'a>>,
        next_cursor: Option<String>,
    }

    let page = PageRequest::of(&request)?;
    let mut records = supervisor.list(page.to_query()).await?;
    let next = page.cut(&mut records);
    Ok(HttpResponse::Ok().json(List {
        sessions: records.iter().map(SessionView::new).collect(),
        next_cursor: next.map(|cursor| cursor.to_string()),
    }))
}

/// `GET /v1/sessions/{id}`.
pub(super) async fn show(request: HttpRequest, supervisor: Supervisor) -> Answer {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        session: SessionView<'a>,
        plugins: BTreeMap<Arc<str>, DeliveryState>,
    }

    let id = session_id(&request)?;
    query(&request, &[])?;
    let record = supervisor.find(&id).await?.ok_or_else(|| unknown(&id))?;
    let plugins = supervisor.delivery_states(&record).await?;
    let session = SessionView::new(&record);
    Ok(HttpResponse::Ok().json(Shown { session, plugins }))
}

/// `POST /v1/sessions/{id}/touch`.
pub(super) async fn touch(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let TouchRequest { incarnation } = body.json_or_default()?;
    let id = session_id(&request)?;
    query(&request, &[])?;
    supervisor.touch(Touch { id, incarnation }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v1/sessions/{id}/end`.
pub(super) async fn end(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let end: EndRequest = body.json_or_default()?;
    let id = session_id(&request)?;
    query(&request, &[])?;
    match supervisor.ended(end.into_ended(id.clone())?).await? {
        EndedSession::Now(record) | EndedSession::Unchanged(record) => {
            Ok(HttpResponse::Ok().json(SessionView::new(&record)))
        }
        EndedSession::Unknown => Err(unknown(&id)),
    }
}

fn unknown(id: &SessionId) -> Problem {
    Problem::new(Kind::NotFound, format!("session {id} is unknown"))
}
