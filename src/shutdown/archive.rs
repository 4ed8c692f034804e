//! Where the reports of stops are kept: in the state directory, the last one by a fixed name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::{RecoveryReport, ShutdownReport};
use crate::event::InstanceId;
use crate::ledger::Recovery;
use crate::state_dir::StateDir;

/// The file of the last report.
const LAST_REPORT: &str = "last-shutdown.json";

/// How many reports are kept.
const KEPT_REPORTS: usize = 100;

/// The reports in a state directory.
#[derive(Debug, Clone)]
pub(crate) struct ReportArchive {
    state_dir: PathBuf,
}

impl ReportArchive {
    pub(crate) fn new(state_dir: impl Into<PathBuf>) -> Self {
        let state_dir = state_dir.into();
        Self { state_dir }
    }

    /// The report of the last stop, if there is one.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or is no report.
    pub(crate) fn last(&self) -> io::Result<Option<ShutdownReport>> {
        read(&self.state_dir.join(LAST_REPORT))
    }

    /// Keeps `report`: as the last one, and among the last hundred.
    ///
    /// # Errors
    ///
    /// When a file or folder can't be written.
    pub(crate) fn write(&self, report: &ShutdownReport) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(report)?;
        // Each is written even if the other can't be.
        let kept = self.keep(&report.instance, &text);
        fs::create_dir_all(&self.state_dir)?;
        write_whole(&self.state_dir, LAST_REPORT, &text)?;
        kept
    }

    /// Keeps the report of `instance` among the last hundred.
    fn keep(&self, instance: &str, text: &[u8]) -> io::Result<()> {
        let reports = self.reports();
        fs::create_dir_all(&reports)?;
        // The instance's id ascends with time, and so do the file names.
        write_whole(&reports, &file_name(instance), text)?;
        prune(&reports)
    }

    /// Completes the report of the run before, or makes one if it left none, with what was found
    /// of it. `cap` is that of this run, since nothing else is known of a run without a report.
    ///
    /// # Errors
    ///
    /// When a file or folder can't be written.
    pub(crate) fn complete(&self, recovery: &Recovery, cap: Duration) -> io::Result<()> {
        let Some(predecessor) = &recovery.predecessor else {
            return Ok(());
        };
        let left = self.of(predecessor.instance);
        let is_told = match &left {
            Some(report) => !report.is_unfinished(),
            // It may have had no state directory.
            None => predecessor.stopped,
        };
        if recovery.found == 0 && is_told {
            return Ok(());
        }
        let mut report = left.unwrap_or_else(|| ShutdownReport::of_crash(predecessor, cap));
        let by_reason = recovery.reason.map(|reason| (reason, recovery.found));
        report.recover(RecoveryReport {
            found: recovery.found,
            by_reason: by_reason.into_iter().collect::<BTreeMap<_, _>>(),
            alive_at: predecessor.alive_at,
        });
        self.write(&report)
    }

    /// The report of one run. One that can't be read is none: what is known of the run is written
    /// in its place.
    fn of(&self, instance: InstanceId) -> Option<ShutdownReport> {
        let path = self.reports().join(file_name(&instance.to_string()));
        read(&path).ok().flatten()
    }

    fn reports(&self) -> PathBuf {
        self.state_dir.join(StateDir::REPORTS)
    }
}

fn file_name(instance: &str) -> String {
    format!("{instance}.json")
}

fn read(path: &Path) -> io::Result<Option<ShutdownReport>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file so that a reader, or a next start, finds all of it or the one before.
fn write_whole(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!(".{name}.draft"));
    fs::write(&draft, text)?;
    fs::rename(&draft, dir.join(name))
}

