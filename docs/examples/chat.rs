//! A chat over WebSocket, on actix-web and actix-ws. Each connection is a session, which has its end
//! however the connection goes: with a goodbye, without one, since somebody took the name, since nothing
//! was said for long, or since the chat is stopped, or killed.
//!
//! ```sh
//! cargo run --example chat -- 127.0.0.1:8080 chat-state
//! ```
//!
//! Join with any WebSocket client, such as `websocat ws://127.0.0.1:8080/chat/ada`. What the plugin is
//! told is in `chat-state/audit.jsonl`.

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use actix_web::web::{Data, Path, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, get};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use session_supervisor::{
    EndDetails, EndReason, Error, LogPlugin, NewSession, PluginSpec, SessionGuard, SessionId,
    SessionKey, SessionSupervisor,
};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// How many lines a member may be behind before it misses some.
const MAX_BEHIND: usize = 256;

#[actix_web::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let state_dir = arguments.next().unwrap_or_else(|| "chat-state".into());

    let audit_log = format!("{state_dir}/audit.jsonl");
    let audit = PluginSpec::new("audit", move || LogPlugin::file(&audit_log));
    let supervisor = SessionSupervisor::builder()
        // What a process leaves to the next: which sessions are open, and who is owed what.
        .durable(state_dir)?
        .plugin(audit)
        .idle_after(Duration::from_secs(600))
        .start()
        .await?;

    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let (handle, room) = (Data::new(supervisor.clone()), Data::new(Room::new()));
    let server = HttpServer::new(move || {
        let app = App::new().app_data(handle.clone()).app_data(room.clone());
        app.service(join).service(ready)
    })
    .listen(listener)?;

    // Until its sessions have had their ends the server goes on, and says that it is not ready.
    let report = supervisor.serve(server).await?;
    Ok(ExitCode::from(report.exit_code))
}

/// Where everybody hears everybody.
struct Room {
    lines: broadcast::Sender<String>,
}

impl Room {
    fn new() -> Self {
        let lines = broadcast::Sender::new(MAX_BEHIND);
        Self { lines }
    }

    fn say(&self, line: String) {
        // Nobody may be there to hear it.
        let _ = self.lines.send(line);
    }
}

/// The health route of the service.
#[get("/readyz")]
async fn ready(supervisor: Data<SessionSupervisor>) -> Result<&'static str, Error> {
    supervisor.check_ready()?;
    Ok("ready")
}

/// Joins under a name. Whoever comes under a name that is taken takes it over.
#[get("/chat/{name}")]
async fn join(
    request: HttpRequest,
    body: Payload,
    name: Path<String>,
    supervisor: Data<SessionSupervisor>,
    room: Data<Room>,
) -> actix_web::Result<HttpResponse> {
    let name = name.into_inner();
    let key = SessionKey::new(format!("chat:{name}"))?;
    let new = NewSession::new(SessionId::generate()).with_key(key);
    let (response, socket, messages) = actix_ws::handle(&request, body)?;
    let guard = supervisor.guard(new).await?;
    let messages = messages.aggregate_continuations();
    actix_web::rt::spawn(talk(name, guard, socket, messages, room));
    Ok(response)
}

/// Serves a member. However this ends, the session ends with it, since it has the guard.
async fn talk(
    name: String,
    guard: SessionGuard,
    mut socket: Session,
    mut messages: AggregatedMessageStream,
    room: Data<Room>,
) {
    let mut lines = room.lines.subscribe();
    let mut said = 0;
    room.say(format!("{name} joins"));
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(Ok(AggregatedMessage::Text(text))) => {
                    said += 1;
                    // That the session has ended meanwhile is heard below.
                    let _ = guard.touch().await;
                    room.say(format!("{name}: {text}"));
                }
                Some(Ok(AggregatedMessage::Ping(payload))) => {
                    if socket.pong(&payload).await.is_err() {
                        return;
                    }
                }
                Some(Ok(AggregatedMessage::Close(_))) => {
                    let details = EndDetails::default().with_message_count(said);
                    // It has ended with the call; an error would be the ledger's, which tries again.
                    let _ = guard.finish_with(EndReason::Completed, details).await;
                    let _ = socket.close(None).await;
                    return;
                }
                Some(Ok(_)) => {}
                // The connection broke, and the session ends as `disconnected`.
                Some(Err(_)) | None => return,
            },
            line = lines.recv() => match line {
                Ok(line) => {
                    if socket.text(line).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            // By a shutdown, by idleness, or since somebody else has the name now.
            ended = guard.ended() => {
                let reason = ended.unwrap_or(EndReason::Unknown);
                let close = CloseReason {
                    code: CloseCode::Away,
                    description: Some(reason.to_string()),
                };
                let _ = socket.close(Some(close)).await;
                return;
            }
        }
    }
}
