//! The supervisor on threads of its own, inside programs of every kind. In real time, since its
//! threads have clocks of their own.

use std::time::{Duration, Instant};

use session_supervisor::testing::{recorder, recorder_with};
use session_supervisor::{Error, Outcome, SessionSupervisor, Shutdown, Threads};

use futures_util::FutureExt as _;

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time, session};

const SHORT: Duration = Duration::from_millis(50);

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts, uses and stops a supervisor on threads of its own.
async fn live_a_life() {
    let (plugin, told) = recorder("p");
    let builder = SessionSupervisor::builder().plugin(plugin);
    let supervisor = builder.start().await.unwrap();
    supervisor.begin("A").await;
    assert_eq!(supervisor.active_ids().await, ["A"]);
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Clean);
    assert_eq!(told.lines(), ["session_start A", "session_end A shutdown"]);
}

#[test]
fn it_runs_inside_an_actix_system_and_does_not_stop_it() {
    actix::System::new().block_on(async {
        live_a_life().await;
        // A system that was stopped would run this no more.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        actix::spawn(async { sender.send(()).unwrap() });
        receiver.await.unwrap();
        live_a_life().await;
    });
}

#[tokio::test]
async fn it_runs_inside_a_tokio_runtime_of_one_thread() {
    live_a_life().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_inside_a_tokio_runtime_of_several_threads() {
    tokio::spawn(live_a_life()).await.unwrap();
}

#[tokio::test]
async fn several_run_side_by_side() {
    futures_util::future::join_all((0..4).map(|_| live_a_life())).await;
}

#[tokio::test]
async fn a_thread_of_the_caller_that_blocks_does_not_hold_the_shutdown_up() {
    let (plugin, told) = recorder("p");
    let builder = SessionSupervisor::builder().plugin(plugin);
    let supervisor = builder.start().await.unwrap();
    supervisor.begin("A").await;
    let shutdown = supervisor.coordinator().send(Shutdown::now());
    // This blocks the only thread of the caller's runtime.
    let until = Instant::now() + Duration::from_secs(30);
    while told.ends().is_empty() {
        assert!(Instant::now() < until, "the drain waits for the caller");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(shutdown.await.is_ok());
}

#[tokio::test]
async fn a_handle_that_outlives_its_supervisor_says_so() {
    let supervisor = SessionSupervisor::builder().start().await.unwrap();
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert!(!supervisor.is_ready());
    let refused = supervisor.started(session("A")).await;
    assert!(matches!(refused, Err(Error::ShuttingDown | Error::Stopped)));
    // Asking again answers the report that there is.
    let again = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(again, report);
}

#[tokio::test]
async fn a_directory_is_all_that_a_durable_supervisor_needs() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let first = SessionSupervisor::builder().durable(&state).unwrap();
    let first = first.start().await.unwrap();
    first.begin("A").await;
    let Err(Error::State(problem)) = SessionSupervisor::builder().durable(&state) else {
        panic!("two have it");
    };
    assert!(problem.contains("is in use by"), "{problem}");
    let report = first.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Clean);
    drop(first);

    let until = Instant::now() + Duration::from_secs(30);
    let builder = loop {
        match SessionSupervisor::builder().durable(&state) {
            Ok(builder) => break builder,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let next = builder.start().await.unwrap();
    assert!(next.recovery().predecessor.is_some());
    next.shutdown(Shutdown::now()).await.unwrap();
    assert!(state.join("last-shutdown.json").exists());
}

#[tokio::test]
async fn settings_that_can_not_work_are_refused() {
    let (one, _) = recorder("same");
    let (other, _) = recorder("same");
    let twins = SessionSupervisor::builder().plugin(one).plugin(other);
    let millis = Duration::from_millis;
    let hasty = SessionSupervisor::builder().cap(millis(99));
    let greedy = SessionSupervisor::builder().lifecycle_timeout(millis(501));
    for (builder, expected) in [
        (twins, "two plugins are named `same`"),
        (hasty, "the cap must be at least 100ms"),
        (greedy, "at most a quarter of the cap"),
    ] {
        let Err(Error::Settings(problem)) = builder.start().await else {
            panic!("accepted, though {expected}");
        };
        assert!(problem.contains(expected), "{problem}");
    }
}

#[tokio::test]
async fn a_delivery_that_its_thread_ends_before_ours_has_timed_out_all_the_same() {
    // Long enough that lanes on a machine with other work answer between the cut and the cap.
    let mut builder = SessionSupervisor::builder().cap(Duration::from_secs(1));
    for n in 0..8 {
        let (plugin, _) = recorder_with(format!("p{n}"), |_| std::future::pending());
        builder = builder.plugin(plugin);
    }
    let supervisor = builder.start().await.unwrap();
    supervisor.begin("A").await;
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    for plugin in &report.plugins {
        assert_eq!(plugin.last_error.as_deref(), Some("timed out"));
        assert!(plugin.timed_out);
    }
}

#[tokio::test]
async fn a_teardown_step_that_blocks_its_thread_keeps_no_later_one_from_running() {
    let builder = SessionSupervisor::builder().teardown(Duration::from_millis(400));
    let (sender, ran) = tokio::sync::oneshot::channel();
    let builder = builder
        .teardown_step("blocks", || async {
            std::thread::sleep(Duration::from_secs(1));
            Ok(())
        })
        .teardown_step("later", move || async move {
            let _ = sender.send(());
            Ok(())
        });
    let supervisor = builder.start().await.unwrap();
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.warnings, ["blocks"]);
    ran.await.unwrap();
}

#[test]
fn a_supervisor_whose_system_was_stopped_by_somebody_else_says_so() {
    let system = actix::System::new();
    let builder = SessionSupervisor::builder().threads(Threads::Current);
    let supervisor = system.block_on(builder.start()).unwrap();
    drop(system);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let answer = runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(5), supervisor.shutdown(Shutdown::now())).await
    });
    assert!(matches!(answer, Ok(Err(Error::Stopped))), "{answer:?}");
}

