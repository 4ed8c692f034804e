//! What holds when the ledger fails or hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use session_supervisor::testing::{Harness, Recording, recorder, recorder_with};
use session_supervisor::{
    EndReason, Ended, Error, Hook, Hooks, Ledger as _, Outcome, Shutdown, ShutdownReport, Started,
};
use tokio::time::{Instant, sleep};

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time, session_with_key};

/// More than are recorded in one step.
const MANY: usize = 5000;

/// How many ends each session was told.
fn ends_per_session(told: &Recording) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for end in told.ends() {
        let id = end.split(' ').next().unwrap().to_owned();
        *ends.entry(id).or_default() += 1;
    }
    ends
}

fn assert_sum(report: &ShutdownReport) {
    let drain = &report.drain;
    let sum = drain.delivered + drain.owed + drain.dead + drain.lost;
    assert_eq!(
        drain.sessions * report.plugins.len() as u64,
        sum,
        "{drain:?}"
    );
    for plugin in &report.plugins {
        let sum = plugin.delivered + plugin.owed + plugin.dead + plugin.lost;
        assert_eq!(drain.sessions, sum, "{plugin:?}");
    }
}

#[test]
fn g1_ends_that_were_recorded_in_part_are_not_recorded_again() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::new(), recorder("p"));
        let builder = builder().idle_after(Duration::from_secs(60));
        let supervisor = harness
            .start(builder.plugin(plugin).ledger(ledger.clone()))
            .await;
        for n in 0..MANY {
            supervisor.begin(&format!("s{n}")).await;
        }
        // Of the ends of all, the first part is recorded and the second is not.
        ledger.breaks(Call::Append, 1, Fault::Fails);
        sleep(Duration::from_secs(64)).await;
        let left = supervisor.active_ids().await.len();
        assert!(left > 0 && left < MANY, "{left}");
        ledger.heal();
        sleep(Duration::from_secs(10)).await;
        assert!(supervisor.active_ids().await.is_empty());
        let ends = ends_per_session(&told);
        assert_eq!(ends.len(), MANY);
        assert!(ends.values().all(|&ends| ends == 1));
    });
}

#[test]
fn g9_ends_of_a_drain_that_were_recorded_in_part_are_counted_for_what_they_are() {
    for fault in [Fault::Fails, Fault::Hangs] {
        in_virtual_time(async move |harness| {
            let (ledger, (plugin, told)) = (FaultyLedger::new(), recorder("p"));
            let supervisor = harness
                .start(builder().plugin(plugin).ledger(ledger.clone()))
                .await;
            for n in 0..MANY {
                supervisor.begin(&format!("s{n}")).await;
            }
            ledger.breaks(Call::Append, 1, fault);
            let began = Instant::now();
            let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
            assert!(began.elapsed() <= Duration::from_secs(2));
            assert_sum(&report);
            let told = ends_per_session(&told).len() as u64;
            assert!(told > 0);
            assert_eq!(
                (report.drain.delivered, report.drain.sessions),
                (told, MANY as u64)
            );
            assert_eq!(report.plugins[0].unfinished.len(), MANY - told as usize);
            assert_eq!(report.warnings, ["ledger"]);
            assert_eq!((report.outcome, report.exit_code), (Outcome::Lost, 3));
        });
    }
}

#[test]
fn g4_a_ledger_that_hangs_costs_the_drain_no_more_than_its_patience() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::durable(), recorder("p"));
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        supervisor.begin("A").await;
        ledger.breaks(Call::Append, 0, Fault::Hangs);
        let began = Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(
            began.elapsed() <= Duration::from_millis(260),
            "{:?}",
            began.elapsed()
        );
        assert_sum(&report);
        assert_eq!(told.ends(), ["A shutdown"], "told, though not recorded");
        assert_eq!(report.warnings, ["ledger"]);
        assert_eq!((report.outcome, report.exit_code), (Outcome::Lost, 3));
    });
}

#[test]
fn ends_that_are_not_recorded_are_told_once_and_none_before_its_start() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::durable();
        let (plugin, told) = recorder_with("p", |event| async move {
            let id = event.session().map(|session| session.id.to_string());
            let is_start = event.hook() == Hook::SessionStart;
            anyhow::ensure!(!(is_start && id.as_deref() == Some("A")), "no A");
            anyhow::ensure!(is_start || id.as_deref() != Some("B"), "no end of B");
            Ok(())
        });
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        for id in ["A", "B", "C"] {
            supervisor.begin(id).await;
        }
        told.wait_for(3).await;
        sleep(Duration::from_millis(10)).await;
        ledger.breaks(Call::Append, 0, Fault::Fails);
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_sum(&report);
        assert_eq!(told.ends(), ["B shutdown", "C shutdown"]);
        let plugin = &report.plugins[0];
        assert_eq!((plugin.delivered, plugin.lost), (1, 2));
        assert_eq!(plugin.unfinished, [id("A"), id("B")]);
        assert_eq!(plugin.last_error.as_deref(), Some("no end of B"));
        assert_eq!((report.outcome, report.exit_code), (Outcome::Lost, 3));
    });
}

