//! What is seen from outside: by those who watch, in counts, and in the age of what is owed.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use session_supervisor::testing::{gated, in_time, line, recorder, recorder_with};
use session_supervisor::{
    DeliveryOutcome, Down, EndReason, Error, Event, Hook, PluginSpec, Refusal, SessionSupervisor,
    Shutdown, Watched, Watcher,
};
use tokio::time::{Instant, sleep};

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, in_virtual_time, session};

const SECOND: Duration = Duration::from_secs(1);

/// A line for what is seen next, such as `"1 session_start A"` or `"delivery p ok 1"`.
async fn next(watcher: &mut Watcher) -> String {
    match in_time(watcher.next()).await.expect("the watcher goes on") {
        Watched::Event(event) => format!("{} {}", event.seq().unwrap(), line(&event)),
        Watched::Gap { after, next } => format!("gap {after} {next}"),
        Watched::Missed(count) => format!("missed {count}"),
        Watched::Delivery(told) => {
            format!(
                "delivery {} {} {}",
                told.plugin,
                told.outcome.as_str(),
                told.events
            )
        }
        Watched::Drain(drain) => {
            let lanes = drain.plugins.iter().map(|lane| {
                let done = if lane.done { " done" } else { "" };
                format!("{} {}/{}{done}", lane.name, lane.delivered, lane.total)
            });
            format!("drain {}", lanes.collect::<Vec<_>>().join(", "))
        }
        other => panic!("{other:?}"),
    }
}

/// The next lines, but for deliveries.
async fn sessions<const N: usize>(watcher: &mut Watcher) -> [String; N] {
    let mut lines = [const { String::new() }; N];
    for slot in &mut lines {
        *slot = next(watcher).await;
        while slot.starts_with("delivery") {
            *slot = next(watcher).await;
        }
    }
    lines
}

/// Nothing is left to see.
async fn assert_quiet(watcher: &mut Watcher) {
    let seen = tokio::time::timeout(SECOND, watcher.next()).await;
    assert!(seen.is_err(), "{seen:?}");
}

#[test]
fn a_watcher_sees_what_happens_from_now_on() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("before").await;
        sleep(SECOND).await;
        let mut watcher = supervisor.watch(None);
        assert_quiet(&mut watcher).await;
        supervisor.begin("A").await;
        let mut seen = [next(&mut watcher).await, next(&mut watcher).await];
        seen.sort();
        assert_eq!(seen, ["2 session_start A", "delivery p ok 1"]);
        supervisor.finish("A", EndReason::Completed).await;
        let seen = sessions(&mut watcher).await;
        assert_eq!(seen, ["3 session_end A completed"]);
    });
}

#[test]
fn a_watcher_goes_on_where_an_earlier_one_stopped() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        for id in ["A", "B", "C"] {
            supervisor.begin(id).await;
        }
        let mut first = supervisor.watch(Some(0));
        let seen = sessions(&mut first).await;
        assert_eq!(seen, ["1 session_start A", "2 session_start B"]);
        drop(first);
        supervisor.finish("B", EndReason::Idle).await;
        let mut second = supervisor.watch(Some(2));
        let seen = sessions(&mut second).await;
        assert_eq!(seen, ["3 session_start C", "4 session_end B idle"]);
        assert_quiet(&mut second).await;
    });
}

#[test]
fn what_the_ledger_keeps_no_longer_is_a_gap() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        for id in 0..20_000 {
            supervisor.begin(&id.to_string()).await;
        }
        let mut watcher = supervisor.watch(Some(7));
        let gap = next(&mut watcher).await;
        let oldest: u64 = gap.strip_prefix("gap 7 ").unwrap().parse().unwrap();
        assert!((8..20_000).contains(&oldest), "{gap}");
        let expected = format!("{oldest} session_start {}", oldest - 1);
        assert_eq!(next(&mut watcher).await, expected);
    });
}

#[test]
fn after_a_place_that_the_log_never_had_comes_all_that_it_has() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        let mut on_nothing = supervisor.watch(Some(4711));
        assert_eq!(next(&mut on_nothing).await, "gap 4711 1");
        supervisor.begin("A").await;
        assert_eq!(next(&mut on_nothing).await, "1 session_start A");

        let mut watcher = supervisor.watch(Some(2));
        let seen = sessions(&mut watcher).await;
        assert_eq!(seen, ["gap 2 1", "1 session_start A"]);
        assert_quiet(&mut watcher).await;
    });
}

