//! The phases of a shutdown, one after the other.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::Arbiter;
use futures_util::future::{join, join3};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Shutdown;
use super::draft::Draft;
use super::report::{DRAIN_STEP, PluginReport, StepOutcome, millis};
use super::settings::CoordinatorSettings;
use super::writer::ReportWriter;
use crate::bus::{ClosePlugins, CutAt, Drain, RecordedEnds, SessionEnd, TellLifecycle};
use crate::event::{Hook, Lifecycle, OpenSession};
use crate::ledger::{Intent, LedgerError, LedgerFuture, check_files};
use crate::registry::{CloseDoor, ClosedDoor};
use crate::session::{End, EndDetails};

/// How long the end of the stop may take to be noted and its report to be written, whatever is left
/// of the budget.
const END_PATIENCE: Duration = Duration::from_millis(25);

/// How long plugins may take to let go of what they have.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// The names of steps, for the report.
const CLOSE_STEP: &str = "plugins";
const REPORT_STEP: &str = "report";

/// The name of the ledger among the warnings.
const LEDGER_WARNING: &str = "ledger";

/// A shutdown that is under way.
pub(super) struct Sequence {
    settings: Rc<CoordinatorSettings>,
    request: Shutdown,
    draft: Draft,
    /// Fires when the cap does not allow to wait for anybody any more.
    give_up: CancellationToken,
    writer: Rc<ReportWriter>,
    /// Whether the ledger knows the end of every session, and the counts hold them all.
    all_recorded: Cell<bool>,
}

impl Sequence {
    pub(super) fn new(
        settings: Rc<CoordinatorSettings>,
        request: Shutdown,
        draft: Draft,
        writer: Rc<ReportWriter>,
        give_up: CancellationToken,
    ) -> Self {
        Self {
            settings,
            request,
            draft,
            give_up,
            writer,
            all_recorded: Cell::new(true),
        }
    }

    pub(super) async fn run(self) {
        let cut = self.settings.budget.cut(self.request.asked_at);
        self.settings.bus.do_send(CutAt(cut));
        self.writer.write_soon(&self.draft.report());
        // The reason is on record before anybody is told of it.
        let (closed, (), ()) = join3(self.close_door(), self.intend(), self.look_at_files()).await;
        self.tell(Hook::GatewayShutdown, closed.sessions.len())
            .await;
        if self.request.restart_expected.is_some() {
            self.tell(Hook::GatewayPreRestart, closed.sessions.len())
                .await;
        }
        self.drain(&closed).await;
        self.writer.write_soon(&self.draft.report());
        self.close_plugins().await;
        self.tear_down().await;
        self.finish().await;
    }

