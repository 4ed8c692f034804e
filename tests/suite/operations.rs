//! What operators do with plugins: tests, dead letters, an attempt at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_supervisor::testing::{Harness, Recording, in_time, line, recorder, recorder_with};
use session_supervisor::{
    DeliveryPolicy, DeliveryState, Down, EndReason, Error, Event, Hook, Hooks, PluginSpec,
    PluginState, SessionSupervisor, Shutdown, TestOutcome,
};
use tokio::time::{Instant, sleep};

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time};

const SECOND: Duration = Duration::from_secs(1);

/// One rejection makes a dead letter.
fn strict() -> DeliveryPolicy {
    let mut policy = DeliveryPolicy::default();
    policy.max_attempts = 1;
    policy
}

/// A switch that tests throw.
#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn turn_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A plugin that rejects what is about A until it is repaired.
fn rejects_a(policy: DeliveryPolicy) -> (PluginSpec, Recording, Switch) {
    let repaired = Switch::default();
    let (works, told) = (repaired.clone(), Recording::new());
    let record = told.clone();
    let call = move |event: Event| {
        let is_about_a = event.session().is_some_and(|it| it.id.as_str() == "A");
        let rejects = is_about_a && !works.is_on();
        if !rejects {
            record.record(&event);
        }
        async move {
            match rejects {
                true => Err(anyhow::anyhow!("no room for A")),
                false => Ok(()),
            }
        }
    };
    let plugin = PluginSpec::per_session("p", call).with_policy(policy);
    (plugin, told, repaired)
}

