//! What requests on sessions say, and how sessions look in answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bus::DeliveryState;
use crate::clock::WireTime;
use crate::gateway::caller::Caller;
use crate::gateway::problem::Problem;
use crate::gateway::schema::GivenReason;
use crate::ledger::SessionRecord;
use crate::registry::{Ended, SessionState};
use crate::session::{
    EndDetails, EndReason, HolderId, Incarnation, Metadata, NewSession, RunId, Session, SessionId,
    SessionKey,
};

/// What a program says of a session when it starts it, or again while it is active.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartRequest {
    /// The session's id.
    #[schema(value_type = SessionId)]
    id: Option<SessionId>,
    /// What it is for; leave it out where sessions may share one.
    key: Option<SessionKey>,
    /// The agent that serves it, in at most 4,096 bytes.
    #[schema(max_length = 4096)]
    agent_id: Option<Box<str>>,
    /// Where its owner stores it, in at most 4,096 bytes. Carried, never opened.
    #[schema(max_length = 4096)]
    store_path: Option<Box<str>>,
    /// Its transcript, in at most 4,096 bytes. Carried, never opened.
    #[schema(max_length = 4096)]
    session_file: Option<Box<str>>,
    /// The session that it carries on.
    resumed_from: Option<SessionId>,
    /// The program that holds it; none if left out, but that of a token of scope `holder`.
    holder: Option<HolderId>,
    /// Which process of its holder; the current one if left out. Goes with a holder only.
    run_id: Option<RunId>,
    /// When it started, by its owner's clock; now if left out. In the years 0 to 9999.
    started_at: Option<Timestamp>,
    /// Details for the plugins, of at most 16 KiB as compact JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Metadata,
}

impl StartRequest {
    pub(super) fn into_new_session(self, caller: &Caller) -> Result<NewSession, Problem> {
        let missing = || Problem::invalid_field("#/id", "is missing: every session needs an id");
        Ok(NewSession {
            key: self.key,
            agent_id: self.agent_id.map(Into::into),
            store_path: self.store_path,
            session_file: self.session_file,
            resumed_from: self.resumed_from,
            holder: caller.implied(self.holder)?,
            run_id: self.run_id,
            started_at: self.started_at,
            metadata: self.metadata,
            ..NewSession::new(self.id.ok_or_else(missing)?)
        })
    }
}

/// Which session is in use.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TouchRequest {
    /// Only if the session is in this life.
    pub(super) incarnation: Option<Incarnation>,
}

/// What a program says of a session when it ends it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndRequest {
    /// `unknown` if left out.
    #[schema(value_type = Option<GivenReason>)]
    reason: Option<EndReason>,
    /// Free text on the reason, of at most 1,024 bytes.
    #[schema(max_length = 1024)]
    detail: Option<Box<str>>,
    /// Only if the session is in this life.
    pub(super) incarnation: Option<Incarnation>,
    /// The session that follows.
    next_session_id: Option<SessionId>,
    /// The key of the session that follows.
    next_key: Option<SessionKey>,
    /// How many messages the session held.
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    message_count: Option<u64>,
    /// Whether the transcript was archived.
    transcript_archived: Option<bool>,
}

impl EndRequest {
    pub(super) fn into_ended(self, id: SessionId) -> Result<Ended, Problem> {
        let reason = self.reason.unwrap_or(EndReason::Unknown);
        if reason.is_reserved() {
            return Err(Problem::reserved(reason));
        }
        Ok(Ended {
            incarnation: self.incarnation,
            details: EndDetails {
                detail: self.detail,
                next_session_id: self.next_session_id,
                next_key: self.next_key,
                message_count: self.message_count,
                transcript_archived: self.transcript_archived,
            },
            ..Ended::new(id, reason)
        })
    }
}

/// A session in an answer: what it is, and how it ended if it has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionView<'a> {
    #[serde(flatten)]
    session: &'a Session,
    /// Which of its lives it is in.
    state: SessionState,
    /// Why it ended.
    reason: Option<EndReason>,
    /// Free text on the reason.
    detail: Option<&'a str>,
    /// Whether the conversation may go on in a later session.
    resumable: Option<bool>,
    /// When it ended, or the last moment that it was known alive.
    ended_at: Option<WireTime>,
}

/// A session that is active now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started<'a> {
    #[serde(flatten)]
    pub(super) session: SessionView<'a>,
    /// The session that had the key, and has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = SessionId, required = false)]
    pub(super) replaced: Option<SessionId>,
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionPage<'a> {
    /// In the order of their starts.
    pub(super) sessions: Vec<SessionView<'a>>,
    /// Where the next page begins; null on the last.
    pub(super) next_cursor: Option<String>,
}

/// A session, and what has become of its last event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    pub(super) session: SessionView<'a>,
    /// For each plugin that hears of it.
    #[schema(value_type = BTreeMap<String, DeliveryState>)]
    pub(super) plugins: BTreeMap<Arc<str>, DeliveryState>,
}

impl<'a> SessionView<'a> {
    pub(super) fn active(session: &'a Session) -> Self {
        Self {
            session,
            state: SessionState::Active,
            reason: None,
            detail: None,
            resumable: None,
            ended_at: None,
        }
    }

    pub(super) fn new(record: &'a SessionRecord) -> Self {
        let active = Self::active(&record.session);
        let Some((end, _)) = &record.end else {
            return active;
        };
        Self {
            state: SessionState::Ended,
            reason: Some(end.reason),
            detail: end.details.detail.as_deref(),
            resumable: Some(end.reason.resumable()),
            ended_at: Some(WireTime(end.ended_at)),
            ..active
        }
    }
}
