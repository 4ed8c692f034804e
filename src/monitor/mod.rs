//! The monitor: what is seen of a running supervisor, by counters and by those who watch.
//!
//! Whoever has something to tell tells it here and goes on: counting is an atomic addition, and
//! what is told to watchers waits in a queue of fixed length. Nobody who watches can hold up a
//! lane.

mod counters;
mod notice;
mod watcher;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::Message;
use tokio::sync::broadcast;
use tokio::time::Instant;

use self::counters::{Counters, PluginCounters};
pub use self::counters::{Counts, DeliveryCount, HistogramCounts, PluginCounts, Refusal};
use self::notice::Notice;
pub use self::notice::{DeliveryNotice, DeliveryOutcome, DrainProgress, LaneProgress};
pub(crate) use self::watcher::Watching;
pub use self::watcher::{Watched, Watcher};
use crate::error::Error;
use crate::event::{Event, Verdict};
use crate::ledger::LedgerError;

/// How many notices wait for a watcher, at the most. One that is further behind misses the oldest,
/// and is told how many.
const MAX_NOTICES: usize = 1024;

/// How often a lane tells of its progress in a drain.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// Asks an actor for a sign of life: it answers once it runs, after what came before.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Ping;

/// Where everything that is counted or watched comes together. Shared by clones.
#[derive(Debug, Clone)]
pub(crate) struct Monitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counters: Counters,
    /// Per plugin that has ever had a lane.
    plugins: Mutex<BTreeMap<Arc<str>, Arc<PluginCounters>>>,
    notices: broadcast::Sender<Notice>,
    drain: Mutex<DrainProgress>,
    /// What the drain's lanes have told of last, by the plugin's name.
    standings: Mutex<BTreeMap<Arc<str>, DrainStanding>>,
}

/// How far a plugin is in a drain. Counts are of the ends that the shutdown recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DrainStanding {
    pub(crate) delivered: u64,
    /// Neither delivered nor dead.
    pub(crate) owed: u64,
    pub(crate) dead: u64,
    /// Given up by the ledger before the lane could read it.
    pub(crate) lost: u64,
    /// Those that are owed, by their place among the ends, as many as a tally names.
    pub(crate) unfinished: Vec<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks, so their content is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            counters: Counters::default(),
            plugins: Mutex::default(),
            notices: broadcast::Sender::new(MAX_NOTICES),
            drain: Mutex::default(),
            standings: Mutex::default(),
        }))
    }

    /// The part of one plugin's lane.
    pub(crate) fn lane(&self, plugin: Arc<str>) -> LaneMonitor {
        let mut plugins = lock(&self.0.plugins);
        let counters = plugins.entry(Arc::clone(&plugin)).or_default();
        LaneMonitor {
            counters: Arc::clone(counters),
            plugin,
            monitor: self.clone(),
            progress_due: None,
        }
    }

    /// A start was refused.
    pub(crate) fn refused(&self, error: &Error) {
        if let Some(cause) = Refusal::of(error) {
            self.0.counters.refused(cause);
        }
    }

    /// An append took so long, and was recorded or not.
    pub(crate) fn appended(&self, took: Duration, outcome: &Result<Arc<[Event]>, LedgerError>) {
        match outcome {
            Ok(events) => self.0.counters.recorded(events, took),
            Err(_) => self.ledger_failed(),
        }
    }

    /// So many holders have lost their lease.
    pub(crate) fn holders_lost(&self, count: u64) {
        self.0.counters.holders_lost(count);
    }

    /// The ledger did not do what it was asked for.
    pub(crate) fn ledger_failed(&self) {
        self.0.counters.ledger_failed();
    }

    /// A drain begins that is to tell `plugins` of the end of `sessions`.
    pub(crate) fn begin_drain(&self, sessions: u64, plugins: impl Iterator<Item = Arc<str>>) {
        let plugins = plugins.map(|name| LaneProgress {
            name,
            delivered: 0,
            total: sessions,
            done: false,
        });
        let progress = DrainProgress {
            sessions,
            plugins: plugins.collect(),
        };
        *lock(&self.0.drain) = progress.clone();
        self.tell(|| Notice::Drain(Arc::new(progress)));
    }

    /// How far the drain is; without plugins where none has begun.
    pub(crate) fn drain_progress(&self) -> DrainProgress {
        lock(&self.0.drain).clone()
    }

    /// How far each plugin is in the drain that is under way, as far as its lane has told.
    pub(crate) fn standings(&self) -> BTreeMap<Arc<str>, DrainStanding> {
        lock(&self.0.standings).clone()
    }

    /// Everything that was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let plugins = lock(&self.0.plugins);
        let plugins = plugins.iter();
        let plugins = plugins.map(|(name, counters)| (Arc::clone(name), counters.snapshot()));
        self.0.counters.snapshot(plugins.collect())
    }

    fn notices(&self) -> broadcast::Receiver<Notice> {
        self.0.notices.subscribe()
    }

    /// Tells those who watch, if anybody does.
    fn tell(&self, notice: impl FnOnce() -> Notice) {
        if self.0.notices.receiver_count() > 0 {
            // The last of them may have left meanwhile.
            let _ = self.0.notices.send(notice());
        }
    }
}

