//! Sessions: their names, their lives, and the reasons why they end.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::{serialize_wire_time, whole_milliseconds};

/// Longest id, key or holder, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 256;
/// Longest `agent_id`, `store_path` or `session_file`, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Largest `metadata`, in bytes of its compact JSON text.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// Deepest nesting of `metadata`: programs that read JSON stop somewhere, this one included.
pub const MAX_METADATA_DEPTH: usize = 100;
/// Longest `detail` of an end, in bytes of UTF-8.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// The times that RFC 3339 can write.
const FIRST_TIME: Timestamp = Timestamp::constant(-62_167_219_200, 0);
const LAST_TIME: Timestamp = Timestamp::MAX;

/// A value that was refused before it could change anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
#[non_exhaustive]
pub struct InvalidField {
    /// The field at fault, as it is called on the wire, for example `"metadata"`.
    pub field: &'static str,
    /// What is wrong with it and what was expected.
    pub problem: String,
}

impl InvalidField {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { field, problem }
    }
}

fn check_name(field: &'static str, text: &str) -> Result<(), InvalidField> {
    let problem = if text.is_empty() {
        "must not be empty"
    } else if text.len() > MAX_NAME_BYTES {
        "must be at most 256 bytes long"
    } else if text.chars().any(char::is_control) {
        "must not contain control characters"
    } else if text == "." || text == ".." {
        "must not be `.` or `..`"
    } else {
        return Ok(());
    };
    Err(InvalidField::new(field, problem))
}

fn check_length(
    field: &'static str,
    text: Option<&str>,
    max_bytes: usize,
) -> Result<(), InvalidField> {
    match text {
        Some(text) if text.len() > max_bytes => Err(InvalidField::new(
            field,
            format!("must be at most {max_bytes} bytes long"),
        )),
        _ => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        ///
        /// 1 to [`MAX_NAME_BYTES`] bytes of UTF-8 without control characters, and neither `.` nor
        /// `..`. Cloning shares the text.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it as a name.
            ///
            /// # Errors
            ///
            /// [`InvalidField`] when `text` is empty, too long, holds a control character, or is
            /// `.` or `..`.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidField> {
                let text = text.into();
                check_name($field, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidField;

            fn from_str(text: &str) -> Result<Self, InvalidField> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(|error| serde::de::Error::custom(error.problem))
            }
        }
    };
}

name_type!(
    /// What a program calls a session. An id may be used again after its end: that is a new
    /// [`Incarnation`].
    SessionId,
    "id"
);
name_type!(
    /// What a session is *for*, such as a conversation or a device. At most one active session has
    /// a given key; starting another under it ends the first with [`EndReason::Replaced`].
    SessionKey,
    "key"
);
name_type!(
    /// Another program that holds sessions.
    HolderId,
    "holder"
);
name_type!(
    /// One process of a [holder](HolderId): a value that each of its processes chooses at random.
    RunId,
    "run_id"
);

impl SessionId {
    /// An id that nothing else has, for programs that have no name of their own for a session, such as
    /// one per connection.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }
}

/// One life of a session id, from a start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(Uuid);

