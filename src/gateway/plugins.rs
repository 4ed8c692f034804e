//! The requests on plugins.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::problem::Problem;
use super::target::query;
use crate::bus::PluginStatus;
use crate::supervisor::SessionSupervisor;

/// `GET /v1/plugins`.
pub(super) async fn list(
    request: HttpRequest,
    supervisor: Data<SessionSupervisor>,
) -> Result<HttpResponse, Problem> {
    #[derive(Serialize)]
    struct List {
        plugins: Vec<PluginStatus>,
    }

    query(&request, &[])?;
    let plugins = supervisor.plugins().await?;
    Ok(HttpResponse::Ok().json(List { plugins }))
}
