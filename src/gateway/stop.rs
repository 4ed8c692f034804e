//! The request for a shutdown, and the report of the last one.

use std::path::PathBuf;
use std::time::Duration;

use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::problem::{Kind, Problem};
use super::refusals::{Stopping, Unknown};
use super::schema::StopReason;
use super::target::query;
use crate::bus::PluginStatus;
use crate::clock::WireTime;
use crate::event::InstanceId;
use crate::session::EndReason;
use crate::shutdown::{Shutdown, ShutdownReport};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;

/// The longest downtime that may be announced.
const MAX_DOWNTIME_MS: u64 = 365 * 24 * 3_600_000;

/// How to stop.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ShutdownRequest {
    /// `shutdown` if left out, but `restart` where a downtime is announced.
    #[schema(value_type = Option<StopReason>)]
    reason: Option<EndReason>,
    /// The announced downtime, 0 too. Goes with `restart` only.
    #[schema(maximum = 31_536_000_000_u64)]
    restart_expected_ms: Option<u64>,
    /// Whether to say only what would be told, and stop nothing.
    dry_run: Option<bool>,
}

/// A stop that is under way.
#[derive(Debug, Serialize, ToSchema)]
struct Begun {
    /// Which run of the gateway stops.
    instance: InstanceId,
    /// Why: that of the first request, where there were several.
    reason: EndReason,
    /// When hooks and drain are over.
    deadline_at: WireTime,
    /// The number of the gateway's process, on its machine and in its container.
    pid: u32,
    /// The directory that the process has until it is gone: by then it holds the report. Null if it has
    /// none.
    state_dir: Option<String>,
}

/// Where the gateway's process keeps what it leaves to the next one.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) state_dir: Option<PathBuf>,
}

/// What a stop would tell, and whom.
#[derive(Debug, Serialize, ToSchema)]
struct Preview {
    /// Why the sessions would end.
    reason: EndReason,
    /// How many sessions are active.
    sessions: usize,
    /// The plugins that would be told.
    plugins: Vec<PluginPreview>,
}

/// What a stop would tell one plugin.
#[derive(Debug, Serialize, ToSchema)]
struct PluginPreview {
    /// The plugin's name.
    name: String,
    /// The ends of how many sessions.
    sessions: usize,
}

impl ShutdownRequest {
    /// A downtime, even of 0, means a restart; so does the reason, with a downtime of 0.
    fn to_shutdown(&self) -> Result<Shutdown, Problem> {
        let downtime = self.restart_expected_ms;
        if downtime.is_some_and(|downtime| downtime > MAX_DOWNTIME_MS) {
            let detail = format!("must be at most {MAX_DOWNTIME_MS}, which is a year");
            return Err(Problem::invalid_field("#/restart_expected_ms", detail));
        }
        let downtime = downtime.map(Duration::from_millis);
        let shutdown = match (self.reason, downtime) {
            (Some(EndReason::Shutdown), Some(_)) => {
                let detail = "goes with reason `restart` only";
                return Err(Problem::invalid_field("#/restart_expected_ms", detail));
            }
            (Some(EndReason::Shutdown) | None, None) => Shutdown::now(),
            (Some(EndReason::Restart) | None, Some(downtime)) => Shutdown::for_restart(downtime),
            (Some(EndReason::Restart), None) => Shutdown::for_restart(Duration::ZERO),
            (Some(_), _) => {
                let detail = "must be `shutdown` or `restart`";
                return Err(Problem::invalid_field("#/reason", detail));
            }
        };
        Ok(shutdown.with_trigger("api"))
    }
}

/// Asks for a stop, as a signal does. Where one is under way already the request joins it.
#[utoipa::path(
    post,
    path = "/v1/shutdown",
    operation_id = "shut_down",
    request_body = ShutdownRequest,
    responses(
        (status = 200, description = "A dry run: nothing stops.", body = Preview),
        (status = 202, description = "It has begun.", body = Begun),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn shut_down(
    request: HttpRequest,
    body: Body,
    supervisor: Supervisor,
    home: Data<Home>,
) -> Result<HttpResponse, Problem> {
    let wanted: ShutdownRequest = body.json_or_default()?;
    query(&request, &[])?;
    let shutdown = wanted.to_shutdown()?;
    if wanted.dry_run == Some(true) {
        return preview(&supervisor, &shutdown).await;
    }
    let notice = supervisor.begin_shutdown(shutdown).await?;
    Ok(HttpResponse::Accepted().json(Begun {
        instance: supervisor.instance(),
        reason: notice.reason,
        deadline_at: WireTime(notice.deadline_at),
        pid: std::process::id(),
        state_dir: home.state_dir.as_ref().map(|dir| dir.display().to_string()),
    }))
}

/// What a shutdown would tell, and whom.
async fn preview(supervisor: &Supervisor, shutdown: &Shutdown) -> Result<HttpResponse, Problem> {
    let sessions = supervisor.active_sessions().await?;
    let plugins = supervisor.plugins().await?.into_iter();
    let listeners = plugins.filter(PluginStatus::hears_ends);
    Ok(HttpResponse::Ok().json(Preview {
        reason: shutdown.reason(),
        sessions,
        plugins: listeners
            .map(|plugin| PluginPreview {
                name: plugin.name.to_string(),
                sessions,
            })
            .collect(),
    }))
}

/// The report of the last stop. Once the next stop has begun it is that one's, `unfinished`.
#[utoipa::path(
    get,
    path = "/v1/reports/last",
    operation_id = "last_report",
    responses(
        (status = 200, description = "The report.", body = ShutdownReport),
        (status = 404, response = Unknown),
    )
)]
pub(super) async fn last_report(
    request: HttpRequest,
    supervisor: Supervisor,
) -> Result<HttpResponse, Problem> {
    query(&request, &[])?;
    let report = web::block(move || supervisor.last_report()).await;
    let problem = match report {
        Ok(Ok(Some(report))) => return Ok(HttpResponse::Ok().json(report)),
        Ok(Ok(None)) => "there is no report: nothing has stopped yet".into(),
        Ok(Err(error)) => format!("the report can't be read: {error}"),
        Err(error) => format!("the report can't be read: {error}"),
    };
    Err(Problem::new(Kind::NotFound, problem))
}
