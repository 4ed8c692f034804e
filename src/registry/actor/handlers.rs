//! What the registry's messages do: each is checked, and becomes a request or an answer.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::{
    CountActive, CountMatching, Ended, EndedSession, Find, ListSessions, SessionState, Snapshot,
    Started, StartedSession, Touch,
};
use super::{Request, SessionRegistry};
use crate::bus::ActiveIds;
use crate::error::Error;
use crate::ledger::SessionRecord;
use crate::monitor::Ping;
use crate::session::{EndReason, InvalidField, NewSession, Session};

impl Handler<Started> for SessionRegistry {
    type Result = ResponseFuture<Result<StartedSession, Error>>;

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
    ) -> ResponseFuture<Result<StartedSession, Error>> {
        let (reply, answer) = oneshot::channel();
        match new.validate() {
            Ok(()) => {
                let request = Request::Start {
                    new,
                    by_holder,
                    reply,
                };
                self.submit(request, ctx);
            }
            Err(invalid) => super::answer(reply, Err(invalid.into())),
        }
        let (answer, monitor) = (awaited(answer), self.settings.monitor.clone());
        Box::pin(async move {
            let answer = answer.await;
            if let Err(error) = &answer {
                monitor.refused(error);
            }
            answer
        })
    }
}

impl Handler<Ended> for SessionRegistry {
    type Result = ResponseFuture<Result<EndedSession, Error>>;

    fn handle(&mut self, ended: Ended, ctx: &mut Context<Self>) -> Self::Result {
        if let Err(invalid) = ended.validate() {
            return refused(invalid);
        }
        let (reply, answer) = oneshot::channel();
        self.submit(Request::End(ended, reply), ctx);
        awaited(answer)
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

pub(super) fn awaited<T: 'static>(
    answer: oneshot::Receiver<Result<T, Error>>,
) -> ResponseFuture<Result<T, Error>> {
    Box::pin(async move { answer.await.unwrap_or(Err(Error::Stopped)) })
}

impl Handler<Touch> for SessionRegistry {
    type Result = Result<(), Error>;

    fn handle(&mut self, touch: Touch, _: &mut Context<Self>) -> Self::Result {
        let now = Instant::now();
        if self.active.touch(&touch.id, touch.incarnation, now) {
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
        self.active.not_ending().map(|open| open.session).collect()
    }
}

impl Handler<ActiveIds> for SessionRegistry {
    type Result = MessageResult<ActiveIds>;

    fn handle(&mut self, _: ActiveIds, _: &mut Context<Self>) -> Self::Result {
        let open = self.active.not_ending();
        MessageResult(open.map(|open| open.session.id.clone()).collect())
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
        let matching = self.active.matching(&filter, Instant::now(), wall, 0);
        matching.count()
    }
}

impl Handler<ListSessions> for SessionRegistry {
    type Result = ResponseFuture<Result<Vec<SessionRecord>, Error>>;

    fn handle(&mut self, query: ListSessions, _: &mut Context<Self>) -> Self::Result {
        let (filter, wall) = (&query.filter, self.settings.clock.now());
        match query.state {
            SessionState::Active => {
                let now = Instant::now();
                let matching = self.active.matching(filter, now, wall, query.after);
                let page = matching.take(query.limit).collect();
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
