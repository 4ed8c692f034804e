//! The ends of held sessions, for those who hold them.
//!
//! One reader follows the log for all streams that are leases, and passes each end on to its holder:
//! with a reader for each, every one of a thousand holders would read every event of all others.
//! What a stream is too slow for is dropped here, and the stream reads that part of the log itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::event::{Event, Hook, Seq};
use crate::monitor::{Watched, Watcher};
use crate::session::HolderId;
use crate::supervisor::SessionSupervisor;

/// How much waits for a stream, at the most.
const MAX_WAITING: usize = 256;

/// What a holder is told.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// A session of its has ended.
    End(Event),
    /// Events were passed over that the ledger keeps no longer, those after the first place and before
    /// the second: ends of its sessions may have been among them.
    Gap { after: Seq, next: Seq },
}

impl Told {
    /// What holders are told of what was seen, if anything.
    fn of(watched: Watched) -> Option<Self> {
        match watched {
            Watched::Event(event) if event.hook() == Hook::SessionEnd => Some(Self::End(event)),
            Watched::Gap { after, next } => Some(Self::Gap { after, next }),
            Watched::Event(_) | Watched::Delivery(_) | Watched::Drain(_) | Watched::Missed(_) => {
                None
            }
        }
    }

    fn is_for(&self, holder: &HolderId) -> bool {
        match self {
            Self::End(event) => holder_of(event) == Some(holder),
            Self::Gap { .. } => true,
        }
    }

    /// The place in the log up to which this tells.
    fn place(&self) -> Seq {
        match self {
            Self::End(event) => event.recorded_seq(),
            Self::Gap { next, .. } => next.saturating_sub(1),
        }
    }
}

/// Passes ends on. Clones share all.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends(Arc<Mutex<Listeners>>);

#[derive(Debug, Default)]
struct Listeners {
    /// By the holder, which has two while one connection takes the place of another.
    of: HashMap<HolderId, Vec<mpsc::Sender<Told>>>,
    is_read: bool,
    /// The place in the log up to which everything was passed on.
    place: Seq,
    /// The supervisor is gone, and nobody reads any more.
    is_over: bool,
}

/// The ends of one holder's sessions, from one moment on.
#[derive(Debug)]
pub(super) struct EndsOfHolder {
    ends: Ends,
    supervisor: SessionSupervisor,
    holder: HolderId,
    /// Closed when this was too slow for it.
    passed_on: mpsc::Receiver<Told>,
    /// The place in the log up to which everything was told.
    place: Seq,
    /// Reads the part of the log that is missing before what is passed on.
    own: Option<Own>,
    last: Option<Last>,
}

/// A reader of a part of the log.
#[derive(Debug)]
struct Own {
    watcher: Watcher,
    /// The last place of the part.
    until: Seq,
}

/// Where the telling ends.
#[derive(Debug)]
struct Last {
    place: Seq,
    /// The place up to which everything is passed on, unless it was too slow for that.
    passed_on_to: Option<Seq>,
}

impl Ends {
    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        // Nothing that can panic runs under this lock, so its content is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ends of a holder's sessions from now on. Needs an actix system, on whose thread one reads
    /// for all.
    pub(super) fn of_holder(
        &self,
        supervisor: &SessionSupervisor,
        holder: &HolderId,
    ) -> EndsOfHolder {
        let (passed_on, place) = self.listen(supervisor, holder);
        EndsOfHolder {
            ends: self.clone(),
            supervisor: supervisor.clone(),
            holder: holder.clone(),
            passed_on,
            place: place.unwrap_or_else(|| supervisor.log_head()),
            own: None,
            last: None,
        }
    }

