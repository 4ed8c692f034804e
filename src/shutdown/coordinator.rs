//! The actor that takes the request for a shutdown and keeps its time.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::FutureExt as _;
use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::deferral::Deferral;
use super::draft::Draft;
use super::footprint::time_to_let_go;
use super::report::{Outcome, ShutdownReport};
use super::sequence::Sequence;
use super::settings::{Adjust, AskForCap, CoordinatorSettings, ListenForSignals};
use super::signal::{self, Signal};
use super::writer::ReportWriter;
use super::{BeginShutdown, Shutdown, ShutdownNotice};
use crate::bus::ClosePlugins;
use crate::error::Error;
use crate::monitor::Ping;

/// How long after the first signal another one means that somebody has lost patience. Sooner it
/// is the same wish told twice, as when a terminal and a service manager both send it.
const FORCE_AFTER: Duration = Duration::from_secs(1);

/// How long the report of a forced stop may take to be written.
const FORCED_REPORT_PATIENCE: Duration = Duration::from_millis(50);

/// How long a stop that was kept back goes on when it is forced: long enough to record its reason,
/// and to tell whoever listens.
const FORCED_START: Duration = Duration::from_millis(50);

/// How much longer than it should a stop may be kept back, for whoever keeps it to say so.
const KEPT_BACK_PATIENCE: Duration = Duration::from_millis(500);

/// The sequence of a stop has come to its end, and needs its alarm no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct SequenceOver {
    alarm: SpawnHandle,
}

/// The actor that shuts down. Takes [`Shutdown`].
pub struct ShutdownCoordinator {
    settings: Rc<CoordinatorSettings>,
    stop: Option<Stop>,
    listens_for_signals: bool,
    first_signal: Option<Instant>,
    /// Begins the stop that is kept back, whoever keeps it.
    kept_back: Option<SpawnHandle>,
}

/// A stop that is under way.
struct Stop {
    /// Its report, as far as it goes.
    draft: Draft,
    writer: Rc<ReportWriter>,
}

impl fmt::Debug for ShutdownCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownCoordinator")
            .field("is_shutting_down", &self.stop.is_some())
            .finish_non_exhaustive()
    }
}

impl ShutdownCoordinator {
    pub(crate) fn new(settings: CoordinatorSettings) -> Self {
        Self {
            settings: Rc::new(settings),
            stop: None,
            listens_for_signals: false,
            first_signal: None,
            kept_back: None,
        }
    }

    /// Begins the shutdown, unless one is under way. Its report so far.
    fn begin(&mut self, request: Shutdown, ctx: &mut Context<Self>) -> Draft {
        if let Some(timer) = self.kept_back.take() {
            ctx.cancel_future(timer);
        }
        if let Some(stop) = &self.stop {
            return stop.draft.clone();
        }
        let settings = &self.settings;
        settings.door.close();
        // A request that comes right when it is lifted is not the one that it was lifted for.
        let deferral = settings.deferral.as_ref();
        let request = deferral.and_then(Deferral::lifted_for).unwrap_or(request);
        // Before anything that may be stuck, the log included.
        let end = settings.budget.end(request.asked_at);
        if let Some(watchdog) = &settings.watchdog {
            watchdog.arm(end.into_std());
            // Until the shutdown is under way nobody else has them.
            if let Some(settings) = Rc::get_mut(&mut self.settings) {
                settings.budget.keep_for_exit(time_to_let_go());
            }
        }
        let settings = &self.settings;
        let draft = ShutdownReport::begin(
            settings.instance,
            request.reason(),
            request.restart_expected,
            request.trigger.clone(),
            settings.clock.now(),
            settings.budget.cap,
        );
        let draft = Draft::new(draft);
        let ended_at = settings
            .watchdog
            .is_some()
            .then(|| settings.budget.last_word(request.asked_at));
        let writer = ReportWriter::start(settings.archive(), draft.clone(), ended_at);
        let writer = Rc::new(writer);
        self.stop = Some(Stop {
            draft: draft.clone(),
            writer: Rc::clone(&writer),
        });

        info!(reason = %request.reason(), trigger = request.trigger, "shutting down");
        let give_up = CancellationToken::new();
        let give_up_at = settings.budget.give_up(request.asked_at);
        let wait = give_up_at.saturating_duration_since(Instant::now());
        let alarm = give_up.clone();
        let alarm = ctx.run_later(wait, move |_, _| alarm.cancel());
        let last_writer = Rc::clone(&writer);
        let sequence = Sequence::new(Rc::clone(settings), request, draft.clone(), writer, give_up);
        let run = AssertUnwindSafe(sequence.run()).catch_unwind();
        let (settings, broken) = (Rc::clone(settings), draft.clone());
        let coordinator = ctx.address();
        actix_rt::spawn(async move {
            if run.await.is_err() {
                error!("the stop itself panicked: what it has not told is told at the next start");
                let mut report = broken.broken_off();
                report.set_lost();
                let written = last_writer.write_last(&report);
                let _ = timeout(FORCED_REPORT_PATIENCE, written).await;
                settings.end(report);
                if settings.owns_system {
                    System::current().stop();
                }
            }
            coordinator.do_send(SequenceOver { alarm });
        });
        draft
    }