#[test]
fn a_watcher_that_is_too_late_is_told_how_much_it_missed_and_goes_on() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let mut late = supervisor.watch(None).without_sessions();
        let deliveries = 1500;
        for id in 0..deliveries {
            supervisor.begin(&id.to_string()).await;
            told.wait_for(id + 1).await;
        }
        let missed = next(&mut late).await;
        let missed: usize = missed.strip_prefix("missed ").unwrap().parse().unwrap();
        let mut seen = 0;
        while seen + missed < deliveries {
            assert_eq!(next(&mut late).await, "delivery p ok 1");
            seen += 1;
        }
        assert!(seen >= 1000, "{seen}");
        assert_quiet(&mut late).await;
    });
}

#[test]
fn a_watcher_waits_for_a_ledger_that_fails_or_hangs_and_misses_nothing() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let supervisor = harness.start(builder().ledger(ledger.clone())).await;
        let mut watcher = supervisor.watch(None);
        ledger.breaks(Call::Read, 0, Fault::Fails);
        supervisor.begin("A").await;
        assert_quiet(&mut watcher).await;
        ledger.breaks(Call::Read, 0, Fault::Hangs);
        // Whoever waits may stop waiting, and ask again.
        assert_quiet(&mut watcher).await;
        assert_quiet(&mut watcher).await;
        ledger.heal();
        supervisor.begin("B").await;
        let seen = sessions(&mut watcher).await;
        assert_eq!(seen, ["1 session_start A", "2 session_start B"]);
    });
}

#[test]
fn a_drain_is_watched_until_every_lane_is_done() {
    in_virtual_time(async |harness| {
        let (quick, _) = recorder("quick");
        let (gated, _, gate) = gated("gated", Hook::SessionEnd);
        let (deaf, _) = recorder("deaf");
        let deaf = deaf.with_hooks([Hook::SessionStart].into_iter().collect());
        let plugins = builder().plugin(quick).plugin(gated).plugin(deaf);
        let supervisor = harness.start(plugins).await;
        for id in ["A", "B", "C"] {
            supervisor.begin(id).await;
        }
        sleep(SECOND).await;
        let mut watcher = supervisor.watch(None).without_sessions();
        let opens = async {
            sleep(SECOND / 2).await;
            gate.open();
        };
        let (report, ()) = tokio::join!(supervisor.shutdown(Shutdown::now()), opens);
        assert_eq!(report.unwrap().drain.delivered, 6);
        let mut drain = Vec::new();
        while drain
            .last()
            .is_none_or(|last: &String| !last.ends_with("gated 3/3 done"))
        {
            let seen = next(&mut watcher).await;
            if seen.starts_with("drain") {
                drain.push(seen);
            }
        }
        assert_eq!(drain[0], "drain quick 0/3, gated 0/3");
        let quick_done = "drain quick 3/3 done, gated 0/3".to_owned();
        assert!(drain.contains(&quick_done), "{drain:?}");
        assert!(drain.len() < 10, "{drain:?}");
    });
}

#[test]
fn progress_counts_what_was_acknowledged_and_nothing_else() {
    in_virtual_time(async |harness| {
        let (picky, _) = recorder_with("picky", |event: Event| async move {
            let is_bad = event.hook() == Hook::SessionEnd && line(&event).contains("bad");
            anyhow::ensure!(!is_bad, "no such customer");
            Ok(())
        });
        let supervisor = harness.start(builder().plugin(picky)).await;
        for id in ["A", "bad", "C"] {
            supervisor.begin(id).await;
        }
        sleep(SECOND).await;
        let mut watcher = supervisor.watch(None).without_sessions();
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let mut last = String::new();
        while !last.ends_with("done") {
            last = next(&mut watcher).await;
        }
        assert_eq!(last, "drain picky 2/3 done");
    });
}

