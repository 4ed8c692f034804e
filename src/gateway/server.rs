//! The server: listeners, threads and limits.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{Extensions, HttpService};
use actix_rt::net::TcpStream;
use actix_server::{Server, ServerHandle};
use actix_service::{
    IntoServiceFactory as _, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::App;
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::answers::Answers;
use super::connection::{Connection, HEAD_TIMEOUT, WRITE_TIMEOUT};
use super::ends::Ends;
use super::guard::guard;
use super::metrics::LastShutdown;
use super::stop::Home;
use super::stream::Streams;
use super::{Served, routes};
use crate::supervisor::SessionSupervisor;

/// Threads that serve requests, at the most. They only pass messages on, so more would be idle.
const MAX_WORKERS: usize = 4;

/// Connections open at a time, in all, where the process may open twice as many files. Further ones
/// wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;

/// Files that let all connections be open.
#[cfg(all(unix, feature = "cli"))]
const MAX_FILES: u64 = 2 * MAX_CONNECTIONS as u64;

/// Connections that wait to be accepted, on each listener, if the operating system allows as many.
#[cfg(unix)]
const MAX_WAITING: i32 = 4096;

/// How long a connection may stay open between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long streams may take to end, and requests to be answered, before their connections are cut
/// off: a stream that nobody reads does not notice.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a client that was refused may go on sending before its connection is closed.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A running gateway: the HTTP API of a [`SessionSupervisor`].
///
/// It serves on threads of its own until [`stop`](Self::stop) is called or it is dropped. It
/// handles no signals.
///
/// # Examples
///
/// ```
/// # use session_supervisor::{Access, Gateway, SessionSupervisor};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let supervisor = SessionSupervisor::builder().start().await?;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let gateway = Gateway::start(vec![listener], supervisor, Access::loopback())?;
/// println!("listening on {:?}", gateway.addresses());
/// gateway.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping a gateway stops it"]
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    /// Fires when it is to stop.
    closing: CancellationToken,
    /// Fires when it has.
    closed: CancellationToken,
}

impl Gateway {
    /// Serves the API of `supervisor` on `listeners`, which are bound already, to those whom
    /// `access` lets in.
    ///
    /// # Errors
    ///
    /// When there is no listener, when one is not on a loopback address and `access` has no token
    /// (programs of other machines could end sessions), or when the operating system refuses a
    /// thread or a socket.
    pub fn start(
        listeners: Vec<TcpListener>,
        supervisor: SessionSupervisor,
        access: Access,
    ) -> io::Result<Self> {
        Self::start_in(listeners, supervisor, access, None)
    }

