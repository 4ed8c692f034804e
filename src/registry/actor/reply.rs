//! Answers that come after the handler of their message has returned.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use actix::dev::{MessageResponse, OneshotSender};
use actix::prelude::*;
use tokio::sync::oneshot;

use crate::error::Error;

/// What is owed to whoever sent a message. Dropped, it says that the supervisor has stopped.
pub(super) struct Reply<T>(Arc<Mutex<Slot<T>>>);

/// What a handler returns in place of the answer. A future would do, too, but be a task for each
/// message.
#[allow(unreachable_pub, reason = "public messages are answered with it")]
pub struct Answer<T>(Arc<Mutex<Slot<T>>>);

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

/// Where the answer and the one who waits for it find each other.
enum Slot<T> {
    Empty,
    Awaited(OneshotSender<Result<T, Error>>),
    Given(Result<T, Error>),
}

/// Puts `next` into `slot`, unless that makes an answer that can be sent.
fn fill<T>(slot: &Mutex<Slot<T>>, next: Slot<T>) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let (asker, answer) = match (std::mem::replace(&mut *slot, Slot::Empty), next) {
        (Slot::Awaited(asker), Slot::Given(answer)) => (asker, answer),
        (Slot::Given(answer), Slot::Awaited(asker)) => (asker, answer),
        (_, next) => return *slot = next,
    };
    drop(slot);
    // Nobody may be waiting any more: what was recorded counts all the same.
    let _ = asker.send(answer);
}

impl<T> Reply<T> {
    /// The way to give an answer, and what is returned in its place.
    pub(super) fn pair() -> (Self, Answer<T>) {
        let slot = Arc::new(Mutex::new(Slot::Empty));
        (Self(Arc::clone(&slot)), Answer(slot))
    }

    pub(super) fn give(self, answer: Result<T, Error>) {
        fill(&self.0, Slot::Given(answer));
    }
}

impl<T> Answer<T> {
    /// Waits for it.
    pub(super) async fn wait(self) -> Result<T, Error> {
        let (asker, answer) = oneshot::channel();
        fill(&self.0, Slot::Awaited(asker));
        drop(self);
        answer.await.unwrap_or(Err(Error::Stopped))
    }
}

impl<A, M, T> MessageResponse<A, M> for Answer<T>
where
    A: Actor,
    M: Message<Result = Result<T, Error>>,
    T: 'static,
{
    fn handle(self, _: &mut A::Context, asker: Option<OneshotSender<Result<T, Error>>>) {
        if let Some(asker) = asker {
            fill(&self.0, Slot::Awaited(asker));
        }
    }
}