fn prune(reports: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(reports)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.to_string_lossy().ends_with(".json"))
        .collect();
    names.sort();
    let surplus = names.len().saturating_sub(KEPT_REPORTS);
    for name in &names[..surplus] {
        fs::remove_file(reports.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::ledger::{Intent, Predecessor};
    use crate::session::EndReason;
    use crate::shutdown::Outcome;

    const CAP: Duration = Duration::from_secs(2);

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A run that was last seen alive a second after it was asked to stop, if it was.
    fn run_before(intent: Option<EndReason>) -> Predecessor {
        Predecessor {
            instance: InstanceId::generate(),
            started_at: time("2026-11-22T10:00:00Z"),
            alive_at: time("2026-11-22T11:00:01Z"),
            intent: intent.map(|reason| Intent {
                reason,
                restart_expected: None,
                trigger: "SIGTERM".into(),
                asked_at: time("2026-11-22T11:00:00Z"),
                ends_held: reason == EndReason::Shutdown,
            }),
            ends_held: intent == Some(EndReason::Shutdown),
            stopped: false,
        }
    }

    fn found(predecessor: &Predecessor, found: u64, reason: EndReason) -> Recovery {
        Recovery {
            predecessor: Some(predecessor.clone()),
            found,
            reason: Some(reason),
        }
    }

    fn archive() -> (tempfile::TempDir, ReportArchive) {
        let dir = tempfile::tempdir().unwrap();
        let archive = ReportArchive::new(dir.path());
        (dir, archive)
    }

    fn begun(run: &Predecessor) -> ShutdownReport {
        ShutdownReport::of_crash(run, CAP)
    }

    #[test]
    fn a_run_that_just_ceased_gets_a_report() {
        let (_dir, archive) = archive();
        let run = run_before(None);
        archive
            .complete(&found(&run, 11, EndReason::Crash), CAP)
            .unwrap();
        let report = archive.last().unwrap().unwrap();
        assert_eq!(report.instance, run.instance.to_string());
        assert_eq!(
            (report.reason, &*report.trigger),
            (EndReason::Crash, "crash")
        );
        assert_eq!((report.outcome, report.exit_code), (Outcome::Owed, 137));
        assert_eq!(report.ended_at, run.alive_at);
        let recovery = report.recovery.unwrap();
        assert_eq!(recovery.found, 11);
        assert_eq!(recovery.by_reason, BTreeMap::from([(EndReason::Crash, 11)]));
    }

    #[test]
    fn a_stop_that_did_not_come_to_its_end_is_completed() {
        let (_dir, archive) = archive();
        let run = run_before(Some(EndReason::Shutdown));
        archive.write(&begun(&run)).unwrap();
        archive
            .complete(&found(&run, 3, EndReason::Shutdown), CAP)
            .unwrap();
        let report = archive.last().unwrap().unwrap();
        assert_eq!(
            (report.reason, &*report.trigger),
            (EndReason::Shutdown, "SIGTERM")
        );
        assert_eq!((report.outcome, report.duration_ms), (Outcome::Owed, 1000));
        assert_eq!(archive.of(run.instance), Some(report));
    }

    #[test]
    fn a_report_that_is_whole_stays_what_it_is() {
        let (_dir, archive) = archive();
        let run = run_before(Some(EndReason::Restart));
        let mut report = begun(&run);
        report.set_lost();
        archive.write(&report).unwrap();
        archive
            .complete(&found(&run, 0, EndReason::Restart), CAP)
            .unwrap();
        assert_eq!(archive.last().unwrap(), Some(report.clone()));

        // What it could not record was found open.
        archive
            .complete(&found(&run, 2, EndReason::Restart), CAP)
            .unwrap();
        let completed = archive.last().unwrap().unwrap();
        assert_eq!((completed.outcome, completed.exit_code), (Outcome::Lost, 3));
        assert_eq!(completed.recovery.map(|recovery| recovery.found), Some(2));
    }

    #[test]
    fn a_first_run_and_one_that_stopped_well_leave_nothing_to_complete() {
        let (_dir, archive) = archive();
        archive.complete(&Recovery::default(), CAP).unwrap();
        let mut run = run_before(Some(EndReason::Shutdown));
        run.stopped = true;
        archive
            .complete(&found(&run, 0, EndReason::Shutdown), CAP)
            .unwrap();
        assert_eq!(archive.last().unwrap(), None);
    }

    #[test]
    fn the_last_report_is_written_though_it_can_not_be_kept_among_the_others() {
        let (dir, archive) = archive();
        fs::write(dir.path().join("reports"), "").unwrap();
        let report = begun(&run_before(None));
        archive.write(&report).unwrap_err();
        assert_eq!(archive.last().unwrap(), Some(report));
    }

    #[test]
    fn a_hundred_reports_are_kept() {
        let (_dir, archive) = archive();
        let mut instances = Vec::new();
        for _ in 0..KEPT_REPORTS + 2 {
            let run = run_before(None);
            archive.write(&begun(&run)).unwrap();
            instances.push(run.instance);
        }
        let kept = |instance: &&InstanceId| archive.of(**instance).is_some();
        assert_eq!(instances.iter().filter(kept).count(), KEPT_REPORTS);
        assert!(!kept(&&instances[0]) && !kept(&&instances[1]));
    }
}
