//! The guarantees, each test named for the one that it holds.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_supervisor::testing::{gated, recorder, recorder_with};
use session_supervisor::{
    Deliver, EndMatching, EndReason, Ended, EndedSession, Error, Hook, Hooks, Outcome, Plugin,
    PluginSpec, SessionFilter, Shutdown, Started,
};
use tokio::time::{Instant, sleep};

use crate::support::{Shorthand, builder, id, in_virtual_time, session, session_with_key};

#[test]
fn g1_of_racing_ends_the_first_wins_and_one_event_exists() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let ends = [EndReason::Completed, EndReason::Closed, EndReason::Reset];
        let answers = futures_util::future::join_all(
            ends.map(|reason| supervisor.ended(Ended::new(id("A"), reason))),
        );
        let (answers, report) = tokio::join!(answers, supervisor.shutdown(Shutdown::now()));
        assert_eq!(told.ends(), ["A completed"]);
        assert_eq!(report.unwrap().drain.sessions, 0);
        for answer in answers {
            let (EndedSession::Now(record) | EndedSession::Unchanged(record)) = answer.unwrap()
            else {
                panic!("the session is known");
            };
            let (end, _) = record.end.expect("it has ended");
            assert_eq!(end.reason, EndReason::Completed);
        }
    });
}

#[test]
fn g1_an_end_that_races_with_the_drain_finds_the_reason_of_the_drain() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let (report, late) = tokio::join!(supervisor.shutdown(Shutdown::now()), async {
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(1)).await;
            supervisor.finish("A", EndReason::Completed).await
        });
        assert_eq!(report.unwrap().drain.sessions, 1);
        assert_eq!(told.ends(), ["A shutdown"]);
        let EndedSession::Unchanged(record) = late else {
            panic!("the drain was first");
        };
        assert_eq!(record.end.unwrap().0.reason, EndReason::Shutdown);
    });
}

#[test]
fn g1_an_id_that_starts_again_after_its_end_is_a_new_incarnation() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let first = supervisor.started(session("A")).await.unwrap().session;
        supervisor.finish("A", EndReason::Completed).await;
        let second = supervisor.started(session("A")).await.unwrap();
        assert!(second.is_new);
        assert_ne!(second.session.incarnation, first.incarnation);
        assert_eq!(
            second.session.previous_incarnation(),
            Some(first.incarnation)
        );
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(told.ends(), ["A completed", "A shutdown"]);
        let ids: BTreeSet<_> = told
            .events()
            .iter()
            .map(session_supervisor::Event::id)
            .collect();
        assert_eq!(ids.len(), 4, "each event has an id of its own");
    });
}

#[test]
fn g1_a_start_under_a_key_that_is_taken_replaces_its_session() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor
            .started(session_with_key("A", "k"))
            .await
            .unwrap();
        let answer = supervisor.started(session_with_key("B", "k")).await;
        assert_eq!(answer.unwrap().replaced, Some(id("A")));
        assert_eq!(supervisor.active_ids().await, ["B"]);
        told.wait_for(3).await;
        let expected = [
            "session_start A",
            "session_end A replaced",
            "session_start B",
        ];
        assert_eq!(told.lines(), expected);
        let end = told.events()[1].how_ended().unwrap().clone();
        assert_eq!(end.details.next_session_id, Some(id("B")));
        assert_eq!(
            end.details
                .next_key
                .as_ref()
                .map(session_supervisor::SessionKey::as_str),
            Some("k")
        );
    });
}

#[test]
fn g2_starting_an_active_id_again_fires_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let first = supervisor.started(session("A")).await.unwrap().session;
        let again = supervisor
            .started(session_with_key("A", "k"))
            .await
            .unwrap();
        assert!(!again.is_new);
        assert_eq!(again.session.incarnation, first.incarnation);
        assert_eq!(again.session.started_at, first.started_at);
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(told.lines(), ["session_start A", "session_end A shutdown"]);
        // The end carries the details that the session had last.
        let ended = told.events()[1].session().unwrap().clone();
        assert_eq!(
            ended
                .key
                .as_ref()
                .map(session_supervisor::SessionKey::as_str),
            Some("k")
        );
    });
}

