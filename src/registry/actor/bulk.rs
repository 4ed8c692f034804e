//! Ends of many sessions by one message, some thousands at a time.

use std::sync::Arc;

use actix::prelude::*;
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream;

use super::super::{EndMatching, Ended, EndedMatching, EndedSession};
use super::handlers::{check_reason, refused};
use super::reply::Reply;
use super::{Closing, Request, SessionRegistry};
use crate::bus::MAX_ENDS_AT_ONCE;
use crate::error::Error;
use crate::event::OpenSession;
use crate::session::{End, EndDetails, EndReason, SessionId};

/// How many parts of a message are being recorded at a time: the next one is there when the ledger
/// is done with one, and everybody else's requests still find room in its queue.
const MAX_PARTS: usize = 2;

impl Handler<EndMatching> for SessionRegistry {
    type Result = ResponseFuture<Result<EndedMatching, Error>>;

    /// Which sessions end is settled at once. They end a part at a time, with other messages in
    /// between; what those end first is not ended again.
    fn handle(&mut self, message: EndMatching, ctx: &mut Context<Self>) -> Self::Result {
        let EndMatching { filter, reason } = message;
        if let Err(invalid) = check_reason(reason) {
            return refused(invalid);
        }
        let wall = self.settings.clock.now();
        let matching = self.active.list(&filter, wall, 0, usize::MAX);
        let matching: Vec<_> = matching
            .into_iter()
            .map(|record| OpenSession::new(record.session, record.start_seq))
            .collect();
        let matched = matching.len();
        let ended = end_in_parts(ctx.address(), matching, reason);
        Box::pin(async move {
            let ended = ended.await?;
            Ok(EndedMatching { matched, ended })
        })
    }
}

/// Ends those of `sessions` that are still active when it is their turn. The ids of those.
pub(super) async fn end_in_parts(
    registry: Addr<SessionRegistry>,
    sessions: Vec<OpenSession>,
    reason: EndReason,
) -> Result<Vec<SessionId>, Error> {
    let parts = sessions.chunks(MAX_ENDS_AT_ONCE).map(|part| {
        let sessions = part.to_vec();
        let registry = registry.clone();
        Ok(async move { registry.send(EndPart { sessions, reason }).await? })
    });
    let parts = stream::iter(parts).try_buffered(MAX_PARTS);
    parts.try_concat().await
}

/// Ends those of `sessions` that are still active, which are at most [`MAX_ENDS_AT_ONCE`]. Answers
/// those that it ended.
#[derive(Message)]
#[rtype(result = "Result<Vec<SessionId>, Error>")]
struct EndPart {
    sessions: Vec<OpenSession>,
    reason: EndReason,
}

impl Handler<EndPart> for SessionRegistry {
    type Result = ResponseFuture<Result<Vec<SessionId>, Error>>;

    /// One request records the ends of all sessions of which no transition is under way. Each of
    /// the others is ended by a request of its own, which waits like any other.
    fn handle(&mut self, message: EndPart, ctx: &mut Context<Self>) -> Self::Result {
        // While the door closes each waits for what the shutdown makes of it.
        let is_closing = matches!(self.closing, Some(Closing::Waiting { .. }));
        let EndPart { sessions, reason } = message;
        let (free, busy): (Vec<_>, Vec<_>) = sessions
            .into_iter()
            // Their details may be others by now.
            .filter_map(|matched| {
                let open = self.active.open(&matched.session.id)?;
                (open.session.incarnation == matched.session.incarnation).then_some(open)
            })
            .partition(|open| !is_closing && self.is_free(open));

        let now = self.settings.clock.now();
        let end = Arc::new(End::now(reason, EndDetails::default(), now));
        let free: Arc<[OpenSession]> = free.into();
        let (reply, recorded) = Reply::pair();
        if free.is_empty() {
            reply.give(Ok(0));
        } else {
            self.end_many(Arc::clone(&free), end, Some(reply), ctx);
        }
        let mut singly = Vec::with_capacity(busy.len());
        for OpenSession { session, .. } in busy {
            let mut ended = Ended::new(session.id.clone(), reason);
            ended.incarnation = Some(session.incarnation);
            let (reply, answer) = Reply::pair();
            self.submit(Request::End(ended, reply), ctx);
            singly.push(async move {
                let ended = answer.wait().await?;
                Ok::<_, Error>(match ended {
                    EndedSession::Now(record) => Some(record.session.id.clone()),
                    EndedSession::Unchanged(_) | EndedSession::Unknown => None,
                })
            });
        }
        Box::pin(async move {
            let recorded = recorded.wait().await?;
            let free = free.iter().take(recorded);
            let mut ended: Vec<_> = free.map(|open| open.session.id.clone()).collect();
            ended.extend(try_join_all(singly).await?.into_iter().flatten());
            Ok(ended)
        })
    }
}
