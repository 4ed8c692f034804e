//! Every session that starts gets its end, and stopping never takes longer than its cap.
//!
//! A program that holds sessions gives the supervisor its plugins, tells it which sessions start
//! and end, and hands over its shutdown: the sessions that are left then get their ends, and every
//! plugin is told inside a fixed time.
//!
//! ```
//! use session_supervisor::{EndReason, PluginSpec, SessionId, SessionSupervisor, Shutdown};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let audit = PluginSpec::per_session("audit", |event| async move {
//!     println!("{} {}", event.hook(), event.id());
//!     Ok(())
//! });
//! let supervisor = SessionSupervisor::builder().plugin(audit).start().await?;
//! // Each ends when its guard is dropped, whatever becomes of the code that has it.
//! let guard = supervisor.guard(SessionId::new("sess-1")?).await?;
//! let still_open = supervisor.guard(SessionId::new("sess-2")?).await?;
//! guard.finish(EndReason::Completed).await?;
//! let report = supervisor.shutdown(Shutdown::now()).await?;
//! assert_eq!((report.drain.sessions, report.drain.delivered), (1, 1));
//! assert_eq!(still_open.ended().await?, EndReason::Shutdown);
//! # Ok(())
//! # }
//! ```
//!
//! A plugin is a [closure](PluginSpec::per_session), a [`Plugin`], or an actor that handles
//! [`Deliver`]. A session is held by a [`SessionGuard`], or told of by
//! [`started`](SessionSupervisor::started) and [`ended`](SessionSupervisor::ended). How a service puts
//! all that together is in `docs/embedding.md`; what plugins are told, and how they should answer, in
//! `docs/hooks.md`; what is promised, in `docs/guarantees.md`.
//!
//! # Layout
//!
//! | module | what it is |
//! |---|---|
//! | `session`, `event`, `filter` | what everything speaks of |
//! | `ledger` | what has started, what has ended, and what each plugin is owed |
//! | `monitor` | what is counted, and what those who [watch](SessionSupervisor::watch) see |
//! | `plugin` | what a plugin is, and the built-in kinds |
//! | `registry` | [`SessionRegistry`]: who is active, and the one place where a session ends |
//! | `bus` | [`PluginBus`]: records events and has a lane per plugin |
//! | `shutdown` | [`ShutdownCoordinator`]: phases, cap and report of a stop |
//! | `supervisor` | [`SessionSupervisor`]: builder and handle |
//! | `web` | what a service on actix-web needs besides |
//! | `gateway` | the HTTP API over the handle |
//! | [`testing`] | for tests of plugins: recorders, gates, misbehaving plugins, a harness |
//! | `config`, `cli`, `telemetry` | the binary |

mod bus;
#[cfg(feature = "command")]
mod children;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[cfg(feature = "cli")]
mod config;
mod durability;
mod error;
mod event;
mod file_id;
mod filter;
#[cfg(feature = "gateway")]
mod gateway;
mod holder;
mod ledger;
mod monitor;
#[cfg(any(feature = "cli", feature = "sqlite"))]
mod nearest;
mod place;
mod plugin;
mod registry;
mod session;
mod shutdown;
mod state_dir;
mod supervisor;
#[cfg(feature = "cli")]
mod telemetry;
pub mod testing;
mod text;
#[cfg(feature = "actix-web")]
mod web;

pub use self::bus::{
    DeliveryState, PluginBus, PluginState, PluginStatus, PluginTest, RecordedEnds, Redelivered,
    SessionEnd, SessionStart, TestOutcome,
};
pub use self::durability::Durability;
pub use self::error::Error;
pub use self::event::{
    Acks, Deadline, Deliver, Event, EventId, Hook, Hooks, InstanceId, InvalidEventId, Lifecycle,
    OpenSession, Seq, WireEvent,
};
pub use self::filter::SessionFilter;
#[cfg(feature = "gateway")]
pub use self::gateway::{Access, Gateway, InvalidSecret, Scope, Secret, Token};
pub use self::holder::{DEFAULT_GRACE, HolderRecord, HolderStatus, LeaseState, MAX_TTL, MIN_TTL};
pub use self::ledger::{
    Append, Appended, Held, Intent, Ledger, LedgerError, LedgerFuture, MemoryLedger, Page, Parked,
    Position, Predecessor, Progress, Reclaimed, Recovery, SessionRecord,
};
#[cfg(feature = "sqlite")]
pub use self::ledger::{OpenError, SqliteLedger, Survey, SurveyedPlugin};
pub use self::monitor::{
    Counts, DeliveryCount, DeliveryNotice, DeliveryOutcome, DrainProgress, HistogramCounts,
    LaneProgress, PluginCounts, Refusal, Watched, Watcher,
};
#[cfg(feature = "command")]
pub use self::plugin::{CommandMode, CommandPlugin, CommandSettings};
pub use self::plugin::{
    DeliveryPolicy, Disabled, Down, LogPlugin, Panicked, PerSession, Plugin, PluginSpec,
};
#[cfg(feature = "sqlite")]
pub use self::plugin::{SqlPlugin, SqlSettings};
#[cfg(feature = "webhook")]
pub use self::plugin::{WebhookBody, WebhookPlugin, WebhookSettings};
pub use self::registry::{
    EndMatching, Ended, EndedMatching, EndedSession, ListSessions, Reconciled, SessionGuard,
    SessionRegistry, SessionState, Snapshot, Started, StartedSession, Touch,
};
pub use self::session::{
    End, EndDetails, EndReason, HolderId, Incarnation, InvalidField, MAX_DETAIL_BYTES,
    MAX_METADATA_BYTES, MAX_METADATA_DEPTH, MAX_NAME_BYTES, MAX_TEXT_BYTES, Metadata, NewSession,
    RunId, Session, SessionId, SessionKey,
};
pub use self::shutdown::{
    DrainReport, MIN_CAP, Outcome, PluginReport, RecoveryReport, Shutdown, ShutdownCoordinator,
    ShutdownNotice, ShutdownReport, StepOutcome, StepReport,
};
pub use self::state_dir::{StateDir, StateDirError};
pub use self::supervisor::{
    Builder, Hold, LiveSettings, ReloadState, Reloaded, SessionSupervisor, Threads,
};

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs the examples of the guide for plugin authors as tests.
#[cfg(all(doctest, feature = "command", feature = "sqlite", feature = "webhook"))]
#[doc = include_str!("../docs/hooks.md")]
struct HooksGuide;

/// Runs the examples of the guide for services as tests.
#[cfg(all(doctest, feature = "actix-web", feature = "sqlite"))]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingGuide;
