//! A ledger in memory that fails or hangs when a test says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use session_supervisor::{
    Append, Event, Held, HolderId, HolderRecord, Incarnation, Intent, Ledger, LedgerError,
    LedgerFuture, MemoryLedger, OpenSession, Page, Parked, Position, Progress, Reclaimed,
    SessionFilter, SessionId, SessionRecord,
};
use tokio::sync::watch;

/// What is asked of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Append,
    Read,
    LastEnded,
    Ended,
    Advance,
    Intend,
    Attach,
    DeadLetters,
    KeepAlive,
    KeepHolder,
    Reclaim,
    Stop,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused.
    Fails,
    /// It is refused once, and works from then on.
    FailsOnce,
    /// It is refused after so many milliseconds.
    FailsLate(u64),
    /// It is done, and answered when the ledger is healed.
    Hangs,
    /// It is done, and answered after so many milliseconds.
    Slow(u64),
    /// It blocks the thread of whoever asks for so many milliseconds.
    Blocks(u64),
}

/// The ledger. Clones share all.
#[derive(Debug, Clone)]
pub(crate) struct FaultyLedger {
    inner: Arc<MemoryLedger>,
    is_durable: bool,
    /// How many calls still work, and what becomes of the next ones.
    faults: Arc<Mutex<BTreeMap<Call, (usize, Fault)>>>,
    healed: Arc<watch::Sender<usize>>,
    /// What a later supervisor finds, if this one says that it outlives the process.
    kept: Arc<Mutex<KeptOpen>>,
}

#[derive(Debug, Default)]
struct KeptOpen {
    open: BTreeMap<Incarnation, OpenSession>,
    holders: BTreeMap<HolderId, HolderRecord>,
}

impl KeptOpen {
    fn record(&mut self, events: &[Event], amended: Option<OpenSession>) {
        for event in events {
            let (seq, session) = (event.seq().unwrap(), event.session().unwrap());
            match event.how_ended() {
                None => {
                    let open = OpenSession::new(Arc::clone(session), seq);
                    self.open.insert(session.incarnation, open);
                }
                Some(_) => drop(self.open.remove(&session.incarnation)),
            }
        }
        let amended = amended.map(|open| (open.session.incarnation, open));
        self.open.extend(amended);
    }
}

impl FaultyLedger {
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(MemoryLedger::new()),
            is_durable: false,
            faults: Arc::default(),
            healed: Arc::new(watch::Sender::new(0)),
            kept: Arc::default(),
        }
    }

    /// Says of itself that it outlives the process.
    pub(crate) fn durable() -> Self {
        Self {
            is_durable: true,
            ..Self::new()
        }
    }

    /// `call` is at fault from now on, after `working` that are not.
    pub(crate) fn breaks(&self, call: Call, working: usize, fault: Fault) {
        self.faults.lock().unwrap().insert(call, (working, fault));
    }

    /// All works from now on, and what hangs is answered.
    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
        self.healed.send_modify(|times| *times += 1);
    }

    fn fault(&self, call: Call) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (working, fault) = faults.get_mut(&call)?;
        if *working > 0 {
            *working -= 1;
            return None;
        }
        let fault = *fault;
        if fault == Fault::FailsOnce {
            faults.remove(&call);
        }
        Some(fault)
    }

    fn answer<T: Send + 'static>(
        &self,
        call: Call,
        ask: impl FnOnce(&MemoryLedger) -> LedgerFuture<T>,
    ) -> LedgerFuture<T> {
        match self.fault(call) {
            None => ask(&self.inner),
            Some(Fault::Fails | Fault::FailsOnce) => {
                Box::pin(async { Err(LedgerError::new("no space is left")) })
            }
            Some(Fault::FailsLate(millis)) => Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Err(LedgerError::new("no space is left"))
            }),
            Some(Fault::Slow(millis)) => {
                let answer = ask(&self.inner);
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    answer.await
                })
            }
            Some(Fault::Blocks(millis)) => {
                std::thread::sleep(Duration::from_millis(millis));
                ask(&self.inner)
            }
            Some(Fault::Hangs) => {
                let (answer, mut healed) = (ask(&self.inner), self.healed.subscribe());
                Box::pin(async move {
                    let _ = healed.changed().await;
                    answer.await
                })
            }
        }
    }
}

