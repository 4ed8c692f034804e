//! The actor around the table of active sessions: transitions and their recording.

mod bulk;
mod closing;
mod expiry;
mod guards;
mod handlers;
mod holders;
mod holding;
mod recorded;
mod recording;
mod reply;
mod requests;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use self::closing::Closing;
pub(super) use self::handlers::check_reason;
use self::recording::Unsent;
use self::reply::Reply;
use super::active::SharedSessions;
use super::common::CommonTexts;
use super::guard::WatchedEnds;
use super::waiting::{Name, Waiting, names_of};
use super::{Ended, EndedSession, RegistrySettings, StartedSession};
use crate::bus::PluginBus;
use crate::error::Error;
use crate::event::{OpenSession, Seq};
use crate::holder::Holders;
use crate::ledger::{Ledger, SessionRecord};
use crate::session::{End, HolderId, NewSession, Session, SessionId};

/// How many messages may wait in the registry's mailbox before their senders have to: enough that
/// a burst does not put its senders to sleep one by one.
const MAILBOX: usize = 4096;

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

/// What the bus has recorded.
struct Outcome {
    /// The session that started, if one did.
    session: Option<Arc<Session>>,
    /// The place of its start, or of the last end.
    seq: Seq,
    /// How many ends, counted from the first.
    ends: usize,
}

/// The actor that knows who is active. Takes [`Started`](crate::Started), [`Ended`],
/// [`Touch`](crate::Touch) and [`Snapshot`](crate::Snapshot).
pub struct SessionRegistry {
    settings: RegistrySettings,
    bus: Addr<PluginBus>,
    ledger: Arc<dyn Ledger>,
    active: SharedSessions,
    agents: CommonTexts,
    /// The names of the transitions that are being recorded.
    busy: HashSet<Name>,
    /// What waits for one of those names, or behind what does.
    waiting: Waiting<Request>,
    /// Those that have yet to be sent to the bus.
    unsent: Vec<Unsent>,
    /// How many batches of them are being recorded.
    batches: usize,
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
            active: settings.active.clone(),
            settings,
            agents: CommonTexts::default(),
            bus,
            ledger,
            busy: HashSet::new(),
            waiting: Waiting::default(),
            unsent: Vec::new(),
            batches: 0,
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
    fn submit_waiting(&mut self, names: &[Name], ctx: &mut Context<Self>) {
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
    fn must_wait(&self, number: u64, names: &[Name]) -> bool {
        self.is_any_busy(names) || self.waiting.is_behind(number, names)
    }

    /// Whether no transition of a session is under way, and none uses its key.
    fn is_free(&self, OpenSession { session, .. }: &OpenSession) -> bool {
        !self.is_any_busy(&names_of([(&session.id, &session.key)]))
    }

    fn is_any_busy(&self, names: &[Name]) -> bool {
        names.iter().any(|name| self.busy.contains(name))
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
}

impl Actor for SessionRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.schedule_sweeps(ctx);
        self.watch_leases(ctx);
    }
}