    /// Waits for `answer`, but not past the cap.
    async fn bounded<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        before(&self.give_up, answer).await
    }

    /// Records why the sessions end, for the next start in case that this process does not come to
    /// the end of its stop.
    async fn intend(&self) {
        let reason = self.request.reason();
        let intent = Intent {
            reason,
            restart_expected: self.request.restart_expected,
            trigger: self.request.trigger.clone(),
            asked_at: self.draft.with(|report| report.started_at),
            ends_held: !self.settings.keeps_held(reason),
        };
        let recorded = self.settings.ledger.intend(intent);
        let patience = self.settings.budget.ledger_patience();
        if let Err(error) = ledger_answer(recorded, patience).await {
            self.settings.monitor.ledger_failed();
            error!(%error, "the reason of the stop is not recorded");
            self.draft.with(|report| report.warn(LEDGER_WARNING));
        }
    }

    /// Looks once more whether the ledger has its files: what is recorded in others is lost.
    async fn look_at_files(&self) {
        let settings = &self.settings;
        if !settings.is_durable() || settings.health.lost().is_some() {
            return;
        }
        let ledger = Arc::clone(&settings.ledger);
        let lock = settings.state_dir.as_ref();
        let lock = lock.map(|dir| dir.lock_file().clone());
        let looked = tokio::task::spawn_blocking(move || check_files(&*ledger, lock.as_ref()));
        let looked = timeout(settings.budget.ledger_patience(), looked).await;
        if let Ok(Ok(Err(error))) = looked {
            settings.health.lose(&error);
        }
    }

    async fn close_door(&self) -> ClosedDoor {
        let message = CloseDoor {
            reason: self.request.reason(),
            patience: self.settings.budget.ledger_patience(),
            keeps_held: self.settings.keeps_held(self.request.reason()),
        };
        let closed = self.bounded(self.settings.registry.send(message)).await;
        if let Some(Ok(Ok(closed))) = closed {
            let sessions: &[OpenSession] = &closed.sessions;
            let plugins = self.settings.plugins.names();
            let plugins = plugins
                .iter()
                .map(|name| PluginReport::unanswered(name, sessions))
                .collect();
            let is_durable = self.settings.is_durable();
            self.draft
                .with(|report| report.set_plugins(sessions.len(), plugins, is_durable));
            if closed.unsettled > 0 {
                let unsettled = closed.unsettled;
                error!(unsettled, "the ledger is late with starts and ends");
                self.draft.with(|report| report.warn(LEDGER_WARNING));
                self.all_recorded.set(false);
            }
            return closed;
        }
        error!("the registry did not answer: the ends of its sessions are told to nobody");
        self.draft.with(|report| report.warn(DRAIN_STEP));
        self.all_recorded.set(false);
        let now = self.settings.clock.now();
        ClosedDoor {
            sessions: Arc::new([]),
            end: Arc::new(End::now(self.request.reason(), EndDetails::default(), now)),
            unsettled: 0,
        }
    }

    async fn tell(&self, hook: Hook, active_sessions: usize) {
        let began = Instant::now();
        self.draft.begin_step(hook.as_str());
        let cut = self.settings.budget.cut(self.request.asked_at);
        let deadline = cut.min(began + self.settings.budget.lifecycle_timeout);
        let message = TellLifecycle {
            lifecycle: Lifecycle {
                hook,
                reason: Some(self.request.reason()),
                restart_expected_ms: self.request.restart_expected.map(millis),
                active_sessions: active_sessions as u64,
            },
            deadline,
        };
        let outcome = match self.bounded(self.settings.bus.send(message)).await {
            Some(Ok(failures)) if failures.is_empty() => StepOutcome::Ok,
            Some(Ok(_)) if Instant::now() < deadline => StepOutcome::Failed,
            Some(Err(_)) => StepOutcome::Failed,
            Some(Ok(_)) | None => StepOutcome::TimedOut,
        };
        self.draft.end_step(hook.as_str(), began.elapsed(), outcome);
    }

    async fn drain(&self, closed: &ClosedDoor) {
        let began = Instant::now();
        self.draft.begin_step(DRAIN_STEP);
        let sessions: &[OpenSession] = &closed.sessions;
        let ends = self.record(closed).await;
        let recorded = ends.map_or(0, |ends| ends.count).min(sessions.len());
        let (recorded, unrecorded) = sessions.split_at(recorded);
        let (budget, asked_at) = (&self.settings.budget, self.request.asked_at);
        let (tallies, answers) = mpsc::unbounded_channel();
        self.settings.bus.do_send(Drain {
            count_by: budget.lanes_count(asked_at),
            tallies,
            ends,
            unrecorded: (unrecorded.into(), Arc::clone(&closed.end)),
        });
        let tallies = gather(answers, &self.give_up).await;
        // No reload comes in between: the bus has none once it has been told of the cut.
        let listeners = self.settings.plugins.names();
        let plugins = listeners.iter().map(|name| {
            let tally = tallies.iter().find(|(plugin, _)| plugin == name);
            let mut plugin = match tally {
                Some((_, tally)) => PluginReport::from_tally(name, tally, recorded, ends),
                None => PluginReport::unanswered(name, recorded),
            };
            let told = tally.map(|(_, tally)| &tally.unrecorded);
            plugin.add_unrecorded(unrecorded, told);
            plugin
        });
        // Those that hear of no ends are named where something is left to tell them.
        let others = tallies.iter().filter(|(name, tally)| {
            let is_behind = tally.owed_before > 0 || tally.timed_out;
            is_behind && !listeners.contains(name)
        });
        let others = others.map(|(name, tally)| PluginReport::from_tally(name, tally, &[], None));
        let plugins = plugins.chain(others);
        let (plugins, is_durable) = (plugins.collect(), self.settings.is_durable());
        let drain = self.draft.with(|report| {
            report.set_plugins(sessions.len(), plugins, is_durable);
            report.drain.duration_ms = millis(began.elapsed());
            report.drain.clone()
        });
        let (sessions, delivered) = (drain.sessions, drain.delivered);
        let outcome = if drain.timed_out {
            let (owed, lost) = (drain.owed, drain.lost);
            warn!(
                sessions,
                delivered, owed, lost, "the session-end drain timed out"
            );
            StepOutcome::TimedOut
        } else {
            info!(sessions, delivered, "the session-end drain is over");
            StepOutcome::Ok
        };
        self.draft.end_step(DRAIN_STEP, began.elapsed(), outcome);
    }

    /// Has the ends of the closed door's sessions recorded. Their places in the log.
    async fn record(&self, closed: &ClosedDoor) -> Option<RecordedEnds> {
        if closed.sessions.is_empty() {
            return None;
        }
        let message = SessionEnd {
            sessions: Arc::clone(&closed.sessions),
            end: Arc::clone(&closed.end),
            patience: Some(self.settings.budget.ledger_patience()),
            until: Some(self.settings.budget.record_until(self.request.asked_at)),
        };
        let (ends, problem) = match self.bounded(self.settings.bus.send(message)).await {
            Some(Ok(Ok(ends))) if ends.count == closed.sessions.len() => return Some(ends),
            Some(Ok(Ok(ends))) => (Some(ends), "the ledger failed on the way".into()),
            Some(Ok(Err(error))) => (None, error.to_string()),
            Some(Err(_)) => (None, "the bus is gone".into()),
            None => (None, "the ledger did not record them in time".into()),
        };
        error!(
            error = problem,
            "not all ends of the sessions are recorded: plugins are told of the others once"
        );
        self.draft.with(|report| report.warn(LEDGER_WARNING));
        self.all_recorded.set(false);
        ends
    }

    /// Lets go of the plugins. Those that hang are left behind.
    async fn close_plugins(&self) {
        let began = Instant::now();
        self.draft.begin_step(CLOSE_STEP);
        let until = began + CLOSE_PATIENCE;
        let until = until.min(self.settings.budget.torn_down(self.request.asked_at));
        let closed = self.settings.bus.send(ClosePlugins { until });
        // Its own time passes before, unless the bus is stuck.
        let closed = timeout_at(until + CLOSE_PATIENCE / 8, closed).await;
        let outcome = match closed {
            Ok(Ok(true)) => StepOutcome::Ok,
            Ok(Ok(false) | Err(_)) => StepOutcome::Failed,
            Err(_) => StepOutcome::TimedOut,
        };
        self.draft.end_step(CLOSE_STEP, began.elapsed(), outcome);
    }

    async fn tear_down(&self) {
        let steps = self.settings.teardown.take();
        let budget = &self.settings.budget;
        let until = Instant::now() + budget.teardown;
        let until = until.min(budget.torn_down(self.request.asked_at));
        let mut left = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let mut arbiter = self.settings.teardown_arbiter.clone();
        for step in steps {
            // Each step has its share of what is left, so that none keeps a later one from running.
            let limit = until.saturating_duration_since(Instant::now()) / left;
            left -= 1;
            let name = step.name.clone();
            self.draft.begin_step(&name);
            let (outcome, took) = step.run(arbiter.as_ref(), limit).await;
            if outcome == StepOutcome::TimedOut && arbiter.is_some() {
                // It may be blocking its thread, which must not keep the next ones from running.
                arbiter = Arbiter::try_new()
                    .ok()
                    .map(|fresh| fresh.handle())
                    .or(arbiter);
            }
            self.draft.end_step(&name, took, outcome);
        }
    }

    /// Notes in the ledger that the stop came to its end, after all that the lanes have recorded.
    async fn note_end(&self) {
        self.settings.upkeep.cancel();
        let noted = self.settings.ledger.stop(self.settings.clock.now());
        let mut patience = self.settings.budget.ledger_patience();
        if !self.all_recorded.get() {
            // It was waited for in vain before.
            patience = patience.min(END_PATIENCE);
        }
        if let Err(error) = ledger_answer(noted, patience).await {
            self.settings.monitor.ledger_failed();
            warn!(%error, "the end of the stop is not recorded");
        }
    }

    async fn finish(self) {
        self.draft.begin_step(REPORT_STEP);
        let report = self.draft.with(|report| {
            let took = self.request.asked_at.elapsed();
            if self.settings.health.lost().is_some() {
                report.warn(LEDGER_WARNING);
                self.all_recorded.set(false);
            }
            report.finish(self.settings.clock.now(), took, self.settings.is_durable());
            if !self.all_recorded.get() {
                report.set_lost();
            }
            if let Some(code) = self.request.exit_code {
                report.exit_code = code;
            }
            report.clone()
        });
        // A process that was frozen past its budget still says how it went.
        let end = self.settings.budget.last_word(self.request.asked_at);
        let end = end.max(Instant::now() + END_PATIENCE);
        let ended = join(self.note_end(), self.writer.write(&report));
        if timeout_at(end, ended).await.is_err() {
            warn!("the end of the stop could not be recorded, or its report written, in time");
        }
        info!(
            outcome = report.outcome.as_str(),
            duration_ms = report.duration_ms,
            warnings = ?report.warnings,
            "stopped"
        );
        if self.writer.is_closed() {
            // A report that was forced is the last word, and is about to be there.
            let _ = self.settings.reports.watch().wait().await;
        }
        self.settings.end(report);
        if self.settings.owns_system {
            // Those who asked by message get their answers first.
            tokio::task::yield_now().await;
            System::current().stop();
        }
    }
}

