//! The requests on plugins.

use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::body::{Body, NoFields};
use super::problem::Problem;
use super::refusals::{Stopping, UnavailableOrBusy, Unknown};
use super::target::{plugin_name, query};
use crate::bus::{PluginStatus, TestOutcome};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

/// The plugins.
#[derive(Debug, Serialize, ToSchema)]
struct Plugins {
    /// In the order of their registration.
    plugins: Vec<PluginStatus>,
}

/// How a plugin took a test.
#[derive(Debug, Serialize, ToSchema)]
struct TestedPlugin {
    /// Whether it took both events, or what became of the first that it did not take.
    outcome: TestOutcome,
    /// What went wrong.
    #[schema(value_type = Option<String>)]
    error: Option<Arc<str>>,
    /// How long the plugin took.
    duration_ms: u64,
}

/// What a reload changed: names of plugins, in the order of the configuration.
#[derive(Debug, Serialize, ToSchema)]
struct ReloadedPlugins {
    /// Those that are told from now on.
    #[schema(value_type = Vec<String>)]
    added: Vec<Arc<str>>,
    /// Those that are told no more.
    #[schema(value_type = Vec<String>)]
    removed: Vec<Arc<str>>,
    /// Those that go on with another configuration.
    #[schema(value_type = Vec<String>)]
    changed: Vec<Arc<str>>,
    /// Those that were left alone.
    #[schema(value_type = Vec<String>)]
    unchanged: Vec<Arc<str>>,
    /// What did not change though the configuration did, for people.
    warnings: Vec<String>,
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
pub(super) async fn list(request: HttpRequest, supervisor: Supervisor) -> Answer {
    query(&request, &[])?;
    let plugins = supervisor.plugins().await?;
    Ok(HttpResponse::Ok().json(Plugins { plugins }))
}

/// Sends a plugin a start and an end of a session that does not exist.
///
/// Those of the two that it listens to. Both are marked `synthetic` and are recorded nowhere.
#[utoipa::path(
    post,
    path = "/v1/plugins/{name}/test",
    operation_id = "test_plugin",
    params(("name" = String, Path, description = "The plugin's name.")),
    request_body = NoFields,
    responses(
        (status = 200, description = "How it took them.", body = TestedPlugin),
        (status = 404, response = Unknown),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn test(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let NoFields {} = body.json_or_default()?;
    let plugin = plugin_name(&request)?;
    query(&request, &[])?;
    let test = supervisor.test_plugin(&plugin).await?;
    Ok(HttpResponse::Ok().json(TestedPlugin {
        outcome: test.outcome,
        error: test.error,
        duration_ms: u64::try_from(test.duration.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// Tries a plugin at once that waits for its next attempt.
#[utoipa::path(
    post,
    path = "/v1/plugins/{name}/resume",
    operation_id = "resume_plugin",
    params(("name" = String, Path, description = "The plugin's name.")),
    request_body = NoFields,
    responses(
        (status = 200, description = "How the plugin is.", body = PluginStatus),
        (status = 404, response = Unknown),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn resume(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let NoFields {} = body.json_or_default()?;
    let plugin = plugin_name(&request)?;
    query(&request, &[])?;
    let status = supervisor.resume_plugin(&plugin).await?;
    Ok(HttpResponse::Ok().json(status))
}

/// Has the gateway read its configuration again. One that is wrong changes nothing.
#[utoipa::path(
    post,
    path = "/v1/plugins/reload",
    operation_id = "reload",
    request_body = NoFields,
    responses(
        (status = 200, description = "What changed.", body = ReloadedPlugins),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn reload(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let NoFields {} = body.json_or_default()?;
    query(&request, &[])?;
    let reloaded = supervisor.reload().await?;
    Ok(HttpResponse::Ok().json(ReloadedPlugins {
        added: reloaded.added,
        removed: reloaded.removed,
        changed: reloaded.changed,
        unchanged: reloaded.unchanged,
        warnings: reloaded.warnings,
    }))
}
