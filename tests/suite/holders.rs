//! Sessions that other programs hold (G11): their leases, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use session_supervisor::testing::{Harness, Recording, gated, recorder};
use session_supervisor::{
    Builder, End, EndReason, Ended, EndedSession, Error, Hold, HolderId, Hook, LeaseState,
    NewSession, Refusal, RunId, SessionId, SessionSupervisor, Shutdown, StartedSession,
};
use tokio::time::{Instant, sleep};

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time, session};

const SECOND: Duration = Duration::from_secs(1);

fn holder(name: &str) -> HolderId {
    name.parse().expect("a valid holder")
}

fn run(name: &str) -> RunId {
    name.parse().expect("a valid run")
}

fn held_by(text: &str, name: &str, run_id: Option<&str>) -> NewSession {
    let mut new = session(text);
    new.holder = Some(holder(name));
    new.run_id = run_id.map(run);
    new
}

/// What tests of holders do all the time.
trait Holding {
    async fn begin_held(
        &self,
        text: &str,
        name: &str,
        run_id: Option<&str>,
    ) -> Result<StartedSession, Error>;
    async fn beat(&self, name: &str, run_id: &str, ttl: Duration) -> Result<(), Error>;
    async fn connect(&self, name: &str, run_id: &str, grace: Duration) -> Hold;
    async fn holder_names(&self) -> Vec<String>;
}

impl Holding for SessionSupervisor {
    async fn begin_held(
        &self,
        text: &str,
        name: &str,
        run_id: Option<&str>,
    ) -> Result<StartedSession, Error> {
        self.started(held_by(text, name, run_id)).await
    }

    async fn beat(&self, name: &str, run_id: &str, ttl: Duration) -> Result<(), Error> {
        self.heartbeat(holder(name), run(run_id), ttl).await
    }

    async fn connect(&self, name: &str, run_id: &str, grace: Duration) -> Hold {
        let hold = self.hold(holder(name), run(run_id), grace).await;
        hold.expect("it takes the lease")
    }

    async fn holder_names(&self) -> Vec<String> {
        let holders = self.holders().await.expect("the registry runs");
        holders.iter().map(|it| it.holder.to_string()).collect()
    }
}

/// A supervisor whose wall clock goes with the virtual one, and what its plugin is told.
async fn start(
    harness: &Harness,
    change: impl FnOnce(Builder) -> Builder,
) -> (SessionSupervisor, Recording) {
    let (plugin, told) = recorder("p");
    let began = Instant::now();
    let clock = move || Timestamp::UNIX_EPOCH + began.elapsed();
    let builder = change(builder().plugin(plugin).wall_clock(clock));
    (harness.start(builder).await, told)
}

/// How the session ended whose end was told last.
fn last_end(told: &Recording) -> Arc<End> {
    let events = told.events();
    let last = events.last().and_then(|event| event.how_ended());
    Arc::clone(last.expect("the last event is an end"))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

#[test]
fn g11_when_heartbeats_stop_every_session_of_that_holder_ends_once_and_no_other() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        for (text, name) in [("A", "h"), ("B", "h"), ("C", "other")] {
            supervisor
                .begin_held(text, name, Some("run-1"))
                .await
                .unwrap();
        }
        supervisor.begin("ours").await;
        supervisor
            .beat("other", "run-1", 100 * SECOND)
            .await
            .unwrap();
        for _ in 0..3 {
            supervisor.beat("h", "run-1", 10 * SECOND).await.unwrap();
            sleep(9 * SECOND).await;
        }
        assert!(told.ends().is_empty());
        // The last one was at 18 s.
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A lost", "B lost"]);
        let end = last_end(&told);
        let times = [end.ended_at, end.detected_at].map(Timestamp::as_second);
        assert_eq!(times, [18, 28]);
        assert!(end.reason.resumable());
        assert_eq!(supervisor.active_ids().await, ["C", "ours"]);
        assert_eq!(supervisor.holder_names().await, ["other"]);
        assert_eq!(supervisor.counts().holders_lost, 1);
    });
}

