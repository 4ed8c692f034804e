//! What can go wrong for a caller.

use crate::holder::Refused;
use crate::ledger::LedgerError;
use crate::session::{HolderId, InvalidField, RunId, SessionId};

/// Why a request to the supervisor was refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value is malformed. Nothing was changed.
    #[error("invalid {0}")]
    Invalid(#[from] InvalidField),
    /// The supervisor is shutting down and takes no new sessions. Those that ask for one should be sent
    /// elsewhere, or told to come back when the next process is there.
    #[error("shutting down: no new sessions are taken")]
    ShuttingDown,
    /// As many sessions are active as may be. Nothing was changed.
    #[error(
        "{max} sessions are active already, which is the most that may be: raise `max_active`, or end some"
    )]
    TooManySessions {
        /// The limit.
        max: usize,
    },
    /// The session is not active, or only in another incarnation.
    #[error("session {0} is not active: it has ended, or was never started")]
    NotActive(SessionId),
    /// Another holder has the session, or the session that has the key. Nothing was changed.
    #[error("session {id} is held by {}", holder_or_none(holder.as_ref()))]
    HeldElsewhere {
        /// The session.
        id: SessionId,
        /// Who has it: a holder, or none where the supervisor's own process has it.
        holder: Option<HolderId>,
    },
    /// Another run of the holder has taken this one's place. Nothing was changed.
    #[error("run `{run_id}` of holder `{holder}` is over: a later one has taken its place")]
    RunIsOver {
        /// The holder.
        holder: HolderId,
        /// The run that is over.
        run_id: RunId,
    },
    /// No plugin has this name.
    #[error("no plugin is named `{0}`")]
    UnknownPlugin(String),
    /// The ledger could not record it, for the reason that it gives. Nothing was changed by what is about
    /// one session; of what is about many a part may be done. Trying again later may help, and does the
    /// rest.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// As many requests of this kind wait as may. Nothing was changed; trying again later may help.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// The supervisor has stopped, and does nothing any more. Its report says how that went.
    #[error("the supervisor has stopped: only another one, once started, takes sessions")]
    Stopped,
    /// The supervisor was built with settings that can't work; which, and what was expected.
    #[error("{0}")]
    Settings(String),
    /// The state directory can't be had, or its ledger not be opened: why, and what to do.
    #[error("{0}")]
    State(String),
    /// A thread of the supervisor could not be started.
    #[error("can't start: {0}")]
    Start(String),
}

impl Error {
    /// The status with which a service may answer, over HTTP, a request that met this error.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::Settings(_) => 422,
            Self::NotActive(_) | Self::UnknownPlugin(_) => 404,
            Self::HeldElsewhere { .. } | Self::RunIsOver { .. } => 409,
            Self::TooManySessions { .. } => 429,
            Self::ShuttingDown
            | Self::Stopped
            | Self::Ledger(_)
            | Self::Busy(_)
            | Self::State(_)
            | Self::Start(_) => 503,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::RunIsOver { holder, run_id } => Self::RunIsOver { holder, run_id },
            Refused::TooMany => Self::Busy("as many holders are known as may be"),
            Refused::Closed => Self::ShuttingDown,
        }
    }
}

impl From<actix::MailboxError> for Error {
    fn from(_: actix::MailboxError) -> Self {
        Self::Stopped
    }
}

fn holder_or_none(holder: Option<&HolderId>) -> String {
    match holder {
        Some(holder) => format!("holder `{holder}`"),
        None => "no holder".into(),
    }
}
