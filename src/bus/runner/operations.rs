//! What operators ask of a lane, carried out step by step.
//!
//! Dead letters are changed in the ledger first and in the lane when that is recorded, some at a
//! time: only the ledger has the events, and there may be more than memory should hold.

use std::collections::VecDeque;
use std::rc::Rc;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::super::host::PluginHost;
use super::{Done, LaneRunner};
use crate::error::Error;
use crate::event::{EventId, Seq};
use crate::ledger::{LedgerError, Parked, Progress};

/// How many dead letters are read and changed in one step.
const LETTERS_AT_ONCE: usize = 1000;

/// How many changes of dead letters may wait for their turn.
const MAX_JOBS: usize = 64;

/// How long a delivery to a plugin that was removed may still take.
const RETIRE_GRACE: Duration = Duration::from_secs(1);

/// How long a plugin that was replaced may take to let go.
const REPLACE_GRACE: Duration = Duration::from_millis(200);

/// What an operator asks of a lane.
#[derive(Debug)]
pub(in crate::bus) enum Operation {
    /// Tries at once whatever waits for its next attempt. The answer comes when that is to be seen
    /// in the lane's status.
    Resume(oneshot::Sender<()>),
    /// Changes dead letters.
    Letters(LettersJob),
    /// Delivers to this host from now on, once what is under way has landed.
    Replace(Rc<PluginHost>),
    /// Ends the lane, after what is under way has landed or was cut. The answer comes when its
    /// progress is recorded.
    Retire(oneshot::Sender<()>),
}

/// What is to become of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bus) enum LettersChange {
    /// They are delivered again, with those of their incarnations, as if they were new.
    Redeliver,
    /// They are let go of.
    Discard,
}

/// What came of a change of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::bus) struct LettersChanged {
    /// How many dead letters were changed.
    pub(in crate::bus) changed: u64,
    /// How many dead letters there are now.
    pub(in crate::bus) left: u64,
}

/// A change of dead letters that is under way, or waits for its turn.
#[derive(Debug)]
pub(in crate::bus) struct LettersJob {
    change: LettersChange,
    /// Only this one; all if none.
    event: Option<EventId>,
    /// Everything up to here is done, or can't be.
    after: Seq,
    /// The last dead letter that there was at the beginning: those that die meanwhile stay.
    until: Seq,
    changed: u64,
    reply: oneshot::Sender<Result<LettersChanged, Error>>,
}

impl LettersJob {
    pub(in crate::bus) fn new(
        change: LettersChange,
        event: Option<EventId>,
        reply: oneshot::Sender<Result<LettersChanged, Error>>,
    ) -> Self {
        Self {
            change,
            event,
            after: 0,
            until: 0,
            changed: 0,
            reply,
        }
    }
}

/// What a change of dead letters was waiting for.
#[derive(Debug)]
pub(super) enum LettersDone {
    Read(Result<Vec<Parked>, LedgerError>),
    Changed(Vec<Parked>, Result<(), LedgerError>),
}

/// What operators asked for and is not done.
#[derive(Debug, Default)]
pub(super) struct Operations {
    job: Option<LettersJob>,
    waiting: VecDeque<LettersJob>,
    replacement: Option<Rc<PluginHost>>,
    retiring: Option<oneshot::Sender<()>>,
}

impl Operations {
    /// Whether the ledger is at work for a change of dead letters.
    pub(super) fn is_changing_letters(&self) -> bool {
        self.job.is_some()
    }
}

impl LaneRunner {
    pub(super) fn operate(&mut self, operation: Operation) {
        let now = Instant::now();
        match operation {
            Operation::Resume(reply) => {
                info!("resumed");
                self.lane.resume(now);
                self.publish();
                let _ = reply.send(());
            }
            Operation::Letters(job) => {
                if self.operations.waiting.len() >= MAX_JOBS {
                    let busy = "too many changes of dead letters wait already";
                    let _ = job.reply.send(Err(Error::Busy(busy)));
                    return;
                }
                self.operations.waiting.push_back(job);
                if self.operations.job.is_none() {
                    self.go_on_with_letters();
                }
            }
            Operation::Replace(host) => {
                let spec = host.spec();
                self.lane.reconfigure(spec.hooks(), spec.policy().clone());
                self.lane.set_paused(true);
                self.status
                    .send_modify(|status| status.hooks = spec.hooks());
                self.operations.replacement = Some(host);
            }
            Operation::Retire(reply) => {
                self.lane.set_cut(now + RETIRE_GRACE);
                self.lane.set_paused(true);
                self.operations.retiring = Some(reply);
            }
        }
    }

    /// Goes over to the new host once nothing is under way to the old one.
    pub(super) fn replace_if_idle(&mut self) {
        let is_busy = self.lane.is_flying() || self.opening.is_some();
        if is_busy || self.operations.retiring.is_some() {
            return;
        }
        let Some(host) = self.operations.replacement.take() else {
            return;
        };
        info!("goes on as it is configured now");
        let spec = host.spec();
        // Once more, for what came back meanwhile.
        self.lane.reconfigure(spec.hooks(), spec.policy().clone());
        self.lane.resume(Instant::now());
        self.lane.set_opens(spec.opens());
        // The two never live side by side: the old one may have a lock, a port or a child.
        let old = std::mem::replace(&mut self.host, host);
        let closed = async move {
            old.close(Instant::now() + REPLACE_GRACE).await;
            Done::Replaced
        };
        self.tasks.push(closed.boxed_local());
    }