#[test]
fn g11_a_lease_lasts_as_long_as_its_connection_and_its_grace() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor
            .begin_held("A", "h", Some("run-1"))
            .await
            .unwrap();
        let hold = supervisor.connect("h", "run-1", 5 * SECOND).await;
        sleep(3600 * SECOND).await;
        let holders = supervisor.holders().await.unwrap();
        assert_eq!(
            (holders[0].lease, holders[0].expires_in_ms),
            (LeaseState::Connected, None)
        );
        assert_eq!(holders[0].sessions, 1);

        // It is back in time.
        drop(hold);
        sleep(4 * SECOND).await;
        let holders = supervisor.holders().await.unwrap();
        assert_eq!(
            (holders[0].lease, holders[0].expires_in_ms),
            (LeaseState::Disconnected, Some(999))
        );
        let hold = supervisor.connect("h", "run-1", 5 * SECOND).await;
        sleep(60 * SECOND).await;
        assert!(told.ends().is_empty());

        drop(hold);
        sleep(6 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
        let end = last_end(&told);
        assert_eq!(end.ended_at.as_second(), 3664);
    });
}

#[test]
fn g11_with_both_the_lease_ends_with_the_last_of_them() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        let hold = supervisor.connect("h", "run-1", SECOND).await;
        supervisor.beat("h", "run-1", 30 * SECOND).await.unwrap();
        drop(hold);
        sleep(29 * SECOND).await;
        assert!(told.ends().is_empty());
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
    });
}

#[test]
fn g11_a_second_connection_of_a_run_replaces_the_first() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        let first = supervisor.connect("h", "run-1", SECOND).await;
        let second = supervisor.connect("h", "run-1", SECOND).await;
        first.replaced().await;
        drop(first);
        sleep(10 * SECOND).await;
        assert!(told.ends().is_empty());
        drop(second);
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
    });
}

#[test]
fn g11_a_holder_that_is_mentioned_has_a_minute_to_take_a_lease() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        supervisor.begin_held("B", "late", None).await.unwrap();
        sleep(59 * SECOND).await;
        supervisor.beat("h", "run-1", 100 * SECOND).await.unwrap();
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["B lost"]);
        // What was started before it has a lease is its first run's: also when that run is over.
        supervisor.beat("h", "run-2", 100 * SECOND).await.unwrap();
        told.wait_for(4).await;
        assert_eq!(told.ends(), ["A crash", "B lost"]);
    });
}

#[test]
fn g11_another_run_ends_the_sessions_of_the_one_before_which_can_change_nothing_any_more() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let first = supervisor.connect("h", "run-1", 5 * SECOND).await;
        supervisor
            .begin_held("A", "h", Some("run-1"))
            .await
            .unwrap();
        supervisor.begin_held("B", "h", None).await.unwrap();
        supervisor.begin_held("C", "other", None).await.unwrap();
        sleep(SECOND).await;

        // It takes over by a start, of an id that the run before has too.
        let started = supervisor
            .begin_held("A", "h", Some("run-2"))
            .await
            .unwrap();
        assert!(started.is_new);
        assert_eq!(started.session.run_id(), Some(&run("run-2")));
        first.replaced().await;
        told.wait_for(6).await;
        assert_eq!(told.ends(), ["A crash", "B crash"]);
        assert_eq!(supervisor.active_ids().await, ["A", "C"]);

        let over = supervisor
            .begin_held("D", "h", Some("run-1"))
            .await
            .unwrap_err();
        assert!(matches!(over, Error::RunIsOver { .. }), "{over}");
        let over = supervisor.beat("h", "run-1", 5 * SECOND).await.unwrap_err();
        assert!(matches!(over, Error::RunIsOver { .. }), "{over}");
        let over = supervisor.hold(holder("h"), run("run-1"), SECOND).await;
        assert!(matches!(over, Err(Error::RunIsOver { .. })));
        let over = supervisor
            .reconcile(holder("h"), run("run-1"), Vec::new())
            .await;
        assert!(matches!(over, Err(Error::RunIsOver { .. })));
        assert_eq!(supervisor.counts().refused[&Refusal::HeldElsewhere], 1);
        assert_eq!(supervisor.active_ids().await, ["A", "C"]);
        // That its connection goes is nothing to the run that has taken over.
        drop(first);
        sleep(30 * SECOND).await;
        assert_eq!(supervisor.active_ids().await, ["A", "C"]);
    });
}

#[test]
fn g11_what_a_holder_has_is_not_for_others_to_start_again() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        for other in [held_by("A", "other", None), session("A")] {
            let refused = supervisor.started(other).await.unwrap_err();
            assert!(matches!(refused, Error::HeldElsewhere { .. }), "{refused}");
        }
        // Its own holder gives it new details, and what nobody holds may get a holder.
        assert!(!supervisor.begin_held("A", "h", None).await.unwrap().is_new);
        supervisor.begin("B").await;
        assert!(!supervisor.begin_held("B", "h", None).await.unwrap().is_new);
        sleep(61 * SECOND).await;
        assert_eq!(told.ends(), ["A lost", "B lost"]);
    });
}

