//! What happens, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::problem::{Kind, Problem};
use super::refusals::TooManyOpen;
use super::target::query;
use crate::event::{Hook, Seq};
use crate::monitor::{Watched, Watcher};
use crate::supervisor::SessionSupervisor;

/// Streams that are open at a time: each is a connection that stays, and work for every event.
const MAX_STREAMS: u32 = 64;

/// After how long a silent stream says that it is still there: often enough for what stands between
/// it and the client, and to find out soon that the client has gone, which frees its place.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How long a stream that is to end goes on with what has happened by then, and how long nothing
/// must come before that is taken for all. Less than the server waits before it cuts streams off.
const LAST_WORDS: Duration = Duration::from_millis(50);
const LAST_SILENCE: Duration = Duration::from_millis(10);

/// What a stream begins with: a client whose stream breaks off comes back after a second.
const HELLO: &[u8] = b"retry: 1000\n\n";

/// What keeps a silent stream alive.
const COMMENT: &[u8] = b": still here\n\n";

/// The header with which a client resumes.
const LAST_EVENT_ID: &str = "last-event-id";

/// The open streams: how many there may be, and when they end.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Streams {
    /// None yet. They end when `closing` fires.
    pub(super) fn new(closing: CancellationToken) -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_STREAMS as usize)),
            closing,
        }
    }

    /// Completes when all are closed.
    pub(super) async fn closed(&self) {
        let _ = self.places.acquire_many(MAX_STREAMS).await;
    }

    fn open(&self, watcher: Watcher, types: Types) -> Result<EventStream, Problem> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| {
            let detail = format!("{MAX_STREAMS} streams are open, which is the most that may be");
            Problem::new(Kind::TooManyStreams, detail)
        })?;
        Ok(EventStream {
            watcher,
            types,
            has_begun: false,
            ends_at: None,
            closing: self.closing.clone(),
            _place: place,
        })
    }
}

/// Which events a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types {
    starts: bool,
    ends: bool,
    deliveries: bool,
    drains: bool,
}

impl Types {
    const ALL: Self = Self {
        starts: true,
        ends: true,
        deliveries: true,
        drains: true,
    };

    /// Those that the parameter `types` names; all without it.
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let parameters = query(request, &["types"])?;
        let Some((_, names)) = parameters.first() else {
            return Ok(Self::ALL);
        };
        let mut types = Self {
            starts: false,
            ends: false,
            deliveries: false,
            drains: false,
        };
        for name in names.split(',') {
            let wanted = match name {
                "session_start" => &mut types.starts,
                "session_end" => &mut types.ends,
                "delivery" => &mut types.deliveries,
                "drain" => &mut types.drains,
                _ => {
                    let detail =
                        "must be some of session_start, session_end, delivery, drain, with commas";
                    return Err(Problem::invalid_field("#/query/types", detail));
                }
            };
            *wanted = true;
        }
        Ok(types)
    }

    fn has(self, watched: &Watched) -> bool {
        match watched {
            Watched::Event(event) if event.hook() == Hook::SessionStart => self.starts,
            Watched::Event(_) => self.ends,
            Watched::Delivery(_) => self.deliveries,
            Watched::Drain(_) => self.drains,
            Watched::Gap { .. } | Watched::Missed(_) => true,
        }
    }
}

/// A stream that a client follows.
struct EventStream {
    watcher: Watcher,
    types: Types,
    has_begun: bool,
    /// When it ends at the latest, once it is to end.
    ends_at: Option<Instant>,
    closing: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl EventStream {
    /// What is sent next; none at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(Bytes::from_static(HELLO));
        }
        let mut seen = async || {
            loop {
                let watched = self.watcher.next().await?;
                if self.types.has(&watched) {
                    return Some(frame(&watched));
                }
            }
        };
        if self.ends_at.is_none() {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                seen = timeout(KEEP_ALIVE, seen()) => {
                    return seen.unwrap_or_else(|_| Some(Bytes::from_static(COMMENT)));
                }
            }
        }
        // The last progress of a drain comes right before the stream is to end.
        let now = Instant::now();
        let ends_at = *self.ends_at.get_or_insert(now + LAST_WORDS);
        let quiet_at = ends_at.min(now + LAST_SILENCE);
        timeout_at(quiet_at, seen()).await.ok().flatten()
    }

    fn into_body(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        stream::unfold(self, async |mut stream| {
            let bytes = stream.next().await?;
            Some((Ok(bytes), stream))
        })
    }
}

/// Events that the ledger keeps no longer were passed over.
#[derive(Debug, Serialize)]
struct Gap {
    /// The last place that the client has seen, as far as is known.
    after: Seq,
    /// The place of the next event that can be seen.
    next: Seq,
}

