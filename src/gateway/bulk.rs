//! The request that ends many sessions.

use std::time::Duration;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::caller::Caller;
use super::problem::Problem;
use super::refusals::{InvalidOrReserved, Unavailable};
use super::schema::GivenReason;
use super::target::query;
use crate::filter::SessionFilter;
use crate::registry::EndMatching;
use crate::session::{EndReason, HolderId, SessionKey};
use crate::supervisor::SessionSupervisor;

/// Which sessions to end: those that meet every condition given, or `all` of them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BulkEndRequest {
    /// Only the session with this key.
    key: Option<SessionKey>,
    /// Only sessions whose key begins so.
    key_prefix: Option<String>,
    /// Only sessions of this agent.
    agent_id: Option<String>,
    /// Only sessions of this holder.
    holder: Option<HolderId>,
    /// Only sessions not started or touched for at least this long.
    idle_for_ms: Option<u64>,
    /// Only sessions started at least this long ago.
    older_than_ms: Option<u64>,
    /// Every session. Goes with no condition, and without one it must be said.
    all: Option<bool>,
    /// `closed` if left out.
    #[schema(value_type = Option<GivenReason>)]
    reason: Option<EndReason>,
    /// Whether to count only, and end nothing.
    dry_run: Option<bool>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
struct BulkEnded {
    /// How many sessions met the conditions.
    matched: usize,
    /// How many of them this request ended; the others were ended first by something else. 0 for a
    /// dry run.
    ended: usize,
}

/// Ends every active session that meets a filter: for a token of scope `holder`, of its own.
#[utoipa::path(
    post,
    path = "/v1/bulk-end",
    operation_id = "bulk_end",
    request_body = BulkEndRequest,
    responses(
        (status = 200, description = "They have ended.", body = BulkEnded),
        (status = 422, response = InvalidOrReserved),
        (status = 503, response = Unavailable),
    )
)]
pub(super) async fn end(
    request: HttpRequest,
    caller: Caller,
    body: Body,
    supervisor: Data<SessionSupervisor>,
) -> Result<HttpResponse, Problem> {
    let wanted: BulkEndRequest = body.json_or_default()?;
    query(&request, &[])?;
    let mut filter = SessionFilter {
        key: wanted.key,
        key_prefix: wanted.key_prefix,
        agent_id: wanted.agent_id,
        holder: wanted.holder,
        idle_for: wanted.idle_for_ms.map(Duration::from_millis),
        older_than: wanted.older_than_ms.map(Duration::from_millis),
    };
    match (filter.is_empty(), wanted.all == Some(true)) {
        (true, false) => {
            let detail = "name a filter, or say `\"all\": true` to end every session";
            return Err(Problem::invalid_field("#", detail));
        }
        (false, true) => {
            let detail = "`all` goes with no filter: leave one of them out";
            return Err(Problem::invalid_field("#/all", detail));
        }
        _ => {}
    }
    // Of what is its own alone, where that is all that the caller may see.
    filter.holder = caller.implied(filter.holder)?;
    let reason = wanted.reason.unwrap_or(EndReason::Closed);
    if reason.is_reserved() {
        return Err(Problem::reserved(reason));
    }
    if wanted.dry_run == Some(true) {
        let matched = supervisor.count_matching(filter).await?;
        return Ok(HttpResponse::Ok().json(BulkEnded { matched, ended: 0 }));
    }
    let ended = supervisor.end_matching(EndMatching::new(filter, reason));
    let ended = ended.await?;
    Ok(HttpResponse::Ok().json(BulkEnded {
        matched: ended.matched,
        ended: ended.ended.len(),
    }))
}