#[test]
fn g11_what_a_holder_does_not_list_is_lost_and_it_learns_what_is_not_its_own() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        for text in ["A", "B", "C"] {
            supervisor
                .begin_held(text, "h", Some("run-1"))
                .await
                .unwrap();
        }
        supervisor.begin_held("X", "other", None).await.unwrap();
        let ids = ["B", "X", "gone"].map(id).to_vec();
        let reconciled = supervisor
            .reconcile(holder("h"), run("run-1"), ids)
            .await
            .unwrap();
        assert_eq!(reconciled.ended, 2);
        assert_eq!(reconciled.not_active, ["X", "gone"].map(id));
        told.wait_for(6).await;
        assert_eq!(told.ends(), ["A lost", "C lost"]);
        assert_eq!(supervisor.active_ids().await, ["B", "X"]);
    });
}

#[test]
fn g11_a_holder_that_says_it_stops_is_answered_when_every_plugin_was_told() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let hold = supervisor.connect("h", "run-1", 5 * SECOND).await;
        for text in ["A", "B"] {
            supervisor.begin_held(text, "h", None).await.unwrap();
        }
        supervisor.begin_held("C", "other", None).await.unwrap();
        let ended = supervisor
            .end_holder(holder("h"), None, EndReason::Restart, SECOND)
            .await;
        assert_eq!(ended.unwrap(), 2);
        assert_eq!(told.ends(), ["A restart", "B restart"]);
        hold.replaced().await;
        assert_eq!(supervisor.holder_names().await, ["other"]);
        assert_eq!(supervisor.counts().holders_lost, 0);
        let again = supervisor
            .end_holder(holder("h"), None, EndReason::Restart, SECOND)
            .await;
        assert_eq!(again.unwrap(), 0);
        let reserved = supervisor
            .end_holder(holder("h"), None, EndReason::Lost, SECOND)
            .await;
        assert!(matches!(reserved, Err(Error::Invalid(_))));
    });
}

#[test]
fn g11_what_its_end_the_holder_comes_back_to_is_another_incarnation() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let first = supervisor
            .begin_held("A", "h", Some("run-1"))
            .await
            .unwrap();
        supervisor.beat("h", "run-1", SECOND).await.unwrap();
        // As if its process were stopped, and went on.
        sleep(5 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
        assert!(!supervisor.touch_id("A").await);
        let mut ended = Ended::new(id("A"), EndReason::Completed);
        ended.incarnation = Some(first.session.incarnation);
        let unchanged = supervisor.ended(ended).await.unwrap();
        assert!(matches!(unchanged, EndedSession::Unchanged(_)));
        let again = supervisor
            .begin_held("A", "h", Some("run-1"))
            .await
            .unwrap();
        assert!(again.is_new);
        assert_ne!(again.session.incarnation, first.session.incarnation);
        assert_eq!(told.ends(), ["A lost"]);
    });
}

#[test]
fn g11_the_wall_clock_ends_no_lease() {
    in_virtual_time(async |harness| {
        let jump = Arc::new(std::sync::atomic::AtomicI64::new(0));
        let seconds = Arc::clone(&jump);
        let clock = move || at(seconds.load(std::sync::atomic::Ordering::Relaxed));
        let (supervisor, told) = start(harness, |it| it.wall_clock(clock)).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        supervisor.beat("h", "run-1", 10 * SECOND).await.unwrap();
        jump.store(86_400, std::sync::atomic::Ordering::Relaxed);
        sleep(9 * SECOND).await;
        assert!(told.ends().is_empty());
        jump.store(-86_400, std::sync::atomic::Ordering::Relaxed);
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
    });
}

