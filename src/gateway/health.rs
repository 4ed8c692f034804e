//! What health checks ask.

use actix_web::HttpResponse;
use actix_web::web::Data;

use super::problem::{Kind, Problem};
use crate::supervisor::SessionSupervisor;

/// `GET /healthz`.
pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({"status": "alive"}))
}

/// `GET /readyz`.
pub(super) async fn ready(supervisor: Data<SessionSupervisor>) -> Result<HttpResponse, Problem> {
    if supervisor.is_ready() {
        Ok(HttpResponse::Ok().json(serde_json::json!({"status": "ready"})))
    } else {
        Err(Problem::new(
            Kind::ShuttingDown,
            "not ready for new sessions",
        ))
    }
}
