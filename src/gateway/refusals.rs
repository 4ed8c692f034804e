//! Refusals in the API's description: which problems a status may carry.

use utoipa::ToResponse;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{AllOfBuilder, Object, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use super::problem::{Kind, MEDIA_TYPE};

macro_rules! refusals {
    ($($(#[doc = $doc:literal])* $name:ident = $($kind:ident)|+;)*) => {
        $(
            $(#[doc = $doc])*
            pub(super) struct $name;

            impl<'r> ToResponse<'r> for $name {
                fn response() -> (&'r str, RefOr<Response>) {
                    let description = concat!($($doc),*).trim();
                    let response = refusal(description, &[$(Kind::$kind),+]);
                    (stringify!($name), response.into())
                }
            }
        )*
    };
}

refusals! {
    /// What was sent is not HTTP, or the body is not JSON or did not arrive.
    Malformed = MalformedJson;
    /// There is no token, or one that is unknown.
    NoToken = Unauthorized;
    /// `Host` or `Origin` is foreign, or the token's scope does not allow the request.
    NotAllowed = Forbidden;
    /// It is unknown.
    Unknown = NotFound;
    /// The session is not active, or not in this incarnation.
    Inactive = NotActive;
    /// Another holder has the session, or a later run of the holder has taken this one's place.
    Elsewhere = HeldElsewhere;
    /// The body is over 64 KiB.
    TooLarge = BodyTooLarge;
    /// The content type is not `application/json`.
    NoJson = UnsupportedMediaType;
    /// A field, a parameter or a name in the path breaks a rule, or is unknown.
    Invalid = InvalidField;
    /// As `Invalid`, or the reason is one that only the supervisor itself finds.
    InvalidOrReserved = InvalidField | ReservedReason;
    /// As many sessions are active as may be.
    Full = TooManySessions;
    /// As many streams are open as may be.
    TooManyOpen = TooManyStreams;
    /// The gateway is shutting down.
    Stopping = ShuttingDown;
    /// The gateway is shutting down, or its ledger fails.
    Unavailable = ShuttingDown | LedgerUnavailable;
    /// As `Unavailable`, or there are too few threads or files, too many such requests wait, or as many
    /// holders are known as may be.
    UnavailableOrBusy = ShuttingDown | LedgerUnavailable | Busy;
}

/// A response whose document has the type of one of `kinds`, which have one status.
fn refusal(description: &str, kinds: &[Kind]) -> Response {
    let types = kinds.iter().map(|kind| kind.urn());
    let types = of_type(Type::String).enum_values(Some(types));
    let status = kinds.first().map(|kind| kind.status().as_u16());
    let status_only = of_type(Type::Integer).enum_values(Some(status));
    let mut particular = ObjectBuilder::new()
        .property("type", types)
        .property("status", status_only);
    if status == Some(422) {
        particular = particular.required("errors");
    }
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(particular);
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let mut response = ResponseBuilder::new()
        .description(description)
        .content(MEDIA_TYPE, content);
    if let Some((name, meaning)) = status.and_then(header_of) {
        let header = HeaderBuilder::new()
            .schema(Some(Object::with_type(Type::String)))
            .description(Some(meaning));
        response = response.header(name, header.build());
    }
    response.build()
}

fn of_type(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

/// The header that goes with a status, and what it says.
fn header_of(status: u16) -> Option<(&'static str, &'static str)> {
    match status {
        401 => Some(("WWW-Authenticate", "The scheme of the token: `Bearer`.")),
        503 => Some(("Retry-After", "Seconds after which to ask again.")),
        _ => None,
    }
}