#[test]
fn g11_a_supervisor_that_did_not_run_for_a_while_ends_no_lease_for_it() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        for (text, name) in [("A", "h"), ("B", "silent")] {
            supervisor.begin_held(text, name, None).await.unwrap();
            supervisor.beat(name, "run-1", 10 * SECOND).await.unwrap();
        }
        // The clock is ahead of all timers at once, as when the process was stopped.
        tokio::time::advance(100 * SECOND).await;
        // It looks at the leases before it hears of anybody.
        sleep(SECOND / 2).await;
        assert!(told.ends().is_empty());
        supervisor.beat("h", "run-1", 10 * SECOND).await.unwrap();
        sleep(SECOND).await;
        assert_eq!(told.ends(), ["B lost"]);
        let end = last_end(&told);
        let times = [end.ended_at, end.detected_at].map(Timestamp::as_second);
        assert_eq!(times, [0, 101]);
        sleep(8 * SECOND).await;
        assert_eq!(told.ends(), ["B lost"]);
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A lost", "B lost"]);
    });
}

#[test]
fn g11_what_is_malformed_is_refused() {
    in_virtual_time(async |harness| {
        let (supervisor, _) = start(harness, |it| it).await;
        for ttl in [Duration::from_millis(999), Duration::from_millis(3_600_001)] {
            let refused = supervisor.beat("h", "run-1", ttl).await.unwrap_err();
            assert!(
                refused
                    .to_string()
                    .contains("ttl_ms: must be 1000 to 3600000"),
                "{refused}"
            );
        }
        let long = Duration::from_secs(3601);
        let refused = supervisor
            .hold(holder("h"), run("run-1"), long)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("grace_ms"), "{refused}");
        let mut new = session("A");
        new.run_id = Some(run("run-1"));
        let refused = supervisor.started(new).await.unwrap_err();
        assert!(refused.to_string().contains("run_id"), "{refused}");
        assert!(supervisor.holder_names().await.is_empty());
    });
}

#[test]
fn g11_a_restart_leaves_what_is_held_and_the_next_run_gives_it_a_lease_to_come_back() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::durable();
        let (first, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        first.begin_held("A", "back", Some("run-1")).await.unwrap();
        let incarnation = first.begin_held("B", "gone", Some("run-1")).await.unwrap();
        let incarnation = incarnation.session.incarnation;
        first.begin("ours").await;
        let _hold = first.connect("back", "run-1", 5 * SECOND).await;
        first.beat("gone", "run-1", 90 * SECOND).await.unwrap();
        let report = first.shutdown(Shutdown::for_restart(SECOND)).await.unwrap();
        assert_eq!(told.ends(), ["ours restart"]);
        assert_eq!(report.drain.sessions, 1);

        let (second, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        assert_eq!(second.active_ids().await, ["A", "B"]);
        let _hold = second.connect("back", "run-1", 5 * SECOND).await;
        let ids = vec![id("A")];
        let reconciled = second
            .reconcile(holder("back"), run("run-1"), ids)
            .await
            .unwrap();
        assert_eq!((reconciled.ended, reconciled.not_active.len()), (0, 0));
        // As long as its last lease.
        sleep(89 * SECOND).await;
        assert!(told.ends().is_empty());
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["B lost"]);
        let last = told.events().pop().unwrap();
        assert_eq!(last.session().unwrap().incarnation, incarnation);

        // A shutdown ends all.
        second.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(told.ends(), ["A shutdown", "B lost"]);
    });
}

#[test]
fn g11_another_run_after_a_restart_ends_what_the_one_before_had() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::durable();
        let (first, _) = start(harness, |it| it.ledger(ledger.clone())).await;
        first.begin_held("A", "h", Some("run-1")).await.unwrap();
        first.shutdown(Shutdown::for_restart(SECOND)).await.unwrap();

        let (second, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        second.beat("h", "run-2", 90 * SECOND).await.unwrap();
        told.wait_for(1).await;
        assert_eq!(told.ends(), ["A crash"]);
        let over = second.beat("h", "run-1", 90 * SECOND).await.unwrap_err();
        assert!(matches!(over, Error::RunIsOver { .. }), "{over}");
    });
}

#[test]
fn g11_a_restart_with_a_ledger_that_ends_with_the_process_ends_what_is_held_too() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        supervisor
            .shutdown(Shutdown::for_restart(SECOND))
            .await
            .unwrap();
        assert_eq!(told.ends(), ["A restart"]);
    });
}

