//! A shutdown that waits for somebody: for a program that has to be told, and heard out, first.

use std::time::Duration;

use tokio::sync::watch;

use super::Shutdown;

/// Keeps requests for a shutdown back until it is [lifted](Self::lift). The first one counts. Clones
/// are one.
#[derive(Debug, Clone)]
pub(crate) struct Deferral {
    state: watch::Sender<State>,
    at_most: Duration,
}

#[derive(Debug, Default)]
struct State {
    first: Option<Shutdown>,
    lifted_for: Option<Shutdown>,
    is_given_up: bool,
}

impl State {
    fn is_lifted(&self) -> bool {
        self.lifted_for.is_some() || self.is_given_up
    }
}

impl Deferral {
    /// One that is lifted this long after the first request, at the latest.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn new(at_most: Duration) -> Self {
        Self {
            state: watch::Sender::default(),
            at_most,
        }
    }

    pub(super) fn at_most(&self) -> Duration {
        self.at_most
    }

    /// Asks for a shutdown. Answers the request that was first; none if they are kept back no longer.
    pub(crate) fn ask(&self, request: &Shutdown) -> Option<Shutdown> {
        self.state.send_if_modified(|state| {
            let is_first = state.first.is_none() && !state.is_lifted();
            if is_first {
                state.first = Some(request.clone());
            }
            is_first
        });
        let state = self.state.borrow();
        state.first.clone().filter(|_| !state.is_lifted())
    }

    /// Whether requests are kept back.
    pub(crate) fn is_kept(&self) -> bool {
        !self.state.borrow().is_lifted()
    }

    /// Waits for the first request.
    pub(crate) async fn asked(&self) -> Shutdown {
        let mut state = self.state.subscribe();
        loop {
            if let Some(first) = state.borrow_and_update().first.clone() {
                return first;
            }
            // It never fails, since this is a sender too.
            let _ = state.changed().await;
        }
    }

    /// Lifts it for somebody who has lost patience: who was waited for is waited for no longer.
    pub(super) fn give_up(&self) {
        self.state.send_modify(|state| state.is_given_up = true);
    }

    /// Waits until somebody has lost patience.
    #[cfg(feature = "cli")]
    pub(crate) async fn given_up(&self) {
        let mut state = self.state.subscribe();
        // It never fails, since this is a sender too.
        let _ = state.wait_for(|state| state.is_given_up).await;
    }

    /// From now on a request begins the shutdown: `request` does, whichever comes first.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn lift(&self, request: Shutdown) {
        self.state
            .send_modify(|state| state.lifted_for = Some(request));
    }

    /// The request that it was lifted for.
    pub(super) fn lifted_for(&self) -> Option<Shutdown> {
        self.state.borrow().lifted_for.clone()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::session::{EndReason, NewSession, SessionId};
    use crate::supervisor::SessionSupervisor;

    #[tokio::test]
    async fn the_first_request_counts_until_none_is_kept_back() {
        let deferral = Deferral::new(Duration::from_secs(4));
        let trigger = |request: Option<Shutdown>| request.map(|it| it.trigger);
        let ask = |name: &str| trigger(deferral.ask(&Shutdown::now().with_trigger(name)));
        assert_eq!(ask("SIGTERM").as_deref(), Some("SIGTERM"));
        assert_eq!(ask("api").as_deref(), Some("SIGTERM"));
        assert_eq!(deferral.asked().await.trigger, "SIGTERM");
        assert!(deferral.is_kept());
        deferral.lift(Shutdown::now());
        assert_eq!(ask("late"), None);
        assert!(!deferral.is_kept());
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_first_request() {
        let deferral = Deferral::new(Duration::from_secs(4));
        let ask = async { deferral.ask(&Shutdown::for_restart(Duration::ZERO)) };
        let (asked, _) = tokio::join!(deferral.asked(), ask);
        assert_eq!(asked.reason(), EndReason::Restart);
    }

    #[tokio::test]
    async fn until_it_is_lifted_the_door_stays_open_and_requests_join_the_first() {
        let deferral = Deferral::new(Duration::from_secs(4));
        let builder = SessionSupervisor::builder().defer_shutdown(deferral.clone());
        let supervisor = builder.start().await.unwrap();
        let asked_at = Timestamp::now();
        let restart = Shutdown::for_restart(Duration::ZERO).with_trigger("api");
        let notice = supervisor.begin_shutdown(restart).await.unwrap();
        assert_eq!(notice.reason, EndReason::Restart);
        // The grace, and the cap after it; the wall clock has whole milliseconds.
        let deadline = notice.deadline_at.duration_since(asked_at).as_millis();
        assert!((5999..7000).contains(&deadline), "{deadline}");
        let notice = supervisor.begin_shutdown(Shutdown::now()).await.unwrap();
        assert_eq!(notice.reason, EndReason::Restart);
        supervisor.stopping().await;
        assert!(supervisor.is_ready() && !supervisor.is_stopping());
        let late = NewSession::new(SessionId::new("late").unwrap());
        supervisor.started(late.clone()).await.unwrap();

        let request = deferral.asked().await.beginning_now().with_exit_code(7);
        deferral.lift(request.clone());
        // One that gets in between changes nothing.
        let between = Shutdown::now().with_trigger("SIGTERM");
        supervisor.begin_shutdown(between).await.unwrap();
        let report = supervisor.shutdown(request).await.unwrap();
        assert_eq!(
            (report.reason, &*report.trigger),
            (EndReason::Restart, "api")
        );
        assert_eq!((report.drain.sessions, report.exit_code), (1, 7));
        assert!(supervisor.started(late).await.is_err());
    }
}