#[test]
fn g4_what_a_slow_ledger_has_recorded_in_time_is_delivered_and_the_rest_is_told() {
    const STEPS: usize = 8;
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::durable(), recorder("p"));
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        let sessions = STEPS * 4096;
        for n in 0..sessions {
            supervisor.begin(&format!("s{n}")).await;
        }
        told.wait_for(sessions).await;
        // Never late, but slow: recording all would take until the cap.
        ledger.breaks(Call::Append, 0, Fault::Slow(240));
        let began = Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(2));
        assert_sum(&report);
        assert_eq!(told.ends().len(), sessions);
        let plugin = &report.plugins[0];
        assert_eq!((plugin.delivered, plugin.lost), (sessions as u64, 0));
        assert_eq!(report.warnings, ["ledger"]);
        assert_eq!((report.outcome, report.exit_code), (Outcome::Lost, 3));
    });
}

#[test]
fn g7_the_reason_of_a_stop_is_on_record_before_anybody_is_told() {
    for (fault, told_after) in [(Fault::Fails, 0), (Fault::Hangs, 250)] {
        in_virtual_time(async move |harness| {
            let ledger = FaultyLedger::durable();
            let times = Arc::new(Mutex::new(Vec::new()));
            let heard = Arc::clone(&times);
            let (plugin, _) = recorder_with("p", move |_| {
                heard.lock().unwrap().push(Instant::now());
                async { Ok(()) }
            });
            let plugin = plugin.with_hooks(
                Hooks::NONE
                    .with(Hook::SessionEnd)
                    .with(Hook::GatewayShutdown),
            );
            let supervisor = harness
                .start(builder().plugin(plugin).ledger(ledger.clone()))
                .await;
            supervisor.begin("A").await;
            ledger.breaks(Call::Intend, 0, fault);
            let asked_at = Instant::now();
            let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
            let times = times.lock().unwrap().clone();
            assert_eq!(times.len(), 2);
            let patience = Duration::from_millis(told_after);
            assert!(
                times.iter().all(|at| *at - asked_at >= patience),
                "{times:?}"
            );
            assert_eq!(report.warnings, ["ledger"]);
            assert_eq!((report.outcome, report.exit_code), (Outcome::Clean, 0));
        });
    }
}

#[test]
fn g10_a_ledger_that_hangs_on_an_end_makes_no_clean_stop() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, _)) = (FaultyLedger::durable(), recorder("p"));
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        supervisor.begin("A").await;
        ledger.breaks(Call::Append, 0, Fault::Hangs);
        let end = supervisor.ended(Ended::new(id("A"), EndReason::Completed));
        let (end, report) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(1), end), async {
                sleep(Duration::from_millis(1)).await;
                supervisor.shutdown(Shutdown::now()).await.unwrap()
            });
        assert!(end.is_err());
        assert_eq!(report.warnings, ["ledger"]);
        assert_eq!((report.outcome, report.exit_code), (Outcome::Lost, 3));
        ledger.heal();
    });
}

#[test]
fn g10_an_end_that_fails_after_the_snapshot_is_made_up_for_by_the_shutdown() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let supervisor = harness.start(builder().ledger(ledger.clone())).await;
        supervisor
            .started(session_with_key("A", "k"))
            .await
            .unwrap();
        // The successor's start hangs before it is recorded, and then is refused.
        ledger.breaks(Call::LastEnded, 0, Fault::Hangs);
        let successor = supervisor.started(session_with_key("B", "k"));
        let (successor, report) = tokio::join!(successor, async {
            sleep(Duration::from_millis(1)).await;
            let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
            ledger.heal();
            ledger.breaks(Call::Append, 0, Fault::FailsOnce);
            report
        });
        assert!(successor.is_err());
        assert_eq!(report.warnings, ["ledger"]);
        assert_eq!(report.outcome, Outcome::Lost);
        sleep(Duration::from_millis(10)).await;
        let known = supervisor.find(&id("A")).await.unwrap().unwrap();
        let (end, _) = known.end.expect("it has ended");
        assert_eq!(end.reason, EndReason::Shutdown);
        assert!(supervisor.active_ids().await.is_empty());
    });
}