    /// The same, in a process that has `state_dir`: whoever asks it to stop is told.
    pub(crate) fn start_in(
        listeners: Vec<TcpListener>,
        supervisor: SessionSupervisor,
        access: Access,
        state_dir: Option<PathBuf>,
    ) -> io::Result<Self> {
        if listeners.is_empty() {
            let problem = "there is no listener: bind at least one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let addresses = listeners.iter().map(TcpListener::local_addr);
        let addresses = addresses.collect::<io::Result<Vec<_>>>()?;
        if !access.has_token() {
            addresses.iter().try_for_each(check_loopback)?;
        }
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        let served = Served {
            last_shutdown: LastShutdown::read(&supervisor),
            home: Home { state_dir },
            supervisor,
            access,
            streams: Streams::new(closing.clone(), max_connections()),
            ends: Ends::default(),
            answers: Answers::default(),
        };
        let (started, is_started) = mpsc::sync_channel(1);
        let (stop_at, is_gone) = (closing.clone(), closed.clone().drop_guard());
        // A system of its own: the caller's may be blocked, or no actix system at all.
        thread::Builder::new()
            .name("gateway".to_owned())
            .spawn(move || {
                // Fires also when this thread panics.
                let _is_gone = is_gone;
                actix_rt::System::new().block_on(async move {
                    match bind(listeners, &served) {
                        Ok(server) => {
                            let _ = started.send(Ok(()));
                            actix_rt::spawn(stop(server.handle(), stop_at, served));
                            if let Err(error) = server.await {
                                tracing::error!(%error, "the gateway has failed");
                            }
                        }
                        Err(error) => {
                            let _ = started.send(Err(error));
                        }
                    }
                });
            })?;
        let gone = |_| Err(io::Error::other("the thread of the gateway has died"));
        is_started.recv().unwrap_or_else(gone)?;
        Ok(Self {
            addresses,
            closing,
            closed,
        })
    }

    /// The addresses on which it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops it: streams of events end, requests that are being answered get 200 ms for that, and
    /// what is left is cut off, since whatever is worth waiting for is over when a gateway is
    /// stopped. The future is done when the listeners are
    /// closed; stopping begins with the call, and stopping again does nothing.
    pub fn stop(&self) -> impl Future<Output = ()> + Send + use<> {
        self.closing.cancel();
        self.closed.clone().cancelled_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn check_loopback(address: &SocketAddr) -> io::Result<()> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let problem = format!(
        "{address} is not a loopback address and needs a token: add one, or use 127.0.0.1 or [::1]"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// Stops the server when `closing` fires, with streams and answers first: a graceful stop would wait
/// for them without end, and one without grace cuts them off in the middle.
async fn stop(server: ServerHandle, closing: CancellationToken, served: Served) {
    closing.cancelled().await;
    let last_answers = async { tokio::join!(served.streams.closed(), served.answers.over()) };
    let _ = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, last_answers).await;
    server.stop(false).await;
}

fn bind(listeners: Vec<TcpListener>, served: &Served) -> io::Result<Server> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.min(MAX_WORKERS);
    let mut server = Server::build()
        .workers(workers)
        .max_concurrent_connections((max_connections() / workers).max(1))
        .disable_signals();
    for listener in listeners {
        // The few that wait by default are reset when a flood comes, not told to wait.
        #[cfg(unix)]
        rustix::net::listen(&listener, MAX_WAITING)?;
        let served = served.clone();
        let service = move || service(&served);
        server = server.listen("gateway", listener, service)?;
    }
    Ok(server.run())
}

/// How many connections may be open. Half of the files are left to plugins and reports: a flood
/// must not keep a stop from being told and written down.
fn max_connections() -> usize {
    #[cfg(unix)]
    if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        return usize::try_from(files / 2)
            .map_or(MAX_CONNECTIONS, |half| half.min(MAX_CONNECTIONS));
    }
    MAX_CONNECTIONS
}

/// Lets the process open as many files as connections need, as far as its hard limit allows: the
/// usual soft limit is for programs that wait with `select`. For programs that are a gateway and
/// nothing else, since all that the process does shares it. Answers the soft limit that it had, if it
/// has another one now.
#[cfg(feature = "cli")]
pub(crate) fn raise_file_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(MAX_FILES, |most| most.min(MAX_FILES));
        if limit.current.is_none_or(|current| current >= wanted) {
            return None;
        }
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => return limit.current,
            Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
        }
    }
    None
}

/// What serves a connection. Put together here rather than by `HttpServer`, which has no place for
/// [`Connection`].
fn service(
    served: &Served,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
+ use<> {
    let app = App::new()
        .wrap(from_fn(guard))
        .configure(|config| routes(config, served.clone()))
        .into_factory()
        .map_err(|error| error.error_response());
    let http = HttpService::build()
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .on_connect_ext(|connection: &Connection, data: &mut Extensions| {
            data.insert(connection.peer().clone());
        })
        .h1(map_config(app, |()| AppConfig::default()));
    fn_service(|stream: TcpStream| async move {
        // Answers are small and written at once: waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok();
        Ok((Connection::new(stream, WRITE_TIMEOUT), peer))
    })
    .and_then(http)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{Scope, Secret, Token};

    async fn start(listeners: Vec<TcpListener>, access: Access) -> Result<(), String> {
        let supervisor = SessionSupervisor::builder().start().await.unwrap();
        let gateway = Gateway::start(listeners, supervisor, access);
        gateway.map(drop).map_err(|error| error.to_string())
    }

    #[actix_web::test]
    async fn it_listens_to_other_machines_with_a_token_alone() {
        let any = || vec![TcpListener::bind("0.0.0.0:0").unwrap()];
        for without in [Access::loopback(), Access::tokens([])] {
            let error = start(any(), without).await.unwrap_err();
            assert!(
                error.contains("not a loopback address and needs a token"),
                "{error}"
            );
        }
        let secret = Secret::new("0123456789abcdef").unwrap();
        let with = Access::tokens([Token::new("ops", Scope::Operator, secret)]);
        assert_eq!(start(any(), with).await, Ok(()));
    }

    #[actix_web::test]
    async fn it_needs_a_listener() {
        let error = start(Vec::new(), Access::loopback()).await.unwrap_err();
        assert!(error.contains("no listener"), "{error}");
    }
}
