//! The request that ends many sessions.

use std::time::Duration;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::problem::Problem;
use super::target::query;
use crate::filter::SessionFilter;
use crate::registry::{EndMatching, ListSessions};
use crate::session::{EndReason, HolderId, SessionKey};
use crate::supervisor::SessionSupervisor;

/// The body of `POST /v1/bulk-end`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkEndRequest {
    key: Option<SessionKey>,
    key_prefix: Option<String>,
    agent_id: Option<String>,
    holder: Option<HolderId>,
    idle_for_ms: Option<u64>,
    older_than_ms: Option<u64>,
    all: Option<bool>,
    reason: Option<EndReason>,
    dry_run: Option<bool>,
}

#[derive(Debug, Serialize)]
struct BulkEnded {
    matched: usize,
    ended: usize,
}

/// `POST /v1/bulk-end`.
pub(super) async fn end(
    request: HttpRequest,
    body: Body,
    supervisor: Data<SessionSupervisor>,
) -> Result<HttpResponse, Problem> {
    let wanted: BulkEndRequest = body.json_or_default()?;
    query(&request, &[])?;
    let filter = SessionFilter {
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
    let reason = wanted.reason.unwrap_or(EndReason::Closed);
    if reason.is_reserved() {
        return Err(Problem::reserved(reason));
    }
    let matched = ListSessions {
        filter: filter.clone(),
        ..ListSessions::active()
    };
    if wanted.dry_run == Some(true) {
        let matched = supervisor.list(matched).await?.len();
        return Ok(HttpResponse::Ok().json(BulkEnded { matched, ended: 0 }));
    }
    let ended = supervisor.end_matching(EndMatching::new(filter, reason));
    let ended = ended.await?;
    Ok(HttpResponse::Ok().json(BulkEnded {
        matched: ended.matched,
        ended: ended.ended.len(),
    }))
}
