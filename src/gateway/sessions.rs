//! The requests on sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::caller::Caller;
use super::page::PageRequest;
use super::problem::{Kind, Problem};
use super::refusals::{
    Elsewhere, Full, Inactive, InvalidOrReserved, Stopping, Unavailable, UnavailableOrBusy, Unknown,
};
use super::schema::GivenReason;
use super::target::{query, session_id};
use crate::bus::DeliveryState;
use crate::clock::WireTime;
use crate::ledger::SessionRecord;
use crate::registry::{Ended, EndedSession, SessionState, StartedSession, Touch};
use crate::session::{
    EndDetails, EndReason, HolderId, Incarnation, Metadata, NewSession, RunId, Session, SessionId,
    SessionKey,
};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

/// What a program says of a session when it starts it, or again while it is active.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StartRequest {
    /// The session's id.
    #[schema(value_type = SessionId)]
    id: Option<SessionId>,
    /// What it is for; leave it out where sessions may share one.
    key: Option<SessionKey>,
    /// The agent that serves it, in at most 4,096 bytes.
    #[schema(max_length = 4096)]
    agent_id: Option<Box<str>>,
    /// Where its owner stores it, in at most 4,096 bytes. Carried, never opened.
    #[schema(max_length = 4096)]
    store_path: Option<Box<str>>,
    /// Its transcript, in at most 4,096 bytes. Carried, never opened.
    #[schema(max_length = 4096)]
    session_file: Option<Box<str>>,
    /// The session that it carries on.
    resumed_from: Option<SessionId>,
    /// The program that holds it; none if left out, but that of a token of scope `holder`.
    holder: Option<HolderId>,
    /// Which process of its holder; the current one if left out. Goes with a holder only.
    run_id: Option<RunId>,
    /// When it started, by its owner's clock; now if left out. In the years 0 to 9999.
    started_at: Option<Timestamp>,
    /// Details for the plugins, of at most 16 KiB as compact JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Metadata,
}

impl StartRequest {
    fn into_new_session(self, caller: &Caller) -> Result<NewSession, Problem> {
        let missing = || Problem::invalid_field("#/id", "is missing: every session needs an id");
        Ok(NewSession {
            key: self.key,
            agent_id: self.agent_id.map(Into::into),
            store_path: self.store_path,
            session_file: self.session_file,
            resumed_from: self.resumed_from,
            holder: caller.implied(self.holder)?,
            run_id: self.run_id,
            started_at: self.started_at,
            metadata: self.metadata,
            ..NewSession::new(self.id.ok_or_else(missing)?)
        })
    }
}

/// Which session is in use.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TouchRequest {
    /// Only if the session is in this life.
    incarnation: Option<Incarnation>,
}

/// What a program says of a session when it ends it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EndRequest {
    /// `unknown` if left out.
    #[schema(value_type = Option<GivenReason>)]
    reason: Option<EndReason>,
    /// Free text on the reason, of at most 1,024 bytes.
    #[schema(max_length = 1024)]
    detail: Option<Box<str>>,
    /// Only if the session is in this life.
    incarnation: Option<Incarnation>,
    /// The session that follows.
    next_session_id: Option<SessionId>,
    /// The key of the session that follows.
    next_key: Option<SessionKey>,
    /// How many messages the session held.
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    message_count: Option<u64>,
    /// Whether the transcript was archived.
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

/// A session in an answer: what it is, and how it ended if it has.
#[derive(Debug, Serialize, ToSchema)]
struct SessionView<'a> {
    #[serde(flatten)]
    session: &'a Session,
    /// Which of its lives it is in.
    state: SessionState,
    /// Why it ended.
    reason: Option<EndReason>,
    /// Free text on the reason.
    detail: Option<&'a str>,
    /// Whether the conversation may go on in a later session.
    resumable: Option<bool>,
    /// When it ended, or the last moment that it was known alive.
    ended_at: Option<WireTime>,
}

/// A session that is active now.
#[derive(Debug, Serialize, ToSchema)]
struct Started<'a> {
    #[serde(flatten)]
    session: SessionView<'a>,
    /// The session that had the key, and has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = SessionId, required = false)]
    replaced: Option<SessionId>,
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
struct SessionPage<'a> {
    /// In the order of their starts.
    sessions: Vec<SessionView<'a>>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

/// A session, and what has become of its last event.
#[derive(Debug, Serialize, ToSchema)]
struct Shown<'a> {
    #[serde(flatten)]
    session: SessionView<'a>,
    /// For each plugin that hears of it.
    #[schema(value_type = BTreeMap<String, DeliveryState>)]
    plugins: BTreeMap<Arc<str>, DeliveryState>,
}

impl<'a> SessionView<'a> {
    fn active(session: &'a Session) -> Self {
        Self {
            session,
            state: SessionState::Active,
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
            state: SessionState::Ended,
            reason: Some(end.reason),
            detail: end.details.detail.as_deref(),
            resumable: Some(end.reason.resumable()),
            ended_at: Some(WireTime(end.ended_at)),
            ..active
        }
    }
}

