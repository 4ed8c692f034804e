//! The ends of held sessions, for those who hold them.
//!
//! One reader follows the log for all streams that are leases, and passes each end on to its holder:
//! with a reader for each, every one of a thousand holders would read every event of all others.
//! What a stream is too slow for is dropped here, and the stream reads the log itself from there on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::event::{Event, Hook, Seq};
use crate::monitor::{Watched, Watcher};
use crate::session::HolderId;
use crate::supervisor::SessionSupervisor;

/// How many ends wait for a stream, at the most.
const MAX_WAITING: usize = 256;

/// Passes ends on. Clones share all.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends(Arc<Mutex<Listeners>>);

#[derive(Debug, Default)]
struct Listeners {
    /// By the holder, which has two while one connection takes the place of another.
    of: HashMap<HolderId, Vec<mpsc::Sender<Event>>>,
    is_read: bool,
}

/// The ends of one holder's sessions, from one moment on.
#[derive(Debug)]
pub(super) struct EndsOfHolder {
    ends: Ends,
    supervisor: SessionSupervisor,
    holder: HolderId,
    passed_on: mpsc::Receiver<Event>,
    /// The last that came.
    last: Option<Seq>,
    /// Reads the log, once this was too slow.
    own: Option<Watcher>,
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
        let (listener, passed_on) = mpsc::channel(MAX_WAITING);
        let mut listeners = self.listeners();
        listeners
            .of
            .entry(holder.clone())
            .or_default()
            .push(listener);
        if !std::mem::replace(&mut listeners.is_read, true) {
            // From here, so that it misses nothing until it runs.
            let watcher = supervisor.watch(None);
            actix_rt::spawn(self.clone().read(watcher));
        }
        EndsOfHolder {
            ends: self.clone(),
            supervisor: supervisor.clone(),
            holder: holder.clone(),
            passed_on,
            last: None,
            own: None,
        }
    }

    /// Passes on what `watcher` sees, as long as anybody listens.
    async fn read(self, mut watcher: Watcher) {
        loop {
            let watched = watcher.next().await;
            let mut listeners = self.listeners();
            match watched {
                Some(Watched::Event(event)) => listeners.pass_on(&event),
                Some(_) => {}
                // The supervisor is gone: so are the streams, which find that out by themselves.
                None => listeners.of.clear(),
            }
            if listeners.of.is_empty() {
                listeners.is_read = false;
                return;
            }
        }
    }
}

impl Listeners {
    fn pass_on(&mut self, event: &Event) {
        if event.hook() != Hook::SessionEnd {
            return;
        }
        if let Some(holder) = holder_of(event) {
            self.keep(holder, |listener| listener.try_send(event.clone()).is_ok());
        }
    }

    /// Keeps those of a holder's listeners that `is_kept`.
    fn keep(&mut self, holder: &HolderId, is_kept: impl FnMut(&mpsc::Sender<Event>) -> bool) {
        if let Some(listeners) = self.of.get_mut(holder) {
            listeners.retain(is_kept);
            if listeners.is_empty() {
                self.of.remove(holder);
            }
        }
    }
}

impl EndsOfHolder {
    /// The next end, or a gap before it; none when the supervisor is gone. Dropping the future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Option<Watched> {
        if self.own.is_none() {
            if let Some(event) = self.passed_on.recv().await {
                self.last = event.seq();
                return Some(Watched::Event(event));
            }
            self.own = Some(self.supervisor.watch(self.last));
        }
        let own = self.own.as_mut()?;
        loop {
            match own.next().await? {
                Watched::Event(event) => {
                    let is_end = event.hook() == Hook::SessionEnd;
                    if is_end && holder_of(&event) == Some(&self.holder) {
                        return Some(Watched::Event(event));
                    }
                }
                gap @ Watched::Gap { .. } => return Some(gap),
                Watched::Delivery(_) | Watched::Drain(_) | Watched::Missed(_) => {}
            }
        }
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
mod tests {
    use super::*;
    use crate::registry::Ended;
    use crate::session::{EndReason, NewSession, SessionId};
    use crate::supervisor::Threads;

    async fn start() -> SessionSupervisor {
        let builder = SessionSupervisor::builder().threads(Threads::Current);
        builder.start().await.unwrap()
    }

    fn holder(name: &str) -> HolderId {
        HolderId::new(name).unwrap()
    }

    async fn start_and_end(supervisor: &SessionSupervisor, id: &str, of: &str) {
        let id = SessionId::new(id).unwrap();
        let mut session = NewSession::new(id.clone());
        session.holder = Some(holder(of));
        supervisor.started(session).await.unwrap();
        let ended = Ended::new(id, EndReason::Completed);
        supervisor.ended(ended).await.unwrap();
    }

    async fn next_id(ends: &mut EndsOfHolder) -> String {
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), ends.next());
        match next.await.expect("none comes") {
            Some(Watched::Event(event)) => event.session().unwrap().id.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[actix_web::test]
    async fn an_end_comes_to_its_holder_alone() {
        let (supervisor, ends) = (start().await, Ends::default());
        let mut a = ends.of_holder(&supervisor, &holder("a"));
        let mut b = ends.of_holder(&supervisor, &holder("b"));
        let mut again = ends.of_holder(&supervisor, &holder("a"));
        for (id, of) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "c")] {
            start_and_end(&supervisor, id, of).await;
        }
        for a in [&mut a, &mut again] {
            assert_eq!([next_id(a).await, next_id(a).await], ["1", "3"]);
        }
        assert_eq!(next_id(&mut b).await, "2");
    }

    #[actix_web::test]
    async fn a_stream_that_is_too_slow_reads_the_log_itself_and_misses_nothing() {
        let (supervisor, ends) = (start().await, Ends::default());
        let mut slow = ends.of_holder(&supervisor, &holder("a"));
        let count = MAX_WAITING * 2;
        for n in 0..count {
            start_and_end(&supervisor, &n.to_string(), "a").await;
        }
        for n in 0..count {
            assert_eq!(next_id(&mut slow).await, n.to_string());
        }
        assert!(slow.own.is_some());
        start_and_end(&supervisor, "last", "a").await;
        assert_eq!(next_id(&mut slow).await, "last");
    }

    #[actix_web::test]
    async fn nobody_reads_when_nobody_listens_and_somebody_does_again_after_that() {
        let (supervisor, ends) = (start().await, Ends::default());
        drop(ends.of_holder(&supervisor, &holder("a")));
        start_and_end(&supervisor, "1", "a").await;
        let stops = async {
            while ends.listeners().is_read {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(5);
        tokio::time::timeout(limit, stops)
            .await
            .expect("it reads on");
        let mut a = ends.of_holder(&supervisor, &holder("a"));
        start_and_end(&supervisor, "2", "a").await;
        assert_eq!(next_id(&mut a).await, "2");
    }
}
