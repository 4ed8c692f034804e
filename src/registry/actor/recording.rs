//! Transitions on their way to the bus: those that come in together are recorded together.

use std::sync::Arc;

use actix::prelude::*;
use futures_util::future::join_all;
use jiff::Timestamp;

use super::super::waiting::{Name, Names};
use super::recorded::{Recorded, Settled};
use super::{Outcome, SessionRegistry, Transition};
use crate::bus::{PluginBus, RecordEach, SessionEnd, SessionStart, ToRecord};
use crate::error::Error;
use crate::event::OpenSession;
use crate::ledger::{Ledger, LedgerError};
use crate::session::{End, Incarnation, NewSession, Session, SessionId};

/// How many transitions are recorded together at the most.
const MAX_TOGETHER: usize = 1024;

/// While so many batches are being recorded, what comes in waits for one of them, or until it is a whole
/// batch, and goes together: under load fewer and larger batches cost less, and without it nothing should
/// wait.
const MAX_BATCHES: usize = 4;

/// How many transitions may wait to be recorded: see the bound of the ledger's own queue.
const MAX_RECORDING: usize = 16_384;

/// What a transition asks the bus to record.
pub(super) enum Asked {
    /// A start that was asked for at `now`: of a new incarnation, or new details of a `known` one.
    Start {
        new: NewSession,
        known: Option<OpenSession>,
        displaced: Option<(OpenSession, Arc<End>)>,
        now: Timestamp,
    },
    /// The end of one session.
    End(OpenSession, Arc<End>),
}

/// A transition that has yet to be recorded.
pub(super) struct Unsent {
    names: Names,
    transition: Transition,
    request: Asked,
}

/// It is time to have recorded what has come in.
#[derive(Message)]
#[rtype(result = "()")]
struct SendUnsent;

impl SessionRegistry {
    /// Keeps `names` busy until `request` is recorded, and then applies `transition`.
    pub(super) fn record(
        &mut self,
        names: Names,
        transition: Transition,
        request: Asked,
        ctx: &mut Context<Self>,
    ) {
        self.keep_busy(&names);
        self.unsent.push(Unsent {
            names,
            transition,
            request,
        });
        // Behind what is in the mailbox by now, which goes with it.
        if self.unsent.len() == 1 {
            ctx.address().do_send(SendUnsent);
        }
        if self.unsent.len() >= MAX_TOGETHER {
            self.send_unsent(ctx);
        }
    }

    /// Refuses what would wait for a ledger that so many wait for already.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        if self.recording < MAX_RECORDING {
            return Ok(());
        }
        Err(LedgerError::full().into())
    }

    fn send_if_may(&mut self, ctx: &mut Context<Self>) {
        if self.batches < MAX_BATCHES {
            self.send_unsent(ctx);
        }
    }

    /// A batch is recorded, so that the next one may be.
    pub(super) fn end_batch(&mut self, ctx: &mut Context<Self>) {
        self.batches -= 1;
        self.send_if_may(ctx);
    }

    /// As [`record`](Self::record), for the ends of many sessions, which are recorded by themselves.
    pub(super) fn record_many(
        &mut self,
        names: Names,
        transition: Transition,
        sessions: Arc<[OpenSession]>,
        end: Arc<End>,
        ctx: &mut Context<Self>,
    ) {
        self.keep_busy(&names);
        let (bus, registry) = (self.bus.clone(), ctx.address());
        actix_rt::spawn(async move {
            let message = SessionEnd {
                sessions,
                end,
                patience: None,
                until: None,
            };
            let recorded = bus.send(message).await;
            let recorded = recorded.unwrap_or_else(|gone| Err(gone.into()));
            let outcome = recorded.map(|recorded| Outcome {
                session: None,
                seq: recorded.last,
                ends: recorded.count,
            });
            let transition = Settled {
                names,
                transition,
                outcome,
            };
            registry.do_send(Recorded {
                transitions: vec![transition],
                is_batch: false,
            });
        });
    }

    fn keep_busy(&mut self, names: &[Name]) {
        self.busy.extend(names.iter().cloned());
        self.recording += 1;
    }

    fn send_unsent(&mut self, ctx: &mut Context<Self>) {
        let unsent = std::mem::take(&mut self.unsent);
        // What begins a life waits until it is known which one was before, and nothing else does.
        let begins = |it: &Unsent| matches!(it.request, Asked::Start { known: None, .. });
        let (begin, others): (Vec<_>, Vec<_>) = unsent.into_iter().partition(begins);
        for unsent in [begin, others] {
            if unsent.is_empty() {
                continue;
            }
            self.batches += 1;
            // Not spawned on the context, which polls all its futures whenever one of them wakes.
            let registry = ctx.address();
            let recorded = record_together(self.bus.clone(), Arc::clone(&self.ledger), unsent);
            actix_rt::spawn(async move { registry.do_send(recorded.await) });
        }
    }
}

