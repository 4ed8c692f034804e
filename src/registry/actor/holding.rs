//! What the messages of holders do, and those about them.

use std::collections::HashSet;
use std::sync::Arc;

use actix::prelude::*;
use tokio::time::Instant;

use super::super::{
    Connect, Connected, CountHolders, Disconnected, EndHolder, EndedHolder, Heartbeat,
    HolderStatuses, Reconcile, Reconciled, StartedByHolder, StartedSession,
};
use super::SessionRegistry;
use super::bulk::end_in_parts;
use super::handlers::refused;
use super::reply::Answer;
use crate::error::Error;
use crate::holder::{HolderStatus, SignsOfLife};
use crate::session::{EndReason, HolderId, InvalidField, SessionId};

/// A holder is done: its sessions have ended.
#[derive(Message)]
#[rtype(result = "()")]
struct Leave {
    holder: HolderId,
    /// Not if it has shown since that it lives.
    since: SignsOfLife,
}

impl Handler<Leave> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, message: Leave, ctx: &mut Context<Self>) {
        let Leave { holder, since } = message;
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        self.holders.leave(&holder, since, now, wall);
        self.forget_if_done(&holder);
        self.watch_lease(&holder, ctx);
    }
}

impl Handler<StartedByHolder> for SessionRegistry {
    type Result = Answer<StartedSession>;

    fn handle(&mut self, message: StartedByHolder, ctx: &mut Context<Self>) -> Self::Result {
        self.take_start(message.0, true, ctx)
    }
}

impl Handler<Connect> for SessionRegistry {
    type Result = ResponseFuture<Result<Connected, Error>>;

    fn handle(&mut self, message: Connect, ctx: &mut Context<Self>) -> Self::Result {
        if self.is_closed() {
            return refused(Error::ShuttingDown);
        }
        let Connect {
            holder,
            run_id,
            grace,
            is_parent,
        } = message;
        let now = (Instant::now(), self.settings.clock.now());
        let connected = self
            .holders
            .connect(&holder, &run_id, grace, is_parent, now);
        let (connection, replaced, change) = match connected {
            Ok(connected) => connected,
            Err(over) => return refused(over),
        };
        let kept = self.accept(&holder, change, ctx);
        let connected = Connected {
            registry: ctx.address(),
            holder,
            connection,
            replaced,
        };
        Box::pin(async move {
            kept.await?;
            Ok(connected)
        })
    }
}

impl Handler<Disconnected> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, message: Disconnected, ctx: &mut Context<Self>) {
        let Disconnected { holder, connection } = message;
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        self.holders.disconnect(&holder, connection, now, wall);
        self.watch_lease(&holder, ctx);
    }
}

impl Handler<Heartbeat> for SessionRegistry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: Heartbeat, ctx: &mut Context<Self>) -> Self::Result {
        if self.is_closed() {
            return refused(Error::ShuttingDown);
        }
        let Heartbeat {
            holder,
            run_id,
            ttl,
        } = message;
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        let kept = match self.holders.beat(&holder, &run_id, ttl, now, wall) {
            Ok(change) => self.accept(&holder, change, ctx),
            Err(over) => return refused(over),
        };
        Box::pin(async move { Ok(kept.await?) })
    }
}

impl Handler<Reconcile> for SessionRegistry {
    type Result = ResponseFuture<Result<Reconciled, Error>>;

    fn handle(&mut self, message: Reconcile, ctx: &mut Context<Self>) -> Self::Result {
        if self.is_closed() {
            return refused(Error::ShuttingDown);
        }
        let Reconcile {
            holder,
            run_id,
            ids,
        } = message;
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        let mentioned = self.holders.mention(&holder, Some(&run_id), now, wall);
        let kept = match mentioned {
            Ok((_, change)) => self.accept(&holder, change, ctx),
            Err(over) => return refused(over),
        };
        let listed: HashSet<&SessionId> = ids.iter().collect();
        let (has, others): (Vec<_>, Vec<_>) = self
            .active
            .held_by(&holder)
            .into_iter()
            .partition(|open| listed.contains(&open.session.id));
        let has: HashSet<SessionId> = has
            .into_iter()
            .map(|open| open.session.id.clone())
            .collect();
        let not_active = ids.into_iter().filter(|id| !has.contains(id)).collect();
        let ended = end_in_parts(ctx.address(), others, EndReason::Lost);
        Box::pin(async move {
            kept.await?;
            let ended = ended.await?.len();
            Ok(Reconciled { ended, not_active })
        })
    }
}

impl Handler<EndHolder> for SessionRegistry {
    type Result = ResponseFuture<Result<EndedHolder, Error>>;

    fn handle(&mut self, message: EndHolder, ctx: &mut Context<Self>) -> Self::Result {
        let EndHolder {
            holder,
            run_id,
            reason,
            is_final,
        } = message;
        // What is left of a dead run ends with `crash`: that is for its parent to say.
        if reason == EndReason::Lost {
            let problem = format!("`{reason}` is for the supervisor to find");
            return refused(InvalidField::new("reason", problem));
        }
        let since = match self.holders.begin_to_leave(&holder, run_id.as_ref()) {
            Ok(since) => since,
            Err(over) => return refused(over),
        };
        if is_final {
            self.holders.close(&holder, reason);
        }
        let sessions = self.active.held_by(&holder);
        let (registry, ledger) = (ctx.address(), Arc::clone(&self.ledger));
        let ended = end_in_parts(registry.clone(), sessions, reason);
        Box::pin(async move {
            let ended = ended.await;
            // Its stream hears of the ends before it closes.
            registry.do_send(Leave { holder, since });
            Ok(EndedHolder {
                ended: ended?.len(),
                up_to: ledger.head(),
            })
        })
    }
}

impl Handler<CountHolders> for SessionRegistry {
    type Result = usize;

    fn handle(&mut self, _: CountHolders, _: &mut Context<Self>) -> usize {
        self.holders.len()
    }
}

impl Handler<HolderStatuses> for SessionRegistry {
    type Result = Vec<HolderStatus>;

    fn handle(&mut self, _: HolderStatuses, _: &mut Context<Self>) -> Self::Result {
        let count = |holder: &HolderId| self.active.count_held_by(holder);
        self.holders.statuses(Instant::now(), count)
    }
}