async fn wait_for_dead(supervisor: &SessionSupervisor, dead: u64) {
    in_time(async {
        while supervisor.plugins().await.unwrap()[0].dead != dead {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The lines of a plugin's dead letters.
async fn dead_letters(supervisor: &SessionSupervisor) -> Vec<String> {
    let letters = supervisor.dead_letters("p", 0, 100).await.unwrap();
    assert!(letters.iter().all(|letter| letter.dead));
    letters.iter().map(|letter| line(&letter.event)).collect()
}

#[test]
fn g6_dead_letters_are_listed_and_come_back_in_order() {
    in_virtual_time(async |harness| {
        let (plugin, told, repaired) = rejects_a(strict());
        let supervisor = harness.start(builder().plugin(plugin)).await;
        for id in ["A", "B"] {
            supervisor.begin(id).await;
        }
        wait_for_dead(&supervisor, 1).await;
        supervisor.finish("A", EndReason::Completed).await;
        wait_for_dead(&supervisor, 2).await;
        let expected = ["session_start A", "session_end A completed"];
        assert_eq!(dead_letters(&supervisor).await, expected);
        let first = supervisor.dead_letters("p", 0, 1).await.unwrap().remove(0);
        assert_eq!((first.attempts, &*first.error), (1, "no room for A"));
        let after = first.event.seq().unwrap();
        let rest = supervisor.dead_letters("p", after, 1).await.unwrap();
        assert_eq!(line(&rest[0].event), "session_end A completed");

        repaired.turn_on();
        let back = supervisor.redeliver("p", None).await.unwrap();
        assert_eq!((back.redelivered, back.left), (2, 0));
        told.wait_for(3).await;
        assert_eq!(told.lines()[1..], expected);
        assert!(dead_letters(&supervisor).await.is_empty());
        assert_eq!(supervisor.plugins().await.unwrap()[0].owed, 0);
        let record = supervisor.find(&id("A")).await.unwrap().unwrap();
        let states = supervisor.delivery_states(&record).await.unwrap();
        assert_eq!(states["p"], DeliveryState::Delivered);
        let again = supervisor.redeliver("p", None).await.unwrap();
        assert_eq!(again.redelivered, 0);
    });
}

#[test]
fn one_dead_letter_comes_back_with_those_of_its_incarnation_only() {
    in_virtual_time(async |harness| {
        let (plugin, told, repaired) = rejects_a(strict());
        let supervisor = harness.start(builder().plugin(plugin)).await;
        for _ in 0..2 {
            supervisor.begin("A").await;
            supervisor.finish("A", EndReason::Completed).await;
        }
        wait_for_dead(&supervisor, 4).await;
        repaired.turn_on();
        let letters = supervisor.dead_letters("p", 0, 100).await.unwrap();
        let end = letters[3].event.id();
        let back = supervisor.redeliver("p", Some(end)).await.unwrap();
        assert_eq!((back.redelivered, back.left), (2, 2));
        told.wait_for(2).await;
        let expected = [letters[2].event.id(), end];
        assert_eq!(told.events().map_ids(), expected);
        let unknown = supervisor.redeliver("p", Some(end)).await.unwrap();
        assert_eq!((unknown.redelivered, unknown.left), (0, 2));
    });
}

trait MapIds {
    fn map_ids(&self) -> Vec<session_supervisor::EventId>;
}

impl MapIds for Vec<Event> {
    fn map_ids(&self) -> Vec<session_supervisor::EventId> {
        self.iter().map(Event::id).collect()
    }
}

#[test]
fn dead_letters_are_let_go_of_one_by_one_or_all() {
    in_virtual_time(async |harness| {
        let (plugin, told, repaired) = rejects_a(strict());
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        supervisor.finish("A", EndReason::Completed).await;
        supervisor.begin("A").await;
        wait_for_dead(&supervisor, 3).await;
        let letters = supervisor.dead_letters("p", 0, 100).await.unwrap();
        let (start, next_start) = (letters[0].event.id(), letters[2].event.id());
        let discard = |event| supervisor.discard_dead_letters("p", event);
        assert_eq!(discard(Some(start)).await.unwrap(), 1);
        assert_eq!(discard(Some(start)).await.unwrap(), 0);
        let expected = ["session_end A completed", "session_start A"];
        assert_eq!(dead_letters(&supervisor).await, expected);
        assert_eq!(discard(None).await.unwrap(), 2);
        assert!(dead_letters(&supervisor).await.is_empty());
        repaired.turn_on();
        assert_eq!(
            supervisor.redeliver("p", None).await.unwrap().redelivered,
            0
        );
        // The start is forgotten, so the end comes without it.
        supervisor.finish("A", EndReason::Completed).await;
        told.wait_for(1).await;
        assert_eq!(told.lines(), ["session_end A completed"]);
        assert_ne!(told.events()[0].id(), next_start);
    });
}

#[test]
fn a_redelivery_that_the_ledger_does_not_record_changes_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, told, repaired) = rejects_a(strict());
        let ledger = FaultyLedger::new();
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        supervisor.begin("A").await;
        wait_for_dead(&supervisor, 1).await;
        sleep(SECOND).await;
        repaired.turn_on();
        ledger.breaks(Call::Advance, 0, Fault::Fails);
        let refused = supervisor.redeliver("p", None).await;
        assert!(matches!(refused, Err(Error::Ledger(_))), "{refused:?}");
        let refused = supervisor.discard_dead_letters("p", None).await;
        assert!(matches!(refused, Err(Error::Ledger(_))), "{refused:?}");
        sleep(SECOND).await;
        assert_eq!(dead_letters(&supervisor).await, ["session_start A"]);
        assert!(told.lines().is_empty());
        ledger.heal();
        assert_eq!(
            supervisor.redeliver("p", None).await.unwrap().redelivered,
            1
        );
        told.wait_for(1).await;
    });
}

#[test]
fn g8_many_dead_letters_come_back_as_there_is_room() {
    const DEAD: u64 = 10_500;
    in_virtual_time(async |harness| {
        let repaired = Switch::default();
        let works = repaired.clone();
        let (plugin, told) = recorder_with("p", move |_| {
            let works = works.is_on();
            async move { works.then_some(()).ok_or_else(|| anyhow::anyhow!("no")) }
        });
        let supervisor = harness
            .start(builder().plugin(plugin.with_policy(strict())))
            .await;
        for n in 0..DEAD {
            supervisor.begin(&format!("s{n}")).await;
        }
        wait_for_dead(&supervisor, DEAD).await;
        sleep(SECOND).await;
        repaired.turn_on();
        let tried = told.events().len();
        let back = supervisor.redeliver("p", None).await.unwrap();
        assert_eq!((back.redelivered, back.left), (5000, 5500));
        told.wait_for(tried + 5000).await;
        for left in [500, 0] {
            let back = supervisor.redeliver("p", None).await.unwrap();
            assert_eq!(back.left, left);
            sleep(SECOND).await;
        }
        told.wait_for(tried + 10_500).await;
    });
}

