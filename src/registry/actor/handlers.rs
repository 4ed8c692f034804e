//! What the registry's messages do: each is checked, and becomes a request or an answer.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::{
    CloseDoor, ClosedDoor, CountActive, EndMatching, Ended, EndedMatching, EndedSession, Find,
    Limits, ListSessions, SessionState, Snapshot, Started, StartedSession, Touch,
};
use super::{Closing, Request, SessionRegistry};
use crate::error::Error;
use crate::ledger::{SessionRecord, page_by_start};
use crate::session::{EndReason, InvalidField, Session};

impl Handler<Started> for SessionRegistry {
    type Result = ResponseFuture<Result<StartedSession, Error>>;

    fn handle(&mut self, Started(new): Started, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        match new.validate() {
            Ok(()) => self.submit(Request::Start(new, reply), ctx),
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
        if let Err(invalid) = check_reason(ended.reason).and_then(|()| ended.details.validate()) {
            return refused(invalid);
        }
        let (reply, answer) = oneshot::channel();
        self.submit(Request::End(ended, reply), ctx);
        awaited(answer)
    }
}

fn check_reason(reason: EndReason) -> Result<(), InvalidField> {
    if reason.is_reserved() {
        let problem = format!("`{reason}` is for the supervisor to find");
        return Err(InvalidField::new("reason", problem));
    }
    Ok(())
}

fn refused<T: 'static>(invalid: InvalidField) -> ResponseFuture<Result<T, Error>> {
    Box::pin(std::future::ready(Err(invalid.into())))
}

fn awaited<T: 'static>(
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

impl Handler<Snapshot> for SessionRegistry {
    type Result = Vec<Arc<Session>>;

    fn handle(&mut self, _: Snapshot, _: &mut Context<Self>) -> Self::Result {
        self.active.not_ending().map(|open| open.session).collect()
    }
}

impl Handler<CountActive> for SessionRegistry {
    type Result = usize;

    fn handle(&mut self, _: CountActive, _: &mut Context<Self>) -> usize {
        self.active.len()
    }
}

impl Handler<ListSessions> for SessionRegistry {
    type Result = ResponseFuture<Result<Vec<SessionRecord>, Error>>;

    fn handle(&mut self, query: ListSessions, _: &mut Context<Self>) -> Self::Result {
        let (filter, wall) = (&query.filter, self.settings.clock.now());
        match query.state {
            SessionState::Active => {
                let matching = self.active.matching(filter, Instant::now(), wall);
                let page = page_by_start(matching, query.after, query.limit);
                Box::pin(std::future::ready(Ok(page)))
            }
            SessionState::Ended => {
                let page = self.ledger.ended(filter, wall, query.after, query.limit);
                Box::pin(async move { Ok(page.await?) })
            }
        }
    }
}

impl Handler<EndMatching> for SessionRegistry {
    type Result = ResponseFuture<Result<EndedMatching, Error>>;

    /// Each session is ended by a request of its own, so that one whose transition is under way is
    /// waited for like any other.
    fn handle(&mut self, message: EndMatching, ctx: &mut Context<Self>) -> Self::Result {
        let EndMatching { filter, reason } = message;
        if let Err(invalid) = check_reason(reason) {
            return refused(invalid);
        }
        let wall = self.settings.clock.now();
        let matching = self.active.matching(&filter, Instant::now(), wall);
        let matching: Vec<_> = matching.map(|record| record.session).collect();
        let mut answers = Vec::with_capacity(matching.len());
        for session in matching {
            let mut ended = Ended::new(session.id.clone(), reason);
            ended.incarnation = Some(session.incarnation);
            let (reply, answer) = oneshot::channel();
            self.submit(Request::End(ended, reply), ctx);
            answers.push((session, answer));
        }
        Box::pin(async move {
            let matched = answers.len();
            let mut ended = Vec::with_capacity(matched);
            for (session, answer) in answers {
                let answer = answer.await.unwrap_or(Err(Error::Stopped))?;
                if matches!(answer, EndedSession::Now(_)) {
                    ended.push(session.id.clone());
                }
            }
            Ok(EndedMatching { matched, ended })
        })
    }
}

impl Handler<Find> for SessionRegistry {
    type Result = ResponseFuture<Result<Option<SessionRecord>, Error>>;

    fn handle(&mut self, Find(id): Find, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.find(id))
    }
}

impl Handler<Limits> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, limits: Limits, ctx: &mut Context<Self>) {
        if self.settings.limits != limits {
            self.settings.limits = limits;
            self.schedule_sweeps(ctx);
        }
    }
}

impl Handler<CloseDoor> for SessionRegistry {
    type Result = ResponseFuture<Result<ClosedDoor, Error>>;

    fn handle(&mut self, message: CloseDoor, ctx: &mut Context<Self>) -> Self::Result {
        self.settings.door.close();
        if self.closing.is_some() {
            return Box::pin(std::future::ready(Err(Error::ShuttingDown)));
        }
        let (reply, answer) = oneshot::channel();
        self.closing = Some(Closing::Waiting {
            reason: message.reason,
            reply,
        });
        if self.recording == 0 {
            self.take_snapshot(ctx);
        } else {
            ctx.run_later(message.patience, Self::take_snapshot);
        }
        Box::pin(async move { answer.await.map_err(|_| Error::Stopped) })
    }
}
