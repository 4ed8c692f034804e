//! The actor around the table of active sessions: transitions and their recording.

mod bulk;
mod guards;
mod handlers;
mod holders;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

pub(super) use self::handlers::check_reason;
use super::active::{ActiveSessions, StartPlan};
use super::guard::WatchedEnds;
use super::waiting::{Name, Waiting, names_of};
use super::{ClosedDoor, Ended, EndedSession, RegistrySettings, StartedSession};
use crate::bus::{MAX_ENDS_AT_ONCE, PluginBus, SessionEnd, SessionStart};
use crate::error::Error;
use crate::event::{OpenSession, Seq};
use crate::holder::Holders;
use crate::ledger::{Ledger, SessionRecord};
use crate::session::{
    End, EndDetails, EndReason, HolderId, Incarnation, NewSession, Session, SessionId,
};

/// How many messages may wait in the registry's mailbox before their senders have to: enough that
/// a burst does not put its senders to sleep one by one.
const MAILBOX: usize = 4096;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    // Nobody may be waiting any more: what was recorded counts all the same.
    let _ = reply.send(result);
}

/// A message that starts or ends a session.
enum Request {
    Start {
        new: NewSession,
        /// Its holder asks for it itself, and may not touch what is not its own.
        by_holder: bool,
        reply: Reply<StartedSession>,
    },
    End(Ended, Reply<EndedSession>),
}

/// A transition that the bus was asked to record.
enum Transition {
    Start {
        /// The age that a new incarnation has already; none where an active one got new details.
        age_if_new: Option<Duration>,
        displaced: Option<OpenSession>,
        holder: Option<HolderId>,
        reply: Reply<StartedSession>,
    },
    End {
        open: OpenSession,
        end: Arc<End>,
        reply: Reply<EndedSession>,
    },
    EndMany {
        sessions: Arc<[OpenSession]>,
        end: Arc<End>,
        /// To whom it matters how many of them have ended, counted from the first.
        reply: Option<Reply<usize>>,
    },
}

/// The bus has recorded a transition, or failed to.
#[derive(Message)]
#[rtype(result = "()")]
struct Recorded {
    names: HashSet<Name>,
    transition: Transition,
    outcome: Result<Outcome, Error>,
}

/// What the bus has recorded.
struct Outcome {
    /// The session that started, if one did.
    session: Option<Arc<Session>>,
    /// The place of its start, or of the last end.
    seq: Seq,
    /// How many ends, counted from the first.
    ends: usize,
}

/// A door that was closed.
enum Closing {
    /// Some transitions are still being recorded; what ends sessions waits until they are.
    Waiting {
        reason: EndReason,
        keeps_held: bool,
        reply: oneshot::Sender<ClosedDoor>,
    },
    /// All these sessions have ended, in this way.
    Closed {
        sessions: ActiveSessions,
        end: Arc<End>,
    },
}

/// The actor that knows who is active. Takes [`Started`](crate::Started), [`Ended`],
/// [`Touch`](crate::Touch) and [`Snapshot`](crate::Snapshot).
pub struct SessionRegistry {
    settings: RegistrySettings,
    bus: Addr<PluginBus>,
    ledger: Arc<dyn Ledger>,
    active: ActiveSessions,
    /// The names of the transitions that are being recorded.
    busy: HashSet<Name>,
    /// What waits for one of those names, or behind what does.
    waiting: Waiting<Request>,
    /// How many transitions are being recorded.
    recording: usize,
    /// How many sessions those will add, not counting successors, which take a place over.
    starting: usize,
    closing: Option<Closing>,
    /// The guards that want to hear of the ends of their sessions.
    watched: WatchedEnds,
    /// The ends of sessions that were let go of, to be tried again since the ledger has refused them.
    refused: Vec<Ended>,
    /// The timer of the sweeps.
    sweeps: Option<SpawnHandle>,
    holders: Holders,
    /// Holders some of whose sessions could not be ended when they had to.
    overdue: BTreeSet<HolderId>,
    /// When to try to end those again.
    retry_at: Option<Instant>,
    /// The timer of the next look at the leases, and when it fires.
    look: Option<(SpawnHandle, Instant)>,
}

impl fmt::Debug for SessionRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRegistry")
            .field("active", &self.active.len())
            .field("recording", &self.recording)
            .finish_non_exhaustive()
    }
}

