//! The requests on plugins.

use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::body::{Body, NoFields};
use super::problem::Problem;
use super::target::{plugin_name, query};
use crate::bus::{PluginStatus, TestOutcome};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

/// The answer to `GET /v1/plugins`.
#[derive(Debug, Serialize)]
struct Plugins {
    /// In the order of their registration.
    plugins: Vec<PluginStatus>,
}

/// The answer to `POST /v1/plugins/{name}/test`.
#[derive(Debug, Serialize)]
struct TestedPlugin {
    /// How the plugin took the events.
    outcome: TestOutcome,
    /// What went wrong.
    error: Option<Arc<str>>,
    /// How long the plugin took.
    duration_ms: u64,
}

/// The answer to `POST /v1/plugins/reload`: the names of plugins.
#[derive(Debug, Serialize)]
struct ReloadedPlugins {
    /// Those that are told from now on.
    added: Vec<Arc<str>>,
    /// Those that are told no more.
    removed: Vec<Arc<str>>,
    /// Those that go on with another configuration.
    changed: Vec<Arc<str>>,
    /// Those that were left alone.
    unchanged: Vec<Arc<str>>,
    /// What did not change though the configuration did, for people.
    warnings: Vec<String>,
}

/// `GET /v1/plugins`.
pub(super) async fn list(request: HttpRequest, supervisor: Supervisor) -> Answer {
    query(&request, &[])?;
    let plugins = supervisor.plugins().await?;
    Ok(HttpResponse::Ok().json(Plugins { plugins }))
}

/// `POST /v1/plugins/{name}/test`.
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

/// `POST /v1/plugins/{name}/resume`.
pub(super) async fn resume(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let NoFields {} = body.json_or_default()?;
    let plugin = plugin_name(&request)?;
    query(&request, &[])?;
    let status = supervisor.resume_plugin(&plugin).await?;
    Ok(HttpResponse::Ok().json(status))
}

/// `POST /v1/plugins/reload`.
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