#[test]
fn g2_ending_what_has_ended_or_another_incarnation_fires_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let first = supervisor.started(session("A")).await.unwrap().session;
        supervisor.finish("A", EndReason::Completed).await;
        let again = supervisor.finish("A", EndReason::Reset).await;
        let EndedSession::Unchanged(record) = again else {
            panic!("it had ended before");
        };
        assert_eq!(record.end.unwrap().0.reason, EndReason::Completed);

        supervisor.begin("A").await;
        let mut stale = Ended::new(id("A"), EndReason::Closed);
        stale.incarnation = Some(first.incarnation);
        let answer = supervisor.ended(stale).await.unwrap();
        assert!(matches!(answer, EndedSession::Unchanged(record) if record.end.is_none()));
        assert_eq!(supervisor.active_ids().await, ["A"]);
        told.wait_for(3).await;
        assert_eq!(told.ends(), ["A completed"]);
    });
}

#[test]
fn g3_messages_for_one_id_are_told_in_their_order() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let registry = supervisor.registry();
        // All sent before any is answered.
        let mut answers: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for _ in 0..5 {
            for other in ["A", "B"] {
                let start = registry.send(Started(session_with_key(other, "k")));
                answers.push(Box::pin(async { drop(start.await) }));
                let end = registry.send(Ended::new(id("A"), EndReason::Completed));
                answers.push(Box::pin(async { drop(end.await) }));
            }
        }
        futures_util::future::join_all(answers).await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();

        let round = [
            "session_start A",
            "session_end A completed",
            "session_start B",
        ];
        let mut expected: Vec<&str> = round.to_vec();
        for _ in 1..5 {
            expected.push("session_end B replaced");
            expected.extend(round);
        }
        expected.push("session_end B shutdown");
        assert_eq!(told.lines(), expected);
    });
}

#[test]
fn g3_events_of_one_session_are_never_told_side_by_side() {
    in_virtual_time(async |harness| {
        let running = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = running.clone();
        let (plugin, told) = recorder_with("p", move |event| {
            let running = seen.clone();
            async move {
                let id = event.session().unwrap().id.clone();
                assert!(running.lock().unwrap().insert(id.clone()), "{id} twice");
                sleep(Duration::from_millis(5)).await;
                running.lock().unwrap().remove(&id);
                Ok(())
            }
        });
        let mut policy = plugin.policy().clone();
        policy.max_in_flight = 4;
        policy.max_batch = 3;
        let supervisor = harness
            .start(builder().plugin(plugin.with_policy(policy)))
            .await;
        for round in 0..10 {
            for n in 0..4 {
                let id = format!("s{n}");
                supervisor.begin(&id).await;
                supervisor.finish(&id, EndReason::Completed).await;
            }
            if round % 3 == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        told.wait_for(80).await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(report.outcome, Outcome::Clean);
        assert_eq!(told.lines().len(), 80, "nothing was told twice");
        for n in 0..4 {
            let id = format!("s{n}");
            let lines = told.lines();
            let of_session = lines.iter().filter(|line| line.contains(&id));
            for (index, line) in of_session.enumerate() {
                let hook = ["session_start", "session_end"][index % 2];
                assert!(line.starts_with(hook), "{line} at place {index} of {id}");
            }
        }
    });
}

#[test]
fn g4_asynchronous_plugins_that_hang_in_every_hook_do_not_move_the_cap() {
    for cap in [120, 500, 2000].map(Duration::from_millis) {
        in_virtual_time(async |harness| {
            let mut builder = builder().cap(cap);
            for name in ["one", "two", "three"] {
                let (plugin, _) = recorder_with(name, |_| std::future::pending());
                builder = builder.plugin(plugin.with_hooks(Hooks::ALL));
            }
            let supervisor = harness.start(builder).await;
            for n in 0..1000 {
                supervisor.begin(&format!("s{n}")).await;
            }
            let began = Instant::now();
            let report = supervisor
                .shutdown(Shutdown::for_restart(Duration::ZERO))
                .await
                .unwrap();
            assert!(began.elapsed() <= cap, "{:?} of {cap:?}", began.elapsed());
            assert!(report.drain.timed_out);
            assert_eq!(report.drain.lost, 3000);
        });
    }
}

#[test]
fn g4_the_cap_counts_from_the_request_and_not_from_its_arrival() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder_with("p", |_| std::future::pending());
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        let asked = Shutdown::now();
        let began = Instant::now();
        sleep(Duration::from_millis(1500)).await;
        supervisor.shutdown(asked).await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(2));
    });
}

