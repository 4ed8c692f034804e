//! The requests of holders, and on them.

use std::time::Duration;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::caller::Caller;
use super::connection::Peer;
use super::ends::Ends;
use super::hold::{KEEP_ALIVE, Lease};
use super::problem::Problem;
use super::refusals::{
    Elsewhere, InvalidOrReserved, Stopping, TooManyOpen, Unavailable, UnavailableOrBusy,
};
use super::schema::HolderEndReason;
use super::stream::{EventStream, Streams};
use super::target::{holder, query};
use crate::holder::{DEFAULT_GRACE, HolderStatus};
use crate::session::{EndReason, HolderId, RunId, SessionId};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

/// The holders.
#[derive(Debug, Serialize, ToSchema)]
struct HolderList {
    /// By name.
    holders: Vec<HolderStatus>,
}

/// Whose lease a stream is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldRequest {
    /// Which process of the holder asks.
    #[schema(value_type = RunId)]
    run_id: Option<RunId>,
    /// How long the lease outlives the stream; 5,000 if left out.
    #[schema(maximum = 3_600_000)]
    grace_ms: Option<u64>,
}

/// A sign of life.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HeartbeatRequest {
    /// Which process of the holder lives.
    #[schema(value_type = RunId)]
    run_id: Option<RunId>,
    /// How long the lease lasts from now on.
    #[schema(value_type = u64, minimum = 1000, maximum = 3_600_000)]
    ttl_ms: Option<u64>,
}

/// What a holder has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReconcileRequest {
    /// Which process of the holder has them.
    #[schema(value_type = RunId)]
    run_id: Option<RunId>,
    /// All its sessions.
    #[schema(value_type = Vec<SessionId>)]
    ids: Option<Vec<SessionId>>,
}

/// What became of a holder's sessions.
#[derive(Debug, Serialize, ToSchema)]
struct ReconciledSessions {
    /// How many ended, since they were not named.
    ended: usize,
    /// Those named that are not active, or not its own.
    not_active: Vec<SessionId>,
}

/// How a holder ends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EndHolderRequest {
    /// Which process of the holder asks, if it says so: then not one whose place another has taken.
    run_id: Option<RunId>,
    /// With what its sessions end.
    #[schema(value_type = HolderEndReason)]
    reason: Option<EndReason>,
}

/// What the end of a holder did.
#[derive(Debug, Serialize, ToSchema)]
struct EndedHolderSessions {
    /// How many sessions it ended.
    ended: usize,
}

/// A field that has no default.
fn required<T>(field: Option<T>, pointer: &'static str) -> Result<T, Problem> {
    field.ok_or_else(|| Problem::invalid_field(pointer, "is missing"))
}

/// The holder that the path names, if the caller may speak for it.
///
/// Comes before the body is looked at; whether the name can be one is told after it.
fn spoken_for(
    request: &HttpRequest,
    caller: &Caller,
) -> Result<Result<HolderId, Problem>, Problem> {
    let holder = holder(request);
    caller.check_holder(holder.as_ref().ok())?;
    Ok(holder)
}

