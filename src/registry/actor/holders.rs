//! Sessions that other programs hold: what a sign of life changes, and what its absence does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::active::StartPlan;
use super::{Closing, SessionRegistry, Transition};
use crate::bus::MAX_ENDS_AT_ONCE;
use crate::error::Error;
use crate::event::OpenSession;
use crate::holder::{Change, Due};
use crate::ledger::{LedgerError, LedgerFuture};
use crate::session::{End, EndDetails, EndReason, HolderId, NewSession, Session};

/// How soon to try again to end what the ledger could not record the end of.
const RETRY: Duration = Duration::from_secs(1);

/// How soon to look again for leases that end one after another: each look is at all of them.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A timer that is later than this is taken for a process that was not running: its holders' signs of
/// life are still on their way.
const PAUSE: Duration = Duration::from_secs(1);

impl SessionRegistry {
    /// Takes in what the run before has left: sessions of holders, which have a while to come back.
    pub(super) fn restore_held(&mut self) {
        let held = std::mem::take(&mut self.settings.held);
        let seen_at = self.settings.held_seen_at;
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        for kept in held.holders {
            self.holders.restore(kept, seen_at, now);
        }
        for OpenSession { session, start_seq } in &held.sessions {
            let age = wall.duration_since(session.started_at);
            let age = Duration::try_from(age).unwrap_or_default();
            self.active.insert(session, *start_seq, now, age);
            self.holders.take_back(session, seen_at, now);
        }
        if !held.sessions.is_empty() {
            let (sessions, holders) = (held.sessions.len(), self.holders.len());
            info!(
                sessions,
                holders, "sessions go on, and wait for their holders"
            );
        }
    }

    /// A start is a sign of life of the holder that it names, and says which run the session is of.
    pub(super) fn mention_holder(
        &mut self,
        new: &mut NewSession,
        ctx: &mut Context<Self>,
    ) -> Result<(), Error> {
        let Some(holder) = new.holder.clone() else {
            return Ok(());
        };
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        let run_id = new.run_id.as_ref();
        let (run_id, change) = self.holders.mention(&holder, run_id, now, wall)?;
        new.run_id = run_id;
        let kept = self.accept(&holder, change, ctx);
        actix_rt::spawn(async move {
            if let Err(error) = kept.await {
                warn!(%holder, %error, "what a holder is can't be recorded");
            }
        });
        Ok(())
    }

    /// Refuses a start of what another holder has.
    pub(super) fn check_held(
        &self,
        new: &NewSession,
        plan: &StartPlan,
        by_holder: bool,
    ) -> Result<(), Error> {
        let held_elsewhere = |session: &Session| Error::HeldElsewhere {
            id: session.id.clone(),
            holder: session.holder.clone(),
        };
        if let Some(OpenSession { session, .. }) = &plan.known {
            let is_other = session.holder != new.holder;
            if is_other && (by_holder || session.holder.is_some()) {
                return Err(held_elsewhere(session));
            }
            if self.holders.due(session, Instant::now()).is_some() {
                // It waits for the end of what has that id, which could not be recorded.
                let problem = "the end of the session before is not recorded yet";
                return Err(LedgerError::new(problem).into());
            }
        }
        match &plan.displaced {
            Some(open) if by_holder && open.session.holder != new.holder => {
                Err(held_elsewhere(&open.session))
            }
            _ => Ok(()),
        }
    }

    /// A session that is active has a holder that is known: one that was forgotten meanwhile has its
    /// first lease before it.
    pub(super) fn know_holder_of(&mut self, session: &Session) {
        // Most sessions have none, and what time it is costs each start something.
        if session.holder.is_some() {
            let wall = self.settings.clock.now();
            self.holders.take_back(session, wall, Instant::now());
        }
    }

    /// The holders of the sessions that a transition is about.
    pub(super) fn holders_of(&self, transition: &Transition) -> BTreeSet<HolderId> {
        let of = |open: &OpenSession| open.session.holder.clone();
        match transition {
            Transition::Start {
                displaced, holder, ..
            } => {
                let displaced = displaced.as_ref().and_then(of);
                displaced.into_iter().chain(holder.clone()).collect()
            }
            Transition::End { open, .. } => of(open).into_iter().collect(),
            Transition::EndMany { sessions, .. } => sessions.iter().filter_map(of).collect(),
        }
    }

    /// Acts on what a sign of life has changed. Completes when a later process would know.
    pub(super) fn accept(
        &mut self,
        holder: &HolderId,
        change: Change,
        ctx: &mut Context<Self>,
    ) -> LedgerFuture<()> {
        let kept: LedgerFuture<()> = match change.keep {
            Some(kept) => {
                let kept = self.ledger.keep_holder(kept);
                let (registry, holder) = (ctx.address(), holder.clone());
                Box::pin(async move {
                    let kept = kept.await;
                    if kept.is_err() {
                        registry.do_send(NotKept(holder));
                    }
                    kept
                })
            }
            None => Box::pin(std::future::ready(Ok(()))),
        };
        if change.takes_over {
            info!(%holder, "another run of a holder takes over");
            self.end_due(holder, ctx);
        }
        self.watch_lease(holder, ctx);
        kept
    }

    /// Ends those of a holder's sessions that have to end by now, and forgets it if it is done.
    pub(super) fn end_due(&mut self, holder: &HolderId, ctx: &mut Context<Self>) {
        if !self.ends_leases() {
            return;
        }
        let (now, wall) = (Instant::now(), self.settings.clock.now());
        let mut due = BTreeMap::<_, Vec<_>>::new();
        for open in self.active.held_by(holder) {
            // What is being recorded is looked at again when it is.
            if let Some((why, seen_at)) = self.holders.due(&open.session, now)
                && self.is_free(&open)
            {
                let sessions = due.entry((why.reason(), seen_at));
                sessions.or_default().push(open);
            }
        }
        for ((reason, seen_at), sessions) in due {
            warn!(%holder, sessions = sessions.len(), %reason, "the sessions of a holder end");
            let end = Arc::new(End::noticed(reason, seen_at, wall));
            for sessions in sessions.chunks(MAX_ENDS_AT_ONCE) {
                self.end_many(sessions.into(), Arc::clone(&end), None, ctx);
            }
        }
        self.forget_if_done(holder);
    }