impl SessionRegistry {
    pub(crate) fn new(
        settings: RegistrySettings,
        bus: Addr<PluginBus>,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        let mut registry = Self {
            settings,
            bus,
            ledger,
            active: ActiveSessions::default(),
            busy: HashSet::new(),
            waiting: Waiting::default(),
            recording: 0,
            starting: 0,
            closing: None,
            watched: WatchedEnds::default(),
            refused: Vec::new(),
            sweeps: None,
            holders: Holders::default(),
            overdue: BTreeSet::new(),
            retry_at: None,
            look: None,
        };
        registry.restore_held();
        registry
    }

    /// Carries `request` out, behind everything that mentions the same id or key.
    fn submit(&mut self, request: Request, ctx: &mut Context<Self>) {
        let number = self.waiting.arrive();
        self.attempt(number, request, ctx);
    }

    /// Carries out what waited for one of `names`, which are free by now, and what waited behind it.
    fn submit_waiting(&mut self, names: &HashSet<Name>, ctx: &mut Context<Self>) {
        let firsts = names.iter().filter_map(|name| self.waiting.first(name));
        let mut numbers: BTreeSet<u64> = firsts.collect();
        while let Some(number) = numbers.pop_first() {
            let names = self.waiting.names(number);
            if names.is_some_and(|names| self.must_wait(number, names)) {
                continue;
            }
            if let Some((request, names)) = self.waiting.remove(number) {
                self.attempt(number, request, ctx);
                let firsts = names.iter().filter_map(|name| self.waiting.first(name));
                numbers.extend(firsts.filter(|&first| first > number));
            }
        }
    }

    /// Carries `request` out, or lets it wait where a name that it touches is busy.
    fn attempt(&mut self, number: u64, request: Request, ctx: &mut Context<Self>) {
        match request {
            Request::Start {
                new,
                by_holder,
                reply,
            } => self.start(number, new, by_holder, reply, ctx),
            Request::End(ended, reply) => self.end(number, ended, reply, ctx),
        }
    }

    /// Whether the request of this number, which touches `names`, has to wait.
    fn must_wait(&self, number: u64, names: &HashSet<Name>) -> bool {
        !names.is_disjoint(&self.busy) || self.waiting.is_behind(number, names)
    }

    /// Whether no transition of a session is under way, and none uses its key.
    fn is_free(&self, OpenSession { session, .. }: &OpenSession) -> bool {
        names_of([(&session.id, &session.key)]).is_disjoint(&self.busy)
    }

    fn start(
        &mut self,
        number: u64,
        mut new: NewSession,
        by_holder: bool,
        reply: Reply<StartedSession>,
        ctx: &mut Context<Self>,
    ) {
        if !self.settings.door.is_open() || self.closing.is_some() {
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

    fn end(
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
    fn end_many(
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

    /// Keeps `names` busy until `recording` is done, and then applies `transition`.
    fn record(
        &mut self,
        names: HashSet<Name>,
        transition: Transition,
        recording: impl Future<Output = Result<Outcome, Error>> + 'static,
        ctx: &mut Context<Self>,
    ) {
        self.busy.extend(names.iter().cloned());
        self.recording += 1;
        // Not spawned on the context, which polls all its futures whenever one of them wakes.
        let registry = ctx.address();
        actix_rt::spawn(async move {
            let outcome = recording.await;
            registry.do_send(Recorded {
                names,
                transition,
                outcome,
            });
        });
    }

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
                answer(reply, result);
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
                answer(reply, result);
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
                    answer(reply, outcome);
                }
            }
        }
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

    /// Ends sessions for the shutdown that its snapshot has missed, if it was taken already: what
    /// was being recorded then has left them active. Once: a ledger that fails again has failed.
    fn end_late(&mut self, sessions: &[OpenSession], ctx: &mut Context<Self>) {
        if let Some(Closing::Closed { end, .. }) = &self.closing
            && !sessions.is_empty()
        {
            let end = Arc::clone(end);
            self.end_many(sessions.into(), end, None, ctx);
        }
    }

    /// Takes sessions out that have ended, or back in whose end could not be recorded.
    fn settle_ends(&mut self, sessions: &[OpenSession], reason: EndReason, recorded: bool) {
        for OpenSession { session, .. } in sessions {
            if recorded {
                debug!(session = %session.id, incarnation = %session.incarnation, %reason, "session ended");
                self.active.remove(&session.id);
            } else {
                self.active.set_ending(&session.id, false);
                // Not at once, and not for ever where the ledger can't write.
                self.overdue.extend(session.holder.clone());
            }
        }
        if recorded {
            self.tell_guards(sessions, reason);
        }
    }

    /// What is known of `id`: the active session, or the one that ended last.
    fn find(
        &self,
        id: SessionId,
    ) -> impl Future<Output = Result<Option<SessionRecord>, Error>> + 'static {
        let active = self.active.record(&id);
        let ended_by_shutdown = match &self.closing {
            Some(Closing::Closed { sessions, end }) => sessions.record(&id).map(|mut record| {
                // Until the drain has recorded it, its place in the log is yet to come.
                record.end = Some((Arc::clone(end), Seq::MAX));
                record
            }),
            _ => None,
        };
        let ledger = Arc::clone(&self.ledger);
        async move {
            if active.is_some() {
                return Ok(active);
            }
            let recorded = ledger.last_ended(&id).await?;
            let is_recorded = |ended: &SessionRecord| {
                let last = recorded.as_ref().map(|last| last.session.incarnation);
                last == Some(ended.session.incarnation)
            };
            match ended_by_shutdown {
                Some(ended) if !is_recorded(&ended) => Ok(Some(ended)),
                _ => Ok(recorded),
            }
        }
    }

