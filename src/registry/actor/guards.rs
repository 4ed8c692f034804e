//! Sessions that guards hold: their starts, and their ends, which the ledger may refuse.

use std::time::Duration;

use actix::prelude::*;
use tokio::time::sleep;
use tracing::warn;

use super::super::Ended;
use super::super::guard::{EndReply, LetGo, SessionGuard, StartGuarded, WatchEnd};
use super::reply::Reply;
use super::{Request, SessionRegistry};
use crate::error::Error;
use crate::event::OpenSession;
use crate::ledger::LedgerError;
use crate::session::EndReason;

/// How long ends wait that the ledger has refused.
const RETRY: Duration = Duration::from_secs(1);

impl Handler<StartGuarded> for SessionRegistry {
    type Result = ResponseFuture<Result<SessionGuard, Error>>;

    fn handle(&mut self, StartGuarded(new): StartGuarded, ctx: &mut Context<Self>) -> Self::Result {
        let registry = ctx.address();
        let started = self.take_start(new, false, ctx);
        Box::pin(async move {
            let guard = SessionGuard::new(started.wait().await?, registry.clone());
            registry.do_send(guard.watch());
            Ok(guard)
        })
    }
}

impl Handler<WatchEnd> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, WatchEnd { session, teller }: WatchEnd, _: &mut Context<Self>) {
        let active = self.active.get(&session.id);
        if active.is_some_and(|active| active.incarnation == session.incarnation) {
            return self.watched.insert(session.incarnation, teller);
        }
        // It has ended since its start was answered.
        let found = self.find(session.id.clone());
        actix_rt::spawn(async move {
            let Ok(ended) = found.await else { return };
            let ended = ended.filter(|record| record.session.incarnation == session.incarnation);
            let end = ended.and_then(|record| record.end);
            teller.tell(end.map_or(EndReason::Unknown, |(end, _)| end.reason));
        });
    }
}

impl SessionRegistry {
    /// Sessions have ended: those who guard them hear of it.
    pub(super) fn tell_guards(&mut self, sessions: &[OpenSession], reason: EndReason) {
        if self.watched.is_empty() {
            return;
        }
        for OpenSession { session, .. } in sessions {
            self.watched.tell(session.incarnation, reason);
        }
    }

    /// Ends a session whose guard is gone, now or as soon as the ledger can.
    fn let_go(&mut self, ended: Ended, reply: Option<EndReply>, ctx: &mut Context<Self>) {
        let (answer, outcome) = Reply::pair();
        self.submit(Request::End(ended.clone(), answer), ctx);
        let registry = ctx.address().downgrade();
        actix_rt::spawn(async move {
            let outcome = outcome.wait().await;
            if let Err(Error::Ledger(error)) = &outcome
                && let Some(registry) = registry.upgrade()
            {
                let error = error.clone();
                registry.do_send(Refused { ended, error });
            }
            if let Some(reply) = reply {
                // Nobody may be waiting any more.
                let _ = reply.send(outcome);
            }
        });
    }

    /// Whether a session whose guard was dropped has to end because of that: not once it has ended, and
    /// not once a shutdown was asked for, which is about to end it.
    fn has_to_end(&self, ended: &Ended) -> bool {
        let session = self.active.get(&ended.id);
        let session = session.filter(|session| ended.incarnation == Some(session.incarnation));
        // A restart leaves the sessions of holders as they are.
        session.is_some_and(|session| self.settings.door.is_open() || session.holder.is_some())
    }
}

impl Handler<LetGo> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, LetGo { ended, reply }: LetGo, ctx: &mut Context<Self>) {
        if reply.is_some() || self.has_to_end(&ended) {
            self.let_go(ended, reply, ctx);
        }
    }
}

/// The ledger did not record the end of a session whose guard is gone.
#[derive(Message)]
#[rtype(result = "()")]
struct Refused {
    ended: Ended,
    error: LedgerError,
}

impl Handler<Refused> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, Refused { ended, error }: Refused, ctx: &mut Context<Self>) {
        if self.refused.is_empty() {
            let session = &ended.id;
            warn!(%session, %error, "can't record the end of a session that was let go of: tried again");
            // One for all, and not a timer of the actor's own, with which it would outlive everyone who
            // has its address.
            let registry = ctx.address().downgrade();
            actix_rt::spawn(async move {
                sleep(RETRY).await;
                if let Some(registry) = registry.upgrade() {
                    registry.do_send(TryAgain);
                }
            });
        }
        self.refused.push(ended);
    }
}

/// It is time to try again what the ledger has refused.
#[derive(Message)]
#[rtype(result = "()")]
struct TryAgain;

impl Handler<TryAgain> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, _: TryAgain, ctx: &mut Context<Self>) {
        for ended in std::mem::take(&mut self.refused) {
            if self.has_to_end(&ended) {
                self.let_go(ended, None, ctx);
            }
        }
    }
}
