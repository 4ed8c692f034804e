//! The door that closes: the snapshot that ends every session in one step, and what comes late.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::super::active::TakenSessions;
use super::super::{CloseDoor, ClosedDoor};
use super::SessionRegistry;
use super::handlers::refused;
use crate::error::Error;
use crate::event::OpenSession;
use crate::session::{End, EndDetails, EndReason};

/// A door that was closed.
pub(super) enum Closing {
    /// Some transitions are still being recorded; what ends sessions waits until they are.
    Waiting {
        reason: EndReason,
        keeps_held: bool,
        reply: oneshot::Sender<ClosedDoor>,
    },
    /// All these sessions have ended, in this way.
    Closed {
        sessions: Box<TakenSessions>,
        end: Arc<End>,
    },
}

impl SessionRegistry {
    /// Takes the snapshot that marks every session ended, if the door is closed and nothing comes
    /// first any more.
    pub(super) fn take_snapshot(&mut self, ctx: &mut Context<Self>) {
        let (reason, keeps_held, reply) = match self.closing.take() {
            Some(Closing::Waiting {
                reason,
                keeps_held,
                reply,
            }) => (reason, keeps_held, reply),
            other => return self.closing = other,
        };
        let now = self.settings.clock.now();
        let end = Arc::new(End::now(reason, EndDetails::default(), now));
        let sessions = self.active.take_not_ending(keeps_held);
        if self.active.len() > 0 {
            info!(
                sessions = self.active.len(),
                "sessions go on for their holders, or end by themselves"
            );
        }
        let closed = ClosedDoor {
            // In the order of their starts: a ledger finds those that stand side by side faster.
            sessions: Arc::clone(sessions.all()),
            end: Arc::clone(&end),
            unsettled: self.recording,
        };
        self.closing = Some(Closing::Closed {
            sessions: Box::new(sessions),
            end,
        });
        let ended = Arc::clone(&closed.sessions);
        if reply.send(closed).is_err() {
            error!("the shutdown went on without the registry's snapshot");
        }
        // After the answer, since the shutdown waits for that.
        self.tell_guards(&ended, reason);
        // The starts among these are refused, whatever they wait for.
        for number in self.waiting.numbers() {
            if let Some((request, _)) = self.waiting.remove(number) {
                self.attempt(number, request, ctx);
            }
        }
    }

    /// Ends sessions for the shutdown that its snapshot has missed, if it was taken already: what
    /// was being recorded then has left them active. Once: a ledger that fails again has failed.
    pub(super) fn end_late(&mut self, sessions: &[OpenSession], ctx: &mut Context<Self>) {
        if let Some(Closing::Closed { end, .. }) = &self.closing
            && !sessions.is_empty()
        {
            let end = Arc::clone(end);
            self.end_many(sessions.into(), end, None, ctx);
        }
    }
}

impl Handler<CloseDoor> for SessionRegistry {
    type Result = ResponseFuture<Result<ClosedDoor, Error>>;

    fn handle(&mut self, message: CloseDoor, ctx: &mut Context<Self>) -> Self::Result {
        self.settings.door.close();
        if self.closing.is_some() {
            return refused(Error::ShuttingDown);
        }
        let (reply, answer) = oneshot::channel();
        self.closing = Some(Closing::Waiting {
            reason: message.reason,
            keeps_held: message.keeps_held,
            reply,
        });
        self.schedule_sweeps(ctx);
        self.look_no_more(ctx);
        if self.recording == 0 {
            self.take_snapshot(ctx);
        } else {
            ctx.run_later(message.patience, Self::take_snapshot);
        }
        Box::pin(async move { answer.await.map_err(|_| Error::Stopped) })
    }
}
