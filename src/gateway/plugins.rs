//! The requests on plugins.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::refusals::Stopping;
use super::target::query;
use crate::bus::PluginStatus;
use crate::supervisor::SessionSupervisor;

/// The plugins.
#[derive(Debug, Serialize, ToSchema)]
struct Plugins {
    /// In the order of their registration.
    plugins: Vec<PluginStatus>,
}

/// How the plugins are, and what they are owed.
#[utoipa::path(
    get,
    path = "/v1/plugins",
    operation_id = "list_plugins",
    responses(
        (status = 200, description = "Every plugin.", body = Plugins),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn list(
    request: HttpRequest,
    supervisor: Data<SessionSupervisor>,
) -> Result<HttpResponse, Problem> {
    query(&request, &[])?;
    let plugins = supervisor.plugins().await?;
    Ok(HttpResponse::Ok().json(Plugins { plugins }))
}
