//! The API's description (OpenAPI 3.1), put together from the annotations at the handlers.
//!
//! An annotation says what is particular to its request; what goes for all of them is added here.

use std::sync::LazyLock;

use actix_web::http::Method;
use actix_web::http::header::ContentType;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, Content, OpenApi, Ref, RefOr, Required};
use utoipa::{Modify, OpenApi as _, ToResponse};

use super::problem::{Document, Problem};
use super::refusals::{
    Elsewhere, Full, Inactive, Invalid, InvalidOrReserved, Malformed, NoJson, NoToken, NotAllowed,
    Stopping, TooLarge, TooManyOpen, Unavailable, UnavailableOrBusy, Unknown,
};
use super::target::query;
use super::{
    bulk, dead_letters, endpoints, events, health, holders, metrics, plugins, sessions, stop,
};

/// What the whole description begins with.
const INTRODUCTION: &str = "\
The HTTP API of the gateway `session-supervisor`.

JSON in and out. Every request that changes something needs `Content-Type: application/json`, even \
with an empty body; where every field may be left out, an empty body means `{}`. Fields and \
parameters that are not described are refused, but by health checks. HEAD is answered like GET, \
without the body.

Every 4xx and 5xx is a problem document (RFC 9457). A path that is not described is answered with \
404 `not-found`, a method with 405 `method-not-allowed` and the header `Allow`.

Inside `/v1` fields, reasons and problem types may be added; nothing is renamed or removed. Ignore \
fields that you don't know.";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "session-supervisor", description = INTRODUCTION),
    paths(
        health::alive,
        health::ready,
        show,
        sessions::list,
        sessions::start,
        sessions::show,
        sessions::touch,
        sessions::end,
        bulk::end,
        holders::list,
        holders::hold,
        holders::heartbeat,
        holders::reconcile,
        holders::end,
        plugins::list,
        plugins::reload,
        plugins::test,
        plugins::resume,
        dead_letters::list,
        dead_letters::delete,
        dead_letters::redeliver,
        events::follow,
        metrics::scrape,
        stop::shut_down,
        stop::last_report,
    ),
    components(
        schemas(Document),
        responses(
            Elsewhere, Full, Inactive, Invalid, InvalidOrReserved, Malformed, NoJson, NoToken, NotAllowed,
            Stopping, TooLarge, TooManyOpen, Unavailable, UnavailableOrBusy, Unknown,
        )
    ),
    modifiers(&Common)
)]
struct Description;

/// The description as it is sent. It is the same for every gateway.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = Description::openapi();
    // Nothing in it can fail to be written; if it did, the tests would see an empty answer.
    serde_json::to_vec(&document).unwrap_or_default().into()
});

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "describe",
    tag = "openapi",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = Object))
)]
pub(super) async fn show(request: HttpRequest) -> Result<HttpResponse, Problem> {
    query(&request, &[])?;
    let mut response = HttpResponse::Ok();
    response.insert_header(ContentType::json());
    Ok(response.body(DOCUMENT.clone()))
}

/// What goes for all requests.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        components.schemas.values_mut().for_each(require_nullable);
        components.add_security_scheme("token", token_scheme());
        let endpoints = endpoints();
        for (path, item) in &mut document.paths.paths {
            let is_for_holders = |method: Method| {
                let mut endpoints = endpoints.iter();
                endpoints.any(|it| it.path == path && it.method == method && it.is_for_holders)
            };
            let PathItem {
                get,
                put,
                post,
                delete,
                ..
            } = item;
            if let Some(reading) = get {
                add_refusals(reading, "read", is_for_holders(Method::GET));
            }
            let changes = [
                (put, Method::PUT),
                (post, Method::POST),
                (delete, Method::DELETE),
            ];
            for (change, method) in changes {
                let Some(change) = change else {
                    continue;
                };
                add_refusals(change, "operator", is_for_holders(method));
                refuse::<NoJson>(change, 415);
                refuse::<TooLarge>(change, 413);
                allow_no_body(change, components);
            }
        }
    }
}

fn token_scheme() -> SecurityScheme {
    let description = "A token of the scope that the request names: `read` covers every GET, \
                       `operator` everything, `holder` the sessions and the lease of \
                       the token's holder. None is needed where none is configured: the \
                       gateway then answers loopback names alone.";
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    SecurityScheme::Http(scheme.description(Some(description)).build())
}

/// Adds who may ask, unless the annotation says so, and how it is refused.
fn add_refusals(operation: &mut Operation, scope: &str, is_for_holders: bool) {
    refuse::<Malformed>(operation, 400);
    refuse::<NotAllowed>(operation, 403);
    if operation.security.is_some() {
        return;
    }
    let token = |scope: &str| SecurityRequirement::new("token", [scope]);
    let mut security = vec![SecurityRequirement::default(), token(scope)];
    security.extend(is_for_holders.then(|| token("holder")));
    operation.security = Some(security);
    refuse::<NoToken>(operation, 401);
    refuse::<Invalid>(operation, 422);
}

/// Adds a refusal, unless the annotation has one of this status.
fn refuse<R: for<'r> ToResponse<'r>>(operation: &mut Operation, status: u16) {
    let (name, _) = R::response();
    let responses = &mut operation.responses.responses;
    let response = responses.entry(status.to_string());
    response.or_insert_with(|| RefOr::Ref(Ref::from_response_name(name)));
}

/// An answer leaves no field out because it is null; what it may leave out is never null. Of a
/// request, which has no other fields than those described, any that may be null may be left out.
fn require_nullable(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter_mut().for_each(require_nullable),
        RefOr::T(Schema::Object(object)) if object.additional_properties.is_none() => {
            let nullable = object.properties.iter().filter(|(_, it)| is_nullable(it));
            let names: Vec<_> = nullable.map(|(name, _)| name.clone()).collect();
            object.required.extend(names);
        }
        _ => {}
    }
}

fn is_nullable(schema: &RefOr<Schema>) -> bool {
    let types = match schema {
        RefOr::T(Schema::OneOf(either)) => return either.items.iter().any(is_nullable),
        RefOr::T(Schema::Object(object)) => &object.schema_type,
        RefOr::T(Schema::Array(array)) => &array.schema_type,
        _ => return false,
    };
    match types {
        SchemaType::Type(one) => *one == Type::Null,
        SchemaType::Array(several) => several.contains(&Type::Null),
        SchemaType::AnyValue => true,
    }
}

/// A body may be left out where every field of it may.
fn allow_no_body(operation: &mut Operation, components: &Components) {
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return;
    };
    let may_be_empty = body.content.values().all(|content| {
        let RefOr::T(Content {
            schema: Some(RefOr::Ref(schema)),
            ..
        }) = content
        else {
            return false;
        };
        let name = schema.ref_location.rsplit('/').next().unwrap_or_default();
        let schema = components.schemas.get(name);
        matches!(schema, Some(RefOr::T(Schema::Object(object))) if object.required.is_empty())
    });
    if may_be_empty {
        body.required = Some(Required::False);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_routed_is_described_and_nothing_else() {
        let routed: BTreeSet<_> = endpoints()
            .into_iter()
            .map(|endpoint| (endpoint.path.to_owned(), endpoint.method.to_string()))
            .collect();
        let document = serde_json::to_value(Description::openapi()).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                described.insert((path.clone(), method.to_uppercase()));
            }
        }
        assert_eq!(described, routed);
    }
}
