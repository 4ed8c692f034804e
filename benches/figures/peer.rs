//! Processes of this bench itself that do the bare work: a server whose handlers have nothing behind
//! them but one row, and a map full of sessions.

use std::collections::HashMap;
use std::env;
use std::future::{Ready, ready};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use actix_web::http::header;
use actix_web::web::{self, Data, Json, Path};
use actix_web::{App, HttpResponse, HttpServer};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use session_supervisor::{NewSession, SessionId};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::common::bare::{Bare, Row};
use crate::common::drain::id;
use crate::gateway::Process;

/// Says what the process is for: `server`, or how many sessions are to be in the map.
const ROLE: &str = "FIGURES_ROLE";

/// The most rows in one transaction.
const ROWS: usize = 8192;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Starts this bench in a role. The first line that it says.
fn start(role: &str) -> (Process, String) {
    let mut command = Command::new(env::current_exe().expect("a path"));
    command
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Process::spawn(&mut command);
    let stdout = process.child().stdout.take().expect("a pipe");
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    read.expect("a line");
    (process, line.trim().to_owned())
}

/// Starts the server. It runs until the process is dropped.
pub(crate) fn server() -> (Process, SocketAddr) {
    let (process, line) = start("server");
    (process, line.parse().expect("an address"))
}

/// The memory, in MiB, of a process that has so many sessions in a map.
pub(crate) fn memory_of_map(sessions: usize) -> f64 {
    let (process, _) = start(&sessions.to_string());
    process.memory("VmRSS:")
}

/// Plays the role of this process, if it has one.
pub(crate) fn has_role() -> bool {
    let Ok(role) = env::var(ROLE) else {
        return false;
    };
    match role.parse() {
        Ok(sessions) => hold(sessions),
        Err(_) => serve(),
    }
    true
}

fn hold(sessions: usize) {
    let session = |n| {
        let new = NewSession::new(id(n));
        (new.id.clone(), Arc::new(new))
    };
    let map: HashMap<SessionId, Arc<NewSession>> = (0..sessions).map(session).collect();
    println!("{}", map.len());
    let _ = io::stdout().flush();
    // Until it is killed.
    let _ = io::stdin().read(&mut [0]);
}

/// A row to write, and who waits for it: a start, or an end.
type Waiting = (Option<Row>, oneshot::Sender<()>);

/// Writes rows, all that wait in one transaction.
fn write_rows(rows: &Receiver<Waiting>) {
    let directory = tempfile::tempdir().expect("a directory");
    let bare = Bare::create(directory.path(), 0);
    let mut seq = 0;
    while let Ok(first) = rows.recv() {
        let mut group = vec![first];
        group.extend(rows.try_iter().take(ROWS));
        let at = Timestamp::now().as_millisecond();
        bare.transaction(|| {
            for (row, _) in &group {
                seq += 1;
                match row {
                    Some(row) => bare.start(seq, row),
                    None => bare.end(seq, seq, at),
                }
            }
        });
        for (_, written) in group {
            let _ = written.send(());
        }
    }
}

async fn written(rows: &Sender<Waiting>, row: Option<Row>) {
    let (done, is_done) = oneshot::channel();
    rows.send((row, done)).expect("the writer runs");
    is_done.await.expect("it is written");
}

/// What a start has to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    id: SessionId,
    agent_id: Option<Box<str>>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Touch {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    reason: Box<str>,
}

/// A session as the API shows it.
#[derive(Serialize)]
struct View {
    id: SessionId,
    incarnation: Uuid,
    previous_incarnation: Option<Uuid>,
    key: Option<Box<str>>,
    agent_id: Option<Box<str>>,
    store_path: Option<Box<str>>,
    session_file: Option<Box<str>>,
    resumed_from: Option<SessionId>,
    holder: Option<Box<str>>,
    started_at: Timestamp,
    metadata: Map<String, Value>,
    state: &'static str,
    reason: Option<Box<str>>,
    detail: Option<Box<str>>,
    resumable: Option<bool>,
    ended_at: Option<Timestamp>,
}

impl View {
    fn active(id: SessionId) -> Self {
        Self {
            id,
            incarnation: Uuid::now_v7(),
            previous_incarnation: None,
            key: None,
            agent_id: Some("main".into()),
            store_path: None,
            session_file: None,
            resumed_from: None,
            holder: None,
            started_at: Timestamp::now(),
            metadata: Map::new(),
            state: "active",
            reason: None,
            detail: None,
            resumable: None,
            ended_at: None,
        }
    }
}

async fn start_session(new: Json<Start>, rows: Data<Sender<Waiting>>) -> HttpResponse {
    let new = new.into_inner();
    let view = View {
        agent_id: new.agent_id,
        metadata: new.metadata,
        ..View::active(new.id)
    };
    let row = Row {
        id: view.id.to_string(),
        incarnation: view.incarnation.as_bytes().to_vec(),
        json: serde_json::to_string(&view).expect("it is JSON"),
        at: view.started_at.as_millisecond(),
    };
    let location = format!("/v1/sessions/{}", view.id);
    written(&rows, Some(row)).await;
    HttpResponse::Created()
        .insert_header((header::LOCATION, location))
        .json(view)
}

fn touch_session(_: Path<SessionId>, _: Json<Touch>) -> Ready<HttpResponse> {
    ready(HttpResponse::NoContent().finish())
}

fn show_session(id: Path<SessionId>) -> Ready<HttpResponse> {
    ready(HttpResponse::Ok().json(View::active(id.into_inner())))
}

async fn end_session(
    id: Path<SessionId>,
    end: Json<End>,
    rows: Data<Sender<Waiting>>,
) -> HttpResponse {
    written(&rows, None).await;
    HttpResponse::Ok().json(View {
        state: "ended",
        reason: Some(end.into_inner().reason),
        resumable: Some(false),
        ended_at: Some(Timestamp::now()),
        ..View::active(id.into_inner())
    })
}

fn serve() {
    let (rows, waiting) = channel();
    thread::spawn(move || write_rows(&waiting));
    let rows = Data::new(rows);
    let app = move || {
        App::new()
            .app_data(Data::clone(&rows))
            .route("/v1/sessions", web::post().to(start_session))
            .route("/v1/sessions/{id}", web::get().to(show_session))
            .route("/v1/sessions/{id}/touch", web::post().to(touch_session))
            .route("/v1/sessions/{id}/end", web::post().to(end_session))
    };
    let server = HttpServer::new(app).backlog(BACKLOG);
    let server = server.bind("127.0.0.1:0").expect("a port");
    println!("{}", server.addrs()[0]);
    let _ = io::stdout().flush();
    let ran = actix_rt::System::new().block_on(server.run());
    ran.expect("it serves");
}
