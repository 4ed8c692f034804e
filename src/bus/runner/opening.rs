//! The delivery that some plugins get before all others: `gateway_start`, with the ids of the sessions
//! that are active.

use std::rc::Rc;
use std::sync::Arc;

use actix::WeakRecipient;
use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::ActiveIds;
use super::super::lane::{Failure, Outcome};
use super::{Done, LaneRunner};
use crate::event::{Deadline, Deliver, Event, Hook, Lifecycle};
use crate::session::SessionId;

/// Why there is no opening for now.
const NO_ANSWER: &str = "the registry does not say which sessions are active";

impl LaneRunner {
    /// Makes the opening delivery.
    pub(super) fn open(&mut self, until: Instant) {
        let departed = Instant::now();
        let deadline = Deadline::at(until);
        self.opening = Some(deadline.clone());
        let (host, now, instance) = (Rc::clone(&self.host), self.clock.now(), self.instance);
        let registry = self.registry.clone();
        let open = async move {
            let active = tokio::select! {
                active = ask(registry) => active,
                () = deadline.over() => None,
            };
            let Some(active) = active else {
                return Outcome::failed(Failure::Down(NO_ANSWER.into(), None));
            };
            let lifecycle = Lifecycle {
                hook: Hook::GatewayStart,
                reason: None,
                restart_expected_ms: None,
                active_sessions: active.len() as u64,
            };
            let event = Event::of_lifecycle(lifecycle, now, instance);
            let delivery = Deliver::new([event], deadline).with_active(active);
            host.deliver(delivery).await
        };
        let open = open.map(move |outcome| Done::Opened(outcome, departed));
        self.tasks.push(open.boxed_local());
    }

    /// The opening delivery has come to an end.
    pub(super) fn opened(&mut self, outcome: Outcome, departed: Instant) {
        self.opening = None;
        // A rejection of its one event says no less than a failure.
        let rejected = outcome.first_error().map(Failure::Error);
        let failure = outcome.failure.or(rejected);
        match &failure {
            Some(failure) => {
                let error = failure.message();
                warn!(%error, "the opening failed: nothing is delivered before it");
            }
            None => info!("opened"),
        }
        let now = self.now();
        self.lane.on_opened(failure.as_ref(), departed, now);
    }
}

/// The ids of the active sessions, once somebody knows them.
async fn ask(
    mut registry: watch::Receiver<Option<WeakRecipient<ActiveIds>>>,
) -> Option<Arc<[SessionId]>> {
    let known = registry.wait_for(Option::is_some).await.ok()?.clone();
    known?.upgrade()?.send(ActiveIds).await.ok()
}
