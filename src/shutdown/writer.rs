//! Writes the reports of one stop, on a thread of its own: a disk that hangs must not stop the
//! coordinator.

use std::cell::{Cell, RefCell};
use std::sync::mpsc::{self, RecvTimeoutError};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::error;

use super::archive::ReportArchive;
use super::draft::Draft;
use super::report::ShutdownReport;

/// A report to write, and who waits for it.
type Job = (ShutdownReport, oneshot::Sender<()>);

/// Writes reports one after the other, the last one last.
pub(super) struct ReportWriter {
    reports: RefCell<Option<mpsc::Sender<Job>>>,
    is_closed: Cell<bool>,
}

impl ReportWriter {
    /// A writer to `archive`, or one that writes nothing if there is none. A stop that is not over at
    /// `last_word`, if there is such a moment, is about to be ended by the watchdog: what `draft`
    /// says then is written, unless a last report was.
    pub(super) fn start(
        archive: Option<ReportArchive>,
        draft: Draft,
        last_word: Option<Instant>,
    ) -> Self {
        let start = |archive| start_thread(archive, draft, last_word.map(Instant::into_std));
        Self {
            reports: RefCell::new(archive.and_then(start)),
            is_closed: Cell::new(false),
        }
    }

    /// Writes `report` after those before it, without waiting for it.
    pub(super) fn write_soon(&self, report: &ShutdownReport) {
        drop(self.queue(report));
    }

    /// Writes `report` after those before it, unless the last one is there.
    pub(super) async fn write(&self, report: &ShutdownReport) {
        let _ = self.queue(report).await;
    }

    /// Has `report` written after those before it, and none after it. The future waits for that.
    pub(super) fn write_last(&self, report: &ShutdownReport) -> impl Future<Output = ()> + use<> {
        let written = self.queue(report);
        self.is_closed.set(true);
        self.reports.take();
        async move {
            let _ = written.await;
        }
    }

    /// Whether the last report is written, or about to be.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    fn queue(&self, report: &ShutdownReport) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        if let Some(reports) = &*self.reports.borrow() {
            let _ = reports.send((report.clone(), done));
        }
        written
    }
}

fn start_thread(
    archive: ReportArchive,
    draft: Draft,
    mut last_word: Option<std::time::Instant>,
) -> Option<mpsc::Sender<Job>> {
    let (reports, queue) = mpsc::channel::<Job>();
    let write = move |report: &ShutdownReport| {
        if let Err(error) = archive.write(report) {
            error!(%error, "can't write the report");
        }
    };
    let write_all = move || {
        loop {
            let next = match last_word {
                Some(at) => {
                    queue.recv_timeout(at.saturating_duration_since(std::time::Instant::now()))
                }
                None => queue.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok((report, done)) => {
                    write(&report);
                    if !report.is_unfinished() {
                        last_word = None;
                    }
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    last_word = None;
                    if let Some(report) = draft.for_watchdog() {
                        write(&report);
                        let held_by = report.held_by;
                        error!(
                            held_by,
                            "the stop takes too long: the watchdog is about to end it"
                        );
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    let thread = std::thread::Builder::new().name("report-writer".into());
    match thread.spawn(write_all) {
        Ok(_) => Some(reports),
        Err(error) => {
            error!(%error, "can't start a thread to write the report");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::event::InstanceId;
    use crate::session::EndReason;
    use crate::shutdown::Outcome;

    #[tokio::test]
    async fn nothing_overwrites_the_last_report() {
        let dir = tempfile::tempdir().unwrap();
        let archive = ReportArchive::new(dir.path());
        let cap = Duration::from_secs(2);
        let mut report = ShutdownReport::begin(
            InstanceId::generate(),
            EndReason::Shutdown,
            None,
            "SIGTERM".into(),
            Timestamp::UNIX_EPOCH,
            cap,
        );
        let draft = Draft::new(report.clone());
        let writer = ReportWriter::start(Some(archive.clone()), draft, None);
        writer.write_soon(&report);
        report.outcome = Outcome::Forced;
        let written = writer.write_last(&report);
        report.outcome = Outcome::Clean;
        writer.write(&report).await;
        written.await;
        let last = archive.last().unwrap().unwrap();
        assert_eq!(last.outcome, Outcome::Forced);
    }
}
