//! What a program says of a session when it starts it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{HolderId, InvalidField, Metadata, RunId, SessionId, SessionKey, check_length};

/// Longest `agent_id`, `store_path` or `session_file`, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The times that RFC 3339 can write.
pub(super) const FIRST_TIME: Timestamp = Timestamp::constant(-62_167_219_200, 0);
pub(super) const LAST_TIME: Timestamp = Timestamp::MAX;

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
    pub agent_id: Option<Arc<str>>,
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
    pub fn with_agent_id(mut self, agent_id: impl Into<Arc<str>>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets [`store_path`](Self::store_path).
    #[must_use]
    pub fn with_store_path(mut self, path: impl Into<Box<str>>) -> Self {
        self.store_path = Some(path.into());
        self
    }

    /// Sets [`session_file`](Self::session_file).
    #[must_use]
    pub fn with_session_file(mut self, path: impl Into<Box<str>>) -> Self {
        self.session_file = Some(path.into());
        self
    }

    /// Sets [`resumed_from`](Self::resumed_from).
    #[must_use]
    pub fn with_resumed_from(mut self, id: SessionId) -> Self {
        self.resumed_from = Some(id);
        self
    }

    /// Sets [`holder`](Self::holder).
    #[must_use]
    pub fn with_holder(mut self, holder: HolderId) -> Self {
        self.holder = Some(holder);
        self
    }

    /// Sets [`run_id`](Self::run_id).
    #[must_use]
    pub fn with_run_id(mut self, run_id: RunId) -> Self {
        self.run_id = Some(run_id);
        self
    }

    /// Sets [`started_at`](Self::started_at).
    #[must_use]
    pub fn with_started_at(mut self, at: Timestamp) -> Self {
        self.started_at = Some(at);
        self
    }

    /// Sets [`metadata`](Self::metadata), such as `[("name", "a report")]`.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl Into<Metadata>) -> Self {
        self.metadata = metadata.into();
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
        self.metadata.validate()
    }
}

impl From<SessionId> for NewSession {
    fn from(id: SessionId) -> Self {
        Self::new(id)
    }
}
