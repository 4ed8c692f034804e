//! What happens, as server-sent events.

use std::time::Duration;

use actix_web::http::Method;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::caller::Caller;
use super::problem::{Kind, Problem};
use super::refusals::TooManyOpen;
use super::stream::{EventStream, Source, Streams, encode, encode_event, encode_gap, response};
use super::target::query;
use crate::event::{Hook, Seq};
use crate::monitor::{Watched, Watcher};
use crate::session::HolderId;
use crate::supervisor::SessionSupervisor;

/// After how long a silent stream says that it is still there: often enough for what stands between
/// it and the client, and to find out soon that the client has gone, which frees its place.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// The header with which a client resumes.
const LAST_EVENT_ID: &str = "last-event-id";

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

/// What a client follows.
struct Followed {
    watcher: Watcher,
    types: Types,
    /// The holder of whose sessions alone it may see something, if there is one.
    holder: Option<HolderId>,
}

impl Followed {
    fn has(&self, watched: &Watched) -> bool {
        let Some(holder) = &self.holder else {
            return self.types.has(watched);
        };
        match watched {
            Watched::Event(event) => {
                let session = event.session();
                self.types.has(watched) && session.and_then(|it| it.holder.as_ref()) == Some(holder)
            }
            Watched::Gap { .. } => true,
            // Deliveries have events of many holders.
            Watched::Delivery(_) | Watched::Drain(_) | Watched::Missed(_) => false,
        }
    }
}

impl Source for Followed {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let watched = self.watcher.next().await?;
            if self.has(&watched) {
                return Some(frame(&watched));
            }
        }
    }
}

/// The client was too late for outcomes and progress.
#[derive(Debug, Serialize)]
struct Missed {
    /// How many events were dropped.
    count: u64,
}

fn frame(watched: &Watched) -> Bytes {
    match watched {
        Watched::Event(event) => encode_event(event.hook().as_str(), event.seq(), event),
        Watched::Delivery(delivery) => encode("delivery", None, delivery),
        Watched::Drain(drain) => encode("drain", None, drain),
        &Watched::Gap { after, next } => encode_gap(after, next),
        &Watched::Missed(count) => encode("missed", None, &Missed { count }),
    }
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
/// A token of scope `holder` sees the starts and ends of its own sessions alone.
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
    caller: Caller,
    supervisor: Data<SessionSupervisor>,
    streams: Data<Streams>,
) -> Result<HttpResponse, Problem> {
    let types = Types::of(&request)?;
    let holder = caller.holder().cloned();
    if holder.is_some() && !types.starts && !types.ends {
        let detail = "the scope `holder` covers no outcomes of deliveries and no drain";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let after = last_event_id(&request)?;
    if request.method() == Method::HEAD {
        return Ok(response().finish());
    }
    let mut watcher = supervisor.watch(after);
    if !types.starts && !types.ends {
        watcher = watcher.without_sessions();
    }
    let followed = Followed {
        watcher,
        types,
        holder,
    };
    Ok(EventStream::new(followed, KEEP_ALIVE, streams.follow()?).into_response())
}
