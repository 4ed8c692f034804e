//! Holders: other programs that hold sessions, and their leases.
//!
//! Plain data: the table of holders decides what a sign of life means, and when a lease is over. What
//! then becomes of the sessions is the registry's business.

mod lease;
mod table;

use std::time::Duration;

use serde::Serialize;

pub use self::lease::HolderRecord;
pub(crate) use self::lease::{ConnectionId, SignsOfLife};
pub(crate) use self::table::{Change, Due, Holders};
use crate::session::{HolderId, InvalidField, RunId};

/// How long a holder that a start mentions for the first time has to take a lease, and the least that
/// holders have to come back after a restart of the supervisor.
pub(crate) const FIRST_LEASE: Duration = Duration::from_secs(60);

/// How long the lease of a connection outlives it, unless asked for otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// The shortest lease that a heartbeat gives.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// The longest lease: of a heartbeat, and of a connection that is gone.
pub const MAX_TTL: Duration = Duration::from_secs(3600);

/// How a holder is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct HolderStatus {
    /// Its name.
    pub holder: HolderId,
    /// Its current process; none while none has taken a lease or was named by a start.
    pub run_id: Option<RunId>,
    /// What keeps its sessions active.
    pub lease: LeaseState,
    /// How many milliseconds are left of the lease; none as long as it is connected.
    pub expires_in_ms: Option<u64>,
    /// How many active sessions it holds.
    pub sessions: usize,
}

/// What keeps the sessions of a holder active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum LeaseState {
    /// An open connection, or that its parent knows it alive.
    Connected,
    /// Its last heartbeat.
    Heartbeat,
    /// Its connection is gone, and may come back in time.
    Disconnected,
    /// It was mentioned, or its supervisor was restarted: it has yet to take a lease.
    Awaited,
}

/// Why a sign of life is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another run of the holder has taken the place of this one.
    RunIsOver { holder: HolderId, run_id: RunId },
    /// As many holders are known as may be.
    TooMany,
    /// The holder is heard no more.
    Closed,
}

pub(crate) fn check_ttl(ttl: Duration) -> Result<(), InvalidField> {
    if (MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Ok(());
    }
    let (least, most) = (MIN_TTL.as_millis(), MAX_TTL.as_millis());
    let problem = format!("must be {least} to {most}");
    Err(InvalidField::new("ttl_ms", problem))
}

pub(crate) fn check_grace(grace: Duration) -> Result<(), InvalidField> {
    if grace <= MAX_TTL {
        return Ok(());
    }
    let problem = format!("must be at most {}", MAX_TTL.as_millis());
    Err(InvalidField::new("grace_ms", problem))
}
