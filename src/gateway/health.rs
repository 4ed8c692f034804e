//! What health checks ask.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Kind, Problem};
use super::refusals::Unavailable;
use crate::supervisor::SessionSupervisor;

/// How the gateway is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `alive` or `ready`, whichever was asked for.
    status: &'static str,
}

/// Whether the gateway is alive. Needs no token, and answers any `Host`.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "alive",
    security(()),
    responses((status = 200, description = "It is, since it answers.", body = Health))
)]
pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "alive" })
}

/// Whether the gateway takes new sessions. Needs no token, and answers any `Host`.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    security(()),
    responses(
        (status = 200, description = "It does.", body = Health),
        (status = 503, response = Unavailable),
    )
)]
pub(super) async fn ready(supervisor: Data<SessionSupervisor>) -> Result<HttpResponse, Problem> {
    if supervisor.is_ready() {
        Ok(HttpResponse::Ok().json(Health { status: "ready" }))
    } else if supervisor.is_stopping() {
        Err(Problem::new(
            Kind::ShuttingDown,
            "not ready for new sessions",
        ))
    } else {
        Err(Problem::new(
            Kind::LedgerUnavailable,
            "not ready for new sessions: the ledger can't write",
        ))
    }
}
