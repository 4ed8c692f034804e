//! For tests of plugins, and of programs that hold a supervisor: what this crate's own tests use.
//!
//! | | what it is |
//! |---|---|
//! | [`Harness`] | starts supervisors on the test's own thread, and fails when one of their actors outlives them |
//! | [`Recording`], [`recorder`], [`recorder_with`], [`Recorder`] | plugins that record what they are told |
//! | [`Gate`], [`gated`] | a plugin that waits until the test lets it go on |
//! | [`Misbehaviour`] | plugins that do everything that a plugin should not |
//! | [`in_time`] | a limit for whatever a test waits for |
//!
//! A test can run in virtual time: `tokio::time::pause`, which is there with the feature `test-util` of
//! tokio, stops the clock of the test's thread, and it then jumps ahead whenever everyone waits. Time-outs,
//! backoff and the cap take no time to test, and nothing depends on how busy the machine is.
//!
//! ```
//! use session_supervisor::testing::{Harness, Misbehaviour, recorder};
//! use session_supervisor::{NewSession, SessionId, SessionSupervisor, Shutdown};
//!
//! // A plugin that hangs keeps no other from its ends, and is named in the report.
//! Harness::run(async |harness| {
//!     tokio::time::pause();
//!     let (audit, told) = recorder("audit");
//!     let builder = SessionSupervisor::builder()
//!         .plugin(audit)
//!         .plugin(Misbehaviour::Hangs.plugin("crm"));
//!     let supervisor = harness.start(builder).await;
//!     let session = NewSession::new(SessionId::new("sess-1").unwrap());
//!     supervisor.started(session).await.unwrap();
//!
//!     let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
//!     assert_eq!(told.lines(), ["session_start sess-1", "session_end sess-1 shutdown"]);
//!     assert!(report.duration_ms <= 2_000);
//!     assert_eq!(report.plugins[1].name, "crm");
//!     assert_eq!(report.plugins[1].unfinished[0].as_str(), "sess-1");
//! });
//! ```
//!
//! Everything in here panics where a test has to fail.

mod gate;
mod harness;
mod misbehaviour;
mod recording;

pub use self::gate::{Gate, gated};
pub use self::harness::{Harness, in_time};
pub use self::misbehaviour::Misbehaviour;
pub use self::recording::{Recorder, Recording, line, recorder, recorder_with};
