//! For a service on actix-web: what a client is answered whose request met an [`Error`], and a server
//! that answers until the sessions have had their ends.

use std::io;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, ResponseError};

use crate::error::Error;
use crate::session::InvalidField;
use crate::shutdown::{Shutdown, ShutdownReport};
use crate::supervisor::SessionSupervisor;

/// The name of the teardown step that stops a server.
pub(crate) const SERVER_STEP: &str = "http-server";

/// Its [`http_status`](Error::http_status), and its text, unless that is not for clients: errors of
/// the ledger name files.
impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let text = match self {
            Self::Ledger(_) | Self::Settings(_) | Self::State(_) | Self::Start(_) => {
                status.canonical_reason().unwrap_or_default().to_owned()
            }
            _ => self.to_string(),
        };
        HttpResponse::build(status)
            .content_type(ContentType::plaintext())
            .body(text)
    }
}

/// As [`Error::Invalid`].
impl ResponseError for InvalidField {
    fn status_code(&self) -> StatusCode {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

impl SessionSupervisor {
    /// Runs the server of a service until a shutdown is over, whoever asks for it, and answers the
    /// report. Until all sessions have had their ends it goes on, so that clients hear of them, and
    /// whether the service is [ready](Self::is_ready); then the teardown step `http-server` stops it, before
    /// all steps that were added by then.
    ///
    /// For that the signals must be the supervisor's
    /// ([`handle_signals`](crate::Builder::handle_signals),
    /// [`disable_signals`](actix_web::HttpServer::disable_signals)). Requests that are under way are
    /// given the server's [`shutdown_timeout`](actix_web::HttpServer::shutdown_timeout), which is 30 s
    /// unless it is set, and are cut off when the supervisor's [`teardown`](crate::Builder::teardown) is
    /// over. Let that be longer by a second, since a server that has open connections looks only once a
    /// second whether they are over; several servers share it.
    ///
    /// A server that ends by itself takes the sessions with it: the supervisor shuts down.
    ///
    /// # Errors
    ///
    /// What the server fails with, once the supervisor has shut down. [`Error::Stopped`], within an error of
    /// the kind `Other`, when the supervisor was torn down without a report.
    ///
    /// # Panics
    ///
    /// On another runtime than one of tokio's or actix's.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use actix_web::{App, HttpServer};
    /// use session_supervisor::SessionSupervisor;
    ///
    /// # async fn serve() -> anyhow::Result<()> {
    /// // With the feature `sqlite` also `.durable("state")?`.
    /// let builder = SessionSupervisor::builder().teardown(Duration::from_secs(3));
    /// let supervisor = builder.handle_signals().start().await?;
    /// let server = HttpServer::new(App::new).bind("127.0.0.1:8080")?;
    /// let server = server.disable_signals().shutdown_timeout(2).run();
    /// let report = supervisor.serve(server).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve(&self, server: Server) -> io::Result<Arc<ShutdownReport>> {
        let handle = server.handle();
        let stop = move || async move {
            handle.stop(true).await;
            Ok(())
        };
        // Before what its handlers use is taken down.
        self.teardown_steps.add_first(SERVER_STEP, stop);
        let ended = tokio::select! {
            ended = server => ended,
            report = self.stopped() => return report.map_err(io::Error::other),
        };
        let report = self.shutdown(Shutdown::now()).await;
        ended?;
        report.map_err(io::Error::other)
    }
}
