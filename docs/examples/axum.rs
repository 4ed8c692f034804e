//! A runner of jobs on axum, under `#[tokio::main]`. Each job is a session, which has its end however the
//! job goes: it is done, fails, panics, or is under way when the program is stopped.
//!
//! ```sh
//! cargo run --example axum -- 127.0.0.1:8080
//! curl --request POST http://127.0.0.1:8080/jobs/long
//! ```

use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use session_supervisor::{LogPlugin, PluginSpec, SessionGuard, SessionId, SessionSupervisor};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long requests may take that are under way when the server is closed.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".into());
    let supervisor = SessionSupervisor::builder()
        .plugin(PluginSpec::new("audit", LogPlugin::stdout))
        .handle_signals()
        .start()
        .await?;

    let app = Router::new()
        .route("/jobs/{kind}", post(start))
        .route("/readyz", get(ready))
        .with_state(supervisor.clone());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);

    // Until its sessions have had their ends the server goes on, and says that it is not ready.
    let close = CancellationToken::new();
    let server = axum::serve(listener, app).with_graceful_shutdown(close.clone().cancelled_owned());
    let server = tokio::spawn(async move { server.await });
    supervisor.add_teardown_step("http", move || async move {
        close.cancel();
        Ok(())
    });
    let report = supervisor.stopped().await?;
    if let Ok(served) = timeout(LAST_REQUESTS, server).await {
        served??;
    }
    Ok(ExitCode::from(report.exit_code))
}

/// The health route of the service.
async fn ready(State(supervisor): State<SessionSupervisor>) -> StatusCode {
    match supervisor.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Starts a job, and answers the id of its session.
async fn start(
    State(supervisor): State<SessionSupervisor>,
    Path(kind): Path<String>,
) -> Result<(StatusCode, String), (StatusCode, String)> {
    let guard = supervisor.guard(SessionId::generate()).await;
    let guard = guard.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let id = guard.session().id.to_string();
    tokio::spawn(run(kind, guard));
    Ok((StatusCode::ACCEPTED, id))
}

/// Runs a job. Where it panics, or the program stops, the guard is dropped with it.
async fn run(kind: String, guard: SessionGuard) {
    let outcome = work(&kind).await;
    if let Err(error) = guard.finish_by(&outcome).await {
        eprintln!("the end of a job is not recorded yet: {error}");
    }
}

/// What jobs do.
async fn work(kind: &str) -> anyhow::Result<()> {
    match kind {
        "quick" => Ok(()),
        "long" => {
            sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
        "panics" => panic!("this job panics"),
        other => anyhow::bail!("there are no jobs of the kind `{other}`"),
    }
}
