//! Transitions that the bus has recorded, or failed to: what they change, and whom they answer.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::waiting::Names;
use super::super::{EndedSession, StartedSession};
use super::{Closing, Outcome, SessionRegistry, Transition};
use crate::error::Error;
use crate::event::{OpenSession, Seq};
use crate::session::{EndReason, Session, SessionId};

/// The bus has recorded these transitions, or failed to.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Recorded {
    pub(super) transitions: Vec<Settled>,
    pub(super) is_batch: bool,
}

/// What has become of a transition.
pub(super) struct Settled {
    pub(super) names: Names,
    pub(super) transition: Transition,
    pub(super) outcome: Result<Outcome, Error>,
}

impl SessionRegistry {
    fn apply(
        &mut self,
        transition: Transition,
        outcome: Result<Outcome, Error>,
        ctx: &mut Context<Self>,
    ) {
        match transition {
            Transition::Start {
                age_if_new,
                displaced,
                reply,
                ..
            } => {
                self.starting -= usize::from(age_if_new.is_some() && displaced.is_none());
                if let Some(open) = &displaced {
                    let open = [open.clone()];
                    self.settle_ends(&open, EndReason::Replaced, outcome.is_ok());
                    if outcome.is_err() {
                        self.end_late(&open, ctx);
                    }
                }
                let result = match outcome {
                    Ok(Outcome {
                        session: Some(session),
                        seq,
                        ..
                    }) => {
                        let replaced = displaced.map(|open| open.session.id.clone());
                        self.settle_start(session, seq, age_if_new, replaced, ctx)
                    }
                    Ok(Outcome { session: None, .. }) => Err(Error::Stopped),
                    Err(error) => Err(error),
                };
                self.answer_start(reply, result);
            }
            Transition::End { open, end, reply } => {
                let record = self.active.record(&open.session.id);
                let open = [open];
                self.settle_ends(&open, end.reason, outcome.is_ok());
                if outcome.is_err() {
                    self.end_late(&open, ctx);
                }
                let result = match (outcome, record) {
                    (Ok(outcome), Some(mut record)) => {
                        record.end = Some((end, outcome.seq));
                        Ok(EndedSession::Now(record))
                    }
                    (Ok(_), None) => Ok(EndedSession::Unknown),
                    (Err(error), _) => Err(error),
                };
                reply.give(result);
            }
            Transition::EndMany {
                sessions,
                end,
                reply,
            } => {
                if let (Err(error), None) = (&outcome, &reply) {
                    let (sessions, reason) = (sessions.len(), end.reason);
                    warn!(sessions, %reason, %error, "can't record the end of sessions");
                }
                let outcome = outcome.map(|outcome| outcome.ends);
                let recorded = *outcome.as_ref().unwrap_or(&0);
                let (ended, left) = sessions.split_at(recorded.min(sessions.len()));
                self.settle_ends(ended, end.reason, true);
                self.settle_ends(left, end.reason, false);
                let is_retry = matches!(
                    &self.closing,
                    Some(Closing::Closed { end: last, .. }) if Arc::ptr_eq(last, &end)
                );
                if !is_retry {
                    self.end_late(left, ctx);
                }
                if let Some(reply) = reply {
                    reply.give(outcome);
                }
            }
        }
    }

    fn settle(&mut self, settled: Settled, ctx: &mut Context<Self>) {
        self.recording -= 1;
        for name in &settled.names {
            self.busy.remove(name);
        }
        let holders = self.holders_of(&settled.transition);
        if settled.outcome.is_err() {
            // What was being recorded may have kept a session from ending that had to.
            self.overdue.extend(holders.iter().cloned());
        }
        let outcome = settled.outcome.as_ref().ok();
        let started = outcome.and_then(|outcome| outcome.session.clone());
        self.apply(settled.transition, settled.outcome, ctx);
        if !holders.is_empty() {
            self.settle_holders(&holders, started.as_deref(), ctx);
        }
        self.submit_waiting(&settled.names, ctx);
    }

    fn settle_start(
        &mut self,
        session: Arc<Session>,
        seq: Seq,
        age_if_new: Option<Duration>,
        replaced: Option<SessionId>,
        ctx: &mut Context<Self>,
    ) -> Result<StartedSession, Error> {
        let now = Instant::now();
        match age_if_new {
            Some(age) => {
                debug!(session = %session.id, incarnation = %session.incarnation, "session started");
                self.active.insert(&session, seq, now, age);
            }
            None => self.active.amend(&session, now),
        }
        self.know_holder_of(&session);
        if let Some(Closing::Closed { .. }) = &self.closing {
            // Recorded too late for the drain's snapshot: it still gets its end, and its caller
            // the refusal.
            if age_if_new.is_some() {
                self.end_late(&[OpenSession::new(session, seq)], ctx);
            }
            return Err(Error::ShuttingDown);
        }
        Ok(StartedSession {
            session,
            is_new: age_if_new.is_some(),
            replaced,
        })
    }

    /// Takes sessions out that have ended, or back in whose end could not be recorded.
    fn settle_ends(&mut self, sessions: &[OpenSession], reason: EndReason, recorded: bool) {
        if !recorded {
            self.active.set_ending(sessions, false);
            // Not at once, and not for ever where the ledger can't write.
            let holders = sessions
                .iter()
                .filter_map(|open| open.session.holder.clone());
            return self.overdue.extend(holders);
        }
        for OpenSession { session, .. } in sessions {
            debug!(session = %session.id, incarnation = %session.incarnation, %reason, "session ended");
        }
        self.active.remove_all(sessions);
        self.tell_guards(sessions, reason);
    }
}

impl Handler<Recorded> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, recorded: Recorded, ctx: &mut Context<Self>) {
        for transition in recorded.transitions {
            self.settle(transition, ctx);
        }
        if recorded.is_batch {
            self.end_batch(ctx);
        }
        if self.recording == 0 {
            self.take_snapshot(ctx);
        }
    }
}
