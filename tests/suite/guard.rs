//! Sessions that guards hold.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use actix::prelude::SendError;
use futures_util::FutureExt as _;
use session_supervisor::testing::{Harness, Recording, recorder};
use session_supervisor::{
    Builder, EndDetails, EndMatching, EndReason, EndedSession, Error, MAX_DETAIL_BYTES, NewSession,
    SessionFilter, SessionGuard, SessionSupervisor, Shutdown, Threads, Touch,
};
use tokio::time::sleep;

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time, session, session_with_key};

const SECOND: Duration = Duration::from_secs(1);

async fn start(
    harness: &Harness,
    change: impl FnOnce(Builder) -> Builder,
) -> (SessionSupervisor, Recording) {
    let (plugin, told) = recorder("p");
    let supervisor = harness.start(change(builder().plugin(plugin))).await;
    (supervisor, told)
}

async fn guard(supervisor: &SessionSupervisor, new: NewSession) -> SessionGuard {
    supervisor.guard(new).await.expect("it starts")
}

#[test]
fn g1_a_session_ends_when_its_guard_is_dropped() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let held = guard(&supervisor, session("A")).await;
        assert!(held.started().is_new);
        assert_eq!(supervisor.active_ids().await, ["A"]);
        drop(held);
        told.wait_for(2).await;
        assert_eq!(
            told.lines(),
            ["session_start A", "session_end A disconnected"]
        );
        assert!(supervisor.active_ids().await.is_empty());
    });
}

#[test]
fn g1_a_session_has_failed_when_what_holds_its_guard_panics() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let held = guard(&supervisor, session("A")).await;
        // As a panic does, but without a word on standard error.
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = held;
            resume_unwind(Box::new("a handler panics"));
        }));
        assert!(panicked.is_err());

        let held = guard(&supervisor, session("B")).await;
        let task = actix::spawn(async move {
            let held = held;
            held.touch().await.unwrap();
            resume_unwind(Box::new("a task panics"));
        });
        assert!(task.await.is_err_and(|error| error.is_panic()));
        told.wait_for(4).await;
        assert_eq!(told.ends(), ["A failed", "B failed"]);
    });
}

#[test]
fn a_guard_is_finished_by_what_came_of_the_work() {
    in_virtual_time(async |harness| {
        let (supervisor, _) = start(harness, |it| it).await;
        let mut ends = Vec::new();
        let long = "é".repeat(MAX_DETAIL_BYTES);
        for (n, outcome) in [Ok(()), Err("no disk"), Err(&long)].iter().enumerate() {
            let held = guard(&supervisor, session(&format!("{n}"))).await;
            let Ok(EndedSession::Now(record)) = held.finish_by(outcome).await else {
                panic!("{outcome:?}");
            };
            let end = record.end.unwrap().0;
            ends.push((end.reason, end.details.detail.clone()));
        }
        let cut = "é".repeat(MAX_DETAIL_BYTES / 2);
        let failed = |text: &str| (EndReason::Failed, Some(text.into()));
        let completed = (EndReason::Completed, None);
        assert_eq!(ends, [completed, failed("no disk"), failed(&cut)]);
    });
}

#[test]
fn a_guard_is_finished_with_any_reason_but_those_that_only_the_supervisor_finds() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        for &reason in EndReason::ALL {
            let held = guard(&supervisor, session(reason.as_str())).await;
            let answer = held.finish(reason).await;
            if reason.is_reserved() {
                let Err(Error::Invalid(invalid)) = answer else {
                    panic!("{reason} is accepted");
                };
                assert_eq!(invalid.field, "reason");
            } else {
                let Ok(EndedSession::Now(record)) = answer else {
                    panic!("{reason}: {answer:?}");
                };
                assert_eq!(record.end.unwrap().0.reason, reason);
            }
        }
        told.wait_for(2 * EndReason::ALL.len()).await;
        let mut expected: Vec<_> = EndReason::ALL
            .iter()
            .map(|reason| match reason.is_reserved() {
                true => format!("{reason} disconnected"),
                false => format!("{reason} {reason}"),
            })
            .collect();
        expected.sort();
        assert_eq!(told.ends(), expected);
    });
}