    /// The old plugin has let go, or takes too long.
    pub(super) fn replaced(&mut self) {
        // Another one may be waiting already.
        if self.operations.replacement.is_none() && self.operations.retiring.is_none() {
            self.lane.set_paused(false);
        }
    }

    /// Whether the lane was to end, and has: what is under way has landed, and is recorded unless
    /// the ledger fails.
    pub(super) fn has_retired(&mut self) -> bool {
        let is_busy = self.lane.is_flying() || self.opening.is_some() || self.recording;
        if is_busy {
            return false;
        }
        let Some(reply) = self.operations.retiring.take() else {
            return false;
        };
        let _ = reply.send(());
        true
    }

    /// Goes on with the change of dead letters that is under way, and after it with those that wait,
    /// until there is something to wait for.
    fn go_on_with_letters(&mut self) {
        loop {
            if self.operations.job.is_none() {
                let Some(mut job) = self.operations.waiting.pop_front() else {
                    return;
                };
                job.until = self.lane.last_dead();
                self.operations.job = Some(job);
            }
            if let Some((after, limit)) = self.letters_to_read() {
                let plugin = self.host.spec().name();
                let letters = self.ledger.dead_letters(plugin, after, limit);
                let letters = letters.map(|letters| Done::Letters(LettersDone::Read(letters)));
                self.tasks.push(letters.boxed_local());
                return;
            }
            self.end_job(Ok(()));
        }
    }

    /// Which dead letters are to be changed next: those after a place, and how many at most. None
    /// if the job is done.
    fn letters_to_read(&self) -> Option<(Seq, usize)> {
        let job = self.operations.job.as_ref()?;
        // Whoever is drained or removed has no time for more.
        let has_time = self.lane.cut().is_none();
        let limit = match job.change {
            LettersChange::Redeliver => self.lane.room().min(LETTERS_AT_ONCE),
            LettersChange::Discard => LETTERS_AT_ONCE,
        };
        let next = match job.event {
            Some(event) => event
                .incarnation()
                .and_then(|incarnation| self.lane.next_dead_of(incarnation, job.after))
                .map(|seq| (seq - 1, 1)),
            None => Some((job.after, limit)),
        };
        next.filter(|(after, _)| has_time && limit > 0 && *after < job.until)
    }

    pub(super) fn settle_letters(&mut self, done: LettersDone) {
        match done {
            LettersDone::Read(Ok(letters)) => self.change_letters(letters),
            LettersDone::Changed(letters, Ok(())) => self.letters_changed(letters),
            LettersDone::Read(Err(error)) | LettersDone::Changed(_, Err(error)) => {
                warn!(%error, "dead letters can't be changed");
                self.end_job(Err(error));
                self.go_on_with_letters();
            }
        }
    }

    /// Has the ledger change those of `letters` that are meant and that can be changed now.
    fn change_letters(&mut self, mut letters: Vec<Parked>) {
        let now = self.now().wall;
        let Some(job) = &mut self.operations.job else {
            return;
        };
        let Some(last) = letters.last() else {
            self.end_job(Ok(()));
            return self.go_on_with_letters();
        };
        job.after = last.event.recorded_seq();
        let (lane, job) = (&self.lane, &*job);
        letters.retain(|letter| {
            let event = &letter.event;
            let can_be = match job.change {
                LettersChange::Redeliver => lane.may_revive(event),
                // Of several that belong together only the one that is named.
                LettersChange::Discard => {
                    lane.may_discard(event) && job.event.is_none_or(|id| id == event.id())
                }
            };
            can_be && event.recorded_seq() <= job.until
        });
        if letters.is_empty() {
            return self.go_on_with_letters();
        }
        let mut progress = Progress::default();
        match job.change {
            LettersChange::Redeliver => {
                for letter in &mut letters {
                    letter.dead = false;
                    letter.attempts = 0;
                    letter.not_before = now;
                }
                progress.park.clone_from(&letters);
            }
            LettersChange::Discard => {
                let places = letters.iter().map(|letter| letter.event.recorded_seq());
                progress.unpark.extend(places);
            }
        }
        let changed = self.ledger.advance(self.host.spec().name(), progress);
        let changed = changed.map(|it| Done::Letters(LettersDone::Changed(letters, it)));
        self.tasks.push(changed.boxed_local());
    }

    /// The ledger has changed these: so does the lane.
    fn letters_changed(&mut self, letters: Vec<Parked>) {
        let now = self.now();
        let Some(job) = &mut self.operations.job else {
            return;
        };
        job.changed += letters.len() as u64;
        for letter in letters {
            match job.change {
                LettersChange::Redeliver => self.lane.revive(letter, now),
                LettersChange::Discard => self.lane.discard(&letter.event),
            }
        }
        self.go_on_with_letters();
    }

    fn end_job(&mut self, outcome: Result<(), LedgerError>) {
        if let Some(job) = self.operations.job.take() {
            let changed = LettersChanged {
                changed: job.changed,
                left: self.lane.dead() as u64,
            };
            info!(
                change = ?job.change,
                letters = changed.changed,
                left = changed.left,
                "dead letters changed"
            );
            let answer = outcome.map(|()| changed).map_err(Error::from);
            let _ = job.reply.send(answer);
        }
    }
}