impl Incarnation {
    /// A new one, different from all others and ascending with time.
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// One that was made before.
    pub(crate) fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The incarnation as a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Incarnation {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// Details that travel with a session untouched: a JSON object of at most
/// [`MAX_METADATA_BYTES`].
pub type Metadata = Map<String, Value>;

/// What a program says of a session when it starts it, or again while it is active.
///
/// ```
/// use session_supervisor::{NewSession, SessionId, SessionKey};
///
/// # fn main() -> Result<(), session_supervisor::InvalidField> {
/// let mut new = NewSession::new(SessionId::generate())
///     .with_key(SessionKey::new("user:ada")?)
///     .with_agent_id("main");
/// new.session_file = Some("/data/ada.jsonl".into());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewSession {
    /// The session's id.
    pub id: SessionId,
    /// What the session is for; leave it out where sessions may share one.
    pub key: Option<SessionKey>,
    /// The agent that serves the session. At most [`MAX_TEXT_BYTES`].
    pub agent_id: Option<Box<str>>,
    /// Where the owner stores the session. Carried, never opened. At most [`MAX_TEXT_BYTES`].
    pub store_path: Option<Box<str>>,
    /// The session's transcript. Carried, never opened. At most [`MAX_TEXT_BYTES`].
    pub session_file: Option<Box<str>>,
    /// The session that this one carries on.
    pub resumed_from: Option<SessionId>,
    /// The program that holds the session, if it is not the one that runs the supervisor.
    pub holder: Option<HolderId>,
    /// Which process of that holder; its current one if left out.
    pub run_id: Option<RunId>,
    /// When it started, by the owner's clock; the moment of the message if left out.
    pub started_at: Option<Timestamp>,
    /// Details for the plugins.
    #[serde(default)]
    pub metadata: Metadata,
}

impl NewSession {
    /// A session with nothing but an id. The fields are public: set those that apply.
    pub fn new(id: SessionId) -> Self {
        Self {
            id,
            key: None,
            agent_id: None,
            store_path: None,
            session_file: None,
            resumed_from: None,
            holder: None,
            run_id: None,
            started_at: None,
            metadata: Metadata::new(),
        }
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: SessionKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets [`agent_id`](Self::agent_id).
    #[must_use]
    pub fn with_agent_id(mut self, agent_id: impl Into<Box<str>>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets [`metadata`](Self::metadata).
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Checks what the types don't: the lengths of texts and metadata, and whose a run is.
    pub(crate) fn validate(&self) -> Result<(), InvalidField> {
        if self.run_id.is_some() && self.holder.is_none() {
            let problem = "names a run of a holder, which `holder` has to name";
            return Err(InvalidField::new("run_id", problem));
        }
        check_length("agent_id", self.agent_id.as_deref(), MAX_TEXT_BYTES)?;
        check_length("store_path", self.store_path.as_deref(), MAX_TEXT_BYTES)?;
        check_length("session_file", self.session_file.as_deref(), MAX_TEXT_BYTES)?;
        if self
            .started_at
            .is_some_and(|at| !(FIRST_TIME..=LAST_TIME).contains(&at))
        {
            return Err(InvalidField::new(
                "started_at",
                "must be in the years 0 to 9999",
            ));
        }
        // An empty map is the common case and needs no measuring.
        if !self.metadata.is_empty() {
            if self
                .metadata
                .values()
                .any(|value| is_deeper_than(value, MAX_METADATA_DEPTH))
            {
                let problem = format!("must be nested at most {MAX_METADATA_DEPTH} deep");
                return Err(InvalidField::new("metadata", problem));
            }
            let text = serde_json::to_string(&self.metadata)
                .map_err(|error| InvalidField::new("metadata", error.to_string()))?;
            check_length("metadata", Some(&text), MAX_METADATA_BYTES)?;
        }
        Ok(())
    }
}

/// Whether arrays and objects are nested deeper in `value`.
fn is_deeper_than(value: &Value, depth: usize) -> bool {
    let deeper = |value| depth == 0 || is_deeper_than(value, depth - 1);
    match value {
        Value::Array(values) => values.iter().any(deeper),
        Value::Object(values) => values.values().any(deeper),
        _ => false,
    }
}

impl From<SessionId> for NewSession {
    fn from(id: SessionId) -> Self {
        Self::new(id)
    }
}

/// One incarnation of a session, as plugins, snapshots and the wire show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// Which life of that id this is.
    pub incarnation: Incarnation,
    /// The life before, if the id has been used before and that is still known.
    pub previous_incarnation: Option<Incarnation>,
    /// What the session is for.
    pub key: Option<SessionKey>,
    /// The agent that serves it.
    pub agent_id: Option<Box<str>>,
    /// Where its owner stores it.
    pub store_path: Option<Box<str>>,
    /// Its transcript.
    pub session_file: Option<Box<str>>,
    /// The session that it carries on.
    pub resumed_from: Option<SessionId>,
    /// The program that holds it; none if the supervisor's own process does.
    pub holder: Option<HolderId>,
    /// The process of that program to which it belongs; none if it was started before the holder
    /// had a lease, and is its first process's. Left out of JSON then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "gateway", schema(value_type = RunId, required = false))]
    pub run_id: Option<RunId>,
    /// When it started.
    #[serde(serialize_with = "serialize_wire_time")]
    pub started_at: Timestamp,
    /// Details for the plugins.
    #[cfg_attr(feature = "gateway", schema(value_type = Object))]
    pub metadata: Metadata,
}

impl Session {
    /// The first state of a new incarnation.
    pub(crate) fn begin(
        new: NewSession,
        incarnation: Incarnation,
        previous_incarnation: Option<Incarnation>,
        now: Timestamp,
    ) -> Self {
        Self {
            id: new.id,
            incarnation,
            previous_incarnation,
            key: new.key,
            agent_id: new.agent_id,
            store_path: new.store_path,
            session_file: new.session_file,
            resumed_from: new.resumed_from,
            holder: new.holder,
            run_id: new.run_id,
            started_at: whole_milliseconds(new.started_at.unwrap_or(now)),
            metadata: new.metadata,
        }
    }

