//! The thread that writes: it takes what waits, carries it out in one transaction, and answers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use futures_util::FutureExt as _;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoints::Checkpoints;
use super::fault::Fault;
use super::records::{Records, State};
use super::schema;
use super::shared::Shared;
use crate::ledger::{LedgerError, LedgerFuture};
use crate::state_dir::StateDir;

/// How many requests may wait. Whoever asks is never blocked: past it, requests are refused.
const MAX_WAITING: usize = 16_384;

/// How many requests that come before the others may wait. There are few kinds of them, and who asks
/// for one again has its answer.
const MAX_AHEAD: usize = 64;

/// A transaction takes in no more requests once it has so many rows.
const MAX_ROWS: usize = 8192;

/// A request that can be run once and must be answered.
trait Job: Send {
    /// How many rows it is likely to write.
    fn rows(&self) -> usize;

    fn run(&mut self, records: &mut Records<'_>) -> Result<(), Fault>;

    fn answer(self: Box<Self>, outcome: Result<(), LedgerError>);
}

struct Request<W, T> {
    work: Option<W>,
    rows: usize,
    done: Option<T>,
    asker: oneshot::Sender<Result<T, LedgerError>>,
}

impl<W, T> Job for Request<W, T>
where
    W: FnOnce(&mut Records<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn rows(&self) -> usize {
        self.rows
    }

    fn run(&mut self, records: &mut Records<'_>) -> Result<(), Fault> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(records)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), LedgerError>) {
        let answer = match (outcome, self.done) {
            (Ok(()), Some(done)) => Ok(done),
            (Ok(()), None) => Err(LedgerError::new("the request was not carried out")),
            (Err(error), _) => Err(error),
        };
        // Nobody may be waiting any more; it is recorded all the same.
        let _ = self.asker.send(answer);
    }
}

/// The way to the thread that writes.
pub(super) struct Writer {
    /// None wakes the thread for what is in `ahead`.
    jobs: SyncSender<Option<Box<dyn Job>>>,
    ahead: SyncSender<Box<dyn Job>>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// Starts the thread, which goes on with the log after `state`, and keeps `guard` until it has
    /// closed the file.
    pub(super) fn spawn(
        connection: Connection,
        checkpoints: Checkpoints,
        path: PathBuf,
        state: State,
        shared: Arc<Shared>,
        guard: Option<StateDir>,
    ) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(MAX_WAITING);
        let (ahead, waiting_ahead) = sync_channel(MAX_AHEAD);
        let mut worker = Worker {
            connection,
            checkpoints,
            path,
            state,
            shared,
            _guard: guard,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || worker.work_off(&waiting, &waiting_ahead))?;
        Ok(Self {
            jobs,
            ahead,
            thread,
        })
    }

    /// Has `work`, which writes about so many `rows`, carried out in its turn, in one step.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        rows: usize,
        work: impl FnOnce(&mut Records<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> LedgerFuture<T> {
        let (job, answer) = request(rows, work);
        submit(&self.jobs, Some(job), answer)
    }

    /// Has `work`, which is short, carried out before all that waits, in a transaction of its own:
    /// neither fails because the other does.
    pub(super) fn ask_ahead<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Records<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> LedgerFuture<T> {
        let (job, answer) = request(1, work);
        let answer = submit(&self.ahead, job, answer);
        // Where there is no room for it, the thread is awake, and looks ahead after each group.
        let _ = self.jobs.try_send(None);
        answer
    }

    /// Waits until what was asked for is done and the files are closed.
    pub(super) fn close(self) {
        drop((self.jobs, self.ahead));
        // A panic has said so itself.
        let _ = self.thread.join();
    }
}

type Answer<T> = oneshot::Receiver<Result<T, LedgerError>>;

fn request<T: Send + 'static>(
    rows: usize,
    work: impl FnOnce(&mut Records<'_>) -> Result<T, Fault> + Send + 'static,
) -> (Box<dyn Job>, Answer<T>) {
    let (asker, answer) = oneshot::channel();
    let request = Request {
        work: Some(work),
        rows,
        done: None,
        asker,
    };
    (Box::new(request), answer)
}

/// Puts `job` into `queue`, which is never waited for; the future is its `answer`.
pub(super) fn submit<J, T: Send + 'static>(
    queue: &SyncSender<J>,
    job: J,
    answer: Answer<T>,
) -> LedgerFuture<T> {
    let stopped = || LedgerError::new("its thread has stopped");
    let refused = match queue.try_send(job) {
        Ok(()) => {
            let answer = answer.map(move |answer| answer.unwrap_or_else(|_| Err(stopped())));
            return answer.boxed();
        }
        Err(TrySendError::Full(_)) => LedgerError::full(),
        Err(TrySendError::Disconnected(_)) => stopped(),
    };
    std::future::ready(Err(refused)).boxed()
}

struct Worker {
    connection: Connection,
    checkpoints: Checkpoints,
    path: PathBuf,
    state: State,
    shared: Arc<Shared>,
    /// After the connection, for what is dropped last.
    _guard: Option<StateDir>,
}

impl Worker {
    fn work_off(
        &mut self,
        waiting: &Receiver<Option<Box<dyn Job>>>,
        ahead: &Receiver<Box<dyn Job>>,
    ) {
        loop {
            for job in ahead.try_iter() {
                self.carry_out(vec![job]);
            }
            let first = match waiting.recv() {
                Ok(Some(first)) => first,
                Ok(None) => continue,
                Err(_) => return,
            };
            let mut rows = first.rows();
            let mut group = vec![first];
            // What came in during the commit before shares this one.
            while rows < MAX_ROWS
                && let Ok(Some(next)) = waiting.try_recv()
            {
                rows += next.rows();
                group.push(next);
            }
            self.carry_out(group);
        }
    }

    /// Carries out a group in one transaction. A request that can't be met fails alone; what ails
    /// the disk fails all of them, and the next group tries again.
    fn carry_out(&mut self, mut group: Vec<Box<dyn Job>>) {
        let outcomes = self.run(&mut group);
        let failed = outcomes
            .as_ref()
            .err()
            .map(|fault| fault.explain(&self.path));
        let mut outcomes = outcomes.unwrap_or_default().into_iter();
        for job in group {
            let outcome = match &failed {
                Some(error) => Err(error.clone()),
                None => outcomes.next().unwrap_or(Ok(())),
            };
            job.answer(outcome);
        }
        self.checkpoints.tend(&self.connection);
    }

    fn run(&mut self, group: &mut [Box<dyn Job>]) -> Result<Vec<Result<(), LedgerError>>, Fault> {
        let mut state = self.state;
        let mut records = Records::begin(&self.connection, &mut state)?;
        let outcomes = group
            .iter_mut()
            .map(|job| match records.step(|records| job.run(records)) {
                Ok(()) => Ok(Ok(())),
                Err(fault) if fault.is_of_the_request() => Ok(Err(fault.explain(&self.path))),
                Err(fault) => Err(fault),
            })
            .collect::<Result<_, Fault>>()?;
        let effects = records.commit()?;
        self.state = state;
        // Here, since others that ask for it must not wait for the disk.
        self.shared.apply(effects, size_on_disk(&self.path));
        Ok(outcomes)
    }
}

/// How many bytes the database at `path` and its journal take; what can't be looked at counts as
/// nothing.
pub(super) fn size_on_disk(path: &Path) -> u64 {
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    size(path) + size(&schema::beside(path, "-wal"))
}
