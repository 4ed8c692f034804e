//! One attempt: a plugin's actor, a deadline, and what came of it.

use std::sync::Arc;

use actix::MailboxError;
use tracing::warn;

use super::host::PluginHost;
use super::lane::{Failure, Outcome};
use crate::event::{Acks, Deadline, Deliver, Event};
use crate::plugin::{Disabled, Down, OutOfTime, Panicked};

impl PluginHost {
    /// Makes one attempt to deliver `events`, which ends at `deadline` at the latest.
    pub(super) async fn attempt(
        &self,
        events: Arc<[Event]>,
        attempt: u32,
        deadline: Deadline,
    ) -> Outcome {
        let delivery = Deliver::new(events, deadline).with_attempt(attempt);
        self.deliver(delivery).await
    }

    /// Makes this attempt, which ends at its deadline at the latest.
    pub(super) async fn deliver(&self, delivery: Deliver) -> Outcome {
        let deadline = delivery.deadline.clone();
        let (life, actor) = match self.actor(&deadline).await {
            Ok(living) => living,
            Err(failure) => return Outcome::failed(failure),
        };
        // It may have had to wait for the last one to let go.
        if deadline.is_over() {
            return Outcome::failed(Failure::TimedOut(None));
        }
        let acks = delivery.acks.clone();
        let mut request = Box::pin(actor.send(delivery));
        let answer = tokio::select! {
            // The answer first: a plugin that answers in time is not blamed for our lateness.
            biased;
            answer = &mut request => Some(answer),
            () = deadline.over() => None,
        };
        match &answer {
            None => life.watch(request),
            Some(Ok(Err(error))) if error.is::<OutOfTime>() => life.was_cut_off(),
            Some(_) => life.was_in_time(),
        }
        // Whoever is still at work for this delivery now learns that it is over.
        deadline.cancel();
        let failure = match answer {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(error))) => Some(failure_of(&error, &acks)),
            Some(Err(MailboxError::Timeout)) | None => Some(Failure::TimedOut(acks.last_remark())),
            Some(Err(MailboxError::Closed)) => {
                warn!(plugin = self.spec().name(), "the plugin's actor died");
                Some(Failure::Panicked("the plugin's actor died".into()))
            }
        };
        Outcome {
            verdicts: acks.close(),
            failure,
        }
    }
}

fn failure_of(error: &anyhow::Error, acks: &Acks) -> Failure {
    let message = format!("{error:#}").into();
    if error.is::<OutOfTime>() {
        Failure::TimedOut(acks.last_remark())
    } else if let Some(down) = error.downcast_ref::<Down>() {
        Failure::Down(message, down.wait())
    } else if error.is::<Disabled>() {
        Failure::Disabled(message)
    } else if error.is::<Panicked>() {
        Failure::Panicked(message)
    } else {
        Failure::Error(message)
    }
}
