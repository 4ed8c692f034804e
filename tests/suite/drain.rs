//! The session-end drain: scenarios D1 to D8.

use std::time::Duration;

use session_supervisor::testing::{gated, recorder, recorder_with};
use session_supervisor::{EndReason, Hook, Hooks, Outcome, Shutdown};

use crate::support::{Shorthand, builder, id, in_virtual_time};

const SHORT_CAP: Duration = Duration::from_millis(120);

#[test]
fn d1_nothing_active_and_nothing_owed_drains_without_a_call() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(report.drain.sessions, 0);
        assert!(!report.drain.timed_out);
        assert!(told.lines().is_empty());
    });
}

#[test]
fn d2_each_session_gets_exactly_one_end_and_a_second_drain_does_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        supervisor.begin("B").await;
        let first = supervisor.shutdown(Shutdown::now()).await.unwrap();
        let second = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(told.ends(), ["A shutdown", "B shutdown"]);
        assert_eq!((first.drain.sessions, first.drain.delivered), (2, 2));
        assert_eq!(first.outcome, Outcome::Clean);
        assert_eq!(first, second);
    });
}

#[test]
fn d3_a_planned_restart_is_the_reason() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let restart = Shutdown::for_restart(Duration::ZERO);
        supervisor.shutdown(restart).await.unwrap();
        assert_eq!(told.ends(), ["A restart"]);
    });
}

#[test]
fn d4_a_session_that_has_ended_before_is_not_ended_again() {
    for reason in [EndReason::Reset, EndReason::Deleted, EndReason::Compaction] {
        in_virtual_time(async |harness| {
            let (plugin, told) = recorder("p");
            let supervisor = harness.start(builder().plugin(plugin)).await;
            supervisor.begin("A").await;
            supervisor.begin("B").await;
            supervisor.finish("A", reason).await;
            let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
            assert_eq!(told.ends(), [format!("A {reason}"), "B shutdown".into()]);
            assert_eq!(report.drain.sessions, 1);
        });
    }
}

#[test]
fn d5_the_drain_is_not_complete_before_the_handler_is() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated("p", Hook::SessionEnd);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let shutdown = supervisor.shutdown(Shutdown::now());
        tokio::pin!(shutdown);
        let soon = Duration::from_millis(500);
        let early = tokio::time::timeout(soon, &mut shutdown).await;
        assert!(early.is_err(), "drained while the handler was at work");

        gate.open();
        let report = shutdown.await.unwrap();
        assert!(!report.drain.timed_out);
        assert_eq!(report.drain.delivered, 1);
        assert_eq!(told.ends(), ["A shutdown"]);
    });
}

#[test]
fn d6_a_handler_that_never_returns_is_called_once_and_times_out() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder_with("p", |event| async move {
            if event.hook() == Hook::SessionEnd {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        let supervisor = harness.start(builder().plugin(plugin).cap(SHORT_CAP)).await;
        supervisor.begin("A").await;
        let began = tokio::time::Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(began.elapsed() <= SHORT_CAP, "took {:?}", began.elapsed());
        assert!(report.drain.timed_out);
        assert_eq!(told.ends(), ["A shutdown"]);
        let plugin = &report.plugins[0];
        assert_eq!(plugin.unfinished, [id("A")]);
        assert_eq!(plugin.last_error.as_deref(), Some("timed out"));
    });
}

#[test]
fn d7_the_session_whose_handler_returns_is_told_beside_one_whose_handler_never_does() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder_with("p", |event| async move {
            let hangs = event.session().is_some_and(|it| it.id.as_str() == "A");
            if event.hook() == Hook::SessionEnd && hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        let supervisor = harness.start(builder().plugin(plugin).cap(SHORT_CAP)).await;
        supervisor.begin("A").await;
        supervisor.begin("B").await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(report.drain.timed_out);
        assert_eq!(told.ends(), ["A shutdown", "B shutdown"]);
        assert_eq!(report.plugins[0].unfinished, [id("A")]);
        assert_eq!(report.plugins[0].delivered, 1);
    });
}

#[test]
fn d8_without_a_listener_a_session_ends_all_the_same_and_the_drain_emits_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let starts_only = plugin.with_hooks(Hooks::NONE.with(Hook::SessionStart));
        let supervisor = harness.start(builder().plugin(starts_only)).await;
        supervisor.begin("A").await;
        supervisor.begin("B").await;
        supervisor.finish("A", EndReason::Deleted).await;
        assert_eq!(supervisor.active_ids().await, ["B"]);
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!((report.drain.sessions, report.drain.delivered), (1, 0));
        assert_eq!(report.outcome, Outcome::Clean);
        assert_eq!(told.lines(), ["session_start A", "session_start B"]);
    });
}

#[test]
fn g5_a_session_that_hangs_holds_up_no_later_one() {
    in_virtual_time(async |harness| {
        // In the first of many deliveries.
        let (plugin, told) = recorder_with("p", |event| async move {
            let id = event.session().map(|session| session.id.to_string());
            if event.hook() == Hook::SessionEnd && id.as_deref() == Some("s0") {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        let supervisor = harness.start(builder().plugin(plugin)).await;
        for number in 0..2_000 {
            supervisor.begin(&format!("s{number}")).await;
        }
        told.wait_for(2_000).await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        let plugin = &report.plugins[0];
        assert_eq!(plugin.delivered, 1_999);
        assert_eq!(plugin.unfinished, [id("s0")]);
        assert!(report.drain.timed_out);
    });
}