    /// A session of a holder was recorded that holds nothing any more, though it was heard when it
    /// started it.
    fn end_of_closed(&mut self, session: &Session, reason: EndReason, ctx: &mut Context<Self>) {
        let is_closed = matches!(self.closing, Some(Closing::Closed { .. }));
        if let Some(open) = self.active.open(&session.id).filter(|_| !is_closed) {
            let now = self.settings.clock.now();
            let end = End::now(reason, EndDetails::default(), now);
            self.end_many(Arc::new([open]), Arc::new(end), None, ctx);
        }
    }

    /// Something was recorded, or could not be, of sessions of these holders: `started`, if a start was.
    pub(super) fn settle_holders(
        &mut self,
        holders: &BTreeSet<HolderId>,
        started: Option<&Session>,
        ctx: &mut Context<Self>,
    ) {
        // Its run or its lease may be over since it was asked for.
        let due = started.and_then(|session| {
            let (due, _) = self.holders.due(session, Instant::now())?;
            Some((session, session.holder.as_ref()?, due))
        });
        match due {
            Some((session, _, Due::Closed(reason))) => self.end_of_closed(session, reason, ctx),
            Some((_, holder, Due::Superseded)) => self.end_due(holder, ctx),
            // If that was not found yet, the look below finds it, or that nobody could be heard.
            Some((_, holder, Due::Lost)) if self.holders.until(holder).is_none() => {
                self.end_due(holder, ctx);
            }
            Some((_, _, Due::Lost)) | None => {}
        }
        for holder in holders {
            self.forget_if_done(holder);
            self.watch_lease(holder, ctx);
        }
        if !self.overdue.is_empty() {
            // What could not be recorded is tried again in a while.
            let at = *self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
            self.look_by(at, ctx);
        }
    }

    pub(super) fn forget_if_done(&mut self, holder: &HolderId) {
        let has_none = self.active.count_held_by(holder) == 0;
        if has_none && self.holders.forget(holder, Instant::now()) {
            let forgotten = self.ledger.forget_holder(holder);
            let holder = holder.clone();
            actix_rt::spawn(async move {
                if let Err(error) = forgotten.await {
                    // The next start finds it, and forgets it when its time is over.
                    warn!(%holder, %error, "that a holder is gone can't be recorded");
                }
            });
        }
    }

    /// Whether leases end here. They are the next process's business once the door is closed, and
    /// where no holder can be heard.
    fn ends_leases(&self) -> bool {
        self.settings.hears_holders && self.closing.is_none()
    }

    /// Looks at the leases when this holder's is over at the latest. A look that comes too early does no
    /// harm, so a lease that is only prolonged costs nothing here.
    pub(super) fn watch_lease(&mut self, holder: &HolderId, ctx: &mut Context<Self>) {
        if let Some(until) = self.holders.until(holder) {
            self.look_by(until, ctx);
        }
    }

    /// Looks at the leases at `at`, unless it looks before.
    fn look_by(&mut self, at: Instant, ctx: &mut Context<Self>) {
        // A plan that is over already would look like a timer that is late.
        let now = Instant::now();
        let at = at.max(now);
        if !self.ends_leases() || self.look.is_some_and(|(_, planned)| planned <= at) {
            return;
        }
        self.look_no_more(ctx);
        let delay = at.duration_since(now);
        self.look = Some((ctx.run_later(delay, Self::look_at_leases), at));
    }

    /// With a timer the registry would outlive everyone who has its address.
    pub(super) fn look_no_more(&mut self, ctx: &mut Context<Self>) {
        if let Some((timer, _)) = self.look.take() {
            ctx.cancel_future(timer);
        }
    }

    /// Begins to look at the leases.
    pub(super) fn watch_leases(&mut self, ctx: &mut Context<Self>) {
        for holder in self.holders.names() {
            self.end_due(&holder, ctx);
            self.watch_lease(&holder, ctx);
        }
    }

    fn look_at_leases(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let planned = self.look.take().map_or(now, |(_, at)| at);
        let late = now.saturating_duration_since(planned);
        if late > PAUSE {
            warn!(
                ?late,
                "this process was not running: every lease lasts that much longer"
            );
            // With time for those signs to be heard.
            self.holders.extend(late + PAUSE, now);
        }
        let mut due: BTreeSet<HolderId> = self.holders.find_lost(now).into_iter().collect();
        let has_sessions = |holder: &&HolderId| self.active.count_held_by(holder) > 0;
        let lost = due.iter().filter(has_sessions).count() as u64;
        self.settings.monitor.holders_lost(lost);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            due.append(&mut self.overdue);
        }
        for holder in due {
            self.end_due(&holder, ctx);
        }
        let next = self.holders.next_over().map(|at| at.max(now + LOOK_EVERY));
        for at in [next, self.retry_at].into_iter().flatten() {
            self.look_by(at, ctx);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        !self.settings.door.is_open() || self.closing.is_some()
    }
}

/// What a holder is could not be recorded.
#[derive(Message)]
#[rtype(result = "()")]
struct NotKept(HolderId);

impl Handler<NotKept> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, NotKept(holder): NotKept, _: &mut Context<Self>) {
        self.holders.not_kept(&holder);
    }
}
