//! The request for a shutdown, and the report of the last one.

use std::time::Duration;

use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::problem::{Kind, Problem};
use super::target::query;
use crate::bus::PluginStatus;
use crate::clock::WireTime;
use crate::event::InstanceId;
use crate::registry::ListSessions;
use crate::session::EndReason;
use crate::shutdown::Shutdown;
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;

/// The longest downtime that may be announced.
const MAX_DOWNTIME_MS: u64 = 365 * 24 * 3_600_000;

/// The body of `POST /v1/shutdown`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShutdownRequest {
    reason: Option<EndReason>,
    restart_expected_ms: Option<u64>,
    dry_run: Option<bool>,
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

/// `POST /v1/shutdown`.
pub(super) async fn shut_down(
    request: HttpRequest,
    body: Body,
    supervisor: Supervisor,
) -> Result<HttpResponse, Problem> {
    #[derive(Serialize)]
    struct Begun {
        instance: InstanceId,
        reason: EndReason,
        deadline_at: WireTime,
    }

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
    }))
}

/// What a shutdown would tell, and whom.
async fn preview(supervisor: &Supervisor, shutdown: &Shutdown) -> Result<HttpResponse, Problem> {
    #[derive(Serialize)]
    struct Preview {
        reason: EndReason,
        sessions: usize,
        plugins: Vec<PluginPreview>,
    }
    #[derive(Serialize)]
    struct PluginPreview {
        name: String,
        sessions: usize,
    }

    let sessions = supervisor.list(ListSessions::active()).await?.len();
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

/// `GET /v1/reports/last`.
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
