//! The registry's messages about holders.

use std::time::Duration;

use actix::{Addr, Message};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::event::Seq;
use crate::holder::{ConnectionId, HolderStatus};
use crate::session::{EndReason, HolderId, NewSession, RunId, SessionId};

use super::{SessionRegistry, StartedSession};

/// As [`Started`](super::Started), asked for by the holder that `new` names: it may not touch what is
/// not its own.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<StartedSession, Error>")]
pub(crate) struct StartedByHolder(pub(crate) NewSession);

/// A connection becomes the lease of a holder's run, or the parent of its process has it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Connected, Error>")]
pub(crate) struct Connect {
    pub(crate) holder: HolderId,
    pub(crate) run_id: RunId,
    /// How long the lease outlives the connection.
    pub(crate) grace: Duration,
    /// Whether it stands for the parent, whose lease nothing takes the place of.
    pub(crate) is_parent: bool,
}

/// The answer to [`Connect`]: the lease, which is given back when this is dropped. So it is where
/// nobody waits for the answer any more.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) registry: Addr<SessionRegistry>,
    pub(crate) holder: HolderId,
    pub(crate) connection: ConnectionId,
    /// Fires when the connection is a lease no longer.
    pub(crate) replaced: CancellationToken,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.registry.do_send(Disconnected {
            holder: self.holder.clone(),
            connection: self.connection,
        });
    }
}

/// A connection that was a lease is gone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct Disconnected {
    pub(crate) holder: HolderId,
    pub(crate) connection: ConnectionId,
}

/// A holder's run is alive, and is for `ttl` at least.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct Heartbeat {
    pub(crate) holder: HolderId,
    pub(crate) run_id: RunId,
    pub(crate) ttl: Duration,
}

/// These are all sessions that a holder's run has: others that are active as its own end.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Reconciled, Error>")]
pub(crate) struct Reconcile {
    pub(crate) holder: HolderId,
    pub(crate) run_id: RunId,
    pub(crate) ids: Vec<SessionId>,
}

/// What a holder that said which sessions it has is answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Reconciled {
    /// How many sessions ended, since they were not named.
    pub ended: usize,
    /// Those it named that are not active, or not its own.
    pub not_active: Vec<SessionId>,
}

/// A holder is done: its sessions end, whichever its run, and its lease is over.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<EndedHolder, Error>")]
pub(crate) struct EndHolder {
    pub(crate) holder: HolderId,
    /// The run that says so, if it says which it is: not one whose place was taken.
    pub(crate) run_id: Option<RunId>,
    /// Any but [`EndReason::Lost`].
    pub(crate) reason: EndReason,
    /// Whether it is heard no more: what it is still starting ends in the same way.
    pub(crate) is_final: bool,
}

/// The answer to [`EndHolder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedHolder {
    pub(crate) ended: usize,
    /// Their ends are in the log up to here.
    pub(crate) up_to: Seq,
}

/// Asks how many holders there are.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "usize")]
pub(crate) struct CountHolders;

/// Asks how the holders are.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<HolderStatus>")]
pub(crate) struct HolderStatuses;
