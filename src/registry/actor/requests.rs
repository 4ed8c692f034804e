//! Starts and ends: from a message to what the bus is asked to record.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::super::active::StartPlan;
use super::super::waiting::{Name, names_of};
use super::super::{Ended, EndedSession, StartedSession};
use super::{Closing, Outcome, Reply, Request, SessionRegistry, Transition, answer};
use crate::bus::{SessionEnd, SessionStart};
use crate::error::Error;
use crate::event::OpenSession;
use crate::session::{End, EndDetails, EndReason, Incarnation, NewSession, Session, SessionId};

impl SessionRegistry {
    pub(super) fn start(
        &mut self,
        number: u64,
        mut new: NewSession,
        by_holder: bool,
        reply: Reply<StartedSession>,
        ctx: &mut Context<Self>,
    ) {
        if self.is_closed() {
            return answer(reply, Err(Error::ShuttingDown));
        }
        if let Err(error) = self.mention_holder(&mut new, ctx) {
            return answer(reply, Err(error));
        }
        let plan = self.active.plan_start(&new);
        let others = [&plan.known, &plan.displaced].into_iter().flatten();
        let others = others.map(|open| (&open.session.id, &open.session.key));
        let names = names_of(others.chain([(&new.id, &new.key)]));
        if self.must_wait(number, &names) {
            let request = Request::Start {
                new,
                by_holder,
                reply,
            };
            return self.waiting.insert(number, request, names);
        }
        if let Err(error) = self.check_held(&new, &plan, by_holder) {
            return answer(reply, Err(error));
        }
        let max = self.settings.limits.max_active;
        let needs_a_place = plan.known.is_none() && plan.displaced.is_none();
        if needs_a_place && self.active.len() + self.starting >= max {
            answer(reply, Err(Error::TooManySessions { max }));
        } else {
            self.record_start(new, plan, names, reply, ctx);
        }
    }

    fn record_start(
        &mut self,
        new: NewSession,
        plan: StartPlan,
        names: HashSet<Name>,
        reply: Reply<StartedSession>,
        ctx: &mut Context<Self>,
    ) {
        let now = self.settings.clock.now();
        let StartPlan { known, displaced } = plan;
        let displaced_end = displaced.clone().map(|open| {
            let details = EndDetails {
                next_session_id: Some(new.id.clone()),
                next_key: new.key.clone(),
                ..EndDetails::default()
            };
            let end = End::now(EndReason::Replaced, details, now);
            (open, Arc::new(end))
        });
        if let Some(open) = &displaced {
            self.active.set_ending(&open.session.id, true);
        }
        let age_if_new = known.is_none().then(|| {
            let age = now.duration_since(new.started_at.unwrap_or(now));
            Duration::try_from(age).unwrap_or_default()
        });
        self.starting += usize::from(age_if_new.is_some() && displaced.is_none());
        let transition = Transition::Start {
            age_if_new,
            displaced,
            holder: new.holder.clone(),
            reply,
        };

        let (bus, ledger) = (self.bus.clone(), Arc::clone(&self.ledger));
        let recording = async move {
            let amends = known.as_ref().map(|known| known.start_seq);
            let session = Arc::new(match known {
                Some(known) => known.session.replace_details(new),
                None => {
                    let previous = ledger.last_ended(&new.id).await?;
                    let previous = previous.map(|record| record.session.incarnation);
                    Session::begin(new, Incarnation::generate(), previous, now)
                }
            });
            let message = SessionStart {
                session: Arc::clone(&session),
                amends,
                displaced: displaced_end,
                timestamp: now,
            };
            let seq = bus.send(message).await??;
            Ok(Outcome {
                session: Some(session),
                seq,
                ends: 0,
            })
        };
        self.record(names, transition, recording, ctx);
    }

    pub(super) fn end(
        &mut self,
        number: u64,
        ended: Ended,
        reply: Reply<EndedSession>,
        ctx: &mut Context<Self>,
    ) {
        // Where the id is not active, its start may still be under way.
        let names = match self.active.get(&ended.id) {
            Some(session) => names_of([(&session.id, &session.key)]),
            None => names_of([(&ended.id, &None)]),
        };
        // What ends sessions while the door closes comes after the shutdown, which was first.
        let is_closing = matches!(self.closing, Some(Closing::Waiting { .. }));
        if is_closing || self.must_wait(number, &names) {
            let request = Request::End(ended, reply);
            return self.waiting.insert(number, request, names);
        }
        let open = self.active.open(&ended.id).filter(|open| {
            let actual = open.session.incarnation;
            ended.incarnation.unwrap_or(actual) == actual
        });
        let Some(open) = open else {
            return self.answer_unchanged(ended.id, reply);
        };
        let now = self.settings.clock.now();
        let end = Arc::new(End::now(ended.reason, ended.details, now));
        let sessions: Arc<[_]> = Arc::new([open.clone()]);
        let transition = Transition::End {
            open,
            end: Arc::clone(&end),
            reply,
        };
        self.record_ends(sessions, end, names, transition, ctx);
    }

    /// Answers a request to end that finds nothing to end.
    fn answer_unchanged(&self, id: SessionId, reply: Reply<EndedSession>) {
        let known = self.find(id);
        actix_rt::spawn(async move {
            let found = known.await.map(|record| match record {
                Some(record) => EndedSession::Unchanged(record),
                None => EndedSession::Unknown,
            });
            answer(reply, found);
        });
    }

    /// Ends all of `sessions`, whose names are not busy, in one step.
    pub(super) fn end_many(
        &mut self,
        sessions: Arc<[OpenSession]>,
        end: Arc<End>,
        reply: Option<Reply<usize>>,
        ctx: &mut Context<Self>,
    ) {
        let sessions_ended = sessions.iter().map(|open| &open.session);
        let names = names_of(sessions_ended.map(|session| (&session.id, &session.key)));
        let transition = Transition::EndMany {
            sessions: Arc::clone(&sessions),
            end: Arc::clone(&end),
            reply,
        };
        self.record_ends(sessions, end, names, transition, ctx);
    }

    fn record_ends(
        &mut self,
        sessions: Arc<[OpenSession]>,
        end: Arc<End>,
        names: HashSet<Name>,
        transition: Transition,
        ctx: &mut Context<Self>,
    ) {
        for open in sessions.iter() {
            self.active.set_ending(&open.session.id, true);
        }
        let bus = self.bus.clone();
        let recording = async move {
            let message = SessionEnd {
                sessions,
                end,
                patience: None,
                until: None,
            };
            let recorded = bus.send(message).await??;
            Ok(Outcome {
                session: None,
                seq: recorded.last,
                ends: recorded.count,
            })
        };
        self.record(names, transition, recording, ctx);
    }
}
