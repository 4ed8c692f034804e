//! The phases of a shutdown around the drain: scenarios C1 to C5 and N1 to N6.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_supervisor::testing::{recorder, recorder_with};
use session_supervisor::{
    EndReason, Hook, Hooks, Outcome, PluginSpec, Shutdown, ShutdownReport, StepOutcome,
};
use tokio::time::Instant;

use crate::support::{Shorthand, builder, in_virtual_time};

const SHORT_CAP: Duration = Duration::from_millis(120);

/// A plugin that never answers `hook`, and whatever else at once.
fn hangs_on(hook: Hook) -> PluginSpec {
    let (plugin, _) = recorder_with("hangs", move |event| async move {
        if event.hook() == hook {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    plugin.with_hooks(Hooks::ALL)
}

fn step(report: &ShutdownReport, name: &str) -> StepOutcome {
    let step = report.steps.iter().find(|step| step.name == name);
    step.unwrap_or_else(|| panic!("no step `{name}`")).outcome
}

#[test]
fn c1_closing_without_a_restart_time_drains_once_for_shutdown() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let sigterm = Shutdown::now().with_trigger("SIGTERM");
        let report = supervisor.shutdown(sigterm).await.unwrap();
        assert_eq!(report.reason, EndReason::Shutdown);
        assert_eq!(report.restart_expected_ms, None);
        assert_eq!(report.trigger, "SIGTERM");
        assert_eq!(told.ends(), ["A shutdown"]);
    });
}

#[test]
fn c2_closing_with_a_restart_time_drains_once_for_restart() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let restart = Shutdown::for_restart(Duration::from_millis(1234));
        let report = supervisor.shutdown(restart).await.unwrap();
        assert_eq!(report.reason, EndReason::Restart);
        assert_eq!(report.restart_expected_ms, Some(1234));
        assert_eq!(told.ends(), ["A restart"]);
    });
}

#[test]
fn c3_a_drain_that_times_out_is_a_warning_and_later_steps_run() {
    in_virtual_time(async |harness| {
        let plugin = hangs_on(Hook::SessionEnd);
        let supervisor = harness.start(builder().plugin(plugin).cap(SHORT_CAP)).await;
        let ran = Arc::new(AtomicBool::new(false));
        let runs = Arc::clone(&ran);
        supervisor.add_teardown_step("later", move || async move {
            runs.store(true, Ordering::SeqCst);
            Ok(())
        });
        supervisor.begin("A").await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(report.warnings, ["session-end-drain"]);
        assert_eq!(step(&report, "session-end-drain"), StepOutcome::TimedOut);
        assert_eq!(step(&report, "later"), StepOutcome::Ok);
        assert!(ran.load(Ordering::SeqCst));
    });
}

#[test]
fn c4_without_a_listener_for_ends_the_drain_is_no_warning() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder("p");
        let starts_only = plugin.with_hooks(Hooks::NONE.with(Hook::SessionStart));
        let supervisor = harness.start(builder().plugin(starts_only)).await;
        supervisor.begin("A").await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        assert_eq!(report.drain.sessions, 1);
    });
}

#[test]
fn c5_the_reason_is_right_and_the_warning_is_there_exactly_when_the_drain_timed_out() {
    for is_restart in [false, true] {
        for hangs in [false, true] {
            for sessions in [0, 3] {
                in_virtual_time(async |harness| {
                    let plugin = match hangs {
                        true => hangs_on(Hook::SessionEnd),
                        false => recorder("p").0,
                    };
                    let supervisor = harness.start(builder().plugin(plugin).cap(SHORT_CAP)).await;
                    for n in 0..sessions {
                        supervisor.begin(&format!("s{n}")).await;
                    }
                    let (shutdown, reason) = match is_restart {
                        true => {
                            let restart = Shutdown::for_restart(Duration::ZERO);
                            (restart, EndReason::Restart)
                        }
                        false => (Shutdown::now(), EndReason::Shutdown),
                    };
                    let report = supervisor.shutdown(shutdown).await.unwrap();
                    let times_out = hangs && sessions > 0;
                    assert_eq!(report.reason, reason);
                    assert_eq!(report.drain.timed_out, times_out);
                    let warned = report.warnings.contains(&"session-end-drain".into());
                    assert_eq!(warned, times_out);
                });
            }
        }
    }
}

#[test]
fn n1_closing_with_nothing_special_gives_no_warnings_and_a_duration() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        supervisor.add_teardown_step("slow", || async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Ok(())
        });
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(report.warnings.is_empty());
        assert_eq!(report.outcome, Outcome::Clean);
        assert!((30..1000).contains(&report.duration_ms));
    });
}