    /// A signal that asks for a shutdown, or for the second time.
    fn on_stop_signal(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let since_first = self.first_signal.map(|first| now - first);
        self.first_signal.get_or_insert(now);
        let is_late = since_first.is_some_and(|elapsed| elapsed >= FORCE_AFTER);
        let forces = is_late && signal.can_force();
        if self.stop.is_some() {
            if forces {
                self.force(signal);
            } else {
                info!(signal = signal.as_str(), "already shutting down");
            }
            return;
        }
        let request = match signal {
            Signal::Usr2 => Shutdown::for_restart(self.settings.restart_expected),
            _ => Shutdown::now(),
        };
        let request = request.by_signal(signal);
        let deferral = self.settings.deferral.clone();
        match deferral.and_then(|it| Some((self.keep_back(&request, ctx)?, it))) {
            None => drop(self.begin(request, ctx)),
            Some((first, deferral)) if forces => {
                warn!(signal = signal.as_str(), "waited for no longer");
                deferral.give_up();
                let first = first.beginning_now().with_exit_code(signal.exit_code());
                self.begin(first, ctx);
                ctx.run_later(FORCED_START, move |this, _| this.force(signal));
            }
            Some((first, _)) => info!(
                signal = signal.as_str(),
                asked = first.trigger,
                "to shut down: waited for before"
            ),
        }
    }

    /// Ends the stop that is under way at once, unless it is over.
    fn force(&mut self, signal: Signal) {
        let Some(stop) = &self.stop else { return };
        if self.settings.reports.is_filled() || stop.writer.is_closed() {
            return;
        }
        warn!(signal = signal.as_str(), "forced to stop at once");
        let mut report = stop.draft.broken_off();
        let (now, is_durable) = (self.settings.clock.now(), self.settings.is_durable());
        let took = Duration::try_from(now.duration_since(report.started_at));
        let took = took.unwrap_or_default();
        if !report.is_drained() {
            // Of the steps before it the report has the times.
            let before: u64 = report.steps.iter().map(|step| step.duration_ms).sum();
            let drained = took.saturating_sub(Duration::from_millis(before));
            report.cut_drain(&self.settings.monitor.standings(), drained, is_durable);
        }
        report.finish(now, took, is_durable);
        report.outcome = Outcome::Forced;
        report.exit_code = signal.exit_code();
        let written = stop.writer.write_last(&report);
        // Whatever children they have must not stay behind.
        let until = Instant::now() + FORCED_REPORT_PATIENCE;
        let closed = self.settings.bus.send(ClosePlugins { until });
        let written = join(written, closed);
        let settings = Rc::clone(&self.settings);
        // Who forces the exit does not wait for a disk that hangs.
        actix_rt::spawn(async move {
            if timeout(FORCED_REPORT_PATIENCE, written).await.is_err() {
                warn!("the report could not be written in time");
            }
            settings.end(report);
        });
    }

