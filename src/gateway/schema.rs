//! What the API's description says of values whose form the core decides: names, reasons, times.
//!
//! JSON Schema counts characters where the core counts bytes. A length given here is one that no
//! accepted text is over; the descriptions say the rest.

use utoipa::openapi::schema::{
    ArrayBuilder, Object, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::clock::WireTime;
use crate::event::{EventId, Hook, Hooks, InstanceId};
use crate::session::{
    EndReason, HolderId, Incarnation, MAX_NAME_BYTES, RunId, SessionId, SessionKey,
};

/// No control characters, and neither `.` nor `..`.
const NAME_PATTERN: &str = r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f]+$";

/// The subject as 32 hexadecimal digits, and the hook.
const EVENT_ID_PATTERN: &str =
    "^[0-9a-f]{32}-(session_(start|end)|gateway_(start|shutdown|pre_restart))$";

macro_rules! describe {
    ($($type:ident = $schema:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                RefOr::T(Schema::from($schema))
            }
        }

        impl ToSchema for $type {}
    )*};
}

describe! {
    SessionId = name(
        "What a program calls a session. An id may be used again after its end: that is a new \
         incarnation."
    );
    SessionKey = name(
        "What a session is for, such as a conversation or a device. At most one active session \
         has a given key."
    );
    HolderId = name("Another program that holds sessions.");
    RunId = name("One process of a holder: a value that each of its processes chooses at random.");
    Incarnation = uuid("One life of a session id, from a start to its end.");
    EventId = text("An event's idempotency key, as plugins get it.")
        .pattern(Some(EVENT_ID_PATTERN))
        .build();
    Hook = one_of(
        Hook::ALL.iter().copied().map(Hook::as_str),
        "What a plugin can be told of."
    );
    InstanceId = uuid("One run of the gateway, from its start to its stop.");
    WireTime = text("A time in UTC with milliseconds.")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .build();
    EndReason = one_of(
        EndReason::ALL.iter().copied().map(EndReason::as_str),
        "Why a session ended. Treat a reason that you don't know as `unknown`."
    );
    GivenReason = one_of(
        given_reasons().map(EndReason::as_str),
        "Why a session ends: every reason but those that only the supervisor itself finds."
    );
    StopReason = one_of(
        [EndReason::Shutdown, EndReason::Restart].map(EndReason::as_str),
        "Why the gateway stops."
    );
    HolderEndReason = one_of(
        HolderEndReason::ALL.map(EndReason::as_str),
        "Why the sessions of a holder end."
    );
    Hooks = ArrayBuilder::new()
        .items(Hook::schema())
        .build();
}

/// A reason as a client may give it.
pub(super) struct GivenReason;

/// A reason of a shutdown.
pub(super) struct StopReason;

/// A reason with which a holder may end.
pub(super) struct HolderEndReason;

impl HolderEndReason {
    /// Every one.
    pub(super) const ALL: [EndReason; 4] = [
        EndReason::Completed,
        EndReason::Shutdown,
        EndReason::Restart,
        EndReason::Closed,
    ];
}

fn given_reasons() -> impl Iterator<Item = EndReason> {
    let all = EndReason::ALL.iter().copied();
    all.filter(|reason| !reason.is_reserved())
}

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .description(Some(description))
}

/// An id, a key or a holder.
fn name(meaning: &str) -> Object {
    let rule = format!(
        "{meaning} 1 to {MAX_NAME_BYTES} bytes of UTF-8 without control characters, and neither \
         `.` nor `..`."
    );
    text(&rule)
        .min_length(Some(1))
        .max_length(Some(MAX_NAME_BYTES))
        .pattern(Some(NAME_PATTERN))
        .build()
}

fn uuid(meaning: &str) -> Object {
    let format = SchemaFormat::Custom("uuid".into());
    text(meaning).format(Some(format)).build()
}

fn one_of(names: impl IntoIterator<Item = &'static str>, meaning: &str) -> Object {
    text(meaning).enum_values(Some(names)).build()
}