    /// What is passed on to a holder from now on, and the place in the log after which that begins;
    /// none when the supervisor is gone.
    fn listen(
        &self,
        supervisor: &SessionSupervisor,
        holder: &HolderId,
    ) -> (mpsc::Receiver<Told>, Option<Seq>) {
        let (listener, passed_on) = mpsc::channel(MAX_WAITING);
        let mut listeners = self.listeners();
        if listeners.is_over {
            return (passed_on, None);
        }
        listeners
            .of
            .entry(holder.clone())
            .or_default()
            .push(listener);
        if !std::mem::replace(&mut listeners.is_read, true) {
            // From here, so that it misses nothing until it runs.
            let watcher = supervisor.watch(None);
            listeners.place = watcher.place();
            actix_rt::spawn(self.clone().read(watcher));
        }
        (passed_on, Some(listeners.place))
    }

    /// Passes on what `watcher` sees, as long as anybody listens.
    async fn read(self, mut watcher: Watcher) {
        loop {
            let watched = watcher.next().await;
            let mut listeners = self.listeners();
            match watched {
                Some(watched) => {
                    listeners.pass_on(watched);
                    listeners.place = watcher.place();
                }
                // The streams find out by themselves, from what they have to read still.
                None => {
                    listeners.of.clear();
                    listeners.is_over = true;
                }
            }
            if listeners.of.is_empty() {
                listeners.is_read = false;
                return;
            }
        }
    }
}

impl Listeners {
    fn pass_on(&mut self, watched: Watched) {
        let Some(told) = Told::of(watched) else {
            return;
        };
        let tell = |listener: &mpsc::Sender<Told>| listener.try_send(told.clone()).is_ok();
        match &told {
            Told::End(event) => {
                if let Some(holder) = holder_of(event) {
                    self.keep(holder, tell);
                }
            }
            Told::Gap { .. } => self.of.retain(|_, listeners| {
                listeners.retain(tell);
                !listeners.is_empty()
            }),
        }
    }

    /// Keeps those of a holder's listeners that `is_kept`.
    fn keep(&mut self, holder: &HolderId, is_kept: impl FnMut(&mpsc::Sender<Told>) -> bool) {
        if let Some(listeners) = self.of.get_mut(holder) {
            listeners.retain(is_kept);
            if listeners.is_empty() {
                self.of.remove(holder);
            }
        }
    }
}

impl EndsOfHolder {
    /// The next end, or a gap before it; none when the supervisor is gone, or past the
    /// [end](Self::end_here). Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(own) = &mut self.own {
                while own.watcher.place() < own.until {
                    let watched = own.watcher.next().await?;
                    self.place = own.watcher.place();
                    let told = Told::of(watched).filter(|told| told.is_for(&self.holder));
                    if told.is_some() {
                        return told;
                    }
                }
                self.own = None;
            }
            if let Some(told) = self.passed_on.recv().await {
                self.place = self.place.max(told.place());
                return Some(told);
            }
            let until = match &self.last {
                Some(last) => {
                    self.place = self.place.max(last.passed_on_to.unwrap_or_default());
                    if self.place >= last.place {
                        return None;
                    }
                    last.place
                }
                // It was too slow. From here on it is passed on again, and what it has missed it reads.
                None => {
                    let (passed_on, place) = self.ends.listen(&self.supervisor, &self.holder);
                    self.passed_on = passed_on;
                    place.unwrap_or(Seq::MAX)
                }
            };
            self.own = Some(Own {
                watcher: self.supervisor.watch(Some(self.place)),
                until,
            });
        }
    }

    /// Has it end with what is recorded by now.
    pub(super) fn end_here(&mut self) {
        if self.last.is_some() {
            return;
        }
        let place = self.supervisor.log_head();
        let mut listeners = self.ends.listeners();
        let was_in_time = !self.passed_on.is_closed();
        self.passed_on.close();
        listeners.keep(&self.holder, |listener| !listener.is_closed());
        self.last = Some(Last {
            place,
            passed_on_to: was_in_time.then_some(listeners.place),
        });
    }
}

impl Drop for EndsOfHolder {
    fn drop(&mut self) {
        self.passed_on.close();
        let mut listeners = self.ends.listeners();
        listeners.keep(&self.holder, |listener| !listener.is_closed());
    }
}

fn holder_of(event: &Event) -> Option<&HolderId> {
    event.session()?.holder.as_ref()
}

#[cfg(test)]
mod tests;