#[test]
fn progress_does_not_count_what_is_still_under_way() {
    in_virtual_time(async |harness| {
        let (slow, _) = recorder_with("slow", |event: Event| async move {
            let id: u32 = event.session().unwrap().id.as_str().parse()?;
            if event.hook() == Hook::SessionEnd {
                sleep(id * SECOND / 10).await;
            }
            Ok(())
        });
        let mut policy = slow.policy().clone();
        (policy.max_batch, policy.max_in_flight) = (1, 3);
        let supervisor = harness
            .start(builder().plugin(slow.with_policy(policy)))
            .await;
        for id in ["1", "2", "3"] {
            supervisor.begin(id).await;
        }
        sleep(SECOND).await;
        let mut watcher = supervisor.watch(None).without_sessions();
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let mut drain = Vec::new();
        while drain
            .last()
            .is_none_or(|last: &String| !last.ends_with("done"))
        {
            drain.push(next(&mut watcher).await);
            drain.retain(|seen| seen.starts_with("drain"));
        }
        drain.dedup();
        let expected = ["0/3", "1/3", "2/3", "3/3", "3/3 done"];
        assert_eq!(drain, expected.map(|count| format!("drain slow {count}")));
    });
}

/// Plugins that fail in each way there is, by the outcome that this is.
fn failing() -> Vec<(DeliveryOutcome, PluginSpec)> {
    let rejects = recorder_with("rejects", |_| async { anyhow::bail!("no such customer") });
    let is_down = recorder_with("down", |_| async {
        Err(Down::new(anyhow::anyhow!("connection refused")).into())
    });
    let hangs = recorder_with("hangs", |_| std::future::pending());
    let panics = recorder_with("panics", |_| async { panic!("as the test wants it") });
    vec![
        (DeliveryOutcome::Error, rejects.0),
        (DeliveryOutcome::Error, is_down.0),
        (DeliveryOutcome::Timeout, hangs.0),
        (DeliveryOutcome::Panic, panics.0),
    ]
}

/// How often deliveries of starts, and of ends, to a plugin had an outcome.
fn counted(supervisor: &SessionSupervisor, plugin: &str, outcome: DeliveryOutcome) -> (u64, u64) {
    let counts = supervisor.counts();
    let of = |hook| {
        let deliveries = counts.plugins[plugin].deliveries.iter();
        let mut found = deliveries.filter(|it| (it.hook, it.outcome) == (hook, outcome));
        found.next().unwrap().count
    };
    (of(Hook::SessionStart), of(Hook::SessionEnd))
}

#[test]
fn g9_every_failed_delivery_is_counted_by_plugin_type_and_outcome() {
    in_virtual_time(async |harness| {
        let (healthy, _) = recorder("healthy");
        let plugins = failing().into_iter().map(|(_, plugin)| plugin);
        let plugins = plugins.fold(builder(), session_supervisor::Builder::plugin);
        let supervisor = harness.start(plugins.plugin(healthy)).await;
        supervisor.begin("A").await;
        sleep(SECOND / 2).await;
        for (outcome, plugin) in failing() {
            let name = plugin.name();
            let took_its_time = outcome == DeliveryOutcome::Timeout;
            let expected = if took_its_time { 0 } else { 1 };
            let (starts, ends) = counted(&supervisor, name, outcome);
            assert_eq!((starts, ends), (expected, 0), "{name}");
        }
        assert_eq!(counted(&supervisor, "healthy", DeliveryOutcome::Ok), (1, 0));
        sleep(20 * SECOND).await;
        for (outcome, plugin) in failing() {
            let (starts, _) = counted(&supervisor, plugin.name(), outcome);
            assert!((1..20).contains(&starts), "{}: {starts}", plugin.name());
            assert_eq!(
                counted(&supervisor, plugin.name(), DeliveryOutcome::Ok),
                (0, 0)
            );
        }
        assert_eq!(counted(&supervisor, "healthy", DeliveryOutcome::Ok), (1, 0));
    });
}

#[test]
fn g9_a_failed_delivery_is_told_to_watchers_with_plugin_sessions_and_error() {
    for (outcome, plugin) in failing() {
        in_virtual_time(async move |harness| {
            let name = plugin.name().to_owned();
            let supervisor = harness.start(builder().plugin(plugin)).await;
            let mut watcher = supervisor.watch(None).without_sessions();
            supervisor.begin("A").await;
            let Some(Watched::Delivery(told)) = in_time(watcher.next()).await else {
                panic!("{name} is not told of");
            };
            assert_eq!((&*told.plugin, told.outcome), (&*name, outcome));
            assert_eq!((told.events, told.attempt), (1, 1));
            assert_eq!(told.types, [Hook::SessionStart]);
            assert_eq!(told.sessions.len(), 1, "{told:?}");
            assert_eq!(told.sessions[0].as_str(), "A");
            assert!(told.error.is_some(), "{told:?}");
        });
    }
}