/// What comes until all have answered, or, where some are late, until `give_up`.
async fn gather<T>(mut answers: mpsc::UnboundedReceiver<T>, give_up: &CancellationToken) -> Vec<T> {
    let mut gathered = Vec::new();
    while let Some(Some(answer)) = before(give_up, answers.recv()).await {
        gathered.push(answer);
    }
    gathered
}

/// `answer`, unless `give_up` comes first. One that is there is taken even if it is late already.
async fn before<T>(give_up: &CancellationToken, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = give_up.cancelled() => None,
    }
}

/// What the ledger answers, if it does soon.
async fn ledger_answer<T>(answer: LedgerFuture<T>, patience: Duration) -> Result<T, LedgerError> {
    let answered = timeout(patience, answer).await;
    answered.unwrap_or_else(|_| Err(LedgerError::late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_is_late_does_not_take_the_answers_of_others_along() {
        let give_up = CancellationToken::new();
        let (first, answers) = mpsc::unbounded_channel();
        let late = first.clone();
        first.send("first").unwrap();
        drop(first);
        give_up.cancel();
        assert_eq!(gather(answers, &give_up).await, ["first"]);
        assert!(late.send("late").is_err());
    }

    #[tokio::test]
    async fn who_is_gone_is_not_waited_for() {
        let (first, answers) = mpsc::unbounded_channel();
        let gone = first.clone();
        first.send("first").unwrap();
        drop((first, gone));
        let given_up_by_nobody = CancellationToken::new();
        assert_eq!(gather(answers, &given_up_by_nobody).await, ["first"]);
    }
}
