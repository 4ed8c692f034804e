//! Every session that starts gets its end, and stopping never takes longer than its cap.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[cfg(feature = "cli")]
mod config;
mod error;
mod event;
mod ledger;
mod plugin;
mod session;
#[cfg(feature = "cli")]
mod telemetry;

pub use self::error::Error;
pub use self::event::{
    Acks, Deadline, Deliver, Event, EventId, Hook, Hooks, InstanceId, Lifecycle, Seq, WireEvent,
};
pub use self::ledger::{
    Append, Ledger, LedgerError, LedgerFuture, MemoryLedger, Page, Parked, Position, Progress,
    SessionRecord,
};
pub use self::plugin::{DeliveryPolicy, Down, Panicked, PerSession, Plugin, PluginSpec};
pub use self::session::{
    End, EndDetails, EndReason, HolderId, Incarnation, InvalidField, MAX_DETAIL_BYTES,
    MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TEXT_BYTES, Metadata, NewSession, Session, SessionId,
    SessionKey,
};