#[test]
fn n2_a_restart_fires_both_hooks_with_its_number() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness
            .start(builder().plugin(plugin.with_hooks(Hooks::ALL)))
            .await;
        supervisor.begin("A").await;
        let restart = Shutdown::for_restart(Duration::from_millis(123));
        supervisor.shutdown(restart).await.unwrap();
        let expected = [
            "gateway_start",
            "session_start A",
            "gateway_shutdown",
            "gateway_pre_restart",
            "session_end A restart",
        ];
        assert_eq!(told.lines(), expected);
        for event in told.events() {
            let Some(lifecycle) = event.lifecycle() else {
                continue;
            };
            if lifecycle.hook == Hook::GatewayStart {
                assert_eq!((lifecycle.reason, lifecycle.active_sessions), (None, 0));
                continue;
            }
            assert_eq!(lifecycle.restart_expected_ms, Some(123));
            assert_eq!(lifecycle.reason, Some(EndReason::Restart));
            assert_eq!(lifecycle.active_sessions, 1);
        }
    });
}

#[test]
fn n3_a_gateway_shutdown_hook_that_never_returns_is_a_warning_after_its_bound() {
    hook_that_never_returns(Hook::GatewayShutdown);
}

#[test]
fn n4_a_gateway_pre_restart_hook_that_never_returns_is_a_warning_after_its_bound() {
    hook_that_never_returns(Hook::GatewayPreRestart);
}

fn hook_that_never_returns(hook: Hook) {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness
            .start(builder().plugin(plugin).plugin(hangs_on(hook)))
            .await;
        supervisor.begin("A").await;
        let began = Instant::now();
        let restart = Shutdown::for_restart(Duration::ZERO);
        let report = supervisor.shutdown(restart).await.unwrap();
        // The bound of a hook is the lesser of 250 ms and a quarter of the cap.
        let bound = Duration::from_millis(250);
        assert!(began.elapsed() >= bound && began.elapsed() < 2 * bound);
        assert_eq!(report.warnings, [hook.as_str()]);
        assert_eq!(step(&report, hook.as_str()), StepOutcome::TimedOut);
        assert_eq!(told.ends(), ["A restart"]);
    });
}

#[test]
fn n5_two_of_five_teardown_steps_that_fail_are_the_warnings_and_the_others_run() {
    in_virtual_time(async |harness| {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let supervisor = harness.start(builder()).await;
        for name in ["one", "two", "three", "four", "five"] {
            let ran = ran.clone();
            supervisor.add_teardown_step(name, move || async move {
                match name {
                    "two" => anyhow::bail!("it is broken"),
                    // Takes all the time that it is given, which is not all that there is.
                    "four" => std::future::pending().await,
                    _ => {}
                }
                ran.lock().unwrap().push(name);
                Ok(())
            });
        }
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(report.warnings, ["two", "four"]);
        assert_eq!(*ran.lock().unwrap(), ["one", "three", "five"]);
        assert_eq!(step(&report, "two"), StepOutcome::Failed);
        assert_eq!(step(&report, "four"), StepOutcome::TimedOut);
    });
}

#[test]
fn n6_without_a_restart_time_the_reason_is_shutdown() {
    assert_eq!(Shutdown::now().reason(), EndReason::Shutdown);
    let at_once = Shutdown::for_restart(Duration::ZERO);
    assert_eq!(at_once.reason(), EndReason::Restart);
}

#[test]
fn a_second_request_joins_the_first_whatever_its_reason() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let (first, second) = tokio::join!(
            supervisor.coordinator().send(Shutdown::now()),
            supervisor
                .coordinator()
                .send(Shutdown::for_restart(Duration::ZERO)),
        );
        let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
        assert_eq!(first, second);
        assert_eq!(first.reason, EndReason::Shutdown);
        assert_eq!(told.ends(), ["A shutdown"]);
    });
}

#[test]
fn with_a_ledger_in_memory_what_is_not_delivered_is_lost() {
    in_virtual_time(async |harness| {
        let (good, _) = recorder("good");
        let supervisor = harness
            .start(
                builder()
                    .plugin(good)
                    .plugin(hangs_on(Hook::SessionEnd))
                    .cap(SHORT_CAP),
            )
            .await;
        supervisor.begin("A").await;
        supervisor.begin("B").await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!((report.outcome, report.exit_code), (Outcome::Lost, 3));
        let drain = &report.drain;
        assert_eq!((drain.sessions, drain.delivered), (2, 2));
        assert_eq!((drain.owed, drain.lost, drain.failed), (0, 2, 2));
        let names: Vec<_> = report.plugins.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["good", "hangs"]);
    });
}