    /// Keeps a request back, if somebody has to be heard before; no longer than was said, whatever
    /// becomes of those who hear them. The request that was first.
    fn keep_back(&mut self, request: &Shutdown, ctx: &mut Context<Self>) -> Option<Shutdown> {
        let deferral = self.settings.deferral.clone()?;
        let first = deferral.ask(request)?;
        if self.kept_back.is_none() {
            let (at_most, first) = (deferral.at_most() + KEPT_BACK_PATIENCE, first.clone());
            let timer = ctx.run_later(at_most, move |this, ctx| {
                if deferral.is_kept() {
                    warn!("waited for no longer");
                    deferral.give_up();
                    this.begin(first.beginning_now(), ctx);
                }
            });
            self.kept_back = Some(timer);
        }
        Some(first)
    }

    /// Keeps a request back, if somebody has to be heard before. What is answered to it.
    fn defer(&mut self, request: &Shutdown, ctx: &mut Context<Self>) -> Option<ShutdownNotice> {
        let first = self.keep_back(request, ctx)?;
        let deferral = self.settings.deferral.as_ref()?;
        let latest = first.asked_at + deferral.at_most() + self.settings.budget.cap;
        let left = latest.saturating_duration_since(Instant::now());
        let left = SignedDuration::try_from(left).unwrap_or_default();
        let now = self.settings.clock.now();
        Some(ShutdownNotice {
            reason: first.reason(),
            deadline_at: now.checked_add(left).unwrap_or(Timestamp::MAX),
        })
    }
}

impl Actor for ShutdownCoordinator {
    type Context = Context<Self>;
}

impl Handler<Shutdown> for ShutdownCoordinator {
    type Result = ResponseFuture<Result<Arc<ShutdownReport>, Error>>;

    fn handle(&mut self, request: Shutdown, ctx: &mut Context<Self>) -> Self::Result {
        if self.defer(&request, ctx).is_none() {
            self.begin(request, ctx);
        }
        Box::pin(self.settings.reports.watch().wait())
    }
}

impl Handler<BeginShutdown> for ShutdownCoordinator {
    type Result = MessageResult<BeginShutdown>;

    fn handle(&mut self, message: BeginShutdown, ctx: &mut Context<Self>) -> Self::Result {
        if let Some(notice) = self.defer(&message.0, ctx) {
            return MessageResult(notice);
        }
        let draft = self.begin(message.0, ctx).report();
        let cap = SignedDuration::try_from(self.settings.budget.cap).unwrap_or_default();
        MessageResult(ShutdownNotice {
            reason: draft.reason,
            deadline_at: draft.started_at.checked_add(cap).unwrap_or(Timestamp::MAX),
        })
    }
}

impl Handler<SequenceOver> for ShutdownCoordinator {
    type Result = ();

    fn handle(&mut self, message: SequenceOver, ctx: &mut Context<Self>) {
        // With a timer it would outlive everyone who has its address, and keep the ledger and the
        // state directory for as long.
        ctx.cancel_future(message.alarm);
    }
}

impl Handler<Ping> for ShutdownCoordinator {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}

impl Handler<Adjust> for ShutdownCoordinator {
    type Result = Result<(), Error>;

    fn handle(&mut self, adjust: Adjust, _: &mut Context<Self>) -> Self::Result {
        // A shutdown that is under way shares them, and keeps the time that it has promised.
        let settings = Rc::get_mut(&mut self.settings).ok_or(Error::ShuttingDown)?;
        settings.budget = adjust.budget;
        settings.restart_expected = adjust.restart_expected;
        Ok(())
    }
}

impl Handler<AskForCap> for ShutdownCoordinator {
    type Result = MessageResult<AskForCap>;

    fn handle(&mut self, _: AskForCap, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.settings.budget.cap)
    }
}

impl Handler<ListenForSignals> for ShutdownCoordinator {
    type Result = ();

    fn handle(&mut self, _: ListenForSignals, ctx: &mut Context<Self>) {
        if self.listens_for_signals {
            return;
        }
        match signal::listen(&ctx.address().recipient()) {
            Ok(()) => self.listens_for_signals = true,
            Err(error) => warn!(%error, "can't listen for signals"),
        }
    }
}

impl Handler<Signal> for ShutdownCoordinator {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        if signal == Signal::Reload {
            match &self.settings.hangups {
                // Where it is full, somebody is about to read all that there is to read.
                Some(hangups) => drop(hangups.try_send(())),
                None => info!("SIGHUP ignored: there is nothing to reload"),
            }
        } else {
            self.on_stop_signal(signal, ctx);
        }
    }
}
