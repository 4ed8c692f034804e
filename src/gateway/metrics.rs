//! Metrics, in the text format of Prometheus.
//!
//! Counters are the supervisor's own; gauges are asked for at each scrape, so that nothing is kept
//! twice.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

use super::exposition::{ProcessMetrics, SupervisorMetrics};
use super::problem::Problem;
use super::process::ProcessStats;
use super::refusals::Stopping;
use super::target::query;
use crate::shutdown::ShutdownReport;
use crate::supervisor::SessionSupervisor;

/// What every name begins with, but for those of the process.
const PREFIX: &str = "session_supervisor";

/// The stop before this run, which the metrics tell of.
#[derive(Debug, Clone)]
pub(super) struct LastShutdown(pub(super) Option<Arc<ShutdownReport>>);

impl LastShutdown {
    /// That of `supervisor`, read before its own stop can take its place.
    pub(super) fn read(supervisor: &SessionSupervisor) -> Self {
        let report = supervisor.last_report().unwrap_or_else(|error| {
            tracing::warn!(%error, "the report of the last stop can't be read for the metrics");
            None
        });
        Self(report.map(Arc::new))
    }
}

/// The metrics, in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "scrape",
    tag = "metrics",
    responses(
        (
            status = 200,
            description = "All metrics at this moment.",
            content_type = "text/plain",
            body = String,
        ),
        (status = 503, response = Stopping),
    )
)]
pub(super) async fn scrape(
    request: HttpRequest,
    supervisor: Data<SessionSupervisor>,
    last: Data<LastShutdown>,
) -> Result<HttpResponse, Problem> {
    query(&request, &[])?;
    let metrics = SupervisorMetrics {
        counts: supervisor.counts(),
        sessions_active: supervisor.active_sessions().await?,
        holders: supervisor.count_holders().await?,
        plugins: supervisor.plugins().await?,
        recovery: supervisor.recovery().clone(),
        ledger_size_bytes: supervisor.ledger_size_bytes(),
        is_draining: supervisor.is_stopping(),
        last_shutdown: last.0.clone(),
    };
    // What the system knows of the process takes some reading.
    let process = web::block(ProcessStats::read).await.ok().flatten();
    let mut registry = Registry::default();
    registry
        .sub_registry_with_prefix(PREFIX)
        .register_collector(Box::new(metrics));
    if let Some(process) = process {
        registry.register_collector(Box::new(ProcessMetrics(process)));
    }
    let mut text = String::new();
    if let Err(error) = prometheus_text::encode(&mut text, &registry) {
        tracing::error!(%error, "not all metrics can be written");
    }
    let media_type = (header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE);
    Ok(HttpResponse::Ok().insert_header(media_type).body(text))
}