#[test]
fn a_start_and_the_end_that_it_causes_fail_together() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::new(), recorder("p"));
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        supervisor
            .started(session_with_key("A", "k"))
            .await
            .unwrap();
        ledger.breaks(Call::Append, 0, Fault::Fails);
        let failed = supervisor.started(session_with_key("B", "k")).await;
        assert!(matches!(failed, Err(Error::Ledger(_))));
        let failed = supervisor
            .ended(Ended::new(id("A"), EndReason::Closed))
            .await;
        assert!(matches!(failed, Err(Error::Ledger(_))));
        assert_eq!(supervisor.active_ids().await, ["A"]);
        ledger.heal();
        supervisor
            .started(session_with_key("B", "k"))
            .await
            .unwrap();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(report.outcome, Outcome::Clean);
        assert_eq!(told.ends(), ["A replaced", "B shutdown"]);
    });
}

#[test]
fn successors_under_way_do_not_count_beside_those_whose_places_they_take() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder().max_active(2)).await;
        for (id, key) in [("A", "k1"), ("B", "k2")] {
            supervisor.started(session_with_key(id, key)).await.unwrap();
        }
        let (first, second) = tokio::join!(
            supervisor
                .registry()
                .send(Started(session_with_key("C", "k1"))),
            supervisor
                .registry()
                .send(Started(session_with_key("D", "k2"))),
        );
        first.unwrap().unwrap();
        second.unwrap().unwrap();
        assert_eq!(supervisor.active_ids().await, ["C", "D"]);
    });
}

#[test]
fn g3_a_key_that_a_session_gives_up_is_free_for_messages_that_come_after() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let supervisor = harness.start(builder().ledger(ledger.clone())).await;
        supervisor
            .started(session_with_key("A", "k1"))
            .await
            .unwrap();
        ledger.breaks(Call::Append, 0, Fault::Hangs);
        let registry = supervisor.registry();
        let (first, second, third, ()) = tokio::join!(
            // Keeps the second waiting.
            registry.send(Started(session_with_key("X", "k2"))),
            registry.send(Started(session_with_key("A", "k2"))),
            registry.send(Started(session_with_key("B", "k1"))),
            async {
                sleep(Duration::from_millis(10)).await;
                ledger.heal();
            }
        );
        first.unwrap().unwrap();
        let second = second.unwrap().unwrap();
        assert_eq!((second.is_new, second.replaced), (false, Some(id("X"))));
        assert_eq!(third.unwrap().unwrap().replaced, None);
        assert_eq!(supervisor.active_ids().await, ["A", "B"]);
    });
}

#[test]
fn a_crowd_that_wants_one_key_is_served_in_time_that_grows_with_it() {
    // In real time: what is measured is the registry's own work.
    Harness::run(async |harness| {
        let supervisor = harness.start(builder()).await;
        let mut took = Vec::new();
        for size in [500, 4000] {
            let began = std::time::Instant::now();
            let starts = (0..size).map(|n| {
                let new = session_with_key(&format!("s{n}"), "k");
                supervisor.registry().send(Started(new))
            });
            for answer in futures_util::future::join_all(starts).await {
                answer.unwrap().unwrap();
            }
            took.push(began.elapsed());
        }
        assert!(took[1] < 30 * took[0], "{took:?}");
    });
}

#[test]
fn g5_a_lane_that_can_not_count_its_backlog_takes_no_other_report_with_it() {
    for cap in [120, 500, 2000].map(Duration::from_millis) {
        in_virtual_time(async move |harness| {
            let ledger = FaultyLedger::new();
            let (hanging, _) = recorder_with("hangs", |_| std::future::pending());
            let (good, told) = recorder("good");
            let mut policy = hanging.policy().clone();
            policy.max_batch = 1;
            let plugins = builder()
                .cap(cap)
                .plugin(hanging.with_policy(policy))
                .plugin(good);
            let supervisor = harness.start(plugins.ledger(ledger.clone())).await;
            for n in 0..3 {
                supervisor.begin(&format!("s{n}")).await;
            }
            told.wait_for(3).await;
            let began = Instant::now();
            let broken = ledger.clone();
            let (report, ()) = tokio::join!(supervisor.shutdown(Shutdown::now()), async {
                sleep(cap / 2).await;
                broken.breaks(Call::Read, 0, Fault::Hangs);
            });
            let report = report.unwrap();
            assert!(began.elapsed() <= cap);
            assert_sum(&report);
            let good = &report.plugins[1];
            assert_eq!((good.delivered, good.timed_out), (3, false), "{cap:?}");
            assert_eq!(report.plugins[0].owed_before, 3);
        });
    }
}