    /// Looks for sessions whose time is over as often as the limits need it, and no more once the
    /// door is closed: with a timer the registry would outlive everyone who has its address.
    fn schedule_sweeps(&mut self, ctx: &mut Context<Self>) {
        if let Some(sweeps) = self.sweeps.take() {
            ctx.cancel_future(sweeps);
        }
        let period = self.settings.limits.expiry.period();
        let period = period.filter(|_| self.closing.is_none());
        self.sweeps = period.map(|period| ctx.run_interval(period, Self::sweep));
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let expired = self
            .active
            .expired(self.settings.limits.expiry, Instant::now());
        for reason in [EndReason::Expired, EndReason::Idle] {
            let of_reason = expired.iter().filter(|(_, why)| *why == reason);
            let sessions: Vec<_> = of_reason
                .map(|(open, _)| open)
                .filter(|open| self.is_free(open))
                .cloned()
                .collect();
            if sessions.is_empty() {
                continue;
            }
            info!(sessions = sessions.len(), %reason, "sessions end by themselves");
            let now = self.settings.clock.now();
            let end = Arc::new(End::now(reason, EndDetails::default(), now));
            for sessions in sessions.chunks(MAX_ENDS_AT_ONCE) {
                self.end_many(sessions.into(), Arc::clone(&end), None, ctx);
            }
        }
    }

    /// Takes the snapshot that marks every session ended, if the door is closed and nothing comes
    /// first any more.
    fn take_snapshot(&mut self, ctx: &mut Context<Self>) {
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
        let stays = |session: &Session| keeps_held && session.holder.is_some();
        let sessions = self.active.take_not_ending(stays);
        if self.active.len() > 0 {
            info!(
                sessions = self.active.len(),
                "sessions go on for their holders, or end by themselves"
            );
        }
        let closed = ClosedDoor {
            // In this order, since a ledger finds starts that stand side by side faster.
            sessions: sessions.by_start().collect(),
            end: Arc::clone(&end),
            unsettled: self.recording,
        };
        self.closing = Some(Closing::Closed { sessions, end });
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
}

impl Actor for SessionRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.schedule_sweeps(ctx);
        self.watch_leases(ctx);
    }
}

impl Handler<Recorded> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, recorded: Recorded, ctx: &mut Context<Self>) {
        self.recording -= 1;
        for name in &recorded.names {
            self.busy.remove(name);
        }
        let holders = self.holders_of(&recorded.transition);
        let outcome = recorded.outcome.as_ref().ok();
        let started = outcome.and_then(|outcome| outcome.session.clone());
        self.apply(recorded.transition, recorded.outcome, ctx);
        if !holders.is_empty() {
            self.settle_holders(&holders, started.as_deref(), ctx);
        }
        self.submit_waiting(&recorded.names, ctx);
        if self.recording == 0 {
            self.take_snapshot(ctx);
        }
    }
}