    /// The same incarnation with its details replaced; `started_at` stays what it was.
    pub(crate) fn replace_details(&self, new: NewSession) -> Self {
        Self {
            started_at: self.started_at,
            ..Self::begin(
                new,
                self.incarnation,
                self.previous_incarnation,
                self.started_at,
            )
        }
    }
}

macro_rules! end_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, resumable: $resumable:literal;)*) => {
        /// Why a session ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum EndReason {
            $($(#[$doc])* $variant,)*
        }

        impl EndReason {
            /// Every reason, in the order of the documentation's table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason's name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the conversation may go on in a later session: the hint that tells a
            /// consumer not to throw away what it keeps for the session.
            pub const fn resumable(self) -> bool {
                match self { $(Self::$variant => $resumable,)* }
            }
        }
    };
}

end_reasons! {
    /// Ended normally by its owner.
    Completed = "completed", resumable: false;
    /// Its connection went away.
    Disconnected = "disconnected", resumable: true;
    /// Its handler failed or panicked.
    Failed = "failed", resumable: true;
    /// An explicit new session took its place.
    New = "new", resumable: false;
    /// Explicit reset.
    Reset = "reset", resumable: false;
    /// Another session started under the same key.
    Replaced = "replaced", resumable: false;
    /// No activity for the configured time.
    Idle = "idle", resumable: true;
    /// Older than the configured age.
    Expired = "expired", resumable: false;
    /// The owner's daily rollover.
    Daily = "daily", resumable: false;
    /// The conversation moved to a successor id.
    Compaction = "compaction", resumable: false;
    /// Deleted.
    Deleted = "deleted", resumable: false;
    /// Closed by an operator.
    Closed = "closed", resumable: false;
    /// Graceful close of the process that held it.
    Shutdown = "shutdown", resumable: true;
    /// Planned restart of the process that held it.
    Restart = "restart", resumable: true;
    /// The process that held it died without ending it.
    Crash = "crash", resumable: true;
    /// Its holder, or instance, lost its lease.
    Lost = "lost", resumable: true;
    /// None given.
    Unknown = "unknown", resumable: false;
}

