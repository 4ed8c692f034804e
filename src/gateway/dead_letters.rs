//! The requests on dead letters.

use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Body, NoFields};
use super::page::{Cursor, DEFAULT_LIMIT, parse_cursor, parse_limit};
use super::problem::Problem;
use super::refusals::{Unavailable, UnavailableOrBusy, Unknown};
use super::target::{plugin_name, query};
use crate::clock::WireTime;
use crate::event::{EventId, Hook, Seq};
use crate::ledger::Parked;
use crate::session::{EndReason, Incarnation, SessionId};
use crate::supervisor::SessionSupervisor;

type Supervisor = Data<SessionSupervisor>;
type Answer = Result<HttpResponse, Problem>;

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetters {
    /// In the order of the log.
    dead_letters: Vec<DeadLetter>,
    /// Where the next page begins; `null` on the last one.
    next_cursor: Option<String>,
}

/// An event that a plugin rejected for good.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetter {
    /// The event's id.
    event_id: EventId,
    /// Its place in the log.
    seq: Seq,
    /// What kind of event it is.
    r#type: Hook,
    /// The session that it is about.
    session_id: SessionId,
    /// The life of the session that it is about.
    incarnation: Incarnation,
    /// Why the session ended; `null` for a start.
    reason: Option<EndReason>,
    /// When it was recorded.
    timestamp: WireTime,
    /// How often the plugin rejected it by itself.
    attempts: u32,
    /// Why the plugin rejected it last, or why it is dead.
    #[schema(value_type = String)]
    error: Arc<str>,
}

impl DeadLetter {
    fn new(letter: Parked) -> Option<Self> {
        let event = letter.event;
        let session = event.session()?;
        Some(Self {
            event_id: event.id(),
            seq: event.recorded_seq(),
            r#type: event.hook(),
            session_id: session.id.clone(),
            incarnation: session.incarnation,
            reason: event.how_ended().map(|end| end.reason),
            timestamp: WireTime(event.timestamp()),
            attempts: letter.attempts,
            error: letter.error,
        })
    }
}

/// What a request to delete did.
#[derive(Debug, Serialize, ToSchema)]
struct Deleted {
    /// How many dead letters are gone.
    deleted: u64,
}

/// Which dead letters to deliver again: all, if nothing is named.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RedeliverRequest {
    /// Only this one, with those of its incarnation.
    #[schema(value_type = Option<EventId>)]
    event_id: Option<String>,
}

/// What a request to redeliver did.
#[derive(Debug, Serialize, ToSchema)]
struct RedeliveredLetters {
    /// How many dead letters are back in the plugin's lane.
    redelivered: u64,
    /// How many dead letters are left.
    left: u64,
}

/// A page of the events that a plugin rejected for good, in the order of the log.
#[utoipa::path(
    get,
    path = "/v1/plugins/{name}/dead-letters",
    operation_id = "list_dead_letters",
    params(
        ("name" = String, Path, description = "The plugin's name."),
        (
            "limit" = Option<u64>, Query, minimum = 1, maximum = 1000,
            description = "How many at the most; 100 if left out."
        ),
        (
            "cursor" = Option<String>, Query,
            description = "`next_cursor` of the page before, unchanged."
        ),
    ),
    responses(
        (status = 200, description = "The page.", body = DeadLetters),
        (status = 404, response = Unknown),
        (status = 503, response = Unavailable),
    )
)]
pub(super) async fn list(request: HttpRequest, supervisor: Supervisor) -> Answer {
    let plugin = plugin_name(&request)?;
    let (mut after, mut limit) = (Cursor::default(), DEFAULT_LIMIT);
    for (name, value) in query(&request, &["limit", "cursor"])? {
        let set = match name.as_str() {
            "limit" => parse_limit(&value).map(|value| limit = value),
            _ => parse_cursor(&value).map(|value| after = value),
        };
        set.map_err(|problem| Problem::invalid_field(format!("#/query/{name}"), problem))?;
    }
    // One more than the page has, to know whether there is more.
    let letters = supervisor.dead_letters(&plugin, after.0, limit + 1);
    let mut letters = letters.await?;
    let has_more = letters.len() > limit;
    letters.truncate(limit);
    let last = letters.last().filter(|_| has_more);
    let next_cursor = last.map(|last| Cursor(last.event.recorded_seq()).to_string());
    let dead_letters = letters.into_iter().filter_map(DeadLetter::new).collect();
    Ok(HttpResponse::Ok().json(DeadLetters {
        dead_letters,
        next_cursor,
    }))
}

/// Lets go of dead letters, all or one: the plugin is never told of them.
#[utoipa::path(
    delete,
    path = "/v1/plugins/{name}/dead-letters",
    operation_id = "delete_dead_letters",
    params(
        ("name" = String, Path, description = "The plugin's name."),
        ("event_id" = Option<EventId>, Query, description = "Only this one."),
    ),
    request_body = NoFields,
    responses(
        (status = 200, description = "That is recorded.", body = Deleted),
        (status = 404, response = Unknown),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn delete(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let NoFields {} = body.json_or_default()?;
    let plugin = plugin_name(&request)?;
    let mut parameters = query(&request, &["event_id"])?.into_iter();
    let event = parameters.next();
    let event = event.map(|(_, id)| event_id(&id, "#/query/event_id"));
    let deleted = supervisor.discard_dead_letters(&plugin, event.transpose()?);
    let deleted = deleted.await?;
    Ok(HttpResponse::Ok().json(Deleted { deleted }))
}

/// Puts dead letters back into their lane, those of each session in their order.
///
/// As many as there is room for; the answer says how many are left.
#[utoipa::path(
    post,
    path = "/v1/plugins/{name}/redeliver",
    operation_id = "redeliver",
    params(("name" = String, Path, description = "The plugin's name.")),
    request_body = RedeliverRequest,
    responses(
        (status = 200, description = "That is recorded.", body = RedeliveredLetters),
        (status = 404, response = Unknown),
        (status = 503, response = UnavailableOrBusy),
    )
)]
pub(super) async fn redeliver(request: HttpRequest, body: Body, supervisor: Supervisor) -> Answer {
    let RedeliverRequest { event_id: event } = body.json_or_default()?;
    let plugin = plugin_name(&request)?;
    query(&request, &[])?;
    let event = event.map(|id| event_id(&id, "#/event_id"));
    let back = supervisor.redeliver(&plugin, event.transpose()?).await?;
    Ok(HttpResponse::Ok().json(RedeliveredLetters {
        redelivered: back.redelivered,
        left: back.left,
    }))
}

fn event_id(text: &str, pointer: &'static str) -> Result<EventId, Problem> {
    let parsed = text.parse();
    parsed.map_err(|problem| Problem::invalid_field(pointer, format!("{problem}")))
}