#[test]
fn g9_a_delivery_that_the_cap_cuts_off_is_seen_as_cut() {
    in_virtual_time(async |harness| {
        let (plugin, _, _gate) = gated("p", Hook::SessionEnd);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        sleep(SECOND).await;
        let mut watcher = supervisor.watch(None).without_sessions();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(report.drain.timed_out);
        assert_eq!(counted(&supervisor, "p", DeliveryOutcome::Cut), (0, 1));
        assert_eq!(counted(&supervisor, "p", DeliveryOutcome::Timeout), (0, 0));
        while next(&mut watcher).await != "delivery p cut 1" {}
        while next(&mut watcher).await != "drain p 0/1 done" {}
    });
}

#[test]
fn an_error_without_end_is_told_in_part() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder_with("p", |_| async {
            anyhow::bail!("{}", "\u{e4}".repeat(1_000_000))
        });
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let mut watcher = supervisor.watch(None).without_sessions();
        supervisor.begin("A").await;
        let Some(Watched::Delivery(told)) = in_time(watcher.next()).await else {
            panic!("nothing is told");
        };
        let error = told.error.as_deref().unwrap();
        assert!((1000..=1024).contains(&error.len()), "{}", error.len());
        assert!(error.ends_with('\u{2026}'));
    });
}

#[test]
fn starts_ends_and_refusals_are_counted_by_what_they_are() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let supervisor = harness
            .start(builder().max_active(3).ledger(ledger.clone()))
            .await;
        let mut held = session("C");
        held.holder = Some("h".parse().unwrap());
        supervisor.started(held).await.unwrap();
        for id in ["A", "B", "A"] {
            supervisor.begin(id).await;
        }
        let elsewhere = supervisor.started(session("C")).await;
        assert!(matches!(elsewhere, Err(Error::HeldElsewhere { .. })));
        let full = supervisor.started(session("D")).await;
        assert!(matches!(full, Err(Error::TooManySessions { .. })));
        supervisor.finish("A", EndReason::Completed).await;
        supervisor.finish("A", EndReason::Idle).await;
        supervisor.finish("B", EndReason::Idle).await;
        let mut invalid = session("D");
        invalid.store_path = Some("x".repeat(5000).into());
        assert!(supervisor.started(invalid).await.is_err());
        ledger.breaks(Call::Append, 0, Fault::FailsOnce);
        assert!(supervisor.started(session("D")).await.is_err());
        assert_eq!(supervisor.active_sessions().await.unwrap(), 1);
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(supervisor.started(session("D")).await.is_err());

        let counts = supervisor.counts();
        assert_eq!(counts.started, 3);
        for (reason, count) in counts.ended {
            let expected = match reason {
                EndReason::Completed | EndReason::Idle | EndReason::Shutdown => 1,
                _ => 0,
            };
            assert_eq!(count, expected, "{reason}");
        }
        let refused = Refusal::ALL.iter().map(|cause| (*cause, 1)).collect();
        assert_eq!(counts.refused, refused);
        assert_eq!(counts.ledger_errors, 1);
        // Three starts, new details, two ends, and the end of the drain.
        assert_eq!(counts.commits.count, 7);
    });
}

#[test]
fn what_is_owed_has_the_age_of_the_oldest() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated("p", Hook::SessionEnd);
        let (began, epoch) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let clock = move || epoch + SignedDuration::try_from(began.elapsed()).unwrap();
        let mut policy = plugin.policy().clone();
        (policy.timeout, policy.max_in_flight) = (3600 * SECOND, 4);
        let builder = builder().plugin(plugin.with_policy(policy));
        let supervisor = Arc::new(harness.start(builder.wall_clock(clock)).await);
        let age = async || supervisor.plugins().await.unwrap()[0].oldest_owed_age_ms;
        assert_eq!(age().await, None);
        supervisor.begin("A").await;
        told.wait_for(1).await;
        sleep(60 * SECOND).await;
        assert_eq!(age().await, None);

        supervisor.finish("A", EndReason::Completed).await;
        sleep(5 * SECOND).await;
        supervisor.begin("B").await;
        supervisor.finish("B", EndReason::Completed).await;
        sleep(5 * SECOND).await;
        let oldest = age().await.unwrap();
        assert!((10_000..10_010).contains(&oldest), "{oldest}");
        gate.open();
        told.wait_for(4).await;
        sleep(SECOND).await;
        assert_eq!(age().await, None);
    });
}
