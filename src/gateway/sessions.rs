//! The requests on sessions.

mod forms;

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use self::forms::{
    EndRequest, SessionPage, SessionView, Shown, StartRequest, Started, TouchRequest,
};
use super::body::Body;
use super::caller::Caller;
use super::page::PageRequest;
use super::problem::{Kind, Problem};
use super::refusals::{
    Elsewhere, Full, Inactive, InvalidOrReserved, Stopping, Unavailable, UnavailableOrBusy, Unknown,
};
use super::target::{query, session_id};
use crate::ledger::SessionRecord;
use crate::registry::{EndedSession, SessionState, StartedSession, Touch};
use crate::session::{HolderId, Incarnation, SessionId, SessionKey};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

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