impl Handler<SendUnsent> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, _: SendUnsent, ctx: &mut Context<Self>) {
        self.send_if_may(ctx);
    }
}

/// Has all of `unsent` recorded, each in a step of its own.
async fn record_together(
    bus: Addr<PluginBus>,
    ledger: Arc<dyn Ledger>,
    unsent: Vec<Unsent>,
) -> Recorded {
    let begun = unsent.iter().filter_map(|it| match &it.request {
        Asked::Start {
            new, known: None, ..
        } => Some(new.id.clone()),
        _ => None,
    });
    let mut previous = lives_before(&*ledger, begun.collect()).await.into_iter();
    let (mut transitions, mut to_record) = (Vec::new(), Vec::new());
    let mut settled = Vec::new();
    for unsent in unsent {
        let (session, request) = match unsent.request {
            Asked::End(open, end) => (None, ToRecord::End(open, end)),
            Asked::Start {
                new,
                known,
                displaced,
                now,
            } => {
                let amends = known.as_ref().map(|known| known.start_seq);
                let session = match known {
                    Some(known) => Ok(known.session.replace_details(new)),
                    None => {
                        let previous = previous
                            .next()
                            .unwrap_or_else(|| Err(LedgerError::too_few_answers()));
                        let incarnation = Incarnation::generate();
                        previous.map(|previous| Session::begin(new, incarnation, previous, now))
                    }
                };
                let session = match session {
                    Ok(session) => Arc::new(session),
                    Err(error) => {
                        settled.push(Settled {
                            names: unsent.names,
                            transition: unsent.transition,
                            outcome: Err(error.into()),
                        });
                        continue;
                    }
                };
                let start = SessionStart {
                    session: Arc::clone(&session),
                    amends,
                    displaced,
                    timestamp: now,
                };
                (Some(session), ToRecord::Start(start))
            }
        };
        transitions.push((unsent.names, unsent.transition, session));
        to_record.push(request);
    }
    let recorded = bus.send(RecordEach(to_record)).await;
    let recorded = recorded.unwrap_or_else(|gone| {
        let error = Error::from(gone);
        transitions.iter().map(|_| Err(error.clone())).collect()
    });
    let recorded = transitions.into_iter().zip(recorded);
    settled.extend(recorded.map(|((names, transition, session), seq)| Settled {
        names,
        transition,
        outcome: seq.map(|seq| Outcome {
            ends: usize::from(session.is_none()),
            session,
            seq,
        }),
    }));
    Recorded {
        transitions: settled,
        is_batch: true,
    }
}

/// The lives of `ids` before those that begin now. A look-up that fails is one start's failure.
async fn lives_before(
    ledger: &dyn Ledger,
    ids: Vec<SessionId>,
) -> Vec<Result<Option<Incarnation>, LedgerError>> {
    if ids.is_empty() {
        return Vec::new();
    }
    match ledger.last_incarnations(ids.clone()).await {
        Ok(found) => found.into_iter().map(Ok).collect(),
        Err(error) if ids.len() == 1 => vec![Err(error)],
        Err(_) => {
            let singly = ids.into_iter().map(|id| ledger.last_incarnations(vec![id]));
            let found = join_all(singly).await.into_iter();
            found
                .map(|found| found?.pop().ok_or_else(LedgerError::too_few_answers))
                .collect()
        }
    }
}