/// Starts a session, or replaces the details of one that is active.
///
/// It is recorded by the time of the answer; plugins are told afterwards. Another session that has
/// the key ends with the reason `replaced`.
#[utoipa::path(
    post,
    path = "/v1/sessions",
    operation_id = "start_session",
    request_body = StartRequest,
    responses(
        (
            status = 201,
            description = "It has started.",
            body = Started,
            headers(("Location" = String, description = "The session's own path."))
        ),
        (
            status = 200,
            description = "It was active already. All its details but `started_at` are replaced.",
            body = Started
        ),
        (status = 409, response = Elsewhere),
        (status = 429, response = Full),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn start(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Supervisor,
) -> Answer {
    let new = body.json::<StartRequest>()?.into_new_session(&caller)?;
    query(&request, &[])?;
    let started = match caller.holder() {
        Some(_) => supervisor.started_by_holder(new).await,
        None => supervisor.started(new).await,
    };
    let StartedSession {
        session,
        is_new,
        replaced,
    } = started?;

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

/// A page of the list of sessions. All conditions that are given must hold.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    operation_id = "list_sessions",
    params(
        ("state" = inline(Option<SessionState>), Query, description = "`active` if left out."),
        ("key" = Option<SessionKey>, Query, description = "Only the session with this key."),
        ("key_prefix" = Option<String>, Query, description = "Only keys that begin so."),
        ("agent_id" = Option<String>, Query, description = "Only sessions of this agent."),
        ("holder" = Option<HolderId>, Query, description = "Only sessions of this holder."),
        (
            "idle_for_ms" = Option<u64>, Query,
            description = "Not started or touched for at least this long."
        ),
        ("older_than_ms" = Option<u64>, Query, description = "Started at least this long ago."),
        (
            "limit" = Option<u64>, Query, minimum = 1, maximum = 1000,
            description = "How many at the most; 100 if left out."
        ),
        (
            "cursor" = Option<String>, Query,
            description = "`next_cursor` of the page before, unchanged."
        ),
    ),
    responses(
        (status = 200, description = "The page.", body = SessionPage),
        (status = 503, response = Unavailable),
    )
)]
pub(super) async fn list(request: HttpRequest, caller: Caller, supervisor: Supervisor) -> Answer {
    let page = PageRequest::of(&request, &caller)?;
    let mut records = supervisor.list(page.to_query()).await?;
    let next = page.cut(&mut records);
    Ok(HttpResponse::Ok().json(SessionPage {
        sessions: records.iter().map(SessionView::new).collect(),
        next_cursor: next.map(|cursor| cursor.to_string()),
    }))
}

/// The active session of this id, or the one that ended last.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}",
    operation_id = "show_session",
    params(("id" = SessionId, Path, description = "The session's id, percent-encoded.")),
    responses(
        (status = 200, description = "The session.", body = Shown),
        (status = 404, response = Unknown),
        (status = 503, response = Unavailable),
    )
)]
pub(super) async fn show(request: HttpRequest, caller: Caller, supervisor: Supervisor) -> Answer {
    let id = session_id(&request)?;
    query(&request, &[])?;
    let record = supervisor.find(&id).await?.ok_or_else(|| unknown(&id))?;
    caller.check_holder(record.session.holder.as_ref())?;
    let plugins = supervisor.delivery_states(&record).await?;
    let session = SessionView::new(&record);
    Ok(HttpResponse::Ok().json(Shown { session, plugins }))
}

/// Says that a session is in use, so that it is not idle.
#[utoipa::path(
    post,
    path = "/v1/sessions/{id}/touch",
    operation_id = "touch_session",
    params(("id" = SessionId, Path, description = "The session's id, percent-encoded.")),
    request_body = TouchRequest,
    responses(
        (status = 204, description = "That is noted."),
        (status = 404, response = Inactive),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn touch(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Supervisor,
) -> Answer {
    let id = session_id(&request);
    let own = own_incarnation(&supervisor, &caller, id.as_ref().ok()).await?;
    let TouchRequest { incarnation } = body.json_or_default()?;
    let (id, incarnation) = (id?, incarnation.or(own));
    query(&request, &[])?;
    supervisor.touch(Touch { id, incarnation }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends a session.
///
/// It is recorded by the time of the answer; plugins are told afterwards. A session ends only once,
/// so this may be repeated until it is answered: the answer has the reason with which it ended.
#[utoipa::path(
    post,
    path = "/v1/sessions/{id}/end",
    operation_id = "end_session",
    params(("id" = SessionId, Path, description = "The session's id, percent-encoded.")),
    request_body = EndRequest,
    responses(
        (
            status = 200,
            description = "It has ended, now or before, or is active in another incarnation.",
            body = SessionView
        ),
        (status = 404, response = Unknown),
        (status = 422, response = InvalidOrReserved),
        (status = 503, response = Unavailable),
    )
)]
pub(super) async fn end(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Supervisor,
) -> Answer {
    let id = session_id(&request);
    let own = own_incarnation(&supervisor, &caller, id.as_ref().ok()).await?;
    let mut end: EndRequest = body.json_or_default()?;
    end.incarnation = end.incarnation.or(own);
    let id = id?;
    query(&request, &[])?;
    match supervisor.ended(end.into_ended(id.clone())?).await? {
        EndedSession::Now(record) | EndedSession::Unchanged(record) => {
            // Another holder may have started the id meanwhile.
            caller.check_holder(record.session.holder.as_ref())?;
            Ok(HttpResponse::Ok().json(SessionView::new(&record)))
        }
        EndedSession::Unknown => Err(unknown(&id)),
    }
}

/// Refuses a session that the caller may not touch. The life that it may, where it may not all: its
/// next one may be another holder's.
async fn own_incarnation(
    supervisor: &SessionSupervisor,
    caller: &Caller,
    id: Option<&SessionId>,
) -> Result<Option<Incarnation>, Problem> {
    let (Some(_), Some(id)) = (caller.holder(), id) else {
        return Ok(None);
    };
    let Some(SessionRecord { session, .. }) = supervisor.find(id).await? else {
        // One that no session has: another holder may be starting it.
        return Ok(Some(Incarnation::generate()));
    };
    caller.check_holder(session.holder.as_ref())?;
    Ok(Some(session.incarnation))
}

fn unknown(id: &SessionId) -> Problem {
    Problem::new(Kind::NotFound, format!("session {id} is unknown"))
}
