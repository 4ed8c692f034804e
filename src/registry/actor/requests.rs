//! Starts and ends: from a message to what the bus is asked to record.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::super::active::StartPlan;
use super::super::waiting::{Names, names_of};
use super::super::{Ended, EndedSession, StartedSession};
use super::recording::Asked;
use super::reply::Reply;
use super::{Closing, Request, SessionRegistry, Transition};
use crate::error::Error;
use crate::event::OpenSession;
use crate::session::{End, EndDetails, EndReason, NewSession, SessionId};

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
            return self.answer_start(reply, Err(Error::ShuttingDown));
        }
        if let Err(error) = self.mention_holder(&mut new, ctx) {
            return self.answer_start(reply, Err(error));
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
        let checked = self.check_held(&new, &plan, by_holder);
        if let Err(error) = checked.and_then(|()| self.check_room()) {
            return self.answer_start(reply, Err(error));
        }
        let max = self.settings.limits.max_active;
        let needs_a_place = plan.known.is_none() && plan.displaced.is_none();
        if needs_a_place && self.active.len() + self.starting >= max {
            self.answer_start(reply, Err(Error::TooManySessions { max }));
        } else {
            self.record_start(new, plan, names, reply, ctx);
        }
    }

    fn record_start(
        &mut self,
        mut new: NewSession,
        plan: StartPlan,
        names: Names,
        reply: Reply<StartedSession>,
        ctx: &mut Context<Self>,
    ) {
        let now = self.settings.clock.now();
        let StartPlan { known, displaced } = plan;
        if let Some(agent) = &mut new.agent_id {
            self.agents.share(agent);
        }
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
            self.active.set_ending(std::slice::from_ref(open), true);
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

        let asked = Asked::Start {
            new,
            known,
            displaced: displaced_end,
            now,
        };
        self.record(names, transition, asked, ctx);
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
        if let Err(error) = self.check_room() {
            return reply.give(Err(error));
        }
        let now = self.settings.clock.now();
        let end = Arc::new(End::now(ended.reason, ended.details, now));
        self.active.set_ending(std::slice::from_ref(&open), true);
        let transition = Transition::End {
            open: open.clone(),
            end: Arc::clone(&end),
            reply,
        };
        self.record(names, transition, Asked::End(open, end), ctx);
    }

    /// Answers a request to end that finds nothing to end.
    fn answer_unchanged(&self, id: SessionId, reply: Reply<EndedSession>) {
        let known = self.find(id);
        actix_rt::spawn(async move {
            let found = known.await.map(|record| match record {
                Some(record) => EndedSession::Unchanged(record),
                None => EndedSession::Unknown,
            });
            reply.give(found);
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
        self.active.set_ending(&sessions, true);
        self.record_many(names, transition, sessions, end, ctx);
    }
}