#[test]
fn a_guard_that_is_finished_has_ended_whether_that_is_waited_for_or_not() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let held = guard(&supervisor, session("A")).await;
        let details = EndDetails::default().with_message_count(3);
        drop(held.finish_with(EndReason::Completed, details));
        told.wait_for(2).await;
        assert_eq!(told.ends(), ["A completed"]);
        let end = told.events()[1].how_ended().unwrap().clone();
        assert_eq!(end.details.message_count, Some(3));
    });
}

#[test]
fn g1_a_guard_for_which_nobody_waits_any_more_ends_its_session() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let (supervisor, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        ledger.breaks(Call::Append, 0, Fault::Slow(100));
        let mut asked = Box::pin(supervisor.guard(session("A")));
        assert!((&mut asked).now_or_never().is_none());
        // It is being recorded when whoever asked goes.
        sleep(SECOND / 20).await;
        drop(asked);
        sleep(SECOND).await;
        assert_eq!(
            told.lines(),
            ["session_start A", "session_end A disconnected"]
        );
    });
}

#[test]
fn g1_guards_lose_nothing_when_the_mailbox_of_the_registry_is_full() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let mut guards = Vec::new();
        for n in 0..300 {
            guards.push(guard(&supervisor, session(&format!("s{n}"))).await);
        }
        // The registry does not run before this waits.
        let registry = supervisor.registry().clone();
        loop {
            match registry.try_send(Touch::new(id("s0"))) {
                Ok(()) => {}
                Err(SendError::Full(_)) => break,
                Err(SendError::Closed(_)) => panic!("the registry is gone"),
            }
        }
        for (n, held) in guards.into_iter().enumerate() {
            // From here on a sender that can wait would have to.
            assert!(held.touch().now_or_never().is_none());
            match n % 2 {
                0 => drop(held),
                _ => drop(held.finish(EndReason::Completed)),
            }
        }
        told.wait_for(600).await;
        let ends = told.ends();
        let of = |reason| ends.iter().filter(|end| end.ends_with(reason)).count();
        assert_eq!((of(" disconnected"), of(" completed")), (150, 150));
    });
}

#[test]
fn g1_guards_may_be_dropped_where_no_runtime_is() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    };
    let (plugin, told) = recorder("p");
    let first = runtime();
    let (supervisor, one, other) = first.block_on(async {
        let builder = SessionSupervisor::builder().plugin(plugin);
        let supervisor = builder.start().await.unwrap();
        let one = guard(&supervisor, session("A")).await;
        let other = guard(&supervisor, session("B")).await;
        (supervisor, one, other)
    });
    std::thread::spawn(move || drop(one)).join().unwrap();
    // What it was made in is gone.
    drop(first);
    drop(other);
    runtime().block_on(async {
        told.wait_for(4).await;
        assert_eq!(told.ends(), ["A disconnected", "B disconnected"]);
        supervisor.shutdown(Shutdown::now()).await.unwrap();
    });
}

#[test]
fn g1_an_end_that_the_ledger_refuses_is_tried_again_though_its_guard_is_gone() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::new();
        let (supervisor, told) = start(harness, |it| it.ledger(ledger.clone())).await;
        let one = guard(&supervisor, session("A")).await;
        let other = guard(&supervisor, session("B")).await;
        ledger.breaks(Call::Append, 0, Fault::Fails);
        drop(one);
        let refused = other.finish(EndReason::Completed).await;
        assert!(matches!(refused, Err(Error::Ledger(_))), "{refused:?}");
        sleep(10 * SECOND).await;
        assert_eq!(supervisor.active_ids().await, ["A", "B"]);
        ledger.heal();
        sleep(2 * SECOND).await;
        assert_eq!(told.ends(), ["A disconnected", "B completed"]);
    });
}

#[test]
fn a_guard_that_is_dropped_once_a_stop_was_asked_for_leaves_its_session_to_that() {
    let stops: [(fn() -> Shutdown, _); 2] = [
        (Shutdown::now, "A shutdown"),
        (|| Shutdown::for_restart(SECOND), "A restart"),
    ];
    for (stop, end) in stops {
        in_virtual_time(async |harness| {
            let (supervisor, told) = start(harness, |it| it).await;
            let held = guard(&supervisor, session("A")).await;
            let mut report = Box::pin(supervisor.shutdown(stop()));
            assert!((&mut report).now_or_never().is_none());
            // Its end is in the registry's mailbox before the door is closed there.
            drop(held);
            assert_eq!(report.await.unwrap().drain.sessions, 1);
            assert_eq!(told.ends(), [end]);
        });
    }
}

