//! Plugins that are called once per event: sessions side by side, one session in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use session_supervisor::testing::{Gate, Recording, recorder_with};
use session_supervisor::{
    DeliveryPolicy, EndReason, Event, Hook, PluginSpec, SessionSupervisor, Shutdown,
};
use tokio::time::{Instant, sleep};

use super::{MILLIS, SECOND, down, failure, is_about, panic, settled, status};
use crate::support::{Shorthand, builder, in_virtual_time};

/// A plugin whose first call waits at a gate, so that the others make a batch behind it.
fn gated<R>(
    answer: impl Fn(Event) -> R + Clone + Send + Sync + 'static,
) -> (PluginSpec, Recording, Gate)
where
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    let gate = Gate::new();
    let held = gate.clone();
    let (plugin, told) = recorder_with("p", move |event| {
        let (gate, answer) = (held.clone(), answer.clone());
        async move {
            if is_about(&event, "session_start first") {
                gate.pass().await;
                return Ok(());
            }
            answer(event).await
        }
    });
    // One delivery at a time, so that what waits makes a batch.
    (plugin.with_policy(DeliveryPolicy::default()), told, gate)
}

/// Lets A and B start and end while the plugin waits, and then opens the gate.
async fn batch_of_two_sessions(supervisor: &SessionSupervisor, gate: &Gate) {
    supervisor.begin("first").await;
    for id in ["A", "B"] {
        supervisor.begin(id).await;
        supervisor.finish(id, EndReason::Completed).await;
    }
    sleep(10 * MILLIS).await;
    gate.open();
}

/// What was told of each session, in order.
fn by_session(told: &Recording) -> BTreeMap<String, Vec<Hook>> {
    let mut sessions = BTreeMap::<String, Vec<Hook>>::new();
    for event in told.events() {
        let id = event.session().unwrap().id.to_string();
        sessions.entry(id).or_default().push(event.hook());
    }
    sessions
}

const START: Hook = Hook::SessionStart;
const END: Hook = Hook::SessionEnd;

#[test]
fn per_session_calls_go_side_by_side_for_sessions_and_in_order_for_one() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated(|_| async {
            sleep(SECOND).await;
            Ok(())
        });
        let supervisor = harness.start(builder().plugin(plugin)).await;
        batch_of_two_sessions(&supervisor, &gate).await;
        let began = Instant::now();
        settled(&supervisor).await;
        assert!((2 * SECOND..2 * SECOND + 50 * MILLIS).contains(&began.elapsed()));
        let told = by_session(&told);
        assert_eq!(
            (&told["A"], &told["B"]),
            (&vec![START, END], &vec![START, END])
        );
    });
}

/// A plugin whose first `count` calls for the start of A go wrong in this way.
fn wrong_about_a(
    count: usize,
    wrong: fn() -> anyhow::Result<()>,
) -> impl Fn(Event) -> std::future::Ready<anyhow::Result<()>> + Clone + Send + Sync + 'static {
    let calls = Arc::new(AtomicUsize::new(0));
    move |event| {
        let is_a = is_about(&event, "session_start A");
        let is_wrong = is_a && calls.fetch_add(1, Ordering::Relaxed) < count;
        std::future::ready(if is_wrong { wrong() } else { Ok(()) })
    }
}

#[test]
fn a_failing_call_rejects_its_event_and_holds_back_only_its_session() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated(wrong_about_a(2, failure));
        let supervisor = harness.start(builder().plugin(plugin)).await;
        batch_of_two_sessions(&supervisor, &gate).await;
        sleep(SECOND / 2).await;
        assert_eq!(by_session(&told)["A"], [START]);
        assert_eq!(by_session(&told)["B"], [START, END]);
        assert_eq!(status(&supervisor).await.owed, 2);
        settled(&supervisor).await;
        assert_eq!(by_session(&told)["A"], [START, START, START, END]);
        assert_eq!(by_session(&told)["B"], [START, END]);
    });
}

#[test]
fn a_call_that_panics_or_finds_the_plugin_down_is_made_again_and_the_others_are_not() {
    for wrong in [panic as fn() -> _, down] {
        in_virtual_time(async move |harness| {
            let (plugin, told, gate) = gated(wrong_about_a(2, wrong));
            let supervisor = harness.start(builder().plugin(plugin)).await;
            batch_of_two_sessions(&supervisor, &gate).await;
            settled(&supervisor).await;
            assert_eq!(by_session(&told)["A"], [START, START, START, END]);
            assert_eq!(by_session(&told)["B"], [START, END]);
            assert_eq!(status(&supervisor).await.dead, 0);
        });
    }
}

#[test]
fn a_plugin_that_is_down_for_long_has_no_dead_letters() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated(wrong_about_a(15, down));
        let supervisor = harness.start(builder().plugin(plugin)).await;
        batch_of_two_sessions(&supervisor, &gate).await;
        sleep(3000 * SECOND).await;
        assert_eq!(by_session(&told)["A"].len(), 17);
        let seen = status(&supervisor).await;
        assert_eq!((seen.owed, seen.dead), (0, 0));
    });
}

#[test]
fn a_session_that_always_hangs_becomes_a_dead_letter_and_the_others_are_told() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder_with("p", |event| async move {
            if is_about(&event, "session_start A") {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        supervisor.finish("A", EndReason::Completed).await;
        supervisor.begin("B").await;
        supervisor.finish("B", EndReason::Completed).await;
        settled(&supervisor).await;
        assert_eq!(by_session(&told)["B"], [START, END]);
        assert!(by_session(&told)["A"].iter().all(|&hook| hook == START));
        assert_eq!(status(&supervisor).await.dead, 2);
    });
}

#[test]
fn a_call_knows_how_long_its_delivery_may_take_and_learns_that_it_was_cut() {
    in_virtual_time(async |harness| {
        let (seen, over) = (Arc::new(Mutex::new(Vec::new())), Gate::new());
        let (left, cut) = (Arc::clone(&seen), over.clone());
        let plugin = PluginSpec::per_session_with_deadline("p", move |event, deadline| {
            left.lock().unwrap().push(deadline.remaining());
            let cut = cut.clone();
            async move {
                if event.hook() == Hook::SessionStart {
                    return Ok(());
                }
                // It outlives the call, as a job for another thread would.
                actix_rt::spawn(async move {
                    deadline.over().await;
                    assert!(deadline.is_over() && deadline.remaining().is_zero());
                    cut.open();
                });
                std::future::pending().await
            }
        });
        let supervisor = harness.start(builder().plugin(plugin)).await;
        supervisor.begin("A").await;
        settled(&supervisor).await;
        supervisor.finish("A", EndReason::Completed).await;
        sleep(10 * MILLIS).await;
        let began = Instant::now();
        let (_, report) = tokio::join!(over.pass(), supervisor.shutdown(Shutdown::now()));
        assert!(began.elapsed() < 3 * SECOND, "cut before its time");
        assert!(report.unwrap().drain.timed_out);
        assert_eq!(*seen.lock().unwrap(), [5 * SECOND, 5 * SECOND]);
    });
}