/// One attempt to deliver, and what came of it.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) events: &'a [Event],
    /// Which attempt it was.
    pub(crate) number: u32,
    /// An answer per event, or none at all.
    pub(crate) verdicts: &'a [Verdict],
    /// How the events without an answer failed, if they did.
    pub(crate) failure: Option<DeliveryOutcome>,
    /// What the plugin said of it.
    pub(crate) error: Option<Arc<str>>,
    pub(crate) took: Duration,
}

/// What the lane of one plugin tells.
#[derive(Debug)]
pub(crate) struct LaneMonitor {
    plugin: Arc<str>,
    counters: Arc<PluginCounters>,
    monitor: Monitor,
    /// Not to tell of the progress before.
    progress_due: Option<Instant>,
}

impl LaneMonitor {
    /// A delivery is over.
    pub(crate) fn delivered(&self, attempt: &Attempt<'_>) {
        self.counters.count(attempt);
        let notice = || DeliveryNotice::new(Arc::clone(&self.plugin), attempt);
        self.monitor.tell(|| Notice::Delivery(Arc::new(notice())));
    }

    /// The ledger did not do what the lane asked for.
    pub(crate) fn ledger_failed(&self) {
        self.monitor.ledger_failed();
    }

    /// So far is the drain, and whether that is all that will be. Told now
    /// and then, the last always.
    pub(crate) fn progressed(&mut self, standing: impl FnOnce() -> DrainStanding, done: bool) {
        let now = Instant::now();
        if !done && self.progress_due.is_some_and(|due| now < due) {
            return;
        }
        self.progress_due = Some(now + PROGRESS_EVERY);
        let standing = standing();
        let delivered = standing.delivered;
        lock(&self.monitor.0.standings).insert(Arc::clone(&self.plugin), standing);
        let mut drain = lock(&self.monitor.0.drain);
        let mut lanes = drain.plugins.iter_mut();
        if let Some(lane) = lanes.find(|lane| lane.name == self.plugin) {
            (lane.delivered, lane.done) = (delivered, done);
            let progress = &*drain;
            // Told under the lock, so that no progress overtakes a later one.
            self.monitor
                .tell(|| Notice::Drain(Arc::new(progress.clone())));
        }
    }
}

impl Attempt<'_> {
    /// What came of each event.
    fn outcomes(&self) -> impl Iterator<Item = (&Event, DeliveryOutcome)> {
        let without_answer = self.failure.unwrap_or(DeliveryOutcome::Ok);
        let outcome = move |index: usize| match self.verdicts.get(index) {
            Some(Verdict::Acknowledged) => DeliveryOutcome::Ok,
            Some(Verdict::Rejected(_)) => DeliveryOutcome::Error,
            Some(Verdict::Open) | None => without_answer,
        };
        let events = self.events.iter().enumerate();
        events.map(move |(index, event)| (event, outcome(index)))
    }

    /// What came of it as a whole.
    fn outcome(&self) -> DeliveryOutcome {
        let is_rejection = |verdict: &Verdict| matches!(verdict, Verdict::Rejected(_));
        match self.failure {
            Some(failure) => failure,
            None if self.verdicts.iter().any(is_rejection) => DeliveryOutcome::Error,
            None => DeliveryOutcome::Ok,
        }
    }
}
