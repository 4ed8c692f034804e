//! For a service on actix-web: what a client is answered whose request met an [`Error`], and a server
//! that answers until the sessions have had their ends.

use std::sync::Arc;
use std::{fmt, io};

use actix_http::{Request, Response};
use actix_service::IntoServiceFactory;
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Server, Service, ServiceFactory};
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, HttpServer, ResponseError};

use crate::error::Error;
use crate::session::InvalidField;
use crate::shutdown::{ListenForSignals, Shutdown, ShutdownReport};
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
    /// Runs the server of a service until a shutdown is over, in place of
    /// [`HttpServer::run`], and answers the report. Like that it stops at a signal:
    /// [`handle_signals`](crate::Builder::handle_signals) is on from here on, and the server's own
    /// handling of signals is off. Until all sessions have had their ends the server goes on, so that
    /// clients hear of them, and whether the service is [ready](Self::is_ready); then the teardown step
    /// `http-server` stops it, before all steps that were added by then.
    ///
    /// Requests that are under way then, and connections that clients keep open, are given the time of
    /// that step, which shares the [`teardown`](crate::Builder::teardown) with the steps behind it. If that
    /// is not enough the report has a warning; what is still open goes on beside the other steps, and
    /// is cut off when this returns. Where the server's
    /// [`shutdown_timeout`](HttpServer::shutdown_timeout) is less, it is cut off then. A server with
    /// open connections looks only once a second whether they are over, so with 1 s or less for the step none
    /// of them is waited for.
    ///
    /// A client that goes away before it is answered ends its handler, and what guards that has, only with
    /// [`h1_allow_half_closed(false)`](HttpServer::h1_allow_half_closed).
    ///
    /// A server that ends by itself takes the sessions with it: the supervisor shuts down. Whoever wants
    /// the signals handled otherwise has the server's handle stop it in a
    /// [teardown step](crate::Builder::teardown_step).
    ///
    /// # Errors
    ///
    /// What the server fails with, once the supervisor has shut down. [`Error::Stopped`], within an error of
    /// the kind `Other`, when the supervisor was torn down without a report.
    ///
    /// # Panics
    ///
    /// On another runtime than one of tokio's or actix's, and where the server is bound to no address.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use actix_web::{App, HttpServer};
    /// use session_supervisor::SessionSupervisor;
    ///
    /// # async fn serve() -> anyhow::Result<()> {
    /// // With the feature `sqlite` also `.durable("state")?`.
    /// let supervisor = SessionSupervisor::builder().start().await?;
    /// let server = HttpServer::new(App::new).bind("127.0.0.1:8080")?;
    /// let report = supervisor.serve(server).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve<F, I, S, B>(
        &self,
        server: HttpServer<F, I, S, B>,
    ) -> impl Future<Output = io::Result<Arc<ShutdownReport>>>
    where
        F: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<Request, Config = AppConfig> + 'static,
        S::Error: Into<actix_web::Error> + 'static,
        S::InitError: fmt::Debug,
        S::Response: Into<Response<B>> + 'static,
        S::Service: 'static,
        <S::Service as Service<Request>>::Future: 'static,
        B: MessageBody + 'static,
    {
        // Not in the future, which can be sent to other threads without what the server is made of.
        let server = server.disable_signals().run();
        self.serve_running(server)
    }

    async fn serve_running(&self, server: Server) -> io::Result<Arc<ShutdownReport>> {
        // Where nobody is left to listen, a shutdown is over already.
        let _ = self.coordinator().send(ListenForSignals).await;
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