#[test]
fn g4_a_look_at_dead_letters_that_hangs_does_not_hold_up_a_shutdown() {
    in_virtual_time(async |harness| {
        let (plugin, _, _) = rejects_a(strict());
        let ledger = FaultyLedger::new();
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        supervisor.begin("A").await;
        supervisor.begin("B").await;
        wait_for_dead(&supervisor, 1).await;
        sleep(SECOND).await;
        ledger.breaks(Call::DeadLetters, 0, Fault::Hangs);
        let operator = supervisor.clone();
        actix_rt::spawn(async move { operator.redeliver("p", None).await });
        sleep(SECOND).await;
        let began = Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        // The end of A is dead with its start.
        assert_eq!((report.drain.delivered, report.drain.sessions), (1, 2));
        ledger.heal();
    });
}

#[test]
fn g8_changes_of_dead_letters_wait_for_their_turn_or_are_refused() {
    in_virtual_time(async |harness| {
        let (plugin, _, _) = rejects_a(strict());
        let ledger = FaultyLedger::new();
        let supervisor = harness
            .start(builder().plugin(plugin).ledger(ledger.clone()))
            .await;
        supervisor.begin("A").await;
        wait_for_dead(&supervisor, 1).await;
        sleep(SECOND).await;
        ledger.breaks(Call::DeadLetters, 0, Fault::Hangs);
        let discard = || {
            let supervisor = supervisor.clone();
            actix_rt::spawn(async move { supervisor.discard_dead_letters("p", None).await })
        };
        // One is under way.
        let waiting: Vec<_> = (0..65).map(|_| discard()).collect();
        sleep(SECOND).await;
        let refused = supervisor.discard_dead_letters("p", None).await;
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        ledger.heal();
        let mut discarded = 0;
        for change in waiting {
            discarded += change.await.unwrap().unwrap();
        }
        assert_eq!(discarded, 1);
    });
}

#[test]
fn a_test_is_told_and_recorded_nowhere() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let test = supervisor.test_plugin("p").await.unwrap();
        assert_eq!((test.outcome, test.error), (TestOutcome::Ok, None));
        let events = told.events();
        let hooks: Vec<_> = events.iter().map(Event::hook).collect();
        assert_eq!(hooks, [Hook::SessionStart, Hook::SessionEnd]);
        assert!(
            events
                .iter()
                .all(|it| it.is_synthetic() && it.seq().is_none())
        );
        let session = &events[0].session().unwrap().id;
        assert!(supervisor.find(session).await.unwrap().is_none());
        let status = &supervisor.plugins().await.unwrap()[0];
        assert_eq!((status.owed, status.dead), (0, 0));
        supervisor.begin("A").await;
        told.wait_for(3).await;
        assert_eq!(told.events()[2].seq(), Some(1));
    });
}