/// The holders: what keeps their sessions active, and how many they have.
#[utoipa::path(
    get,
    path = "/v1/holders",
    operation_id = "list_holders",
    responses(
        (status = 200, description = "Every holder, or the token's own.", body = HolderList),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn list(request: HttpRequest, caller: Caller, supervisor: Supervisor) -> Answer {
    query(&request, &[])?;
    let mut holders = supervisor.holders().await?;
    if let Some(own) = caller.holder() {
        holders.retain(|status| status.holder == *own);
    }
    Ok(HttpResponse::Ok().json(HolderList { holders }))
}

/// Holds: the answer is a stream, and the holder has its lease as long as the stream is open.
///
/// Server-sent events: `ended` for each session of the holder that ends meanwhile, whose data is the
/// `session_end`; `gap` for a client that reads so slowly that the ledger keeps some no longer.
#[utoipa::path(
    post,
    path = "/v1/holders/{holder}/hold",
    operation_id = "hold",
    params(("holder" = HolderId, Path, description = "The holder's name, percent-encoded.")),
    request_body = HoldRequest,
    responses(
        (
            status = 200,
            description = "A stream that ends when another takes its place as the lease, when the \
                           holder ends, or with the gateway.",
            content_type = "text/event-stream",
            body = String,
        ),
        (status = 409, response = Elsewhere),
        (status = 429, response = TooManyOpen),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn hold(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Supervisor,
    streams: Data<Streams>,
    ends: Data<Ends>,
) -> Answer {
    let holder = spoken_for(&request, &caller)?;
    let HoldRequest { run_id, grace_ms } = body.json()?;
    let run_id = required(run_id, "#/run_id")?;
    let holder = holder?;
    query(&request, &[])?;
    let grace = grace_ms.map_or(DEFAULT_GRACE, Duration::from_millis);
    let place = streams.hold()?;
    let peer = request.conn_data::<Peer>().cloned().unwrap_or_default();
    // First, since a new run's lease ends the sessions of the run before.
    let ends = ends.of_holder(&supervisor, &holder);
    let hold = supervisor.hold(holder, run_id, grace).await?;
    let lease = Lease::new(hold, ends, peer);
    Ok(EventStream::new(lease, KEEP_ALIVE, place).into_response())
}

/// Says that a holder lives, and will for a while.
#[utoipa::path(
    post,
    path = "/v1/holders/{holder}/heartbeat",
    operation_id = "heartbeat",
    params(("holder" = HolderId, Path, description = "The holder's name, percent-encoded.")),
    request_body = HeartbeatRequest,
    responses(
        (status = 204, description = "It has its lease."),
        (status = 409, response = Elsewhere),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn heartbeat(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Supervisor,
) -> Answer {
    let holder = spoken_for(&request, &caller)?;
    let HeartbeatRequest { run_id, ttl_ms } = body.json()?;
    let run_id = required(run_id, "#/run_id")?;
    let ttl = Duration::from_millis(required(ttl_ms, "#/ttl_ms")?);
    let holder = holder?;
    query(&request, &[])?;
    supervisor.heartbeat(holder, run_id, ttl).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Says which sessions a holder has. Others of its sessions end with the reason `lost`.
#[utoipa::path(
    put,
    path = "/v1/holders/{holder}/sessions",
    operation_id = "reconcile",
    params(("holder" = HolderId, Path, description = "The holder's name, percent-encoded.")),
    request_body = ReconcileRequest,
    responses(
        (status = 200, description = "What differed.", body = ReconciledSessions),
        (status = 409, response = Elsewhere),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn reconcile(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Supervisor,
) -> Answer {
    let holder = spoken_for(&request, &caller)?;
    let ReconcileRequest { run_id, ids } = body.json()?;
    let run_id = required(run_id, "#/run_id")?;
    let ids = required(ids, "#/ids")?;
    let holder = holder?;
    query(&request, &[])?;
    let reconciled = supervisor.reconcile(holder, run_id, ids).await?;
    Ok(HttpResponse::Ok().json(ReconciledSessions {
        ended: reconciled.ended,
        not_active: reconciled.not_active,
    }))
}

/// Ends all sessions of a holder, and its lease: how a program says that it stops.
///
/// The answer comes when every plugin was told, or when the time is over that a stop of the gateway
/// has for that.
#[utoipa::path(
    post,
    path = "/v1/holders/{holder}/end",
    operation_id = "end_holder",
    params(("holder" = HolderId, Path, description = "The holder's name, percent-encoded.")),
    request_body = EndHolderRequest,
    responses(
        (status = 200, description = "They have ended.", body = EndedHolderSessions),
        (status = 409, response = Elsewhere),
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
    let holder = spoken_for(&request, &caller)?;
    let EndHolderRequest { run_id, reason } = body.json()?;
    let reason = required(reason, "#/reason")?;
    let holder = holder?;
    query(&request, &[])?;
    if reason.is_reserved() {
        return Err(Problem::reserved(reason));
    }
    if !HolderEndReason::ALL.contains(&reason) {
        let names = HolderEndReason::ALL.map(EndReason::as_str).join(", ");
        let detail = format!("must be one of {names}");
        return Err(Problem::invalid_field("#/reason", detail));
    }
    let cap = supervisor.cap().await?;
    let ended = supervisor.end_holder(holder, run_id, reason, cap).await?;
    Ok(HttpResponse::Ok().json(EndedHolderSessions { ended }))
}