#[test]
fn g11_ends_that_the_ledger_refuses_are_tried_again() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let (supervisor, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        supervisor
            .begin_held("B", "h", Some("run-1"))
            .await
            .unwrap();
        supervisor
            .begin_held("C", "run-over", Some("run-1"))
            .await
            .unwrap();
        supervisor.beat("h", "run-1", 10 * SECOND).await.unwrap();
        ledger.breaks(Call::Append, 0, Fault::Fails);
        supervisor
            .beat("run-over", "run-2", 100 * SECOND)
            .await
            .unwrap();
        sleep(20 * SECOND).await;
        assert!(told.ends().is_empty());
        ledger.heal();
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A lost", "B lost", "C crash"]);
        assert_eq!(supervisor.holder_names().await, ["run-over"]);
    });
}

#[test]
fn g11_half_of_very_many_holders_die_at_once() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let (holders, each) = (100, 20);
        for number in 0..holders {
            let name = format!("holder-{number}");
            for session in 0..each {
                let text = format!("{number}-{session}");
                supervisor.begin_held(&text, &name, None).await.unwrap();
            }
            supervisor.beat(&name, "run", 10 * SECOND).await.unwrap();
        }
        sleep(5 * SECOND).await;
        for number in (0..holders).filter(|number| number % 2 == 0) {
            let name = format!("holder-{number}");
            supervisor.beat(&name, "run", 100 * SECOND).await.unwrap();
        }
        sleep(10 * SECOND).await;
        let ends = told.ends();
        assert_eq!(ends.len(), holders / 2 * each);
        let is_of_odd = |end: &String| {
            let (number, _) = end.split_once('-').unwrap();
            number.parse::<usize>().unwrap() % 2 == 1 && end.ends_with("lost")
        };
        assert!(ends.iter().all(is_of_odd));
        let mut ids: Vec<SessionId> = Vec::new();
        ids.extend(
            supervisor
                .snapshot()
                .await
                .unwrap()
                .iter()
                .map(|it| it.id.clone()),
        );
        assert_eq!(ids.len(), holders / 2 * each);
        assert_eq!(supervisor.holder_names().await.len(), holders / 2);
    });
}

#[test]
fn g11_what_a_holder_is_reaches_the_ledger_though_that_refused_it_at_first() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::durable();
        let (first, _) = start(harness, |it| it.ledger(ledger.clone())).await;
        first.begin_held("A", "h", Some("run-1")).await.unwrap();
        ledger.breaks(Call::KeepHolder, 0, Fault::FailsOnce);
        let refused = first.beat("h", "run-2", 90 * SECOND).await;
        assert!(matches!(refused, Err(Error::Ledger(_))), "{refused:?}");
        first.beat("h", "run-2", 90 * SECOND).await.unwrap();
        first.begin_held("B", "h", Some("run-2")).await.unwrap();
        first.shutdown(Shutdown::for_restart(SECOND)).await.unwrap();

        let (second, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        sleep(SECOND).await;
        assert_eq!(second.active_ids().await, ["B"]);
        assert!(told.ends().is_empty());
    });
}

#[test]
fn g11_a_program_that_stops_while_the_gateway_restarts_ends_its_sessions_itself() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::durable();
        let (plugin, told, gate) = gated("slow", Hook::SessionEnd);
        let builder = builder().plugin(plugin).ledger(ledger.clone());
        let supervisor = harness.start(builder).await;
        supervisor.begin_held("A", "h", None).await.unwrap();
        supervisor.begin("ours").await;
        let restart = supervisor.begin_shutdown(Shutdown::for_restart(SECOND));
        restart.await.unwrap();
        told.wait_for(3).await;
        let ended = supervisor
            .end_holder(holder("h"), None, EndReason::Shutdown, Duration::ZERO)
            .await;
        assert_eq!(ended.unwrap(), 1);
        gate.open();
        supervisor.stopped().await.unwrap();
        assert_eq!(told.ends(), ["A shutdown", "ours restart"]);
    });
}

#[test]
fn g11_a_run_that_was_superseded_ended_at_its_own_last_sign_of_life() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor
            .begin_held("A", "h", Some("run-1"))
            .await
            .unwrap();
        sleep(10 * SECOND).await;
        supervisor.beat("h", "run-1", 100 * SECOND).await.unwrap();
        sleep(40 * SECOND).await;
        supervisor.beat("h", "run-2", 100 * SECOND).await.unwrap();
        told.wait_for(2).await;
        let end = last_end(&told);
        let times = [end.ended_at, end.detected_at].map(Timestamp::as_second);
        assert_eq!((end.reason, times), (EndReason::Crash, [10, 50]));
    });
}