#[test]
fn a_test_says_how_the_plugin_took_it() {
    async fn outcome(
        harness: &Harness,
        plugin: PluginSpec,
    ) -> (TestOutcome, Option<String>, Duration) {
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let test = supervisor.test_plugin("p").await.unwrap();
        let error = test.error.map(|error| error.to_string());
        (test.outcome, error, test.duration)
    }
    in_virtual_time(async |harness| {
        let (rejects, _) = recorder_with("p", |_| async { anyhow::bail!("no such table") });
        let (result, error, _) = outcome(harness, rejects).await;
        assert_eq!(
            (result, error.as_deref()),
            (TestOutcome::Error, Some("no such table"))
        );

        let (down, _) = recorder_with("p", |_| async {
            Err(Down::new(anyhow::anyhow!("refused")).into())
        });
        assert_eq!(outcome(harness, down).await.0, TestOutcome::Error);

        let (panics, _) = recorder_with("p", |_| async { panic!("a bug") });
        assert_eq!(outcome(harness, panics).await.0, TestOutcome::Panic);

        let (hangs, _) = recorder_with("p", |_| std::future::pending());
        let mut policy = DeliveryPolicy::default();
        policy.timeout = 7 * SECOND;
        let (result, _, took) = outcome(harness, hangs.with_policy(policy)).await;
        assert_eq!(result, TestOutcome::Timeout);
        assert!((7 * SECOND..8 * SECOND).contains(&took), "{took:?}");

        let (ends_only, told) = recorder("p");
        let ends_only = ends_only.with_hooks(Hooks::NONE.with(Hook::SessionEnd));
        assert_eq!(outcome(harness, ends_only).await.0, TestOutcome::Ok);
        assert_eq!(told.lines(), ["session_end synthetic closed"]);

        let (deaf, _) = recorder("p");
        let (result, error, _) = outcome(harness, deaf.with_hooks(Hooks::NONE)).await;
        assert_eq!(result, TestOutcome::Error);
        assert!(error.unwrap().contains("neither"));
    });
}

#[test]
fn g4_a_test_does_not_hold_up_a_shutdown() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder_with("p", |event| async move {
            if event.is_synthetic() {
                std::future::pending().await
            } else {
                Ok(())
            }
        });
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        let tester = supervisor.clone();
        let test = actix_rt::spawn(async move { tester.test_plugin("p").await });
        told.wait_for(2).await;
        let began = Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(began.elapsed() < SECOND && report.drain.delivered == 1);
        let given_up = test.await.unwrap();
        assert!(matches!(given_up, Err(Error::ShuttingDown)), "{given_up:?}");
    });
}

#[test]
fn operators_change_nothing_in_a_shutdown() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder("p");
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let refusals = [
            supervisor.test_plugin("p").await.err(),
            supervisor.redeliver("p", None).await.err(),
            supervisor.discard_dead_letters("p", None).await.err(),
            supervisor.resume_plugin("p").await.err(),
            supervisor.reload().await.err(),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Some(Error::ShuttingDown)), "{refusal:?}");
        }
    });
}

#[test]
fn a_plugin_that_is_unknown_is_named() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        let refusals = [
            supervisor.test_plugin("q").await.err(),
            supervisor.dead_letters("q", 0, 1).await.err(),
            supervisor.redeliver("q", None).await.err(),
            supervisor.discard_dead_letters("q", None).await.err(),
            supervisor.resume_plugin("q").await.err(),
        ];
        for refusal in refusals {
            let refusal = refusal.unwrap();
            assert!(
                matches!(&refusal, Error::UnknownPlugin(name) if name == "q"),
                "{refusal}"
            );
        }
    });
}

#[test]
fn a_plugin_that_is_resumed_is_tried_at_once() {
    in_virtual_time(async |harness| {
        let repaired = Switch::default();
        let works = repaired.clone();
        let (plugin, told) = recorder_with("p", move |_| {
            let works = works.is_on();
            async move {
                works
                    .then_some(())
                    .ok_or_else(|| Down::new(anyhow::anyhow!("refused")).into())
            }
        });
        let mut policy = DeliveryPolicy::default();
        (policy.backoff, policy.backoff_max) = (3600 * SECOND, 3600 * SECOND);
        let supervisor = harness
            .start(builder().plugin(plugin.with_policy(policy)))
            .await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        sleep(SECOND).await;
        let status = supervisor.plugins().await.unwrap().remove(0);
        assert_eq!(status.state, PluginState::Retrying);
        let status = supervisor.resume_plugin("p").await.unwrap();
        assert_eq!(status.owed, 1);
        assert!(status.oldest_owed_age_ms.is_some(), "{status:?}");
        sleep(SECOND).await;
        repaired.turn_on();
        let began = Instant::now();
        supervisor.resume_plugin("p").await.unwrap();
        told.wait_for(3).await;
        assert!(began.elapsed() < SECOND);
        sleep(SECOND).await;
        let status = supervisor.resume_plugin("p").await.unwrap();
        assert_eq!((status.state, status.owed), (PluginState::Healthy, 0));
    });
}
