//! Sessions: their names, their lives, and the reasons why they end.

mod end;
mod metadata;
mod names;
mod new;
mod reason;

use std::sync::Arc;

use jiff::Timestamp;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

pub use self::end::{End, EndDetails, MAX_DETAIL_BYTES};
pub use self::metadata::{MAX_METADATA_BYTES, MAX_METADATA_DEPTH, Metadata};
pub use self::names::{HolderId, Incarnation, MAX_NAME_BYTES, RunId, SessionId, SessionKey};
pub use self::new::{MAX_TEXT_BYTES, NewSession};
pub use self::reason::EndReason;
use crate::clock::{WireTime, whole_milliseconds};

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

/// One incarnation of a session, as plugins, snapshots and the wire show it.
///
/// What few sessions have is behind methods, so that a million of the others stay small:
/// [`previous_incarnation`](Self::previous_incarnation), [`store_path`](Self::store_path),
/// [`session_file`](Self::session_file), [`resumed_from`](Self::resumed_from) and
/// [`run_id`](Self::run_id).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Fields")]
#[non_exhaustive]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// Which life of that id this is.
    pub incarnation: Incarnation,
    /// What the session is for.
    pub key: Option<SessionKey>,
    /// The agent that serves it.
    pub agent_id: Option<Arc<str>>,
    /// The program that holds it; none if the supervisor's own process does.
    pub holder: Option<HolderId>,
    /// When it started.
    pub started_at: Timestamp,
    /// Details for the plugins.
    pub metadata: Metadata,
    rare: Option<Box<Rare>>,
}

/// What few sessions have.
#[derive(Debug, Clone, PartialEq, Default)]
struct Rare {
    previous_incarnation: Option<Incarnation>,
    store_path: Option<Box<str>>,
    session_file: Option<Box<str>>,
    resumed_from: Option<SessionId>,
    run_id: Option<RunId>,
}

/// One incarnation of a session.
#[derive(Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "gateway", schema(as = Session))]
struct Fields {
    /// The session's id.
    id: SessionId,
    /// Which life of that id this is.
    incarnation: Incarnation,
    /// The life before, if the id has been used before and that is still known.
    previous_incarnation: Option<Incarnation>,
    /// What the session is for.
    key: Option<SessionKey>,
    /// The agent that serves it.
    #[cfg_attr(feature = "gateway", schema(value_type = Option<String>))]
    agent_id: Option<Arc<str>>,
    /// Where its owner stores it.
    store_path: Option<Box<str>>,
    /// Its transcript.
    session_file: Option<Box<str>>,
    /// The session that it carries on.
    resumed_from: Option<SessionId>,
    /// The program that holds it; none if the supervisor's own process does.
    holder: Option<HolderId>,
    /// The process of that program to which it belongs; none if it was started before the holder
    /// had a lease, and is its first process's. Left out of JSON then.
    #[cfg_attr(feature = "gateway", schema(value_type = RunId, required = false))]
    run_id: Option<RunId>,
    /// When it started.
    started_at: Timestamp,
    /// Details for the plugins.
    #[cfg_attr(feature = "gateway", schema(value_type = Object))]
    metadata: Metadata,
}

impl From<Fields> for Session {
    fn from(fields: Fields) -> Self {
        let rare = Rare {
            previous_incarnation: fields.previous_incarnation,
            store_path: fields.store_path,
            session_file: fields.session_file,
            resumed_from: fields.resumed_from,
            run_id: fields.run_id,
        };
        Self {
            id: fields.id,
            incarnation: fields.incarnation,
            key: fields.key,
            agent_id: fields.agent_id,
            holder: fields.holder,
            started_at: fields.started_at,
            metadata: fields.metadata,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        }
    }
}

impl Session {
    /// The first state of a new incarnation.
    pub(crate) fn begin(
        new: NewSession,
        incarnation: Incarnation,
        previous_incarnation: Option<Incarnation>,
        now: Timestamp,
    ) -> Self {
        Self::from(Fields {
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
        })
    }

    /// The same incarnation with its details replaced; `started_at` stays what it was.
    pub(crate) fn replace_details(&self, new: NewSession) -> Self {
        let previous = self.previous_incarnation();
        Self {
            started_at: self.started_at,
            ..Self::begin(new, self.incarnation, previous, self.started_at)
        }
    }

    /// The life before, if the id has been used before and that is still known.
    pub fn previous_incarnation(&self) -> Option<Incarnation> {
        self.rare.as_ref()?.previous_incarnation
    }

    /// Where its owner stores it.
    pub fn store_path(&self) -> Option<&str> {
        self.rare.as_ref()?.store_path.as_deref()
    }

    /// Its transcript.
    pub fn session_file(&self) -> Option<&str> {
        self.rare.as_ref()?.session_file.as_deref()
    }

    /// The session that it carries on.
    pub fn resumed_from(&self) -> Option<&SessionId> {
        self.rare.as_ref()?.resumed_from.as_ref()
    }

    /// The process of its [`holder`](Self::holder) to which it belongs; none if it was started before
    /// the holder had a lease, and is its first process's.
    pub fn run_id(&self) -> Option<&RunId> {
        self.rare.as_ref()?.run_id.as_ref()
    }
}

/// The `session` object of the wire.
impl Serialize for Session {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let run_id = self.run_id();
        let fields = 11 + usize::from(run_id.is_some());
        let mut wire = serializer.serialize_struct("Session", fields)?;
        wire.serialize_field("id", &self.id)?;
        wire.serialize_field("incarnation", &self.incarnation)?;
        wire.serialize_field("previous_incarnation", &self.previous_incarnation())?;
        wire.serialize_field("key", &self.key)?;
        wire.serialize_field("agent_id", &self.agent_id)?;
        wire.serialize_field("store_path", &self.store_path())?;
        wire.serialize_field("session_file", &self.session_file())?;
        wire.serialize_field("resumed_from", &self.resumed_from())?;
        wire.serialize_field("holder", &self.holder)?;
        if let Some(run_id) = run_id {
            wire.serialize_field("run_id", run_id)?;
        }
        wire.serialize_field("started_at", &WireTime(self.started_at))?;
        wire.serialize_field("metadata", &self.metadata)?;
        wire.end()
    }
}

#[cfg(feature = "gateway")]
impl utoipa::PartialSchema for Session {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        Fields::schema()
    }
}

#[cfg(feature = "gateway")]
impl utoipa::ToSchema for Session {
    fn schemas(
        schemas: &mut Vec<(
            String,
            utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>,
        )>,
    ) {
        Fields::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use serde_json::Value;

    use super::new::{FIRST_TIME, LAST_TIME};
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
            proptest::option::of(any::<String>().prop_map(Arc::<str>::from)),
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
            let new = NewSession::new(SessionId::new("a").unwrap());
            new.with_metadata(Metadata::from_iter([("deep", value)]))
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
}