#[test]
fn g11_a_run_that_was_lost_can_not_take_over_from_the_one_that_came_after_it() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        // Its process is stopped, and loses its lease; another one comes; then it goes on.
        supervisor.begin_held("A", "h", Some("old")).await.unwrap();
        supervisor.beat("h", "old", SECOND).await.unwrap();
        sleep(5 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
        // Started before that has a lease, and so without a run.
        supervisor.begin_held("B", "h", None).await.unwrap();
        supervisor.beat("h", "new", 60 * SECOND).await.unwrap();
        let over = supervisor.beat("h", "old", SECOND).await.unwrap_err();
        assert!(matches!(over, Error::RunIsOver { .. }), "{over}");
        sleep(SECOND).await;
        assert_eq!(supervisor.active_ids().await, ["B"]);

        // And after an orderly end.
        let end = supervisor.end_holder(holder("h"), None, EndReason::Shutdown, SECOND);
        assert_eq!(end.await.unwrap(), 1);
        supervisor.beat("h", "newest", 60 * SECOND).await.unwrap();
        for before in ["old", "new"] {
            let over = supervisor.beat("h", before, SECOND).await.unwrap_err();
            assert!(matches!(over, Error::RunIsOver { .. }), "{over}");
        }
        assert_eq!(told.ends(), ["A lost", "B shutdown"]);
        // The last one may come back as long as no other has.
        supervisor.beat("alone", "run-1", SECOND).await.unwrap();
        sleep(5 * SECOND).await;
        supervisor.beat("alone", "run-1", SECOND).await.unwrap();
    });
}

#[test]
fn g11_leases_that_end_while_the_ledger_refuses_everything_are_not_forgotten() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let (supervisor, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        for (name, millis) in [("one", 1000), ("three", 2400), ("two", 1700)] {
            let ttl = Duration::from_millis(millis);
            supervisor.begin_held(name, name, Some("r")).await.unwrap();
            supervisor.beat(name, "r", ttl).await.unwrap();
        }
        ledger.breaks(Call::Append, 0, Fault::Fails);
        sleep(8 * SECOND).await;
        assert!(told.ends().is_empty());
        ledger.heal();
        sleep(3 * SECOND).await;
        let mut ends = told.ends();
        ends.sort();
        assert_eq!(ends, ["one lost", "three lost", "two lost"]);
        assert!(supervisor.holder_names().await.is_empty());
    });
}

#[test]
fn g11_a_session_whose_lease_ends_while_new_details_are_refused_ends() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let (supervisor, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        supervisor.begin_held("A", "h", Some("r")).await.unwrap();
        supervisor.beat("h", "r", SECOND).await.unwrap();
        ledger.breaks(Call::Append, 0, Fault::FailsLate(3000));
        let again = supervisor.begin_held("A", "h", Some("r"));
        let heals = async {
            sleep(2 * SECOND).await;
            ledger.heal();
        };
        let (refused, ()) = tokio::join!(again, heals);
        assert!(matches!(refused, Err(Error::Ledger(_))), "{refused:?}");
        sleep(3 * SECOND).await;
        assert_eq!(told.ends(), ["A lost"]);
    });
}

#[test]
fn g11_a_run_that_comes_while_the_one_before_ends_keeps_its_lease() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let (supervisor, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        supervisor.begin_held("A", "h", Some("old")).await.unwrap();
        ledger.breaks(Call::Append, 0, Fault::Slow(2000));
        let (name, old) = (holder("h"), Some(run("old")));
        let end = supervisor.end_holder(name, old.clone(), EndReason::Shutdown, 5 * SECOND);
        let comes = async {
            sleep(SECOND).await;
            supervisor.beat("h", "new", 600 * SECOND).await
        };
        let (ended, beat) = tokio::join!(end, comes);
        assert_eq!((ended.unwrap(), beat.unwrap()), (1, ()));
        assert_eq!(told.ends(), ["A shutdown"]);
        let holders = supervisor.holders().await.unwrap();
        assert_eq!(holders[0].lease, LeaseState::Heartbeat, "{holders:?}");

        // What the old one says from now on is not the new one's.
        ledger.heal();
        supervisor.begin_held("B", "h", Some("new")).await.unwrap();
        let over = supervisor.end_holder(holder("h"), old, EndReason::Shutdown, SECOND);
        let over = over.await.unwrap_err();
        assert!(matches!(over, Error::RunIsOver { .. }), "{over}");
        assert_eq!(supervisor.active_ids().await, ["B"]);
    });
}
