//! What holds when the ledger fails at what it is asked beside starts and ends.

use std::time::Duration;

use session_supervisor::testing::recorder;
use session_supervisor::{Error, Outcome, Shutdown};
use tokio::time::{Instant, sleep};

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{builder, in_virtual_time, session};

#[test]
fn a_ledger_that_refuses_appends_is_not_ready_though_it_notes_signs_of_life() {
    in_virtual_time(async |harness| {
        let ledger = FaultyLedger::durable();
        let supervisor = harness.start(builder().ledger(ledger.clone())).await;
        assert!(supervisor.is_ready());
        ledger.breaks(Call::Append, 0, Fault::FailsOnce);
        let refused = supervisor.started(session("A")).await;
        assert!(matches!(refused, Err(Error::Ledger(_))));
        assert!(!supervisor.is_ready());
        sleep(Duration::from_secs(9)).await;
        assert!(!supervisor.is_ready(), "signs of life say nothing of it");
        assert!(matches!(supervisor.check_ready(), Err(Error::Ledger(_))));
        sleep(Duration::from_secs(2)).await;
        assert!(supervisor.is_ready());
    });
}

#[test]
fn whatever_the_ledger_refuses_is_counted() {
    for call in [Call::KeepAlive, Call::Reclaim, Call::Intend, Call::Stop] {
        in_virtual_time(async move |harness| {
            let ledger = FaultyLedger::durable();
            let supervisor = harness.start(builder().ledger(ledger.clone())).await;
            ledger.breaks(call, 0, Fault::FailsOnce);
            sleep(Duration::from_secs(15)).await;
            supervisor.shutdown(Shutdown::now()).await.unwrap();
            assert_eq!(supervisor.counts().ledger_errors, 1, "{call:?}");
        });
    }
}

#[test]
fn g4_a_ledger_that_hangs_at_the_end_of_a_stop_is_waited_for_inside_the_budget() {
    in_virtual_time(async |harness| {
        let (ledger, (plugin, _)) = (FaultyLedger::durable(), recorder("p"));
        let teardown = Duration::from_secs(1);
        let builder = builder().plugin(plugin).ledger(ledger.clone());
        let builder = builder.cap(Duration::from_secs(2)).teardown(teardown);
        let builder = builder.teardown_step("hangs", std::future::pending);
        let supervisor = harness.start(builder).await;
        ledger.breaks(Call::Stop, 0, Fault::Hangs);
        let (shutdown, asked_at) = (Shutdown::now(), Instant::now());
        // As if everything up to here had taken its time.
        sleep(Duration::from_millis(1950)).await;
        let report = supervisor.shutdown(shutdown).await.unwrap();
        let took = asked_at.elapsed();
        // Cap, teardown, and the least that is left for the report; its patience is 250 ms.
        assert!(took <= Duration::from_millis(3050), "{took:?}");
        assert_eq!(report.outcome, Outcome::Clean);
    });
}