#[test]
fn g5_a_plugin_that_hangs_costs_another_neither_time_nor_events() {
    in_virtual_time(async |harness| {
        let (hanging, _) = recorder_with("hangs", |_| std::future::pending());
        let (failing, _) = recorder_with("fails", |_| async { anyhow::bail!("never") });
        let finished = Arc::new(Mutex::new(None));
        let at = finished.clone();
        let (good, told) = recorder_with("good", move |event| {
            let at = at.clone();
            async move {
                sleep(Duration::from_millis(20)).await;
                if event.hook() == Hook::SessionEnd {
                    *at.lock().unwrap() = Some(Instant::now());
                }
                Ok(())
            }
        });
        let plugins = builder().plugin(hanging).plugin(failing).plugin(good);
        let supervisor = harness.start(plugins).await;
        for n in 0..100 {
            supervisor.begin(&format!("s{n}")).await;
        }
        told.wait_for(100).await;
        sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        let finished = finished.lock().unwrap().expect("the good plugin was told");
        assert!(finished - began <= Duration::from_millis(25));
        let good = report.plugins.iter().find(|it| it.name == "good").unwrap();
        assert_eq!((good.delivered, good.timed_out), (100, false));
        assert_eq!(told.ends().len(), 100);
    });
}

#[test]
fn g9_the_report_names_the_plugin_the_sessions_and_the_error() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder_with("picky", |event| async move {
            let is_bad = event.session().is_some_and(|it| it.id.as_str() == "bad");
            anyhow::ensure!(!is_bad, "no such customer");
            Ok(())
        });
        let mut policy = plugin.policy().clone();
        policy.backoff = Duration::from_secs(60);
        policy.backoff_max = Duration::from_secs(60);
        let hooks = Hooks::NONE.with(Hook::SessionEnd);
        let plugin = plugin.with_policy(policy).with_hooks(hooks);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("good").await;
        supervisor.begin("bad").await;
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        let plugin = &report.plugins[0];
        assert_eq!(plugin.name, "picky");
        assert_eq!((plugin.delivered, plugin.lost, plugin.failed), (1, 1, 1));
        assert_eq!(plugin.unfinished, [id("bad")]);
        assert_eq!(plugin.last_error.as_deref(), Some("no such customer"));
        // It waits for an attempt after the cut, which holds nothing up.
        assert!(!plugin.timed_out);
    });
}

#[test]
fn g10_from_the_request_on_new_sessions_are_refused_and_the_old_ones_accounted_for() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated("p", Hook::SessionEnd);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        assert!(supervisor.is_ready());
        let shutdown = supervisor.shutdown(Shutdown::now());
        tokio::pin!(shutdown);
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, &mut shutdown).await.is_err());

        assert!(!supervisor.is_ready());
        let refused = supervisor.started(session("B")).await;
        assert!(matches!(refused, Err(Error::ShuttingDown)));
        // Its details may not change any more either: its end is recorded.
        let again = supervisor.started(session("A")).await;
        assert!(matches!(again, Err(Error::ShuttingDown)));
        assert!(supervisor.active_ids().await.is_empty());
        let known = supervisor.find(&id("A")).await.unwrap().unwrap();
        assert_eq!(known.end.unwrap().0.reason, EndReason::Shutdown);

        gate.open();
        let report = shutdown.await.unwrap();
        assert_eq!((report.drain.sessions, report.drain.delivered), (1, 1));
        assert_eq!(told.lines(), ["session_start A", "session_end A shutdown"]);
    });
}

#[test]
fn sessions_end_by_idleness_and_age() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let minute = Duration::from_secs(60);
        let builder = builder().idle_after(30 * minute).max_age(60 * minute);
        let supervisor = harness.start(builder.plugin(plugin)).await;
        supervisor.begin("quiet").await;
        supervisor.begin("busy").await;
        for _ in 0..3 {
            sleep(19 * minute).await;
            assert!(supervisor.touch_id("busy").await);
        }
        assert_eq!(supervisor.active_ids().await, ["busy"]);
        sleep(4 * minute).await;
        assert_eq!(told.ends(), ["busy expired", "quiet idle"]);
        assert!(!supervisor.touch_id("busy").await);
    });
}

