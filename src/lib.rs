//! Every session that starts gets its end, and stopping never takes longer than its cap.

mod bus;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[cfg(feature = "cli")]
mod config;
mod error;
mod event;
mod filter;
#[cfg(feature = "gateway")]
mod gateway;
mod ledger;
mod plugin;
mod registry;
mod session;
mod shutdown;
mod supervisor;
#[cfg(feature = "cli")]
mod telemetry;

pub use self::bus::{
    DeliveryState, PluginBus, PluginState, PluginStatus, RecordedEnds, SessionEnd, SessionStart,
};
pub use self::error::Error;
pub use self::event::{
    Acks, Deadline, Deliver, Event, EventId, Hook, Hooks, InstanceId, Lifecycle, Seq, WireEvent,
};
pub use self::filter::SessionFilter;
#[cfg(feature = "gateway")]
pub use self::gateway::{Access, Gateway, InvalidSecret, Scope, Secret, Token};
pub use self::ledger::{
    Append, Ledger, LedgerError, LedgerFuture, MemoryLedger, Page, Parked, Position, Progress,
    SessionRecord,
};
pub use self::plugin::{DeliveryPolicy, Down, LogPlugin, Panicked, PerSession, Plugin, PluginSpec};
#[cfg(feature = "sqlite")]
pub use self::plugin::{SqlPlugin, SqlSettings};
pub use self::registry::{
    EndMatching, Ended, EndedMatching, EndedSession, ListSessions, SessionRegistry, SessionState,
    Snapshot, Started, StartedSession, Touch,
};
pub use self::session::{
    End, EndDetails, EndReason, HolderId, Incarnation, InvalidField, MAX_DETAIL_BYTES,
    MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TEXT_BYTES, Metadata, NewSession, Session, SessionId,
    SessionKey,
};
pub use self::shutdown::{
    DrainReport, MIN_CAP, Outcome, PluginReport, Shutdown, ShutdownCoordinator, ShutdownNotice,
    ShutdownReport, StepOutcome, StepReport,
};
pub use self::supervisor::{Builder, SessionSupervisor, Threads};

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs the examples of the guide for plugin authors as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/hooks.md")]
struct HooksGuide;
