//! A watcher: follows starts and ends in the ledger's log, and what else is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::notice::Notice;
use super::{DeliveryNotice, DrainProgress, Monitor};
use crate::event::{Event, Seq};
use crate::ledger::{Ledger, LedgerFuture, Page};

/// How many events are read at a time. Few, since each may have 16 KiB of metadata.
const PAGE: usize = 64;

/// How long to wait before asking a ledger again that failed.
const LEDGER_RETRY: Duration = Duration::from_secs(1);

/// Something that a watcher saw.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Watched {
    /// A session started or ended.
    Event(Event),
    /// Events were passed over that the ledger keeps no longer: those after the first place and
    /// before the second. Where the second is not behind the first, the ledger never had the place
    /// asked for, and all it has follows.
    Gap {
        /// The place up to which the watcher has seen everything.
        after: Seq,
        /// The place of the oldest event that is kept, or of the next one to come.
        next: Seq,
    },
    /// A delivery is over.
    Delivery(Arc<DeliveryNotice>),
    /// A drain has made progress.
    Drain(Arc<DrainProgress>),
    /// The watcher was so late that this many outcomes and progresses were dropped.
    Missed(u64),
}

/// What is needed to watch. Kept by the handle.
#[derive(Debug, Clone)]
pub(crate) struct Watching {
    pub(crate) monitor: Monitor,
    pub(crate) ledger: Arc<dyn Ledger>,
    /// How long the log is by now.
    pub(crate) head: watch::Receiver<Seq>,
}

impl Watching {
    /// A watcher of what comes after the place `after`; after now if there is none.
    pub(crate) fn watch(&self, after: Option<Seq>) -> Watcher {
        let mut head = self.head.clone();
        let now = *head.borrow_and_update();
        let after = after.unwrap_or(now);
        // A place that the log has not reached is of another log, such as that of a process before. The
        // ledger itself is ahead of what is told of it: another watcher may have read that already.
        let is_unknown = after > now && after > self.ledger.head();
        let unknown = is_unknown.then_some(after);
        Watcher {
            notices: self.monitor.notices(),
            follows_sessions: true,
            log: LogReader {
                ledger: Arc::clone(&self.ledger),
                head,
                after: if unknown.is_some() { 0 } else { after },
                unknown,
                page: Arc::new([]),
                taken: 0,
                reading: None,
                retry_at: None,
            },
        }
    }
}

/// Sees what happens to sessions and deliveries, from now or from an earlier place in the log on.
///
/// Starts and ends are read from the ledger, so each comes once, in the order of the log, as long as
/// the ledger keeps it; outcomes and progress come between them as they happen, and are dropped for
/// a watcher that is too late. It holds up nobody, however slowly it looks.
#[derive(Debug)]
#[must_use = "a watcher sees nothing unless it is asked"]
pub struct Watcher {
    notices: broadcast::Receiver<Notice>,
    log: LogReader,
    follows_sessions: bool,
}

impl Watcher {
    /// Sees outcomes and progress alone, and leaves the log unread.
    pub fn without_sessions(mut self) -> Self {
        self.follows_sessions = false;
        self
    }

    /// The place in the log up to which everything was seen.
    #[cfg(feature = "gateway")]
    pub(crate) fn place(&self) -> Seq {
        self.log.after
    }

    /// What comes next; none when the supervisor is gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Watched> {
        let log = async {
            match self.follows_sessions {
                true => self.log.next().await,
                false => self.log.over().await,
            }
        };
        tokio::select! {
            notice = self.notices.recv() => match notice {
                Ok(Notice::Delivery(delivery)) => Some(Watched::Delivery(delivery)),
                Ok(Notice::Drain(drain)) => Some(Watched::Drain(drain)),
                Err(RecvError::Lagged(missed)) => Some(Watched::Missed(missed)),
                Err(RecvError::Closed) => None,
            },
            logged = log => logged,
        }
    }
}

/// Reads the log, and waits for more of it.
struct LogReader {
    ledger: Arc<dyn Ledger>,
    head: watch::Receiver<Seq>,
    /// Everything up to here was seen.
    after: Seq,
    /// The place asked for, if the log has not reached it: what it has is read from its beginning.
    unknown: Option<Seq>,
    page: Arc<[Event]>,
    /// How many events of the page were seen.
    taken: usize,
    /// Kept here, since whoever waits for the next event may stop waiting.
    reading: Option<LedgerFuture<Page>>,
    /// Not to ask the ledger again before.
    retry_at: Option<Instant>,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader")
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl LogReader {
    /// Waits until nothing is recorded any more.
    async fn over(&mut self) -> Option<Watched> {
        while self.head.changed().await.is_ok() {}
        None
    }

    /// The next event, or a gap before it; none when nothing is recorded any more. Dropping the
    /// future loses nothing.
    async fn next(&mut self) -> Option<Watched> {
        loop {
            if let Some(event) = self.page.get(self.taken) {
                self.taken += 1;
                self.after = event.recorded_seq();
                return Some(Watched::Event(event.clone()));
            }
            if let Some(at) = self.retry_at {
                sleep_until(at).await;
                self.retry_at = None;
            }
            let is_behind = self.unknown.is_some() || *self.head.borrow_and_update() > self.after;
            if self.reading.is_none() && !is_behind {
                self.head.changed().await.ok()?;
                continue;
            }
            let read = || self.ledger.replay(self.after, PAGE);
            let page = self.reading.get_or_insert_with(read).await;
            self.reading = None;
            match page {
                Ok(page) => {
                    (self.page, self.taken) = (page.events, 0);
                    let asked = self.unknown.take();
                    if page.gap > 0 || asked.is_some() {
                        let after = asked.unwrap_or(self.after);
                        self.after += page.gap;
                        let next = self.after + 1;
                        return Some(Watched::Gap { after, next });
                    }
                    if self.page.is_empty() {
                        self.retry_at = Some(Instant::now() + LEDGER_RETRY);
                    }
                    // A ledger in memory never makes a reader wait, and others share its thread.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    warn!(%error, "a watcher waits for the ledger");
                    self.retry_at = Some(Instant::now() + LEDGER_RETRY);
                }
            }
        }
    }
}