#[tokio::test]
async fn dropping_the_handle_stops_nothing() {
    let (plugin, told) = recorder_with("p", |_| tokio::time::sleep(SHORT).map(Ok));
    let supervisor = SessionSupervisor::builder().plugin(plugin);
    let supervisor = supervisor.start().await.unwrap();
    supervisor.begin("A").await;
    told.wait_for(1).await;
    supervisor.begin("B").await;
    drop(supervisor);
    told.wait_for(2).await;
}

#[test]
fn dropping_the_handle_stops_nothing_on_the_callers_arbiter_either() {
    in_virtual_time(async |_| {
        let (plugin, told) = recorder_with("p", |_| tokio::time::sleep(SHORT).map(Ok));
        let supervisor = builder().plugin(plugin).start().await.unwrap();
        supervisor.begin("A").await;
        told.wait_for(1).await;
        supervisor.begin("B").await;
        drop(supervisor);
        tokio::time::sleep(10 * SHORT).await;
        assert_eq!(told.lines().len(), 2);
    });
}

#[tokio::test]
async fn times_that_nobody_can_wait_for_are_refused() {
    let endless = Duration::MAX;
    let (plugin, _) = recorder("p");
    let mut policy = plugin.policy().clone();
    policy.timeout = endless;
    for builder in [
        SessionSupervisor::builder().cap(endless),
        SessionSupervisor::builder().teardown(endless),
        SessionSupervisor::builder().plugin(plugin.with_policy(policy)),
    ] {
        let refused = builder.start().await.err();
        assert!(matches!(refused, Some(Error::Settings(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn an_actor_whose_thread_is_blocked_is_unresponsive_and_no_other_is() {
    for (call, actor) in [
        (Call::LastEnded, "registry"),
        (Call::Append, "bus"),
        (Call::Intend, "coordinator"),
    ] {
        let ledger = FaultyLedger::new();
        let builder = SessionSupervisor::builder().ledger(ledger.clone());
        let supervisor = builder.start().await.unwrap();
        assert!(supervisor.unresponsive(PATIENCE).await.is_empty());

        ledger.breaks(call, 0, Fault::Blocks(1500));
        let ask = async {
            match call {
                Call::LastEnded => drop(supervisor.find(&id("A")).await),
                Call::Append => drop(supervisor.started(session("A")).await),
                _ => drop(supervisor.shutdown(Shutdown::now()).await),
            }
        };
        let look = async {
            tokio::time::sleep(SHORT).await;
            supervisor.unresponsive(10 * SHORT).await
        };
        let ((), silent) = tokio::join!(ask, look);
        assert_eq!(silent, [actor]);
        ledger.heal();
        if !supervisor.is_stopping() {
            assert!(supervisor.unresponsive(PATIENCE).await.is_empty());
            supervisor.shutdown(Shutdown::now()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn whoever_waits_for_a_stop_hears_of_it_before_it_is_over() {
    let (heard, is_heard) = tokio::sync::oneshot::channel();
    let builder = SessionSupervisor::builder().teardown(PATIENCE);
    let builder = builder.teardown_step("until it is heard", || async { Ok(is_heard.await?) });
    let supervisor = builder.start().await.unwrap();
    assert!(supervisor.stopping().now_or_never().is_none());
    let stop = supervisor.shutdown(Shutdown::now());
    let hear = async {
        supervisor.stopping().await;
        assert!(supervisor.is_stopping());
        assert!(supervisor.stopped().now_or_never().is_none());
        heard.send(()).unwrap();
    };
    let (report, ()) = tokio::join!(stop, hear);
    assert_eq!(report.unwrap().outcome, Outcome::Clean);
    // It has been asked for since.
    supervisor.stopping().await;
}
