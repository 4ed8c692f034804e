//! What the registry's messages do: each is checked, and becomes a request or an answer.

use std::sync::Arc;

use actix::prelude::*;
use tokio::time::Instant;

use super::super::{
    CountActive, CountMatching, Ended, EndedSession, Find, ListSessions, SessionState, Snapshot,
    Started, StartedSession, Touch,
};
use super::reply::{Answer, Reply};
use super::{Request, SessionRegistry};
use crate::bus::ActiveIds;
use crate::error::Error;
use crate::ledger::SessionRecord;
use crate::monitor::Ping;
use crate::session::{EndReason, InvalidField, NewSession, Session};

impl Handler<Started> for SessionRegistry {
    type Result = Answer<StartedSession>;

    fn handle(&mut self, Started(new): Started, ctx: &mut Context<Self>) -> Self::Result {
        self.take_start(new, false, ctx)
    }
}

impl SessionRegistry {
    /// Takes a start in: one that its holder asks for itself may not touch what is not its own.
    pub(super) fn take_start(
        &mut self,
        new: NewSession,
        by_holder: bool,
        ctx: &mut Context<Self>,
    ) -> Answer<StartedSession> {
        let (reply, answer) = Reply::pair();
        match new.validate() {
            Ok(()) => {
                let request = Request::Start {
                    new,
                    by_holder,
                    reply,
                };
                self.submit(request, ctx);
            }
            Err(invalid) => self.answer_start(reply, Err(invalid.into())),
        }
        answer
    }

    pub(super) fn answer_start(
        &self,
        reply: Reply<StartedSession>,
        answer: Result<StartedSession, Error>,
    ) {
        if let Err(error) = &answer {
            self.settings.monitor.refused(error);
        }
        reply.give(answer);
    }
}

impl Handler<Ended> for SessionRegistry {
    type Result = Answer<EndedSession>;

    fn handle(&mut self, ended: Ended, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = Reply::pair();
        match ended.validate() {
            Ok(()) => self.submit(Request::End(ended, reply), ctx),
            Err(invalid) => reply.give(Err(invalid.into())),
        }
        answer
    }
}

pub(in crate::registry) fn check_reason(reason: EndReason) -> Result<(), InvalidField> {
    if reason.is_reserved() {
        let problem = format!("`{reason}` is for the supervisor to find");
        return Err(InvalidField::new("reason", problem));
    }
    Ok(())
}

pub(super) fn refused<T: 'static>(error: impl Into<Error>) -> ResponseFuture<Result<T, Error>> {
    Box::pin(std::future::ready(Err(error.into())))
}

impl Handler<Touch> for SessionRegistry {
    type Result = Result<(), Error>;

    fn handle(&mut self, touch: Touch, _: &mut Context<Self>) -> Self::Result {
        let Touch { id, incarnation } = &touch;
        if self.active.touch(id, *incarnation, Instant::now()) {
            Ok(())
        } else {
            Err(Error::NotActive(touch.id))
        }
    }
}

impl Handler<Ping> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}

impl Handler<Snapshot> for SessionRegistry {
    type Result = Vec<Arc<Session>>;

    fn handle(&mut self, _: Snapshot, _: &mut Context<Self>) -> Self::Result {
        self.active.not_ending(|open| open.session)
    }
}

impl Handler<ActiveIds> for SessionRegistry {
    type Result = MessageResult<ActiveIds>;

    fn handle(&mut self, _: ActiveIds, _: &mut Context<Self>) -> Self::Result {
        let ids = self.active.not_ending(|open| open.session.id.clone());
        MessageResult(ids.into())
    }
}

impl Handler<CountActive> for SessionRegistry {
    type Result = usize;

    fn handle(&mut self, _: CountActive, _: &mut Context<Self>) -> usize {
        self.active.len()
    }
}

impl Handler<CountMatching> for SessionRegistry {
    type Result = usize;

    fn handle(&mut self, CountMatching(filter): CountMatching, _: &mut Context<Self>) -> usize {
        let wall = self.settings.clock.now();
        self.active.count_matching(&filter, wall)
    }
}

impl Handler<ListSessions> for SessionRegistry {
    type Result = ResponseFuture<Result<Vec<SessionRecord>, Error>>;

    fn handle(&mut self, query: ListSessions, _: &mut Context<Self>) -> Self::Result {
        let (filter, wall) = (&query.filter, self.settings.clock.now());
        match query.state {
            SessionState::Active => {
                let page = self.active.list(filter, wall, query.after, query.limit);
                Box::pin(std::future::ready(Ok(page)))
            }
            SessionState::Ended => {
                let page = self.ledger.ended(filter, wall, query.after, query.limit);
                Box::pin(async move { Ok(page.await?) })
            }
        }
    }
}

impl Handler<Find> for SessionRegistry {
    type Result = ResponseFuture<Result<Option<SessionRecord>, Error>>;

    fn handle(&mut self, Find(id): Find, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.find(id))
    }
}
