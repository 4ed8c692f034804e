//! Guards: sessions that end with whatever holds them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use actix::{Addr, Message};
use tokio::sync::{Notify, oneshot};

use super::{Ended, EndedSession, SessionRegistry, StartedSession, Touch};
use crate::error::Error;
use crate::session::{EndDetails, EndReason, Incarnation, MAX_DETAIL_BYTES, NewSession, Session};
use crate::text::beginning;

/// Holds a session that ends when this is dropped, so that no way out of a handler forgets it: with
/// [`EndReason::Disconnected`], or [`EndReason::Failed`] where the thread is panicking.
/// [`finish`](Self::finish) ends it for any other reason.
///
/// It can be moved to any thread and dropped on any, inside a runtime or not; dropping it blocks
/// nobody. An end that the ledger refuses is tried again every second until it is recorded. Once a
/// shutdown was asked for, dropping the guard leaves the session to that, which ends it for its own
/// reason. Where the session has ended before, by a shutdown, an operator or a limit, dropping or
/// finishing the guard changes nothing; see [`ended`](Self::ended).
///
/// Starting an id that is active already gives another guard of the same incarnation, and the first of
/// them that goes ends it. So give each connection an id of its own, and a
/// [key](NewSession::with_key) where a new one is to take the place of the one before.
///
/// ```
/// use session_supervisor::{EndReason, SessionId, SessionSupervisor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// # let supervisor = SessionSupervisor::builder().start().await?;
/// let guard = supervisor.guard(SessionId::generate()).await?;
/// // Serve the connection here. If this returns early, or panics, the session ends all the same.
/// guard.touch().await?;
/// guard.finish(EndReason::Completed).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the session ends when this is dropped"]
pub struct SessionGuard {
    started: StartedSession,
    registry: Addr<SessionRegistry>,
    signal: Arc<EndSignal>,
    /// Whether the session ends with this.
    armed: bool,
}

impl SessionGuard {
    pub(super) fn new(started: StartedSession, registry: Addr<SessionRegistry>) -> Self {
        Self {
            started,
            registry,
            signal: Arc::default(),
            armed: true,
        }
    }

    /// The session, as it was when it started.
    pub fn session(&self) -> &Arc<Session> {
        &self.started.session
    }

    /// What its start was answered: whether it is a new incarnation, and which session it replaced.
    pub fn started(&self) -> &StartedSession {
        &self.started
    }

    /// The session is active just now, so it is not idle.
    ///
    /// # Errors
    ///
    /// [`Error::NotActive`] when it has ended, [`Error::Stopped`].
    pub async fn touch(&self) -> Result<(), Error> {
        let session = self.session();
        let touch = Touch::new(session.id.clone()).with_incarnation(session.incarnation);
        self.registry.send(touch).await?
    }

    /// Waits until the session has ended, whoever ends it, and answers why: by an operator, a limit or
    /// a shutdown, or since another took its key. Then there is nothing left to hold. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when the supervisor was torn down without a shutdown.
    pub async fn ended(&self) -> Result<EndReason, Error> {
        self.signal.wait().await.ok_or(Error::Stopped)
    }