#[test]
fn a_ledger_that_failed_just_before_the_drain_is_asked_again_at_once() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::new(), recorder("p"));
        let ends_only = plugin.with_hooks(Hooks::NONE.with(Hook::SessionEnd));
        let cap = Duration::from_millis(500);
        let plugins = builder().cap(cap).plugin(ends_only).ledger(ledger.clone());
        let supervisor = harness.start(plugins).await;
        ledger.breaks(Call::Read, 0, Fault::Fails);
        supervisor.begin("A").await;
        sleep(Duration::from_millis(10)).await;
        ledger.heal();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(told.ends(), ["A shutdown"]);
        assert_eq!(report.outcome, Outcome::Clean);
    });
}

#[test]
fn the_log_may_be_ahead_of_what_lanes_are_told() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::new(), recorder("p"));
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        // Lanes are told of the first when the second is in the log.
        ledger.breaks(Call::Append, 0, Fault::Slow(10));
        let behind = async {
            while ledger.head() == 0 {
                tokio::task::yield_now().await;
            }
            ledger.breaks(Call::Append, 0, Fault::Hangs);
            supervisor.begin("B").await;
        };
        let (_, _, ()) = tokio::join!(supervisor.begin("A"), behind, async {
            told.wait_for(2).await;
            sleep(Duration::from_millis(1)).await;
            assert_eq!(supervisor.plugins().await.unwrap()[0].owed, 0);
            ledger.heal();
        });
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(told.ends(), ["A shutdown", "B shutdown"]);
    });
}

#[test]
fn one_of_thousands_of_starts_that_the_ledger_refuses_leaves_the_others_alone() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let supervisor = harness.start(builder().ledger(ledger.clone())).await;
        let start_all = || {
            let starts = (0..3_000).map(|n| format!("s{n}"));
            join_all(starts.map(async |name| {
                let started = supervisor.started(crate::support::session(&name)).await;
                started.map(|_| ()).map_err(|_| name)
            }))
        };
        ledger.breaks(Call::Append, 1_500, Fault::FailsOnce);
        let refused: Vec<_> = start_all()
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(supervisor.active_sessions().await.unwrap(), 2_999);
        // Nothing of it is left behind: not its id, nor its place.
        supervisor.begin(&refused[0]).await;
        let ids = supervisor.snapshot().await.unwrap();
        let ids: BTreeSet<_> = ids.iter().map(|session| session.id.clone()).collect();
        assert_eq!(ids.len(), 3_000);
    });
}

#[test]
fn a_look_up_that_fails_for_one_of_thousands_of_starts_is_made_again_for_each() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let supervisor = harness.start(builder().ledger(ledger.clone())).await;
        ledger.breaks(Call::LastEnded, 700, Fault::FailsOnce);
        let starts = (0..1_000).map(|n| format!("s{n}"));
        let started = join_all(starts.map(async |name| {
            supervisor
                .started(crate::support::session(&name))
                .await
                .is_ok()
        }));
        assert!(started.await.into_iter().all(|is_ok| is_ok));
    });
}

#[test]
fn g9_what_is_recorded_between_the_ends_of_a_drain_is_not_counted_among_them() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, told)) = (FaultyLedger::new(), recorder("p"));
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        let many = 2 * MANY;
        for n in 0..many {
            supervisor.begin(&format!("s{n}")).await;
        }
        // A start that is late, and comes between two of the steps in which the ends are recorded.
        ledger.breaks(Call::LastEnded, 0, Fault::Hangs);
        let late = supervisor.started(crate::support::session("late"));
        let (late, report, ()) = tokio::join!(
            late,
            async {
                sleep(Duration::from_millis(1)).await;
                ledger.breaks(Call::Append, 1, Fault::Hangs);
                supervisor.shutdown(Shutdown::now()).await.unwrap()
            },
            async {
                sleep(Duration::from_millis(400)).await;
                ledger.heal();
            }
        );
        assert!(late.is_err());
        assert_sum(&report);
        let told = told
            .ends()
            .iter()
            .filter(|end| !end.starts_with("late"))
            .count();
        assert_eq!(
            (told, report.drain.sessions, report.drain.delivered),
            (many, many as u64, many as u64)
        );
    });
}