/// The client was too late for outcomes and progress.
#[derive(Debug, Serialize)]
struct Missed {
    /// How many events were dropped.
    count: u64,
}

fn frame(watched: &Watched) -> Bytes {
    match watched {
        Watched::Event(event) => {
            let data = event.wire(1, Duration::ZERO);
            encode(event.hook().as_str(), event.seq(), &data)
        }
        Watched::Delivery(delivery) => encode("delivery", None, delivery),
        Watched::Drain(drain) => encode("drain", None, drain),
        &Watched::Gap { after, next } => encode("gap", None, &Gap { after, next }),
        &Watched::Missed(count) => encode("missed", None, &Missed { count }),
    }
}

/// One event of the stream. JSON has no line break, so its data is one line.
fn encode(name: &str, id: Option<Seq>, data: &impl Serialize) -> Bytes {
    let mut frame = format!("event: {name}\n").into_bytes();
    if let Some(id) = id {
        frame.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    frame.extend_from_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(&mut frame, data) {
        tracing::error!(%error, "an event of the stream can't be written as JSON");
        return Bytes::from_static(COMMENT);
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// The place after which the client wants to go on, if it says one.
fn last_event_id(request: &HttpRequest) -> Result<Option<Seq>, Problem> {
    let mut values = request.headers().get_all(LAST_EVENT_ID);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let id = value.to_str().ok();
    // `parse` would take a sign.
    let id = id.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
    let id = id.and_then(|id| id.parse().ok());
    match (id, values.next()) {
        (Some(id), None) => Ok(Some(id)),
        _ => Err(Problem::invalid_field(
            "#/headers/Last-Event-ID",
            "must be the `id` of an event of this stream, once",
        )),
    }
}

/// What happens, as it happens: every start, end and delivery, and the progress of a drain.
///
/// Server-sent events: `session_start` and `session_end`, whose `id` is their `seq`; `delivery`,
/// `drain`, `gap` and `missed`, which have none and are not replayed.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "follow_events",
    params(
        (
            "types" = Option<String>,
            Query,
            description = "Which events, with commas between; all if left out. `gap` and `missed` \
                           always come.",
            pattern = "^(session_start|session_end|delivery|drain)\
                       (,(session_start|session_end|delivery|drain))*$",
        ),
        (
            "Last-Event-ID" = Option<u64>,
            Header,
            description = "Goes on after this event; from now on if left out.",
        ),
    ),
    responses(
        (
            status = 200,
            description = "A stream that ends with the gateway.",
            content_type = "text/event-stream",
            body = String,
        ),
        (status = 429, response = TooManyOpen),
    )
)]
pub(super) async fn follow(
    request: HttpRequest,
    supervisor: Data<SessionSupervisor>,
    streams: Data<Streams>,
) -> Result<HttpResponse, Problem> {
    let types = Types::of(&request)?;
    let after = last_event_id(&request)?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let mut watcher = supervisor.watch(after);
    if !types.starts && !types.ends {
        watcher = watcher.without_sessions();
    }
    Ok(response.streaming(streams.open(watcher, types)?.into_body()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{NewSession, SessionId};
    use crate::supervisor::Threads;

    #[actix_web::test]
    async fn a_silent_stream_says_that_it_is_still_there() {
        tokio::time::pause();
        let builder = SessionSupervisor::builder().threads(Threads::Current);
        let supervisor = builder.start().await.unwrap();
        let closing = CancellationToken::new();
        let streams = Streams::new(closing.clone());
        let mut stream = streams.open(supervisor.watch(None), Types::ALL).unwrap();
        assert_eq!(stream.next().await.as_deref(), Some(HELLO));
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(stream.next().await.as_deref(), Some(COMMENT));
            assert!(began.elapsed() >= KEEP_ALIVE, "{:?}", began.elapsed());
            assert!(began.elapsed() < KEEP_ALIVE * 2, "{:?}", began.elapsed());
        }
        let session = NewSession::new(SessionId::new("A").unwrap());
        supervisor.started(session).await.unwrap();
        let frame = stream.next().await.unwrap();
        assert!(frame.starts_with(b"event: session_start\nid: 1\ndata: {"));
        assert!(frame.ends_with(b"}\n\n"));

        closing.cancel();
        assert_eq!(stream.next().await, None);
        let all_closed = tokio::time::timeout(KEEP_ALIVE, streams.closed());
        assert!(all_closed.await.is_err(), "one is open");
        drop(stream);
        streams.closed().await;
    }
}
