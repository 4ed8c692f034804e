//! Every stream is told of its own ends, late or not.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::registry::Ended;
use crate::session::{EndReason, NewSession, SessionId};
use crate::shutdown::Shutdown;
use crate::supervisor::Threads;

const PATIENCE: Duration = Duration::from_secs(10);

/// One on this thread, as the reader.
async fn start() -> SessionSupervisor {
    let builder = SessionSupervisor::builder().threads(Threads::Current);
    builder.start().await.unwrap()
}

/// One that goes on while the reader's thread, which is this one, stands still.
async fn start_apart() -> SessionSupervisor {
    SessionSupervisor::builder().start().await.unwrap()
}

/// Does `what` while this thread stands still.
fn meanwhile<F: Future<Output = ()>>(what: impl FnOnce() -> F + Send) {
    let run = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(what());
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

fn holder(name: &str) -> HolderId {
    HolderId::new(name).unwrap()
}

async fn start_and_end(supervisor: &SessionSupervisor, id: &str, of: &str) {
    let id = SessionId::new(id).unwrap();
    let mut session = NewSession::new(id.clone());
    session.holder = Some(holder(of));
    supervisor.started(session).await.unwrap();
    let ended = Ended::new(id, EndReason::Completed);
    supervisor.ended(ended).await.unwrap();
}

async fn next(ends: &mut EndsOfHolder) -> Option<Told> {
    timeout(PATIENCE, ends.next()).await.expect("nothing comes")
}

async fn next_id(ends: &mut EndsOfHolder) -> String {
    match next(ends).await {
        Some(Told::End(event)) => event.session().unwrap().id.to_string(),
        other => panic!("{other:?}"),
    }
}

#[actix_web::test]
async fn an_end_comes_to_its_holder_alone() {
    let (supervisor, ends) = (start().await, Ends::default());
    let mut a = ends.of_holder(&supervisor, &holder("a"));
    let mut b = ends.of_holder(&supervisor, &holder("b"));
    let mut again = ends.of_holder(&supervisor, &holder("a"));
    for (id, of) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "c")] {
        start_and_end(&supervisor, id, of).await;
    }
    for a in [&mut a, &mut again] {
        assert_eq!([next_id(a).await, next_id(a).await], ["1", "3"]);
    }
    assert_eq!(next_id(&mut b).await, "2");
}

#[actix_web::test]
async fn a_stream_that_is_too_slow_reads_the_log_itself_until_it_is_back() {
    const BURST: usize = MAX_WAITING * 2;
    let (supervisor, ends) = (start().await, Ends::default());
    let mut slow = ends.of_holder(&supervisor, &holder("a"));
    let (mut ended, mut told, mut was_apart) = (0, 0, false);
    // It is too slow again before it is back, too.
    for _ in 0..3 {
        for n in ended..ended + BURST {
            start_and_end(&supervisor, &n.to_string(), "a").await;
        }
        ended += BURST;
        for n in told..told + BURST / 2 + 10 {
            assert_eq!(next_id(&mut slow).await, n.to_string());
            was_apart |= slow.own.is_some();
        }
        told += BURST / 2 + 10;
    }
    assert!(was_apart);
    for n in told..ended {
        assert_eq!(next_id(&mut slow).await, n.to_string());
    }
    start_and_end(&supervisor, "last", "a").await;
    assert_eq!(next_id(&mut slow).await, "last");
    assert!(slow.own.is_none(), "it reads whatever others are told");
}

#[actix_web::test]
async fn where_the_log_begins_later_than_the_shared_reader_is_every_stream_hears_of_it() {
    // More than are kept.
    const MANY: usize = 8192 + 100;
    let (supervisor, ends) = (start_apart().await, Ends::default());
    let mut a = ends.of_holder(&supervisor, &holder("a"));
    let mut b = ends.of_holder(&supervisor, &holder("b"));
    let shared = supervisor.clone();
    meanwhile(|| async move {
        start_and_end(&shared, "1", "a").await;
        for n in 0..MANY {
            let id = SessionId::new(format!("other-{n}")).unwrap();
            shared.started(NewSession::new(id)).await.unwrap();
        }
    });
    for stream in [&mut a, &mut b] {
        let told = next(stream).await;
        let is_gap = matches!(
            told,
            Some(Told::Gap {
                after: 0,
                next: 3..
            })
        );
        assert!(is_gap, "{told:?}");
    }
    start_and_end(&supervisor, "2", "a").await;
    assert_eq!(next_id(&mut a).await, "2");
}

#[actix_web::test]
async fn the_telling_ends_with_what_is_recorded_however_late_the_shared_reader_is() {
    for burst in [1, MAX_WAITING + 10] {
        let (supervisor, ends) = (start_apart().await, Ends::default());
        let mut a = ends.of_holder(&supervisor, &holder("a"));
        let shared = supervisor.clone();
        meanwhile(|| async move {
            for n in 0..burst {
                start_and_end(&shared, &n.to_string(), "a").await;
            }
        });
        a.end_here();
        start_and_end(&supervisor, "late", "a").await;
        for n in 0..burst {
            assert_eq!(next_id(&mut a).await, n.to_string());
        }
        assert!(next(&mut a).await.is_none());
    }
}

#[actix_web::test]
async fn the_telling_ends_with_what_was_passed_on_whoever_was_too_slow_for_it() {
    for burst in [0, 1, MAX_WAITING + 10] {
        let (supervisor, ends) = (start().await, Ends::default());
        let mut a = ends.of_holder(&supervisor, &holder("a"));
        for n in 0..burst {
            start_and_end(&supervisor, &n.to_string(), "a").await;
        }
        start_and_end(&supervisor, "other", "b").await;
        a.end_here();
        start_and_end(&supervisor, "late", "a").await;
        for n in 0..burst {
            assert_eq!(next_id(&mut a).await, n.to_string());
        }
        assert!(next(&mut a).await.is_none());
    }
}

#[actix_web::test]
async fn nobody_reads_when_nobody_listens_and_somebody_does_again_after_that() {
    let (supervisor, ends) = (start().await, Ends::default());
    drop(ends.of_holder(&supervisor, &holder("a")));
    start_and_end(&supervisor, "1", "a").await;
    let stops = async {
        while ends.listeners().is_read {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, stops).await.expect("it reads on");
    let mut a = ends.of_holder(&supervisor, &holder("a"));
    start_and_end(&supervisor, "2", "a").await;
    assert_eq!(next_id(&mut a).await, "2");
}

#[actix_web::test]
async fn what_is_recorded_when_the_supervisor_stops_is_told_before_the_end() {
    let (supervisor, ends) = (start_apart().await, Ends::default());
    let mut streams = ["a", "b"].map(|name| ends.of_holder(&supervisor, &holder(name)));
    for n in 0..MAX_WAITING + 10 {
        start_and_end(&supervisor, &n.to_string(), "a").await;
    }
    supervisor.shutdown(Shutdown::now()).await.unwrap();
    let [a, b] = &mut streams;
    for n in 0..MAX_WAITING + 10 {
        assert_eq!(next_id(a).await, n.to_string());
    }
    let mut late = ends.of_holder(&supervisor, &holder("a"));
    for over in [a, b, &mut late] {
        assert!(next(over).await.is_none());
    }
}