impl Ledger for FaultyLedger {
    fn is_durable(&self) -> bool {
        self.is_durable
    }

    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>> {
        let kept = Arc::clone(&self.kept);
        self.answer(Call::Append, |inner| {
            let amended = append.amended.clone();
            let recorded = inner.append(append).now_or_never().expect("at once");
            if let Ok(events) = &recorded {
                kept.lock().unwrap().record(events, amended);
            }
            Box::pin(std::future::ready(recorded))
        })
    }

    fn head(&self) -> u64 {
        self.inner.head()
    }

    fn read(&self, after: u64, limit: usize) -> LedgerFuture<Page> {
        self.answer(Call::Read, |inner| inner.read(after, limit))
    }

    fn last_ended(&self, id: &SessionId) -> LedgerFuture<Option<SessionRecord>> {
        self.answer(Call::LastEnded, |inner| inner.last_ended(id))
    }

    fn ended(
        &self,
        filter: &SessionFilter,
        now: jiff::Timestamp,
        after: u64,
        limit: usize,
    ) -> LedgerFuture<Vec<SessionRecord>> {
        self.answer(Call::Ended, |inner| inner.ended(filter, now, after, limit))
    }

    fn attach(&self, plugin: &str) -> LedgerFuture<Position> {
        self.answer(Call::Attach, |inner| inner.attach(plugin))
    }

    fn advance(&self, plugin: &str, progress: Progress) -> LedgerFuture<()> {
        self.answer(Call::Advance, |inner| inner.advance(plugin, progress))
    }

    fn dead_letters(&self, plugin: &str, after: u64, limit: usize) -> LedgerFuture<Vec<Parked>> {
        self.answer(Call::DeadLetters, |inner| {
            inner.dead_letters(plugin, after, limit)
        })
    }

    fn detach_others(&self, configured: &[Arc<str>], now: jiff::Timestamp) -> LedgerFuture<()> {
        self.inner.detach_others(configured, now)
    }

    fn held(&self) -> LedgerFuture<Held> {
        let kept = self.kept.lock().unwrap();
        let open = kept.open.values();
        let mut held = Held::default();
        let sessions = open.filter(|open| open.session.holder.is_some());
        held.sessions = sessions.cloned().collect();
        held.holders = kept.holders.values().cloned().collect();
        Box::pin(std::future::ready(Ok(held)))
    }

    fn keep_holder(&self, holder: HolderRecord) -> LedgerFuture<()> {
        let kept = Arc::clone(&self.kept);
        self.answer(Call::KeepHolder, |_| {
            let holders = &mut kept.lock().unwrap().holders;
            holders.insert(holder.holder.clone(), holder);
            Box::pin(std::future::ready(Ok(())))
        })
    }

    fn forget_holder(&self, holder: &HolderId) -> LedgerFuture<()> {
        self.kept.lock().unwrap().holders.remove(holder);
        Box::pin(std::future::ready(Ok(())))
    }

    fn keep_alive(&self, now: jiff::Timestamp) -> LedgerFuture<()> {
        self.answer(Call::KeepAlive, |inner| inner.keep_alive(now))
    }

    fn intend(&self, intent: Intent) -> LedgerFuture<()> {
        self.answer(Call::Intend, |inner| inner.intend(intent))
    }

    fn stop(&self, now: jiff::Timestamp) -> LedgerFuture<()> {
        self.answer(Call::Stop, |inner| inner.stop(now))
    }

    fn reclaim(&self, now: jiff::Timestamp, retention: Duration) -> LedgerFuture<Reclaimed> {
        self.answer(Call::Reclaim, |inner| inner.reclaim(now, retention))
    }
}
