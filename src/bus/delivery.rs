//! One attempt: a plugin's actor, a deadline, and what came of it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::{MailboxError, Recipient};
use actix_rt::Arbiter;
use tracing::warn;

use super::lane::{Failure, Outcome};
use crate::event::{Deadline, Deliver, Event};
use crate::place::Place;
use crate::plugin::{Disabled, Down, OutOfTime, Panicked, PluginSpec};

/// A plugin and the thread that it lives on.
pub(super) struct PluginHost {
    spec: PluginSpec,
    place: Place,
    /// The thread is the plugin's own, so it ends with it.
    arbiter: Option<Arbiter>,
    actor: RefCell<Option<Recipient<Deliver>>>,
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl PluginHost {
    /// A host for `spec`, on a thread of its own or on the caller's.
    ///
    /// # Errors
    ///
    /// When the thread can't be started: threads or files may have run out.
    pub(super) fn new(spec: PluginSpec, own_thread: bool) -> io::Result<Self> {
        let arbiter = own_thread.then(Arbiter::try_new).transpose()?;
        Ok(Self {
            spec,
            place: arbiter
                .as_ref()
                .map_or(Place::Current, |arbiter| Place::On(arbiter.handle())),
            arbiter,
            actor: RefCell::new(None),
        })
    }

    pub(super) fn spec(&self) -> &PluginSpec {
        &self.spec
    }

    /// The plugin's actor, made if there is none that lives. Where that panics on this thread,
    /// only the plugin may suffer.
    fn actor(&self) -> Result<Recipient<Deliver>, Failure> {
        let mut actor = self.actor.borrow_mut();
        if let Some(living) = actor.as_ref().filter(|actor| actor.connected()) {
            return Ok(living.clone());
        }
        if actor.is_some() {
            warn!(plugin = self.spec.name(), "the plugin's actor is replaced");
        }
        let started = catch_unwind(AssertUnwindSafe(|| self.spec.start(&self.place)));
        let started =
            started.map_err(|_| Failure::Down("its actor could not be made".into(), None))?;
        *actor = Some(started.clone());
        Ok(started)
    }

    /// Makes one attempt to deliver `events`, which ends at `deadline` at the latest.
    pub(super) async fn attempt(
        &self,
        events: Arc<[Event]>,
        attempt: u32,
        deadline: Deadline,
    ) -> Outcome {
        let delivery = Deliver::new(events, deadline.clone()).with_attempt(attempt);
        let acks = delivery.acks.clone();
        let answer = match self.actor() {
            Ok(actor) => actor.send(delivery),
            Err(failure) => {
                let (verdicts, failure) = (Vec::new(), Some(failure));
                return Outcome { verdicts, failure };
            }
        };
        let answer = tokio::select! {
            // The answer first: a plugin that answers in time is not blamed for our lateness.
            biased;
            answer = answer => Some(answer),
            () = deadline.over() => None,
        };
        // Whoever is still at work for this delivery now learns that it is over.
        deadline.cancel();
        let failure = match answer {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(error))) => Some(failure_of(&error)),
            Some(Err(MailboxError::Timeout)) | None => Some(Failure::TimedOut),
            Some(Err(MailboxError::Closed)) => {
                warn!(plugin = self.spec.name(), "the plugin's actor died");
                Some(Failure::Panicked("the plugin's actor died".into()))
            }
        };
        Outcome {
            verdicts: acks.close(),
            failure,
        }
    }
}

impl Drop for PluginHost {
    fn drop(&mut self) {
        // Not joined: the plugin may be blocking it.
        if let Some(arbiter) = &self.arbiter {
            arbiter.stop();
        }
    }
}

fn failure_of(error: &anyhow::Error) -> Failure {
    let message = format!("{error:#}").into();
    if error.is::<OutOfTime>() {
        Failure::TimedOut
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