    /// Ends the session for `reason`. It ends with the call, whether the answer is waited for or not;
    /// the answer comes when that is recorded, or says that the session had ended before.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a reason that only the supervisor may find: the session ends as if the
    /// guard had been dropped. [`Error::Ledger`]: it has not ended yet, and is tried again until it has.
    /// [`Error::Stopped`].
    pub fn finish(
        self,
        reason: EndReason,
    ) -> impl Future<Output = Result<EndedSession, Error>> + Send + 'static {
        self.finish_with(reason, EndDetails::default())
    }

    /// Ends the session like [`finish`](Self::finish), with what there is to say of its end.
    ///
    /// # Errors
    ///
    /// Those of [`finish`](Self::finish); [`Error::Invalid`] for a detail that is too long, too.
    pub fn finish_with(
        mut self,
        reason: EndReason,
        details: EndDetails,
    ) -> impl Future<Output = Result<EndedSession, Error>> + Send + 'static {
        let ended = self.end(reason).with_details(details);
        let sent = ended.validate().map(|()| {
            let (reply, answer) = oneshot::channel();
            self.let_go(ended, Some(reply));
            answer
        });
        async move { sent?.await.unwrap_or(Err(Error::Stopped)) }
    }

    /// Ends the session like [`finish`](Self::finish) by what came of it: [`EndReason::Completed`], or
    /// [`EndReason::Failed`] with the error's text as the detail, or the beginning of one that is too
    /// long.
    ///
    /// # Errors
    ///
    /// [`Error::Ledger`], [`Error::Stopped`], as with [`finish`](Self::finish).
    pub fn finish_by<T, E: fmt::Display>(
        self,
        outcome: &Result<T, E>,
    ) -> impl Future<Output = Result<EndedSession, Error>> + Send + use<T, E> {
        let details = EndDetails::default();
        match outcome {
            Ok(_) => self.finish_with(EndReason::Completed, details),
            Err(error) => {
                let text = error.to_string();
                let details = details.with_detail(beginning(&text, MAX_DETAIL_BYTES));
                self.finish_with(EndReason::Failed, details)
            }
        }
    }

    /// Lets go of the session, which goes on: whoever does this sees to its end.
    pub fn disarm(mut self) -> StartedSession {
        self.armed = false;
        self.started.clone()
    }

    fn end(&self, reason: EndReason) -> Ended {
        let session = self.session();
        Ended::new(session.id.clone(), reason).with_incarnation(session.incarnation)
    }

    /// Sent without waiting for room in the mailbox: a guard can't wait, and there are no more of these
    /// messages than there are sessions.
    fn let_go(&mut self, ended: Ended, reply: Option<EndReply>) {
        self.armed = false;
        self.registry.do_send(LetGo { ended, reply });
    }

    pub(super) fn watch(&self) -> WatchEnd {
        WatchEnd {
            session: Arc::clone(self.session()),
            teller: EndTeller(Arc::clone(&self.signal)),
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if self.armed {
            let reason = match std::thread::panicking() {
                true => EndReason::Failed,
                false => EndReason::Disconnected,
            };
            self.let_go(self.end(reason), None);
        }
    }
}

pub(super) type EndReply = oneshot::Sender<Result<EndedSession, Error>>;

/// A session starts that a guard holds. The answer is the guard, which ends the session where nobody
/// waits for it any more.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SessionGuard, Error>")]
pub(crate) struct StartGuarded(pub(crate) NewSession);

/// A guard lets go of its session, which ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LetGo {
    pub(super) ended: Ended,
    /// Who waits for it; nobody where the guard was dropped.
    pub(super) reply: Option<EndReply>,
}

/// A guard wants to know when its session ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct WatchEnd {
    pub(super) session: Arc<Session>,
    pub(super) teller: EndTeller,
}

/// Tells a guard why its session has ended. Dropped before, as with the mailbox of a registry that is
/// gone, it says that this will never be known.
#[derive(Debug)]
pub(super) struct EndTeller(Arc<EndSignal>);

impl EndTeller {
    pub(super) fn tell(self, reason: EndReason) {
        self.0.tell(Some(reason));
    }

    fn has_listener(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Drop for EndTeller {
    fn drop(&mut self) {
        self.0.tell(None);
    }
}

/// What a guard hears of the end of its session.
#[derive(Debug, Default)]
struct EndSignal {
    /// Why it has ended; none where that will never be known.
    reason: OnceLock<Option<EndReason>>,
    told: Notify,
}

impl EndSignal {
    fn tell(&self, reason: Option<EndReason>) {
        // The first end is the one that counts.
        let _ = self.reason.set(reason);
        self.told.notify_waiters();
    }

    async fn wait(&self) -> Option<EndReason> {
        loop {
            // Made before the look, so that what is told between the two is heard.
            let told = self.told.notified();
            if let Some(reason) = self.reason.get() {
                return *reason;
            }
            told.await;
        }
    }
}

/// The guards of active sessions that wait for their ends.
#[derive(Debug, Default)]
pub(super) struct WatchedEnds(HashMap<Incarnation, Vec<EndTeller>>);

impl WatchedEnds {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, incarnation: Incarnation, teller: EndTeller) {
        let tellers = self.0.entry(incarnation).or_default();
        // A session that is guarded again and again has as many entries as it has guards.
        tellers.retain(EndTeller::has_listener);
        tellers.push(teller);
    }

    /// The session has ended.
    pub(super) fn tell(&mut self, incarnation: Incarnation, reason: EndReason) {
        for teller in self.0.remove(&incarnation).into_iter().flatten() {
            teller.tell(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guard_that_nobody_can_tell_any_more_does_not_wait_and_the_first_word_counts() {
        let (told, gone) = (Arc::<EndSignal>::default(), Arc::<EndSignal>::default());
        EndTeller(Arc::clone(&told)).tell(EndReason::Idle);
        drop(EndTeller(Arc::clone(&gone)));
        assert_eq!(told.wait().await, Some(EndReason::Idle));
        assert_eq!(gone.wait().await, None);
    }
}
