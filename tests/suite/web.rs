//! Services on actix-web: a server over real connections, in real time, since the supervisor has
//! threads of its own.

use std::future::pending;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Service as _;
use actix_web::rt::task::JoinHandle;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::{Data, get};
use actix_web::{App, HttpResponse, HttpServer};
use session_supervisor::testing::{gated, in_time};
use session_supervisor::{
    EndReason, Error, Hook, LedgerError, Outcome, SessionKey, SessionSupervisor, Shutdown,
    ShutdownReport, StepOutcome, Watched,
};

use tokio::sync::Notify;

use crate::support::id;

async fn ready(supervisor: Data<SessionSupervisor>) -> Result<&'static str, Error> {
    supervisor.check_ready()?;
    Ok("ready")
}

/// What a runtime may move between its threads.
fn sendable<T: Send>(future: T) -> T {
    future
}

/// What serving answers.
type Served = io::Result<Arc<ShutdownReport>>;

/// Serves a health route meanwhile, on a port of its own, until a stop or until `ends`.
fn serve(
    supervisor: &SessionSupervisor,
    ends: impl Future<Output = ()> + Send + 'static,
) -> (JoinHandle<Served>, String) {
    let handle = Data::new(supervisor.clone());
    let server = HttpServer::new(move || {
        let app = App::new().app_data(handle.clone());
        app.route("/readyz", get().to(ready))
    });
    let server = server.workers(1).bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", server.addrs()[0]);
    let (supervisor, server) = (supervisor.clone(), server.shutdown_signal(ends));
    let served = actix_web::rt::spawn(async move { supervisor.serve(server).await });
    (served, url)
}

/// The status that a fresh connection is answered with, if it is let in.
async fn status(url: &str) -> Option<u16> {
    let url = url.to_owned();
    let asked = tokio::task::spawn_blocking(move || match ureq::get(&url).call() {
        Ok(answer) => Some(answer.status().as_u16()),
        Err(ureq::Error::StatusCode(status)) => Some(status),
        Err(_) => None,
    });
    asked.await.unwrap()
}

#[actix_web::test]
async fn an_error_that_a_handler_meets_is_its_answer_and_says_nothing_of_files() {
    async fn answer(error: Error) -> (u16, String) {
        let handler = move || {
            let error = error.clone();
            async move { Err::<HttpResponse, _>(error) }
        };
        let app = init_service(App::new().route("/", get().to(handler))).await;
        let answer = call_service(&app, TestRequest::get().to_request()).await;
        let status = answer.status().as_u16();
        let text = read_body(answer).await;
        (status, String::from_utf8(text.to_vec()).unwrap())
    }
    let text = Error::ShuttingDown.to_string();
    assert_eq!(answer(Error::ShuttingDown).await, (503, text));
    let (status, text) = answer(Error::NotActive(id("A"))).await;
    assert_eq!((status, text.contains('A')), (404, true));
    let ledger = LedgerError::new("can't write /srv/state/ledger.db");
    let answer = answer(Error::Ledger(ledger)).await;
    assert_eq!(answer, (503, "Service Unavailable".into()));
}

#[actix_web::test]
async fn a_field_that_a_handler_refuses_is_named_in_its_answer() {
    async fn handler() -> actix_web::Result<HttpResponse> {
        SessionKey::new("")?;
        Ok(HttpResponse::Ok().finish())
    }
    let app = init_service(App::new().route("/", get().to(handler))).await;
    let answer = app.call(TestRequest::get().to_request()).await.unwrap();
    assert_eq!(answer.status(), 422);
    let problem = SessionKey::new("").unwrap_err().to_string();
    assert_eq!(read_body(answer).await, problem);
}

#[actix_web::test]
async fn a_server_answers_until_the_sessions_have_had_their_ends_and_is_stopped_then() {
    let (plugin, told, gate) = gated("p", Hook::SessionEnd);
    let builder = SessionSupervisor::builder().plugin(plugin);
    let builder = builder.teardown(Duration::from_secs(20));
    let builder = builder.teardown_step("pool", || async { Ok(()) });
    let supervisor = builder.cap(Duration::from_secs(30)).start().await.unwrap();
    let guard = supervisor.guard(id("A")).await.unwrap();
    let (served, url) = serve(&supervisor, pending());
    assert_eq!(status(&url).await, Some(200));

    gate.close();
    let asked = supervisor.begin_shutdown(Shutdown::now()).await;
    asked.unwrap();
    assert_eq!(in_time(guard.ended()).await.unwrap(), EndReason::Shutdown);
    assert_eq!(status(&url).await, Some(503));
    gate.open();

    let report = in_time(served).await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Clean);
    let steps = report.steps.iter().map(|step| (&*step.name, step.outcome));
    let steps: Vec<_> = steps.collect();
    let expected = [("http-server", StepOutcome::Ok), ("pool", StepOutcome::Ok)];
    assert!(steps.ends_with(&expected), "{steps:?}");
    assert_eq!(told.ends(), ["A shutdown"]);
    assert_eq!(status(&url).await, None);
}

#[actix_web::test]
async fn a_server_that_ends_by_itself_takes_the_sessions_with_it() {
    let supervisor = SessionSupervisor::builder().start().await.unwrap();
    let guard = supervisor.guard(id("A")).await.unwrap();
    let ends = Arc::new(Notify::new());
    let (served, url) = serve(&supervisor, Arc::clone(&ends).notified_owned());
    assert_eq!(status(&url).await, Some(200));
    ends.notify_one();
    assert_eq!(in_time(guard.ended()).await.unwrap(), EndReason::Shutdown);
    let report = in_time(served).await.unwrap().unwrap();
    assert_eq!(report.drain.sessions, 1);
}

#[actix_web::test]
async fn a_client_that_goes_away_before_its_answer_ends_the_session_of_its_handler() {
    async fn handler(supervisor: Data<SessionSupervisor>) -> Result<HttpResponse, Error> {
        let _guard = supervisor.guard(id("A")).await?;
        pending().await
    }
    let supervisor = SessionSupervisor::builder().start().await.unwrap();
    let mut watcher = supervisor.watch(None);
    let handle = Data::new(supervisor.clone());
    let server = HttpServer::new(move || {
        let app = App::new().app_data(handle.clone());
        app.route("/", get().to(handler))
    });
    let server = server.workers(1).h1_allow_half_closed(false);
    let server = server.bind("127.0.0.1:0").unwrap();
    let address = server.addrs()[0];
    let served = actix_web::rt::spawn({
        let supervisor = supervisor.clone();
        async move { sendable(supervisor.serve(server)).await }
    });

    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let Some(Watched::Event(start)) = in_time(watcher.next()).await else {
        panic!("no start");
    };
    assert_eq!(start.hook(), Hook::SessionStart);
    drop(client);
    let Some(Watched::Event(end)) = in_time(watcher.next()).await else {
        panic!("no end");
    };
    assert_eq!(end.how_ended().unwrap().reason, EndReason::Disconnected);
    supervisor.shutdown(Shutdown::now()).await.unwrap();
    in_time(served).await.unwrap().unwrap();
}