#[test]
fn more_sessions_than_may_be_active_are_refused() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder().max_active(2)).await;
        supervisor.begin("A").await;
        supervisor
            .started(session_with_key("B", "k"))
            .await
            .unwrap();
        let refused = supervisor.started(session("C")).await;
        assert!(matches!(refused, Err(Error::TooManySessions { max: 2 })));
        // These add none: new details, and a successor under the same key.
        supervisor.begin("A").await;
        supervisor
            .started(session_with_key("D", "k"))
            .await
            .unwrap();
        assert_eq!(supervisor.active_ids().await, ["A", "D"]);
    });
}

#[test]
fn a_session_tells_what_became_of_its_last_event_per_plugin() {
    in_virtual_time(async |harness| {
        let (good, told) = recorder("good");
        let (picky, _) = recorder_with("picky", |event| async move {
            anyhow::ensure!(event.hook() == Hook::SessionStart, "no ends, please");
            Ok(())
        });
        let mut policy = picky.policy().clone();
        policy.max_attempts = 2;
        let starts_only = recorder("starts-only").0;
        let starts_only = starts_only.with_hooks(Hooks::NONE.with(Hook::SessionStart));
        let deaf = recorder("deaf").0.with_hooks(Hooks::NONE);
        let plugins = builder().plugin(good).plugin(picky.with_policy(policy));
        let supervisor = harness
            .start(plugins.plugin(starts_only).plugin(deaf))
            .await;
        let states = async || {
            let record = supervisor.find(&id("A")).await.unwrap().unwrap();
            let states = supervisor.delivery_states(&record).await.unwrap();
            let states = states
                .into_iter()
                .map(|(name, state)| format!("{name} {state:?}"));
            states.collect::<Vec<_>>().join(", ")
        };
        supervisor.begin("A").await;
        sleep(Duration::from_millis(10)).await;
        let all = "good Delivered, picky Delivered, starts-only Delivered";
        assert_eq!(states().await, all);

        supervisor.finish("A", EndReason::Completed).await;
        told.wait_for(2).await;
        let retrying = "good Delivered, picky Owed, starts-only Delivered";
        assert_eq!(states().await, retrying);
        sleep(Duration::from_secs(60)).await;
        let dead = "good Delivered, picky Dead, starts-only Delivered";
        assert_eq!(states().await, dead);

        // Those of the drain, too, when it is over. Its cap leaves time for a second attempt.
        supervisor.begin("A").await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(states().await, dead);
    });
}

#[test]
fn g4_a_delivery_that_begins_after_the_request_knows_of_the_cap() {
    in_virtual_time(async |harness| {
        let remaining = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&remaining);
        let supervisor = harness
            .start(builder().plugin(PluginSpec::new("p", move || {
                DeadlineReader(Arc::clone(&seen))
            })))
            .await;
        supervisor.begin("A").await;
        sleep(Duration::from_millis(10)).await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let remaining = remaining.lock().unwrap();
        let [before, after] = remaining[..] else {
            panic!("two deliveries: {remaining:?}");
        };
        assert!(before > Duration::from_secs(4), "{before:?}");
        assert!(after <= Duration::from_millis(1950), "{after:?}");
    });
}

/// A plugin that notes how much time each delivery has.
struct DeadlineReader(Arc<Mutex<Vec<Duration>>>);

impl Plugin for DeadlineReader {
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let remaining = delivery.deadline.remaining();
        self.0.lock().unwrap().push(remaining);
        Ok(())
    }
}

#[test]
fn g1_of_many_that_end_each_ends_once_whatever_else_is_being_recorded() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        for id in ["A", "B", "C"] {
            supervisor.begin(id).await;
        }
        let all = EndMatching::new(SessionFilter::default(), EndReason::Deleted);
        let (again, one, many, late) = tokio::join!(
            supervisor.started(session("A")),
            supervisor.ended(Ended::new(id("B"), EndReason::Completed)),
            supervisor.end_matching(all),
            supervisor.ended(Ended::new(id("C"), EndReason::Completed)),
        );
        assert!(!again.unwrap().is_new);
        assert!(matches!(one.unwrap(), EndedSession::Now(_)));
        let many = many.unwrap();
        let mut ended = vec![id("B")];
        ended.extend(many.ended.iter().cloned());
        if let EndedSession::Now(record) = late.unwrap() {
            ended.push(record.session.id.clone());
        }
        ended.sort();
        assert_eq!(ended, [id("A"), id("B"), id("C")]);
        assert_eq!(many.matched, 2, "B was ending already");
        assert!(supervisor.active_ids().await.is_empty());
    });
}