impl EndReason {
    /// Whether only the supervisor may find this reason: a caller that gives it is refused.
    pub const fn is_reserved(self) -> bool {
        matches!(self, Self::Crash | Self::Lost)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EndReason {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let found = Self::ALL.iter().find(|reason| reason.as_str() == text);
        found.copied().ok_or_else(|| {
            // Not those that nobody may give, which only a record can have.
            let given = Self::ALL.iter().filter(|reason| !reason.is_reserved());
            let names: Vec<_> = given.map(|reason| reason.as_str()).collect();
            InvalidField::new("reason", format!("must be one of {}", names.join(", ")))
        })
    }
}

impl Serialize for EndReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EndReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error: InvalidField| serde::de::Error::custom(error.problem))
    }
}

/// What a program says of a session when it ends it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EndDetails {
    /// Free text on the reason, at most [`MAX_DETAIL_BYTES`].
    pub detail: Option<Box<str>>,
    /// The session that follows this one.
    pub next_session_id: Option<SessionId>,
    /// The key of the session that follows this one.
    pub next_key: Option<SessionKey>,
    /// How many messages the session held.
    pub message_count: Option<u64>,
    /// Whether the transcript was archived.
    pub transcript_archived: Option<bool>,
}

impl EndDetails {
    /// Sets [`detail`](Self::detail).
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Sets [`message_count`](Self::message_count).
    #[must_use]
    pub fn with_message_count(mut self, messages: u64) -> Self {
        self.message_count = Some(messages);
        self
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidField> {
        // Databases have signed integers.
        if self
            .message_count
            .is_some_and(|count| i64::try_from(count).is_err())
        {
            let problem = format!("must be at most {}", i64::MAX);
            return Err(InvalidField::new("message_count", problem));
        }
        check_length("detail", self.detail.as_deref(), MAX_DETAIL_BYTES)
    }
}

/// How a session ended. Sessions that end together share one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// When, or the last moment that it was known alive.
    pub ended_at: Timestamp,
    /// When the end was noticed: [`ended_at`](Self::ended_at) unless something died.
    pub detected_at: Timestamp,
    /// What its owner said of the end.
    pub details: EndDetails,
}

impl End {
    /// An end that is noticed the moment it happens.
    pub(crate) fn now(reason: EndReason, details: EndDetails, now: Timestamp) -> Self {
        Self {
            reason,
            ended_at: now,
            detected_at: now,
            details,
        }
    }

    /// An end that is noticed now, of what was last known alive at `alive_at`.
    pub(crate) fn noticed(reason: EndReason, alive_at: Timestamp, now: Timestamp) -> Self {
        Self {
            ended_at: alive_at.min(now),
            ..Self::now(reason, EndDetails::default(), now)
        }
    }