#[test]
fn a_guard_hears_why_its_session_has_ended() {
    in_virtual_time(async |harness| {
        let (supervisor, _) = start(harness, |it| it.idle_after(60 * SECOND)).await;
        let by_operator = guard(&supervisor, session("A")).await;
        let by_other = guard(&supervisor, session_with_key("B", "k")).await;
        let by_idleness = guard(&supervisor, session("C")).await;
        assert!(by_operator.ended().now_or_never().is_none());

        let all = EndMatching::new(SessionFilter::default(), EndReason::Closed);
        let taken = guard(&supervisor, session_with_key("D", "k")).await;
        assert_eq!(taken.started().replaced, Some(id("B")));
        assert_eq!(by_other.ended().await.unwrap(), EndReason::Replaced);
        supervisor.finish("A", EndReason::Closed).await;
        assert_eq!(by_operator.ended().await.unwrap(), EndReason::Closed);
        // Whoever asks later is answered as well.
        assert_eq!(by_operator.ended().await.unwrap(), EndReason::Closed);

        sleep(40 * SECOND).await;
        taken.touch().await.unwrap();
        assert_eq!(by_idleness.ended().await.unwrap(), EndReason::Idle);
        assert!(matches!(
            by_idleness.touch().await,
            Err(Error::NotActive(_))
        ));
        assert!(taken.ended().now_or_never().is_none());
        supervisor.end_matching(all).await.unwrap();
        assert_eq!(taken.ended().await.unwrap(), EndReason::Closed);

        let to_the_end = guard(&supervisor, session("E")).await;
        let (report, reason) =
            tokio::join!(supervisor.shutdown(Shutdown::now()), to_the_end.ended());
        assert_eq!(report.unwrap().drain.sessions, 1);
        assert_eq!(reason.unwrap(), EndReason::Shutdown);
    });
}

#[test]
fn a_guard_whose_supervisor_was_torn_down_says_so() {
    let system = actix::System::new();
    let held = system.block_on(async {
        let builder = SessionSupervisor::builder().threads(Threads::Current);
        let supervisor = builder.start().await.unwrap();
        guard(&supervisor, session("A")).await
    });
    drop(system);
    let told = held.ended().now_or_never();
    assert!(matches!(told, Some(Err(Error::Stopped))), "{told:?}");
    let finished = held.finish(EndReason::Completed).now_or_never();
    assert!(
        matches!(finished, Some(Err(Error::Stopped))),
        "{finished:?}"
    );
}

#[test]
fn of_several_guards_of_one_incarnation_the_first_that_goes_ends_it_and_no_later_one() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let one = guard(&supervisor, session("A")).await;
        let other = guard(&supervisor, session("A")).await;
        assert!(!other.started().is_new);
        drop(other);
        assert_eq!(one.ended().await.unwrap(), EndReason::Disconnected);
        // Another life of the same id is not theirs.
        let next = guard(&supervisor, session("A")).await;
        let answer = one.finish(EndReason::Completed).await.unwrap();
        assert!(matches!(answer, EndedSession::Unchanged(_)), "{answer:?}");
        assert_eq!(supervisor.active_ids().await, ["A"]);
        assert!(next.ended().now_or_never().is_none());
        next.finish(EndReason::Reset).await.unwrap();
        told.wait_for(4).await;
        assert_eq!(told.ends(), ["A disconnected", "A reset"]);
    });
}

#[test]
fn a_guard_that_is_disarmed_lets_its_session_go_on() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        let held = guard(&supervisor, session("A")).await;
        let started = held.disarm();
        assert_eq!(started.session.id, id("A"));
        sleep(SECOND).await;
        assert_eq!(supervisor.active_ids().await, ["A"]);
        assert!(told.ends().is_empty());
    });
}

#[test]
fn g10_no_guard_is_given_once_the_door_is_closed() {
    in_virtual_time(async |harness| {
        let (supervisor, told) = start(harness, |it| it).await;
        supervisor.shutdown(Shutdown::now()).await.unwrap();
        let refused = supervisor.guard(session("A")).await;
        assert!(matches!(refused, Err(Error::ShuttingDown)), "{refused:?}");
        assert!(told.lines().is_empty());
    });
}