    /// `end`, of a session that started at `started_at`. Clocks jump, and a client says of a start what
    /// it likes; but no session ends after its end was noticed, or, unless it starts later than that,
    /// before its start.
    pub(crate) fn within_life(end: Arc<Self>, started_at: Timestamp) -> Arc<Self> {
        let ended_at = end.ended_at.max(started_at).min(end.detected_at);
        if ended_at == end.ended_at {
            return end;
        }
        Arc::new(Self {
            ended_at,
            ..(*end).clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// JSON of all kinds, nested.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let entries = proptest::collection::btree_map(any::<String>(), inner.clone(), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::from),
                entries.prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn sessions() -> impl Strategy<Value = Session> {
        let text = || proptest::option::of(any::<String>().prop_map(Box::<str>::from));
        let name = || "[a-zäß :\"\\\\]{1,40}";
        let names = (
            name(),
            proptest::option::of(name()),
            proptest::option::of(name()),
        );
        let times = FIRST_TIME.as_millisecond()..=LAST_TIME.as_millisecond();
        let metadata = proptest::collection::btree_map(any::<String>(), json(), 0..4);
        (
            names,
            text(),
            text(),
            text(),
            times,
            metadata,
            any::<bool>(),
        )
            .prop_map(
                |(
                    (id, key, other),
                    agent_id,
                    store_path,
                    session_file,
                    millis,
                    metadata,
                    again,
                )| {
                    let other = other.as_deref();
                    let new = NewSession {
                        key: key.map(|key| SessionKey::new(key).unwrap()),
                        agent_id,
                        store_path,
                        session_file,
                        resumed_from: other.map(|id| SessionId::new(id).unwrap()),
                        holder: other.map(|id| HolderId::new(id).unwrap()),
                        run_id: other.map(|id| RunId::new(id).unwrap()),
                        metadata: metadata.into_iter().collect(),
                        ..NewSession::new(SessionId::new(id).unwrap())
                    };
                    let now = Timestamp::from_millisecond(millis).unwrap();
                    let previous = again.then(Incarnation::generate);
                    Session::begin(new, Incarnation::generate(), previous, now)
                },
            )
    }

    proptest! {
        #[test]
        fn a_session_is_read_back_from_its_json_as_it_was(session in sessions()) {
            let text = serde_json::to_string(&session).unwrap();
            prop_assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), session);
        }
    }

    #[test]
    fn metadata_is_accepted_as_deep_as_it_can_be_read_back_and_no_deeper() {
        let nested = |depth: usize| {
            let array = |inner, _| Value::Array(vec![inner]);
            let value = (0..depth).fold(Value::Null, array);
            let mut new = NewSession::new(SessionId::new("a").unwrap());
            new.metadata.insert("deep".into(), value);
            new
        };
        let deepest = nested(MAX_METADATA_DEPTH);
        deepest.validate().unwrap();
        let session = Session::begin(
            deepest,
            Incarnation::generate(),
            None,
            Timestamp::UNIX_EPOCH,
        );
        let text = serde_json::to_string(&session).unwrap();
        assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), session);
        let refused = nested(MAX_METADATA_DEPTH + 1).validate().unwrap_err();
        assert_eq!(refused.field, "metadata");
    }

    #[test]
    fn names_are_refused_when_empty_too_long_or_malformed() {
        for bad in ["", ".", "..", "a\nb", "a\u{0}", &"x".repeat(257)] {
            assert!(SessionId::new(bad).is_err(), "{bad:?} was accepted");
            assert!(SessionKey::new(bad).is_err(), "{bad:?} was accepted");
            assert!(HolderId::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "...", "agent:main:main", "ä b", &"x".repeat(256)] {
            assert_eq!(SessionId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn generated_ids_are_names_like_any_and_all_different() {
        let (one, other) = (SessionId::generate(), SessionId::generate());
        assert_ne!(one, other);
        assert_eq!(SessionId::new(one.as_str()), Ok(one.clone()));
    }

    #[test]
    fn every_reason_parses_back_from_its_name() {
        for &reason in EndReason::ALL {
            assert_eq!(reason.as_str().parse::<EndReason>().unwrap(), reason);
        }
        assert_eq!(EndReason::ALL.len(), 17);
        assert!("crashed".parse::<EndReason>().is_err());
    }

    #[test]
    fn sessions_that_may_go_on_are_marked_resumable() {
        let resumable: Vec<_> = EndReason::ALL
            .iter()
            .filter(|reason| reason.resumable())
            .map(|reason| reason.as_str())
            .collect();
        let expected = [
            "disconnected",
            "failed",
            "idle",
            "shutdown",
            "restart",
            "crash",
            "lost",
        ];
        assert_eq!(resumable, expected);
    }

    #[test]
    fn details_over_their_limits_are_named() {
        let mut new = NewSession::new(SessionId::new("a").unwrap());
        new.metadata
            .insert("note".into(), "x".repeat(MAX_METADATA_BYTES).into());
        assert_eq!(new.validate().unwrap_err().field, "metadata");

        let end = EndDetails {
            detail: Some("x".repeat(MAX_DETAIL_BYTES + 1).into()),
            ..EndDetails::default()
        };
        assert_eq!(end.validate().unwrap_err().field, "detail");
    }
}
